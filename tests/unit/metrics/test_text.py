"""Text metrics against exact values (M11) and definitions written out sentence by sentence."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from collapse.metrics import distinct_n, perplexity, self_bleu

CORPUS = [s.split() for s in ("the cat sat on the mat", "the cat sat on the rug", "a dog sat on the log")]
IDS = torch.tensor([[0, 1, 2, 3, 0, 4], [0, 1, 2, 3, 0, 5], [6, 7, 2, 3, 0, 8]])  # the same sentences


def random_corpus(seed, sentences=12, longest=9, words=4):
    source = random.Random(seed)
    return [[source.randrange(words) for _ in range(source.randint(1, longest))] for _ in range(sentences)]


def grams(tokens, n):
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


# Perplexity


def test_m11_perplexity_weights_tokens():
    p = {"a": 0.5, "b": 0.25, "c": 0.25}
    sentences = [torch.tensor([p[token] for token in s.split()]).double().log() for s in ("a b c a", "a a")]
    assert perplexity(torch.cat(sentences)).item() == pytest.approx(2.5198421, rel=1e-7)
    assert np.mean([perplexity(s).item() for s in sentences]) == pytest.approx(2.414213562, rel=1e-9)


def test_masked_tokens_do_not_count():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.5], [0.5, 0.5, 1e-9, math.nan]]).log()
    log_probs[1, 2] = -math.inf
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert perplexity(log_probs, mask).item() == pytest.approx(2.5198421, rel=1e-6)
    assert perplexity(log_probs[1, :3]) == math.inf  # a token of probability 0
    assert perplexity(log_probs, mask == 1).dtype == torch.float64


def test_a_uniform_model_has_the_size_of_the_vocabulary():
    assert perplexity(torch.full((7, 3), -math.log(50))).item() == pytest.approx(50, rel=1e-6)


def test_the_gradient_of_perplexity_is_that_of_finite_differences():
    log_probs = torch.tensor([[-0.5, -1.5], [-2.0, -0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: perplexity(x, torch.tensor([[1, 1], [0, 1]])), log_probs)


@pytest.mark.parametrize(
    ("log_probs", "mask", "message"),
    [
        ([], None, "log_probs has no token that counts; pass at least one"),
        ([-1.0], [0], "log_probs has no token that counts"),
        (
            [-1.0, 2.5],
            None,
            "log_probs reaches 2.5, but the logarithm of a probability is at most 0; pass",
        ),
        ([-1.0, math.nan], None, "log_probs reaches nan"),
        ([-1.0, -1.0], [1], r"log_probs has shape \(2,\) and mask has shape \(1,\); pass one mask entry per token"),
    ],
)
def test_wrong_log_probs_are_a_sentence(log_probs, mask, message):
    with pytest.raises(ValueError, match=message):
        perplexity(torch.tensor(log_probs), None if mask is None else torch.tensor(mask))


# Distinct n-grams


@pytest.mark.parametrize(
    ("n", "pooled", "averaged"), [(1, 0.5, 0.8888888889), (2, 0.6, 1.0), (3, 0.6666666667, 1.0), (6, 1.0, 1.0)]
)
@pytest.mark.parametrize("corpus", [CORPUS, IDS, list(IDS), IDS.numpy(), [tuple(s) for s in CORPUS]], ids=type)
def test_m11_distinct(corpus, n, pooled, averaged):
    assert distinct_n(corpus, n) == pytest.approx(pooled, rel=1e-9)
    assert distinct_n(corpus, n, pooled=False) == pytest.approx(averaged, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_equals_counting(n):
    corpus = random_corpus(n)
    per_sentence = [grams(s, n) for s in corpus if len(s) >= n]
    together = [gram for sentence in per_sentence for gram in sentence]
    assert distinct_n(corpus, n) == pytest.approx(len(set(together)) / len(together), rel=1e-12)
    shares = [len(set(sentence)) / len(sentence) for sentence in per_sentence]
    assert distinct_n(iter(corpus), n, pooled=False) == pytest.approx(np.mean(shares), rel=1e-12)


def test_no_n_gram_crosses_a_sentence():
    assert distinct_n([[1, 2], [1, 2], [2, 1]], 2) == pytest.approx(2 / 3)
    assert distinct_n([[1, 2, 1, 2, 2, 1]], 2) == pytest.approx(3 / 5)


def test_a_collapsed_corpus_has_one_of_everything():
    assert distinct_n([[5] * 10] * 10, 2) == 1 / 90


# Self-BLEU


@pytest.mark.parametrize(("n", "expected"), [(1, 0.7222222222), (2, 0.6934022525), (3, 0.6519347339)])
@pytest.mark.parametrize("corpus", [CORPUS, IDS, IDS.numpy()], ids=type)
def test_m11_self_bleu(corpus, n, expected):
    assert self_bleu(corpus, n) == pytest.approx(expected, rel=1e-9)


def bleu(sentence, others, n):
    """BLEU as its paper defines it: counts clipped per reference, the closest length, no smoothing."""
    if not sentence:
        return 0.0
    product = 1.0
    for order in range(1, n + 1):
        own = Counter(grams(sentence, order))
        references = [Counter(grams(other, order)) for other in others]
        clipped = sum(min(count, max(r[gram] for r in references)) for gram, count in own.items())
        product *= clipped / max(1, sum(own.values()))
    closest = sorted((abs(len(other) - len(sentence)), len(other)) for other in others)[0][1]
    penalty = 1.0 if len(sentence) >= closest else math.exp(1 - closest / len(sentence))
    return penalty * product ** (1 / n)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_equals_every_sentence_against_the_others(seed, n):
    corpus = [*random_corpus(seed, words=3), []]
    expected = np.mean([bleu(s, corpus[:i] + corpus[i + 1 :], n) for i, s in enumerate(corpus)])
    assert self_bleu(corpus, n) == pytest.approx(expected, rel=1e-12)


def test_repeated_tokens_are_clipped_by_one_other_sentence():
    corpus = [[1, 1, 1, 1], [1, 1, 2, 2], [1, 3, 3, 1]]
    assert self_bleu(corpus, 1) == pytest.approx((2 / 4 + 2 / 4 + 2 / 4) / 3)  # not by the sum over the others


def test_shorter_of_two_equally_close_lengths_sets_the_penalty():
    # three of four tokens against lengths 2 and 6: the shorter one, no penalty; two against four: exp(1 - 4/2)
    value = self_bleu([[1, 2, 3, 4], [1, 2], [1, 2, 3, 7, 8, 9]], 1)
    assert value == pytest.approx((3 / 4 + math.exp(1 - 2) * 2 / 2 + 3 / 6) / 3)


def test_limits():
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == 1
    assert self_bleu([[1, 2], [3, 4]], 1) == 0
    assert self_bleu([[1, 2], [1, 2]], 3) == 0  # too short for a 3-gram
    assert self_bleu([[], []], 1) == 0


def test_many_sentences_take_one_pass():
    corpus = random_corpus(0, sentences=1500, longest=30, words=50)
    assert 0 < self_bleu(corpus, 4) < self_bleu(corpus, 2) < 1


@pytest.mark.parametrize("metric", [distinct_n, self_bleu])
@pytest.mark.parametrize(
    ("sentences", "n", "message"),
    [
        (CORPUS, 0, "n = 0, but an n-gram has at least one token; use n >= 1"),
        (["the cat", "a dog"], 1, r"sentences holds strings; pass their tokens: s.split\(\) for words"),
        ("the cat", 1, "sentences holds strings"),
    ],
)
def test_wrong_corpora_are_a_sentence(metric, sentences, n, message):
    with pytest.raises(ValueError, match=message):
        metric(sentences, n)


def test_a_corpus_without_enough_is_a_sentence():
    for corpus in ([], [[]], [[1, 2], [3]]):
        with pytest.raises(ValueError, match="sentences has none of n = 3 tokens or more; pass longer ones"):
            distinct_n(corpus, 3)
    for corpus in ([], [[1, 2]]):
        with pytest.raises(ValueError, match=f"sentences has {len(corpus)}, but each is compared with the others"):
            self_bleu(corpus, 1)
