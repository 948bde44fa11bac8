"""What is left of a chain: its weights, its rows, its folder; and what an unlucky writer leaves."""

import copy
import gc
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from collapse.data import GaussianData, RingOfGaussians
from collapse.data import store as store_module
from collapse.data.store import GenerationStore, StoreError
from collapse.mitigations import DataAccumulation
from collapse.models import Gaussian
from collapse.recursion import Chain, RecursiveTrainer, run_chain


def chain_of(model=None, **settings):
    defaults = {"generations": 4, "samples_per_generation": 48, "chunk_size": 10, "evaluate": False}
    data = RingOfGaussians(4, rows=64, reference_rows=8)
    return run_chain(model or Gaussian(2), data, **{**defaults, **settings})


def digests(chain):
    return [record.digests for record in chain.records]


@pytest.fixture(params=["memory", "disk"])
def place(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "run"


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (True, {0, 1, 2, 3}),
        (False, set()),
        ([], set()),
        ([0, 3], {0, 3}),
        ({2}, {2}),
        (range(1, 3), {1, 2}),
        (np.array([0, 2]), {0, 2}),
    ],
    ids=str,
)
def test_the_weights_asked_for_are_kept(place, keep, kept):
    whole, chain = chain_of(), chain_of(store=place, keep_weights=keep)
    assert digests(chain) == digests(whole)
    for generation in range(4):
        if generation in kept:
            found = chain.state(generation)
            assert all(torch.equal(found[name], value) for name, value in whole.state(generation).items())
            assert torch.equal(chain.state(generation - 4)["mean"], found["mean"])
        else:
            with pytest.raises(StoreError, match="were not kept"):
                chain.state(generation)
    assert {int(path.stem[4:]) for path in (chain.root / "weights").glob("*")} == kept


@pytest.mark.parametrize("keep", [1, [4], [-1], {0, 7}, 2.5], ids=str)
def test_weights_of_no_generation_are_refused_before_any_training(keep):
    with pytest.raises((ValueError, TypeError), match="keep_weights"):
        RecursiveTrainer(4, samples_per_generation=10, store="unused", keep_weights=keep)


@pytest.mark.parametrize("generation", [4, -5])
def test_a_generation_that_was_not_is_an_index_error(generation):
    with pytest.raises(IndexError, match=f"generation {generation} is not one of the chain's 4"):
        chain_of().state(generation)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_the_pool_of_a_chain_is_everything_that_was_ever_trained_on(place):
    chain = chain_of(store=place, mitigations=[DataAccumulation()])
    pool = chain.pool()
    assert len(pool) == 64 + 4 * 48
    assert pool.generation.bincount().tolist() == [64, 48, 48, 48, 48]
    assert pool.is_real.tolist() == [True] * 64 + [False] * 192
    gold = RingOfGaussians(4, rows=64, reference_rows=8).gold()
    batch = pool.gather(torch.arange(len(pool)))
    np.testing.assert_array_equal(batch.x[:64], gold.x)
    np.testing.assert_array_equal(batch.y[:64], gold.y)
    assert (batch.y[64:] == -1).all()
    for generation in range(4):
        x = batch.x[: 64 + 48 * generation].numpy().astype(np.float64)
        np.testing.assert_allclose(chain.state(generation)["mean"][0], x.mean(0), rtol=1e-9)
        np.testing.assert_allclose(chain.state(generation)["covariance"][0], np.cov(x.T), rtol=1e-9)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_chain_is_read_back_as_it_was(place):
    chain = chain_of(store=place)
    found = Chain.load(chain.root)
    assert found.records == chain.records
    assert torch.equal(found.state(-1)["mean"], chain.state(-1)["mean"])


def test_files_are_written_once(place):
    chain = chain_of(store=place)
    before = {path: path.stat().st_mtime_ns for path in chain.root.rglob("*") if path.is_file()}
    assert len(before) > 30
    assert {path: path.stat().st_mtime_ns for path in chain.root.rglob("*") if path.is_file()} == before


def test_a_temporary_folder_goes_with_its_chain():
    chain = chain_of()
    root = chain.root
    assert (root / "generations" / "gen_004" / "chunk_00004.npy").exists()
    del chain
    gc.collect()
    assert not root.exists()


