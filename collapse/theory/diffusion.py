r"""Laws of diffusion samplers with a perfect model of Gaussian data: a discretized sampler is itself a bias.

For data :math:`N(m, s^2)` and the noise levels :math:`\bar\alpha_k = \prod_{j\le k}(1-\beta_j)` the exact prediction of
the noise is linear,

.. math:: \hat\epsilon(x) = \frac{\sqrt{1-\bar\alpha_k}\,(x - \sqrt{\bar\alpha_k}\,m)}
    {\bar\alpha_ks^2 + 1 - \bar\alpha_k}, \qquad (1)

so every step of a sampler is :math:`x_{k-1} = A_kx_k + B_k + \sqrt{v_k}\,z` and what it samples from
:math:`x_K \sim N(0, 1)` is Gaussian. The finite number of steps multiplies the variance at every generation, even
without any fitting error: ``ddpm_beta`` pulls it towards that of the noise, ``ddpm_posterior`` and ``ddim`` deflate.

Mean and variance may be numbers, arrays or tensors of one shape. In D dimensions, pass the eigenvalues of the
covariance and the mean in the basis of its eigenvectors: the exact sampler treats each direction alone.

References:
    Ho et al., "Denoising Diffusion Probabilistic Models", 2020. arXiv:2006.11239, equations 7 and 11. Song et al.,
    "Denoising Diffusion Implicit Models", 2021. arXiv:2010.02502, equation 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from collapse.theory._checks import check_count, check_fit
from collapse.theory._special import chi_square_grid

__all__ = [
    "SAMPLERS",
    "SamplerStep",
    "LinearStep",
    "Moments",
    "reverse_steps",
    "output_moments",
    "variance_multiplier",
    "generation_moments",
    "first_fit_expected_variance",
]

Value = TypeVar("Value", float, NDArray[np.float64], Tensor)


class SamplerStep(NamedTuple):
    r"""Coefficients of one step :math:`x_{k-1} = a\,x_k + b\,\hat\epsilon(x_k) + \sqrt v\,z` of a sampler."""

    scale: float
    noise_scale: float
    noise_variance: float


class LinearStep(NamedTuple, Generic[Value]):
    r"""One step :math:`x_{k-1} = A\,x_k + B + \sqrt v\,z` for the exact prediction of the noise."""

    scale: Value
    shift: Value
    noise_variance: float


class Moments(NamedTuple, Generic[Value]):
    """Mean and variance of a law."""

    mean: Value
    variance: Value


def _ddpm_beta(level: float, following: float) -> SamplerStep:
    """Noise variance β, none in the last step."""
    return _ddpm(level, following)._replace(noise_variance=1 - level / following if following < 1 else 0.0)


def _ddpm_posterior(level: float, following: float) -> SamplerStep:
    r"""Noise variance :math:`\beta(1-\bar\alpha_{k-1})/(1-\bar\alpha_k)`, that of the posterior given clean data."""
    return _ddpm(level, following)._replace(noise_variance=(1 - level / following) * (1 - following) / (1 - level))


def _ddpm(level: float, following: float) -> SamplerStep:
    alpha = level / following
    return SamplerStep(1 / math.sqrt(alpha), -(1 - alpha) / math.sqrt(alpha * (1 - level)), 0.0)


def _ddim(level: float, following: float) -> SamplerStep:
    """Deterministic: noise the predicted clean point again with the predicted noise."""
    scale = math.sqrt(following / level)
    return SamplerStep(scale, math.sqrt(1 - following) - scale * math.sqrt(1 - level), 0.0)


# Each from the level at hand, in (0, 1), and the following one, above it and at most 1, both as products of 1 - β.
SAMPLERS: dict[str, Callable[[float, float], SamplerStep]] = {
    "ddpm_beta": _ddpm_beta,
    "ddpm_posterior": _ddpm_posterior,
    "ddim": _ddim,
}


def reverse_steps(betas: ArrayLike, kind: str, *, mean: Value, variance: Value) -> Iterator[LinearStep[Value]]:
    r"""Steps of a sampler with the exact prediction of the noise for Gaussian data, from the noise to the data.

    .. math:: A_k = a_k + b_kg_k, \qquad B_k = -b_kg_k\sqrt{\bar\alpha_k}\,m, \qquad
        g_k = \frac{\sqrt{1-\bar\alpha_k}}{\bar\alpha_ks^2+1-\bar\alpha_k}

    with :math:`a_k, b_k, v_k` from the sampler and :math:`g_k` from equation (1).

    Args:
        betas: Noise schedule :math:`\beta_1,\dots,\beta_K`, (K,), each in (0, 1).
        kind: A key of ``SAMPLERS``.
        mean: Mean m that the model was fitted to, any shape.
        variance: Variance :math:`s^2` that the model was fitted to, of the shape of ``mean``, at least 0; not checked,
            since it may lie on a device.

    Returns:
        The K steps, k = K first; coefficients of the kind and shape of ``variance``.

    Raises:
        ValueError: If a beta is out of its range or the kind is unknown; when called, not at the first step.
    """
    levels = _levels(betas)
    if kind not in SAMPLERS:
        raise ValueError(f"kind must be one of {sorted(SAMPLERS)}, got {kind!r}")
    return _linear_steps(levels, SAMPLERS[kind], mean, variance)


def output_moments(betas: ArrayLike, kind: str, *, mean: Value, variance: Value) -> Moments[Value]:
    r"""Mean and variance of what the sampler makes of standard normal noise, exactly.

    .. math:: m_{k-1} = A_km_k + B_k, \qquad s_{k-1}^2 = A_k^2s_k^2 + v_k, \qquad (m_K, s_K^2) = (0, 1)

    Args:
        betas: Noise schedule, (K,), each in (0, 1).
        kind: A key of ``SAMPLERS``.
        mean: Mean that the model was fitted to, any shape.
        variance: Variance that the model was fitted to, of the shape of ``mean``, at least 0.

    Returns:
        The moments, of the kind and shape of ``variance``.

    Raises:
        ValueError: If a beta is out of its range or the kind is unknown.
    """
    center, spread = 0 * mean, 0 * variance + 1
    for step in reverse_steps(betas, kind, mean=mean, variance=variance):
        center = step.scale * center + step.shift
        spread = step.scale**2 * spread + step.noise_variance
    return Moments(center, spread)


def variance_multiplier(betas: ArrayLike, kind: str, *, variance: Value) -> Value:
    r"""Factor by which one generation of exact sampling changes the variance.

    The multiplier :math:`\lambda` of the Gaussian laws, except that it depends on the variance at hand.

    Args:
        betas: Noise schedule, (K,), each in (0, 1).
        kind: A key of ``SAMPLERS``.
        variance: Variance that the model was fitted to, any shape, positive.

    Returns:
        The factor, of the kind and shape of ``variance``.

    Raises:
        ValueError: If a beta is out of its range or the kind is unknown.
    """
    return output_moments(betas, kind, mean=0 * variance, variance=variance).variance / variance


def generation_moments(
    generations: int, betas: ArrayLike, *, kind: str, mean: Value, variance: Value
) -> Moments[Value]:
    """Mean and variance of the samples of the last of several generations, each fitted exactly to the one before.

    Args:
        generations: Number of models that are fitted and sampled, at least 0; the first is fitted to the real law.
        betas: Noise schedule, (K,), each in (0, 1).
        kind: A key of ``SAMPLERS``.
        mean: Mean of the real law, any shape.
        variance: Variance of the real law, of the shape of ``mean``, at least 0.

    Returns:
        The moments of what the last model samples, infinitely many points; of the real law for no generation.

    Raises:
        ValueError: If an argument is out of its range or the kind is unknown.
    """
    check_count("generations", generations, 0)
    moments = Moments(mean, variance)
    for _ in range(generations):
        moments = output_moments(betas, kind, mean=moments.mean, variance=moments.variance)
    return moments


def first_fit_expected_variance(n: int, betas: ArrayLike, *, kind: str, ddof: int, variance: float = 1.0) -> float:
    r"""Expected variance of the samples of a model with the moments of n real points.

    .. math:: \mathbb{E}\,V\Bigl(\sigma_0^2\,\frac{\chi^2_{n-1}}{n-\mathrm{ddof}}\Bigr), \qquad
        V \text{ the output variance}

    by quadrature. Later generations have no such form, because V is not linear.

    Args:
        n: Real points of the fit, at least 2.
        betas: Noise schedule, (K,), each in (0, 1).
        kind: A key of ``SAMPLERS``.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance :math:`\sigma_0^2` of the real law, positive.

    Returns:
        The expectation over real samples of the variance of one model's samples.

    Raises:
        ValueError: If an argument is out of its range or the kind is unknown.
    """
    check_fit(1, n, ddof=ddof, variance=variance)
    points, weights = chi_square_grid(n - 1)
    fitted = variance * points / (n - ddof)
    return float(weights @ output_moments(betas, kind, mean=0 * fitted, variance=fitted).variance)


def _linear_steps(
    levels: list[float], sampler: Callable[[float, float], SamplerStep], mean: Value, variance: Value
) -> Iterator[LinearStep[Value]]:
    for level, following in zip(reversed(levels), [*reversed(levels[:-1]), 1.0], strict=True):
        step = sampler(level, following)
        gain = step.noise_scale * math.sqrt(1 - level) / (level * variance + (1 - level))  # b times g of equation (1)
        yield LinearStep(step.scale + gain, -math.sqrt(level) * gain * mean, step.noise_variance)


def _levels(betas: ArrayLike) -> list[float]:
    """Cumulative products of 1 - β, plain numbers so that they combine with tensors of every device."""
    schedule = np.asarray(betas, dtype=np.float64)
    if schedule.ndim != 1 or len(schedule) == 0:
        raise ValueError(f"betas must be a vector with an entry per step, got shape {schedule.shape}")
    if not np.all((schedule > 0) & (schedule < 1)):
        raise ValueError(f"betas must lie in (0, 1), got {schedule.min()} to {schedule.max()}")
    return np.cumprod(1 - schedule).tolist()
