"""Every model on real data, ten generations: docs/results.md with its tables and figures.

python scripts/results.py                 # what `make results` runs; finished chains are not run again
python scripts/results.py --quick         # the same page from chains that have hardly trained, to see that it works
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from results_page import (
    Chains,
    Claim,
    Section,
    above_first,
    change,
    every_rise,
    figure,
    last_gap,
    page,
)

ROOT = Path(__file__).parent.parent
REPLACE, ACCUMULATE = "mitigations=[Replace]", "mitigations=[DataAccumulation]"
TWO_ARMS = {"replace": (REPLACE,), "accumulate": (ACCUMULATE,)}
COMMON = ("generations=10", "evaluation.gallery=8", "wandb.enabled=false")
QUICK = (
    *("generations=2", "epochs_per_generation=1", "steps_per_generation=2"),
    *("samples_per_generation=64", "evaluation.max_rows=64"),
)
IMAGES = {"fd_classifier": "Fréchet distance", "coverage": "Coverage", "tail_recall": "Tail recall"}
WORSE = {"fd_classifier": ("rises", 1.0), "coverage": ("falls", -1.0), "tail_recall": ("falls", -1.0)}


def of_images() -> tuple[Claim, ...]:
    """Return what is claimed of a model of images: collapse under replace, and less of it under accumulate."""
    collapses = (
        Claim(f"replace: {IMAGES[metric]} {way} from first to last", change(metric, "replace", sign), least=0)
        for metric, (way, sign) in WORSE.items()
    )
    stands = (
        Claim(
            f"{IMAGES[metric]}: replace ends worse than accumulate",
            last_gap(metric, "replace", "accumulate", sign),
            least=0,
        )
        for metric, (_, sign) in WORSE.items()
    )
    return (*collapses, *stands)


@dataclass(frozen=True)
class Family:
    """The chains of one model.

    Attributes:
        title: Heading of its section.
        settings: What all of its chains have in common beside ``COMMON``: ``key=value`` of the command line.
        arms: What each arm adds, by its name.
        metrics: What is shown: names on the record and their titles.
        claims: What should hold.
        seeds: Chains per arm.
    """

    title: str
    settings: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    metrics: dict[str, str]
    claims: tuple[Claim, ...]
    seeds: int = 3


CROSS_ENTROPY = "heldout_cross_entropy"
FAMILIES = {
    "vae": Family(
        "VAE on digits",
        ("data=digits", "model=vae/tiny", "epochs_per_generation=60"),
        TWO_ARMS,
        {**IMAGES, "heldout_nll": "Held-out negative ELBO, nats per image"},
        of_images(),
    ),
    "diffusion": Family(
        "Diffusion on digits",
        ("data=digits", "data.batch_size=64", "model=diffusion/tiny", "epochs_per_generation=20"),
        TWO_ARMS,
        IMAGES,
        of_images(),
        seeds=6,  # as its chains differ widely
    ),
    "gpt": Family(
        "GPT on the documentation of Python",
        (
            "data=pydoc_text",
            "data.length=64",
            "data.batch_size=16",
            "model=gpt/tiny",
            "epochs_per_generation=1",
        ),
        {**TWO_ARMS, "replace, temperature 0.3": (REPLACE, "model.temperature=0.3")},
        {
            CROSS_ENTROPY: "Held-out cross-entropy, nats per token",
            "bigram_entropy": "Entropy of sampled bigrams, nats",
            "self_perplexity": "Perplexity of the model's own samples",
            "repetition_4": "Repeated 4-grams within a sample",
            "rare_token_mass": "Mass of rare tokens",
        },
        (
            Claim(
                "replace: held-out cross-entropy rises in every generation",
                every_rise(CROSS_ENTROPY, "replace"),
                least=0,
            ),
            Claim(
                "accumulate: held-out cross-entropy rises by no more than 0.03 nats above generation 0's",
                above_first(CROSS_ENTROPY, "accumulate"),
                most=0.03,
            ),
            Claim(
                "replace: temperature 0.3 ends worse than 1.0",
                last_gap(CROSS_ENTROPY, "replace, temperature 0.3", "replace"),
                least=0,
            ),
        ),
        seeds=6,  # as its claims are about hundredths of a nat
    ),
}


@dataclass(frozen=True)
class Cell:
    """One chain.

    Attributes:
        family: Key of ``FAMILIES``.
        arm: Key of its arms.
        seed: The chain's seed.
        folder: Its run folder.
        settings: All of its ``key=value``.
    """

    family: str
    arm: str
    seed: int
    folder: Path
    settings: tuple[str, ...]


def cells(names: Sequence[str], seeds: int | None, out: Path, extra: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield every chain, a seed of all arms before the next seed: an interrupted run has whole replications."""
    wanted = {name: FAMILIES[name].seeds if seeds is None else seeds for name in names}
    for seed in range(max(wanted.values())):
        for name in names:
            family = FAMILIES[name]
            for arm, own in family.arms.items() if seed < wanted[name] else ():
                folder = out / f"{name}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
                yield Cell(name, arm, seed, folder, (*COMMON, *family.settings, *own, *extra, f"seed={seed}"))


