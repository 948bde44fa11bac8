"""What would silently spoil a run is refused, and nothing that was trained is lost over it."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from collapse import (
    VAE,
    Gaussian,
    GaussianData,
    GenerationEarlyStopping,
    GenerationEvaluation,
    RingOfGaussians,
    SIGReg,
    TwoMoons,
    run_chain,
)
from collapse.callbacks.evaluation import IdentityFeatures
from collapse.config import ConfigError, load
from collapse.config import execute as execution
from collapse.data import lock
from collapse.data.manifest import Manifest
from collapse.data.store import GenerationStore, StoreError
from collapse.mitigations import MitigationStack
from collapse.recursion import Chain
from collapse.recursion.checks import check_module


def tiny():
    return VAE(shape=(2,), latent_dim=1, hidden=4, likelihood="gaussian")


def chain(store, *, module=None, data=None, **options):
    return run_chain(
        module or tiny(),
        data or RingOfGaussians(rows=32, batch_size=16),
        **{"generations": 2, "samples_per_generation": 16, "store": store, "evaluate": False, **options},
    )


@pytest.mark.parametrize("flag", [{"limit_train_batches": 1}, {"overfit_batches": 1}], ids=str)
def test_rows_recorded_are_rows_trained_on(tmp_path, flag):
    with pytest.raises(MisconfigurationException, match=f"{next(iter(flag))}=1"):
        chain(tmp_path, **flag)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gradient_clip_val": 0.5}, "gradient_clip_val"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches"),
        ({"callbacks": [GenerationEarlyStopping()]}, "early_stopping"),
    ],
)
def test_a_run_is_not_taken_up_with_other_settings(tmp_path, options, name):
    chain(tmp_path)
    with pytest.raises(StoreError, match=f"holds another run: its {name} is"):
        chain(tmp_path, **options)


def test_a_lost_manifest_is_noticed(tmp_path):
    chain(tmp_path)
    manifest = tmp_path / "generations" / "gen_001" / "manifest.json"
    manifest.unlink()
    with pytest.raises(StoreError, match=r"gen_001.manifest\.json is missing"):
        chain(tmp_path)


def test_a_manifest_of_another_pool_is_noticed(tmp_path):
    chain(tmp_path / "a")
    chain(tmp_path / "b", seed=1)
    folder = "generations/gen_001"
    (tmp_path / "a" / folder / "manifest.json").write_bytes((tmp_path / "b" / folder / "manifest.json").read_bytes())
    with pytest.raises(StoreError, match=r"gen_001.manifest\.json has other bytes than journal"):
        chain(tmp_path / "a")


def test_a_folder_in_use_is_left_alone(tmp_path, monkeypatch):
    chain(tmp_path)
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    holder = lock.RunLock(tmp_path)
    holder.acquire()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(lock.LockedError, match=rf"is in use by process {os.getpid()} on .*; wait until it ends"):
        chain(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    holder.release()
    assert len(chain(tmp_path).records) > 0


def test_there_is_no_chain_where_there_is_none(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Chain.load(tmp_path)


def test_a_manifest_names_files_of_its_own_folder(tmp_path):
    manifest = GenerationStore(tmp_path).write_gold(RingOfGaussians(rows=4).gold(), facts={}).to_dict()
    manifest["files"][0][0] = "../../../secret.npy"
    with pytest.raises(ValueError, match="is no file name"):
        Manifest.from_dict(manifest)


def test_an_estimator_is_not_fitted_on_a_part_of_the_rows():
    check_module(Gaussian(dim=2), MitigationStack(), processes=1)
    with pytest.raises(TypeError, match=r"Gaussian is fitted by one process, and the Trainer has 2; give"):
        check_module(Gaussian(dim=2), MitigationStack(), processes=2)


def test_one_callback_needs_no_list(tmp_path):
    class Counter(pl.Callback):
        epochs: ClassVar[list[int]] = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.epochs.append(trainer.current_epoch)

    chain(tmp_path, callbacks=Counter())
    assert Counter.epochs == [0, 1]


def test_an_evaluation_forgets_the_data_of_another_chain(tmp_path):
    reused, fresh = GenerationEvaluation(), GenerationEvaluation()
    chain(tmp_path / "ring", callbacks=[reused])
    moons = {"data": TwoMoons(rows=32, batch_size=16), "generations": 1}
    again = chain(tmp_path / "again", callbacks=[reused], **moons)
    first = chain(tmp_path / "first", callbacks=[fresh], **moons)
    assert again.records == first.records
    extractor = IdentityFeatures((2,))
    given = GenerationEvaluation(extractor)
    chain(tmp_path / "given", callbacks=[given], **moons)
    assert given.extractor is extractor


def test_penalties_of_one_class_are_logged_apart(tmp_path):
    names = chain(tmp_path, mitigations=[SIGReg(0.1), SIGReg(0.2, slices=8)], generations=1).records[0].metrics
    assert {name for name in names if name.startswith("train/sigreg")} == {"train/sigreg_0", "train/sigreg_1"}


class Late(pl.Callback):
    """Fails in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ValueError("late")


@pytest.fixture
def settings(tmp_path):
    small = ["data=ring", "data.rows=32", "model.hidden=4", "model.latent_dim=1", "generations=1"]
    quiet = ["epochs_per_generation=3", "wandb.enabled=false", "evaluation.enabled=false"]
    return [*small, *quiet, f"out={tmp_path / 'run'}"]


def test_what_was_trained_survives_a_late_error(tmp_path, settings, monkeypatch):
    before = execution._callbacks
    monkeypatch.setattr(execution, "_callbacks", lambda loaded: [*before(loaded), Late()])
    with pytest.raises(ValueError, match="late") as caught:
        execution.run(load(None, settings))
    assert not isinstance(caught.value, ConfigError)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))) == 1
    monkeypatch.undo()
    assert len(execution.run(load(None, settings)).records) == 1  # it goes on from there


def test_a_folder_that_was_there_before_stays(tmp_path, settings):
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="leaves none for generation 0"):
        execution.run(
            load(None, [*settings, "generations=9", "mitigations=[{AnchorReplay:{fraction:0.9,rows:fresh}}]"])
        )
    assert list((tmp_path / "run").iterdir()) == []


def test_where_files_lie_does_not_make_another_run(settings):
    here = load(None, [*settings, "data.num_workers=0"])
    there = load(None, [*settings, "data.num_workers=3"])
    assert here.digest == there.digest
    assert here.essence == there.essence
    assert here.digest != load(None, [*settings, "data.rows=33"]).digest


def test_predicting_draws_other_rows_in_every_batch():
    data = GaussianData(rows=20, batch_size=10)
    model = Gaussian()
    run_chain(model, data, generations=1, samples_per_generation=4, evaluate=False)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    loader = DataLoader(list(data.train_dataloader()), batch_size=None)
    first, again = (trainer.predict(model, loader) for _ in range(2))
    assert [len(rows) for rows in first] == [10, 10]
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
