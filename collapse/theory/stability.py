r"""Laws of retraining without sampling noise: mixed objective, probabilistic PCA, decoding rules.

What remains of the recursion when the number of points is infinite, except for the two finite laws of PCA. Their t
counts model fits; ``times`` counts applications of a rule, so it is t - 1 for a chain whose first fit is on real data.

References:
    Mixed objective: Bertrand et al., "On the Stability of Iterative Retraining of Generative Models on their own Data",
    2024. arXiv:2310.00429. PCA: Tipping and Bishop, "Probabilistic Principal Component Analysis", 1999. Nucleus:
    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020. arXiv:1904.09751.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_covariance, check_laws, check_positive, check_probabilities
from collapse.theory.gaussian.multivariate import replace_mean_square_error, replace_trace_moments

__all__ = [
    "GaussianLaw",
    "retraining_contraction",
    "retraining_law",
    "ppca_noise_variance",
    "ppca_covariance",
    "ppca_expected_trace",
    "ppca_mean_square_error",
    "temperature_probabilities",
    "nucleus_probabilities",
    "top_k_probabilities",
]

_ROUNDING = 1e-12  # sums of probabilities are equal up to this


class GaussianLaw(NamedTuple):
    """Mean (D,) and positive definite covariance (D, D) of a normal law."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def retraining_contraction(lam: float) -> float:
    r"""Factor by which a retraining on real and synthetic points shrinks the error of the mean.

    .. math:: \rho = \frac{\lambda}{1+\lambda} < 1

    the synthetic share, so the Gaussian loop is stable for every finite lam. Erratum: :math:`\lambda < 1/2` in Bertrand
    et al. is sufficient, not necessary, and the factor is not :math:`\lambda/(1-\lambda)`.

    Args:
        lam: Ratio of synthetic to real weight in the objective, at least 0. A ratio: neither a fraction nor a variance
            multiplier.

    Returns:
        The factor, in [0, 1).

    Raises:
        ValueError: If lam is negative or infinite.
    """
    if not 0 <= lam < float("inf"):
        raise ValueError(
            f"lam must be a finite ratio, at least 0, got {lam}; for synthetic data only use a replace law"
        )
    return lam / (1 + lam)


def retraining_law(real: GaussianLaw, initial: GaussianLaw, *, lam: float, times: int) -> GaussianLaw:
    r"""Gaussian model that maximizes real plus lam times synthetic log-likelihood, after repeated retraining.

    .. math:: m' - m^* = \rho\,(m-m^*), \qquad
        S' = \frac{S^*+\lambda S}{1+\lambda} + \frac{\lambda}{(1+\lambda)^2}(m-m^*)(m-m^*)^\top

    so the model has the moments of the real law mixed with the initial one, of weight :math:`r = \rho^{\text{times}}`:

    .. math:: m - m^* = r\,\Delta, \qquad S = (1-r)\,S^* + r\,S_0 + r(1-r)\,\Delta\Delta^\top, \qquad \Delta = m_0 - m^*

    The real law is the only fixed point, and every initial law tends to it.

    Args:
        real: The real law :math:`(m^*, S^*)`.
        initial: The model :math:`(m_0, S_0)` before the first retraining, of the same dimension.
        lam: Ratio of synthetic to real weight in the objective, at least 0.
        times: Number of retrainings, at least 0.

    Returns:
        The model: mean (D,), covariance (D, D).

    Raises:
        ValueError: If an argument is out of its range.
    """
    (real_mean, real_covariance), (mean, covariance) = check_laws(real, initial)
    check_count("times", times, 0)
    r, gap = retraining_contraction(lam) ** times, mean - real_mean
    spread = r * (1 - r) * np.outer(gap, gap)
    return GaussianLaw(real_mean + r * gap, (1 - r) * real_covariance + r * covariance + spread)


def ppca_noise_variance(covariance: ArrayLike, latent_dim: int) -> float:
    r"""Noise variance of the maximum likelihood fit of probabilistic PCA: the mean of the discarded eigenvalues.

    .. math:: \frac{1}{D-q}\sum_{i>q}\lambda_i

    Args:
        covariance: Covariance of the data, (D, D), positive definite.
        latent_dim: Latent dimension q, in 0 to D - 1.

    Returns:
        The noise variance.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Tipping and Bishop, 1999, equation 8.
    """
    matrix = check_covariance(covariance)
    _check_latent(latent_dim, len(matrix))
    return float(np.linalg.eigvalsh(matrix)[: len(matrix) - latent_dim].mean())


