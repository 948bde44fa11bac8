"""``python -m benchmarks [NAME ...]``: run the benchmarks and print what was measured beside what is wanted."""

from __future__ import annotations

import sys

from benchmarks import batches, estimators, generation_change, provenance, stack

BENCHMARKS = {
    "stack": stack.main,
    "generation_change": generation_change.main,
    "batches": batches.main,
    "estimators": estimators.main,
    "provenance": provenance.main,
}


def main() -> None:
    """Run the named benchmarks, or all of them."""
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"benchmarks: there is no {name!r}; there are: {', '.join(BENCHMARKS)}")
        for what, measured, wanted in BENCHMARKS[name]():
            print(f"{what:<52} {measured:<60} wanted {wanted}", flush=True)


if __name__ == "__main__":
    main()
