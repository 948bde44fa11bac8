"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from collapse.arguments import chosen
from collapse.data.rows import Batch
from collapse.models.conditions import check_classes, one_hot
from collapse.models.generative import GenerativeModule, check_rows
from collapse.models.likelihoods import BernoulliLikelihood, GaussianLikelihood, Likelihood
from collapse.nn import MLP, ConvDecoder, ConvEncoder, at_least_single

__all__ = ["VAE", "BernoulliLikelihood", "GaussianLikelihood", "Likelihood"]


class Harvest(NamedTuple):
    """How decoded parameters become a row, and what of it is recorded with every pool."""

    emit: Callable[[Likelihood, Tensor, torch.Generator], Tensor]
    settings: dict[str, Any]


def drawn(likelihood: Likelihood, parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the model's own law: the unbiased harvest."""
    return likelihood.draw(parameters, generator)


def averaged(likelihood: Likelihood, parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean given z, as most image papers do: it leaves out the likelihood's own variance."""
    return likelihood.mean(parameters)


def fully_connected(shape: tuple[int, ...], latent_dim: int, hidden: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder with one hidden layer each, for rows of any shape; the decoder takes classes."""
    size = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), MLP((size, hidden, 2 * latent_dim)))
    return encoder, nn.Sequential(MLP((latent_dim + classes, hidden, size)), nn.Unflatten(1, shape))


def convolutional(shape: tuple[int, ...], latent_dim: int, hidden: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder with hidden / 4 and hidden / 2 feature maps, at least one, for images."""
    channels = (max(1, hidden // 4), max(1, hidden // 2))
    image: Any = shape  # its length is checked by the networks
    encoder = ConvEncoder(image, 2 * latent_dim, channels=channels)  # first, as its weights are drawn first
    return encoder, ConvDecoder(latent_dim + classes, image, channels=channels)


NETWORKS = {"mlp": fully_connected, "conv": convolutional}
LIKELIHOODS: dict[str, Callable[[float], Likelihood]] = {
    "bernoulli": lambda scale: BernoulliLikelihood(),
    "gaussian": GaussianLikelihood,
}
HARVESTS = {"draw": Harvest(drawn, {}), "mean": Harvest(averaged, {"harvest": "mean"})}


class VAE(GenerativeModule):
    r"""Autoencode rows through a Gaussian latent variable and minimize the negative evidence lower bound.

    .. math::
        z = \mu(x) + \sigma(x) \odot \varepsilon, \quad \varepsilon \sim \mathcal N(0, I) \tag{1}

    .. math::
        D_{\mathrm{KL}} = \tfrac12 \sum_j \bigl(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\bigr) \tag{2}

    .. math::
        \ell(x) = -\log p(x \mid z) + \beta\, D_{\mathrm{KL}} \tag{3}

    With ``classes`` every law is that given the label y: the encoder sees x plus a learned offset of its class, the
    decoder z beside y as a unit vector. Without a label (-1) both are zero.

    .. math::
        q(z \mid x, y) = q(z \mid x + A e_y), \quad p(x \mid z, y) = p(x \mid (z, e_y)), \quad e_{-1} = 0 \tag{4}

    With the defaults ``hidden=256`` and ``network="conv"`` and with ``shape=(1, 28, 28), latent_dim=20`` it is the
    network of Shumailov et al. (647 081 parameters), who harvest the mean.

    Args:
        shape: Shape S of a row; (C, H, W) for images.
        latent_dim: Dimension of z, at least 1.
        hidden: Width of the hidden layers ("mlp"); the networks' feature maps are hidden / 4 and hidden / 2 ("conv").
        network: "mlp" for rows of any shape, "conv" for images with sides of at least 8.
        likelihood: "bernoulli" for x in [0, 1], "gaussian" for any x.
        scale: Standard deviation of the Gaussian likelihood in the units of x, above 0; the Bernoulli has none.
        beta: Weight of equation 2, at least 0; 1 is the bound itself.
        harvest: "draw" samples p(x | z), the model's own law; "mean" returns its mean, which is biased. Images are
            clamped to [0, 1], which the Gaussian's draws leave: a bias as well, recorded as such.
        classes: Number of classes K for a model conditioned on labels, at least 1; None for one that is not.
        learning_rate: Step size of Adam.
        weight_decay: Adam's weight decay (L2), at least 0.
        compile: Compile the networks with ``torch.compile``, at their first use.

    Raises:
        ValueError: If an argument is outside its range or names nothing known.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", 2014. arXiv:1312.6114, equations 3 and 10.
        Higgins et al., "beta-VAE", 2017, equation 4.
        Sohn, Lee, Yan, "Learning Structured Output Representation using Deep Conditional Generative Models", 2015.
        Shumailov et al., "AI models collapse when trained on recursively generated data", 2024.
    """

    exposes = frozenset({"latent"})

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        latent_dim: int = 16,
        *,
        hidden: int = 256,
        network: str = "mlp",
        likelihood: str = "bernoulli",
        scale: float = 0.1,
        beta: float = 1.0,
        harvest: str = "draw",
        classes: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if min(latent_dim, hidden) < 1 or not 0 < scale < math.inf or not 0 <= beta < math.inf:
            raise ValueError(
                f"latent_dim = {latent_dim}, hidden = {hidden}, scale = {scale}, beta = {beta}: latent_dim and hidden "
                "must be at least 1, scale above 0 and beta at least 0, both finite"
            )
        if not 0 <= learning_rate < math.inf or not 0 <= weight_decay < math.inf:
            raise ValueError(
                f"learning_rate = {learning_rate}, weight_decay = {weight_decay}: both must be at least 0 and finite"
            )
        if not shape or min(shape) < 1:
            raise ValueError(f"shape = {tuple(shape)} must be the sides of a row, at least one and each at least 1")
        if classes is not None and classes < 1:
            raise ValueError(f"classes = {classes} must be at least 1, or None for a model without labels")
        self.shape, self.latent_dim, self.beta, self.classes = tuple(shape), latent_dim, beta, classes
        self.encoder, self.decoder = chosen("network", network, NETWORKS)(self.shape, latent_dim, hidden, classes or 0)
        if classes is not None:
            self.offset = nn.Linear(classes, math.prod(self.shape), bias=False)
        self.likelihood = chosen("likelihood", likelihood, LIKELIHOODS)(scale)
        self.harvest = chosen("harvest", harvest, HARVESTS)
        self.clamps = len(self.shape) == 3 and isinstance(self.likelihood, GaussianLikelihood)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        if compile:
            self.encoder.compile()  # in place: the state dict keeps its names
            self.decoder.compile()

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x, y), both (B, latent_dim), for rows (B, *S) and labels (B,).

        Raises:
            ValueError: If the rows are no real numbers (tokens, say), or have another shape.
        """
        check_rows(x, self.shape, type(self).__name__)
        labels, x = self._labels(y), x.to(self._narrow)
        if labels is not None:
            x = x + self.offset(labels).view_as(x)  # equation 4
        mu, log_variance = at_least_single(self.encoder(x)).chunk(2, dim=1)
        return mu, log_variance

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the likelihood's parameters, (B, *S), for z (B, latent_dim) and labels (B,)."""
        labels, z = self._labels(y), z.to(self._narrow)
        return at_least_single(self.decoder(z if labels is None else torch.cat([z, labels], 1)))  # equation 4

    def loss(self, batch: Batch) -> Tensor:
        """Return equation 3 for each row, (B,), in nats."""
        return self.outputs(batch)["loss"]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return equation 3, its two terms and the sampled z of every row, from one forward pass.

        Returns:
            "loss" (B,), "reconstruction" (B,) = -log p(x | z) and "kl" (B,) in nats; "latent" (B, latent_dim).
        """
        y = self.labels_of(batch)
        mu, log_variance = self.encode(batch.x, y)
        x = batch.x.to(self._wide)  # nothing to do but for float64 data
        z = torch.addcmul(mu, torch.exp(0.5 * log_variance), torch.randn_like(mu))  # equation 1
        reconstruction, kl = self._reconstruction(z, x, y), divergence(mu, log_variance)
        loss = torch.add(reconstruction, kl, alpha=self.beta)  # equation 3
        return {"loss": loss, "latent": z, "reconstruction": reconstruction, "kl": kl}

    def elbo(
        self, x: Tensor, samples: int = 1, *, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the evidence lower bound of each row, with beta = 1 whatever the training weighs.

        Args:
            x: Rows, (B, *S).
            samples: Draws of z to average over, at least 1.
            y: (B,) labels for a model with classes, -1 for none.
            generator: On the module's device; None for torch's global one.

        Returns:
            A lower bound of log p(x), or of log p(x | y), in expectation, (B,), in nats.
        """
        if samples < 1:
            raise ValueError(f"samples = {samples}, but the bound is a mean over draws of z; use at least 1")
        check_classes(y, self.classes)
        mu, log_variance = self.encode(x, y)
        sigma, total = torch.exp(0.5 * log_variance), torch.zeros_like(mu[:, 0])
        for _ in range(samples):
            noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
            total = total + self._reconstruction(torch.addcmul(mu, sigma, noise), x, y)
        return -total / samples - divergence(mu, log_variance)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Decode z ~ N(0, I) and draw rows from the likelihood, or take its mean.

        Args:
            n: Number of rows.
            generator: On the module's device; the only source of randomness.
            y: (n,) int64 labels for a model with classes, -1 for none; None for one without.

        Returns:
            (n, *S); images clamped to [0, 1].

        Raises:
            ValueError: If the model is conditioned on labels and there are none, or the other way round, or if some are
                of none of its classes.
        """
        check_classes(y, self.classes)
        z = torch.randn(n, self.latent_dim, generator=generator, device=self.device, dtype=self._wide)
        x = self.harvest.emit(self.likelihood, self.decode(z, y), generator)
        return x.clamp(0, 1) if self.clamps else x

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """What departs from the model's own law: the mean in place of a draw, values cut off."""
        return self.harvest.settings | ({"clamp": [0, 1]} if self.clamps else {})

    def _reconstruction(self, z: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        return self.likelihood.negative_log_likelihood(self.decode(z, y), x)

    @property
    def _narrow(self) -> torch.dtype:
        """The type of the networks' weights."""
        return next(self.decoder.parameters()).dtype

    @property
    def _wide(self) -> torch.dtype:
        """The type of everything outside the networks: sixteen bits are for these alone."""
        return torch.promote_types(self._narrow, torch.float32)

    def _labels(self, y: Tensor | None) -> Tensor | None:
        """Return labels as unit vectors, (B, K); None for a model without classes."""
        if self.classes is None and y is not None:
            raise ValueError(f"y holds {len(y)} labels, but a VAE is unconditional; leave them out, or give it classes")
        if self.classes is not None and y is None:
            raise ValueError(f"y is None, but a VAE with classes = {self.classes} is given labels; use -1 for no label")
        return None if self.classes is None or y is None else one_hot(y, self.classes, self._narrow)


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return equation 2, the divergence of N(mu, sigma^2) from N(0, I), (B,), in nats."""
    return (mu.square() + log_variance.exp() - 1 - log_variance).sum(1).mul(0.5)
