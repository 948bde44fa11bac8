"""A chain in memory is the chain on disk, byte for byte, and nobody can change its rows behind its back."""

import numpy as np
import pytest
import torch
from torch import nn

from collapse.data import Digits, GaussianData, GenerationStore, Origin, RingOfGaussians, Samples
from collapse.data.memory import MemoryStore
from collapse.data.rows import provenance
from collapse.data.store import StoreError
from collapse.mitigations import AnchorReplay, DataAccumulation, WeightedLikelihood
from collapse.models import VAE, Gaussian, GenerativeModule
from collapse.recursion import Chain, run_chain


def gold():
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 4, 50))


def filled(store):
    """Gold and one deposit of two chunks."""
    first = store.write_gold(gold(), facts={"data": "test"})
    for index in range(2):
        records = provenance(10, origin=Origin.SYNTHETIC, generation=1)
        store.write_chunk(1, index, np.full((10, 3), index, np.float32), records)
    store.seal(1, 2, parent=first.digest, facts={})
    store.write_state(0, {"weight": torch.arange(3.0)})
    return store


@pytest.fixture
def store(tmp_path):
    return filled(MemoryStore(tmp_path / "memory"))


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- the store --------------------------------------------------------------------------------------------------------


def test_manifests_are_those_of_the_disk(store, tmp_path):
    disk = filled(GenerationStore(tmp_path / "disk"))
    assert [store.manifest(index) for index in range(2)] == [disk.manifest(index) for index in range(2)]
    assert len(store) == len(disk) == 2


def test_nothing_is_a_file_until_somebody_asks(store, tmp_path):
    assert tree(store.root) == {}
    store.write_files()
    assert tree(store.root) == tree(filled(GenerationStore(tmp_path / "disk")).root)


def test_the_pool_is_what_was_written(store):
    pool = store.pool([store.manifest(0), store.manifest(1)])
    batch = pool.gather(torch.tensor([0, 49, 50, 69]))
    np.testing.assert_array_equal(batch.x[:2], gold().x[[0, 49]])
    assert batch.x[2:, 0].tolist() == [0.0, 1.0]
    assert batch.y.tolist() == [*gold().y[[0, 49]].tolist(), -1, -1]
    assert batch.origin.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(store.read_chunk(1, 1)[0], np.ones((10, 3), np.float32))


def test_weights_are_kept_as_they_were(store):
    weight = torch.ones(2)
    store.write_state(3, {"weight": weight})
    weight.zero_()
    store.state(3)["weight"].zero_()
    assert store.state(3)["weight"].tolist() == [1.0, 1.0]
    with pytest.raises(StoreError, match="the weights of generation 7 were not kept"):
        store.state(7)


def test_another_pool_is_noticed(store):
    other = filled(GenerationStore(store.root.with_name("other"))).manifest(1)
    store.verify(other)
    with pytest.raises(StoreError, match="gen_001 holds another pool"):
        store.verify(type(other)(**{**other.to_dict(), "rows": 3}).sealed())


def test_the_same_rows_again_are_only_checked(store):
    assert store.write_gold(gold(), facts={"data": "otherwise named"}) == store.manifest(0)
    changed = gold()
    changed.x[17, 1] += 1
    with pytest.raises(StoreError, match="holds other rows than the data set"):
        store.write_gold(changed, facts={})


def test_the_folder_of_a_store_that_is_gone_is_refused_in_a_sentence(store):
    """Its manifests outlive it, its rows do not."""
    again = MemoryStore(store.root)
    with pytest.raises(StoreError):
        again.pool([again.manifest(0)])


# --- chains -----------------------------------------------------------------------------------------------------------


def vae():
    return VAE((2,), 2, hidden=8, likelihood="gaussian")


def ring(**settings):
    return RingOfGaussians(4, **{"rows": 64, "reference_rows": 8, "batch_size": 16, **settings})


def replicated(**settings):
    return GaussianData(**{"rows": 300, "replicates": 3, "reference_rows": 8, "batch_size": 7, **settings})


