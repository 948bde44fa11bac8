"""Predicted beside measured."""

import math
import re

import pytest
import torch

from collapse import theory
from collapse.data import CategoricalData, GaussianData, RegressionData, RingOfGaussians
from collapse.mitigations import AnchorReplay, DataAccumulation, SlidingWindow
from collapse.models import VAE, Categorical, Gaussian, LinearRegression
from collapse.oracle import Comparison, Quantity, Setting, compare, fits_to_show, plot
from collapse.recursion import run_chain


def gaussian(*mitigations, generations=5, replicates=500, rows=20, **model):
    model = {"ddof": 0, **model}
    return Setting(
        Gaussian(replicates=replicates, **model),
        GaussianData(rows, replicates=replicates, std=2.0, mean=1.0),
        mitigations,
        generations,
        20,
    )


def test_fits_are_counted_from_one_on_a_logarithmic_grid():
    assert fits_to_show(1) == [1]
    assert fits_to_show(30) == [1, 2, 5, 10, 20, 30]
    assert fits_to_show(100) == [1, 2, 5, 10, 20, 50, 100]


def test_every_row_is_the_law_and_the_chains_own_mean():
    setting = gaussian()
    rows = compare(setting, at=[1, 5]).rows
    chain = run_chain(setting.model, setting.data, generations=5, samples_per_generation=20, evaluate=False)
    variance = chain.state(4)["covariance"][:, 0, 0]
    (row,) = [row for row in rows if (row.name, row.t) == ("E var", 5)]
    assert row.predicted == pytest.approx(4 * (1 - 1 / 20) ** 5)
    assert row.measured == pytest.approx(float(variance.mean()))
    assert row.high - row.low == pytest.approx(2 * 1.96 * float(variance.std()) / 500**0.5)
    (row,) = [row for row in rows if (row.name, row.t) == ("median var", 5)]
    assert row.predicted == pytest.approx(theory.gaussian.replace_median_variance(5, 20, ddof=0, variance=4.0))
    assert row.measured == pytest.approx(float(variance.quantile(0.5)))
    assert row.low < row.measured < row.high
    assert {row.name for row in rows} == {"E|mu-mu0|^2", "E var", "E log var", "median var", "E W2^2"}


