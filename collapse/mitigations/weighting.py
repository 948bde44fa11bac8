"""Weighted likelihood: how much real rows count beside synthetic ones, whatever their numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from collapse.data.rows import Batch, Origin
from collapse.mitigations.mitigation import Mitigation
from collapse.models.generative import GenerativeModule

__all__ = ["WeightedLikelihood"]


def origin_weights(is_real: Tensor, *, share: float, real_fraction: float | Tensor, like: Tensor) -> Tensor:
    """Factors on rows that give the real ones together ``share`` of the weight; their mean over the training set is 1.

    Args:
        is_real: (B,) or (B, R) bool.
        share: Real share of the weight, in [0, 1].
        real_fraction: Share of real rows in the training set, in [0, 1], or (R,) that of each replicate.
        like: A floating tensor of the type and device of the result.
    """
    # Filled on the device: a step must not wait for two numbers from the host.
    fraction = torch.full_like(like, real_fraction) if isinstance(real_fraction, float) else real_fraction.to(like)
    alone = (fraction == 0) | (fraction == 1)
    real = torch.where(alone, 1, share / fraction)
    synthetic = torch.where(alone, 1, (1 - share) / (1 - fraction))
    return torch.where(is_real, real, synthetic)


class WeightedLikelihood(Mitigation):
    r"""Weigh the likelihood of real rows against that of synthetic ones.

    .. math:: \max_\theta\; \frac{w}{n_r}\sum_{i\ \text{real}} \log p_\theta(x_i)
        + \frac{1-w}{n_s}\sum_{i\ \text{synthetic}} \log p_\theta(x_i)

    For the mean of a law, with as many fresh real rows as synthetic ones in every generation, the best weight is the
    reciprocal of the golden ratio, 0.618. A generation of one origin alone is left as it is.

    Args:
        share: Weight w of the real rows, in [0, 1]; None weighs every row alike and changes nothing.

    References:
        He, Xu, Cheng, "Golden ratio weighting prevents model collapse", 2025, arXiv:2502.18049; as a ratio of the two
        likelihoods: Bertrand et al., ICLR 2024, arXiv:2310.00429.
    """

    citation = "He, Xu, Cheng (2025), arXiv:2502.18049"

    def __init__(self, share: float | None) -> None:
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1] or be None, got {share}")
        self.share = share

    def weigh(self, batch: Batch, module: GenerativeModule) -> Tensor:
        """Return the factor of each row, (B,), or (B, R) where replicates have rows of their own.

        Raises:
            ValueError: If the module trains outside a chain, where the share of real rows is not known.
        """
        is_real = batch.origin == Origin.REAL
        like = batch.x.new_zeros((), dtype=batch.x.dtype if batch.x.is_floating_point() else torch.float32)
        if self.share is None:
            return torch.ones_like(is_real, dtype=like.dtype)
        if "real_fraction" not in module.training_facts:
            raise ValueError(f"{self!r} needs to know the training set's real fraction; train in a RecursiveTrainer")
        fraction = module.training_facts["real_fraction"]
        return origin_weights(is_real, share=self.share, real_fraction=fraction, like=like)