def chain(cell: Cell) -> Cell:
    """Run one chain, unless it has been run."""
    import torch

    from collapse.config import load
    from collapse.config.execute import run
    from collapse.config.messages import quiet

    torch.set_num_threads(1)
    quiet()
    run(load(None, [*cell.settings, f"out={cell.folder}"]))
    return cell


def read(cell: Cell) -> list[dict[str, float]]:
    """Return a chain's record: one dict of metrics per generation."""
    from collapse.recursion import read_measurements

    rows = read_measurements(cell.folder / "metrics.jsonl")
    generations = 1 + max(row.generation for row in rows)
    return [{row.name: row.value for row in rows if row.generation == g} for g in range(generations)]


def floors(cell: Cell) -> dict[str, float]:
    """Return every metric between two sets of real rows: a matter of the data, the same in every chain."""
    from collapse.recursion import read_measurements

    return {row.name: row.floor for row in read_measurements(cell.folder / "metrics.jsonl") if row.floor is not None}


def section(name: str, done: Sequence[Cell]) -> Section:
    """Collect what the page says of one family."""
    family, own = FAMILIES[name], [cell for cell in done if cell.family == name]
    chains: Chains = {arm: [read(cell) for cell in own if cell.arm == arm] for arm in family.arms}
    commands = [shlex.join(["collapse", "run", *cell.settings]) for cell in own if cell.seed == 0]
    return Section(name, family.title, commands, chains, floors(own[0]), family.metrics, family.claims)


def facts(done: Sequence[Cell]) -> dict[str, str]:
    """Return what the numbers may depend on, from the chains' own records."""
    found = [json.loads((cell.folder / "environment.json").read_text()) for cell in done]
    packages = found[0]["packages"]
    return {
        "commit": ", ".join(sorted({environment["commit"] or "none" for environment in found})),
        "versions": ", ".join(f"{name} {packages[name]}" for name in ("torch", "pytorch-lightning", "numpy")),
        "Python": found[0]["python"],
        "machine": f"{found[0]['platform']}, {found[0]['cpus']} CPUs, one thread per chain",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chains side by side, then write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=tuple(FAMILIES), help="which models")
    parser.add_argument(
        "--seeds", type=int, help="chains per arm, at least 2 for intervals; each model's own by default"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/results.md", help="the page to write")
    parser.add_argument("--workers", type=int, default=2, help="chains at a time; 1 runs them in this process")
    parser.add_argument("--quick", action="store_true", help="two generations of next to no training")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plan = list(cells(options.families, options.seeds, options.out, QUICK if options.quick else ()))
    done = []
    for cell in map(chain, plan) if options.workers == 1 else side_by_side(plan, options.workers):
        print(f"{cell.family}, {cell.arm}, seed {cell.seed}", flush=True)
        done.append(cell)
    sections = [section(name, done) for name in options.families]
    drawn = options.page.parent / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    for part in sections:
        figure(part, drawn / f"results_{part.name}.svg")
    options.page.write_text(page(sections, facts(done), quick=options.quick))
    print(options.page)


def side_by_side(plan: Sequence[Cell], workers: int) -> Iterator[Cell]:
    """Run chains in processes of their own."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(chain, plan)


if __name__ == "__main__":
    main()
