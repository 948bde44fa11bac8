"""Contaminated data: a real stream into which synthetic rows leak undeclared, as into a web scrape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Origin, Samples
from collapse.data.text.tokenizers import Tokenizer
from collapse.seeding import Stream, numpy_generator

__all__ = ["Contaminated"]

PLACES, LEAK = 2, 3
FITTED = 2048
"""Most rows that a law is fitted to: a drawn row costs as much as reading them."""
BLOCK = 1 << 22
"""Numbers drawn at a time."""


def normal(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    r"""Draw from the normal law with the mean and the covariance of ``rows`` (n, d), (count, d).

    .. math:: \bar x + \frac{1}{\sqrt{n-1}} \sum_i z_i (x_i - \bar x), \qquad z \sim \mathcal N(0, I_n)

    has that law, whatever the dimension: no covariance matrix is made.
    """
    mean = rows.mean(0, dtype=np.float64)
    deviations = (rows - mean) / max(1, len(rows) - 1) ** 0.5
    out, step = np.empty((count, rows.shape[1])), max(1, BLOCK // len(rows))
    for start in range(0, count, step):
        part = out[start : start + step]
        part[:] = mean + rng.standard_normal((len(part), len(rows))) @ deviations
    return out


def kernels(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    r"""Draw from a normal kernel density over ``rows`` (n, d), shrunk to keep their mean and covariance, (count, d).

    .. math:: \bar x + \frac{x_I - \bar x + c\,\varepsilon}{\sqrt{1 + c^2}}, \qquad
        \varepsilon \sim \mathcal N(0, \hat\Sigma), \quad c = n^{-1/(d+4)}

    References:
        Silverman, Young, "The bootstrap: to smooth or not to smooth?", Biometrika 74, 1987.
    """
    width, mean = len(rows) ** (-1 / (rows.shape[1] + 4)), rows.mean(0, dtype=np.float64)
    chosen = rows[rng.integers(len(rows), size=count)] - mean
    noise = normal(rows, count, rng) - mean
    return mean + (chosen + width * noise) / (1 + width**2) ** 0.5


def marginals(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw every coordinate from its own values in ``rows`` (n, d) alone, independently of the others, (count, d)."""
    return np.take_along_axis(rows, rng.integers(len(rows), size=(count, rows.shape[1])), 0)


Draw = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
LAWS: dict[str, Draw] = {"normal": normal, "kernels": kernels, "marginals": marginals}
CONTINUOUS = {normal, kernels}
LEAKS = (*LAWS, "synthetic")


