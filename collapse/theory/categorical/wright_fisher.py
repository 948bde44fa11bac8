r"""Laws of the categorical replace chain beyond moments: lost categories, entropy, time to one symbol.

Each category alone, against all others, is a Wright-Fisher chain of two types on the counts 0 to n,

.. math:: P(x, y) = \binom ny\Bigl(\frac xn\Bigr)^y\Bigl(1-\frac xn\Bigr)^{n-y},

so a sum over categories of any function of the frequency has an exact expectation: with f the values of that function
on the n + 1 counts and :math:`B_n(p)` the binomial law of a first fit,

.. math:: \mathbb{E}\sum_i f(np_{t,i}) = \sum_i B_n(p_i)\,P^{t-1}f.

The powers are applied to the vector f, which serves all categories at once: O(tn² + Kn) operations, O(n²) memory, so n
should not be far above 1000.

References:
    Ewens, "Mathematical Population Genetics", 2nd edition, 2004.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_probabilities, check_t

__all__ = [
    "replace_extinction_probabilities",
    "replace_expected_support",
    "replace_expected_forgotten_mass",
    "replace_expected_entropy",
    "replace_expected_reverse_kl",
    "replace_expected_absorption_time",
    "replace_diffusion_absorption_time",
]

_CHUNK = 2**22  # entries of a binomial table held at once, 32 MiB


def replace_extinction_probabilities(t: int, n: int, *, probabilities: ArrayLike) -> NDArray[np.float64]:
    """Probability that each category is lost by fit t; it never comes back.

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The probabilities, (K,); one for a category that the real law does not have.

    Raises:
        ValueError: If an argument is out of its range.
    """
    lost = (_frequencies(n) == 0).astype(np.float64)
    return _expectations(lost, t, n, check_probabilities(probabilities))


def replace_expected_support(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected number of categories that are left.

    .. math:: \sum_i P(p_{t,i} > 0)

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected number, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return float(np.sum(1 - replace_extinction_probabilities(t, n, probabilities=probabilities)))


def replace_expected_forgotten_mass(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected real probability of the categories that are lost.

    .. math:: \sum_i p_i\,P(p_{t,i} = 0)

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected mass, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return float(p @ replace_extinction_probabilities(t, n, probabilities=p))


def replace_expected_entropy(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected Shannon entropy of the fitted frequencies.

    .. math:: \mathbb{E}S(p_t), \qquad S(p) = -\sum_i p_i\log p_i

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected entropy, in nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return float(np.sum(_expectations(_surprise(_frequencies(n)), t, n, p)))


def replace_expected_reverse_kl(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected Kullback-Leibler divergence of the fitted frequencies from the real ones.

    .. math:: \mathbb{E}\,\mathrm{KL}(p_t\Vert p_0) = S(p_0) - \mathbb{E}S(p_t)

    because :math:`\mathbb{E}p_t = p_0`. The forward divergence is infinite as soon as one category is lost.

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected divergence, in nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return float(np.sum(_surprise(p))) - replace_expected_entropy(t, n, probabilities=p)


def replace_expected_absorption_time(n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected number of fits until one category is left, for any number of categories.

    With Q the chain on the counts 1 to n - 1 and T the number of fits,

    .. math:: \mathbb{E}T = \sum_i\sum_{t\ge0}\bigl[p_i - P(p_{t,i}=1)\bigr]
        = 1 + \sum_i B_n(p_i)\,u, \qquad (I-Q)\,u = (1, \dots, n-1)/n,

    as the chain ends in category i with probability :math:`p_i`. For two categories started at x of n it is the
    solution of :math:`(I-Q)\tau = 1`; the law has no memory, so x of n is the real law :math:`(x/n, 1-x/n)`.

    Args:
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expectation; zero if the real law has one category only. Dense linear algebra, O(n³).

    Raises:
        ValueError: If an argument is out of its range.
    """
    inner = _frequencies(n)[1:n]
    p = check_probabilities(probabilities)
    if np.count_nonzero(p) == 1:
        return 0.0
    waiting = np.zeros(n + 1)  # at the two ends the category is decided
    waiting[1:n] = np.linalg.solve(np.eye(n - 1) - _binomial(n, inner)[:, 1:n], inner)
    return 1 + float(np.sum(_expectations(waiting, 1, n, p)))


def replace_diffusion_absorption_time(n: int, *, probabilities: ArrayLike) -> float:
    r"""Diffusion approximation of the expected number of fits until one category is left.

    .. math:: \mathbb{E}T \approx -2n\sum_i(1-p_i)\log(1-p_i)

    Two categories: :math:`-2n[q\log q + (1-q)\log(1-q)]`. K equal ones: :math:`2n(K-1)\log\frac{K}{K-1}`, which is
    :math:`2n\sum_{j\ge2}\frac{1-K^{1-j}}{j(j-1)}` and tends to 2n. Not exact: one to three fits too many for n from 20
    to 1000. :func:`replace_expected_absorption_time` is exact.

    Args:
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The approximate expectation.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("n", n, 1)
    return 2 * n * float(np.sum(_surprise(1 - check_probabilities(probabilities))))


def _frequencies(n: int) -> NDArray[np.float64]:
    """Frequencies that a category can have in a fit, (n + 1,)."""
    check_count("n", n, 1)
    return np.arange(n + 1) / n


def _expectations(values: NDArray[np.float64], t: int, n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expectations at fit t of a function of one count, given on 0 to n, for each real probability, (K,)."""
    check_t(t)
    if t > 1:
        step = _binomial(n, _frequencies(n))
        for _ in range(t - 1):
            values = step @ values
    distinct, where = np.unique(p, return_inverse=True)
    chunks = np.array_split(distinct, math.ceil(len(distinct) * (n + 1) / _CHUNK))
    return np.concatenate([_binomial(n, chunk) @ values for chunk in chunks])[where]


def _binomial(n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Binomial laws of n draws, (M, n + 1), in log space: the coefficients overflow float64 from n = 1030 on."""
    k = torch.arange(n + 1, dtype=torch.float64, device="cpu")
    success = torch.from_numpy(np.asarray(p))[:, None]
    coefficient = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    log_law = coefficient + torch.special.xlogy(k, success) + torch.special.xlog1py(n - k, -success)
    return log_law.exp().numpy()


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus p log p, zero at zero."""
    return torch.special.entr(torch.from_numpy(np.asarray(p))).numpy()
