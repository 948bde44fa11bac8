"""What a generation trains on: its own pool, each row as often as it should, on any number of processes."""

import math
import multiprocessing
import random
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from chains import Denoiser, Plain, Probe, Zeros, ring, same, vae
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from collapse.data import RecursiveDataModule, RingOfGaussians
from collapse.data.generation import Generation, GenerationCallback
from collapse.data.loading import KeyedBatches
from collapse.data.store import GenerationStore
from collapse.mitigations import EMA, AnchorReplay, DataAccumulation, RealOnly, SIGReg, SlidingWindow
from collapse.recursion.harvest import write_samples
from collapse.recursion.sampling import ConditionedSampler, draw_chunk
from collapse.seeding import keyed_rng

# From Python 3.12 on, forking loader workers from a process with threads is deprecated; that is torch's decision.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")

GOLD, SAMPLES, BATCH = 64, 48, 16


def draw_from_everything(*unused, **ignored):
    """Draw from every global generator, after giving it a seed nobody knows."""
    torch.seed()
    torch.rand(3)
    np.random.seed()  # noqa: NPY002 - the global one is the point
    np.random.rand(3)  # noqa: NPY002
    random.seed()
    random.random()


# --- 4: its own pool --------------------------------------------------------------------------------------------------

REGIMES = {
    "replace": ([], [{0: 64}, {1: 48}, {2: 48}, {3: 48}]),
    "accumulate": (
        [DataAccumulation()],
        [{0: 64}, {0: 64, 1: 48}, {0: 64, 1: 48, 2: 48}, {0: 64, 1: 48, 2: 48, 3: 48}],
    ),
    "subsample": ([DataAccumulation(subsample=1000)], [{0: 64}, {0: 64, 1: 48}, {0: 64, 1: 48, 2: 48}, None]),
    "anchor": ([AnchorReplay(0.25)], [{0: 64}, {0: 12, 1: 36}, {0: 12, 2: 36}, {0: 12, 3: 36}]),
    "redrawn": ([AnchorReplay(0.25, "redrawn")], [{0: 64}, {0: 12, 1: 36}, {0: 12, 2: 36}, {0: 12, 3: 36}]),
    "fresh": ([AnchorReplay(0.25, "fresh")], [{0: 28}, {0: 12, 1: 36}, {0: 12, 2: 36}, {0: 12, 3: 36}]),
    "window": ([SlidingWindow(2)], [{0: 64}, {0: 64, 1: 48}, {1: 48, 2: 48}, {2: 48, 3: 48}]),
    "real": ([RealOnly()], [{0: 64}, {0: 48}, {0: 48}, {0: 48}]),
}


def counted(values):
    return dict(zip(*[part.tolist() for part in np.unique(values, return_counts=True)], strict=True))


def cheap(regime, workers):
    """Workers do not know regimes: two regimes are enough for them."""
    return workers == 0 or regime in ("accumulate", "anchor")


CASES = [(regime, workers) for workers in (0, 2) for regime in REGIMES if cheap(regime, workers)]


@pytest.mark.parametrize(("regime", "workers"), CASES)
def test_every_epoch_visits_the_rows_of_its_own_pool_once_each(chain, regime, workers):
    mitigations, expected = REGIMES[regime]
    generations = 4 if expected[3] else 3
    module = Probe()
    chain(module, Zeros(GOLD, BATCH, workers), generations=generations, mitigations=mitigations)
    drawn = {}
    for generation in range(generations):
        for epoch in range(2):
            batches = module.epoch(generation, epoch)
            assert counted([value for batch in batches for value in batch.values]) == expected[generation]
            rows = [row for batch in batches for row in batch.rows]
            assert len(set(rows)) == len(rows)
            drawn[generation, epoch] = rows
        assert sorted(drawn[generation, 0]) == sorted(drawn[generation, 1]), "one draw for a whole generation"
        assert drawn[generation, 0] != drawn[generation, 1], "but a new order in each epoch"
    assert len(module.seen) == sum(len(module.epoch(g, e)) for g, e in drawn), "and no other epoch was trained"


@pytest.mark.parametrize(("regime", "workers"), CASES)
def test_a_step_budget_laps_over_the_same_pool(chain, regime, workers):
    mitigations, expected = REGIMES[regime]
    generations = 4 if expected[3] else 3
    module = Probe()
    run = chain(
        module,
        Zeros(GOLD, BATCH, workers),
        generations=generations,
        mitigations=mitigations,
        steps_per_generation=9,
    )
    for generation in range(generations):
        batches = module.epoch(generation, 0)
        rows = [row for batch in batches for row in batch.rows]
        values = [value for batch in batches for value in batch.values]
        assert [len(batch.rows) for batch in batches] == [BATCH] * 9
        size = sum(expected[generation].values())
        laps = [(rows[start : start + size], values[start : start + size]) for start in range(0, len(rows), size)]
        for lap_rows, lap_values in laps:
            assert len(set(lap_rows)) == len(lap_rows)
            if len(lap_rows) == size:
                assert counted(lap_values) == expected[generation]
                assert sorted(lap_rows) == sorted(laps[0][0])
        assert len({tuple(lap) for lap, _ in laps}) == len(laps), "every lap has an order of its own"
    assert [record.counts["steps"] for record in run.chain.records] == [9] * generations
    assert {seen.epoch for seen in module.seen} == {0}