CHAINS = {
    "labels": (vae, lambda: ring(), [DataAccumulation()]),
    "images": (lambda: VAE((1, 8, 8), 2, hidden=8), lambda: Digits(batch_size=256), [AnchorReplay(0.3)]),
    "whole batches": (lambda: Gaussian(2), lambda: ring(batch_size=None), [DataAccumulation(30)]),
    "redrawn": (lambda: Gaussian(1, replicates=3), replicated, [AnchorReplay(0.4, "redrawn")]),
    "coins": (
        lambda: Gaussian(1, replicates=3),
        replicated,
        [AnchorReplay(0.4, "coin"), WeightedLikelihood(0.6)],
    ),
    "subsample": (lambda: Gaussian(1, replicates=3), replicated, [DataAccumulation(40)]),
    "one replicate": (lambda: Gaussian(1, replicates=1), lambda: replicated(replicates=1), [DataAccumulation(40)]),
    "one replicate in pairs": (
        lambda: Gaussian(1, replicates=1),
        lambda: replicated(rows=20, replicates=1, batch_size=2),
        [DataAccumulation(12)],
    ),
}


def in_both(tmp_path, model, data, **settings):
    defaults = {"generations": 3, "samples_per_generation": 48, "chunk_size": 20, "evaluate": False}
    for store in (None, tmp_path / "run"):
        yield run_chain(model(), data(), store=store, **{**defaults, **settings})


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_in_memory_is_the_chain_on_disk(tmp_path, name):
    model, data, mitigations = CHAINS[name]
    memory, disk = in_both(tmp_path, model, data, mitigations=mitigations)
    assert [record.digests for record in memory.records] == [record.digests for record in disk.records]
    assert memory.records == disk.records
    rows = torch.arange(len(disk.pool()))
    for one, other in zip(memory.pool().gather(rows), disk.pool().gather(rows), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_loader_workers_read_the_same_rows():
    alone, helped = (
        run_chain(vae(), ring(num_workers=number), generations=2, samples_per_generation=48, evaluate=False)
        for number in (0, 1)
    )
    assert alone.records == helped.records


def test_the_root_of_a_chain_in_memory_is_a_run_folder():
    chain = run_chain(
        vae(), ring(), generations=3, samples_per_generation=48, mitigations=[DataAccumulation()], evaluate=False
    )
    found = Chain.load(chain.root)
    assert found.records == chain.records
    for index in range(4):
        found.store.verify(found.store.manifest(index))
    rows = torch.arange(64 + 3 * 48)
    assert torch.equal(found.pool().gather(rows).x, chain.pool().gather(rows).x)
    for index in range(3):
        ours, theirs = chain.state(index), found.state(index)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    resumed = run_chain(
        vae(),
        ring(),
        generations=3,
        samples_per_generation=48,
        mitigations=[DataAccumulation()],
        evaluate=False,
        store=chain.root,
    )
    assert resumed.records == chain.records


class Constant(GenerativeModule):
    """Samples are its own parameter, once per row, without a copy."""

    learning_rate = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def loss(self, batch):
        return (batch.x - self.mean).square().sum(1)

    def sample(self, n, generator, y=None):
        return self.mean.detach().expand(n, 2)


def test_training_does_not_change_rows_that_were_sampled(tmp_path):
    memory, disk = in_both(tmp_path, Constant, ring)
    assert [record.digests for record in memory.records] == [record.digests for record in disk.records]
    for generation in range(1, 4):
        row = memory.pool().gather(torch.tensor([64 + 48 * (generation - 1)])).x[0]
        assert torch.equal(row, memory.state(generation - 1)["mean"])


class Reusing(Constant):
    """Samples always lie in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.empty(20, 2)

    def sample(self, n, generator, y=None):
        return self.out.normal_(generator=generator)[:n]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_sampler_may_use_its_memory_again(tmp_path, where):
    chain = run_chain(
        Reusing(),
        ring(),
        generations=1,
        samples_per_generation=200,
        chunk_size=20,
        evaluate=False,
        store=None if where == "memory" else tmp_path,
    )
    sampled = chain.pool().gather(torch.arange(64, 264)).x
    assert len(sampled.unique(dim=0)) == 200, "chunks overwrote each other"
