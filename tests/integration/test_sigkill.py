"""A chain killed anywhere and started again leaves the very bytes of the one that was left alone."""

import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from collapse.data.files import MappedArray
from collapse.data.journal import JOURNAL
from collapse.data.lock import LOCK
from collapse.data.store import GenerationStore
from collapse.recursion import AtomicCheckpointIO, newest_checkpoint
from collapse.recursion.verification import faults

CHILD = Path(__file__).with_name("killable_chain.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
KILLED = -9


class Children:
    """Runs the child's command lines, each in a process of its own, forked from one that has imported everything."""

    child = CHILD

    def __init__(self, folder):
        self.folder, self.references = folder, {}
        self.server = subprocess.Popen(
            [sys.executable, self.child, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, "COLLAPSE_CACHE": str(folder / "cache")},
            text=True,
        )

    def run(self, config, root, point=None):
        """Return the exit code and the number of batches trained."""
        log = root.with_name("log")
        start = log.stat().st_size if log.exists() else 0
        arguments = [config, str(root), *([point] if point else [])]
        self.server.stdin.write(json.dumps({"arguments": arguments, "log": str(log)}) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        self.output = log.read_text()[start:]
        trained = re.search(r"trained (\d+) batches", self.output)
        return code, int(trained[1]) if trained else None

    def finish(self, config, root, point=None):
        code, trained = self.run(config, root, point)
        assert code == 0, self.output
        return trained

    def kill(self, config, root, point):
        code, _ = self.run(config, root, point)
        assert code == KILLED, self.output

    def reference(self, config):
        """Return an uninterrupted run's folder and its number of batches."""
        if config not in self.references:
            root = self.folder / config / "run"
            root.parent.mkdir()
            self.references[config] = (root, self.finish(config, root))
        return self.references[config]


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    children = Children(tmp_path_factory.mktemp("references"))
    yield children
    children.server.stdin.close()
    children.server.wait(30)
    children.server.stdout.close()


def files(root):
    """Everything a run leaves but checkpoints, journal and lock, which tell of the kills: digest by name, temporary
    ones too."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name != "checkpoints" and path.name not in (JOURNAL, LOCK)
    }


def state(root):
    """The newest checkpoint, without the places and times of its callbacks that write checkpoints."""
    content = torch.load(newest_checkpoint(root), weights_only=True)
    callbacks = {name: value for name, value in content["callbacks"].items() if "Checkpoint" not in name}
    return {**{name: content[name] for name in ("epoch", "global_step", "state_dict", "optimizer_states")}, **callbacks}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


def check_equal(root, reference):
    found, wanted = files(root), files(reference)
    assert len(wanted) > 20
    assert {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)} == set()
    assert same(state(root), state(reference))
    assert not list(root.rglob("*.tmp*"))
    check_intact(root)


def check_intact(root):
    """A kill is no fault: what it leaves is what the journal says, and verification can tell."""
    assert list(faults(GenerationStore(root))) == []


def check_resume(children, config, root, *points, of=None):
    """Kill at each point in turn, finish, and compare; the last run must continue and not begin again."""
    reference, total = children.reference(of or config)
    for point in points:
        children.kill(config, root, point)
        check_intact(root)
    newest = newest_checkpoint(root)
    begun = torch.load(newest, weights_only=True)["global_step"] if newest else 0
    trained = children.finish(config, root)
    ended = torch.load(newest_checkpoint(reference), weights_only=True)["global_step"]
    assert trained * ended == total * (ended - begun)
    if trained:
        assert len(list((root / "checkpoints").glob("*.ckpt"))) == 1, "the file resumed from is superseded, too"
    check_equal(root, reference)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


PLAIN = [
    "step:3",  # nothing to resume from
    "step:17",
    "step:30",
    "gold:1",
    "identity:1:before",
    "harvest:1",
    "harvest:2:before",
    "weights:2",
    "manifest:1:before",
    "manifest:2",
    "ledger:2:before",
    "ledger:3",
    "turn:1",
    "turn:2",
    "checkpoint:1:before",
    "checkpoint:3:before",
    "checkpoint:3",
    "checkpoint:6:before",
    "checkpoint:6",
]


@pytest.mark.parametrize("point", PLAIN)
def test_a_killed_chain_continues_to_the_same_bytes(children, root, point):
    check_resume(children, "plain", root, point)


@pytest.mark.parametrize(
    ("config", "point", "newest"),
    [
        ("ema", "step:3", None),
        ("ema", "step:9", "step-000000008.ckpt"),
        ("ema", "step:19", "step-000000016.ckpt"),
        ("ema", "harvest:3", "step-000000008.ckpt"),
        ("ema", "manifest:2", "step-000000028.ckpt"),
        ("ema", "turn:2", "epoch-000003.ckpt"),
        ("ema", "checkpoint:4:before", "step-000000008.ckpt"),
        ("ema", "checkpoint:2", "epoch-000000.ckpt"),
        ("steps", "step:5", "step-000000004.ckpt"),
        ("steps", "step:11", "step-000000010.ckpt"),
        ("steps", "harvest:4", "step-000000010.ckpt"),
        ("steps", "turn:1", "epoch-000000.ckpt"),
        ("stopping", "step:23", "step-000000021.ckpt"),
        ("stopping", "step:68", "step-000000066.ckpt"),
        ("digits", "harvest:3", "epoch-000002.ckpt"),
        ("digits", "ledger:1", "epoch-000000.ckpt"),
        ("digits", "turn:2", "epoch-000003.ckpt"),
    ],
)
def test_within_an_epoch_with_everything_that_has_a_state(children, root, config, point, newest):
    children.kill(config, root, point)
    found = newest_checkpoint(root)
    assert (found.name if found else None) == newest
    check_resume(children, config, root)


@pytest.mark.parametrize("point", ["step:8", "turn:1"])
def test_with_two_loader_workers_it_is_the_run_without(children, root, point):
    check_resume(children, "workers", root, point, of="plain")


@pytest.mark.parametrize(
    ("config", "points"),
    [
        ("plain", ["harvest:2", "turn:1"]),
        ("plain", ["checkpoint:4", "checkpoint:1:before", "manifest:1"]),
        ("plain", ["step:8", "step:8", "step:14", "step:29"]),
        ("ema", ["step:7", "step:11", "turn:1"]),
        ("curated", ["harvest:4", "manifest:1", "step:9", "step:10", "turn:1", "manifest:2"]),
        ("ema", ["turn:1", "turn:1", "harvest:1"]),
        ("steps", ["step:3", "step:3"]),  # a checkpoint between two optimizer steps would lose half a gradient
        ("steps", ["step:9", "step:9", "turn:2"]),
    ],
)
def test_a_run_killed_again_and_again(children, root, config, points):
    check_resume(children, config, root, *points)


@pytest.mark.slow
def test_in_interpreters_of_its_own(children, root):
    """What the other tests fork: two processes that share nothing."""
    command = [sys.executable, CHILD, "plain", root]
    killed = subprocess.run([*command, "harvest:4"], env=ENVIRONMENT, capture_output=True, timeout=120)
    assert killed.returncode == KILLED, killed.stderr
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert b"trained 15 batches" in finished.stdout
    check_equal(root, children.reference("plain")[0])


@pytest.mark.parametrize(
    "config",
    [
        "plain",
        "ema",
        "stopping",
        "digits",
        "real",
    ],
)
def test_a_finished_run_is_left_as_it_is(children, config):
    reference, total = children.reference(config)

    def stamps():
        return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in reference.rglob("*") if p.name != LOCK}

    before, content = stamps(), files(reference)
    assert children.finish(config, reference) == 0 < total
    assert stamps() == before
    assert files(reference) == content


# Files that cannot be trusted


class Payload:
    """Unpickling this object makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def marker(tmp_path):
    """A folder that a pickle would make; the fixture shows first that the pickle works."""
    folder = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(folder)))
    folder.rmdir()
    yield folder
    assert not folder.exists()


