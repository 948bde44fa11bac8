"""A GPT's training step and its sampler, against Hugging Face's GPT-2 of the same sizes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import alternate
from collapse import Batch
from collapse.models import GPT
from collapse.seeding import generator, keyed_rng

VOCABULARY, LENGTH, ROWS, SAMPLES, STEPS = 257, 128, 32, 256, 3
SIZES = {"layers": 4, "heads": 4, "width": 128}
NARROW = torch.bfloat16
DROPOUT = 0.1
"""What GPT-2 comes with; it leaves out weights of the attention as well, which our GPT does not."""


def autocast(narrow: bool) -> torch.autocast:
    """Return bf16 autocast on the CPU, or a context without it."""
    return torch.autocast("cpu", NARROW, enabled=narrow)


def peer(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """Return Hugging Face's GPT-2 of the same sizes; its eager attention is the faster one in bf16."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY + 1,
        n_positions=LENGTH + 1,
        n_embd=SIZES["width"],
        n_layer=SIZES["layers"],
        n_head=SIZES["heads"],
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=VOCABULARY,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation(attention)
    return model.train()


def ours(positions: str, **options: float) -> GPT:
    """Return our model, of the same sizes."""
    with keyed_rng(0):
        return GPT(VOCABULARY, LENGTH, **SIZES, positions=positions, **options)  # type: ignore[arg-type]


def training(model: nn.Module, loss: Callable[[Tensor], Tensor], narrow: bool) -> Callable[[], float]:
    """Return what takes a few steps of fused AdamW and says how long one took."""
    x = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator(0))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def steps() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            with autocast(narrow):
                value = loss(x)
            value.backward()
            optimizer.step()
        return (time.perf_counter() - start) / STEPS

    return steps


def train_ours(positions: str, narrow: bool, **options: float) -> Callable[[], float]:
    """Return the timed training of our model, through ``outputs`` as in a chain."""
    model, blank = ours(positions, **options), torch.zeros(ROWS, dtype=torch.int64)
    return training(model, lambda x: model.outputs(Batch(x, None, blank, blank, blank))["loss"].mean(), narrow)


def train_peer(narrow: bool, attention: str = "eager", dropout: float = 0.0) -> Callable[[], float]:
    """Return the timed training of the peer, on the same rows behind the same begin token."""
    model = peer(attention, dropout)

    def loss(x: Tensor) -> Tensor:
        logits = model(F.pad(x[:, :-1], (1, 0), value=VOCABULARY), use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), x.flatten())

    return training(model, loss, narrow)


def sample_ours(positions: str, narrow: bool) -> Callable[[], float]:
    """Return the timed sampler of our model."""
    model = ours(positions).eval()

    def sampled() -> float:
        start = time.perf_counter()
        with autocast(narrow):
            model.sample(SAMPLES, generator(0))
        return time.perf_counter() - start

    return sampled


def sample_peer(narrow: bool) -> Callable[[], float]:
    """Return the timed sampler of the peer with its own cache; in bf16 with bf16 weights, which is its fastest way."""
    model = peer().to(NARROW if narrow else torch.float32).eval()
    begin = torch.full((SAMPLES, 1), VOCABULARY)

    def sampled() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(  # type: ignore[operator]
                begin,
                attention_mask=torch.ones_like(begin),
                do_sample=True,
                top_k=0,
                min_new_tokens=LENGTH,
                max_new_tokens=LENGTH,
                pad_token_id=0,
            )
        return time.perf_counter() - start

    return sampled


def contests() -> Iterator[tuple[str, Callable[[], float], Callable[[], float], str]]:
    """Yield (what, ours, the peer's, wanted)."""
    for positions in ("learned", "rotary"):
        step, mine = f"GPT step, {positions}, bf16", train_ours(positions, True)
        yield f"{step} / HF GPT-2 fp32", mine, train_peer(False), "> 2x"
        yield f"{step} / HF GPT-2 bf16", mine, train_peer(True), "> 1.5x"
        if shutil.which("c++"):
            yield f"{step}, compiled / HF bf16", train_ours(positions, True, compile=True), train_peer(True), "> 1.5x"
        dropping = train_ours(positions, True, dropout=DROPOUT)
        yield f"{step}, dropout / HF with its dropout", dropping, train_peer(True, dropout=DROPOUT), "> 1.5x"
        yield f"{step} / HF as it comes, bf16", mine, train_peer(True, "sdpa"), "> 1x"
        yield f"GPT step, {positions}, fp32 / HF GPT-2 fp32", train_ours(positions, False), train_peer(False), "> 1x"
        for narrow, name, least in ((False, "fp32", 1.9), (True, "bf16", 2.2)):
            sampler = f"GPT sampler, {positions}, {name} / HF {name}"
            yield sampler, sample_ours(positions, narrow), sample_peer(narrow), f"> {least}x"


def main(repeats: int = 5) -> Iterator[tuple[str, str, str]]:
    """Yield (what, measured, wanted) rows; neither side leaves anything out unless a row says so."""
    if find_spec("transformers") is None:
        yield "GPT / Hugging Face's GPT-2", "skipped: transformers not installed; pip install -e .[bench]", "a peer"
        return
    torch.set_num_threads(2)
    for what, mine, theirs, wanted in contests():
        result = alternate(mine, theirs, repeats)
        yield what, f"{1 / result.ratio:.2f}x faster ({result.ours * 1e3:.0f} / {result.other * 1e3:.0f} ms)", wanted
