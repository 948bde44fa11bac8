"""Files that exist completely or not at all, and maps that give their memory back."""

import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from collapse.data import files
from collapse.data.files import MappedArray, array_digest, array_parts, commit, file_digest, remove_stale

# --- commit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_commit_replaces_the_whole_content_and_leaves_nothing_beside_it(tmp_path, durable):
    path = tmp_path / "a.bin"
    commit(path, b"x" * 1000, durable=durable)
    commit(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


class Full(OSError):
    """No space left."""


@pytest.mark.parametrize("fails", ["fsync", "replace", "write"])
def test_a_failure_keeps_the_old_file_and_removes_the_part(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.bin"
    commit(path, b"old")

    def fail(*unused):
        raise Full

    if fails == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif fails == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(TypeError if fails == "write" else Full):
        commit(path, "not bytes" if fails == "write" else b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def rewrite(path, ready):
    """Commit one content after another, for ever."""
    turn = 0
    while True:
        commit(path, bytes([turn % 256]) * 4_000_000, durable=False)
        ready.set()
        turn += 1


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")
def test_a_reader_sees_one_whole_content_or_another(tmp_path):
    """Killed at any moment, a writer leaves one of the contents it wrote; 4 MB are not written in one go."""
    path, fork = tmp_path / "a.npy", multiprocessing.get_context("fork")
    ready = fork.Event()
    writer = fork.Process(target=rewrite, args=(path, ready))
    writer.start()
    assert ready.wait(60)
    seen = set()
    for _ in range(50):
        content = path.read_bytes()
        assert content == content[:1] * 4_000_000
        seen.add(content[:1])
    writer.kill()
    writer.join()
    content = path.read_bytes()
    assert content == content[:1] * 4_000_000
    assert len(seen) > 1, "the writer was at work"
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_only_leftovers_are_removed(tmp_path):
    deep = tmp_path / "generations" / "gen_001"
    stale = [tmp_path / "run.json.tmp123", deep / "manifest.json.tmp9", tmp_path / "checkpoints" / "epoch-1.ckpt.tmp7"]
    stale.append(tmp_path / "figures" / "samples_gen_000.txt.tmp4")
    kept = [
        tmp_path / "a.npy",
        deep / "notes.tmp",
        tmp_path / "b.tmpfile",
        tmp_path / "x.tmp2024-report.txt",
        tmp_path / "notes.tmp1",
        tmp_path / "another-run" / "generations" / "gen_001" / "chunk_00000.npy.tmp5",
    ]
    for path in stale + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    remove_stale(tmp_path)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in stale)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<f4", "<f8", "<u2", "<i8"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 1, 4)])
def test_array_parts_are_numpys_own_format(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = tmp_path / "a.npy"
    path.write_bytes(b"".join(array_parts(np.asfortranarray(array))))
    assert array_digest(np.asfortranarray(array)) == file_digest(path)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), array)
    mapped = MappedArray(path)
    assert (len(mapped), mapped.dtype, mapped.shape) == (7, array.dtype, shape)
    rows = np.array([6, 0, 3, 3])
    np.testing.assert_array_equal(mapped[rows], array[rows])
    np.testing.assert_array_equal(mapped[torch.from_numpy(rows)], array[rows])
    np.testing.assert_array_equal(mapped[2:5], array[2:5])


def test_array_parts_refuse_objects():
    with pytest.raises(TypeError, match="array of references"):
        array_parts(np.array([{}], dtype=object))


def test_a_map_refuses_what_no_store_wrote(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((2, 3))))
    (tmp_path / "text.npy").write_bytes(b"not an array at all")
    for name in ("object", "fortran"):
        with pytest.raises(ValueError, match=f"{name}.npy is not a plain C-ordered array"):
            MappedArray(tmp_path / f"{name}.npy")
    with pytest.raises(ValueError, match=r"magic"):
        MappedArray(tmp_path / "text.npy")


def test_rows_are_copies_and_the_file_is_never_written(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 2)))
    mapped, before = MappedArray(path), path.read_bytes()
    for rows in (slice(0, 2), np.array([0, 1])):
        taken = mapped[rows]
        taken += 1
        assert not mapped[rows].any()
    assert path.read_bytes() == before


