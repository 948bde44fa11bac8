"""The diffusion model: a network that takes noise away, and a solver that lets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapse.arguments import chosen
from collapse.data.rows import Batch
from collapse.models.conditions import check_classes
from collapse.models.generative import GenerativeModule, check_rows
from collapse.models.noising import PATHS, PREDICTIONS, min_snr_weight
from collapse.models.solvers import SOLVERS, SPACINGS, knots
from collapse.nn.denoiser import MLPDenoiser
from collapse.nn.precision import at_least_single
from collapse.nn.unet import UNet
from collapse.noise import row_normal, row_uniform
from collapse.seeding import Stream, key, standard_normal

__all__ = ["Diffusion"]


class Diffusion(GenerativeModule):
    r"""Learn to tell rows from noise at every mixture of the two, and sample by walking from one to the other.

    .. math::
        x_t = \alpha_t x_0 + \sigma_t \varepsilon, \quad t \sim \mathcal U(0, 1),\ \varepsilon \sim \mathcal N(0, I)
        \tag{1}

    .. math::
        \ell(x_0) = \frac{w_t}{D} \lVert f(x_t, t, y) - \text{target}(x_0, \varepsilon) \rVert^2 \tag{2}

    The mean over the D elements of a row, as the literature has it: no likelihood in nats, but a number near 1 before
    training for rows of any size. Time and noise belong to the row: with a clock they depend on the seed, the step and
    the pool row alone, so that a batch may be split over processes, or a run resumed, without a change of loss.

    Sampling starts from noise and follows

    .. math::
        f_\omega = f(x_t, t, y) + \omega\,\bigl(f(x_t, t, y) - f(x_t, t)\bigr) \tag{3}

    where the difference is left out without guidance. No solver samples the exact law of the network: which one, its
    steps and its noise are recorded with every pool.

    Rows of three axes are images: in [0, 1] outside, in [-1, 1] on the path, and predicted rows are clamped to that,
    which no exact prediction would ever leave. Other rows are taken as they are; scale them to a variance near 1.

    Args:
        shape: Shape S of a row; (C, H, W) for images.
        network: "unet" for images, "mlp" for rows of any shape.
        path: "linear" (DDPM's), "cosine", or "flow" (the straight line of rectified flow).
        prediction: What the network predicts: "epsilon" (the noise), "v", or "x0" (the row).
        min_snr: Cap of the weight that the row's error has, above 0 (the paper's is 5); None weighs all outputs alike.
        sampler: "multistep" (second order), "ddim", "ddpm_posterior", or "ddpm_beta".
        steps: Calls of the network for a sample, at least 1; 20 for "multistep", hundreds for "ddpm_*".
        spacing: "time" for steps that are equal in t, "log_ratio" in log(alpha / sigma); None for the sampler's own.
        eta: Share of the posterior's noise that "ddim" adds, in [0, 1].
        classes: Number of classes for a conditional model; None for an unconditional one.
        label_dropout: Probability that a row trains without its label, in [0, 1).
        guidance: Weight of equation 3, at least 0; above 0 it needs ``label_dropout``, and samples less diverse rows.
        width, multipliers, blocks, attention, dropout: Of the U-Net.
        hidden, layers: Of the fully connected network.
        checkpointing: Compute the U-Net's inner values twice instead of keeping them.
        compile: Compile the network; the weights have the same names.
        learning_rate: Step size of Adam.

    Raises:
        ValueError: If an argument is outside its range or names nothing known.

    References:
        Ho et al., "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, equation 14; Salimans, Ho,
        "Progressive distillation", 2022, arXiv:2202.00512, appendix D (v); Ho, Salimans, "Classifier-free diffusion
        guidance", 2022, arXiv:2207.12598, equation 6.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        *,
        network: str = "unet",
        path: str = "cosine",
        prediction: str = "v",
        min_snr: float | None = None,
        sampler: str = "multistep",
        steps: int = 20,
        spacing: str | None = None,
        eta: float = 0.0,
        classes: int | None = None,
        label_dropout: float = 0.0,
        guidance: float = 0.0,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: Sequence[int] = (1, 2),
        attention: int = 8,
        dropout: float = 0.0,
        hidden: int = 128,
        layers: int = 3,
        checkpointing: bool = False,
        compile: bool = False,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not shape or min(shape) < 1:
            raise ValueError(f"shape = {tuple(shape)} must be the sides of a row, at least one and each at least 1")
        if min(hidden, layers) < 1:
            raise ValueError(f"hidden = {hidden} and layers = {layers} must both be at least 1")
        self.shape, self.classes, self.images = tuple(shape), classes, len(shape) == 3
        self.path = chosen("path", path, PATHS)
        self.prediction = chosen("prediction", prediction, PREDICTIONS)
        self.solver = chosen("sampler", sampler, SOLVERS)
        self.sampler, self.steps, self.eta = sampler, steps, eta
        self.spacing = self.solver.spacing if spacing is None else spacing
        chosen("spacing", self.spacing, SPACINGS)
        self.min_snr, self.label_dropout, self.guidance = min_snr, label_dropout, guidance
        self.learning_rate = learning_rate
        self._check(path, prediction)
        networks: dict[str, Callable[[], nn.Module]] = {
            "unet": lambda: UNet(
                self.shape,
                width=width,
                multipliers=multipliers,
                blocks=blocks,
                attention=attention,
                classes=classes,
                dropout=dropout,
                checkpointing=checkpointing,
            ),
            "mlp": lambda: MLPDenoiser(self.shape, hidden=hidden, layers=layers, classes=classes),
        }
        self.network = chosen("network", network, networks)()
        if compile:
            self.network.compile()

    def _check(self, path: str, prediction: str) -> None:
        """Raise ValueError for numbers out of range, and for settings that do not go together."""
        if self.steps < 1 or not 0 <= self.learning_rate < math.inf:
            raise ValueError(
                f"steps = {self.steps}, learning_rate = {self.learning_rate}: steps must be at least 1, learning_rate "
                "at least 0 and finite"
            )
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr = {self.min_snr} must be above 0, or None for no weighting")
        if not 0 <= self.eta <= 1 or (self.eta and not self.solver.takes_eta):
            takers = ", ".join(name for name, solver in SOLVERS.items() if solver.takes_eta)
            raise ValueError(
                f"eta = {self.eta} must lie in [0, 1], and only sampler = {takers!r} takes it, not {self.sampler!r}"
            )
        if self.prediction.needs_signal and float(self.path(torch.ones(())).alpha) == 0:
            raise ValueError(
                f"prediction = {prediction!r} says nothing of the row at the end of path = {path!r}, which is noise "
                "alone; use prediction = 'v'"
            )
        if self.classes is None and (self.label_dropout or self.guidance):
            raise ValueError(
                f"label_dropout = {self.label_dropout} and guidance = {self.guidance} need labels; give classes, or "
                "leave them 0"
            )
        if not 0 <= self.label_dropout < 1 or not 0 <= self.guidance < math.inf:
            raise ValueError(
                f"label_dropout = {self.label_dropout} must lie in [0, 1), guidance = {self.guidance} must be at least "
                "0 and finite"
            )
        if self.guidance and not self.label_dropout:
            raise ValueError(
                f"guidance = {self.guidance} compares with a network that sees no label, and with label_dropout = 0 "
                "none is trained; use label_dropout = 0.1"
            )

    def loss(self, batch: Batch) -> Tensor:
        """Return equation 2 for each row, (B,)."""
        rows = batch.row if batch.row.ndim == 1 else batch.row[:, 0]
        address = int(torch.randint(1 << 62, ())) if self.clock is None else self.clock.key(Stream.NOISE)
        t, kept = row_uniform(key(address, 0), rows, 2).unbind(1)
        noise = row_normal(key(address, 1), rows, self.shape)
        return self.error(batch.x, t, noise, self._some_labels(self.labels_of(batch), kept))

    def error(self, x: Tensor, t: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """Return equation 2 at given times and noises.

        Args:
            x: Rows, (B, *S), in the units of ``Batch.x``.
            t: Times, (B,) in (0, 1].
            noise: Standard normal numbers, (B, *S).
            y: (B,) int64 labels, -1 for none; None for none in any row.

        Returns:
            (B,), in single precision at least.

        Raises:
            ValueError: If the rows are no real numbers (tokens, say), or have another shape.
        """
        check_rows(x, self.shape, type(self).__name__)
        row, noise = x.to(self._wide), noise.to(self._wide)
        if self.images:
            row = 2 * row - 1
        level = self.path(t.to(self._wide).reshape(-1, *[1] * len(self.shape)))
        output = self._output(level.mix(row, noise), t, y)  # equation 1
        error = (output - self.prediction.target(level, row, noise)).square().flatten(1).mean(1)
        if self.min_snr is None:
            return error
        return error * min_snr_weight(level, self.prediction, self.min_snr).flatten()

    @torch.no_grad()
    def heldout_loss(self, x: Tensor, y: Tensor | None = None, *, times: int = 16) -> Tensor:
        """Return the mean of equation 2 over equally spaced times, with noise that depends on a row's place alone.

        Args:
            x: Rows, (B, *S), in the units of ``Batch.x``.
            y: (B,) int64 labels.
            times: Number of times, at least 1.

        Returns:
            (B,), the same at every call.
        """
        if times < 1:
            raise ValueError(f"times = {times}, but the loss is a mean over times; use at least 1")
        check_classes(y, self.classes)
        places = torch.arange(len(x), device=x.device)
        total = torch.zeros(len(x), device=x.device, dtype=self._wide)
        for index in range(times):
            t = torch.full_like(total, (index + 0.5) / times)
            total = total + self.error(x, t, row_normal(key(index), places, self.shape), y)
        return total / times

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Walk from noise to rows.

        Args:
            n: Number of rows.
            generator: On the module's device; the only source of randomness.
            y: (n,) int64 labels of a model with ``classes``, -1 for none; None without.

        Returns:
            (n, *S); images in [0, 1].
        """
        self._check_labels(y)

        def draw(x: Tensor) -> Tensor:
            return standard_normal(*x.shape, generator=generator, dtype=x.dtype)

        steps = knots(self.path, self.steps, self.spacing)
        noise = draw(torch.empty(n, *self.shape, dtype=self._wide, device=self.device))
        x = self.solver.run(lambda x, t: self._row(x, t, y), steps[0].sigma * noise, steps, draw=draw, eta=self.eta)
        return x.add(1).div(2).clamp(0, 1) if self.images else x

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The solver and all that it depends on."""
        names = ("sampler", "steps", "spacing", "eta", "guidance")
        return {name: getattr(self, name) for name in names}

    @property
    def _narrow(self) -> torch.dtype:
        """The type of the network's weights."""
        return next(self.network.parameters()).dtype

    @property
    def _wide(self) -> torch.dtype:
        """The type of everything outside the network: sixteen bits are for that alone."""
        return torch.promote_types(self._narrow, torch.float32)

    def _row(self, x: Tensor, t: float, y: Tensor | None) -> Tensor:
        """Predict the row in x at one time."""
        times = torch.full((len(x),), t, device=x.device, dtype=self._wide)
        level = self.path(torch.tensor(t, dtype=torch.float64))  # numbers on the CPU: they go along with any device
        output = self._output(x, times, y) if not self.guidance else self._guided(x, times, y)
        row = self.prediction.row(level, x, output)
        return row.clamp(-1, 1) if self.images else row

    def _guided(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Return equation 3 from one call of the network."""
        labels = torch.full_like(t, -1, dtype=torch.int64)
        labels = torch.cat([labels if y is None else y, labels])
        conditional, free = self._output(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
        return torch.lerp(free, conditional, 1 + self.guidance)  # equation 3

    def _output(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return at_least_single(self.network(x.to(self._narrow), t, y))

    def _some_labels(self, y: Tensor | None, kept: Tensor) -> Tensor | None:
        """Return the labels without those that a row's number is too small for."""
        if y is None or not self.label_dropout:
            return y
        return torch.where(kept > self.label_dropout, y, -1)

    def _check_labels(self, y: Tensor | None) -> None:
        if self.classes is None and y is not None:
            raise ValueError(f"y holds {len(y)} labels, but this model has classes = None; sample it without labels")
        if self.classes is not None and y is None and not self.label_dropout:
            raise ValueError(
                f"y is None, but the network has seen labels of {self.classes} classes with every row; give y, or "
                "train with label_dropout"
            )
        check_classes(y, self.classes)
