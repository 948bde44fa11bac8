r"""Paths from a row to noise, and what a network may predict on them.

At time t in [0, 1] a path mixes a row with standard normal noise,

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \tag{1}

from the row itself (t = 0) to noise (t = 1), and a network that sees :math:`x_t` and t predicts the row, the noise, or

.. math:: v = a_t \varepsilon - b_t x_0 \quad\text{with}\quad a_t\alpha_t + b_t\sigma_t = 1, \tag{2}

so that :math:`x_0 = a_t x_t - \sigma_t v`. On a variance-preserving path (:math:`\alpha^2 + \sigma^2 = 1`) a and b are
:math:`\alpha` and :math:`\sigma`; on the straight path they are 1, and v is the velocity :math:`dx_t/dt`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PATHS", "PREDICTIONS", "Level", "Path", "Prediction", "min_snr_weight"]

_BETA_FIRST, _BETA_LAST = 0.1, 20.0  # a thousand times DDPM's 1e-4 and 0.02: betas per unit of time
_MARGIN = 0.008  # Nichol and Dhariwal's s


class Level(NamedTuple):
    """Coefficients of equations 1 and 2 at some times, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    a: Tensor
    b: Tensor

    def mix(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return equation 1."""
        return torch.addcmul(self.sigma * noise, self.alpha, x)


Path = Callable[[Tensor], Level]
"""t in [0, 1] -> its level."""


def linear(t: Tensor) -> Level:
    r"""Return DDPM's levels, whose betas rise linearly, in the limit of many steps.

    .. math:: \log\alpha_t = -\tfrac14 (\beta_1 - \beta_0) t^2 - \tfrac12 \beta_0 t, \qquad \sigma_t^2 = 1 - \alpha_t^2

    With beta from 0.1 to 20, that is from 1e-4 to 0.02 in each of a thousand steps.

    References:
        Ho et al., "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, section 4; Song et al.,
        "Score-based generative modeling through stochastic differential equations", 2021, arXiv:2011.13456, eq. 33.
    """
    log_alpha = -t * (0.25 * (_BETA_LAST - _BETA_FIRST) * t + 0.5 * _BETA_FIRST)
    alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
    return Level(alpha, sigma, alpha, sigma)


def cosine(t: Tensor) -> Level:
    r"""Return the levels of a cosine that keeps away from its ends.

    .. math:: \alpha_t = \frac{\cos\theta_t}{\cos\theta_0}, \qquad \theta_t = \frac\pi2\,\frac{t + s}{1 + 2s}

    with s = 0.008. The margin at t = 1, where :math:`\alpha = 0.012`, takes the place of the paper's largest beta.

    References:
        Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", 2021, arXiv:2102.09672, equation 17.
    """
    per_time = math.pi / 2 / (1 + 2 * _MARGIN)
    start, angle = per_time * _MARGIN, per_time * (t + _MARGIN)
    alpha = torch.cos(angle) / math.cos(start)
    # cos(start)^2 - cos(angle)^2 = sin(angle - start) sin(angle + start), without its cancellation
    sigma = (torch.sin(per_time * t) * torch.sin(angle + start)).sqrt() / math.cos(start)
    return Level(alpha, sigma, alpha, sigma)


def flow(t: Tensor) -> Level:
    r"""Return the straight line from row to noise, of rectified flow and flow matching.

    .. math:: \alpha_t = 1 - t, \qquad \sigma_t = t

    References:
        Liu, Gong, Liu, "Flow straight and fast", 2023, arXiv:2209.03003; Lipman et al., "Flow matching for generative
        modeling", 2023, arXiv:2210.02747 (their time runs the other way).
    """
    one = torch.ones_like(t)
    return Level(1 - t, t, one, one)


PATHS: dict[str, Path] = {"linear": linear, "cosine": cosine, "flow": flow}


class Prediction(NamedTuple):
    r"""What a network's output means.

    Attributes:
        target: (level, row, noise) -> what the output should be.
        row: (level, :math:`x_t`, output) -> the row it stands for.
        gain: (level) -> by how much an error of the output is larger in the row.
        needs_signal: Whether ``row`` divides by alpha, so that a path must not end in pure noise.
    """

    target: Callable[[Level, Tensor, Tensor], Tensor]
    row: Callable[[Level, Tensor, Tensor], Tensor]
    gain: Callable[[Level], Tensor]
    needs_signal: bool = False


PREDICTIONS = {
    "epsilon": Prediction(
        target=lambda level, x, noise: noise,
        row=lambda level, x, output: (x - level.sigma * output) / level.alpha,
        gain=lambda level: level.sigma / level.alpha,
        needs_signal=True,
    ),
    "v": Prediction(
        target=lambda level, x, noise: level.a * noise - level.b * x,  # equation 2
        row=lambda level, x, output: level.a * x - level.sigma * output,
        gain=lambda level: level.sigma,
    ),
    "x0": Prediction(
        target=lambda level, x, noise: x,
        row=lambda level, x, output: output,
        gain=lambda level: torch.ones_like(level.alpha),
    ),
}


def min_snr_weight(level: Level, prediction: Prediction, gamma: float) -> Tensor:
    r"""Return the weight of the squared error of an output that weighs the error of the row by its capped signal.

    .. math:: w_t = \min(\mathrm{SNR}_t, \gamma)\, g_t^2, \qquad \mathrm{SNR}_t = \alpha_t^2 / \sigma_t^2

    with the prediction's gain g. On a variance-preserving path these are the paper's :math:`\min(\mathrm{SNR}, \gamma)`
    for the row, the same over SNR for the noise, and over SNR + 1 for v.

    Args:
        level: At times in (0, 1).
        prediction: What the network predicts.
        gamma: Cap, above 0.

    Returns:
        Weights of the shape of t.

    References:
        Hang et al., "Efficient diffusion training via min-SNR weighting strategy", 2023, arXiv:2303.09556, section 3.4.
    """
    return (level.alpha / level.sigma).square().clamp(max=gamma) * prediction.gain(level).square()
