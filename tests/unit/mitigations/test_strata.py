"""Protected strata: which rows are the tails of gold."""

import copy
import dataclasses
import functools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from xxhash import xxh3_128_hexdigest

from collapse.data import DataPool, GaussianData, MarkovData, Origin, strata
from collapse.data.generation import Generation
from collapse.data.rows import provenance
from collapse.data.strata import class_rarity, content, neighbor_distance, tail, token_rarity
from collapse.mitigations import ProtectedStrata
from collapse.models import Gaussian
from collapse.recursion import run_chain
from collapse.recursion.rehearsal import rehearse
from collapse.seeding import generator

GOLD, SAMPLES, TOTAL = 40, 30, 4


def pool_of(x, y=None):
    return DataPool([x], [provenance(len(x), origin=Origin.REAL, generation=0, y=y)])


def at_generation(index, *, total=TOTAL, samples=SAMPLES, seed=3, gold=GOLD):
    """Generation ``index``; row i of gold lies at i squared, so that the last rows have the most distant neighbors."""
    x = (np.arange(gold, dtype=np.float32) ** 2)[:, None]
    records = [provenance(gold, origin=Origin.REAL, generation=0, y=np.arange(gold) % 7)]
    records += [provenance(samples, origin=Origin.SYNTHETIC, generation=made) for made in range(1, index + 1)]
    return Generation(
        index, total, seed, samples, DataPool([x, *[np.zeros((samples, 1), np.float32)] * index], records)
    )


def protected_of(mitigation, x, y=None):
    return mitigation.protected(pool_of(x, y)).tolist()


# --- strata -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1 << 23, 100])
@pytest.mark.parametrize(("shape", "k"), [((60, 2), 1), ((57, 3, 4), 5), ((60,), 3)])
def test_the_distance_to_a_neighbor_is_that_of_brute_force(shape, k, block, monkeypatch):
    monkeypatch.setattr(strata, "BLOCK", block)  # the last part is a small one
    x = torch.randn(*shape, generator=generator(1)) + 100.0
    flat = x.double().reshape(len(x), -1).numpy()
    expected = np.sort(cdist(flat, flat), axis=1)[:, k]  # column 0 is the row itself
    np.testing.assert_allclose(neighbor_distance(x, k), expected, rtol=1e-6)


def test_the_distance_between_images_is_exact():
    """So duplicates are at distance 0, and mirror images of one another are ties, on whatever machine."""
    x = torch.randint(256, (50, 1, 8, 8), generator=generator(2)).to(torch.uint8)
    x = torch.cat([x, x[:3], 255 - x])
    flat = x.double().reshape(len(x), -1).numpy()
    expected = np.sort(cdist(flat, flat), axis=1)
    for k in (1, 4):
        np.testing.assert_array_equal(neighbor_distance(x, k), expected[:, k].astype(np.float32))
    assert (neighbor_distance(x, 1) == 0).nonzero().squeeze(1).tolist() == [0, 1, 2, 50, 51, 52]


def test_density_protects_the_outliers_and_breaks_ties_by_row():
    plane = np.array([[0, 0], [0, 9], [9, 0], [0.1, 0], [0, 0.1], [40, 40]], np.float32)
    assert protected_of(ProtectedStrata(3 / 6, k=1), plane) == [1, 2, 5]
    assert protected_of(ProtectedStrata(2 / 6, k=1), plane) == [1, 5]  # rows 1 and 2 lie at 8.9 from the next, 1 first
    assert protected_of(ProtectedStrata(2 / 6, k=1), plane[[2, 1, 0, 3, 4, 5]]) == [0, 5]
    assert protected_of(ProtectedStrata(2 / 6, k=1), plane[[0, 5, 3, 2, 4, 1]]) == [1, 3]


@pytest.mark.parametrize(("rows", "k"), [(5, 5), (1, 5), (3, 3)])
def test_a_neighbor_that_does_not_exist_is_a_sentence(rows, k):
    with pytest.raises(ValueError, match=f"k={k} must be at least 1 and below the {rows} rows"):
        protected_of(ProtectedStrata(0.5, k=k), np.zeros((rows, 2), np.float32))


