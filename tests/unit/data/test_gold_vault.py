"""Gold lies on the disk once, whatever the number of runs, and nobody can write to it."""

import os
import stat

import numpy as np
import pytest

from collapse.data import GenerationStore, Samples, intake
from collapse.data import gold as gold_module
from collapse.data.gold import GoldVault
from collapse.recursion.verification import faults


def rows(seed=0):
    return Samples(np.random.default_rng(seed).normal(size=(40, 3)), np.arange(40) % 3)


def gold_of(root, seed=0):
    store = GenerationStore(root, durable=False)
    return store, store.write_gold(rows(seed), facts={"data": "test"})


def inodes(store):
    return [path.stat().st_ino for path in sorted(store.folder(0).glob("chunk_*"))]


def test_two_runs_share_the_files_and_none_can_be_written(tmp_path):
    (one, first), (other, second) = gold_of(tmp_path / "a"), gold_of(tmp_path / "b")
    assert first.content == second.content
    assert inodes(one) == inodes(other)
    for path in one.folder(0).glob("chunk_*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert path.stat().st_nlink == 3  # two runs and the vault
    assert not list(tmp_path.rglob("*.tmp*"))


def test_other_gold_is_another_file(tmp_path):
    (one, first), (other, second) = gold_of(tmp_path / "a"), gold_of(tmp_path / "b", seed=1)
    assert first.content != second.content
    assert set(inodes(one)).isdisjoint(inodes(other))


def test_a_spoiled_file_is_nobodys_gold(tmp_path):
    one, first = gold_of(tmp_path / "a")
    victim = one.folder(0) / first.files[0][0]
    victim.chmod(0o644)
    victim.write_bytes(b"spoiled" + victim.read_bytes()[7:])
    other, second = gold_of(tmp_path / "b")
    other.verify(second)
    assert second.content == first.content
    assert inodes(one) != inodes(other)


def test_where_links_are_impossible_runs_keep_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(gold_module.Path, "hardlink_to", refuse)
    (one, first), (other, second) = gold_of(tmp_path / "a"), gold_of(tmp_path / "b")
    one.verify(first)
    other.verify(second)
    assert first.digest == second.digest
    assert set(inodes(one)).isdisjoint(inodes(other))
    for path in one.folder(0).glob("chunk_*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


@pytest.mark.skipif(not os.geteuid(), reason="root writes everywhere")
def test_a_run_beside_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "run").mkdir()
    tmp_path.chmod(0o555)
    store, manifest = gold_of(tmp_path / "run")
    store.verify(manifest)


def test_pruning_removes_what_no_run_links_to(tmp_path):
    one, _ = gold_of(tmp_path / "a")
    vault = GoldVault(tmp_path / ".gold")
    gold_of(tmp_path / "b", seed=1)
    for path in sorted((tmp_path / "b").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    vault.prune()
    kept = {path.stat().st_ino for path in vault.root.rglob("*.npy")}
    assert kept == set(inodes(one))
    for path in sorted(tmp_path.joinpath("a").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    vault.prune()
    assert not vault.root.exists()


def test_a_file_that_anyone_could_write_is_protected_before_it_is_shared(tmp_path):
    one, _ = gold_of(tmp_path / "a")
    for path in one.folder(0).glob("chunk_*"):
        path.chmod(0o644)
    other, _ = gold_of(tmp_path / "b")
    assert {stat.S_IMODE(path.stat().st_mode) for path in other.folder(0).glob("chunk_*")} == {0o444}


@pytest.mark.parametrize(("age", "left"), [(10, True), (10_000, False)])
def test_what_a_killed_writer_has_left_goes_in_time(tmp_path, age, left):
    store, manifest = gold_of(tmp_path / "a")
    digest = manifest.files[0][2]
    torn = tmp_path / ".gold" / digest[:2] / f"{digest}.npy.tmp4194304000000"
    torn.write_bytes(b"half")
    os.utime(torn, (torn.stat().st_mtime - age,) * 2)
    GoldVault(tmp_path / ".gold").prune()
    assert torn.exists() == left
    store.verify(manifest)


def test_a_start_that_was_cut_short_with_other_gold_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "CHUNK_BYTES", 24 * 4)
    store = GenerationStore(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(GenerationStore, "seal", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.write_gold(rows(), facts={})
    assert len(list(store.folder(0).glob("chunk_*"))) == 20
    few = Samples(np.ones((8, 3)), np.zeros(8, int))
    GenerationStore(tmp_path / "run").write_gold(few, facts={})
    assert len(list(store.folder(0).glob("chunk_*"))) == 4
    assert list(faults(GenerationStore(tmp_path / "run"))) == []


def test_gold_is_hashed_once_while_it_is_not_touched(tmp_path, monkeypatch):
    store, manifest = gold_of(tmp_path / "a")
    hashed = []
    monkeypatch.setattr("collapse.data.store.file_digest", lambda path: hashed.append(path) or "other")
    for _ in range(5):
        store.verify(manifest)
    assert hashed == []
    os.utime(store.folder(0) / manifest.files[0][0])
    with pytest.raises(RuntimeError, match="other bytes"):
        store.verify(manifest)
    assert [path.name for path in hashed] == [manifest.files[0][0]]