SETTINGS = {
    "replace": gaussian(),
    "multiplier": gaussian(variance_multiplier=0.8),
    "accumulate": gaussian(DataAccumulation()),
    "subsample": gaussian(DataAccumulation(fixed_size=True)),
    "fixed": gaussian(AnchorReplay(0.25)),
    "fresh": gaussian(AnchorReplay(0.25, "fresh"), rows=40),
    "grown": gaussian(AnchorReplay(0.25, "fresh"), DataAccumulation(), rows=40),
    "known": gaussian(DataAccumulation(), known_variance=4.0),
    "plane": Setting(
        Gaussian(2, 1, 500), GaussianData(20, 2, covariance=[[2.0, 0.6], [0.6, 1.0]], replicates=500), (), 5, 20
    ),
    "categories": Setting(Categorical(4, replicates=500), CategoricalData(20, replicates=500), (), 5, 20),
    "smoothed": Setting(Categorical(4, 0.5, 500), CategoricalData(20, replicates=500), (), 5, 20),
    "categories pooled": Setting(
        Categorical(4, replicates=500), CategoricalData(20, replicates=500), (DataAccumulation(),), 5, 20
    ),
    "categories subsampled": Setting(
        Categorical(4, replicates=500), CategoricalData(20, replicates=500), (DataAccumulation(fixed_size=True),), 5, 20
    ),
    "categories anchored": Setting(
        Categorical(4, replicates=500), CategoricalData(40, replicates=500), (AnchorReplay(0.25, "fresh"),), 5, 20
    ),
    "categories tossed": Setting(
        Categorical(4, replicates=500), CategoricalData(100, replicates=500), (AnchorReplay(0.25, "coin"),), 5, 20
    ),
    "regression": Setting(LinearRegression(3, replicates=500), RegressionData(20, 3, replicates=500), (), 5, 20),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_chains_obey_the_law_that_is_found_for_them(name):
    cell = compare(SETTINGS[name], curves=True)
    judged = [row for row in cell.rows if not math.isnan(row.z)]
    assert {row.name for row in judged} >= {cell.rows[0].name}
    assert max(abs(row.z) for row in judged if not row.heavy_tailed) < 4.5
    assert not any(row.misses for row in cell.rows)
    for row in judged:
        assert dict(cell.curves[row.name])[row.t] == row.predicted


def test_a_chain_that_is_not_what_the_law_thinks_is_told():
    setting = gaussian(generations=5)
    wrong = Setting(setting.model, GaussianData(20, replicates=500, std=2.2, mean=1.0), (), 5, 20)
    wrong.data.std = torch.tensor([2.0], dtype=torch.float64)  # what the law will be told, once gold is drawn
    wrong.data.gold()
    assert not any(row.misses for row in compare(wrong).rows)
    biased = GaussianData(20, replicates=500, std=2.2, mean=1.0)
    biased.gold()
    biased.std = torch.tensor([2.0], dtype=torch.float64)
    assert any(row.misses for row in compare(Setting(setting.model, biased, (), 5, 20)).rows)


def test_a_setting_without_a_law_is_measured_all_the_same():
    rows = compare(gaussian(SlidingWindow(2))).rows
    assert rows
    assert all(math.isnan(row.predicted) and math.isnan(row.z) and row.measured == row.measured for row in rows)


def test_one_chain_has_no_interval():
    rows = compare(Setting(Gaussian(), GaussianData(20), (), 2, 20)).rows
    assert all(math.isnan(row.z) and not row.misses for row in rows if row.name != "median var")
    assert {row.replicates for row in rows} == {1}


def test_a_model_without_theory_is_refused_by_name():
    setting = Setting(VAE((2,), 2, hidden=8, likelihood="gaussian"), RingOfGaussians(rows=64), (), 2, 64)
    with pytest.raises(ValueError, match=r"there is no theory for chains of VAE; there is for .*Gaussian"):
        compare(setting)


@pytest.mark.parametrize(("measured", "z", "misses"), [(1.0, 0.0, False), (1.3, 3.0, False), (1.5, 5.0, True)])
def test_the_distance_from_the_law_is_in_standard_errors(measured, z, misses):
    row = Comparison("q", 1, 1.0, measured, measured - 0.196, measured + 0.196, 100)
    assert row.z == pytest.approx(z)
    assert row.misses is misses
    assert not Comparison("q", 1, 1.0, 9.0, 8.9, 9.1, 100, heavy_tailed=True).misses


def test_the_interval_of_a_median_covers_it():
    quantity = Quantity("median", lambda fits, t: torch.zeros(1), median=True)
    source = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        _, low, high, _ = quantity.estimate(torch.rand(201, generator=source))
        covered += low <= 0.5 <= high
    assert 930 <= covered <= 975


def test_the_tail_that_spoils_an_interval_is_told():
    quantity = Quantity("mean", lambda fits, t: torch.zeros(1))
    normal = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not quantity.estimate(normal).heavy_tailed
    assert not quantity.estimate(normal.exp()).heavy_tailed  # kurtosis 111 in theory, less in a sample of this size
    assert quantity.estimate((3 * normal).exp()).heavy_tailed
    assert quantity.estimate(torch.eye(40)[0]).heavy_tailed
    assert not quantity.estimate(torch.ones(40)).heavy_tailed


def test_a_figure_holds_law_and_chain(tmp_path):
    cells = [("one", compare(gaussian(), curves=True)), ("other", compare(gaussian(DataAccumulation()), curves=True))]
    plot(cells, tmp_path / "laws.svg")
    text = (tmp_path / "laws.svg").read_text()
    assert len(re.findall(r'id="axes_\d+"', text)) == 5
    assert text.count("<!-- one -->") == text.count("<!-- other -->") == 1
