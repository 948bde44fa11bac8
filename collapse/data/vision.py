"""Small images: scikit-learn's digits, and torchvision's classics read from the files their authors published.

Nothing is downloaded and nothing is written, so that a root may be read-only and shared by a cluster; nothing is
unpickled. MNIST's folders are torchvision's own; CIFAR-10's is that of its authors' binary version.
"""

from __future__ import annotations

import abc
import contextlib
import gzip
import math
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples
from collapse.seeding import Stream, numpy_generator

__all__ = ["CIFAR10", "Digits", "FashionMNIST", "MNIST"]

GOLD, REFERENCE = 0, 1


class ImageData(RecursiveDataModule):
    """Labeled uint8 images (N, C, H, W) of ten classes."""

    classes = 10

    @abc.abstractmethod
    def _read(self) -> tuple[Samples, Samples]:
        """Return the gold and the reference rows."""

    @cached_property
    def _parts(self) -> tuple[Samples, Samples]:
        return self._read()

    def gold(self) -> Samples:
        """Return the training images and their labels."""
        return self._parts[0]

    def reference(self) -> Samples:
        """Return the held-out images and their labels."""
        return self._parts[1]


class Digits(ImageData):
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn; the only data that need no files.

    Their 17 gray levels are spread over 0...255. A share of every class, chosen by a keyed permutation, is held out.

    Args:
        held_out: Share of each class that becomes the reference set, strictly between 0 and 1.
        seed: Key of the permutation.
        batch_size: Rows per process and batch; None for all rows in one batch.
        num_workers: Loader processes.

    Raises:
        ValueError: If ``held_out`` is outside its range.

    References:
        Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    def __init__(
        self, held_out: float = 0.25, seed: int = 0, *, batch_size: int | None = 128, num_workers: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {held_out}")
        self.held_out, self.seed = held_out, seed

    def _read(self) -> tuple[Samples, Samples]:
        from sklearn.datasets import load_digits  # a second to import, for this class alone

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        digits = Samples(images, bunch.target.astype(np.int64))
        order = numpy_generator(self.seed, Stream.DATA, GOLD).permutation(len(digits))
        of_class = [order[bunch.target[order] == label] for label in range(self.classes)]
        held_out = np.concatenate([rows[: round(self.held_out * len(rows))] for rows in of_class])
        is_gold = ~np.isin(np.arange(len(digits)), held_out)
        return digits[is_gold], digits[~is_gold]


class FiledImages(ImageData):
    """Images in files under a root: gold from the train part, reference from the test part.

    Args:
        root: Folder that holds the data set's own folder.
        rows: Gold rows, the first of a keyed permutation; None for the whole train part in its own order.
        reference_rows: The same for the test part.
        seed: Key of the permutations.
        batch_size: Rows per process and batch; None for all rows in one batch.
        num_workers: Loader processes.

    Raises:
        FileNotFoundError: At the first read, if the files are not there.
        ValueError: If more rows are asked for than there are, or a file is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        rows: int | None = None,
        *,
        reference_rows: int | None = None,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        for argument, limit in (("rows", rows), ("reference_rows", reference_rows)):
            if limit is not None and limit < 1:
                raise ValueError(f"{argument} = {limit}, but it must be None or at least 1")
        self.root, self.seed = expanded(root), seed
        self.rows, self.reference_rows = rows, reference_rows

    @abc.abstractmethod
    def _part(self, *, train: bool) -> Samples:
        """Read the train or the test part."""

    def _read(self) -> tuple[Samples, Samples]:
        gold = self._limited("rows", self.rows, self._part(train=True), GOLD)
        return gold, self._limited("reference_rows", self.reference_rows, self._part(train=False), REFERENCE)

    def _limited(self, argument: str, limit: int | None, part: Samples, counter: int) -> Samples:
        if limit is None:
            return part
        if not 1 <= limit <= len(part):
            raise ValueError(f"{argument} = {limit}, but it must be None or from 1 to the {len(part)} rows there are")
        return part[numpy_generator(self.seed, Stream.DATA, counter).permutation(len(part))[:limit]]


class MNIST(FiledImages):
    """Handwritten digits, 60 000 and 10 000 images (1, 28, 28).

    Reads ``ROOT/MNIST/raw/*-ubyte``, packed (.gz) or unpacked. Arguments as in ``FiledImages``.

    References:
        LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    def _part(self, *, train: bool) -> Samples:
        part = "train" if train else "t10k"
        images, labels = self._idx(f"{part}-images-idx3-ubyte"), self._idx(f"{part}-labels-idx1-ubyte")
        return Samples(images[:, None], labels.astype(np.int64))

    def _idx(self, file: str) -> np.ndarray:
        name = type(self).__name__
        folder = self.root / name / "raw"
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                return read_idx(path)
        raise FileNotFoundError(
            f"{name} finds no {file} or {file}.gz in root = {str(self.root)!r}; put the files {name}/raw/*.gz under "
            f"{self.root}, or download them with torchvision.datasets.{name}({str(self.root)!r}, download=True)"
        )


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format, 60 000 and 10 000 images (1, 28, 28).

    Reads ``ROOT/FashionMNIST/raw/*-ubyte``, packed (.gz) or unpacked. Arguments as in ``FiledImages``.

    References:
        Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017. arXiv:1708.07747.
    """


class CIFAR10(FiledImages):
    """Small photographs, 50 000 and 10 000 images (3, 32, 32).

    Reads ``ROOT/cifar-10-batches-bin/*.bin``, which is ``cifar-10-binary.tar.gz`` of the authors' page unpacked. The
    Python version that torchvision downloads is made of pickles, which run code when they are read: it is refused.
    Arguments as in ``FiledImages``.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    def _part(self, *, train: bool) -> Samples:
        names = [f"data_batch_{number}.bin" for number in range(1, 6)] if train else ["test_batch.bin"]
        records = np.concatenate([read_records(self._file(name), (3, 32, 32)) for name in names])
        return Samples(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64))

    def _file(self, name: str) -> Path:
        path = self.root / "cifar-10-batches-bin" / name
        if path.is_file():
            return path
        pickles = "cifar-10-batches-py"
        found = f"only the pickles in {pickles}, which it refuses to read" if (self.root / pickles).is_dir() else "none"
        raise FileNotFoundError(
            f"CIFAR10 needs cifar-10-batches-bin/{name} in root = {str(self.root)!r} and finds {found}; download "
            f"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and unpack it under {self.root}"
        )


def expanded(root: str | Path, argument: str = "root") -> Path:
    """Return a path that was given as ``argument``, with ``~`` replaced by the home folder.

    Raises:
        ValueError: If there is no such home.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{argument} = {str(root)!r} begins with the home of a user who is not there; give a path"
        ) from None


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, the type, the number of axes, their lengths (big-endian), the values."""
    data = path.read_bytes()
    with contextlib.suppress(OSError, EOFError, zlib.error):  # what stays packed fails the test of its length
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    start = 4 + 4 * data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if not start or len(data) != start + math.prod(shape):
        raise ValueError(f"{path} is damaged: it is not an IDX file of bytes of its own length; fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def read_records(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Read records of one label byte and the bytes of an image of ``shape``, (N, 1 + prod(shape)) uint8."""
    data, size = np.fromfile(path, np.uint8), 1 + math.prod(shape)
    if not len(data) or len(data) % size:
        raise ValueError(f"{path} is damaged: its {len(data)} bytes are no multiple of {size}; fetch it again")
    return data.reshape(-1, size)