def check_refused(children, root, sentence):
    """The chain does not start, says why, and leaves everything as it is."""
    before = files(root)
    code, _ = children.run("plain", root)
    assert code == 1
    assert sentence in children.output
    assert files(root) == before


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(children, root, share):
    """Passed over it would cost a generation, in silence; it cannot come of a crash."""
    children.kill("plain", root, "checkpoint:4")
    newest = root / "checkpoints" / "epoch-000003.ckpt"
    assert newest_checkpoint(root) == newest
    whole = newest.read_bytes()
    newest.write_bytes(whole[: int(share * len(whole))])
    check_refused(children, root, "epoch-000003.ckpt has other bytes than journal.jsonl says")
    newest.write_bytes(whole)
    check_resume(children, "plain", root)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "plain pickle"])
def test_a_checkpoint_with_a_pickle_in_it_is_refused_and_not_executed(children, root, marker, archive):
    children.kill("plain", root, "step:13")
    evil = root / "checkpoints" / "epoch-000099.ckpt"
    content = torch.load(newest_checkpoint(root), weights_only=True)
    content["global_step"], content["hyper_parameters"] = 10**6, Payload(marker)
    if archive:
        torch.save(content, evil)
    else:
        evil.write_bytes(pickle.dumps(content))
    assert newest_checkpoint(root).name == "epoch-000001.ckpt"
    check_refused(children, root, "epoch-000099.ckpt is in no manifest and not in journal.jsonl")
    evil.unlink()
    check_resume(children, "plain", root)


