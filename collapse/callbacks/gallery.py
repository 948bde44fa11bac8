"""Samples of every generation, pictures or text, to see what the numbers say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torchvision.io import encode_png
from torchvision.utils import make_grid

from collapse.data.generation import Generation, GenerationCallback
from collapse.seeding import Stream

__all__ = ["SampleGallery", "image_grid"]


def image_grid(images: Tensor, *, columns: int = 8, least_side: int = 32) -> Tensor:
    """Tile images (n, C, H, W) in [0, 1] into one uint8 picture (3, H', W'), small ones enlarged pixel by pixel."""
    scale = max(1, math.ceil(least_side / images.shape[-1]))
    large = images.float().clamp(0, 1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return make_grid(large, nrow=columns, padding=2).mul(255).round().to(torch.uint8)


@runtime_checkable
class Readable(Protocol):
    """Data whose rows are text."""

    def decode(self, tokens: Tensor) -> str:
        """Return the text of a row (L,)."""


class SampleGallery(GenerationCallback):
    """Save samples of every generation under ``figures`` in the run folder, and show them in Weights & Biases.

    Images, (C, H, W) with one or three channels, become one PNG; rows of data with ``decode`` a text file, one sample
    after the other. Other rows are passed over.

    Args:
        samples: Images per grid.
        texts: Texts per file.
    """

    def __init__(self, samples: int = 64, texts: int = 8) -> None:
        if min(samples, texts) < 1:
            raise ValueError(f"samples and texts must be at least 1, got {samples} and {texts}")
        self.samples, self.texts = samples, texts

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Draw from the stream of evaluation, on the first process; the others sample their share."""
        shape, data = generation.pool.row_shape, getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or generation.sample is None:
            return
        path = f"figures/samples_gen_{generation.index:03d}"
        if len(shape) == 3 and shape[0] in (1, 3):
            grid = image_grid(generation.sample(self.samples, Stream.EVALUATE))
            picture = str(generation.save(f"{path}.png", encode_png(grid).numpy().tobytes()))
            for logger, step in _wandb(trainer, generation):
                logger.log_image("gen/samples", [picture], step=step, caption=[f"generation {generation.index}"])
        elif isinstance(data, Readable):
            texts = [data.decode(row) for row in generation.sample(self.texts, Stream.EVALUATE)]
            generation.save(f"{path}.txt", text_page(texts).encode())
            for logger, step in _wandb(trainer, generation):
                logger.log_text("gen/samples", ["sample"], [[text] for text in texts], step=step)


def text_page(texts: Sequence[str]) -> str:
    """Return texts one below the other, each under a line with its number."""
    return "\n".join(f"--- {number}\n{text}\n" for number, text in enumerate(texts, 1))


def _wandb(trainer: pl.Trainer, generation: Generation) -> Iterator[tuple[WandbLogger, int]]:
    """Yield each W&B logger with its step, the generation logged in the same row as what comes next."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.log({"generation": generation.index}, commit=False)
            yield logger, max(0, trainer.global_step - 1)  # as Lightning counts at the end of an epoch
