"""N-gram metrics against counting by hand, closed forms, and the direction each of them declares."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from collapse.metrics import (
    TEXT_METRICS,
    distinct_n,
    distinct_ngrams,
    ngram_coverage,
    ngram_entropy,
    ngram_variation,
    rare_ngram_mass,
    repetition,
)
from collapse.seeding import generator

# a a b c | b b b b: unigrams a 2, b 5, c 1; bigrams aa, ab, bc and bb three times
TWO = torch.tensor([[0, 0, 1, 2], [1, 1, 1, 1]], dtype=torch.int32)
OTHER = torch.tensor([[0, 3, 0, 3], [0, 1, 0, 1]], dtype=torch.int32)  # a 4, d 2, b 2; ad 2, da 1, ab 2, ba 1


def text(seed, rows=60, length=20, vocabulary=12):
    """Rows of independent tokens, the k-th with probability proportional to 1 / (k + 1)."""
    law = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    return torch.multinomial(law, rows * length, replacement=True, generator=generator(seed)).reshape(rows, length)


def grams(rows, n):
    return [tuple(row[i : i + n]) for row in rows.tolist() for i in range(len(row) - n + 1)]


def plug_in(counts):
    shares = np.array(list(counts)) / sum(counts)
    return float(-(shares * np.log(shares)).sum())


# Values


@pytest.mark.parametrize(
    ("metric", "n", "expected"),
    [
        (distinct_ngrams, 1, 3 / 8),
        (distinct_ngrams, 2, 4 / 6),
        (ngram_entropy, 1, plug_in([2, 5, 1]) + 2 / 16),
        (ngram_entropy, 2, plug_in([1, 1, 1, 3]) + 3 / 12),
        (repetition, 1, (1 / 4 + 3 / 4) / 2),
        (repetition, 2, (0 + 2 / 3) / 2),
        (repetition, 4, 0.0),
    ],
)
def test_values_of_one_set_by_hand(metric, n, expected):
    assert metric(OTHER, TWO, n).item() == pytest.approx(expected, abs=1e-15)
    assert metric(TWO, TWO, n) == metric(OTHER, TWO, n)  # the reference is not looked at


@pytest.mark.parametrize(
    ("metric", "n", "expected"),
    [
        (ngram_coverage, 1, 2 / 3),  # c is lost
        (ngram_coverage, 2, 1 / 4),  # of aa, ab, bc, bb there is ab
        (ngram_variation, 1, (abs(2 - 4) + abs(5 - 2) + 1 + 2) / 16),
        (ngram_variation, 2, (1 + abs(1 - 2) + 1 + 3 + 2 + 1 + 1) / 12),
    ],
)
def test_values_of_two_sets_by_hand(metric, n, expected):
    assert metric(TWO, OTHER, n).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.05, 2 / 8),  # not even c, with 1/8, is as rare as that: what is left is d, which the reference has not
        (0.125, 2 / 8),  # c, which has gone, and d
        (0.374, 2 / 8),
        (0.375, 6 / 8),  # a as well, 3/8 with c
        (0.99, 6 / 8),
    ],
)
def test_the_tail_is_what_is_rare_or_unheard_of(q, expected):
    assert rare_ngram_mass(TWO, OTHER, 1, q).item() == expected


def test_ties_are_taken_whole():
    reference = torch.tensor([[0] * 6 + [1, 2, 3, 4]])
    assert rare_ngram_mass(reference, reference, 1, 0.3) == 0
    assert rare_ngram_mass(reference, reference, 1, 0.4) == pytest.approx(0.4)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_every_metric_is_counting(n):
    reference, generated = text(1), text(2)
    wanted, found = Counter(grams(reference, n)), Counter(grams(generated, n))
    assert distinct_ngrams(reference, generated, n).item() == pytest.approx(len(found) / found.total(), abs=1e-15)
    assert distinct_ngrams(reference, generated, n).item() == pytest.approx(distinct_n(generated, n), abs=1e-15)
    entropy = plug_in(found.values()) + (len(found) - 1) / (2 * found.total())
    assert ngram_entropy(reference, generated, n).item() == pytest.approx(entropy, abs=1e-12)
    assert repetition(reference, generated, n).item() == pytest.approx(
        1 - distinct_n(generated, n, pooled=False), abs=1e-12
    )
    assert ngram_coverage(reference, generated, n).item() == pytest.approx(
        len(wanted.keys() & found.keys()) / len(wanted), abs=1e-15
    )
    variation = sum(abs(wanted[g] / wanted.total() - found[g] / found.total()) for g in wanted | found) / 2
    assert ngram_variation(reference, generated, n).item() == pytest.approx(variation, abs=1e-12)
    levels = sorted(set(wanted.values()))
    below = [sum(c for c in wanted.values() if c <= level) / wanted.total() for level in levels]
    cut = max((level for level, mass in zip(levels, below, strict=True) if mass <= 0.05 + 1e-12), default=0)
    mass = sum(c for g, c in found.items() if wanted[g] <= cut) / found.total()
    assert rare_ngram_mass(reference, generated, n).item() == pytest.approx(mass, abs=1e-12)


def test_long_ngrams_of_a_large_vocabulary_do_not_collide():
    rows = torch.tensor([[65_535, 0, 65_535, 1] * 4, [65_535, 0, 65_535, 2] * 4])
    assert distinct_ngrams(rows, rows, 9).item() == len(set(grams(rows, 9))) / 16 == 8 / 16
    assert ngram_coverage(rows, rows.flip(0), 9) == 1


def test_the_correction_takes_the_bias_of_counting_off():
    """Exactly: the mean over all ways to draw T tokens uniformly from K; what is left is of a smaller order."""
    kinds, draws = 3, 8
    everything = torch.tensor(list(itertools.product(range(kinds), repeat=draws)))
    estimates = [float(ngram_entropy(row[None], row[None])) for row in everything]
    plain = [plug_in(Counter(row.tolist()).values()) for row in everything]
    bias, left = np.mean(plain) - math.log(kinds), np.mean(estimates) - math.log(kinds)
    assert bias == pytest.approx(-(kinds - 1) / (2 * draws), rel=0.2)
    assert abs(left) < 0.2 * abs(bias)


def test_the_entropy_of_uniform_tokens_is_that_of_the_vocabulary():
    rows = torch.arange(64).repeat(50)[torch.randperm(3200, generator=generator(1))].reshape(100, 32)
    assert ngram_entropy(rows, rows, 1).item() == pytest.approx(math.log(64) + 63 / 6400, abs=1e-12)


# What every metric of TEXT_METRICS owes

DEGRADATIONS = {  # by what a metric detects: a share of the rows is ruined
    "fidelity": lambda rows: rows.flip(1).add(5) % 12,
    "diversity": torch.zeros_like,
    "tails": lambda rows: rows.clamp_max(3),
}


@pytest.fixture(params=TEXT_METRICS, ids=lambda metric: metric.name)
def metric(request):
    return request.param


def test_moves_in_the_declared_direction(metric):
    reference, other, ruined = text(1), text(2), DEGRADATIONS[metric.detects](text(2))
    values = [
        float(metric.compute(reference, torch.where(torch.arange(60)[:, None] < 60 * share, ruined, other)))
        for share in (0.0, 0.4, 0.8, 1.0)
    ]
    signed = values if metric.higher_is_better else [-value for value in values]
    assert signed == sorted(signed, reverse=True)
    assert signed[0] > signed[-1]
    assert any(character.isdigit() for character in metric.citation)


def test_does_not_depend_on_the_order_of_rows_or_the_names_of_tokens(metric):
    reference, other = text(1), text(2)
    value = metric.compute(reference, other)
    names = torch.randperm(12, generator=generator(3)) * 5000
    shuffled = other[torch.randperm(60, generator=generator(4))]
    torch.testing.assert_close(metric.compute(names[reference.flip(0)], names[shuffled]), value, rtol=1e-12, atol=0)
    assert value.dtype == torch.float64
    assert value.shape == ()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
def test_tokens_may_be_any_integers(metric, dtype):
    reference, other = text(1), text(2)
    assert metric.compute(reference.to(dtype), other.to(dtype)) == metric.compute(reference, other)


# Sentences


@pytest.mark.parametrize(
    ("rows", "n", "message"),
    [
        (torch.zeros(3, 4), 1, r"generated has shape \(3, 4\) and dtype torch.float32, but a matrix of tokens"),
        (torch.zeros(4, dtype=torch.long), 1, r"generated has shape \(4,\)"),
        (torch.zeros(0, 4, dtype=torch.long), 1, r"generated has shape \(0, 4\)"),
        (torch.zeros(3, 4, dtype=torch.long), 5, "n = 5, but the rows of generated have 4 tokens"),
        (torch.zeros(3, 4, dtype=torch.long), 0, "n = 0, but the rows of generated have 4 tokens"),
    ],
)
def test_what_is_no_text_is_a_sentence(rows, n, message):
    with pytest.raises(ValueError, match=message):
        ngram_entropy(TWO, rows, n)


@pytest.mark.parametrize("q", [0.0, 1.0, math.nan])
def test_a_tail_is_a_part(q):
    with pytest.raises(ValueError, match=f"q = {q}, but the share of a tail lies between 0 and 1"):
        rare_ngram_mass(TWO, TWO, 1, q)
