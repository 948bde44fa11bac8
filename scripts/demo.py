"""Four chains on scikit-learn's digits: the table and the figure of the README.

python scripts/demo.py                    # one seed, what `make demo` runs
python scripts/demo.py --seeds 5          # the table with intervals
"""

from __future__ import annotations

import argparse
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ARMS = {
    "replace": "mitigations=[Replace]",
    "accumulate": "mitigations=[DataAccumulation]",
    "anchor 10 %": "mitigations=[{AnchorReplay:{fraction:0.1}}]",
    "SIGReg": "mitigations=[{SIGReg:{weight:0.02}}]",
}
METRICS = {"coverage": "coverage", "variance_ratio": "variance", "fd_classifier": "Fréchet", "recall": "recall"}
GRIDS = (0, 2, 5, 9)
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # 97.5 % quantiles, n - 1


def chain(arm: str, seed: int, out: Path) -> tuple[str, int, list[dict[str, float]]]:
    """Run one chain, or read it where it has been run before."""
    import torch

    from collapse.config import load
    from collapse.config.execute import run
    from collapse.config.messages import quiet

    torch.set_num_threads(1)
    quiet()
    folder = out / f"{arm.split()[0].lower()}-{seed}"
    config = load("demo", [ARMS[arm], f"seed={seed}", f"out={folder}", "wandb.enabled=false"])
    return arm, seed, [record.metrics for record in run(config).records]


def floors(out: Path) -> dict[str, float]:
    """Return every metric between two sets of real digits: a matter of the data, the same in every chain."""
    from collapse.recursion import read_measurements

    rows = read_measurements(out / "replace-0" / "metrics.jsonl")
    return {row.name: row.floor for row in rows if row.floor is not None}


Results = dict[str, list[list[dict[str, float]]]]


def by_chain(results: Results, floor: dict[str, float]) -> list[str]:
    """Return one table of generation x metric per chain."""
    tables = []
    for arm, chains in results.items():
        rows = [
            [str(g), *(cell([records[g][metric] for records in chains]) for metric in METRICS)]
            for g in range(len(chains[0]))
        ]
        rows.append(["real", *(cell([floor[metric]]) for metric in METRICS)])
        tables.append(markdown([arm, *METRICS.values()], rows))
    return tables


def by_metric(results: Results, floor: dict[str, float]) -> list[str]:
    """Return one table of chain x generation per metric."""
    tables = []
    generations = range(len(next(iter(results.values()))[0]))
    for metric, title in METRICS.items():
        rows = [
            [arm, *(cell([records[g][metric] for records in chains]) for g in generations)]
            for arm, chains in results.items()
        ]
        table = markdown([title, *(str(g) for g in generations)], rows)
        tables.append(f"{table}\n\nReal against real: {cell([floor[metric]])}.")
    return tables


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(values: list[float]) -> str:
    """Return mean ± half a Student interval."""
    digits = 0 if abs(values[0]) >= 10 else 2
    mean = statistics.fmean(values)
    if len(values) not in STUDENT:
        return f"{mean:.{digits}f}"
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def figure(results: Results, out: Path, path: Path) -> Path:
    """Draw the first seed's sample grids beside the curves, means over seeds; returns ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = ("coverage", "variance_ratio")
    fig = plt.figure(figsize=(13, 7.2), layout="constrained")
    parts = fig.subfigures(1, 2, width_ratios=(len(GRIDS), 3), squeeze=False)[0]
    grids = parts[0].subplots(len(ARMS), len(GRIDS))
    for row, arm in enumerate(ARMS):
        folder = out / f"{arm.split()[0].lower()}-0" / "figures"
        for column, generation in enumerate(GRIDS):
            axis = grids[row][column]
            axis.imshow(plt.imread(folder / f"samples_gen_{generation:03d}.png"))
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"generation {generation}", fontsize=10)
            if column == 0:
                axis.set_ylabel(arm, fontsize=11)
    for axis, metric in zip(parts[1].subplots(len(curves), 1, sharex=True), curves, strict=True):
        for arm, chains in results.items():
            values = [statistics.fmean(records[g][metric] for records in chains) for g in range(len(chains[0]))]
            axis.plot(values, marker="o", markersize=3, label=arm)
        axis.axhline(floors(out)[metric], color="gray", linestyle=":", label="real against real")
        axis.set_ylabel(METRICS[metric])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    axis.set_xlabel("generation")
    fig.savefig(path, dpi=110)
    plt.close(fig)
    return path


def main() -> None:
    """Run the chains side by side, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="chains per arm")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs")
    parser.add_argument("--by", choices=("chain", "metric"), default="chain", help="one table per chain or per metric")
    parser.add_argument("--figure", type=Path, help="where to draw the figure; collapse.png beside the runs if unset")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="chains at a time")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cells = [(arm, seed, options.out) for seed in range(options.seeds) for arm in ARMS]
    results: Results = {arm: [] for arm in ARMS}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for arm, seed, records in pool.map(chain, *zip(*cells, strict=True)):
            results[arm].append(records)
            print(f"{arm}, seed {seed}: {len(records)} generations", flush=True)
    tables = {"chain": by_chain, "metric": by_metric}[options.by](results, floors(options.out))
    print("", *tables, sep="\n\n")
    print(f"\n{figure(results, options.out, options.figure or options.out / 'collapse.png')}")


if __name__ == "__main__":
    main()
