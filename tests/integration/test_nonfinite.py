"""A loss that is no number stops the chain where it is, names the rows, and leaves the run folder as it was."""

import hashlib

import pytest
import torch

from collapse import VAE, DataAccumulation, RingOfGaussians, StepCheckpoint, run_chain
from collapse.data import GenerationStore
from collapse.recursion import newest_checkpoint, nonfinite
from collapse.recursion.nonfinite import NonFiniteLossError
from collapse.recursion.verification import faults


class Fragile(VAE):
    """Its loss is no number in one batch of the chain."""

    where = (1, 1, 3)
    value = torch.nan
    rows: tuple[int, ...] = ()

    def outputs(self, batch):
        outputs = super().outputs(batch)
        if (self.clock.generation, self.clock.epoch, self.clock.batch) == self.where:
            Fragile.rows = tuple(batch.row.tolist())
            outputs["loss"] = outputs["loss"] * self.value
        return outputs


def chain(root, **settings):
    return run_chain(
        Fragile((2,), 2, hidden=8, likelihood="gaussian"),
        RingOfGaussians(rows=60, reference_rows=8, batch_size=10),
        generations=3,
        samples_per_generation=60,
        epochs_per_generation=2,
        mitigations=[DataAccumulation()],
        callbacks=[StepCheckpoint(root, 2)],
        store=root,
        evaluate=False,
        **settings,
    )


def content(root):
    return {
        path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def patience(monkeypatch):
    return lambda steps: monkeypatch.setitem(nonfinite.PATIENCE, "cpu", steps)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [1, 5, 64])
def test_the_batch_is_named_and_nothing_came_of_it(tmp_path, patience, monkeypatch, value, steps):
    """Looked at once, or, as on a device, only with later ones, in front of a checkpoint at the latest."""
    patience(steps)
    monkeypatch.setattr(Fragile, "value", value)
    with pytest.raises(NonFiniteLossError) as caught:
        chain(tmp_path)
    sentence = str(caught.value)
    assert "the loss of batch 3 in epoch 1 of generation 1 is" in sentence
    named = sentence.split("its rows ")[1].split(";")[0]
    assert named == f"{', '.join(map(str, Fragile.rows[:8]))} and {len(Fragile.rows) - 8} more"
    saved = torch.load(newest_checkpoint(tmp_path), weights_only=True)
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
    assert saved["global_step"] == 12 + 12 + 2  # before the fourth batch of the second epoch
    assert len(GenerationStore(tmp_path)) == 2
    assert list(faults(GenerationStore(tmp_path))) == []


def test_the_same_command_says_the_same_and_a_cured_run_goes_on(tmp_path, monkeypatch):
    with pytest.raises(NonFiniteLossError) as first:
        chain(tmp_path / "run")
    before = {name: digest for name, digest in content(tmp_path / "run").items() if name.name != "lock"}
    with pytest.raises(NonFiniteLossError) as second:
        chain(tmp_path / "run")
    assert str(first.value) == str(second.value)
    assert {name: digest for name, digest in content(tmp_path / "run").items() if name.name != "lock"} == before
    monkeypatch.setattr(Fragile, "where", None)
    cured, healthy = chain(tmp_path / "run"), chain(tmp_path / "healthy")
    assert [record.digests for record in cured.records] == [record.digests for record in healthy.records]
