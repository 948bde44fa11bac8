"""Whatever is done to the files of a run, verification finds it, and nobody trains on it."""

import contextlib
import json
import os
import pickle
import random
import shutil
import stat
from collections import Counter

import numpy as np
import pytest
import torch

from collapse import VAE, AnchorReplay, RingOfGaussians, StepCheckpoint, run_chain
from collapse.data import GenerationStore
from collapse.data.files import file_digest
from collapse.data.journal import JOURNAL
from collapse.data.manifest import Manifest
from collapse.data.store import StoreError
from collapse.mitigations import Mitigation
from collapse.recursion import Chain, newest_checkpoint
from collapse.recursion.lineage import lineage
from collapse.recursion.verification import faults, refuse_changed

CORRUPTIONS = 200


class Fussy(Mitigation):
    """Keeps the rows on one side, with a score."""

    def curate(self, samples, generation):
        score = samples.x.reshape(len(samples), -1)[:, 0]
        return samples.select(score > -0.3, score)


def train(root, trained=None):
    module = VAE((2,), 2, hidden=8, likelihood="gaussian", learning_rate=0.01)
    if trained is not None:
        module.training_step = lambda *_: trained.append(1)
    return run_chain(
        module,
        RingOfGaussians(rows=64, reference_rows=16, batch_size=8),
        generations=3,
        samples_per_generation=100,
        mitigations=[AnchorReplay(0.2), Fussy()],
        callbacks=[StepCheckpoint(root, 5)],
        chunk_size=30,
        store=root,
        seed=5,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound") / "run"
    train(root)
    assert list(faults(GenerationStore(root))) == []
    return root


def victims(root):
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name not in ("lock", "journal.jsonl"))


def flip(root, path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return [path]


def truncate(root, path, rng):
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, size - 1, rng.randrange(size)]))
    return [path]


def append(root, path, rng):
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 2000)))
    return [path]


def delete(root, path, rng):
    path.unlink()
    return [path]


def swap(root, path, rng):
    other = rng.choice([other for other in victims(root) if other.read_bytes() != path.read_bytes()])
    here, there = path.read_bytes(), other.read_bytes()
    path.write_bytes(there)
    other.write_bytes(here)
    return [path, other]


def add(root, path, rng):
    """A file like its neighbor, as somebody would add it who wants it trained on."""
    stranger = (root / "checkpoints" if path.parent == root else path.parent) / f"added{path.suffix}"
    shutil.copy(path, stranger)
    return [stranger]


def forge(root, path, rng):
    """A manifest that says something else, with its digest renewed, but not the chain after it."""
    victim = rng.choice(sorted(root.glob("generations/gen_*/manifest.json")))
    content = json.loads(victim.read_text())
    facts = {**content["facts"], "seed": 6}
    name, value = rng.choice([("rows", 7), ("facts", facts), ("tools", {}), ("config", "c"), ("parent", "p")])
    forged = Manifest(**{**content, name: value}).sealed()
    victim.write_text(json.dumps(forged.to_dict(), indent=1, sort_keys=True))
    return [victim]


def flip_journal(root, path, rng):
    return flip(root, root / "journal.jsonl", rng)


def cut_journal(root, path, rng):
    journal = root / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: rng.randrange(len(lines))]))
    return [journal]


WAYS = [flip, truncate, append, delete, swap, add, forge, flip_journal, cut_journal]


def corrupted(sound, folder, number):
    """Return a copy of the run with the ``number``-th thing done to it, what that was, and to which files."""
    root, rng = folder / "run", random.Random(number)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    for file in victims(root):
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    way = WAYS[number % len(WAYS)]
    return root, way.__name__, way(root, rng.choice(victims(root)), rng)


def test_every_corruption_is_found_and_named(sound, tmp_path, capsys):
    done = Counter()
    for number in range(CORRUPTIONS):
        root, way, files = corrupted(sound, tmp_path, number)
        store = GenerationStore(root)
        found = list(faults(store))
        for file in files:
            named = any(str(file) in fault or (str(file.parent) in fault and file.name in fault) for fault in found)
            assert named or (way == "cut_journal" and all(JOURNAL in fault for fault in found)), (number, way, found)
        with pytest.raises(StoreError):
            refuse_changed(store)
        done[way] += 1
    with capsys.disabled():
        print(f"\n{sum(done.values())} corruptions, all found: {dict(done)}")


def refuses_to_train(root):
    steps = []
    with pytest.raises(StoreError):
        train(root, steps)
    return steps == []


@pytest.mark.parametrize("number", range(2 * len(WAYS)))
def test_nobody_trains_on_a_corrupted_run(sound, tmp_path, number):
    root, _, _ = corrupted(sound, tmp_path, number)
    assert refuses_to_train(root)


def test_nobody_trains_on_any_of_them(sound, tmp_path):
    for number in range(2 * len(WAYS), CORRUPTIONS):
        root, way, files = corrupted(sound, tmp_path, number)
        assert refuses_to_train(root), (number, way, files)


def test_what_a_user_keeps_in_the_folder_is_his_own(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("the one with the odd rows")
    (tmp_path / "run" / "slurm-17.out").write_text("begun")
    assert list(faults(GenerationStore(tmp_path / "run"))) == []


class Payload:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "rows", "records", "training", "manifest"])
def test_a_pickle_is_refused_and_not_executed(sound, tmp_path, kind):
    """Even by one who has renewed every digest on the way."""
    root, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(sound, root)
    places = {
        "checkpoint": "checkpoints/*.ckpt",
        "weights": "weights/gen_001.pt",
        "rows": "generations/gen_001/chunk_00000.npy",
        "records": "generations/gen_001/chunk_00000.rows.npy",
        "training": "training/gen_001.npy",
        "manifest": "generations/gen_001/manifest.json",
    }
    (path,) = root.glob(places[kind])
    path.chmod(0o644)
    if kind in ("checkpoint", "weights"):
        torch.save({"state_dict": Payload(mark)}, path)
    elif kind == "manifest":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        np.save(path, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    store = GenerationStore(root)
    store.journal.announce({path.relative_to(root).as_posix(): file_digest(path)})
    manifest = json.loads((root / "generations/gen_001/manifest.json").read_text()) if kind != "manifest" else None
    if kind in ("rows", "records"):
        renewed = {path.name: file_digest(path)}
        manifest["files"] = [[name, rows, renewed.get(name, digest)] for name, rows, digest in manifest["files"]]
        target = root / "generations/gen_001/manifest.json"
        target.write_text(json.dumps(Manifest.from_dict(manifest).sealed().to_dict(), indent=1, sort_keys=True))
        store.journal.announce({target.relative_to(root).as_posix(): file_digest(target)})
    assert any(path.name in fault for fault in faults(GenerationStore(root)))
    assert refuses_to_train(root)
    for read in (lambda: Chain.load(root).state(1), lambda: Chain.load(root).pool(), lambda: lineage(store, 100)):
        with contextlib.suppress(Exception):
            read()
    assert newest_checkpoint(root) is None or kind != "checkpoint"
    assert not mark.exists()
