"""Pretrained language models: any causal transformer in Hugging Face's format, fine-tuned and sampled as others are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from collapse.data.rows import Batch
from collapse.distributed import gather_processes
from collapse.models.conditions import Conditions, Prompts
from collapse.models.decoding import Decoding
from collapse.models.generative import GenerativeModule
from collapse.models.huggingface import (
    begin_token,
    check_tokenizer,
    context_of,
    evaluating,
    fingerprint,
    model_folder,
    read_network,
    recompute_activations,
)
from collapse.models.repetition import repetition_penalty
from collapse.models.sharding import is_sharded
from collapse.nn.precision import at_least_single

if TYPE_CHECKING:
    from collapse.data.module import RecursiveDataModule

__all__ = ["PretrainedLM"]


class PretrainedLM(GenerativeModule):
    r"""Fine-tune a causal language model from a local folder, and sample rows of ``length`` tokens from it.

    .. math::
        \ell(x) = -\log p(x) = -\sum_{l=1}^{L} \log p(x_l \mid b, x_1, \dots, x_{l-1}) \tag{1}

    b is the model's begin token (its end token if it has none, as GPT-2), so the first token of a row is predicted,
    too. The law is over the data's ``vocabulary``: further entries of the model's own, which only pad a table, have no
    probability. An end token within a row is a token like others, and ends nothing: every row has L tokens.

    The weights are read in the constructor. So with ``initialization="fresh"`` every generation fine-tunes the
    *pretrained* model, as Shumailov et al. do, and with "warm" the one of the generation before. Their SHA-256 is part
    of the run's identity, and every later generation reads the same bytes or stops. Nothing is ever downloaded, no
    pickle is read and no code of the folder runs. Dropout is as the model's config says.

    By default samples are drawn from the model's own law, continuing ``prompt`` tokens of held-out real text. Beam
    search, a repetition penalty, temperature, top-k and nucleus depart from it, and are recorded with every pool.
    Shumailov et al. fine-tune OPT-125m on rows of 64 tokens, five epochs at 2e-5, and generate with ``prompt=64,
    beams=5, repetition_penalty=3.0``. The text's tokenizer must be the model's own: give ``path`` as the data's
    ``tokenizer``, too.

    Args:
        path: Folder with config.json and safetensors.
        length: Tokens L of a row, at least 1; samples have as many.
        vocabulary: Number of the data's tokens, at most the model's; None for the model's.
        prompt: Tokens of held-out text that a sample continues; 0 for none.
        beams: Continuations that beam search keeps; 1 draws instead.
        repetition_penalty: theta of ``collapse.models.repetition``, above 0; 1 is neutral.
        temperature: Of the sampler, above 0; 1 is neutral.
        top_k: Tokens the sampler keeps, at least 1; None for all.
        top_p: Mass the sampler keeps, in (0, 1]; 1 is neutral.
        sampling_batch: Rows that ``sample`` and ``log_prob`` work on at a time, which bounds their memory.
        learning_rate: Step size of AdamW.
        weight_decay: Decoupled weight decay, at least 0.
        checkpointing: Compute activations again in the backward pass, which takes a third more time and less memory.
        scratch: Draw random weights instead of reading them: the control without pretraining.
        sha256: Digest of config and weights that must be found at ``path``; None for any.

    Raises:
        ValueError: If an argument is outside its range, if the folder holds no such model, or if transformers is not
            installed (the extra ``hf``).
        FileNotFoundError: If the folder, or a file of it, does not exist.

    References:
        Shumailov et al., "AI models collapse when trained on recursively generated data", Nature 631:755, 2024.
        Zhang et al., "OPT: Open Pre-trained Transformer Language Models", 2022, arXiv:2205.01068.
    """

    incidental = frozenset({"path"})  # what lies there is told by its digest

    def __init__(
        self,
        path: str,
        length: int,
        *,
        vocabulary: int | None = None,
        prompt: int = 64,
        beams: int = 1,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        sampling_batch: int = 64,
        learning_rate: float = 2e-5,
        weight_decay: float = 0.0,
        checkpointing: bool = False,
        scratch: bool = False,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_least(0, {"prompt": prompt, "learning_rate": learning_rate, "weight_decay": weight_decay})
        check_least(1, {"length": length, "beams": beams, "sampling_batch": sampling_batch})
        check_least(1, {} if vocabulary is None else {"vocabulary": vocabulary})
        if not 0 < repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty = {repetition_penalty} must be above 0 and finite; 1 is neutral")
        self.length, self.prompt, self.beams, self.sampling_batch = length, prompt, beams, sampling_batch
        self.penalty, self.decoding = repetition_penalty, Decoding(temperature, top_k, top_p)
        self.learning_rate, self.weight_decay, self.scratch = learning_rate, weight_decay, scratch
        if beams > 1 and self.decoding.settings:
            raise ValueError(
                f"beams = {beams} searches for the likeliest row and draws none; leave temperature, top_k and top_p "
                "neutral, or set beams=1"
            )
        if beams > 1 and not prompt:
            raise ValueError(f"beams = {beams} and prompt = 0 make one row again and again; set prompt, or beams=1")
        self.folder = model_folder(path, weights=not scratch)
        self.sha256 = fingerprint(self.folder, weights=not scratch)
        if sha256 not in (None, self.sha256):
            raise ValueError(
                f"path = {path!r} holds a model with the SHA-256 {self.sha256}, and sha256 = {sha256!r} is asked for: "
                "its files have changed; put the old ones back, or begin another run"
            )
        self.network = read_network(self.folder, scratch=scratch)
        config = self.network.config
        self.vocabulary, self.begin_token = vocabulary or config.vocab_size, begin_token(config)
        self._check_room(config)
        if checkpointing:
            recompute_activations(self.network)

    def _check_room(self, config: Any) -> None:
        if self.vocabulary > config.vocab_size:
            raise ValueError(
                f"the data have a vocabulary of {self.vocabulary} tokens and the model knows {config.vocab_size}; "
                "give the model's folder as the data's tokenizer, too"
            )
        if self.prompt + self.length > context_of(config):
            raise ValueError(
                f"prompt = {self.prompt} and length = {self.length} are {self.prompt + self.length} tokens, and the "
                f"model attends to {context_of(config)}; shorten one of them"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, the digest of what was read among them."""
        return {**super().arguments, **self.pinned()}

    def pinned(self) -> Mapping[str, Any]:
        """Return the digest of what was read, without which the folder may hold another model by now."""
        return {"sha256": self.sha256}

    def twin(self) -> Self:
        """Make the module again, of the same bytes."""
        args, kwargs = self._arguments
        return type(self)(*args, **{**kwargs, **self.pinned()})

    def conditions(self, data: RecursiveDataModule) -> Conditions | None:
        """Return the law of the prompts, uniform over held-out real text; None without prompts.

        Raises:
            ValueError: If the data have no text to begin with, or one in other tokens than the model's own.
        """
        if not self.scratch:
            check_tokenizer(self.folder, data)
        if not self.prompt:
            return None
        prompts = data.prompts(self.prompt)
        if prompts is None:
            raise ValueError(
                f"prompt = {self.prompt}, but {type(data).__name__} has no held-out text to begin with; set prompt=0"
            )
        return Prompts(prompts)

    def loss(self, batch: Batch) -> Tensor:
        """Return equation 1 for each row, (B,), in nats."""
        return -self._log_probs(batch.x).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-probability of rows (B, L), (B,), in nats."""
        return self.token_log_probs(x).sum(1)

    def token_log_probs(self, x: Tensor) -> Tensor:
        """Return the terms of equation 1's sum for rows (B, L), (B, L), in nats."""
        with evaluating(self.network):
            return torch.cat([self._log_probs(rows) for rows in x.split(self.sampling_batch)])

    def _log_probs(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.length or x.is_floating_point():
            raise ValueError(
                f"rows of shape {tuple(x.shape[1:])} and type {x.dtype} are no length = {self.length} tokens; give "
                "text, and its length"
            )
        tokens = x.long()
        before = F.pad(tokens[:, :-1], (1, 0), value=self.begin_token)
        logits = self.network(before, use_cache=False).logits[..., : self.vocabulary]
        logits = rearrange(at_least_single(logits), "b l v -> (b l) v")
        return -F.cross_entropy(logits, tokens.flatten(), reduction="none").view_as(tokens)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw rows of L tokens by inverting the distribution function of each, or search for them with beams.

        Args:
            n: Number of rows.
            generator: On the module's device; the only source of randomness, of which beams need none.
            y: (n, p) tokens that the rows continue; None for none.

        Returns:
            (n, L) int32, without the prompts.

        Raises:
            ValueError: If ``y`` is no such table, or is too long for the model.
            FloatingPointError: If the model's probabilities are NaN.
        """
        beginnings = F.pad(self._prompts(n, y).to(generator.device), (1, 0), value=self.begin_token)
        # Drawn before the rows are parted, so that the size of the parts has no part in the draw.
        uniform = torch.rand(n, self.length, dtype=torch.float64, generator=generator, device=generator.device)
        parts = list(zip(beginnings.split(self.sampling_batch), uniform.split(self.sampling_batch), strict=True))
        calls = len(parts)
        if is_sharded(self):  # to run over the network is then a matter of all processes; who has done draws once more
            calls = int(gather_processes(torch.tensor(calls, device=generator.device)).max())
        continued = self._searched if self.beams > 1 else self._drawn
        with evaluating(self.network):
            rows = [continued(*parts[min(call, len(parts) - 1)]) for call in range(calls)]
        return torch.cat(rows[: len(parts)])[:, -self.length :].int()

    def _prompts(self, n: int, y: Tensor | None) -> Tensor:
        """Return the tokens to continue, (n, p), without the begin token."""
        if y is None and self.beams == 1:
            return torch.empty(n, 0, dtype=torch.int64)
        if y is None or y.ndim != 2 or len(y) != n or y.shape[1] + self.length > context_of(self.network.config):
            raise ValueError(
                f"y of shape {None if y is None else tuple(y.shape)} does not begin {n} rows of {self.length} tokens; "
                f"give (n, p) prompt tokens, with p + length at most {context_of(self.network.config)}"
            )
        return y.long()

    def _drawn(self, text: Tensor, uniform: Tensor) -> Tensor:
        """Continue texts (n, t) by a token for each column of uniform numbers (n, L): (n, t + L)."""
        cache, given, broken = None, text, torch.zeros_like(text[:, :1], dtype=torch.bool)
        for column in uniform.split(1, 1):
            out = self.network(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = repetition_penalty(at_least_single(out.logits[:, -1]), text, self.penalty)
            given = self.decoding.draw(logits[:, : self.vocabulary], column.contiguous())
            broken |= given == self.vocabulary  # where there is a NaN; no token, which the network could not take
            text, cache = torch.cat([text, given.clamp_(max=self.vocabulary - 1)], 1), out.past_key_values
        if bool(broken.any()):
            raise FloatingPointError("the model's probabilities are NaN; lower the learning rate or clip the gradients")
        return text

    def _searched(self, text: Tensor, uniform: Tensor) -> Tensor:
        """Continue texts (n, t) by the likeliest tokens that a beam search finds, without chance: (n, t + L)."""
        return self.network.generate(
            text,
            attention_mask=torch.ones_like(text),
            max_new_tokens=self.length,
            num_beams=self.beams,
            do_sample=False,
            repetition_penalty=self.penalty,
            suppress_tokens=list(range(self.vocabulary, self.network.config.vocab_size)) or None,
            pad_token_id=0,  # no row ends early, so none is padded
            synced_gpus=False,  # nor does any process: all take L steps
        )

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The length of the prompts, and what departs from the model's own law."""
        given = {"prompt": self.prompt, "beams": self.beams, "repetition_penalty": self.penalty}
        neutral = {"prompt": 0, "beams": 1, "repetition_penalty": 1.0}
        return {name: value for name, value in given.items() if value != neutral[name]} | self.decoding.settings

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with ``learning_rate`` and ``weight_decay``."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        optimizer._step_supports_amp_scaling = False  # as in GenerativeModule
        return optimizer


def check_least(least: int, values: Mapping[str, float]) -> None:
    """Raise ValueError unless values are at least ``least``, and finite."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} = {value} must be at least {least} and finite")
