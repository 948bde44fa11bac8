"""Folders of PNG and JPEG images, a subfolder per class or all in one place."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from collapse.data.ingest.layout import BLOCK_BYTES, Block, Findings, Layout

__all__ = ["read_images"]

FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 1 << 26
NUMBER = "[0-9]{1,18}"  # as large as a label can be
CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
"""Pillow's modes of 8 bits -> channels that they are stored with."""
MODES = {1: "L", 3: "RGB"}


def read_images(path: Path, files: list[Path], layout: Layout, findings: Findings) -> Iterator[Block]:
    """Read images as uint8 (C, H, W): one channel where all are gray, three otherwise; transparency is dropped.

    The headers of all files are read first, so that what does not fit together is said before a pixel is decoded.

    Args:
        path: The folder, or one image.
        files: In the order of the rows; a file that does not lie in the folder itself is labeled by its own folder, by
            its number where all of them are named by numbers.
        layout: ``size`` to resize to, height and width; None for images that have one size.
        findings: Told what was resized and converted.

    Raises:
        ValueError: If a file is damaged or too large, or sizes differ and none is given.
    """
    headers = [_header(file) for file in files]
    channels = max(CHANNELS[mode] for mode, _ in headers)
    size = layout.size or _common_size(files, [found for _, found in headers])
    for mode, count in sorted(Counter(mode for mode, _ in headers).items()):
        if mode != MODES[channels]:
            findings.notes.append(f"converted {count} images from {mode} to {MODES[channels]}")
    resized = sum(found != size for _, found in headers)
    if resized:
        findings.notes.append(f"resized {resized} images to {size[0]} x {size[1]} pixels")
    by_class = files[0].parent != path and files[0] != path
    labels = _labels([file.parent.name for file in files]) if by_class else None
    step = max(1, BLOCK_BYTES // (channels * size[0] * size[1]))
    for start in range(0, len(files), step):
        part = slice(start, start + step)
        x = np.stack([_decoded(file, MODES[channels], size) for file in files[part]])
        yield Block(x, None if labels is None else labels[part])


def _labels(names: list[str]) -> np.ndarray:
    """Return the names of folders (n,), as numbers where that is what all are; not if 1 and 01 were to be the same."""
    distinct = set(names)
    if all(re.fullmatch(NUMBER, name) for name in distinct) and len({int(name) for name in distinct}) == len(distinct):
        return np.array([int(name) for name in names])
    return np.array(names)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; everything that Pillow finds wrong with it is one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except (PermissionError, FileNotFoundError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a PNG or JPEG image ({error}); mend or remove it") from None


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Return Pillow's mode, and height and width."""
    with _opened(path) as image:
        mode, (width, height) = image.mode, image.size
    if mode not in CHANNELS:
        raise ValueError(f"{path} has pixels of mode {mode}; convert it to 8 bits per channel")
    if width * height > MOST_PIXELS:
        raise ValueError(f"{path} is too large: {height} x {width} pixels; scale it down")
    return mode, (height, width)


def _common_size(files: list[Path], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            (height, width), (other_height, other_width) = sizes[0], size
            raise ValueError(
                f"{files[0]} has {height} x {width} pixels and {file} has {other_height} x {other_width}; "
                "give --size HEIGHT WIDTH to resize all of them"
            )
    return sizes[0]


def _decoded(path: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
    with _opened(path) as image:
        pixels = image.convert(mode)
        if (pixels.height, pixels.width) != size:
            pixels = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        x = np.asarray(pixels, np.uint8)
    return x[None] if x.ndim == 2 else np.ascontiguousarray(x.transpose(2, 0, 1))
