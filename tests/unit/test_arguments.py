"""Objects that remember how they were made."""

import copy
import pickle

import pytest
from torch import nn

from collapse.arguments import Remembers
from collapse.data import RingOfGaussians
from collapse.mitigations import AnchorReplay
from collapse.models import VAE


class Point(Remembers):
    incidental = frozenset({"note"})

    def __init__(self, x, y=0.0, *, name="p", note=None) -> None:
        self.total = x + y


class Deaf(Remembers):
    """Neither calls ``super().__init__`` nor keeps its arguments."""

    def __init__(self, size=3) -> None:
        pass


class Named(Point):
    """Has no constructor of its own."""


def test_arguments_are_bound_by_name_with_their_defaults():
    assert Point(1).arguments == {"x": 1, "y": 0.0, "name": "p", "note": None}
    assert Point(1, 2, name="q").arguments == {"x": 1, "y": 2, "name": "q", "note": None}
    assert Point(x=1, y=2).arguments == Point(1, 2).arguments
    assert Deaf(5).arguments == {"size": 5}


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Point(1), "Point(x=1)"),
        (Point(1, 0.0), "Point(x=1)"),
        (Point(1, y=2.5, name="q"), "Point(x=1, y=2.5, name='q')"),
        (Point(1, note="aside"), "Point(x=1)"),
        (Named(3), "Named(x=3)"),
        (Deaf(), "Deaf()"),
        (AnchorReplay(0.1, "fresh"), "AnchorReplay(fraction=0.1, rows='fresh')"),
        (RingOfGaussians(4, num_workers=3), "RingOfGaussians(modes=4)"),
    ],
)
def test_a_description_leaves_out_defaults_and_incidentals(made, text):
    assert made.describe() == text
    assert eval(text).describe() == text


def test_a_twin_is_another_object_from_the_same_arguments():
    point = Point(1, 2)
    point.total = 99
    twin = point.twin()
    assert twin is not point
    assert (type(twin), twin.total, twin.arguments) == (Point, 3, point.arguments)


def test_a_twin_of_a_network_has_parameters_of_its_own():
    model = VAE((2,), 2, hidden=4, likelihood="gaussian")
    twin = model.twin()
    assert twin.describe() == model.describe() == "VAE(shape=(2,), latent_dim=2, hidden=4, likelihood='gaussian')"
    assert {id(weight) for weight in twin.parameters()}.isdisjoint(map(id, model.parameters()))
    assert [weight.shape for weight in twin.parameters()] == [weight.shape for weight in model.parameters()]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_remember_as_well(duplicate):
    assert duplicate(AnchorReplay(0.1, rows="redrawn")) == AnchorReplay(0.1, rows="redrawn")
    assert duplicate(VAE((2,), 2, hidden=4)).arguments == VAE((2,), 2, hidden=4).arguments


def test_it_works_beside_nn_module_whatever_the_constructor_does_first():
    class Odd(Remembers, nn.Module):
        def __init__(self, width) -> None:
            super().__init__()
            self.net = nn.Linear(width, width)

    assert Odd(3).twin().net.in_features == 3
    assert "_arguments" not in dict(Odd(3).named_parameters())
