"""GPT: a transformer over tokens, with exact likelihoods and a sampler that computes every token once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from collapse.arguments import chosen
from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Batch
from collapse.models.conditions import Conditions, Prompts
from collapse.models.decoding import Decoding
from collapse.models.generative import GenerativeModule
from collapse.models.sharding import is_sharded
from collapse.nn.cache import KeyValueCache
from collapse.nn.precision import at_least_single
from collapse.nn.stepping import Stepper
from collapse.nn.transformer import Transformer

__all__ = ["GPT"]

ROTARY = {"rotary": True, "learned": False}


class GPT(GenerativeModule):
    r"""Model rows of tokens one after the other with a decoder-only transformer, and sample them exactly.

    .. math::
        \log p(x) = \sum_{l=1}^{L} \log p(x_l \mid x_0, x_1, \dots, x_{l-1}) \tag{1}

    .. math::
        \ell(x) = -\log p(x) \tag{2}

    .. math::
        x_l = \min\{v : p_0 + \dots + p_v > u_l\}, \quad p_v = p(v \mid x_0, \dots, x_{l-1}), \quad
        u_l \sim \mathcal U[0, 1) \tag{3}

    x_0 is a begin token of the model's own, number ``vocabulary``. A sample always has ``length`` tokens; a token that
    ends a document is one like any other. All uniform numbers of a sample are drawn beforehand, so that a row depends
    on its own ones alone and not on the rows sampled beside it.

    A prompt stands between the begin token and the row, and is not part of the sample. Attention then reaches the last
    ``length`` positions, as many as in training.

    Args:
        vocabulary: Number of tokens V, at least 1; rows hold integers in [0, V).
        length: Tokens L of a row, at least 1.
        layers: Number of blocks, at least 1.
        heads: Heads of the attention, a divisor of ``width``.
        width: Size of a position's vector; with rotary positions a multiple of 2 ``heads``.
        positions: "rotary" (distances) or "learned" (a vector for each of L places, and so no prompts).
        dropout: Share of the branches' and embeddings' values left out in training, in [0, 1).
        prompt: Tokens p of held-out text that a chain begins its samples with, at least 0.
        document_start: Whether a chain begins its samples behind the token that ends a document; excludes ``prompt``.
        temperature: Of the sampler, above 0; like the next two a recorded sampler setting, see ``Decoding``.
        top_k: Tokens the sampler keeps at each place; None for all.
        top_p: Mass the sampler keeps at each place, in (0, 1].
        learning_rate: Step size of AdamW.
        weight_decay: Its decay, of matrices alone, at least 0.
        betas: Its two rates, each in [0, 1).
        checkpointing: Compute the blocks' insides again in the backward pass: less memory, the same gradients.
        compile: Compile the network for training; needs torch 2.6.

    Raises:
        ValueError: If an argument is outside its range or names nothing known.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
        Shumailov et al., "AI models collapse when trained on recursively generated data", 2024 (prompts).
    """

    exposes = frozenset({"latent"})
    fresh_samples = True

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        positions: str = "rotary",
        dropout: float = 0.0,
        prompt: int = 0,
        document_start: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        betas: Sequence[float] = (0.9, 0.95),
        checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        rotary = chosen("positions", positions, ROTARY)
        check_optimizer(learning_rate, weight_decay, betas)
        check_beginning(prompt, document_start=document_start, rotary=rotary)
        self.network = Transformer(
            vocabulary,
            length,
            layers=layers,
            heads=heads,
            width=width,
            rotary=rotary,
            dropout=dropout,
            checkpointing=checkpointing,
        )
        self.vocabulary, self.length, self.rotary = vocabulary, length, rotary
        self.prompt, self.document_start = prompt, document_start
        self.decoding = Decoding(temperature, top_k, top_p)
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, (betas[0], betas[1])
        self.compiled, self._seen = compile, False
        if compile:
            if not hasattr(torch.compiler, "set_stance"):
                raise ValueError(f"compile = True needs torch 2.6 or newer, and this is {torch.__version__}")
            self.network.compile()  # in place: the state dict keeps its names

    def token_log_probs(self, x: Tensor) -> Tensor:
        """Return the terms of equation 1 in nats, (B, L), for rows (B, L)."""
        return self._read(x)[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return equation 1 in nats, (B,), for rows (B, L)."""
        return self.token_log_probs(x).sum(1)

    def loss(self, batch: Batch) -> Tensor:
        """Return equation 2 for each row, (B,), in nats."""
        return -self.log_prob(batch.x)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return equation 2 and the hidden states' means over each row, from one forward pass.

        Returns:
            "loss" (B,) in nats, "latent" (B, width).
        """
        if not self._seen:
            self._seen = self._fits(batch.x)
        log_probs, hidden = self._read(batch.x)
        return {"loss": -log_probs.sum(1), "latent": hidden.mean(1)}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw rows by equation 3, under the decoding's law in place of p if that is not neutral.

        Args:
            n: Number of rows.
            generator: On the module's device; advanced by one draw of n L numbers.
            y: (n, p) tokens that stand before the rows, in [0, V); None for the begin token alone.

        Returns:
            int32 (n, L), without begin token and prompt.

        Raises:
            ValueError: If ``y`` is no such table, or if places are learned and there is one.
            FloatingPointError: If the model's probabilities are NaN.
        """
        uniform = torch.rand(self.length, n, dtype=torch.float64, generator=generator, device=generator.device)
        tokens = self._beginning(n, y)
        rows = torch.empty(n, self.length, dtype=torch.int32, device=tokens.device)
        cache = KeyValueCache(self.length)
        with self._as_written():
            first, others = self._continued, self._step(tokens.shape[1] + self.length)
            for place in range(self.length):
                logits = (others if place else first)(tokens, cache)
                tokens = self.decoding.draw(logits, uniform[place, :, None])  # equation 3
                rows[:, place] = tokens[:, 0]
        if bool((rows == self.vocabulary).any()):
            raise FloatingPointError("the model's probabilities are NaN; lower the learning rate or clip the gradients")
        return rows

    def conditions(self, data: RecursiveDataModule) -> Conditions | None:
        """Return the law of the beginnings that ``prompt`` or ``document_start`` asks of the data; None for neither.

        Raises:
            ValueError: If the data have none, or more tokens than the model.
        """
        name, vocabulary = type(data).__name__, data.vocabulary
        if vocabulary is not None and vocabulary > self.vocabulary:
            raise ValueError(
                f"vocabulary = {self.vocabulary}, but the rows of {name} have {vocabulary} tokens; use that"
            )
        if self.document_start:
            if data.document is None:
                raise ValueError(f"document_start = True, but {name} has no documents; use a text, or leave it out")
            return Prompts(torch.tensor([[data.document]]))
        prompts = data.prompts(self.prompt) if self.prompt else None
        if self.prompt and prompts is None:
            raise ValueError(f"prompt = {self.prompt}, but {name} has no text to begin with; use a text, or prompt = 0")
        return None if prompts is None else Prompts(prompts)

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """What the decoding is and where samples begin, unless that is neutral."""
        settings = self.decoding.settings
        if self.prompt or self.document_start:
            settings |= {"prompt": self.prompt or "document"}
        return settings

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; vectors, which are the norms' scales, do not decay."""
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=True)
        optimizer._step_supports_amp_scaling = False  # as in GenerativeModule
        return optimizer

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of every token (B, L) and the hidden state it was read from (B, L, W)."""
        tokens = x.long()
        logits, hidden = self.network(F.pad(tokens[:, :-1], (1, 0), value=self.vocabulary))
        flat = rearrange(at_least_single(logits), "b l v -> (b l) v")
        return -F.cross_entropy(flat, tokens.flatten(), reduction="none").view(tokens.shape), hidden

    def _beginning(self, n: int, y: Tensor | None) -> Tensor:
        begin = torch.full((n, 1), self.vocabulary, device=self.device)
        if y is None:
            return begin
        if y.ndim != 2 or len(y) != n or y.is_floating_point():
            raise ValueError(
                f"y of type {y.dtype} and shape {tuple(y.shape)} holds no prompts for n = {n} rows: (n, p)"
            )
        if not self.rotary:
            raise ValueError("y holds prompts, for which positions='learned' has no places; use positions='rotary'")
        return torch.cat([begin, y.to(begin)], 1)

    def _as_written(self) -> contextlib.AbstractContextManager[Any]:
        """Keep off the compiled network: a step of the sampler would be compiled for every length of the cache."""
        return torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()

    def _continued(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the logits (n, V) of the tokens after (n, T)."""
        return self.network(tokens, cache)[0][:, -1]

    def _step(self, positions: int) -> Callable[[Tensor, KeyValueCache], Tensor]:
        """Give what continues rows by a token: the network, or where that does the same a ``Stepper``.

        In bf16 autocast a stepper computes in bf16 throughout. What the layers add up is narrow then as well, which
        moves the law about as much as autocast has already.
        """
        if is_sharded(self) or not isinstance(self.network, Transformer) or not self.network.is_as_made():
            return self._continued
        kind, dtype = self.device.type, self.network.embedding.weight.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:  # which autocast leaves alone
            dtype = torch.get_autocast_dtype(kind)
        return self._continued if dtype == torch.float16 else Stepper(self.network, dtype, positions)

    def _fits(self, x: Tensor) -> bool:
        """Raise ValueError unless a batch holds rows of the model; asked once, as the answer waits for the device."""
        if x.ndim != 2 or x.shape[1] != self.length or x.is_floating_point():
            raise ValueError(
                f"rows of shape {tuple(x.shape[1:])} and type {x.dtype} are not length = {self.length} tokens; make "
                "length that of the data, and the data text"
            )
        low, high = (int(bound) for bound in x.aminmax())
        if low < 0 or high >= self.vocabulary:
            raise ValueError(f"tokens {low} to {high} are not in [0, {self.vocabulary}); set vocabulary = {high + 1}")
        return True


def check_optimizer(learning_rate: float, weight_decay: float, betas: Sequence[float]) -> None:
    """Raise ValueError unless AdamW takes these."""
    if not 0 <= learning_rate < math.inf or not 0 <= weight_decay < math.inf:
        raise ValueError(
            f"learning_rate = {learning_rate}, weight_decay = {weight_decay}: both must be at least 0 and finite"
        )
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas = {tuple(betas)} must be two numbers in [0, 1)")


def check_beginning(prompt: int, *, document_start: bool, rotary: bool) -> None:
    """Raise ValueError unless samples can begin so."""
    if prompt < 0 or (prompt and document_start):
        raise ValueError(
            f"prompt = {prompt}, document_start = {document_start}: prompt must be at least 0 tokens, and only one of "
            "them be used"
        )
    if (prompt or document_start) and not rotary:
        raise ValueError(
            f"prompt = {prompt}, document_start = {document_start}: learned positions have no places beyond a row's; "
            "use positions='rotary'"
        )