def test_readers_refuse_pickles(tmp_path, marker):
    path = tmp_path / "weights" / "gen_000.pt"
    path.parent.mkdir()
    torch.save({"weight": torch.ones(1), "other": Payload(marker)}, path)
    for read in (lambda: AtomicCheckpointIO().load_checkpoint(path), lambda: GenerationStore(tmp_path).state(0)):
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            read()
    np.save(tmp_path / "rows.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"rows\.npy is not a plain C-ordered array"):
        MappedArray(tmp_path / "rows.npy")


@pytest.mark.parametrize("suffix", [".npy", ".rows.npy"])
def test_a_pool_with_a_pickle_in_it_is_refused_and_not_executed(children, root, marker, suffix):
    children.kill("plain", root, "step:13")
    path = root / "generations" / "gen_001" / f"chunk_00001{suffix}"
    np.save(path, np.array([Payload(marker)] * 1024, dtype=object), allow_pickle=True)
    code, _ = children.run("plain", root)
    assert code == 1
    assert re.search(r"\.npy (has other bytes|is not a plain)|allow_pickle=False", children.output)


@pytest.mark.parametrize(
    ("point", "generation"),
    [
        ("step:3", 0),
        ("step:13", 1),
        ("step:27", 2),  # within the last generation: no turn follows
        ("step:28", 0),
    ],
)
def test_a_pool_changed_while_nobody_ran_is_refused(children, root, point, generation):
    children.kill("plain", root, point)
    path = root / "generations" / f"gen_{generation:03d}" / "chunk_00000.npy"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _ = children.run("plain", root)
    assert code == 1
    assert f"gen_{generation:03d}/chunk_00000.npy has other bytes than its manifest says" in children.output


# The long versions


@pytest.mark.slow
@pytest.mark.parametrize("config", ["plain", "ema", "steps", "digits", "workers"])
def test_random_kills_until_it_is_done(children, root, config):
    rng = random.Random(f"chaos {config}")
    reference, _ = children.reference("plain" if config == "workers" else config)
    kinds, kills = ("step", "harvest", "manifest", "weights", "ledger", "turn", "checkpoint"), 0
    for _ in range(200):
        kind = rng.choice(kinds)
        number = rng.randint(1, {"step": 60, "turn": 2, "harvest": 6, "checkpoint": 4}.get(kind, 2))
        before = ":before" if kind not in ("step", "turn") and rng.random() < 0.5 else ""
        code, _ = children.run(config, root, f"{kind}:{number}{before}")
        assert code in (0, KILLED), children.output
        kills += code == KILLED
        if code == 0 and kills > 12:
            break
        if code == 0:  # too early: put it back to its beginning, on record
            store = GenerationStore(root)
            store.hold()
            store.remove(*(f"checkpoints/{path.name}" for path in (root / "checkpoints").iterdir()))
            store.lock.release()
    children.finish(config, root)
    check_equal(root, reference)
