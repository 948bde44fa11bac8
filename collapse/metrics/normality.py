"""How far a sample is from the standard normal: the Epps-Pulley statistic, on a grid, exactly, and over directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collapse.distributed import processes, sum_over_processes

__all__ = ["bhep", "epps_pulley", "random_directions", "sliced_epps_pulley"]


def epps_pulley(
    x: Tensor, *, t_max: float = 3.0, knots: int = 17, unbiased: bool = False, across_processes: bool = False
) -> Tensor:
    r"""Distance of each column of a sample from N(0, 1), through its empirical characteristic function.

    .. math:: T = N \sum_k q_k \phi_k \left[ |\hat\varphi(t_k)|^2 - 2 \phi_k \operatorname{Re} \hat\varphi(t_k)
              + \phi_k^2 \right], \quad \phi_k = e^{-t_k^2/2} \qquad (1)

    with :math:`\hat\varphi(t) = \frac1N \sum_n e^{itx_n}`, knots :math:`t_k = k\Delta` on [0, t_max] and trapezoid
    weights :math:`q_k` doubled by symmetry. The plain form has expectation 1.0525 under N(0, 1) on the default grid
    and is smallest, in expectation, at a standard deviation of 1 - 1/N: it shrinks. The unbiased form puts

    .. math:: |\hat\varphi|^2 \to (N |\hat\varphi|^2 - 1) / (N - 1) \qquad (2)

    (the pairs without the diagonal); its expectation is 0 under N(0, 1), smallest at 1.

    Args:
        x: Samples, (N, S), one statistic per column; computed in at least float32 whatever autocast says.
        t_max: Largest frequency; the statistic is periodic in x with period 2 pi (knots - 1) / t_max.
        knots: Number of frequencies, at least 2.
        unbiased: Use (2). Needs two rows.
        across_processes: Treat x as this process's rows of one sample spread over all processes; value and gradient
            are then those of the whole sample, under the mean that DDP takes of the gradients.

    Returns:
        (S,), the statistic of each column.

    Raises:
        ValueError: On fewer than 2 knots, or fewer than 2 rows with ``unbiased``.

    References:
        Epps, Pulley, Biometrika 70, 1983; Balestriero, LeCun, "LeJEPA", 2025, arXiv:2511.08544.
    """
    if knots < 2:
        raise ValueError(f"knots must be at least 2, got {knots}")
    if unbiased and len(x) * (processes() if across_processes else 1) < 2:
        raise ValueError(f"the unbiased statistic needs at least 2 rows, got {len(x)}; use a larger batch")
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        step = t_max / (knots - 1)
        t = step * torch.arange(knots, dtype=x.dtype, device=x.device)
        phi = torch.exp(-t.square() / 2)
        quadrature = torch.full_like(t, 2 * step)
        quadrature[0] = quadrature[-1] = step
        angle = x[..., None] * t  # (N, S, K)
        count = torch.full((), len(x), dtype=x.dtype, device=x.device)
        cosine, sine = angle.cos().sum(0), angle.sin().sum(0)  # (S, K)
        if across_processes:
            packed = sum_over_processes(torch.cat([cosine.flatten(), sine.flatten(), count[None]]))
            cosine, sine = (part.view_as(cosine) for part in packed[:-1].chunk(2))
            count = packed[-1].detach()
        cosine, sine = cosine / count, sine / count
        power = cosine.square() + sine.square()
        if unbiased:
            power = (count * power - 1) / (count - 1)  # equation (2)
        return count * ((power - 2 * phi * cosine + phi.square()) * (quadrature * phi)).sum(-1)  # equation (1)


def bhep(x: Tensor, *, chunk_size: int = 256) -> Tensor:
    r"""Distance of each column of a sample from N(0, 1), over all frequencies and in closed form.

    .. math:: N \int |\hat\varphi(t) - e^{-t^2/2}|^2 \frac{e^{-t^2/2}}{\sqrt{2\pi}} dt = \frac1N \sum_{jk}
        e^{-(x_j - x_k)^2/2} - \sqrt2 \sum_j e^{-x_j^2/4} + \frac{N}{\sqrt3}

    The Baringhaus-Henze-Epps-Pulley statistic with smoothing parameter 1, without standardization. ``epps_pulley``
    leaves out the constant of the density and the frequencies beyond its grid: it is near :math:`\sqrt{2\pi}` times
    this. The expectation for N draws of :math:`N(m, s^2)` is

    .. math:: 1 - a_1 + N \bigl[a_1 + 3^{-1/2} - 2 a_2 e^{-a_2^2 m^2/2}\bigr], \qquad
        a_1 = (1 + 2s^2)^{-1/2},\; a_2 = (2 + s^2)^{-1/2}

    so :math:`1 - 3^{-1/2}` under N(0, 1), whatever N.

    Args:
        x: Samples, (N, S) or (N,), N >= 1.
        chunk_size: Rows that are paired with all others at once; memory is O(chunk_size * N * S).

    Returns:
        (S,) or (), the statistic of each column, float64, never negative but for rounding. Time is quadratic in N.

    Raises:
        ValueError: If x has no row or chunk_size is below 1.

    References:
        Epps, Pulley, Biometrika 70, 1983; Baringhaus, Henze, Metrika 35, 1988.
    """
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, but at least one row is needed; draw more samples")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    x, n = x.double(), len(x)
    pairs = torch.stack([((rows[:, None] - x).square() / -2).exp().sum((0, 1)) for rows in x.split(chunk_size)]).sum(0)
    return pairs / n - math.sqrt(2) * (x.square() / -4).exp().sum(0) + n / math.sqrt(3)


def random_directions(dimension: int, slices: int, generator: torch.Generator) -> Tensor:
    """Return ``slices`` uniform unit vectors as columns, (dimension, slices), float32, drawn on the CPU.

    On the CPU so that every kind of device sees the same ones and none has to wait for it.
    """
    directions = torch.randn(dimension, slices, generator=generator, dtype=torch.float32)
    return directions / directions.norm(dim=0).clamp_min(torch.finfo(directions.dtype).tiny ** 0.5)


def sliced_epps_pulley(
    x: Tensor,
    directions: Tensor,
    *,
    t_max: float = 3.0,
    knots: int = 17,
    unbiased: bool = False,
    across_processes: bool = False,
) -> Tensor:
    """Mean Epps-Pulley statistic of the projections x @ directions: zero distance means N(0, I).

    Args:
        x: Samples, (N, D).
        directions: Unit columns, (D, S).
        t_max: See ``epps_pulley``, as are the rest.
        knots: Number of frequencies.
        unbiased: Leave the diagonal pairs out.
        across_processes: One sample over all processes.

    Returns:
        (), the mean over directions.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        projected = x @ directions.to(x.device, x.dtype, non_blocking=True)
        return epps_pulley(
            projected, t_max=t_max, knots=knots, unbiased=unbiased, across_processes=across_processes
        ).mean()


def null_mean(t_max: float = 3.0, knots: int = 17) -> float:
    r"""Return :math:`\sum_k q_k \phi_k (1 - \phi_k^2)`, the plain statistic's expectation under N(0, 1), for any N."""
    step = t_max / (knots - 1)
    weights = [step if k in (0, knots - 1) else 2 * step for k in range(knots)]
    phi = [math.exp(-((k * step) ** 2) / 2) for k in range(knots)]
    return sum(q * p * (1 - p * p) for q, p in zip(weights, phi, strict=True))