class Contaminated(RecursiveDataModule):
    """Another data set's gold, of which a given share has been replaced by synthetic rows that nobody declared.

    They count as real, as they would in a scrape: nothing that trains or mitigates can tell them but by their values.
    Which they are is known to ``leaked`` alone, for evaluating what looks for them. A leaked row takes the place and
    the label of a real one and is drawn from what is fitted to the gold rows of that label. The reference is clean.

    Args:
        source: The clean data, without a replicate axis; batch size and workers are its own.
        share: Share of leaked rows in [0, 1], exact to the rounding of one row.
        leak: Where they come from. ``"normal"``: a normal law; ``"kernels"``: a kernel density; ``"marginals"``:
            every coordinate on its own, the only one for tokens; ``"synthetic"``: the rows that came with the source
            and are declared synthetic, whatever their labels.
        seed: Key of the places and of the draws.

    Raises:
        ValueError: If an argument is outside its range, or the source has not the rows that leak.

    References:
        Hataya, Bao, Arai, "Will large-scale generative models corrupt future datasets?", ICCV 2023, arXiv:2211.08095.
    """

    def __init__(self, source: RecursiveDataModule, share: float, leak: str = "normal", seed: int = 0) -> None:
        super().__init__(source.batch_size, source.num_workers)
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        if leak not in LEAKS:
            near = difflib.get_close_matches(str(leak), LEAKS, n=1) or ["normal"]
            raise ValueError(f"leak must be one of {', '.join(LEAKS)}, got {leak!r}; did you mean {near[0]!r}?")
        if source.replicates is not None:
            raise ValueError(f"source={source.describe()} has replicates; contaminate data without a replicate axis")
        self.clean, self.share, self.leak, self.seed = source, share, leak, seed
        self.classes = source.classes
        if hasattr(source, "decode"):  # only text can be read
            self.decode = source.decode

    @property
    def vocabulary(self) -> int | None:  # type: ignore[override]
        """Number of tokens of the source."""
        return self.clean.vocabulary

    @property
    def document(self) -> int | None:  # type: ignore[override]
        """The token that ends a document of the source."""
        return self.clean.document

    @property
    def tokenizer(self) -> Tokenizer | None:  # type: ignore[override]
        """What made tokens of the source's text."""
        return self.clean.tokenizer

    def gold(self) -> Samples:
        """Return the rows of the source, those that leaked in place of others."""
        return self._gold

    def reference(self) -> Samples:
        """Return the reference rows of the source."""
        return self.clean.reference()

    def held(self) -> Mapping[Origin, Samples]:
        """Return what the source holds."""
        return self.clean.held()

    def prompts(self, length: int) -> Tensor | None:
        """Return beginnings of the source's held-out text."""
        return self.clean.prompts(length)

    def pinned(self) -> Mapping[str, Any]:
        """Return what the source must be given to stay as it is."""
        fixed = self.clean.pinned()
        return {"source": fixed} if fixed else {}

    def leaked(self) -> np.ndarray:
        """Return which rows of gold are synthetic, (n,) bool; for evaluation, never for training."""
        rows = len(self.clean.gold())
        mask = np.zeros(rows, bool)
        mask[numpy_generator(self.seed, Stream.DATA, PLACES).permutation(rows)[: round(self.share * rows)]] = True
        return mask

    @cached_property
    def _gold(self) -> Samples:
        clean, leaked = self.clean.gold(), self.leaked()
        x = np.asarray(clean[:].x).copy()  # in memory, whatever the source
        x[leaked] = self._drawn(x, None if clean.y is None else np.asarray(clean.y), leaked)
        return Samples(x, clean.y)

    def _drawn(self, x: np.ndarray, y: np.ndarray | None, leaked: np.ndarray) -> np.ndarray:
        """Return what takes the place of the rows ``leaked``, in their order."""
        law = LAWS.get(self.leak)
        if law is None:
            return self._held_rows(x, int(leaked.sum()))
        if law in CONTINUOUS and x.dtype.kind != "f" and x.dtype != np.uint8:
            raise ValueError(f"leak={self.leak!r} draws real numbers and the rows are {x.dtype}; give leak='marginals'")
        labels = np.zeros(len(x), np.int64) if y is None else y
        out = np.empty((int(leaked.sum()), *x.shape[1:]), x.dtype)
        for label in np.unique(labels[leaked]):
            rng = numpy_generator(self.seed, Stream.DATA, LEAK, int(label))
            rows, wanted = np.flatnonzero(labels == label), labels[leaked] == label
            fitted = x[rows if len(rows) <= FITTED else np.sort(rng.permutation(rows)[:FITTED])]
            drawn = law(fitted.reshape(len(fitted), -1), int(wanted.sum()), rng)
            out[wanted] = _stored(drawn, x.dtype).reshape(-1, *x.shape[1:])
        return out

    def _held_rows(self, x: np.ndarray, count: int) -> np.ndarray:
        held = self.clean.held().get(Origin.SYNTHETIC)
        if count and (held is None or len(held) < count):
            raise ValueError(
                f"share={self.share} of {len(x)} rows are {count} that leak, and {self.clean.describe()} holds "
                f"{0 if held is None else len(held)} synthetic rows; lower share or choose another leak"
            )
        if held is None:
            return x[:0]
        chosen = numpy_generator(self.seed, Stream.DATA, LEAK).permutation(len(held))[:count]
        return np.asarray(held[chosen].x)


def _stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return drawn values as gold is stored: images rounded to 8 bits."""
    return np.rint(values).clip(0, 255).astype(dtype) if dtype == np.uint8 else values.astype(dtype)
