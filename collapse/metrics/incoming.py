r"""Could these rows be real? A set of incoming rows against gold, at a false-alarm rate that is kept exactly.

If the incoming rows are real, they are M of the N + M rows at hand in no particular way, and *every* division of those
into M and N rows compares real rows with real rows. The statistics of the actual division are ranked among those of
random ones (b = 0 is the actual one, :math:`r_s^{(b)}` counts the divisions with a value of s at least as extreme):

.. math:: p = \frac1B \#\bigl\{b : \min_s r_s^{(b)} \le \min_s r_s^{(0)}\bigr\}

The smallest rank is compared with the smallest ranks of the other divisions instead of with a level divided by the
number of statistics: the rate of the whole check is the stated one, however the statistics depend on each other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collapse.metrics.conformal import flat_rows
from collapse.metrics.splits import NEIGHBORS, STATISTICS, Landscape, divisions

__all__ = ["Finding", "IncomingReport", "check_incoming", "comparable_rows"]

BEYOND = 10  # divisions out of bounds: more would make the bounds smoother, and the check slower


@dataclass(frozen=True)
class Finding:
    """One statistic of an incoming set, and the range in which it raises no alarm.

    Attributes:
        statistic: Its name.
        value: What it is between the incoming rows and gold.
        expected: Its mean over the divisions: what it is between real rows and real rows.
        low: Smallest value that raises no alarm; -inf where a small one never does.
        high: Largest value that raises no alarm; inf where a large one never does.
        p_value: Share of divisions at least as extreme in this statistic alone.
        alarm: Whether the value is out of bounds.
    """

    statistic: str
    value: float
    expected: float
    low: float
    high: float
    p_value: float
    alarm: bool

    def __str__(self) -> str:
        bounds = f"[{self.low:.4g}, {self.high:.4g}]"
        where = "outside" if self.alarm else "within"
        return f"{self.statistic} = {self.value:.4g} is {where} {bounds} (p = {self.p_value:.2g})"


@dataclass(frozen=True)
class IncomingReport:
    """What a check of an incoming set found.

    Attributes:
        findings: One per statistic.
        p_value: Of all statistics together.
        false_alarm: Probability that real rows raise an alarm, never above the one asked for.
        divisions: How many were compared, the actual one included.
        rows: Incoming rows that were tested.
        total: Incoming rows that there were.
        gold_rows: Gold rows that they were compared with.
    """

    findings: tuple[Finding, ...]
    p_value: float
    false_alarm: float
    divisions: int
    rows: int
    total: int
    gold_rows: int

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings out of bounds, the least likely first."""
        return tuple(sorted((finding for finding in self.findings if finding.alarm), key=lambda one: one.p_value))

    def __str__(self) -> str:
        rows = f"{self.rows}" if self.rows == self.total else f"{self.rows} of {self.total}"
        found = "; ".join(map(str, self.alarms)) or "nothing that real rows would not show"
        return (
            f"{rows} incoming rows beside {self.gold_rows} of gold: {found}; together p = {self.p_value:.2g} "
            f"(of {self.divisions} divisions, false-alarm rate {self.false_alarm:.2g})"
        )


