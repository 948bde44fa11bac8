r"""Solvers: from noise back to rows in few steps, with any function that predicts the row.

A solver walks down a list of knots, times with their coefficients on the path :math:`x_t = \alpha_t x_0 + \sigma_t
\varepsilon`, from noise to the row itself. At each it asks once for a prediction :math:`\hat x(x_t, t)` of the row,
which stands for the noise :math:`\hat\varepsilon = (x_t - \alpha_t \hat x) / \sigma_t`. With the exact prediction, that
of the mean of :math:`x_0` given :math:`x_t`, infinitely many steps return the exact law; every finite number is a bias
of its own, which ``collapse.theory.diffusion`` states for Gaussian rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from collapse.models.noising import Path

__all__ = ["SOLVERS", "SPACINGS", "Denoise", "Knot", "Run", "Solver", "knots"]

Denoise = Callable[[Tensor, float], Tensor]
"""(x_t, t) -> the predicted row, of the shape of x_t."""

Draw = Callable[[Tensor], Tensor]
"""x_t -> standard normal numbers of its shape."""

_NOISIEST, _CLEANEST = -5.0, 5.0
"""Where log(alpha / sigma) begins and ends when its steps are equal: the row, or the noise, has shrunk to 0.007."""


class Knot(NamedTuple):
    """A time and its coefficients, plain numbers: nothing waits for a device."""

    t: float
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        """log(alpha / sigma), from -infinity (noise) to infinity (a row)."""
        if not self.alpha:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


class Run(Protocol):
    """A way down the knots."""

    def __call__(
        self, denoise: Denoise, x: Tensor, steps: Sequence[Knot], *, draw: Draw = torch.randn_like, eta: float = 0.0
    ) -> Tensor:
        """Return rows of the shape of x.

        Args:
            denoise: Predicts rows.
            x: Noise of the first knot, its sigma times standard normal numbers.
            steps: At least two knots, from noise to sigma = 0; one prediction for each but the last.
            draw: Source of the noise that is added on the way, where any is.
            eta: Share of the posterior's noise, where that is free.
        """


class Solver(NamedTuple):
    """A way down the knots, and how it is used unless somebody says otherwise.

    Attributes:
        run: The way.
        spacing: A key of ``SPACINGS``: the knots it is published with, and does well with.
        takes_eta: Whether ``eta`` means anything to it.
    """

    run: Run
    spacing: str = "time"
    takes_eta: bool = False


def one_step(noises: Callable[[Knot, Knot, float], tuple[float, float]]) -> Run:
    r"""Make a solver that forgets what was before.

    .. math:: x_s = \alpha_s \hat x + k\,\hat\varepsilon + n\,z, \qquad z \sim \mathcal N(0, I) \tag{1}

    Args:
        noises: (knot at hand, next knot, eta) -> (k, n), the noise to keep and the noise to add.
    """

    def run(
        denoise: Denoise, x: Tensor, steps: Sequence[Knot], *, draw: Draw = torch.randn_like, eta: float = 0.0
    ) -> Tensor:
        for here, following in pairwise(steps):
            kept, added = noises(here, following, eta)
            scale = kept / here.sigma
            x = scale * x + (following.alpha - scale * here.alpha) * denoise(x, here.t)  # equation 1
            if added:
                x = x + added * draw(x)
        return x

    return run


def implicit(here: Knot, following: Knot, eta: float) -> tuple[float, float]:
    r"""Return DDIM's noises: a share of that of the posterior, and so much less of the predicted one.

    .. math:: n = \eta\,\sigma_s \sqrt{1 - \Bigl(\frac{\alpha_t\sigma_s}{\alpha_s\sigma_t}\Bigr)^2}, \qquad
        k = \sqrt{\sigma_s^2 - n^2}

    eta = 0 adds nothing and follows the path's flow; eta = 1 is DDPM with the posterior's variance.

    References:
        Song, Meng, Ermon, "Denoising diffusion implicit models", 2021, arXiv:2010.02502, equations 12 and 16.
    """
    added = eta * following.sigma * math.sqrt(1 - min(1.0, _shrinkage(here, following)) ** 2)
    return math.sqrt(following.sigma**2 - added**2), added


def with_posterior_variance(here: Knot, following: Knot, eta: float) -> tuple[float, float]:
    """Return DDPM's noises with the smaller variance, right for rows that are known.

    References:
        Ho et al., "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, equation 7.
    """
    return implicit(here, following, 1.0)


def with_forward_variance(here: Knot, following: Knot, eta: float) -> tuple[float, float]:
    r"""Return DDPM's noises with the larger variance, that of the step towards noise; none is added at last.

    .. math:: n^2 = \sigma_t^2 - \Bigl(\frac{\alpha_t}{\alpha_s}\Bigr)^2 \sigma_s^2 \; (= \beta_t), \qquad
        k = \frac{\alpha_t \sigma_s^2}{\alpha_s \sigma_t}

    References:
        Ho et al., "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, section 3.2.
    """
    variance = here.sigma**2 - (here.alpha / following.alpha * following.sigma) ** 2
    return following.sigma * _shrinkage(here, following), math.sqrt(variance) if following.sigma else 0.0


def _shrinkage(here: Knot, following: Knot) -> float:
    """Return exp of minus the step in log(alpha / sigma)."""
    return here.alpha * following.sigma / (following.alpha * here.sigma)


def multistep(
    denoise: Denoise, x: Tensor, steps: Sequence[Knot], *, draw: Draw = torch.randn_like, eta: float = 0.0
) -> Tensor:
    r"""Follow the path's flow with predictions extrapolated from the last two, to second order in the steps.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \Bigl(\alpha_s - \alpha_t\frac{\sigma_s}{\sigma_t}\Bigr) D, \qquad
        D = \hat x_t + \frac{h}{2 h'} (\hat x_t - \hat x_{t'}) \tag{2}

    with the steps h ahead and h' behind in :math:`\lambda = \log(\alpha/\sigma)`. Without the extrapolation it is DDIM,
    as in the first step and the last, and wherever a step is infinitely long.

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095, algorithm 2.
    """
    behind, before = math.inf, x
    for here, following in pairwise(steps):
        row = denoise(x, here.t)
        ahead = following.log_ratio - here.log_ratio
        extrapolated = row
        if math.isfinite(ahead) and math.isfinite(behind):
            extrapolated = row + ahead / (2 * behind) * (row - before)
        scale = following.sigma / here.sigma
        x = scale * x + (following.alpha - scale * here.alpha) * extrapolated  # equation 2
        behind, before = ahead, row
    return x


SOLVERS = {
    "ddpm_beta": Solver(one_step(with_forward_variance)),
    "ddpm_posterior": Solver(one_step(with_posterior_variance)),
    "ddim": Solver(one_step(implicit), takes_eta=True),
    "multistep": Solver(multistep, spacing="log_ratio"),
}


def equal_times(path: Path, steps: int) -> Tensor:
    """Return times at equal distances, from 1 to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def equal_ratios(path: Path, steps: int) -> Tensor:
    """Return times between which log(alpha / sigma) grows equally, and 0 at last, where it is infinite."""

    def ratio(t: Tensor) -> Tensor:
        level = path(t)
        return level.alpha.log() - level.sigma.log()

    noisiest = max(_NOISIEST, float(ratio(torch.ones((), dtype=torch.float64))))
    wanted = torch.linspace(noisiest, _CLEANEST, steps, dtype=torch.float64)
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(60):  # bisection: the ratio falls with time
        middle = (low + high) / 2
        cleaner = ratio(middle) > wanted
        low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
    return torch.cat([high, high.new_zeros(1)])


SPACINGS: dict[str, Callable[[Path, int], Tensor]] = {"time": equal_times, "log_ratio": equal_ratios}


def knots(path: Path, steps: int, spacing: str) -> list[Knot]:
    """Return ``steps`` + 1 knots of a path, from noise to the row itself.

    Args:
        path: The path.
        steps: Predictions that a solver will ask for, at least 1.
        spacing: A key of ``SPACINGS``.
    """
    times = SPACINGS[spacing](path, steps)
    level = path(times)
    return [Knot(*knot) for knot in zip(times.tolist(), level.alpha.tolist(), level.sigma.tolist(), strict=True)]
