"""What does not go together is found without training, and what does is left as it was."""

import pytest
import torch

from collapse import (
    KDE,
    VAE,
    AnchorReplay,
    Categorical,
    CategoricalData,
    DataAccumulation,
    Gaussian,
    GaussianData,
    Histogram,
    RingOfGaussians,
)
from collapse.recursion.rehearsal import rehearse

RING = RingOfGaussians(rows=32)


def tiny(shape=(2,)):
    return VAE(shape=shape, latent_dim=1, hidden=4, likelihood="gaussian")


@pytest.mark.parametrize(
    ("module", "data", "mitigations"),
    [
        (tiny(), RING, []),
        (KDE(dim=2), RING, [DataAccumulation()]),
        (Gaussian(), GaussianData(rows=32), [AnchorReplay(0.5, "fresh")]),
        (Gaussian(replicates=3), GaussianData(rows=32, replicates=3), [AnchorReplay(0.5, "coin")]),
        (Categorical(4), CategoricalData(rows=32), []),
    ],
)
def test_what_goes_together_is_left_as_it_was(module, data, mitigations):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    rehearse(module, data, mitigations, generations=2, samples=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: torch.equal(value, before[name]) for name, value in module.state_dict().items()} == dict.fromkeys(
        before, True
    )


@pytest.mark.parametrize(
    ("module", "data", "mitigations", "sentence"),
    [
        (tiny((3,)), RING, [], r"VAE takes no rows of shape \(2,\)"),
        (Gaussian(), RING, [], r"cannot take up rows of shape \(2,\); it takes rows of shape \(1,\)"),
        (Gaussian(), GaussianData(rows=8, replicates=2), [], "cannot take up rows of shape"),
        (Categorical(3), CategoricalData(rows=99), [], r"takes integers in \[0, 3\), got 3"),
        (Histogram(0.0, 1.0), GaussianData(rows=99), [], "widen low and high"),
        (Gaussian(), GaussianData(rows=9, mean=1e308, std=1e308), [], "gold set holds NaN or infinite values"),
        (tiny(), RING, [AnchorReplay(1.0, "fresh")], "leaves none for generation 0"),
        (
            tiny(),
            RingOfGaussians(rows=99),
            [DataAccumulation(), AnchorReplay(0.5, "coin")],
            "throws 8 coins",
        ),  # generation 1's fault
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_is_a_sentence(module, data, mitigations, sentence):
    with pytest.raises(ValueError, match=sentence):
        rehearse(module, data, mitigations, generations=5, samples=8)


def test_a_loss_is_one_number_per_row():
    class Summed(VAE):
        def outputs(self, batch):
            return {"loss": super().outputs(batch)["loss"].sum()}

    with pytest.raises(ValueError, match=r"Summed returns a loss of shape \(\) for 2 rows of shape \(2,\)"):
        rehearse(Summed(shape=(2,), latent_dim=1, hidden=4, likelihood="gaussian"), RING, generations=1, samples=8)
