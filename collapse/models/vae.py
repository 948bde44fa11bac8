"""The variational autoencoder."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.data.rows import Batch
from collapse.models.generative import GenerativeModule
from collapse.nn import MLP, ConvDecoder, ConvEncoder

__all__ = ["VAE", "BernoulliLikelihood", "GaussianLikelihood", "Likelihood"]

T = TypeVar("T")


class Likelihood(Protocol):
    """The law p(x | z) of a row, given what the decoder returns for z."""

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x | z) in nats, (B,), for parameters and rows (B, *S)."""

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x | z], (B, *S)."""

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x from p(x | z), (B, *S)."""


@dataclass(frozen=True)
class BernoulliLikelihood:
    """Independent bits with the decoder's values as logits; gray values in [0, 1] count as probabilities of a bit."""

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the cross-entropy summed over a row, (B,)."""
        return F.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the probabilities, (B, *S) in (0, 1)."""
        return parameters.sigmoid()

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw bits, (B, *S) in {0, 1}."""
        return torch.bernoulli(parameters.sigmoid(), generator=generator)


@dataclass(frozen=True)
class GaussianLikelihood:
    """Independent normal values around the decoder's, with one fixed standard deviation.

    Attributes:
        scale: Standard deviation in the units of x, above 0.
    """

    scale: float

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the squared distance over twice the variance plus the normalizing constant, (B,)."""
        constant = math.prod(x.shape[1:]) * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return ((x - parameters) / self.scale).square().flatten(1).sum(1).mul(0.5).add(constant)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the parameters themselves."""
        return parameters

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw normal values, (B, *S)."""
        return torch.normal(parameters, self.scale, generator=generator)


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


def fully_connected(shape: tuple[int, ...], latent_dim: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder with one hidden layer each, for rows of any shape."""
    size = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), MLP((size, hidden, 2 * latent_dim)))
    return encoder, nn.Sequential(MLP((latent_dim, hidden, size)), nn.Unflatten(1, shape))


def convolutional(shape: tuple[int, ...], latent_dim: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder with hidden / 4 and hidden / 2 feature maps, at least one, for images."""
    channels = (max(1, hidden // 4), max(1, hidden // 2))
    image: Any = shape  # its length is checked by the networks
    return ConvEncoder(image, 2 * latent_dim, channels=channels), ConvDecoder(latent_dim, image, channels=channels)


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
        harvest: "draw" samples p(x | z), the model's own law; "mean" returns its mean, which is biased.
        learning_rate: Step size of Adam.

    Raises:
        ValueError: If an argument is outside its range or names nothing known.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", 2014. arXiv:1312.6114, equations 3 and 10.
        Higgins et al., "beta-VAE", 2017, equation 4.
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
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if min(latent_dim, hidden) < 1 or not 0 < scale < math.inf or not 0 <= beta < math.inf:
            raise ValueError(
                f"latent_dim = {latent_dim}, hidden = {hidden}, scale = {scale}, beta = {beta}: latent_dim and hidden "
                "must be at least 1, scale above 0 and beta at least 0, both finite"
            )
        if not 0 <= learning_rate < math.inf:
            raise ValueError(f"learning_rate = {learning_rate} must be at least 0 and finite")
        if not shape or min(shape) < 1:
            raise ValueError(f"shape = {tuple(shape)} must be the sides of a row, at least one and each at least 1")
        self.shape, self.latent_dim, self.beta = tuple(shape), latent_dim, beta
        self.encoder, self.decoder = chosen("network", network, NETWORKS)(self.shape, latent_dim, hidden)
        self.likelihood = chosen("likelihood", likelihood, LIKELIHOODS)(scale)
        self.harvest = chosen("harvest", harvest, HARVESTS)
        self.learning_rate = learning_rate

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x), both (B, latent_dim), for rows (B, *S)."""
        mu, log_variance = at_least_single(self.encoder(x)).chunk(2, dim=1)
        return mu, log_variance

    def loss(self, batch: Batch) -> Tensor:
        """Return equation 3 for each row, (B,), in nats."""
        return self.outputs(batch)["loss"]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return equation 3, its two terms and the sampled z of every row, from one forward pass.

        Returns:
            "loss" (B,), "reconstruction" (B,) = -log p(x | z) and "kl" (B,) in nats; "latent" (B, latent_dim).
        """
        x = batch.x.to(self.dtype)  # nothing to do but for float64 data
        mu, log_variance = self.encode(x)
        z = torch.addcmul(mu, torch.exp(0.5 * log_variance), torch.randn_like(mu))  # equation 1
        reconstruction, kl = self._reconstruction(z, x), divergence(mu, log_variance)
        loss = torch.add(reconstruction, kl, alpha=self.beta)  # equation 3
        return {"loss": loss, "latent": z, "reconstruction": reconstruction, "kl": kl}

    def elbo(self, x: Tensor, samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Estimate the evidence lower bound of each row, with beta = 1 whatever the training weighs.

        Args:
            x: Rows, (B, *S).
            samples: Draws of z to average over, at least 1.
            generator: On the module's device; None for torch's global one.

        Returns:
            A lower bound of log p(x) in expectation, (B,), in nats.
        """
        if samples < 1:
            raise ValueError(f"samples = {samples}, but the bound is a mean over draws of z; use at least 1")
        mu, log_variance = self.encode(x)
        sigma, total = torch.exp(0.5 * log_variance), torch.zeros_like(mu[:, 0])
        for _ in range(samples):
            noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
            total = total + self._reconstruction(torch.addcmul(mu, sigma, noise), x)
        return -total / samples - divergence(mu, log_variance)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Decode z ~ N(0, I) and draw rows from the likelihood, or take its mean.

        Args:
            n: Number of rows.
            generator: On the module's device; the only source of randomness.
            y: Must be None: the model is unconditional.

        Returns:
            (n, *S); images clamped to [0, 1].
        """
        if y is not None:
            raise ValueError(f"y holds {len(y)} labels, but a VAE is unconditional; sample it without labels")
        weight = next(self.decoder.parameters())
        z = torch.randn(n, self.latent_dim, generator=generator, device=weight.device, dtype=weight.dtype)
        x = self.harvest.emit(self.likelihood, at_least_single(self.decoder(z)), generator)
        return x.clamp(0, 1) if len(self.shape) == 3 else x

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """Empty for "draw"; names the bias otherwise."""
        return dict(self.harvest.settings)

    def _reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.negative_log_likelihood(at_least_single(self.decoder(z)), x)


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return equation 2, the divergence of N(mu, sigma^2) from N(0, I), (B,), in nats."""
    return (mu.square() + log_variance.exp() - 1 - log_variance).sum(1).mul(0.5)


def at_least_single(values: Tensor) -> Tensor:
    """Widen what autocast narrowed: logarithms and sums over a row lose too much in 16 bits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def chosen(argument: str, value: str, options: Mapping[str, T]) -> T:
    """Look an argument's value up, or say which names there are."""
    if value not in options:
        nearest = difflib.get_close_matches(str(value), options, n=1, cutoff=0)[0]
        raise ValueError(f"{argument} = {value!r} is not one of {', '.join(options)}; did you mean {nearest!r}?")
    return options[value]