class Workers(GenerationCallback):
    """Counts the loader processes at the end of each generation."""

    def __init__(self) -> None:
        self.alive = []

    def on_generation_end(self, trainer, module, generation):
        self.alive.append(len(multiprocessing.active_children()))


def test_workers_change_no_byte_and_go_with_their_generation(chain):
    before, workers = len(multiprocessing.active_children()), Workers()
    run = chain(vae(), ring(num_workers=2), mitigations=[DataAccumulation()], callbacks=[workers])
    assert workers.alive == [before + 2] * 3
    assert len(multiprocessing.active_children()) == before
    assert run.digests == chain(vae(), ring(), mitigations=[DataAccumulation()]).digests


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dropped_iterator_and_a_new_one_give_the_same_batches(workers):
    """Lightning asks for an iterator twice an epoch and drops one; persistent workers must not notice."""
    loader = ring(num_workers=workers).train_dataloader()
    whole = [batch.row for batch in loader]
    iter(loader)
    again = iter(loader)
    rows = [next(again).row for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(rows, whole[:2], strict=True))
    assert [len(batch.row) for batch in loader] == [16] * 4


def test_a_finished_run_leaves_its_data_module_serving_its_last_generation(chain):
    run = chain(Probe(), Zeros())
    wanted = run.recursion.upcoming()
    assert wanted.generation == 2, "there is none after the last"
    batch = next(iter(run.data.train_dataloader()))
    assert set(batch.x[:, 0].tolist()) == {2.0}


# --- 5: the accumulated pool ------------------------------------------------------------------------------------------


def test_an_accumulated_pool_is_visited_whole_and_its_epochs_grow(chain):
    module = Probe()
    run = chain(module, Zeros(GOLD, BATCH), mitigations=[DataAccumulation()])
    for generation, rows in enumerate([64, 112, 160]):
        for epoch in range(2):
            batches = module.epoch(generation, epoch)
            assert sorted(row for batch in batches for row in batch.rows) == list(range(rows))
            assert len(batches) == -(-rows // BATCH)
            sizes = {len(batch.rows) for batch in batches}
            assert max(sizes) - min(sizes) <= 1
        assert run.chain.records[generation].counts["steps"] == 2 * -(-rows // BATCH)


def test_a_step_budget_does_not_grow_with_the_pool_and_still_reaches_all_of_it(chain):
    module = Probe()
    run = chain(module, Zeros(GOLD, BATCH), mitigations=[DataAccumulation()], steps_per_generation=12)
    for generation, rows in enumerate([64, 112, 160]):
        seen = [row for batch in module.epoch(generation, 0) for row in batch.rows]
        assert len(seen) == 12 * BATCH
        assert sorted(seen[:rows]) == list(range(rows))
        counts = np.bincount(seen, minlength=rows)
        assert counts.max() - counts.min() <= 1
    assert [record.counts["trained"] for record in run.chain.records] == [64, 112, 160]


def test_one_batch_of_everything(chain):
    module = Probe()
    chain(module, Zeros(GOLD, None), mitigations=[DataAccumulation()], epochs_per_generation=1)
    assert [len(batch.rows) for batch in module.seen] == [64, 112, 160]


# --- 6: KeyedBatches --------------------------------------------------------------------------------------------------


@st.composite
def plans(draw):
    return {
        "rows": draw(st.integers(4, 120)),
        "batch_size": draw(st.one_of(st.none(), st.integers(1, 12))),
        "steps": draw(st.one_of(st.none(), st.integers(1, 25))),
        "seed": draw(st.integers(0, 3)),
        "generation": draw(st.integers(0, 3)),
        "epoch": draw(st.integers(0, 3)),
    }


def shares(plan, world):
    """The batches of every rank, with the *global* batch size ``12 * batch_size`` whatever the world."""
    size = None if plan["batch_size"] is None else 12 * plan["batch_size"] // world
    ranks = []
    for rank in range(world):
        batches = KeyedBatches(
            plan["rows"],
            size,
            seed=plan["seed"],
            generation=plan["generation"],
            steps=plan["steps"],
            rank=rank,
            world=world,
        )
        batches.epoch = plan["epoch"]
        taken = list(batches)
        assert len(taken) == len(batches)
        ranks.append(taken)
    return ranks


@settings(max_examples=150, deadline=None)
@given(plans(), st.sampled_from([2, 3, 4]))
def test_the_union_over_processes_is_the_batch_of_one(plan, world):
    (alone,) = shares(plan, 1)
    ranks = shares(plan, world)
    assert {len(rank) for rank in ranks} == {len(alone)}
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), batch)  # in order, so the union is the batch; none twice, none missing
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=150, deadline=None)
@given(plans())
def test_laps_are_permutations_and_batches_even(plan):
    (batches,) = shares(plan, 1)
    rows, sizes = plan["rows"], [len(batch) for batch in batches]
    visited = torch.cat(batches)
    if plan["steps"] is None:
        assert len(visited) == rows
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= (rows if plan["batch_size"] is None else 12 * plan["batch_size"])
    else:
        assert sizes == [rows if plan["batch_size"] is None else 12 * plan["batch_size"]] * plan["steps"]
    for start in range(0, len(visited), rows):
        lap = visited[start : start + rows]
        assert len(lap.unique()) == len(lap)
        assert int(lap.max()) < rows