def test_a_chain_in_a_folder_goes_from_process_to_process(tmp_path):
    """A sweep's workers hand their chains back."""
    chain = chain_of(store=tmp_path)
    for again in (pickle.loads(pickle.dumps(chain)), copy.deepcopy(chain)):
        assert again.records == chain.records
        assert torch.equal(again.pool().gather(torch.arange(100)).x, chain.pool().gather(torch.arange(100)).x)


def test_a_trainer_that_did_not_run_yet_goes_from_process_to_process(tmp_path):
    recursion = RecursiveTrainer(3, samples_per_generation=10, store=tmp_path)
    again = pickle.loads(pickle.dumps(recursion))
    assert again.store.root == tmp_path
    assert again.trainer_kwargs() == recursion.trainer_kwargs()


# --- the writer -------------------------------------------------------------------------------------------------------


def writers():
    return {thread for thread in threading.enumerate() if thread.name.startswith("collapse-store")}


def test_a_finished_chain_has_no_thread(place):
    """A thousand chains that are kept would be as many threads."""
    before, chain = writers(), chain_of(store=place)
    assert writers() - before == set()
    assert len(chain.records) == 4


@pytest.fixture
def failing(monkeypatch):
    """Let every file fail from the n-th one on that is written."""
    real, calls, lock = Path.open, [], threading.Lock()

    def fail_from(number):
        def opening(path, mode="r", *rest, **options):
            with lock:
                calls.append(path) if mode == "wb" else None
            if mode == "wb" and len(calls) >= number:
                raise OSError(28, "No space left on device", str(path))
            return real(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", opening)

    yield fail_from
    monkeypatch.undo()


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9, 13, 15, 20, 27])
def test_a_full_disk_is_named_and_the_chain_continues_once_there_is_room(tmp_path, failing, monkeypatch, number):
    failing(number)
    with pytest.raises(OSError, match="No space left on device"):
        chain_of(store=tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp*"))
    assert digests(chain_of(store=tmp_path)) == digests(chain_of())


def test_nothing_is_written_any_more_when_a_sampler_has_failed(tmp_path, monkeypatch):
    """Or the next attempt in this process would meet the writer of the last."""
    real, running = store_module.commit, []

    def slow(path, *parts, **options):
        running.append(path)
        time.sleep(0.02)
        real(path, *parts, **options)
        running.remove(path)

    class Broken(Gaussian):
        calls = 0

        def sample(self, n, generator, y=None):
            Broken.calls += 1
            if Broken.calls == 4:
                raise RuntimeError("no samples today")
            return super().sample(n, generator, y)

    monkeypatch.setattr(store_module, "commit", slow)
    with pytest.raises(RuntimeError, match="no samples today"):
        chain_of(Broken(2), store=tmp_path)
    left = list(running)
    names = {path.name for path in (tmp_path / "generations" / "gen_001").iterdir()}
    time.sleep(0.1)
    assert left == []
    assert {path.name for path in (tmp_path / "generations" / "gen_001").iterdir()} == names
    assert digests(chain_of(Broken(2), store=tmp_path)) == digests(chain_of())


@pytest.mark.skipif(not os.geteuid(), reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        chain_of(store=tmp_path / "run")


def test_a_store_closed_by_an_error_can_be_written_again(tmp_path, failing, monkeypatch):
    store, records = GenerationStore(tmp_path), np.zeros(5, store_module.PROVENANCE)
    failing(1)
    store.write_chunk(1, 0, np.zeros((5, 2)), records)
    with pytest.raises(OSError, match=r"chunk_00000\.npy"):
        store.flush()
    monkeypatch.undo()
    store.write_chunk(1, 0, np.ones((5, 2)), records)
    manifest = store.seal(1, 1, parent="", facts={})
    store.verify(manifest)
    np.testing.assert_array_equal(GenerationStore(tmp_path).read_chunk(1, 0)[0][:], np.ones((5, 2)))


def test_an_evaluated_chain_in_memory_measures_what_one_on_disk_does(tmp_path):
    memory, disk = (
        run_chain(Gaussian(1), GaussianData(rows=50), generations=2, samples_per_generation=40, store=where)
        for where in (None, tmp_path)
    )
    assert len(memory.records[1].metrics) > 3
    assert memory.records == disk.records