def ppca_covariance(covariance: ArrayLike, latent_dim: int) -> NDArray[np.float64]:
    r"""Covariance of the maximum likelihood fit of probabilistic PCA to infinitely many points.

    .. math:: S_q = U_q\Lambda_qU_q^\top + \bar\lambda\,(I - U_qU_q^\top)

    with the q largest eigenvalues and the mean of the others. It keeps the trace, and it is idempotent: retraining on
    its own draws changes nothing more. A linear VAE at the optimum of its bound has this covariance.

    Args:
        covariance: Covariance of the data, (D, D), positive definite.
        latent_dim: Latent dimension q, in 0 to D - 1.

    Returns:
        The covariance of the model, (D, D).

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Tipping and Bishop, 1999, equations 7 and 8.
    """
    noise = ppca_noise_variance(covariance, latent_dim)
    values, vectors = np.linalg.eigh(check_covariance(covariance))
    values[: len(values) - latent_dim] = noise
    return (vectors * values) @ vectors.T


def ppca_expected_trace(t: int, n: int, *, covariance: ArrayLike) -> float:
    r"""Expected trace of the covariance of probabilistic PCA under replace, the same for every latent dimension.

    .. math:: \mathbb{E}\operatorname{tr}\Sigma_t = \operatorname{tr}S_0\,(1-1/n)^t

    Maximum likelihood keeps the trace of the sample covariance (ddof=0), so this is the law of the full Gaussian.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        covariance: Covariance of the real law, (D, D), positive definite.

    Returns:
        The expectation over chains.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return replace_trace_moments(t, n, covariance=covariance, ddof=0).trace


def ppca_mean_square_error(t: int, n: int, *, covariance: ArrayLike) -> float:
    r"""Expected squared distance of the mean of probabilistic PCA from the real mean under replace.

    .. math:: \mathbb{E}\lVert\mu_t-\mu_0\rVert^2 = \operatorname{tr}S_0\,\bigl(1-(1-1/n)^t\bigr)

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        covariance: Covariance of the real law, (D, D), positive definite.

    Returns:
        The expectation over chains; the trace that is lost is found here.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return replace_mean_square_error(t, n, covariance=covariance, ddof=0)


def temperature_probabilities(probabilities: ArrayLike, temperature: float, *, times: int = 1) -> NDArray[np.float64]:
    r"""Categorical model trained on draws at a temperature, again and again.

    .. math:: p_s \propto p_0^{1/\tau^s}

    Below 1 the chain tends to the modes, above 1 to the uniform law on the support.

    Args:
        probabilities: Model before the first application, (K,).
        temperature: Temperature :math:`\tau`, positive.
        times: Number s of applications, at least 0.

    Returns:
        The model after them, (K,).

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    check_positive("temperature", temperature)
    check_count("times", times, 0)
    with np.errstate(divide="ignore", over="ignore"):  # both give weights of zero
        logits = np.log(p / p.max())
        for _ in range(times):
            logits /= temperature
    weights = np.exp(logits)
    return weights / weights.sum()


def nucleus_probabilities(probabilities: ArrayLike, top_p: float, *, times: int = 1) -> NDArray[np.float64]:
    """Categorical model trained on draws truncated to the nucleus, again and again.

    The nucleus is the smallest set of most probable categories with a mass of at least ``top_p``, up to rounding; of
    equal ones the first count as more probable. What is left is renormalized. Not idempotent: the mass of the kept
    categories grows, so that a second application can drop more.

    Args:
        probabilities: Model before the first application, (K,).
        top_p: Mass to keep, in (0, 1].
        times: Number of applications, at least 0.

    Returns:
        The model after them, (K,), with zeros at the dropped categories.

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    check_count("times", times, 0)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}; 1 keeps every category")
    for _ in range(times):
        mass = np.cumsum(np.sort(p)[::-1]) / p.sum()
        p = top_k_probabilities(p, 1 + int(np.sum(mass < top_p - _ROUNDING)))
    return p


def top_k_probabilities(probabilities: ArrayLike, k: int) -> NDArray[np.float64]:
    """Categorical model trained on draws truncated to the k most probable categories; idempotent.

    Args:
        probabilities: Model before, (K,).
        k: Number of categories to keep, at least 1; of equally probable ones the first are kept.

    Returns:
        The model after any number of applications, (K,), with zeros at the dropped categories.

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    check_count("k", k, 1)
    kept = np.zeros_like(p)
    order = np.argsort(-p, kind="stable")[:k]
    kept[order] = p[order]
    return kept / kept.sum()


def _check_latent(latent_dim: int, dim: int) -> None:
    if not 0 <= latent_dim < dim:
        raise ValueError(f"latent_dim must lie in [0, {dim}), below the dimension of the data, got {latent_dim}")
