"""``python -m benchmarks [NAME ...]``: run the benchmarks and print what was measured beside what is wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from benchmarks import batches, estimators, generation_change, gpt, harvest_diffusion, provenance, stack, unet, vae
from collapse.memory import keep_freed_memory

BENCHMARKS: dict[str, Callable[[], Iterable[tuple[str, str, str]]]] = {
    "stack": stack.main,
    "generation_change": generation_change.main,
    "batches": batches.main,
    "estimators": estimators.main,
    "provenance": provenance.main,
    "harvest_diffusion": harvest_diffusion.main,
    "vae": vae.main,
    "unet": unet.main,
    "gpt": gpt.main,
}


def main() -> None:
    """Run the named benchmarks, or all of them, with the memory settings of a chain for either side."""
    keep_freed_memory()
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"benchmarks: there is no {name!r}; there are: {', '.join(BENCHMARKS)}")
        for what, measured, wanted in BENCHMARKS[name]():
            print(f"{what:<52} {measured:<60} wanted {wanted}", flush=True)


if __name__ == "__main__":
    main()