@torch.no_grad()
def check_incoming(
    gold: Tensor, incoming: Tensor, *, generator: torch.Generator, false_alarm: float = 0.01, max_rows: int = 1000
) -> IncomingReport:
    r"""Test whether incoming rows could be real rows like those of gold.

    With k = 5 nearest neighbors among all rows of both sets,

    - ``mean_shift``: :math:`\lVert \bar y - \bar x \rVert^2 / [\operatorname{tr} \Sigma\, (1/M + 1/N)]`, on average 1;
    - ``variance_ratio``: :math:`\operatorname{tr} \Sigma_y / \operatorname{tr} \Sigma_x`;
    - ``coverage``: share of gold rows with an incoming row among their neighbors; low where a mode is lost;
    - ``support``: share of incoming rows with a gold row among theirs; low where there is a mode too many;
    - ``outlier_share``: share of incoming rows among the 2 % of all rows with the farthest k-th neighbor;
    - ``duplicates`` and ``copies``: share of incoming rows that equal another incoming row, or a gold row.

    The rate is kept, exactly but for ties, by any two sets of independent rows of one law, at any sizes and in any
    space; what is seen at that rate depends on the space. Samples of a model that was fitted to gold lie closer to gold
    than other real rows do: that they pass says less than that they fail. Checks beside the same gold rows share what
    is accidental in those. The cost is that of all distances between :math:`n = N + M` rows, and of counting n k
    neighbors in each division: a quarter of a second for 1,000 rows beside 1,000 in the plane at a rate of 0.01.

    Args:
        gold: Real rows or their features, (N, *S), N >= 2, finite, not all equal.
        incoming: Rows to test, (M, *S), M >= 2, N + M > 5, finite.
        generator: On the rows' device; the only source of randomness.
        false_alarm: Probability that real rows raise an alarm, in (0, 0.5]; 10 / false_alarm divisions are compared.
        max_rows: Most rows of each set, at least 3; of a larger one, so many are drawn.

    Returns:
        The report.

    Raises:
        ValueError: If an argument is out of range, the sets are not finite rows of one shape, or gold does not vary.

    References:
        Hemerik, Goeman, "Exact testing with random permutations", TEST 27, 2018: the actual division counts as one.
        Westfall, Young, "Resampling-Based Multiple Testing", 1993: the smallest of dependent p-values.
        Naeem et al., "Reliable Fidelity and Diversity Metrics", 2020. arXiv:2002.09797: coverage.
    """
    if not 0 < false_alarm <= 0.5:
        raise ValueError(f"false_alarm = {false_alarm}, but a rate above 0 and up to 0.5 is needed; use 0.01.")
    if max_rows < 3:
        raise ValueError(f"max_rows = {max_rows}, but rows need neighbors; use max_rows >= 3, for example 1000.")
    x, y = comparable_rows(gold, incoming, max_rows)
    x, y = _some(x, max_rows, generator), _some(y, max_rows, generator)
    # In random order: which of two equally near rows comes first must not say where they are from.
    order = torch.randperm(len(x) + len(y), generator=generator, device=x.device)
    landscape, count = Landscape.of(torch.cat([y, x])[order]), math.ceil(BEYOND / false_alarm)
    values = torch.cat([landscape.statistics(chosen) for chosen in divisions(order < len(y), count, generator)])
    findings, p_value = _ranked(values)
    return IncomingReport(findings, p_value, BEYOND / count, count, len(y), len(incoming), len(x))


def comparable_rows(gold: Tensor, incoming: Tensor, max_rows: int) -> tuple[Tensor, Tensor]:
    """Flatten two sets of rows that :func:`check_incoming` can compare.

    Args:
        gold: Real rows, (N, *S).
        incoming: Rows to test, (M, *S).
        max_rows: Most rows of each set that are compared.

    Returns:
        Both sets, (N, D) and (M, D), in floating point.

    Raises:
        ValueError: If they are not finite rows of one shape, there are too few of them, or gold does not vary.
    """
    x, y = flat_rows(gold, incoming, gold_rows=2, incoming_rows=2)
    rows = min(len(x), max_rows) + min(len(y), max_rows)
    if rows <= NEIGHBORS:
        raise ValueError(f"gold and incoming have {rows} rows together; at least {NEIGHBORS + 1} are needed.")
    if bool((x == x[0]).all()):
        raise ValueError(f"gold has {len(x)} equal rows, from which nothing can differ; pass rows that vary.")
    return x, y


def _some(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=generator, device=rows.device)[:most]]


def _ranked(values: Tensor) -> tuple[tuple[Finding, ...], float]:
    """Rank the first row of values (B, S) among all of them; return what it shows, and the p-value of all of it."""
    names = [name for name, signs in STATISTICS.items() for _ in signs]
    signs = torch.tensor([sign for signs in STATISTICS.values() for sign in signs], device=values.device)
    columns = torch.tensor([list(STATISTICS).index(name) for name in names], device=values.device)
    sides = (values[:, columns] * signs).T.contiguous()  # the larger the stranger
    ranks, order = _strangeness(sides)
    strangest = order.min(0).values
    beyond = order < strangest.sort().values[BEYOND]
    bounds = (sides.masked_fill(beyond, -math.inf).max(1).values * signs).tolist()
    p_values, alarms = (ranks[:, 0].double() / len(values)).tolist(), beyond[:, 0].tolist()
    findings = []
    for index, (name, both) in enumerate(STATISTICS.items()):
        mine = [side for side, other in enumerate(names) if other == name]
        edges = {sign: bounds[side] for sign, side in zip(both, mine, strict=True)}
        findings.append(
            Finding(
                name,
                value=float(values[0, index]),
                expected=float(values[:, index].mean()),
                low=edges.get(-1, -math.inf),
                high=edges.get(1, math.inf),
                p_value=min(1.0, len(mine) * min(p_values[side] for side in mine)),
                alarm=any(alarms[side] for side in mine),
            )
        )
    return tuple(findings), float((strangest <= strangest[0]).double().mean())


def _strangeness(sides: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks in each side (sides, B): how many divisions are at least as strange; and numbers in their order
    that do not tie between sides: of equal ranks, the one more standard deviations from its mean comes first."""
    ranks = sides.shape[1] - torch.searchsorted(sides.sort(1).values, sides)
    mean, std = sides.mean(1, keepdim=True), sides.std(1, keepdim=True)
    z = torch.where(std > 0, (sides - mean) / std, 0).clamp_min(0)
    return ranks, ranks + 1 / (2 + z)
