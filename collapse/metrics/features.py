"""Feature spaces in which sets of samples are compared.

A metric is only as good as its features. Pixels miss most of what collapse does to images, and pretrained networks
need weights from elsewhere. The default is a tiny classifier trained once on the labeled gold rows; the random
network is its untrained control, the identity the space for low-dimensional rows. Distances of different spaces are
different quantities: write ``id`` beside every value, and never put two ids into one table column.
"""

import hashlib
import logging
import os
import pickle
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from collapse.seeding import keyed_rng

__all__ = ["FeatureExtractor", "IdentityFeatures", "RandomConvFeatures", "ClassifierFeatures"]

log = logging.getLogger(__name__)

ARCHITECTURE = "1"  # part of every classifier id: raise it when the network or its training changes
WIDTH = 64
STEPS, BATCH_SIZE, LEARNING_RATE = 400, 64, 5e-3
# What torch.load, and a look at its result, raise on damaged files. An OSError is another matter, and is raised.
UNREADABLE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)


class FeatureExtractor(nn.Module, ABC):
    """A frozen map from rows to features.

    Subclasses implement :meth:`embed`. The module never trains: it stays in evaluation mode inside a module that is
    switched to training, and its output carries no gradient.

    Args:
        id: Name of the feature space, unique up to bitwise equal features.
        shape: Shape S of one row.
        num_features: Number of features D.
    """

    chunk_size: int = 1024

    def __init__(self, id: str, shape: Sequence[int], num_features: int) -> None:
        super().__init__()
        self.id = id
        self.shape = tuple(shape)
        self.num_features = num_features
        self.eval()

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Map one chunk of rows (B, *S), float32, to features (B, D)."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of all rows.

        Args:
            x: Rows, (N, *S), on any device; images in [0, 1].

        Returns:
            Features, (N, D), float32, on the device of x.

        Raises:
            ValueError: If the rows do not have shape S.
        """
        return self._in_chunks(self.embed, x)

    @torch.no_grad()
    def _in_chunks(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but {self.id} expects rows of shape {self.shape}; "
                "use an extractor made for these rows."
            )
        device = next(self.parameters(), x).device
        chunks = [function(c.to(device, torch.float32)).to(x.device) for c in x.split(self.chunk_size)]
        return torch.cat(chunks)


class IdentityFeatures(FeatureExtractor):
    """The rows themselves, flattened: right for vectors, a negative control for images.

    Args:
        shape: Shape S of one row.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__("identity", shape, prod(shape))

    def embed(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class RandomConvFeatures(FeatureExtractor):
    """An untrained convolutional network: the control for what training adds to a feature space.

    Args:
        shape: Shape (C, H, W) of one image.
        seed: Seed of the weights.

    Raises:
        ValueError: If rows are not images.
    """

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape = {tuple(shape)}, but images (C, H, W) are needed; use IdentityFeatures instead.")
        super().__init__(f"random-conv-{seed}", shape, WIDTH)
        with _isolated(seed):
            self.network = nn.Sequential(
                *(nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(32, WIDTH // 4, 3, padding=1), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),  # keeps coarse position: 16 channels * 4 quadrants
            ).float()
        self.requires_grad_(False)

    def embed(self, x: Tensor) -> Tensor:
        return self.network(x)


class ClassifierFeatures(FeatureExtractor):
    """Penultimate activations of a tiny classifier; make one with :meth:`fit`.

    Args:
        id: Name of the feature space; :meth:`fit` derives it from everything that determines the weights.
        shape: Shape S of one row: (C, H, W) gives a convolutional network, anything else a perceptron.
        classes: Number of classes.
        seed: Seed of the initial weights.
    """

    def __init__(self, id: str, shape: Sequence[int], classes: int, seed: int = 0) -> None:
        super().__init__(id, shape, WIDTH)
        with _isolated(seed):
            self.body = (_convolutions(*shape) if len(shape) == 3 else _perceptron(prod(shape))).float()
            self.head = nn.Linear(WIDTH, classes, dtype=torch.float32)
        self.requires_grad_(False)

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, classes: int, seed: int = 0, cache: Path | None = None) -> Self:
        """Train a classifier on labeled gold rows, or load the one trained on the same rows before.

        Training is a fixed number of steps on one CPU thread: seconds, and the same weights from the same inputs on
        the same kind of machine, whatever the surrounding code does with random generators and threads.

        Args:
            x: Gold rows, (N, *S), N >= 1, images in [0, 1].
            y: Labels, (N,), integers in [0, classes).
            classes: Number of classes, at least 2.
            seed: Seed of the initial weights and of the order of rows.
            cache: Folder for the weights; created if missing, never required.

        Returns:
            The frozen extractor, on the CPU.

        Raises:
            ValueError: If rows and labels do not match, or labels are out of range.
        """
        _check_labeled(x, y, classes)
        x, y = x.detach().to("cpu", torch.float32), y.detach().to("cpu", torch.int64)
        id = "classifier-" + _hash((tuple(x.shape), classes, seed, ARCHITECTURE), (x, y))[:8]
        extractor = cls(id, x.shape[1:], classes, seed)
        path = None if cache is None else Path(cache) / f"{extractor.id}.pt"
        if path is not None and _load(extractor, path):
            return extractor
        _train(extractor, x, y, seed)
        if path is not None:
            _save(extractor, path)
        return extractor

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x)

    def classify(self, x: Tensor) -> Tensor:
        """Predict the class of every row.

        Args:
            x: Rows, (N, *S), on any device; images in [0, 1].

        Returns:
            Class indices, (N,), int64, on the device of x.

        Raises:
            ValueError: If the rows do not have shape S.
        """
        return self._in_chunks(lambda chunk: self.head(self.body(chunk)).argmax(dim=1), x)


def _convolutions(channels: int, height: int, width: int) -> nn.Sequential:
    stride = max(1, round(min(height, width) / 14))  # the cost of a step hardly depends on the resolution
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, stride + 2, stride=stride, padding=1), nn.GELU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        *(nn.Linear(512, WIDTH), nn.GELU()),  # no ReLU: a dead feature has no variance
    )


