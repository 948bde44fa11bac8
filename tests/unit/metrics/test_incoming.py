"""Checks of incoming sets: real ones pass at the stated rate, collapsed ones do not, and numbers are what they say."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from collapse.metrics import check_incoming, coverage, variance_ratio
from collapse.metrics.incoming import BEYOND, _ranked
from collapse.metrics.splits import STATISTICS, Landscape, divisions
from collapse.seeding import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def ring(rows, seed, modes=8):
    """Rows of the first ``modes`` of eight modes on a circle."""
    angle = 2 * math.pi * torch.arange(8) / 8
    centers = 2 * torch.stack([angle.cos(), angle.sin()], 1).double()
    return centers[torch.randint(modes, (rows,), generator=generator(seed, 1))] + 0.1 * normal(rows, 2, seed=seed)


def check(gold, incoming, seed=0, **settings):
    return check_incoming(gold, incoming, generator=generator(seed), **settings)


def by_name(report):
    return {finding.statistic: finding for finding in report.findings}


# The statistics


def planted():
    """Seventy gold and fifty incoming rows, with three pairs of equal incoming rows and four copies of gold rows."""
    gold, incoming = normal(70, 3), 1.3 * normal(50, 3, seed=1) + 0.2
    incoming[:3], incoming[10:14] = incoming[3:6], gold[:4]
    return gold, incoming


def test_every_statistic_is_what_its_definition_says():
    gold, incoming = planted()
    found = {name: finding.value for name, finding in by_name(check(gold, incoming)).items()}
    assert list(found) == list(STATISTICS)
    x, y = gold.numpy(), incoming.numpy()
    both = np.concatenate([x, y])
    gap, total = y.mean(0) - x.mean(0), np.trace(np.cov(both.T))
    assert found["mean_shift"] == pytest.approx(gap @ gap / total / (1 / 50 + 1 / 70), rel=1e-12)
    assert found["variance_ratio"] == pytest.approx(float(variance_ratio(gold, incoming)), rel=1e-12)
    assert found["coverage"] == pytest.approx(float(coverage(gold, incoming, 5)), rel=1e-12)
    assert found["support"] == pytest.approx(float(coverage(incoming, gold, 5)), rel=1e-12)
    radii = np.sort(np.linalg.norm(both[:, None] - both[None], axis=2), axis=1)[:, 5]
    farthest = radii.argsort()[-3:]  # 2 % of 120, rounded up
    assert found["outlier_share"] == np.mean(np.isin(np.arange(70, 120), farthest))
    assert found["duplicates"] == 6 / 50
    assert found["copies"] == 4 / 50


def test_what_is_expected_of_real_rows_has_closed_forms():
    """Averages over all divisions of 120 rows into 50 and 70, within five standard errors of the 2,000 drawn."""
    gold, incoming = planted()
    m, n, k = 50, 70, 5
    found = by_name(check(gold, incoming, false_alarm=0.005))
    reached = {
        name: 1 - math.prod((b - i) / (m + n - i) for i in range(1, k + 1))
        for name, b in (("coverage", n), ("support", m))
    }
    same, apart = (m - 1) / (m + n - 1), n / (m + n - 1)
    laws = {
        "mean_shift": (1.0, 1.0),
        "coverage": (reached["coverage"], 0.03),
        "support": (reached["support"], 0.03),
        "outlier_share": (3 / 120, 0.02),
        "duplicates": (14 * same / 120, 0.05),  # of the rows of all seven pairs, those of copies included
        "copies": (14 * apart / 120, 0.05),
    }
    for name, (law, spread) in laws.items():
        assert found[name].expected == pytest.approx(law, abs=5 * spread / math.sqrt(2000)), name


def test_divisions_are_the_actual_one_and_uniform_ones_of_its_size():
    actual = torch.arange(30) < 12
    drawn = torch.cat(list(divisions(actual, 4000, generator(3))))
    assert torch.equal(drawn[0], actual)
    assert drawn.shape == (4000, 30)
    assert (drawn.sum(1) == 12).all()
    counts = drawn[1:].sum(0)
    low, high = binom.interval(1 - 1e-3 / 30, 3999, 0.4)
    assert (counts >= low).all()
    assert (counts <= high).all()
    together = float((drawn[1:, 0] & drawn[1:, 29]).double().mean())
    assert together == pytest.approx(12 * 11 / (30 * 29), abs=0.03)


# The level


@pytest.mark.parametrize("law", ["continuous", "heavy", "tied"])
def test_of_any_divisions_exactly_the_stated_number_raises_an_alarm(law):
    """Whichever division is called the actual one: this, and that all are alike under real rows, is the level."""
    values = normal(100, len(STATISTICS), seed=4)
    values = {"continuous": values, "heavy": values**7, "tied": values.round()}[law]
    alarms = 0
    for index in range(100):
        findings, p_value = _ranked(values.roll(-index, 0))
        alarmed = any(finding.alarm for finding in findings)
        assert alarmed == (p_value <= BEYOND / 100)
        for finding in findings:
            assert finding.alarm == (not finding.low <= finding.value <= finding.high)
        alarms += alarmed
    assert alarms == BEYOND if law != "tied" else alarms <= BEYOND


LAWS = {
    "normal": lambda rows, seed: normal(rows, 2, seed=seed),
    "Cauchy in 8 dimensions": lambda rows, seed: normal(rows, 8, seed=seed) / normal(rows, 8, seed=-1 - seed),
    "ring": ring,
}


def false_alarms(law, sizes, rate, trials):
    """Of as many fresh pairs of real sets."""
    return sum(
        bool(check(law(sizes[0], 2 * i), law(sizes[1], 2 * i + 1), seed=i, false_alarm=rate).alarms)
        for i in range(trials)
    )


@pytest.mark.parametrize("law", LAWS)
def test_fresh_real_sets_raise_alarms_at_the_stated_rate(law):
    """Every trial has a gold set of its own, or the trials would share what is accidental in one."""
    found = false_alarms(LAWS[law], (60, 40), 0.1, trials=400)
    low, high = binom.interval(0.999, 400, 0.1)
    assert low <= found <= high


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(60, 40), (30, 120)], ids=str)
@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("law", LAWS)
def test_the_rate_is_kept_where_it_is_small_and_sets_are_unequal(law, rate, sizes):
    found = false_alarms(LAWS[law], sizes, rate, trials=1000)
    low, high = binom.interval(0.999, 1000, rate)
    assert low <= found <= high


# Power


def with_outliers(rows, seed):
    """One row in twenty from a law ten times as wide."""
    x = normal(rows, 2, seed=seed)
    x[: rows // 20] *= 10
    return x


def with_duplicates(rows, seed):
    """One row in fifty comes twice."""
    x = normal(rows, 2, seed=seed)
    x[: rows // 50] = x[rows // 50 : 2 * (rows // 50)]
    return x


FAULTS = {
    "variance 0.7": (LAWS["normal"], lambda rows, seed: 0.7**0.5 * normal(rows, 2, seed=seed), {"variance_ratio"}),
    "variance 1.5": (LAWS["normal"], lambda rows, seed: 1.5**0.5 * normal(rows, 2, seed=seed), {"variance_ratio"}),
    "a mode lost": (ring, lambda rows, seed: ring(rows, seed, modes=7), {"coverage"}),
    "a mode too many": (lambda rows, seed: ring(rows, seed, modes=7), ring, {"support"}),
    "5 % outliers": (LAWS["normal"], with_outliers, {"outlier_share", "variance_ratio"}),
    "2 % duplicates": (LAWS["normal"], with_duplicates, {"duplicates"}),
    "shifted": (LAWS["normal"], lambda rows, seed: normal(rows, 2, seed=seed) + 0.25, {"mean_shift"}),
}


def found_by(fault, trials, rows=500):
    """How many of as many trials raise an alarm, and how often each statistic does."""
    real, faulty, _ = FAULTS[fault]
    reports = [check(real(rows, 2 * i), faulty(rows, 2 * i + 1), seed=i) for i in range(trials)]
    named = [finding.statistic for report in reports for finding in report.alarms]
    return sum(bool(report.alarms) for report in reports), {name: named.count(name) for name in STATISTICS}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found_and_named(fault):
    found, names = found_by(fault, trials=4)
    assert found == 4
    assert all(names[name] >= 3 for name in FAULTS[fault][2])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_power_is_above_nine_tenths(fault):
    """500 rows beside 500 of gold at a rate of 0.01: at least 96 of 100 found has p < 0.03 if the power is 0.9."""
    assert found_by(fault, trials=100)[0] >= 96


def test_copies_of_gold_are_found():
    gold, incoming = normal(300, 2), normal(300, 2, seed=1)
    incoming[:15] = gold[:15]
    assert {finding.statistic for finding in check(gold, incoming).alarms} == {"copies"}


@pytest.mark.parametrize("incoming", [torch.zeros(50, 2), normal(1, 2).repeat(50, 1)], ids=["zeros", "one row"])
def test_a_set_of_equal_rows_is_the_clearest_collapse(incoming):
    report = check(normal(80, 2), incoming)
    assert by_name(report)["variance_ratio"].value == pytest.approx(0, abs=1e-12)
    assert {"variance_ratio", "duplicates", "coverage"} <= {finding.statistic for finding in report.alarms}
    assert report.p_value <= report.false_alarm


# The report


def test_the_report_says_how_it_came_about():
    report = check(normal(900, 2), normal(700, 2, seed=1), false_alarm=0.03, max_rows=500)
    assert (report.rows, report.total, report.gold_rows, report.divisions) == (500, 700, 500, 334)
    assert report.false_alarm == 10 / 334 <= 0.03
    assert str(report) == (
        "500 of 700 incoming rows beside 500 of gold: nothing that real rows would not show; "
        f"together p = {report.p_value:.2g} (of 334 divisions, false-alarm rate 0.03)"
    )


def test_an_alarm_names_statistic_value_and_bounds_the_least_likely_first():
    report = check(normal(300, 2), torch.cat([0.5 * normal(300, 2, seed=1)]))
    found = by_name(report)["variance_ratio"]
    assert found.value == pytest.approx(0.25, rel=0.2)
    assert found.low == pytest.approx(0.75, abs=0.1)
    assert found.expected == pytest.approx(1, abs=0.05)
    assert (
        str(found) == f"variance_ratio = {found.value:.4g} is outside [{found.low:.4g}, {found.high:.4g}] (p = 0.002)"
    )
    assert str(found) in str(report)
    assert [one.p_value for one in report.alarms] == sorted(one.p_value for one in report.alarms)
    calm = by_name(report)["copies"]
    assert str(calm) == "copies = 0 is within [-inf, 0] (p = 1)"


def test_the_same_generator_gives_the_same_report_and_no_other_is_touched():
    gold, incoming = normal(60, 2), normal(50, 2, seed=1)
    before = torch.get_rng_state()
    assert check(gold, incoming, seed=3) == check(gold, incoming, seed=3)
    assert check(gold, incoming, seed=3).p_value != check(gold, incoming, seed=4).p_value
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_bounded_and_changes_nothing(monkeypatch):
    gold, incoming = normal(60, 2), normal(50, 2, seed=1)
    rows = torch.cat([gold, incoming])
    whole = Landscape.of(rows)
    monkeypatch.setattr("collapse.metrics.splits.ROWS", 7)
    for one, other in zip(Landscape.of(rows), whole, strict=True):
        assert torch.equal(one, other)
    actual = torch.arange(110) < 50
    together = torch.cat(list(divisions(actual, 40, generator(1))))
    monkeypatch.setattr("collapse.metrics.splits.ENTRIES", 110 * 5 * 8)
    parts = list(divisions(actual, 40, generator(1)))
    assert [len(part) for part in parts] == [1, 8, 8, 8, 8, 7]
    assert torch.equal(torch.cat(parts), together)


def test_images_are_compared_as_they_are():
    gold, incoming = (torch.rand(rows, 1, 4, 4, generator=generator(rows)) for rows in (60, 40))
    assert check(gold, incoming) == check(gold.flatten(1), incoming.flatten(1))
    assert by_name(check(gold, 0.6 * incoming))["variance_ratio"].alarm


@pytest.mark.parametrize(
    ("gold", "incoming", "settings", "message"),
    [
        (normal(9, 2), normal(9, 2), {"false_alarm": 0.0}, "false_alarm = 0.0, but a rate above 0 and up to 0.5"),
        (normal(9, 2), normal(9, 2), {"false_alarm": 0.6}, "false_alarm = 0.6"),
        (normal(9, 2), normal(9, 2), {"max_rows": 2}, "max_rows = 2, but rows need neighbors; use max_rows >= 3"),
        (normal(2, 2), normal(3, 2), {}, "gold and incoming have 5 rows together; at least 6 are needed"),
        (normal(9, 2), normal(1, 2), {}, "incoming has 1 rows, but at least 2 are needed"),
        (normal(1, 2), normal(9, 2), {}, "gold has 1 rows, but at least 2 are needed"),
        (torch.ones(9, 2), normal(9, 2).float(), {}, "gold has 9 equal rows, from which nothing can differ; pass rows"),
        (normal(9, 2), normal(9, 2) * torch.nan, {}, "incoming has 9 of 9 rows with NaN or infinity"),
        (normal(9, 2), normal(9, 3), {}, r"gold has rows of shape \(2,\) and incoming of \(3,\)"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(gold, incoming, settings, message):
    with pytest.raises(ValueError, match=message):
        check(gold, incoming, **settings)
