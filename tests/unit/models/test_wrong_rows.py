"""A model of real numbers on tokens, or on images of another size, ends in a sentence before a step is made."""

import pytest
import pytorch_lightning as pl

from collapse import Diffusion, Digits, MarkovData, run_chain
from collapse.cli import main
from collapse.models import VAE

CASES = {
    "vae tokens": (
        VAE((16,), 2, hidden=4, likelihood="gaussian"),
        MarkovData(rows=32, length=16, batch_size=16),
        r"^VAE takes no rows of shape \(16,\) and type torch.int32, as it models real numbers",
    ),
    "diffusion tokens": (
        Diffusion((16,), network="mlp", hidden=4),
        MarkovData(rows=32, length=16, batch_size=16),
        r"^Diffusion takes no rows of shape \(16,\) and type torch.int32, as it models real numbers",
    ),
    "vae images": (
        VAE((1, 16, 16), 2, hidden=8, network="conv"),
        Digits(),
        r"^VAE takes no rows of shape \(1, 8, 8\), as it was made for shape = \(1, 16, 16\)",
    ),
    "diffusion images": (
        Diffusion((3, 8, 8), width=8, multipliers=(1,), blocks=(1,)),
        Digits(),
        r"^Diffusion takes no rows of shape \(1, 8, 8\), as it was made for shape = \(3, 8, 8\)",
    ),
}


class Steps(pl.Callback):
    """Counts them."""

    made = 0

    def on_before_zero_grad(self, *unused):
        self.made += 1


@pytest.mark.parametrize(("model", "data", "sentence"), CASES.values(), ids=list(CASES))
def test_a_chain_stops_before_its_first_step(model, data, sentence):
    steps = Steps()
    with pytest.raises(ValueError, match=sentence):
        run_chain(model, data, generations=1, samples_per_generation=8, evaluate=False, callbacks=[steps])
    assert steps.made == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model=vae", "data=markov"], "VAE takes no rows of shape (16,) and type torch.int32"),
        (
            ["model=diffusion", "model.network=mlp", "data=markov"],
            "Diffusion takes no rows of shape (16,) and type torch.int32",
        ),
        (["model=vae", "model.shape=[1,8,9]"], "VAE takes no rows of shape (1, 8, 8), as it was made for shape"),
        (["model=diffusion", "model.shape=[3,8,8]"], "Diffusion takes no rows of shape (1, 8, 8), as it was made for"),
    ],
    ids=list(CASES),
)
def test_the_command_line_ends_with_two_and_leaves_nothing(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments, "wandb.enabled=false"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"collapse: {sentence}")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
