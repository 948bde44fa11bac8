"""Text: how well tokens are predicted, and how much sentences repeat each other.

A sentence is a sequence of hashable tokens, of token ids, or a vector of ids; a corpus is several of them. No n-gram
crosses a sentence.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["perplexity", "distinct_n", "self_bleu"]

Sentence = Sequence[Hashable] | Tensor


def perplexity(log_probs: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute the perplexity of a corpus, every token weighted equally.

    .. math:: \exp\Bigl(-\frac1T \sum_{t=1}^{T} \ln p_t\Bigr)

    The mean over sentences of their perplexities is another number.

    Args:
        log_probs: Natural logarithm of the probability of each token, any shape, at most 0; -inf is allowed.
        mask: Which tokens count, same shape, bool; all of them if None.

    Returns:
        The perplexity, (), float64, at least 1; infinite if a token had probability 0.

    Raises:
        ValueError: If no token counts, the shapes differ, or a logarithm is NaN or positive.

    Example:
        >>> round(float(perplexity(torch.tensor([0.5, 0.25, 0.25, 0.5, 0.5, 0.5]).log())), 4)
        2.5198
    """
    if mask is not None and mask.shape != log_probs.shape:
        raise ValueError(
            f"log_probs has shape {tuple(log_probs.shape)} and mask has shape {tuple(mask.shape)}; "
            "pass one mask entry per token."
        )
    tokens = (log_probs if mask is None else log_probs[mask.bool()]).double()
    if tokens.numel() == 0:
        raise ValueError("log_probs has no token that counts; pass at least one.")
    if not (tokens <= 1e-6).all():  # rounding may lift a probability above 1
        raise ValueError(
            f"log_probs reaches {float(tokens.max()):.6g}, but the logarithm of a probability is at most 0; "
            "pass the negative of token losses."
        )
    return (-tokens.mean()).exp()


def distinct_n(sentences: Iterable[Sentence], n: int = 1, *, pooled: bool = True) -> float:
    r"""Compute the share of n-grams that are distinct.

    .. math:: \frac{\#\text{ unique n-grams}}{\#\text{ n-grams}}

    over the corpus, or per sentence and then averaged: two numbers that can differ by a factor of four. Both fall
    with the length of what they are computed on, so compare equal sizes only.

    Args:
        sentences: The corpus; sentences shorter than n hold no n-gram and do not count.
        n: Length of the n-grams, at least 1.
        pooled: Whether to count over the corpus instead of averaging over sentences.

    Returns:
        The share in (0, 1]: 1 if nothing is repeated.

    Raises:
        ValueError: If n is below 1, no sentence has n tokens, or a sentence is a string.

    References:
        Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. arXiv:1510.03055.

    Example:
        >>> distinct_n(["a b a".split(), "b c".split()], n=1)
        0.6
    """
    _check_order(n)
    grams = [counts for counts in (Counter(_ngrams(tokens, n)) for tokens in _corpus(sentences)) if counts]
    if not grams:
        raise ValueError(f"sentences has none of n = {n} tokens or more; pass longer ones, or a smaller n.")
    if pooled:
        return len(set().union(*grams)) / sum(counts.total() for counts in grams)
    return math.fsum(len(counts) / counts.total() for counts in grams) / len(grams)


def self_bleu(sentences: Iterable[Sentence], n: int = 4) -> float:
    r"""Compute the mean BLEU of every sentence against all the others: high when they resemble each other.

    .. math:: \frac1N \sum_i b_i \Bigl(\prod_{m=1}^{n} p_{i,m}\Bigr)^{1/n}, \qquad
        b_i = \min\bigl(1, e^{1 - r_i / \lvert s_i\rvert}\bigr)

    with clipped precisions :math:`p_{i,m}`: an m-gram of sentence i counts as often as it occurs in any one other
    sentence at most; and :math:`r_i` the closest length of another, the shorter one on ties. Nothing is smoothed: a
    sentence with a precision of 0, or shorter than n, has BLEU 0.

    Args:
        sentences: The corpus, at least two.
        n: Length of the longest n-grams, at least 1.

    Returns:
        The mean in [0, 1]: 1 if every sentence has a copy, lower for a more diverse corpus.

    Raises:
        ValueError: If n is below 1, there are fewer than two sentences, or a sentence is a string.

    References:
        Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models", 2018. arXiv:1802.01886.
        Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002.
    """
    _check_order(n)
    corpus = _corpus(sentences)
    if len(corpus) < 2:
        raise ValueError(f"sentences has {len(corpus)}, but each is compared with the others; pass at least two.")
    by_order = (_clipped_precisions([Counter(_ngrams(tokens, m)) for tokens in corpus]) for m in range(1, n + 1))
    means = (math.prod(precisions) ** (1 / n) for precisions in zip(*by_order, strict=True))
    penalties = _brevity_penalties([len(tokens) for tokens in corpus])
    return math.fsum(b * p for b, p in zip(penalties, means, strict=True)) / len(corpus)


def _clipped_precisions(corpus: list[Counter[tuple[Hashable, ...]]]) -> list[float]:
    """Share of each sentence's n-grams that another sentence has; one pass, not one per pair of sentences."""
    first: Counter[tuple[Hashable, ...]] = Counter()  # largest and second largest count in any one sentence
    second: Counter[tuple[Hashable, ...]] = Counter()
    for counts in corpus:
        for gram, count in counts.items():
            second[gram] = max(second[gram], min(first[gram], count))
            first[gram] = max(first[gram], count)
    matched = (sum(second[gram] if c == first[gram] else c for gram, c in counts.items()) for counts in corpus)
    return [match / max(1, counts.total()) for match, counts in zip(matched, corpus, strict=True)]


def _brevity_penalties(lengths: list[int]) -> list[float]:
    """Penalty of each sentence against the closest length among the others."""
    occurring = Counter(lengths)
    penalties = {0: 0.0}
    for own in occurring.keys() - {0}:
        others = (length for length, times in occurring.items() if times > (length == own))
        closest = min(others, key=lambda length: (abs(length - own), length))
        penalties[own] = math.exp(min(0, 1 - closest / own))
    return [penalties[length] for length in lengths]


def _ngrams(tokens: list[Hashable], n: int) -> Iterable[tuple[Hashable, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def _corpus(sentences: Iterable[Sentence]) -> list[list[Hashable]]:
    """Return sentences as lists; a tensor's elements hash by identity, so that no two would be equal."""
    corpus = list(sentences)
    if any(isinstance(sentence, str) for sentence in corpus):
        raise ValueError("sentences holds strings; pass their tokens: s.split() for words, list(s) for characters.")
    return [s.tolist() if isinstance(s, torch.Tensor) else list(s) for s in corpus]


def _check_order(n: int) -> None:
    if n < 1:
        raise ValueError(f"n = {n}, but an n-gram has at least one token; use n >= 1.")
