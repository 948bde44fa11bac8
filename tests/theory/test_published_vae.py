"""T10: the convolutional VAE of Shumailov et al. on MNIST against the numbers of its authors' notebook.

Needs MNIST's four files: COLLAPSE_MNIST names the folder that holds MNIST/raw.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from collapse.config import load
from collapse.config.build import build_data, build_model
from collapse.config.execute import run
from collapse.recursion import run_chain

ROOT = os.environ.get("COLLAPSE_MNIST")
SPREAD = Path(__file__).parents[2] / "scripts/latent_spread.py"
LOSSES = {1: (42_214, 0.06), 5: (26_970, 0.02)}  # epoch: mean loss of a batch in nats, relative tolerance

needs_mnist = pytest.mark.skipif(ROOT is None, reason="set COLLAPSE_MNIST to the folder that holds MNIST/raw")


class BatchLosses(pl.Callback):
    """Keeps the mean over an epoch's batches of the loss summed over a batch, as the notebook prints it."""

    def __init__(self):
        self.of_epoch = []

    def on_train_epoch_start(self, trainer, module):
        self.sums = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.sums.append(outputs["loss"].detach() * len(batch.x))

    def on_train_epoch_end(self, trainer, module):
        self.of_epoch.append(float(torch.stack(self.sums).mean()))


def test_the_preset_has_the_published_number_of_parameters():
    config = load(None, ["model=vae/nature", "model.shape=[1,28,28]"]).config
    model = build_model(config, build_data(config))
    assert sum(parameter.numel() for parameter in model.parameters()) == 647_081
    assert (model.learning_rate, model.weight_decay, model.sampler_settings) == (1e-3, 1e-5, {"harvest": "mean"})


@needs_mnist
@pytest.mark.slow
def test_generation_0_learns_at_the_published_pace():
    config = load("shumailov2024_vae", [f"data.root={ROOT}"]).config
    data, losses = build_data(config), BatchLosses()
    run_chain(
        build_model(config, data),
        data,
        generations=1,
        epochs_per_generation=5,
        samples_per_generation=1,
        evaluate=False,
        callbacks=[losses],
        accelerator="cpu",
    )
    for epoch, (published, tolerance) in LOSSES.items():
        assert losses.of_epoch[epoch - 1] == pytest.approx(published, rel=tolerance), epoch


@needs_mnist
@pytest.mark.slow
def test_freshly_decoded_generations_narrow(tmp_path):
    """Two thirds of the experiment's steps: five generations, each trained on rows that it sees once."""
    overrides = ["steps_per_generation=470", "samples_per_generation=120320", "evaluation.enabled=false"]
    places = [f"data.root={ROOT}", f"out={tmp_path / 'run'}", "wandb.enabled=false", "trainer.accelerator=cpu"]
    chain = run(load("shumailov2024_vae", [*overrides, *places]))
    assert [record.counts["steps"] for record in chain.records] == [470] * 6
    assert [record.real_fraction for record in chain.records] == [1, 0, 0, 0, 0, 0]
    printed = subprocess.run([sys.executable, SPREAD, chain.root], check=True, capture_output=True, text=True).stdout
    spreads = [float(line.split()[4]) for line in printed.splitlines() if line.startswith("sampled")]
    assert len(spreads) == 6
    for before, after in itertools.pairwise(spreads):
        assert after <= 0.95 * before
