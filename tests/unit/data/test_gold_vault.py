"""Gold lies on the disk once, whatever the number of runs, and nobody can write to it."""

import os
import stat

import numpy as np
import pytest

from collapse.data import GenerationStore, Samples
from collapse.data import gold as gold_module
from collapse.data.gold import GoldVault


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
