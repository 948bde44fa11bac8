"""A diffusion model's harvest by the second-order solver, against ancestral sampling of the same network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.timing import Comparison, alternate
from collapse import Diffusion, Digits
from collapse.data.loading import GenerationLoader, TrainingSet
from collapse.metrics import frechet_distance
from collapse.seeding import generator, keyed_rng

STEPS, ROWS, DRAWS = 2000, 256, 4
ANCESTRAL = 400  # the steps, and the cosine path, of Wang, Niu and Li's MNIST chain


def model(sampler: str, steps: int) -> Diffusion:
    """Return a U-Net for digits; the network does not depend on how it is sampled."""
    return Diffusion(
        path="cosine",
        prediction="v",
        min_snr=5.0,
        sampler=sampler,
        steps=steps,
        width=32,
        multipliers=(1, 2),
        blocks=(1, 2),
        attention=4,
    )


def trained(data: Digits) -> dict[str, torch.Tensor]:
    """Return the weights after some epochs on gold, the step size falling to zero."""
    base = data.training_set()
    with keyed_rng(0):
        module = model("multistep", 20)
        optimizer = module.configure_optimizers()
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)
        for batch in GenerationLoader(TrainingSet(base.pool, base.rows, steps=STEPS), 64):
            optimizer.zero_grad()
            module.loss(batch).mean().backward()
            optimizer.step()
            decay.step()
    return module.state_dict()


def harvested(weights: dict[str, torch.Tensor], sampler: str, steps: int) -> Callable[[int], torch.Tensor]:
    """Return a sampler of ROWS images by a seed."""
    module = model(sampler, steps)
    module.load_state_dict(weights)
    module.eval()
    return lambda seed: module.sample(ROWS, generator(seed))


def seconds(sample: Callable[[int], torch.Tensor]) -> float:
    """Return the seconds of one harvest."""
    start = time.perf_counter()
    sample(0)
    return time.perf_counter() - start


def distance(sample: Callable[[int], torch.Tensor], data: Digits) -> float:
    """Return the Fréchet distance in pixels from gold, the median over seeds."""
    gold = data.gold().tensors()[0].flatten(1)
    return statistics.median(float(frechet_distance(gold, sample(seed).flatten(1))) for seed in range(DRAWS))


def main(repeats: int = 3) -> Iterator[tuple[str, str, str]]:
    """Yield (what, measured, wanted) rows."""
    torch.set_num_threads(2)
    data = Digits()
    weights = trained(data)
    ours, ancestral = harvested(weights, "multistep", 20), harvested(weights, "ddpm_posterior", ANCESTRAL)
    time_of: Comparison = alternate(lambda: seconds(ours), lambda: seconds(ancestral), repeats)
    yield (
        f"U-Net harvest, second order 20 / ancestral {ANCESTRAL} steps",
        f"{1 / time_of.ratio:.1f}x ({time_of.ours:.2f} / {time_of.other:.2f} s for {ROWS} images)",
        "> 18x",
    )
    near = distance(ours, data)
    for name, other in (("ancestral", ancestral), ("DDIM 50", harvested(weights, "ddim", 50))):
        far = distance(other, data)
        yield f"its Fréchet distance / that of {name}", f"{near / far:.2f} ({near:.3f} / {far:.3f})", "<= 1"