def _perceptron(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.GELU(), nn.Linear(128, WIDTH), nn.GELU())


def _check_labeled(x: Tensor, y: Tensor, classes: int) -> None:
    if x.ndim < 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y has shape {tuple(y.shape)}, but rows (N, *S) and one label per row, "
            "(N,), are needed, N >= 1."
        )
    if classes < 2 or y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"y has dtype {y.dtype} and ranges over [{y.min()}, {y.max()}], but integers in [0, classes = {classes}) "
            "and at least two classes are needed."
        )
    if not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinite entries; gold rows must be finite, drop the others.")


def _hash(header: object, tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(repr(header).encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Make what is built or trained inside depend on its arguments only, and leave no trace outside."""
    threads = torch.get_num_threads()
    # Evaluation hooks run under no_grad or inference_mode, and parameters born in inference mode cannot train.
    with keyed_rng(seed), torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        torch.set_num_threads(1)  # the order of summation, and with it the last bits, depends on the threads
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _train(extractor: ClassifierFeatures, x: Tensor, y: Tensor, seed: int) -> None:
    with _isolated(seed):
        network = nn.Sequential(extractor.body, extractor.head).requires_grad_(True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
        for step in range(STEPS):
            rows = torch.randint(len(x), (BATCH_SIZE,))
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / STEPS)  # linear decay: no noise left in the last weights
            optimizer.step()
        network.requires_grad_(False)


def _save(extractor: ClassifierFeatures, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = extractor.state_dict()
    # A reader sees the old file or the new one, never a part: two runs may share the folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            torch.save({"state": state, "checksum": _hash(list(state), state.values())}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(extractor: ClassifierFeatures, path: Path) -> bool:
    if not path.exists():
        return False
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        # torch reads flipped bits of a weight without complaint.
        state = payload["state"]
        if payload["checksum"] != _hash(list(state), state.values()):
            raise ValueError("the checksum of the weights does not match.")
        extractor.load_state_dict(state)
    except UNREADABLE as error:
        log.warning("%s is corrupt (%s); the classifier is trained again and the file replaced.", path, error)
        return False
    return True
