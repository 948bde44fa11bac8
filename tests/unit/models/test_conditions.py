"""The laws that conditions are drawn from: against counts, against brute force, and at their edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from collapse.models.conditions import LabelLaw, Prompts, check_classes, one_hot
from collapse.seeding import generator

SIGMAS, P_VALUE = 4.5, 1e-5
LAWS = [[1.0], [0.25, 0.75], [0, 3, 0, 1, 0], [0.1] * 10, [1e-9, 1.0, 1e-9]]


@pytest.mark.parametrize("weights", LAWS, ids=str)
def test_labels_follow_their_law(weights):
    n = 20_000
    labels = LabelLaw(weights).draw(n, generator(1))
    assert labels.dtype == torch.int64
    p = np.array(weights) / np.sum(weights)
    counts = np.bincount(labels, minlength=len(p))
    assert len(counts) == len(p)
    assert (abs(counts - n * p) <= SIGMAS * np.sqrt(n * p * (1 - p))).all()


@pytest.mark.parametrize("weights", LAWS, ids=str)
def test_a_label_is_the_first_whose_cumulative_probability_is_above(weights):
    law = LabelLaw(weights)
    uniform = torch.rand(500, dtype=torch.float64, generator=generator(2)).tolist()
    edges = np.cumsum(law.probabilities.numpy())
    expected = [next(k for k, edge in enumerate(edges) if edge > u) for u in uniform]
    assert law.draw(500, generator(2)).tolist() == expected


@pytest.mark.parametrize(
    ("uniform", "label"), [(0.0, 1), (0.75 - 2**-53, 1), (0.75, 3), (1 - 2**-53, 3)], ids=["0", "below", "at", "1-"]
)
def test_a_class_without_probability_is_never_drawn(monkeypatch, uniform, label):
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), uniform, dtype=torch.float64))
    assert LabelLaw([0, 3, 0, 1, 0]).draw(2, generator(0)).tolist() == [label, label]


def test_the_last_class_takes_what_rounding_leaves(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), 1 - 2**-53, dtype=torch.float64))
    assert float(torch.full((10,), 0.1, dtype=torch.float64).cumsum(0)[-1]) < 1
    assert LabelLaw([0.1] * 10).draw(1, generator(0)).tolist() == [9]


@pytest.mark.parametrize(
    "weights", [[], [0.0, 0.0], [0.5, -0.1], [float("nan"), 1.0], [float("inf"), 1.0], [[0.5, 0.5]]], ids=str
)
def test_what_is_no_law_is_a_sentence(weights):
    with pytest.raises(ValueError, match="must be one number per class, finite, at least 0 and not all 0"):
        LabelLaw(weights)


def test_the_law_of_a_training_set_is_among_its_facts():
    assert LabelLaw.of({"rows": 9, "label_law": [0.5, 0.25, 0.25]}).probabilities.tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match=r"no row of the training set has a label.*leave the model's classes out"):
        LabelLaw.of({"rows": 9})


def test_prompts_are_drawn_uniformly_and_can_be_named_again():
    tokens = torch.arange(35, dtype=torch.int32).view(7, 5)
    prompts = Prompts(tokens)
    drawn, places = prompts.draw(14_000, generator(3)), prompts.places(14_000, generator(3))
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, tokens.long()[places])
    assert chisquare(np.bincount(places, minlength=7)).pvalue > P_VALUE
    assert repr(prompts) == "Prompts(7 of 5 tokens)"


@pytest.mark.parametrize("shape", [(0, 3), (5,)], ids=str)
def test_prompts_are_a_table_of_at_least_one(shape):
    with pytest.raises(ValueError, match=r"are no \(M, p\) table of at least one prompt"):
        Prompts(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_unit_vectors_are_those_of_torch_and_no_label_is_zero(dtype):
    y = torch.tensor([3, 0, -1, 2, -1])
    expected = F.one_hot(y + 1, 5)[:, 1:].to(dtype)
    found = one_hot(y, 4, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert found.sum(1).tolist() == [1, 1, 0, 1, 0]


@pytest.mark.parametrize(("y", "classes"), [([0, 2, -1], 3), ([], 3), ([-1], 1), ([7], None), (None, 3)], ids=str)
def test_labels_of_the_classes_pass(y, classes):
    assert check_classes(None if y is None else torch.tensor(y, dtype=torch.int64), classes) is None


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (torch.tensor([0, 3]), "labels from 0 to 3, and a model with classes = 3 knows 0 to 2"),
        (torch.tensor([1, -2]), "labels from -2 to 1, and a model with classes = 3 knows 0 to 2"),
        (torch.tensor([0.0, 1.0]), r"y of shape \(2,\) and type torch.float32 holds no labels"),
        (torch.tensor([[0], [1]]), r"y of shape \(2, 1\) and type torch.int64 holds no labels"),
    ],
    ids=["above", "below", "floats", "column"],
)
def test_other_labels_do_not(y, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_classes(y, 3)
