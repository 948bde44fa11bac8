"""Corruptions by somebody who knows how: odd manifests, digests renewed, strangers where crashes leave files."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_verify import refuses_to_train, sound, train  # noqa: F401

from collapse import VAE, Admit, RingOfGaussians, run_chain
from collapse.data import GenerationStore, Origin, Samples
from collapse.data.files import file_digest
from collapse.data.module import RecursiveDataModule
from collapse.data.store import StoreError
from collapse.recursion import newest_checkpoint
from collapse.recursion.verification import faults


@pytest.fixture
def root(sound, tmp_path):  # noqa: F811
    shutil.copytree(sound, tmp_path / "run")
    for path in (tmp_path / "run").rglob("chunk_*"):
        path.chmod(0o644)
    return tmp_path / "run"


def found(root):
    return list(faults(GenerationStore(root)))


def announce(root, *paths):
    """Let the journal say of files what they hold, as a forger would."""
    GenerationStore(root).journal.announce({path.relative_to(root).as_posix(): file_digest(path) for path in paths})


def reseal(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    content.pop("digest")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "digest": digest}, indent=1, sort_keys=True))


def manifest_of(root, generation):
    return root / "generations" / f"gen_{generation:03d}" / "manifest.json"


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_the_chain_tells_of_a_manifest_that_everything_else_vouches_for(root, generation):
    path = manifest_of(root, generation)
    reseal(path, facts={**json.loads(path.read_text())["facts"], "seed": 6})
    announce(root, path)
    (fault,) = found(root)
    assert fault.startswith(f"{manifest_of(root, generation + 1)} does not follow from the manifest before it")
    assert refuses_to_train(root)


def test_the_chain_tells_of_another_config(root):
    path = root / "run.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    announce(root, path)
    assert [f"{manifest_of(root, index)} belongs to another run than run.json" in fault
            for index, fault in enumerate(found(root), 1)] == [True] * 3  # fmt: skip


def test_weights_and_training_sets_are_those_that_the_manifests_name(root):
    weights, training = root / "weights" / "gen_001.pt", root / "training" / "gen_001.npy"
    shutil.copy(root / "weights" / "gen_002.pt", weights)
    np.save(training, np.load(training)[::-1])
    announce(root, weights, training)
    faulty = found(root)
    assert len(faulty) == 2
    assert str(training) in faulty[0]
    assert str(weights) in faulty[1]


FORGED = [
    ("files", lambda m: m["files"][:-1]),
    ("files", lambda m: m["files"][:1]),
    ("files", lambda m: m["files"] + m["files"][:1]),
    ("files", lambda m: []),
    ("files", lambda m: [[n, r, 7] for n, r, _ in m["files"]]),
    ("files", lambda m: [[n, r + 1, d] for n, r, d in m["files"]]),
    ("facts", lambda m: "none"),
    ("facts", lambda m: {**m["facts"], "model": 3}),
    ("facts", lambda m: {}),
    ("generation", lambda m: 7),
    ("generation", lambda m: "one"),
    ("generation", lambda m: -1),
    ("generation", lambda m: None),
    ("rows", lambda m: "many"),
    ("tools", lambda m: None),
    ("config", lambda m: 3),
    ("parent", lambda m: None),
]


@pytest.mark.parametrize("number", range(len(FORGED)))
@pytest.mark.parametrize("generation", [0, 1, 3])
def test_a_forged_manifest_of_any_shape_is_a_fault_and_no_traceback(root, number, generation):
    name, change = FORGED[number]
    path = manifest_of(root, generation)
    reseal(path, **{name: change(json.loads(path.read_text()))})
    assert any(str(path.parent) in fault for fault in found(root))


@pytest.mark.parametrize("destroy", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_a_run_of_which_journal_and_manifests_are_gone_is_no_sound_run(root, destroy):
    (root / "journal.jsonl").unlink()
    for path in root.glob("generations/*/manifest.json"):
        destroy(path)
    assert found(root) == [
        f"{root / 'journal.jsonl'} is missing: it says what the folder may hold; restore it from a backup"
    ]


def test_a_journal_cut_before_a_files_first_line(root):
    journal = root / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if "metrics.jsonl" in line)
    journal.write_text("".join(lines[:first]))
    assert any(str(root / "metrics.jsonl") in fault for fault in found(root))


def test_a_stranger_in_a_temporary_name(root):
    newest = newest_checkpoint(root)
    stranger = newest.with_name("zzz.tmp.ckpt")
    content = torch.load(newest, weights_only=True)
    content["global_step"] += 1
    torch.save(content, stranger)
    assert [str(stranger) in fault for fault in found(root)] == [True]
    assert refuses_to_train(root)


@pytest.mark.parametrize("where", ["generations/held/evil.npy", "generations/gen_004/evil.npy", "generations/evil"])
def test_a_stranger_where_a_crash_may_leave_files(root, where):
    (root / where).parent.mkdir(exist_ok=True)
    (root / where).write_bytes(b"x")
    assert [str(root / where) in fault for fault in found(root)] == [True]


def test_what_file_systems_and_callbacks_leave_is_no_fault(root):
    (root / "checkpoints" / ".nfs0000000001").write_bytes(b"x")
    (root / "checkpoints" / "last.ckpt").symlink_to(newest_checkpoint(root).name)
    (root / "generations" / "gen_²").mkdir()
    assert found(root) == []


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_copy_elsewhere_goes_on(root, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.copytree(root, moved)
    assert found(moved) == []
    train(moved)
    assert found(moved) == []


class Undeclared(RecursiveDataModule):
    """Sixty-four real rows, and half as many of which nobody knows."""

    def gold(self):
        return Samples(np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))

    def reference(self):
        return Samples(np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32))

    def held(self):
        return {Origin.UNKNOWN: Samples(np.random.default_rng(2).normal(size=(32, 2)).astype(np.float32))}


def test_held_rows_that_change_under_a_run_are_refused(tmp_path):
    class Change(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            path = tmp_path / "run/generations/held/chunk_00000.npy"
            path.chmod(0o644)
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)

    with pytest.raises(StoreError, match=r"held/chunk_00000\.npy has other bytes"):
        run_chain(
            VAE((2,), 2, hidden=8, likelihood="gaussian"),
            Undeclared(batch_size=16),
            generations=2,
            samples_per_generation=32,
            store=tmp_path / "run",
            mitigations=[Admit()],
            callbacks=[Change()],
            evaluate=False,
        )


def test_a_harvest_whose_model_is_another_is_refused(tmp_path, monkeypatch):
    """Machines that do not reproduce each other's weights meet here."""

    def train(**settings):
        data = RingOfGaussians(rows=64, reference_rows=16, batch_size=16)
        module = VAE((2,), 2, hidden=8, likelihood="gaussian")
        return run_chain(module, data, generations=2, samples_per_generation=32, store=tmp_path / "run", **settings)

    class Stop(pl.Callback):
        def on_save_checkpoint(self, trainer, module, checkpoint):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        train(callbacks=[Stop()])
    assert len(GenerationStore(tmp_path / "run")) == 2
    monkeypatch.setattr("torch.optim.Adam.step", lambda self, closure=None: closure() and None)
    with pytest.raises(StoreError, match="holds the samples of another model"):
        train()
