"""The Vendi score: how many different samples a set holds, by a similarity of one's choice."""

import torch
from torch import Tensor

from collapse.metrics.entropy import hill_number
from collapse.metrics.metric import feature_set

__all__ = ["vendi_score", "cosine_vendi_score"]


def vendi_score(kernel: Tensor, q: float = 1.0) -> Tensor:
    r"""Compute the Vendi score of a similarity matrix: the Hill number of the eigenvalues of K/N.

    .. math:: \Bigl(\sum_k \lambda_k^q\Bigr)^{1/(1-q)}, \qquad
        q = 1: \; \exp\Bigl(-\sum_k \lambda_k \ln \lambda_k\Bigr), \qquad \lambda = \operatorname{eig}(K/N)

    Args:
        kernel: Similarities, (N, N), symmetric positive semi-definite with a diagonal of ones, N >= 1.
        q: Order, at least 0, possibly infinite: a larger one counts rare kinds of samples less.

    Returns:
        The effective number of samples, (), float64, in [1, N].

    Raises:
        ValueError: If kernel is not such a matrix, or q is negative.

    References:
        Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", 2022.
        arXiv:2210.02410, definition 3.1; orders q: Pasarkar and Dieng, "Cousins of the Vendi Score", 2023.
        arXiv:2310.12952.

    Example:
        >>> round(float(vendi_score(torch.eye(3).repeat_interleave(2, 0).repeat_interleave(2, 1))), 6)
        3.0
    """
    k = feature_set("kernel", kernel, rows=1).double()
    if k.shape[0] != k.shape[1] or not torch.allclose(k, k.mT) or not torch.allclose(k.diagonal(), k.new_ones(())):
        raise ValueError(
            f"kernel has shape {tuple(k.shape)}, but a symmetric matrix of similarities with a diagonal of ones is "
            "needed; divide it by the roots of its diagonal, or use cosine_vendi_score for features."
        )
    return _score(k / len(k), q)


def cosine_vendi_score(features: Tensor, q: float = 1.0) -> Tensor:
    r"""Compute the Vendi score of features under the cosine similarity.

    With rows :math:`u_i = x_i / \lVert x_i\rVert`, the matrices :math:`UU^\top/N` and :math:`U^\top U/N` have the same
    positive eigenvalues, so that the smaller one does.

    Args:
        features: Features, (N, D), N >= 1, without rows of zeros.
        q: Order, at least 0, possibly infinite.

    Returns:
        The effective number of samples, (), float64, in [1, min(N, D)].

    Raises:
        ValueError: If features is not a finite matrix, a row is zero, or q is negative.

    References:
        Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", 2022.
        arXiv:2210.02410, section 3.
    """
    x = feature_set("features", features, rows=1).double()
    norms = x.norm(dim=1, keepdim=True)
    if not (norms > 0).all():
        raise ValueError(
            f"features has {int((norms == 0).sum())} rows of zeros, which have no direction; drop them, or pass a "
            "kernel to vendi_score."
        )
    u = x / norms
    return _score((u.mT @ u if u.shape[1] < len(u) else u @ u.mT) / len(u), q)


def _score(matrix: Tensor, q: float) -> Tensor:
    values = torch.linalg.eigvalsh(matrix)
    noise = 10 * len(values) * torch.finfo(values.dtype).eps  # the eigenvalues sum to 1
    if values[0] < -max(noise, 1e-6):
        raise ValueError(
            f"kernel has the eigenvalue {float(values[0]) * len(values):.3g}, but similarities must be positive "
            "semi-definite; use a kernel such as the Gaussian one."
        )
    return hill_number(torch.where(values > noise, values, 0), q)
