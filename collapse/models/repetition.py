"""The repetition penalty: a sampler's way to avoid what a text has already."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["repetition_penalty"]


def repetition_penalty(logits: Tensor, tokens: Tensor, theta: float) -> Tensor:
    r"""Make the tokens that a text has already less likely, however often it has them.

    .. math:: z_v' = z_v / \theta \text{ if } z_v > 0 \text{ else } z_v \theta, \qquad v \in \{x_1, \dots, x_t\} \tag{1}

    Args:
        logits: z, (n, V).
        tokens: The texts so far, (n, t) int64 in [0, V).
        theta: Above 0; 1 returns ``logits`` itself, more avoids repetition.

    Returns:
        z', (n, V).

    References:
        Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019,
        arXiv:1909.05858, section 4.1, which divides all logits; dividing a negative one would make its token likelier.
    """
    if theta == 1:
        return logits
    had = logits.gather(1, tokens)
    return logits.scatter(1, tokens, torch.where(had > 0, had / theta, had * theta))  # equation 1
