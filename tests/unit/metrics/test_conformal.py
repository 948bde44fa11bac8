"""Conformal p-values: their level is exact, their scores are distances to gold, and strange rows cannot hide."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.neighbors import NearestNeighbors

from collapse.metrics import conformal_outliers
from collapse.seeding import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


LAWS = {
    "normal": normal,
    "Cauchy": lambda *shape, seed=0: normal(*shape, seed=seed) / normal(*shape, seed=seed + 10**6),
    "tied": lambda *shape, seed=0: normal(*shape, seed=seed).mul(2).round(),
}


def left_out(rows, k):
    """Every row's distance to its k-th nearest other row, by sorting all distances."""
    d = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    return np.sort(d + np.diag(np.full(len(d), -1.0)), axis=1)[:, k]


# The level


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("law", LAWS)
def test_each_of_a_set_of_real_rows_is_ranked_among_all_of_them(law, k):
    """Whichever of n + 1 rows is called incoming, its p-value is its rank in the one set: why the level is exact."""
    rows = LAWS[law](40, 3, seed=k)
    scores = left_out(rows.numpy(), k)
    found = [
        float(conformal_outliers(torch.cat([rows[:i], rows[i + 1 :]]), rows[i : i + 1], k).p_value) for i in range(40)
    ]
    expected = [np.mean(np.round(scores, 12) >= round(score, 12)) for score in scores]
    assert found == pytest.approx(expected, abs=1e-12)
    for level in np.arange(1, 41) / 40:
        share = np.mean(np.array(found) <= level + 1e-12)
        assert share <= level + 1e-12
        if law != "tied":  # then only two rows can tie, each the other's k-th neighbor
            assert share >= level - 1 / 40 - 1e-12


@pytest.mark.parametrize("law", ["normal", "Cauchy"])
def test_fresh_real_rows_are_flagged_at_the_stated_rate(law):
    """One row beside each of 3,000 gold sets of 99 rows: independent trials."""
    p_values = np.array(
        [
            float(conformal_outliers(LAWS[law](99, 2, seed=2 * i), LAWS[law](1, 2, seed=2 * i + 1)).p_value)
            for i in range(3000)
        ]
    )
    for rate in (0.01, 0.05, 0.2):
        low, high = binom.interval(0.999, len(p_values), rate)
        assert low <= np.sum(p_values <= rate + 1e-12) <= high, rate


# The scores


@pytest.mark.parametrize("k", [1, 4])
def test_scores_are_distances_to_the_kth_nearest_gold_row(k):
    gold, incoming = normal(70, 3), 2 * normal(30, 3, seed=1)
    found = conformal_outliers(gold, incoming, k)
    nearest = NearestNeighbors(n_neighbors=k).fit(gold.numpy())
    np.testing.assert_allclose(found.score, nearest.kneighbors(incoming.numpy())[0][:, -1], rtol=1e-12)
    assert found.p_value.dtype == torch.float64
    order = found.score.argsort()
    assert (found.p_value[order].diff() <= 2 / 71).all(), (
        "the farther out, the smaller, up to what a row itself changes"
    )


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_change_nothing(chunk_size):
    gold, incoming = normal(50, 2), normal(20, 2, seed=1)
    whole = conformal_outliers(gold, incoming)
    for one, other in zip(conformal_outliers(gold, incoming, chunk_size=chunk_size), whole, strict=True):
        assert torch.equal(one, other)


def test_a_cluster_of_strange_rows_cannot_hide_itself():
    found = conformal_outliers(normal(99, 2), 9 + 1e-3 * normal(50, 2, seed=1))
    assert found.p_value.tolist() == [1 / 100] * 50


def test_copies_of_gold_are_the_least_strange_of_all():
    gold = normal(60, 2).repeat(2, 1)
    found = conformal_outliers(gold, gold[:10], k=2)
    assert found.score.tolist() == [0.0] * 10
    assert found.p_value.tolist() == [1.0] * 10


def test_rows_of_any_shape_and_type_are_flattened():
    gold, incoming = (
        torch.randint(0, 256, (rows, 1, 4, 4), dtype=torch.uint8, generator=generator(rows)) for rows in (40, 9)
    )
    found = conformal_outliers(gold, incoming)
    flat = conformal_outliers(gold.flatten(1).float(), incoming.flatten(1).float())
    assert torch.equal(found.score, flat.score)
    assert torch.equal(found.p_value, flat.p_value)
    numbers = conformal_outliers(torch.arange(10), torch.tensor([100]), k=1)
    assert (float(numbers.score), float(numbers.p_value)) == (91.0, 1 / 11)


@pytest.mark.parametrize(
    ("gold", "incoming", "arguments", "message"),
    [
        (normal(9, 2), normal(3, 2), {"k": 0}, "k = 0, but a score needs at least one neighbor"),
        (normal(9, 2), normal(3, 2), {"chunk_size": 0}, "chunk_size = 0, but at least one row"),
        (normal(5, 2), normal(3, 2), {}, "gold has 5 rows, but at least 6 are needed"),
        (normal(9, 2), normal(0, 2), {}, "incoming has 0 rows, but at least 1 are needed"),
        (normal(9, 2), normal(3, 1), {}, r"gold has rows of shape \(2,\) and incoming of \(1,\); only rows of one"),
        (normal(9, 2), normal(3, 2) / 0, {}, "incoming has 3 of 3 rows with NaN or infinity"),
        (normal(9, 2) * torch.nan, normal(3, 2), {}, "gold has 9 of 9 rows with NaN or infinity"),
        (normal(9, 2), normal(3, 2).to("meta"), {}, "gold is on cpu and incoming on meta; move one of them"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(gold, incoming, arguments, message):
    with pytest.raises(ValueError, match=message):
        conformal_outliers(gold, incoming, **arguments)