def test_rare_classes_come_first_and_rows_without_a_class_last():
    y = np.array([0, 1, 1, 1, 0, 2, -1, 1, 0, -1])
    x = np.zeros((10, 1), np.float32)
    assert class_rarity(torch.from_numpy(y)).tolist() == [-3, -4, -4, -4, -3, -1, -math.inf, -4, -3, -math.inf]
    by_share = {share: protected_of(ProtectedStrata(share, "class"), x, y) for share in (0.1, 0.3, 0.4, 0.8, 1.0)}
    assert by_share == {
        0.1: [5],
        0.3: [0, 4, 5],
        0.4: [0, 4, 5, 8],
        0.8: [0, 1, 2, 3, 4, 5, 7, 8],
        1.0: list(range(10)),
    }


def test_tokens_of_a_markov_chain_are_as_rare_as_counting_says():
    data = MarkovData(rows=50, transition=((0.9, 0.08, 0.02), (0.5, 0.3, 0.2), (0.1, 0.1, 0.8)), length=7, seed=4)
    x = np.asarray(data.gold().x)
    count = Counter(x.reshape(-1).tolist())
    rarity = [[-math.log(count[token] / 350) for token in row] for row in x.tolist()]
    np.testing.assert_allclose(token_rarity(torch.from_numpy(x)), rarity, rtol=1e-12)
    for by, summary in (("token", lambda row: sum(row) / 7), ("rarest_token", max)):
        score = [round(summary(row), 9) for row in rarity]
        expected = sorted(range(50), key=lambda row: (-score[row], row))[:8]
        assert protected_of(ProtectedStrata(0.16, by), x) == sorted(expected)


def test_rarity_by_hand():
    x = torch.tensor([[0, 0], [0, 1], [0, 0], [2, 0]])  # six of 0, one of 1, one of 2
    common, rare = -math.log(6 / 8), -math.log(1 / 8)
    assert token_rarity(x).tolist() == [[common] * 2, [common, rare], [common] * 2, [rare, common]]
    assert protected_of(ProtectedStrata(0.25, "rarest_token"), x.numpy()) == [1]
    assert protected_of(ProtectedStrata(0.5, "token"), x.numpy()) == [1, 3]


