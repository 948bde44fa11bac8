"""Gates: strange rows are dropped, with the reason on record; a pool that cannot pass for real never comes to be."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from collapse.data import DataPool, GaussianData, GenerationStore, Origin, Samples
from collapse.data.generation import Generation
from collapse.data.rows import HELD, provenance
from collapse.metrics import conformal_outliers
from collapse.mitigations import DataAccumulation, Mitigation, OutlierFilter, PoolGate, PoolRefusedError
from collapse.mitigations.gate import gold_rows
from collapse.models import Gaussian
from collapse.recursion import run_chain
from collapse.recursion.rehearsal import rehearse
from collapse.seeding import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def generation_of(gold, index=2, seed=5):
    """A generation whose pool has gold, a deposit, and two kinds of real rows that are not gold."""
    others = [(Origin.SYNTHETIC, 1), (Origin.REAL, 1), (Origin.REAL, HELD), (Origin.UNKNOWN, 0)]
    far = [np.full((7, *gold.shape[1:]), 100 + kind, gold.numpy().dtype) for kind in range(4)]
    shards = [gold.numpy(), *far]
    records = [provenance(len(gold), origin=Origin.REAL, generation=0)]
    records += [provenance(7, origin=origin, generation=generation) for origin, generation in others]
    return Generation(index, 4, seed, 50, DataPool(shards, records))


def candidates(x):
    return Samples(x, candidate=np.arange(len(x)))


# Gold


def test_gold_is_what_the_chain_started_from():
    gold = normal(40, 2)
    assert torch.equal(gold_rows(generation_of(gold), 40), gold)
    drawn = [gold_rows(generation_of(gold, index), 12) for index in (1, 1, 2)]
    assert all(len(rows) == 12 and bool((rows[:, None] == gold).all(2).any(1).all()) for rows in drawn)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# The filter


def test_strange_rows_are_dropped_and_every_row_has_its_p_value_on_record():
    gold, x = normal(99, 2), normal(30, 2, seed=1)
    x[[4, 17]] = 9.0
    kept = OutlierFilter(0.05).curate(candidates(x), generation_of(gold))
    p_values = conformal_outliers(gold, x).p_value.numpy()
    assert kept.candidate.tolist() == np.flatnonzero(p_values > 0.05).tolist()
    assert not {4, 17} & set(kept.candidate.tolist())
    assert torch.equal(kept.x, x[kept.candidate])
    np.testing.assert_array_equal(kept.score, p_values[kept.candidate])
    left_out = np.flatnonzero(p_values <= 0.05)
    np.testing.assert_array_equal(kept.rejected, np.stack([left_out, p_values[left_out]], 1))


def test_fresh_real_rows_are_dropped_at_the_rate():
    """One candidate beside each of a thousand gold sets."""
    kept = [
        len(
            OutlierFilter(0.1, neighbors=3).curate(
                candidates(normal(1, 2, seed=-i)), generation_of(normal(59, 2, seed=i))
            )
        )
        for i in range(1, 1001)
    ]
    low, high = binom.interval(0.999, 1000, 0.1)
    assert low <= kept.count(0) <= high


def test_a_rate_of_zero_returns_the_samples_themselves():
    samples = candidates(normal(5, 2) + 50)
    assert OutlierFilter(0.0).curate(samples, generation_of(normal(20, 2))) is samples
    assert PoolGate(0.0).curate(samples, generation_of(normal(20, 2))) is samples


def test_a_rate_that_no_p_value_reaches_is_refused():
    with pytest.raises(ValueError, match=r"can drop nothing beside 48 gold rows: no p-value is below 1/49; raise rate"):
        OutlierFilter(0.02).check(generation_of(normal(48, 2)))
    OutlierFilter(0.02).check(generation_of(normal(49, 2)))
    assert len(OutlierFilter(0.02).curate(candidates(normal(5, 2) + 50), generation_of(normal(49, 2)))) == 0
    with pytest.raises(ValueError, match=r"rate must be 0 or at least 1 / \(max_gold \+ 1\), got 0.01 and 98"):
        OutlierFilter(0.01, max_gold=98)
    OutlierFilter(0.01, max_gold=99)


def test_a_filtered_chain_trains_on_what_passed():
    data = GaussianData(200, 2)
    chain = run_chain(Gaussian(2), data, generations=3, samples_per_generation=100, mitigations=[OutlierFilter(0.1)])
    gold = torch.as_tensor(data.gold().x)
    pool = chain.pool()
    for record in chain.records:
        kept = pool.gather((pool.generation == record.generation + 1).nonzero()[:, 0]).x
        assert record.counts["kept"] == len(kept) < record.counts["candidates"] == 100
        if len(kept):
            assert (conformal_outliers(gold, kept).p_value > 0.1).all()
    assert chain.records[1].counts["trained"] == chain.records[0].counts["kept"]


# The gate


class Faulty(Gaussian):
    """Samples with the spread of a quarter of its variance from generation ``since`` on."""

    def __init__(self, dim: int, since: int = 0) -> None:
        super().__init__(dim)
        self.since = since

    def sample(self, n, generator, y=None):
        x = super().sample(n, generator, y)
        return x if self.clock.generation < self.since else x.mean(0) + 0.5 * (x - x.mean(0))


def chain_of(model, *mitigations, **settings):
    defaults = {"generations": 3, "samples_per_generation": 150, "evaluate": False}
    return run_chain(model, GaussianData(150, 2), mitigations=mitigations, **{**defaults, **settings})


def test_a_gate_that_finds_nothing_changes_nothing():
    plain, gated = (chain_of(Gaussian(2), DataAccumulation(), *gate) for gate in ((), (PoolGate(),)))
    for name in ("weights", "training_set"):
        assert [record.digests[name] for record in plain.records] == [record.digests[name] for record in gated.records]
    rows = torch.arange(len(plain.pool()))
    assert torch.equal(plain.pool().gather(rows).x, gated.pool().gather(rows).x)


@pytest.mark.parametrize("since", [0, 1])
def test_a_refusal_names_everything_and_commits_nothing(since, tmp_path):
    with pytest.raises(PoolRefusedError) as refused:
        chain_of(Faulty(2, since), PoolGate(), store=tmp_path)
    error = refused.value
    assert error.generation == since + 1
    found = {finding.statistic: finding for finding in error.report.alarms}["variance_ratio"]
    assert found.value < 0.5 < found.low
    message = str(error)
    assert message.startswith(
        f"PoolGate() refuses the pool of generation {since + 1}: 150 incoming rows beside 150 of gold"
    )
    assert f"variance_ratio = {found.value:.4g} is outside [{found.low:.4g}, {found.high:.4g}]" in message
    assert message.endswith("train longer or on more real rows, or lower false_alarm, in a new run folder")
    store = GenerationStore(tmp_path)
    assert store.committed(since)
    assert not store.committed(since + 1)
    with pytest.raises(PoolRefusedError) as again:
        chain_of(Faulty(2, since), PoolGate(), store=tmp_path)
    assert str(again.value) == message


class Noise(Mitigation):
    """Throws every tenth candidate far away."""

    def curate(self, samples, generation):
        x = torch.as_tensor(samples.x).clone()
        x[::10] += 40
        return Samples(x, candidate=samples.candidate)


def test_a_gate_judges_what_a_filter_before_it_has_kept():
    assert len(chain_of(Gaussian(2), Noise(), OutlierFilter(0.01), PoolGate(), generations=1).records) == 1
    with pytest.raises(PoolRefusedError):
        chain_of(Gaussian(2), Noise(), PoolGate(), OutlierFilter(0.01), generations=1)


@pytest.mark.parametrize("gate", [OutlierFilter(), PoolGate()], ids=repr)
def test_rows_of_many_experiments_cannot_be_judged(gate):
    with pytest.raises(ValueError, match=r"judges rows, and each row of these data is 4 independent experiments; use"):
        run_chain(
            Gaussian(2, replicates=4),
            GaussianData(30, 2, replicates=4),
            mitigations=[gate],
            generations=2,
            samples_per_generation=30,
        )


# What cannot be judged


class Untrained(Gaussian):
    """Never sees a row."""

    def update(self, batch):
        raise AssertionError("trained")


@pytest.mark.parametrize(
    ("gate", "rows", "samples", "message"),
    [
        (OutlierFilter(0.02), 48, 30, "can drop nothing beside 48 gold rows"),
        (OutlierFilter(0.2), 5, 30, "needs more gold rows than neighbors, and gold has 5; lower neighbors"),
        (OutlierFilter(0.0), 5, 30, "needs more gold rows than neighbors"),
        (PoolGate(), 30, 1, "cannot compare samples with gold: incoming has 1 rows, but at least 2 are needed"),
        (PoolGate(), 1, 30, "cannot compare samples with gold: gold has 1 rows, but at least 2 are needed"),
        (PoolGate(max_rows=3), 2, 30, "gold and incoming have 5 rows together; at least 6 are needed"),
    ],
    ids=repr,
)
def test_what_can_never_be_judged_is_refused_before_anything_is_trained(gate, rows, samples, message):
    settings = {"mitigations": [gate], "generations": 2, "samples_per_generation": samples}
    with pytest.raises(ValueError, match=message):
        run_chain(Untrained(2), GaussianData(rows, 2), evaluate=False, **settings)
    with pytest.raises(ValueError, match=message):
        rehearse(Untrained(2), GaussianData(rows, 2), [gate], generations=2, samples=samples)


def test_as_few_rows_as_can_be_judged_are():
    PoolGate(max_rows=3).check(generation_of(normal(3, 2)))
    OutlierFilter(0.25, neighbors=2).check(generation_of(normal(3, 2)))
    with pytest.raises(ValueError, match="gold has 9 equal rows"):
        PoolGate().check(generation_of(normal(1, 2).repeat(9, 1)))


@pytest.mark.parametrize("gate", [OutlierFilter(), PoolGate()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_tokens_have_no_distances_and_images_have(gate, dtype):
    rows = torch.randint(200, (150, 4), generator=generator(0)).to(dtype)
    if dtype == torch.uint8:
        gate.check(generation_of(rows))
        return
    with pytest.raises(ValueError, match=f"needs rows with a distance, and gold's are {str(dtype)[6:]} tokens; leave"):
        gate.check(generation_of(rows))
