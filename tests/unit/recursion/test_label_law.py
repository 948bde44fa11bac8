"""The label law of a mixture: by hand, and as the frequencies of very many draws."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from collapse.data import Mixture, Origin
from collapse.recursion.composition import label_facts
from collapse.seeding import generator

LABELS = torch.tensor([0, 1, 1, -1, 2, 0, -1, 2])  # four real rows, then four synthetic ones
WEIGHTS = [1.0, 2.0, 1.0, 4.0, 3.0, 0.5, 9.0, 0.0]


def mixture(weights=WEIGHTS, size=8, **settings):
    weights = torch.tensor(weights, dtype=torch.float64)
    origin = torch.tensor([int(Origin.REAL)] * 4 + [int(Origin.SYNTHETIC)] * 4, dtype=torch.uint8)
    return Mixture(weights, size, origin, torch.zeros(8, dtype=torch.int64), **settings)


CASES = {
    "plain": (mixture(), [1.5, 3.0, 3.0]),
    "uniform": (mixture([1.0] * 8), [2, 2, 2]),
    "real": (mixture().where(torch.arange(8) < 4), [1, 3, 0]),
    # Six rows of eight are real: those have the mass 0.75 w / 8, synthetic ones 0.25 w / 12.5.
    "share": (mixture().with_real_fraction(0.75), [0.09375 + 0.01, 0.28125, 0.06]),
    "coins": (mixture().with_real_fraction(0.75, coins=True), [0.09375 + 0.01, 0.28125, 0.06]),
    # Row 7 has weight 0 and two places of ten for certain; the others share eight.
    "guaranteed": (
        mixture(size=10).guaranteeing(torch.tensor([0, 0, 0, 0, 0, 0, 0, 2])),
        [8 * 1.5 / 20.5, 8 * 3 / 20.5, 8 * 3 / 20.5 + 2],
    ),
}


@pytest.mark.parametrize(("measure", "masses"), CASES.values(), ids=list(CASES))
def test_the_law_is_the_share_of_mass_among_labeled_rows(measure, masses):
    law = label_facts(LABELS, measure, 3)["label_law"]
    assert law == pytest.approx((np.array(masses) / np.sum(masses)).tolist(), rel=1e-12)
    assert sum(law) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("measure", [case[0] for case in CASES.values()], ids=list(CASES))
def test_labels_are_drawn_as_often_as_the_law_says(measure):
    rows = torch.cat([measure.draw(generator(1, index)) for index in range(1000)])
    drawn = LABELS[rows]
    counts = drawn[drawn >= 0].bincount(minlength=3).double().numpy()
    law = np.array(label_facts(LABELS, measure, 3)["label_law"])
    assert (counts[law == 0] == 0).all()
    # Draws of a mixture without replacement scatter less than independent ones, so that this bounds the p-value.
    assert chisquare(counts[law > 0], counts.sum() * law[law > 0]).pvalue > 1e-4


def test_a_law_has_one_probability_for_every_class_of_the_data():
    assert label_facts(LABELS, mixture([1.0] * 8), 5) == {"label_law": [1 / 3, 1 / 3, 1 / 3, 0, 0]}


@pytest.mark.parametrize(
    ("labels", "measure", "classes"),
    [(None, mixture(), 3), (LABELS, mixture(), None), (LABELS, mixture().where(LABELS == -1), 3)],
    ids=["no labels", "no classes", "none labeled in the mixture"],
)
def test_there_is_no_law_without_labels(labels, measure, classes):
    assert label_facts(labels, measure, classes) == {}
