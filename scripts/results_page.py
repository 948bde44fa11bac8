"""The page of results: tables with intervals, claims with verdicts, figures; what it says of a number is computed."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import STUDENT, markdown

Chains = dict[str, list[list[dict[str, float]]]]
"""By arm: for every seed, for every generation, the metrics by name."""

HEAD = """# Results

{warning}Every model trains on real data, then on samples: {generations} generations, each from fresh weights, for
equally many epochs of its training set, and sampled for as many rows as there are real ones. *Replace* trains on the
last generation's samples alone; *accumulate* on the real rows and all samples so far: its training set and its budget
grow.

Numbers are means over seeds, as many as the claims are counted by, ± half of a 95 % Student interval. A claim is
*held* if whole intervals keep to the bound, in every generation it speaks of, and *held on average* if the means do;
the worst is shown. Samples are compared with held-out real rows that nothing trains on. The commands are those of
seed 0. `make results` writes this page from the records of the chains: tables, sentences, verdicts and figures.

{facts}"""
QUICK = "**These chains have hardly trained: the page shows that it can be made, and nothing else.**\n\n"

Measure = Callable[[Chains], list[list[float]]]
"""The parts of a claim, each with one number per seed."""


@dataclass(frozen=True)
class Claim:
    """A statement about chains: each of its parts has a number from every seed, which should keep to one bound.

    A claim about every generation has a part for each. It is held if every part is; its row shows the worst one.

    Attributes:
        sentence: What is claimed.
        measure: From chains to parts, each the numbers of all seeds.
        least: The numbers should be above it.
        most: They should not be above it.
    """

    sentence: str
    measure: Measure
    least: float = -math.inf
    most: float = math.inf

    def row(self, chains: Chains) -> list[str]:
        """Return its row of the table: the sentence, its worst part, the bound, seeds that keep to it, the verdict."""
        parts = self.measure(chains)
        mean, half = interval(min(parts, key=self.room))
        kept = sum(all(self.least < part[seed] <= self.most for part in parts) for seed in range(len(parts[0])))
        bound = f"> {self.least:g}" if self.most == math.inf else f"≤ {self.most:.2g}"
        return [self.sentence, shown(mean, half), bound, f"{kept} of {len(parts[0])}", self.verdict(parts)]

    def room(self, values: Sequence[float]) -> float:
        """Return how far an interval stays from the nearer bound; negative if it crosses that."""
        mean, half = interval(values)
        return min(mean - half - self.least, self.most - mean - half)

    def verdict(self, parts: Sequence[Sequence[float]]) -> str:
        """Return "held" if all intervals keep to the bounds, "held on average" if all means do."""
        if all(self.room(part) > 0 for part in parts):
            return "held"
        means = [interval(part)[0] for part in parts]
        return "held on average" if all(self.least < mean <= self.most for mean in means) else "not held"


def series(chains: Chains, arm: str, metric: str) -> list[list[float]]:
    """Return a metric's values of each seed, generation by generation."""
    return [[record[metric] for record in records] for records in chains[arm]]


def every_rise(metric: str, arm: str) -> Measure:
    """Measure every rise from one generation to the next."""

    def measure(chains: Chains) -> list[list[float]]:
        values = series(chains, arm, metric)
        return [[one[g + 1] - one[g] for one in values] for g in range(len(values[0]) - 1)]

    return measure


def above_first(metric: str, arm: str) -> Measure:
    """Measure how far every later generation lies above generation 0."""

    def measure(chains: Chains) -> list[list[float]]:
        values = series(chains, arm, metric)
        return [[one[g] - one[0] for one in values] for g in range(1, len(values[0]))]

    return measure


def change(metric: str, arm: str, sign: float = 1.0) -> Measure:
    """Measure the change from the first generation to the last, times ``sign``."""
    return lambda chains: [[sign * (one[-1] - one[0]) for one in series(chains, arm, metric)]]


def last_gap(metric: str, arm: str, other: str, sign: float = 1.0) -> Measure:
    """Measure how far above another arm one ends, seed by seed, times ``sign``."""

    def measure(chains: Chains) -> list[list[float]]:
        pairs = zip(series(chains, arm, metric), series(chains, other, metric), strict=True)
        return [[sign * (one[-1] - two[-1]) for one, two in pairs]]

    return measure


