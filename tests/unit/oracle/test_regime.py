"""Which regime a setting is."""

import math

import pytest

from collapse.data import GaussianData
from collapse.mitigations import (
    AnchorReplay,
    DataAccumulation,
    RealOnly,
    Replace,
    SIGReg,
    SlidingWindow,
    WeightedLikelihood,
)
from collapse.models import Gaussian
from collapse.oracle import Setting, regime_of
from collapse.oracle.regime import (
    Accumulate,
    AccumulateFresh,
    Coin,
    Fraction,
    ReplaceRegime,
    Subsample,
    Weighted,
)


def setting(*mitigations, rows=100, samples=20, generations=3):
    return Setting(Gaussian(), GaussianData(rows), mitigations, generations, samples)


REGIMES = [
    ((), ReplaceRegime(20, 100)),
    ((Replace(),), ReplaceRegime(20, 100)),
    ((DataAccumulation(),), Accumulate(20, 100)),
    ((DataAccumulation(7, replacement=True),), Subsample(20, 100, 7, True)),
    ((DataAccumulation(fixed_size=True),), Subsample(20, 100, 20, False)),
    ((AnchorReplay(0.25),), Fraction(20, 100, 5, 15, 5)),
    ((AnchorReplay(0.25, "redrawn"),), Fraction(20, 100, 5, 15, 100)),
    ((AnchorReplay(0.25, "fresh"),), Fraction(20, 90, 5, 15, math.inf)),
    ((AnchorReplay(0.25, "coin"),), Coin(20, 60, 0.25)),
    ((AnchorReplay(0.25, "fresh"), DataAccumulation()), AccumulateFresh(20, 90, 5, 15)),
    ((DataAccumulation(), AnchorReplay(0.25, "fresh")), AccumulateFresh(20, 90, 5, 15)),
    ((AnchorReplay(0.5, "fresh"), WeightedLikelihood(0.6)), Weighted(20, 80, 10, 10, math.inf, 0.6)),
]


@pytest.mark.parametrize(("mitigations", "regime"), REGIMES)
def test_a_regime_is_recognized_with_its_numbers(mitigations, regime):
    assert regime_of(setting(*mitigations)) == regime


def test_the_control_is_a_fraction_of_one_when_it_sees_the_same_rows_again():
    assert regime_of(setting(RealOnly(), rows=20)) == Fraction(20, 20, 20, 0, 20)
    assert regime_of(setting(RealOnly())) is None


@pytest.mark.parametrize(
    "mitigations",
    [
        (SlidingWindow(2),),
        (SIGReg(0.1),),
        (DataAccumulation(), WeightedLikelihood(0.5)),
        (AnchorReplay(0.25), DataAccumulation()),
        (AnchorReplay(0.25), WeightedLikelihood(0.5)),
        (AnchorReplay(0.25, "fresh"), WeightedLikelihood(None)),
        (AnchorReplay(0.25, "fresh"), DataAccumulation(5)),
        (AnchorReplay(0.25, "coin"), DataAccumulation()),
    ],
    ids=repr,
)
def test_what_has_no_law_is_no_regime(mitigations):
    assert regime_of(setting(*mitigations)) is None
