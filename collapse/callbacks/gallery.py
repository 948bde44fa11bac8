"""A grid of samples per generation, to see what the numbers say."""

from __future__ import annotations

import math
from typing import Any

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


class SampleGallery(GenerationCallback):
    """Save a PNG of samples per generation under ``figures`` in the run folder, and show it in Weights & Biases.

    Data that are not images (C, H, W) with one or three channels are passed over.

    Args:
        samples: Images per grid.
    """

    def __init__(self, samples: int = 64) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples = samples

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Draw the grid from the stream of evaluation, on the first process; the others sample their share."""
        shape = generation.pool.row_shape
        if not trainer.is_global_zero or len(shape) != 3 or shape[0] not in (1, 3) or generation.sample is None:
            return
        grid = image_grid(generation.sample(self.samples, Stream.EVALUATE))
        path = generation.save(f"figures/samples_gen_{generation.index:03d}.png", encode_png(grid).numpy().tobytes())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.log({"generation": generation.index}, commit=False)  # in the same row as the image
                step = max(0, trainer.global_step - 1)  # as Lightning counts at the end of an epoch
                logger.log_image("gen/samples", [str(path)], step=step, caption=[f"generation {generation.index}"])