@pytest.mark.parametrize("counter", ["seed", "generation", "epoch"])
def test_the_order_has_a_key_of_its_own(counter):
    plan = {"rows": 50, "batch_size": 1, "steps": None, "seed": 0, "generation": 0, "epoch": 0}
    orders = [tuple(torch.cat(shares({**plan, counter: value}, 1)[0]).tolist()) for value in range(20)]
    assert len(set(orders)) == 20


def test_an_epoch_taken_up_in_its_middle_goes_on_where_it_was():
    batches = KeyedBatches(100, 8, seed=1, generation=2, steps=30)
    whole = list(batches)
    for skip in (1, 12, 13, 29):
        batches.skip = skip
        assert all(torch.equal(one, other) for one, other in zip(batches, whole[skip:], strict=True))
        assert len(list(batches)) == 30, "once only"


def test_fewer_rows_than_processes_is_an_error():
    with pytest.raises(ValueError, match="3 rows for 4 processes"):
        KeyedBatches(3, 8, world=4)


# --- 7: the pool does not depend on the number of processes -----------------------------------------------------------


class Rank(SimpleNamespace):
    """As much of a Trainer as one process of ``world_size`` needs to write its share; all of them agree."""

    def __init__(self, rank, world) -> None:
        agreeing = SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision)
        super().__init__(global_rank=rank, world_size=world, strategy=agreeing)


@pytest.mark.parametrize("samples", [48, 50, 7])
def test_one_process_and_many_write_the_same_pool(tmp_path, samples):
    with keyed_rng(0):
        module = vae()
    manifests, calls = [], []
    for world in (1, 2, 3, 4, 7):
        store = GenerationStore(tmp_path / str(world), durable=False)
        store.write_gold(ring().gold(), facts={})
        generation = Generation(0, 1, 5, samples, store.pool([store.manifest(0)]))
        for rank in reversed(range(world)):
            count = [0]

            def sample(n, generator, count=count):
                count[0] += 1
                draw_from_everything()  # the global generators are not the sampler's
                return module.sample(n, generator)

            torch.manual_seed(rank)
            sampler = ConditionedSampler(sample)
            chunks = write_samples(Rank(rank, world), module, sampler, store, generation=generation, chunk_size=10)
            calls.append((world, count[0]))
        manifests.append(store.seal(1, chunks, parent="", facts={}))
    assert len({manifest.digest for manifest in manifests}) == 1
    assert manifests[0].rows == samples
    # Every process calls the sampler equally often, whatever its share: collectives inside it must not dead-lock.
    assert set(calls) == {(world, math.ceil(math.ceil(samples / 10) / world)) for world in (1, 2, 3, 4, 7)}


def test_no_two_chunks_and_no_two_generations_hold_the_same_rows(chain):
    """Chunks drawn with one key would be copies: a collapse of the framework's own making."""

    class Still(Denoiser):
        learning_rate = 0.0

    run = chain(Still(), initialization="same", samples_per_generation=60, chunk_size=15)
    rows = torch.cat([torch.from_numpy(np.load(path)) for path in run.chain.root.rglob("gen_00[123]/chunk_?????.npy")])
    assert len(rows) == 180
    assert len(rows.unique(dim=0)) == 180


# --- 15: observers ----------------------------------------------------------------------------------------------------


