"""A U-Net's training step and its sampling, against two packages' networks of as many parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import alternate
from collapse import Diffusion
from collapse.nn import UNet
from collapse.seeding import generator, keyed_rng

PEERS = {"denoising_diffusion_pytorch": "denoising-diffusion-pytorch", "diffusers": "diffusers"}
SHAPE, ROWS, STEPS, LEVELS = (1, 32, 32), 64, 3, 1000
SIZES = {"width": 32, "multipliers": (1, 2, 3), "blocks": (1, 1, 10), "attention": 8}
TOLERANCE = 0.02
Measured = Callable[[], float]


def ours() -> nn.Module:
    """Return our network, shallow outside and deep inside as its presets are: 2.60 M parameters, as the others have."""
    return UNet(SHAPE, **SIZES)  # type: ignore[arg-type]


def lucid() -> nn.Module:
    """Return denoising-diffusion-pytorch's network with its own settings, 32 wide, three levels."""
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=32, dim_mults=(1, 2, 4), channels=1)


def hugging() -> nn.Module:
    """Return diffusers' network: three levels, one block each, attention innermost on the way in and in the middle."""
    from diffusers import UNet2DModel

    net: Any = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return net


def plain(output: Any) -> Tensor:
    """Return the tensor in what a network returns: diffusers wraps it."""
    return getattr(output, "sample", output)


def training(net: nn.Module, scale: float, narrow: bool) -> Measured:
    """Return what takes a few steps of fused Adam and says how long one took; ``scale`` is the net's unit of time."""
    x, noise = torch.randn(2, ROWS, *SHAPE, generator=generator(0))
    t = torch.rand(ROWS, generator=generator(1)) * scale
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def steps() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                output = plain(net(x, t))
            optimizer.zero_grad()
            F.mse_loss(output.float(), noise).backward()
            optimizer.step()
        return (time.perf_counter() - start) / STEPS

    return steps


def sampling(draw: Callable[[], object], narrow: bool = False) -> Measured:
    """Return what draws ``ROWS`` images and says how long that took."""

    def once() -> float:
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            draw()
        return time.perf_counter() - start

    return once


def our_sampler(sampler: str, steps: int) -> Callable[[], object]:
    """Return what samples our model."""
    model = Diffusion(SHAPE, prediction="epsilon", sampler=sampler, steps=steps, **SIZES).eval()  # type: ignore[arg-type]
    return lambda: model.sample(ROWS, generator(0))


def lucid_sampler(steps: int) -> Callable[[], object]:
    """Return what samples by denoising-diffusion-pytorch's own DDIM loop."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    diffusion = GaussianDiffusion(
        lucid(), image_size=32, timesteps=LEVELS, sampling_timesteps=steps, objective="pred_noise"
    ).eval()
    shape = (ROWS, *SHAPE)

    def draw() -> object:  # its progress bar asks for no output where there is no terminal; it costs nothing here
        return diffusion.ddim_sample(shape)

    return draw


def hugging_sampler(steps: int) -> Callable[[], object]:
    """Return what samples by diffusers' DDIM scheduler."""
    from diffusers import DDIMScheduler

    net = hugging().eval()
    scheduler: Any = DDIMScheduler(num_train_timesteps=LEVELS)
    scheduler.set_timesteps(steps)

    def draw() -> Tensor:
        x = torch.randn(ROWS, *SHAPE, generator=generator(0))
        for level in scheduler.timesteps:
            x = scheduler.step(plain(net(x, level)), level, x).prev_sample
        return x

    return draw


def compared(what: str, fast: Measured, slow: Measured, wanted: float, repeats: int) -> tuple[str, str, str]:
    """Return one row: how many times faster the first is."""
    result = alternate(slow, fast, repeats)
    return what, f"{result.ratio:.2f}x ({result.other * 1e3:.0f} / {result.ours * 1e3:.0f} ms)", f">= {wanted}x"


def main(repeats: int = 7) -> Iterator[tuple[str, str, str]]:
    """Yield (what, measured, wanted) rows."""
    if missing := [package for module, package in PEERS.items() if find_spec(module) is None]:
        yield "U-Net / peers", f"skipped: {' and '.join(missing)} not installed; pip install -e .[bench]", "a peer"
        return
    torch.set_num_threads(2)
    with keyed_rng(0):
        own, first, second = ours(), lucid(), hugging()
        counts = [sum(value.numel() for value in net.parameters()) for net in (own, first, second)]
        if max(counts) > (1 + TOLERANCE) * min(counts):
            raise ValueError(
                f"parameters {counts} differ by more than {TOLERANCE:.0%}; change the sizes of one network"
            )
        fp32, bf16 = training(own, 1.0, False), training(own, 1.0, True)
        slow, rival = training(first, LEVELS, False), training(second, LEVELS, False)
        ddim, solver = our_sampler("ddim", 50), our_sampler("multistep", 20)
        lucid50, hugging50 = sampling(lucid_sampler(50)), sampling(hugging_sampler(50))
        few = max(1, repeats // 3)
        yield compared("U-Net training / denoising-diffusion-pytorch", fp32, slow, 1.5, repeats)
        yield compared("U-Net training / diffusers", fp32, rival, 1.1, repeats)
        yield compared("U-Net training in bf16 / the first in fp32", bf16, slow, 2.3, repeats)
        yield compared("64 images, DDIM 50 / denoising-diffusion-pytorch", sampling(ddim), lucid50, 1.9, few)
        yield compared("64 images, DDIM 50 / diffusers", sampling(ddim), hugging50, 1.05, few)
        yield compared("64 images, second order 20 / the first's DDIM 50", sampling(solver), lucid50, 4.7, few)
        yield compared("the same in bf16", sampling(solver, narrow=True), lucid50, 7.0, few)