def test_the_tail_is_a_share_and_one_row_at_least():
    score = torch.tensor([1.0, 3.0, 2.0, 3.0, -math.inf, math.inf])
    assert [tail(score, share).tolist() for share in (1e-9, 0.2, 0.34, 0.5, 1.0)] == [
        [5],
        [5],
        [1, 5],
        [1, 3, 5],
        [0, 1, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize(
    ("by", "x", "message"),
    [
        ("class", np.zeros((9, 2), np.float32), "by='class' needs labels, and gold has none"),
        ("density", np.zeros((9, 2), np.int32), "gold's are int32 tokens; use by='token'"),
        ("token", np.zeros((9, 2), np.float32), "by='token' counts tokens, and gold's rows are float32"),
        ("rarest_token", np.zeros((9, 2), np.uint8), "by='rarest_token' counts tokens, and gold's rows are uint8"),
    ],
)
def test_a_notion_of_tails_that_gold_has_not_is_a_sentence(by, x, message):
    with pytest.raises(ValueError, match=message):
        protected_of(ProtectedStrata(0.5, by), x)


def test_only_gold_has_strata_whatever_comes_later():
    for index in range(TOTAL):
        assert ProtectedStrata(0.1, k=1).protected(at_generation(index).pool).tolist() == [36, 37, 38, 39]
    pool, held = at_generation(1).pool, provenance(5, origin=Origin.UNKNOWN, generation=-1)
    far = DataPool([np.full((5, 1), 1e6, np.float32)], [held], before=pool)
    assert ProtectedStrata(0.1, k=1).protected(far).tolist() == [36, 37, 38, 39]


# --- functions --------------------------------------------------------------------------------------------------------


def size_of_value(gold):
    """A score: the largest values first."""
    return np.asarray(gold.x)[:, 0]


def sevens(gold):
    """Rows: those of class 6."""
    return gold.y == 6


def nobody(gold):
    return np.zeros(len(gold), bool)


def not_a_number(gold):
    return torch.full((len(gold),), torch.nan)


def one_short(gold):
    return torch.zeros(len(gold) - 1)


@dataclasses.dataclass(frozen=True)
class Beyond:
    """Rows beyond a value: a setting of its own."""

    value: float

    def __call__(self, gold):
        return np.asarray(gold.x)[:, 0] > self.value


def test_a_function_says_how_far_out_rows_are_or_which_they_are():
    pool = at_generation(0).pool
    assert ProtectedStrata(0.05, size_of_value).protected(pool).tolist() == [38, 39]
    assert ProtectedStrata(None, sevens).protected(pool).tolist() == [6, 13, 20, 27, 34]
    assert ProtectedStrata(None, Beyond(1300.0)).protected(pool).tolist() == [37, 38, 39]
    assert ProtectedStrata(None, nobody).protected(pool).tolist() == []


def test_a_function_is_known_by_its_name():
    assert repr(ProtectedStrata(None, sevens)) == f"ProtectedStrata(share=None, by={__name__}.sevens)"
    assert (
        repr(ProtectedStrata(None, Beyond(2.0), quota=2))
        == "ProtectedStrata(share=None, by=Beyond(value=2.0), quota=2)"
    )
    for mitigation in (ProtectedStrata(0.5, size_of_value), ProtectedStrata(None, Beyond(2.0))):
        mitigation.protected(at_generation(0).pool)
        for twin in (mitigation.twin(), copy.deepcopy(mitigation), pickle.loads(pickle.dumps(mitigation))):
            assert (twin, hash(twin), twin.state_key) == (mitigation, hash(mitigation), mitigation.state_key)
        assert mitigation != ProtectedStrata(None, sevens)
    for unknown in (lambda gold: gold.y, functools.partial(sevens), object().__eq__):
        with pytest.raises(ValueError, match="does not say which function it is, and a run is known by it"):
            ProtectedStrata(None, unknown)


@pytest.mark.parametrize(
    ("share", "by", "message"),
    [
        (0.1, sevens, "sevens returned rows, and share is 0.1; give share=None"),
        (None, size_of_value, "size_of_value returned scores, and share is None; give share=the share of gold"),
        (0.1, not_a_number, "other than NaN, or a bool, for each of gold's 40 rows; got NaN"),
        (0.1, one_short, r"for each of gold's 40 rows; got the shape \(39,\)"),
    ],
)
def test_what_a_function_must_return_is_a_sentence(share, by, message):
    with pytest.raises(ValueError, match=message):
        ProtectedStrata(share, by).protected(at_generation(0).pool)


class Counted:
    """Counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __repr__(self):
        return "Counted()"

    def __call__(self, gold):
        self.asked += 1
        return np.arange(len(gold))


def test_strata_are_found_once_per_chain():
    by = Counted()
    mitigation = ProtectedStrata(0.1, by)
    for turn in (1, 2):  # an object may serve one chain after another
        data = GaussianData(rows=30, seed=turn)
        run_chain(Gaussian(1), data, generations=4, samples_per_generation=20, mitigations=[mitigation])
        assert by.asked == turn


def test_a_rehearsal_finds_them_for_the_chain_after_it(tmp_path):
    by = Counted()
    mitigation, data = ProtectedStrata(0.1, by), GaussianData(rows=30)
    rehearse(Gaussian(1), data, [mitigation], generations=3, samples=20)
    settings = {"generations": 3, "samples_per_generation": 20}
    chain = run_chain(Gaussian(1), data, mitigations=[mitigation], store=tmp_path, **settings)
    assert by.asked == 1
    fresh = run_chain(Gaussian(1), data, mitigations=[ProtectedStrata(0.1, Counted())], **settings)
    assert [record.digests["weights"] for record in chain.records] == [
        record.digests["weights"] for record in fresh.records
    ]


def test_other_gold_has_other_strata():
    x = np.arange(20, dtype=np.float32)[:, None] ** 2
    by = Counted()
    mitigation = ProtectedStrata(0.1, by)
    others = [x + 1, x.astype(np.float64), x.reshape(10, 2), x[::-1]]
    pools = [pool_of(x), pool_of(x.copy()), *map(pool_of, others)]
    pools += [pool_of(x.copy(), y=labels) for labels in (np.arange(20), np.arange(20) % 3)]
    asked = []
    for pool in pools:
        mitigation.protected(pool)
        asked.append(by.asked)
    assert asked == [1, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("hashed", [1, 7, 1000])
def test_the_content_of_rows_is_the_same_wherever_they_lie(hashed, monkeypatch):
    monkeypatch.setattr(strata, "HASHED", hashed)
    x = torch.randn(30, 3, generator=generator(4)).numpy()
    records = provenance(30, origin=Origin.REAL, generation=0, y=np.arange(30))
    whole = DataPool([x], [records])
    parts = DataPool([np.zeros((2, 3), np.float32), x[:11], x[11:]], [records[:2], records[:11], records[11:]])
    rows = torch.arange(30)
    expected = xxh3_128_hexdigest(b"float32 (3,) 30" + x.tobytes() + np.arange(30).tobytes())
    assert content(whole, rows) == content(parts, rows + 2) == expected