@dataclass(frozen=True)
class Section:
    """One model: its chains, and what is shown and claimed of them."""

    name: str
    title: str
    commands: Sequence[str]
    chains: Chains
    floors: dict[str, float]
    metrics: dict[str, str]
    claims: Sequence[Claim]

    @property
    def generations(self) -> int:
        """Generations of its chains."""
        return len(next(iter(self.chains.values()))[0])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % Student interval; infinite for one value."""
    if len(values) < 2 or math.inf in values:
        return statistics.fmean(values), math.inf
    return statistics.fmean(values), STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def shown(mean: float, half: float) -> str:
    """Return mean ± half an interval, with three decimals below ten."""
    digits = 3 if abs(mean) < 10 else 1  # of the mean: the interval has as many
    return f"{mean:.{digits}f}" if math.isinf(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(part: Section, metric: str) -> str:
    """Return one metric's table of generation x arm."""
    values = {arm: series(part.chains, arm, metric) for arm in part.chains}
    rows = [
        [str(g), *(shown(*interval([one[g] for one in values[arm]])) for arm in values)]
        for g in range(part.generations)
    ]
    return markdown(["generation", *values], rows)


def reading(part: Section, metric: str) -> str:
    """Return what a table shows, a sentence per arm, computed from its numbers."""
    sentences = []
    for arm in part.chains:
        values = series(part.chains, arm, metric)
        means = [statistics.fmean(one[g] for one in values) for g in range(part.generations)]
        rises = sum(after > before for before, after in itertools.pairwise(means))
        mean, half = interval(change(metric, arm)(part.chains)[0])
        sentences.append(
            f"- {arm}: changes by {shown(mean, half)} from first to last; the mean rises in {rises} of "
            f"{len(means) - 1} generations."
        )
    if metric in part.floors:
        sentences.append(f"- real rows against other real rows: {part.floors[metric]:.3f}.")
    return "\n".join(sentences)


def text(part: Section) -> str:
    """Return the section of one model."""
    claims = [claim.row(part.chains) for claim in part.claims]
    measured = [f"### {title}\n\n{table(part, m)}\n\n{reading(part, m)}" for m, title in part.metrics.items()]
    return "\n\n".join(
        [
            f"## {part.title}",
            "```bash\n" + "\n".join(part.commands) + "\n```",
            f"![{part.title}](figures/results_{part.name}.svg)",
            markdown(["claim", "measured", "bound", "seeds", "verdict"], claims),
            *measured,
        ]
    )


def page(sections: Sequence[Section], facts: dict[str, str], *, quick: bool = False) -> str:
    """Return the whole page."""
    head = HEAD.format(
        warning=QUICK if quick else "",
        generations=sections[0].generations,
        facts="\n".join(f"- {name}: {value}" for name, value in facts.items()),
    )
    return "\n\n".join([head, *(text(part) for part in sections)]) + "\n"


def figure(part: Section, path: Path) -> None:
    """Draw every metric of a model over generations: means, and bands of their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": part.name, "svg.fonttype": "none", "font.size": 8}):
        fig, axes = plt.subplots(
            1, len(part.metrics), figsize=(2.9 * len(part.metrics), 2.4), layout="constrained", squeeze=False
        )
        for axis, (metric, title) in zip(axes[0], part.metrics.items(), strict=True):
            for arm in part.chains:
                values = series(part.chains, arm, metric)
                points = [interval([one[g] for one in values]) for g in range(part.generations)]
                line = axis.plot([mean for mean, _ in points], marker="o", markersize=2.5, label=arm)[0]
                if math.isfinite(points[0][1]):
                    low, high = ([mean + side * half for mean, half in points] for side in (-1, 1))
                    axis.fill_between(range(part.generations), low, high, alpha=0.2, color=line.get_color())
            if metric in part.floors:
                axis.axhline(part.floors[metric], color="gray", linestyle=":", label="real")
            axis.set(title=title, xlabel="generation")
        axes[0][0].legend()
        fig.savefig(path, metadata={"Date": None})
        plt.close(fig)