HOOKS = sorted(
    {name for base in (pl.Callback, GenerationCallback) for name in dir(base) if name.startswith("on_")}
    | {"setup", "teardown"}
)
Noise = type("Noise", (GenerationCallback,), dict.fromkeys(HOOKS, draw_from_everything))
QuietBeforeBatches = type(
    "QuietBeforeBatches", (Noise,), {"on_train_batch_start": GenerationCallback.on_train_batch_start}
)


class Dropping(Denoiser):
    """Draws in its training step, and has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def loss(self, batch):
        x = torch.nn.functional.dropout(self.norm(batch.x), 0.2, training=self.training)
        return super().loss(batch._replace(x=x))


class Validating(Dropping):
    """Draws in a validation step, too."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch).mean())


class Validated(RingOfGaussians):
    """The ring with a validation loader; without a generator of its own, it takes a seed from the global one."""

    def val_dataloader(self):
        pool = RecursiveDataModule.training_set(ring()).pool
        return DataLoader(range(64), batch_size=8, collate_fn=lambda rows: pool.gather(torch.tensor(rows)))


def test_the_hooks_of_the_noisy_observer_are_lightnings():
    assert len(HOOKS) > 30
    assert {"on_train_batch_start", "on_before_zero_grad", "on_validation_batch_start", "on_generation_end"} <= set(
        HOOKS
    )


STACKS = {
    "plain": [],
    "all": [DataAccumulation(subsample=50), AnchorReplay(0.2, "redrawn"), EMA(0.9)],
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("module", [Dropping, vae])
def test_an_observer_that_draws_random_numbers_changes_nothing(chain, module, stack):
    mitigations = [*STACKS[stack], *([SIGReg(0.1)] if module is vae and stack == "all" else [])]
    quiet = chain(module(), mitigations=mitigations)
    noisy = chain(module(), mitigations=mitigations, callbacks=[Noise()])
    assert noisy.digests == quiet.digests
    assert [record.metrics for record in noisy.chain.records] == [record.metrics for record in quiet.chain.records]


@pytest.mark.parametrize("module", [Dropping, Plain])
def test_the_place_in_the_list_of_callbacks_does_not_matter(chain, module):
    mitigations = [DataAccumulation(), EMA(0.9)]
    after = chain(module(), mitigations=mitigations)
    assert chain(module(), ahead=[Noise(), *mitigations]).digests == after.digests


def test_an_observer_changes_nothing_of_a_plain_module(chain):
    """All hooks but one: between a later callback's on_train_batch_start and a plain module's step stands nothing."""
    quiet = chain(Plain())
    assert chain(Plain(), callbacks=[QuietBeforeBatches()]).digests == quiet.digests


@pytest.mark.parametrize("observers", [[], [Noise()]], ids=["quiet", "noisy"])
def test_a_validation_loop_changes_nothing(chain, observers):
    without = chain(Dropping())
    data = Validated(4, rows=64, reference_rows=8, batch_size=16)
    watched = chain(Validating(), data, callbacks=observers)
    assert "val/loss" in watched.trainer.callback_metrics
    for name in ("weights", "training_set"):  # the name of the data is part of the other two
        assert [digests[name] for digests in watched.digests] == [digests[name] for digests in without.digests]


def test_the_global_generators_of_the_process_do_not_matter(chain):
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        digests.append(chain(Dropping(), mitigations=[DataAccumulation(40)]).digests)
    assert digests[0] == digests[1]


class Careless(Denoiser):
    """Samples from every global generator beside its own."""

    def sample(self, n, generator, y=None):
        noise = np.random.rand() + random.random()  # noqa: NPY002
        return super().sample(n, generator) + torch.randn(n, 2) + noise


def test_a_sampler_that_uses_global_randomness_is_keyed_all_the_same(chain):
    assert chain(Careless(), callbacks=[Noise()]).digests == chain(Careless()).digests


def states():
    """The states of all global generators."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), keys.tolist(), rest, random.getstate()]


def test_sampling_and_loading_take_nothing_from_the_global_generators():
    draw_from_everything()
    module = Careless()
    before = states()
    draw_chunk(module.sample, 10, (1, 2, 3), torch.device("cpu"))
    for _ in ring().train_dataloader():
        pass
    assert states() == before


def test_another_seed_is_another_chain(chain):
    one, other = chain(vae(), seed=0), chain(vae(), seed=1)
    for here, there in zip(one.digests, other.digests, strict=True):
        assert here["weights"] != there["weights"]
        assert here["pool"] != there["pool"]


def test_twice_the_same_chain(chain):
    one, other = chain(vae()), chain(vae())
    assert one.digests == other.digests
    assert all(same(one.chain.state(g), other.chain.state(g)) for g in range(3))
    assert (one.chain.root / "metrics.jsonl").read_text().replace(one.chain.root.name, "") == (
        other.chain.root / "metrics.jsonl"
    ).read_text().replace(other.chain.root.name, "")
