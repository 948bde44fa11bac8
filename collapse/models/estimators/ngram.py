"""The n-gram estimator: the smallest language model, one categorical law for every context."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.data.discrete import cumulated, draw_given
from collapse.data.rows import Batch
from collapse.models.decoding import Decoding
from collapse.models.estimators.categorical import check_mass, count, indices
from collapse.models.estimators.estimator import Estimator

__all__ = ["NGram"]

LIMIT = 1 << 28  # entries of the table: 2 GiB
BLOCK = 1 << 17  # tokens worked on at a time


class NGram(Estimator):
    r"""Law of a token given the m - 1 tokens before it, from relative frequencies; samples rows token by token.

    .. math:: P(x_l = v \mid c) = \frac{\#(c, v) + \beta}{\#(c) + V\beta}, \qquad c = (x_{l-m+1}, \dots, x_{l-1})

    Before a row's first token stands a begin token, m - 1 times, so the first tokens have laws of their own. A context
    that was never seen has the frequencies of the tokens in all contexts together; with smoothing its law is uniform,
    by the formula. With row weights all counts are weighted. The table is dense.

    A context visited a fixed number of times per generation is a ``Categorical`` chain of its own; in a chain the
    visits depend on the rows before, and those laws hold approximately.

    Args:
        vocabulary: Number of tokens V, at least 1; rows hold integers in [0, V).
        order: m, at least 1: 2 is a bigram model, 1 has no context.
        length: Tokens L of a row, at least 1; samples have as many.
        smoothing: beta, the visits added to every token of every context, at least 0.
        replicates: R independent chains, on data with rows (R, L); None for rows (L,).
        temperature: Of the sampler, above 0; like the next two a recorded sampler setting, see ``Decoding``.
        top_k: Tokens the sampler keeps in each context; None for all.
        top_p: Mass the sampler keeps in each context, in (0, 1].

    Attributes:
        probabilities: (R, C, V) float64, C = (V + 1)^(m - 1). The context is the number whose digits in base V + 1 are
            its tokens, the last one lowest; V is the begin token.
        visits: (R, C) float64, how often each context was seen, or the sum of its rows' weights.

    Raises:
        ValueError: If an argument is outside its range, or the table would have more than 2^28 entries.

    References:
        Shannon, "A Mathematical Theory of Communication", 1948, section 3; Jurafsky, Martin, "Speech and Language
        Processing", 3rd edition, chapter 3 (padding, additive smoothing, backing off).
    """

    probabilities: Tensor
    visits: Tensor

    def __init__(
        self,
        vocabulary: int,
        order: int = 2,
        *,
        length: int,
        smoothing: float = 0.0,
        replicates: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> None:
        if min(vocabulary, order, length) < 1 or not 0 <= smoothing < float("inf"):
            raise ValueError(
                "NGram needs vocabulary, order and length >= 1 and smoothing >= 0, "
                f"got vocabulary={vocabulary}, order={order}, length={length}, smoothing={smoothing}"
            )
        super().__init__((length,), replicates)
        self.vocabulary, self.order, self.length, self.smoothing = vocabulary, order, length, smoothing
        self.decoding, self.contexts = Decoding(temperature, top_k, top_p), (vocabulary + 1) ** (order - 1)
        if self.chains * self.contexts * vocabulary > LIMIT:
            raise ValueError(
                f"vocabulary={vocabulary} and order={order} make {self.contexts} contexts, a table of "
                f"{self.chains * self.contexts * vocabulary} entries with replicates={replicates}; the limit is {LIMIT}"
            )
        self.register_buffer("probabilities", torch.zeros(self.chains, self.contexts, vocabulary, dtype=torch.float64))
        self.register_buffer("visits", torch.zeros(self.chains, self.contexts, dtype=torch.float64))

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """Temperature, top-k and top-p, unless they are neutral."""
        return self.decoding.settings

    def begin(self) -> None:
        """Forget the rows counted so far."""
        self.probabilities.zero_()  # until finish it holds the counts: a second table would be as large

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Count the tokens of rows (B, R, L) in their contexts."""
        size = max(1, BLOCK // (self.chains * self.length))
        for start in range(0, len(batch.x), size):
            cells = self.cells(batch.x[start : start + size])
            count(self.probabilities.flatten(1), cells, None if weights is None else weights[start : start + size])

    def finish(self) -> None:
        """Turn counts into frequencies; back off where there are none."""
        counts, tiny = self.probabilities, torch.finfo().tiny
        self.visits.copy_(counts.sum(2))
        tokens = counts.sum(1) / self.visits.sum(1, keepdim=True).clamp_min(tiny)  # (R, V)
        totals = (self.visits + self.vocabulary * self.smoothing)[:, :, None]
        counts.add_(self.smoothing).div_(totals.clamp_min(tiny))
        unseen = (totals[:, :, 0] == 0).nonzero()
        counts[unseen[:, 0], unseen[:, 1]] = tokens[unseen[:, 0]]

    def cells(self, x: Tensor) -> Tensor:
        """Return where in a replicate's flat table the tokens of rows (B, R, L) stand, (B, R, L): C V + token."""
        tokens, base = indices(x, self.vocabulary, self), self.vocabulary + 1
        padded = F.pad(tokens, (self.order - 1, 0), value=self.vocabulary)
        context = torch.zeros_like(tokens)
        for place in range(self.order - 1):
            context = context * base + padded[..., place : place + self.length]
        return context * self.vocabulary + tokens

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-likelihood in nats of rows (n, R, L) or (n, L), (n, R) or (n,); -inf for an unseen pair."""
        table = self.probabilities.flatten(1)
        size = max(1, BLOCK // (self.chains * self.length))
        parts = [self._log_prob(table, rows) for rows in self.arranged(x).split(size)]
        return self.emitted(torch.cat(parts))

    def _log_prob(self, table: Tensor, x: Tensor) -> Tensor:
        places = self.cells(x).transpose(0, 1)  # (R, B, L)
        return table.gather(1, places.flatten(1)).log_().reshape(places.shape).sum(2).T

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row, all its tokens, in nats, averaged over replicates, (B,)."""
        return -self.log_prob(batch.x).reshape(len(batch.x), -1).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw int32 rows, (n, L), or (n, R, L) with replicates.

        Raises:
            ValueError: If the model was fitted on no rows.
        """
        check_mass(self.probabilities, self)
        table = cumulated(self.decoding.apply(self.probabilities)).flatten(0, 1)
        first = self.contexts * torch.arange(self.chains, device=table.device)  # a replicate's first row of the table
        context = torch.full((n, self.chains), self.contexts - 1, device=table.device)  # begin tokens only
        x = torch.empty(n, self.chains, self.length, dtype=torch.int32, device=table.device)
        for place in range(self.length):
            token = draw_given(table, first + context, generator)
            context = (context * (self.vocabulary + 1) + token) % self.contexts
            x[..., place] = token
        return self.emitted(x)
