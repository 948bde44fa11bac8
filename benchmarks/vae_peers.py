"""What training a VAE is compared with: a plain loop, pythae, the loop of Shumailov et al.; and on what images."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from collapse import Samples
from collapse.data import RecursiveDataModule
from collapse.seeding import numpy_generator

__all__ = [
    "LATENT",
    "SHAPE",
    "Images",
    "Measured",
    "convolutional",
    "decoded",
    "dense",
    "loaded",
    "loop",
    "median_step",
    "pythae",
]

SHAPE, LATENT, WARMUP = (1, 28, 28), 20, 3
Measured = Callable[[], float]


class Images(RecursiveDataModule):
    """Random images of MNIST's shape and type: what they show does not change what a step costs."""

    def gold(self) -> Samples:
        """Return 8192 labeled images."""
        rng = numpy_generator(0)
        return Samples(rng.integers(0, 256, (8192, *SHAPE), dtype=np.uint8), rng.integers(0, 10, 8192))

    def reference(self) -> Samples:
        """Return what nobody measures by."""
        return self.gold()[:2]


class Items(Dataset):
    """The same images one at a time, as torchvision's datasets give them."""

    def __init__(self) -> None:
        gold = Images().gold()
        self.x, self.y = torch.as_tensor(gold.x), torch.as_tensor(gold.y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index].float().div(255), self.y[index]


class Plain(nn.Module):
    """A VAE as it is commonly written: a sigmoid at the end of the decoder, and the cross-entropy of probabilities."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative bound summed over a batch."""
        mu, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
        kl = -0.5 * torch.sum(1 + log_variance - mu.pow(2) - log_variance.exp())
        return F.binary_cross_entropy(self.decoder(z).sigmoid(), x, reduction="sum") + kl


def dense() -> tuple[nn.Module, nn.Module]:
    """Return plain layers 784-400-40 and 20-400-784."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, SHAPE))
    return encoder, decoder


def convolutional() -> tuple[nn.Module, nn.Module]:
    """Return the published convolutions with PyTorch's own layers."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 7 * 7, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 128 * 7 * 7),
        nn.Unflatten(1, (128, 7, 7)),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1),
    )
    return encoder, decoder


def median_step(times: list[float]) -> float:
    """Return the median seconds between steps, after the first few."""
    return statistics.median(after - before for before, after in pairwise(times[WARMUP:]))


def loop(networks: Callable[[], tuple[nn.Module, nn.Module]], batches: Callable[[], Iterator[Tensor]]) -> Measured:
    """Return what measures a step of a plain PyTorch loop over batches of images."""
    model = Plain(*networks())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)

    def run() -> float:
        times = []
        for x in batches():
            loss = model(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter())
        return median_step(times)

    return run


def loaded(batch_size: int, steps: int) -> Iterator[Tensor]:
    """Yield batches of a DataLoader over single items."""
    for x, _ in itertools.islice(DataLoader(Items(), batch_size, shuffle=True), steps):
        yield x


def decoded(decoder: nn.Module, batch_size: int, steps: int) -> Iterator[Tensor]:
    """Yield batches freshly decoded from random latents, which every generation but the first is trained on there."""
    for _ in range(steps):
        with torch.no_grad():
            x = decoder(torch.randn(batch_size, LATENT)).sigmoid()
        yield x


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a peer's progress bars and messages to itself."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def pythae(steps: int) -> Measured:
    """Return what measures a step of pythae's trainer on the published network."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as Theirs
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Encoder(BaseEncoder):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            mu, log_variance = self.network(x).chunk(2, dim=1)
            return ModelOutput(embedding=mu, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Watch(TrainingCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_step_end(self, training_config: BaseTrainerConfig, **context: object) -> None:
            self.times.append(time.perf_counter())

    encoder, decoder = convolutional()
    config = VAEConfig(input_dim=SHAPE, latent_dim=LATENT, reconstruction_loss="bce")
    rows, watch = Items().x[: 256 * steps].float() / 255, Watch()
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = BaseTrainer(
            model=Theirs(config, encoder=Encoder(encoder), decoder=Decoder(decoder)),
            train_dataset=BaseDataset(rows, torch.zeros(len(rows))),
            training_config=BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=256, learning_rate=1e-3),
            callbacks=[watch],
        )
        trainer.prepare_training()

    def run() -> float:
        watch.times.clear()
        with quiet():
            trainer.train_step(1)
        return median_step(watch.times)

    return run
