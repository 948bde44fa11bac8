"""Training a VAE through the whole stack, against a bare loop, against pythae, and against Shumailov et al.'s loop."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from benchmarks.stack import Stopwatch
from benchmarks.timing import alternate
from benchmarks.vae_peers import (
    LATENT,
    SHAPE,
    Images,
    Measured,
    convolutional,
    decoded,
    dense,
    loaded,
    loop,
    median_step,
    pythae,
)
from collapse import VAE, run_chain
from collapse.seeding import generator

STEPS, CONV_STEPS, EPOCHS = 60, 12, 30


def in_chain(model: VAE, batch_size: int, steps: int, precision: str) -> Measured:
    """Return what measures a step of a chain, from reading the pool to the optimizer."""

    def run() -> float:
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            run_chain(
                model,
                Images(batch_size),
                generations=1,
                samples_per_generation=1,
                steps_per_generation=steps,
                store=folder,
                evaluate=False,
                callbacks=[watch],
                accelerator="cpu",
                precision=precision,
            )
        return median_step(watch.times)

    return run


def in_stack(precision: str) -> Measured:
    """Return what measures a step of the fully connected network in a chain."""
    return in_chain(VAE(SHAPE, LATENT, hidden=400), 128, STEPS, precision)


def convolutional_step(precision: str) -> Measured:
    """Return what measures a step of the published network in a chain."""
    return in_chain(VAE(SHAPE, LATENT, network="conv", weight_decay=1e-5), 256, CONV_STEPS, precision)


def on_the_pool(precision: str) -> Measured:
    """Return what measures a step on a pool and its share of harvesting that, with as many epochs as were published."""
    step, model = convolutional_step(precision), VAE(SHAPE, LATENT, network="conv", harvest="mean")
    narrow = precision == "bf16-mixed"  # in which a chain samples as well

    def run() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            model.sample(256, generator(0))
        return (time.perf_counter() - start) / EPOCHS + step()

    return run


def main(repeats: int = 5) -> Iterator[tuple[str, str, str]]:
    """Yield (what, measured, wanted) rows: how many times as fast ours is."""
    if find_spec("pythae") is None:
        yield "VAE / peers", "skipped: pythae not installed; pip install -e .[bench]", "a peer"
        return
    torch.set_num_threads(2)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    previous = convolutional()[1]
    fresh = loop(convolutional, lambda: decoded(previous, 256, CONV_STEPS))
    comparisons = (
        ("VAE 784-400-20, whole stack / bare loop", in_stack, loop(dense, lambda: loaded(128, STEPS)), (1.0, 1.4)),
        ("convolutional VAE / pythae", convolutional_step, pythae(CONV_STEPS), (1.1, 1.45)),
        ("Nature's VAE on its pool / decoding every batch", on_the_pool, fresh, (1.4, 2.4)),
    )
    for what, step, peer, wanted in comparisons:
        for precision, least in zip(("32-true", "bf16-mixed"), wanted, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = alternate(step(precision), peer, repeats)
            shown = f"{1 / result.ratio:.2f}x ({result.ours * 1e3:.1f} / {result.other * 1e3:.1f} ms a step)"
            yield f"{what}, {precision}", shown, f">= {least}x"
