"""The store: what is committed stays as it was, or somebody is told which file is not."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from collapse.data import GenerationStore, Origin, RingOfGaussians, Samples, intake
from collapse.data.manifest import Manifest
from collapse.data.rows import provenance
from collapse.data.store import StoreError
from collapse.models import VAE
from collapse.recursion import Chain, run_chain


def gold(rows=50, labels=True, seed=0):
    rng = np.random.default_rng(seed)
    return Samples(rng.normal(size=(rows, 3)).astype(np.float32), rng.integers(0, 4, rows) if labels else None)


def deposit(store, generation, chunks=3, rows=10, parent="p", facts=None):
    for index in range(chunks):
        x = np.full((rows, 3), 100 * generation + index, np.float32)
        store.write_chunk(generation, index, x, provenance(rows, origin=Origin.SYNTHETIC, generation=generation))
    return store.seal(generation, chunks, parent=parent, facts=facts or {})


@pytest.fixture
def store(tmp_path):
    """Gold and two deposits."""
    made = GenerationStore(tmp_path / "run")
    first = made.write_gold(gold(), facts={"data": "test"})
    second = deposit(made, 1, parent=first.digest)
    deposit(made, 2, parent=second.digest)
    return made


def opened(store):
    """The same folder, seen by another process."""
    return GenerationStore(store.root)


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_pool_is_what_was_written_with_where_it_came_from(store):
    pool = opened(store).pool([opened(store).manifest(generation) for generation in range(3)])
    assert len(pool) == 50 + 30 + 30
    batch = pool.gather(torch.tensor([0, 49, 50, 79, 80, 109]))
    np.testing.assert_array_equal(batch.x[:2], gold().x[[0, 49]])
    assert batch.x[2:, 0].tolist() == [100.0, 102.0, 200.0, 202.0]
    assert batch.origin.tolist() == [Origin.REAL] * 2 + [Origin.SYNTHETIC] * 4
    assert batch.generation.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.y.tolist() == [*gold().y[[0, 49]].tolist(), -1, -1, -1, -1]
    assert len(store) == 3


def test_manifests_form_a_chain_that_starts_at_gold(store):
    manifests = [store.manifest(generation) for generation in range(3)]
    assert [manifest.parent for manifest in manifests] == ["", manifests[0].digest, manifests[1].digest]
    assert [manifest.rows for manifest in manifests] == [50, 30, 30]
    assert all(manifest.sealed() == manifest for manifest in manifests)
    assert all(Manifest.from_dict(json.loads(json.dumps(one.to_dict()))) == one for one in manifests)


@pytest.mark.parametrize("name", ["rows", "parent", "facts", "generation", "schema", "files", "config", "tools"])
def test_the_digest_covers_every_part(store, name):
    content = store.manifest(1).to_dict()
    values = {"rows": 31, "parent": "q", "facts": {"seed": 1}, "generation": 2, "schema": 9, "files": []}
    values |= {"config": "c", "tools": {}}
    changed = Manifest(**{**content, name: values[name]})
    assert changed.sealed().digest != content["digest"]


def test_writing_again_gives_the_same_bytes(store, tmp_path):
    before = {path: path.read_bytes() for path in store.pools.rglob("*.*")}
    again = opened(store)
    first = again.write_gold(gold(), facts={"data": "test"})
    second = deposit(again, 1, parent=first.digest)
    deposit(again, 2, parent=second.digest)
    assert {path: path.read_bytes() for path in store.pools.rglob("*.*")} == before
    other = GenerationStore(tmp_path / "other", durable=False)
    assert other.write_gold(gold(), facts={"data": "test"}).digest == first.digest


def test_large_gold_is_cut_into_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "CHUNK_BYTES", 12 * 7)
    store = GenerationStore(tmp_path)
    manifest = store.write_gold(gold(), facts={})
    assert [rows for name, rows, _ in manifest.files if not name.endswith(".rows.npy")] == [7] * 7 + [1]
    np.testing.assert_array_equal(store.pool([manifest]).stored(np.arange(50)), gold().x)
    assert opened(store).write_gold(gold(), facts={}) == manifest
    changed = gold()
    changed.x[49, 2] += 1
    with pytest.raises(StoreError, match="holds other rows"):
        opened(store).write_gold(changed, facts={})


def test_nothing_is_pickled(store):
    for path in store.pools.rglob("*.npy"):
        np.load(path, allow_pickle=False)


# --- gold -------------------------------------------------------------------------------------------------------------


def test_gold_is_read_only(store):
    for path in store.folder(0).glob("*.npy"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    if os.geteuid():
        with pytest.raises(PermissionError):
            next(store.folder(0).glob("*.npy")).open("ab")


def test_the_same_gold_is_only_checked(store):
    before = {path: path.stat().st_mtime_ns for path in store.folder(0).iterdir()}
    assert opened(store).write_gold(gold(), facts={"data": "otherwise named"}) == store.manifest(0)
    assert {path: path.stat().st_mtime_ns for path in store.folder(0).iterdir()} == before


def test_other_gold_is_refused(store):
    with pytest.raises(StoreError, match="holds 50 rows, the data set has 49"):
        opened(store).write_gold(gold(49), facts={})
    with pytest.raises(StoreError, match="holds other rows than the data set"):
        opened(store).write_gold(gold(seed=1), facts={})
    one = gold()
    one.x[17, 1] = np.nextafter(one.x[17, 1], np.float32(9))
    with pytest.raises(StoreError, match=r"gen_000"):
        opened(store).write_gold(one, facts={})


def test_the_same_rows_under_other_labels_are_other_gold(store):
    with pytest.raises(StoreError, match="holds other rows than the data set"):
        opened(store).write_gold(Samples(gold().x, (gold().y + 1) % 4), facts={})
    with pytest.raises(StoreError, match="holds other rows than the data set"):
        opened(store).write_gold(Samples(gold().x), facts={})


def test_an_empty_gold_set_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no rows"):
        GenerationStore(tmp_path).write_gold(Samples(np.zeros((0, 2), np.float32)), facts={})


# --- tampering --------------------------------------------------------------------------------------------------------

FILES = [
    "gen_000/chunk_00000.npy",
    "gen_000/chunk_00000.rows.npy",
    "gen_001/chunk_00002.npy",
    "gen_002/chunk_00001.rows.npy",
]


def verify_all(store):
    for generation in range(len(store)):
        store.verify(store.manifest(generation))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, -1, -9])
def test_a_flipped_bit_is_found_and_the_file_named(store, name, place):
    path = store.pools / name
    verify_all(opened(store))
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{name} has other bytes than its manifest says"):
        verify_all(opened(store))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_checked_before_is_checked_again_once_it_changed(store, name):
    verify_all(store)
    path = store.pools / name
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    with pytest.raises(StoreError, match=name):
        verify_all(store)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(store, name):
    (store.pools / name).unlink()
    for seen in (store, opened(store)):
        with pytest.raises(StoreError, match=f"{name} is missing"):
            verify_all(seen)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(store, name):
    path = store.pools / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=name):
        verify_all(opened(store))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"rows": 30', '"rows": 31'),
        lambda text: text.replace('"parent": "', '"parent": "0'),
        lambda text: text.replace('"facts": {}', '"facts": {"seed": 1}'),
        lambda text: text.replace("chunk_00001.npy", "chunk_00000.npy"),
    ],
)
def test_an_edited_manifest_is_named(store, edit):
    path = store.folder(1) / "manifest.json"
    text = path.read_text()
    assert edit(text) != text
    path.write_text(edit(text))
    with pytest.raises(StoreError, match=r"gen_001/manifest.json (was changed after it was written|is not a manifest)"):
        opened(store).manifest(1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 3}', '{"files": 3}', "null"])
def test_a_broken_manifest_is_named(store, content):
    (store.folder(1) / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"gen_001/manifest.json is not a manifest"):
        opened(store).manifest(1)


def test_other_rows_under_a_committed_manifest_are_refused(store):
    with pytest.raises(StoreError, match=r"gen_001 holds other rows than this run makes again"):
        deposit(opened(store), 1, rows=9, parent=store.manifest(0).digest)
    with pytest.raises(StoreError, match="gen_001 holds other rows"):
        deposit(opened(store), 1, parent=store.manifest(0).digest, facts={"seed": 2})


# --- half-written pools -----------------------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_is_not_part_of_the_store(store):
    store.write_chunk(3, 0, np.zeros((4, 3), np.float32), provenance(4, origin=Origin.SYNTHETIC, generation=3))
    store.flush()
    (store.folder(3) / "chunk_00001.npy.tmp77").write_bytes(b"half")
    again = opened(store)
    assert len(again) == 3
    with pytest.raises(StoreError, match=r"gen_003/manifest.json does not exist; generation 3 was never committed"):
        again.manifest(3)
    again.write_gold(gold(), facts={})
    assert not list(store.root.rglob("*.tmp*"))
    manifest = deposit(again, 3, parent="p")
    again.verify(manifest)
    assert again.pool([manifest]).stored(np.arange(30))[:, 0].tolist() == [300.0] * 10 + [301.0] * 10 + [302.0] * 10


def crash_in_gold(root, call):
    """Write gold, and die in the ``call``-th commit."""
    calls, replace = [], Path.replace

    def dying(*args):
        calls.append(args)
        if len(calls) == call:
            os._exit(9)
        return replace(*args)

    Path.replace = dying
    GenerationStore(root).write_gold(gold(), facts={})


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_gold_half_written_is_written_again(tmp_path, call):
    root = tmp_path / "run"  # whose neighbors share no gold with it
    process = multiprocessing.get_context("fork").Process(target=crash_in_gold, args=(root, call))
    process.start()
    process.join()
    assert process.exitcode == 9
    store = GenerationStore(root)
    assert len(store) == 0
    manifest = store.write_gold(gold(), facts={})
    store.verify(manifest)
    np.testing.assert_array_equal(store.pool([manifest]).stored(np.arange(50)), gold().x)


# --- in a chain -------------------------------------------------------------------------------------------------------


def chain_in(root, generations=2, seed=0, rows=64, hidden=8, **settings):
    data = RingOfGaussians(4, rows=rows, reference_rows=8, batch_size=32)
    model = VAE((2,), 2, hidden=hidden, likelihood="gaussian")
    return run_chain(
        model,
        data,
        generations=generations,
        samples_per_generation=40,
        store=root,
        seed=seed,
        evaluate=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"generations": 3}, "its generations is 2, not 3"),
        ({"hidden": 9}, "its model is .*hidden=8.* not .*hidden=9"),
        ({"initialization": "warm"}, "its initialization is 'fresh', not 'warm'"),
        ({"rows": 65}, "64 rows, the data set has 65"),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, changed, message):
    first = chain_in(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match=message):
        chain_in(tmp_path, **changed)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert Chain.load(tmp_path).records == first.records


def test_gold_changed_while_a_chain_runs_is_found_before_the_next_generation_trains(tmp_path):
    trained = []

    class Vandal(VAE):
        def on_train_epoch_end(self):
            if self.clock.generation == 1:
                path = tmp_path / "generations" / "gen_000" / "chunk_00000.npy"
                path.chmod(0o644)
                content = bytearray(path.read_bytes())
                content[-1] ^= 1
                path.write_bytes(content)

        def loss(self, batch):
            trained.append(self.clock.generation)
            return super().loss(batch)

        def outputs(self, batch):
            trained.append(self.clock.generation)
            return super().outputs(batch)

    data = RingOfGaussians(4, rows=64, reference_rows=8, batch_size=32)
    with pytest.raises(StoreError, match=r"gen_000/chunk_00000.npy has other bytes"):
        run_chain(
            Vandal((2,), 2, hidden=8, likelihood="gaussian"),
            data,
            generations=3,
            samples_per_generation=40,
            store=tmp_path,
            evaluate=False,
        )
    assert set(trained) == {0, 1}


def test_a_chain_reads_its_edited_manifest_with_an_error(tmp_path):
    chain_in(tmp_path)
    path = tmp_path / "generations" / "gen_001" / "manifest.json"
    path.write_text(path.read_text().replace('"steps": 2', '"steps": 3'))
    with pytest.raises(StoreError, match=r"gen_001/manifest.json was changed"):
        Chain.load(tmp_path)