def test_a_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(3_000_001))
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_map_pickles_as_its_path(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(400_000.0).reshape(-1, 4)
    np.save(path, array)
    mapped = MappedArray(path)
    np.testing.assert_array_equal(mapped[np.array([7])], array[[7]])  # the map is open
    content = pickle.dumps(mapped)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert again.path == path
    np.testing.assert_array_equal(again[np.array([99_999, 5])], array[[99_999, 5]])


def test_a_released_map_is_made_anew(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(4000.0).reshape(-1, 4)
    np.save(path, array)
    mapped = MappedArray(path)
    taken = mapped[10:20]
    mapped.release()
    np.testing.assert_array_equal(taken, array[10:20])
    np.testing.assert_array_equal(mapped[np.array([999, 0])], array[[999, 0]])


# --- memory -----------------------------------------------------------------------------------------------------------


def resident():
    """Megabytes of memory this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
def big(tmp_path):
    """300 MB of rows of 3 kB; the first value of a row is its index."""
    path, rows, width = tmp_path / "big.npy", 100_000, 768
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
        for start in range(0, rows, 10_000):
            part = np.zeros((10_000, width), np.float32)
            part[:, 0] = np.arange(start, start + 10_000)
            file.write(part.tobytes())
    return path


def shuffled_epoch(read, rows, watch):
    """Read every row once; check each batch; return the most memory held on the way."""
    order, most = np.random.default_rng(0).permutation(rows), 0.0
    for batch in np.array_split(order, rows // 200):
        np.testing.assert_array_equal(read(batch)[:, 0], batch.astype(np.float32))
        most = max(most, watch())
    return most


@pytest.fixture
def budget(monkeypatch):
    """Megabytes of maps a process may hold."""
    monkeypatch.setattr(files, "_MAPS", files._Maps(32 << 20))
    return 32


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account of a process")


@linux
def test_a_shuffled_epoch_over_a_file_beyond_the_budget_keeps_memory_small(big, budget):
    mapped, start = MappedArray(big), resident()
    assert shuffled_epoch(mapped.__getitem__, len(mapped), resident) - start < budget
    # The same epoch through numpy's map keeps all of the file.
    plain, start = np.load(big, mmap_mode="r"), resident()
    assert shuffled_epoch(plain.__getitem__, len(mapped), resident) - start > 200


@linux
def test_the_budget_is_one_for_all_files_of_a_process(tmp_path, budget):
    """Thirty files of 10 MB: as many as have room are mapped, the others are read, and every row is right."""
    for index in range(30):
        np.save(tmp_path / f"{index}.npy", np.full((5000, 500), index, np.float32))
    shards, start, most = [MappedArray(tmp_path / f"{index}.npy") for index in range(30)], resident(), 0.0
    rng = np.random.default_rng(0)
    for turn in range(300):
        taken = shards[turn % 30][rng.integers(0, 5000, 400)]
        assert (taken == turn % 30).all()
        most = max(most, resident())
    assert most - start < 2 * budget


@linux
def test_a_file_that_nobody_reads_any_more_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAPS", files._Maps(32 << 20, patience=5))
    for index in range(6):
        np.save(tmp_path / f"{index}.npy", np.full((5000, 1000), index, np.float32))
    start, held = resident(), []
    kept = [MappedArray(tmp_path / f"{index}.npy") for index in range(6)]
    for index, shard in enumerate(kept):
        for _ in range(8):
            assert (shard[::7] == index).all()
        held.append(resident() - start)
    assert max(held) < 2 * 32
    assert kept[-1]._array is not None, "the newest of them has the room"


@pytest.mark.parametrize("dtype", ["u1", "<f4", files.np.dtype([("origin", "u1"), ("label", "<i8")])])
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 2)])
def test_rows_read_and_rows_mapped_are_the_same(tmp_path, monkeypatch, dtype, shape):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    mapped = MappedArray(tmp_path / "a.npy")
    cases = [np.array([49, 0, 7, 7]), np.array([], dtype=np.int64), slice(3, 20), slice(None), slice(40, None, 3)]
    fast = [mapped[case] for case in cases]
    monkeypatch.setattr(files, "_MAPS", files._Maps(0))
    slow = [MappedArray(tmp_path / "a.npy")[case] for case in cases]
    for case, one, other in zip(cases, fast, slow, strict=True):
        np.testing.assert_array_equal(one, array[case])
        np.testing.assert_array_equal(other, array[case])
        assert (one.dtype, one.shape) == (other.dtype, other.shape) == (array.dtype, array[case].shape)


def test_a_file_cut_short_is_an_error_and_never_made_up_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((100, 10)))
    whole = MappedArray(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 400)
    monkeypatch.setattr(files, "_MAPS", files._Maps(0))
    np.testing.assert_array_equal(whole[np.array([0, 50])], np.ones((2, 10)))
    with pytest.raises(ValueError, match=r"a.npy ends before its row 99"):
        whole[np.array([0, 99])]


@linux
def test_maps_hold_no_descriptor(tmp_path):
    for index in range(40):
        np.save(tmp_path / f"{index}.npy", np.full((3, 2), index))
    before = len(list(Path("/proc/self/fd").iterdir()))
    maps = [MappedArray(tmp_path / f"{index}.npy") for index in range(40)]
    assert [int(mapped[np.array([1])][0, 0]) for mapped in maps] == list(range(40))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_array_turned_away_is_admitted_once_there_is_room(tmp_path):
    """After a refusal nobody counts again for a tenth of the patience; then room is found where it has come up."""
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", np.zeros((100, 10), np.float64))
    first, second = (MappedArray(tmp_path / f"{index}.npy") for index in range(2))
    maps = files._Maps(first.nbytes, patience=30)
    assert maps.admits(first)
    assert not maps.admits(second)
    del maps.last_read[first]  # as when the array is collected
    assert [maps.admits(second) for _ in range(4)] == [False, False, True, True]
