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
    GaussianMixtureData,
    Histogram,
    MarkovData,
    RingOfGaussians,
)
from collapse.data import TextFile
from collapse.models import GPT
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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": 4}, "prompt = 4, but MarkovData has no text to begin with"),
        ({"document_start": True}, "document_start = True, but MarkovData has no documents"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_samples_are_conditioned_on_is_there_before_anything_is_trained(settings, sentence):
    model = GPT(2, 16, layers=1, heads=1, width=8, **settings)
    with pytest.raises(ValueError, match=sentence):
        rehearse(model, MarkovData(rows=8), generations=2, samples=8)


def test_a_prompt_longer_than_the_held_out_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    data = TextFile(tmp_path / "a.txt", 8)
    rehearse(GPT(257, 8, layers=1, heads=1, width=8, prompt=11), data, generations=2, samples=8)
    with pytest.raises(ValueError, match="held-out text has 11 tokens, fewer than one row of 12"):
        rehearse(GPT(257, 8, layers=1, heads=1, width=8, prompt=12), data, generations=2, samples=8)
    with pytest.raises(ValueError, match="vocabulary = 130, but the rows of TextFile have 257 tokens"):
        rehearse(GPT(130, 8, layers=1, heads=1, width=8), data, generations=2, samples=8)


def test_a_law_of_labels_is_that_of_golds_mixture():
    class Asks(VAE):
        def conditions(self, data):
            seen.append(super().conditions(data).probabilities.tolist())

    seen = []
    data = GaussianMixtureData([0.5, 0.5], [[-4.0], [4.0]], rows=64)
    rehearse(Asks((1,), 1, hidden=4, likelihood="gaussian", classes=2), data, generations=2, samples=8)
    share = float(torch.as_tensor(data.gold().y).double().mean())
    assert seen == [pytest.approx([1 - share, share])]
