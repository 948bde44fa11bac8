r"""Exact laws of the recursion itself: zero-variance probes and the provenance of a subsample.

A probe replaces the generative model by a deterministic one. The fit is the mean of the training set, every real
point is the constant ``probe.real``, and every synthetic point is ``probe.emit(fit)``. The fitted value :math:`m_t` is
then a number, so one run of a loop decides whether its data regime is right, off-by-one errors included.

t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.

Real data at every generation is the real fraction with no synthetic point: :math:`m_t` stays at ``probe.real``.
Accumulate-subsample follows the law of accumulate in expectation only.

References:
    Regimes: Shumailov et al. 2024, arXiv:2305.17493 (replace); Gerstgrasser et al. 2024, arXiv:2404.01413
    (accumulate); Kazdan et al. 2024, arXiv:2410.16713 (accumulate-subsample); Alemohammad et al. 2024,
    arXiv:2307.01850 (real fraction). The probes are elementary.
"""

from __future__ import annotations

from typing import NamedTuple

from collapse.theory._checks import check_count

__all__ = [
    "Probe",
    "ADDITIVE",
    "CountMoments",
    "replace_probe",
    "accumulate_probe",
    "accumulate_fresh_probe",
    "real_fraction_probe",
    "subsample_real_count",
]


class Probe(NamedTuple):
    """A deterministic model: the mean is fitted, an affine function of it is emitted.

    Attributes:
        real: Value of every real point.
        factor: Factor c on the fit in a synthetic point.
        shift: Constant added to a synthetic point.
    """

    real: float
    factor: float
    shift: float

    def emit(self, fit: float) -> float:
        """Value of a synthetic point of the model fitted to the mean ``fit``."""
        return self.factor * fit + self.shift


ADDITIVE = Probe(real=0.0, factor=1.0, shift=1.0)  # counts the synthetic generations behind a fit


class CountMoments(NamedTuple):
    """Mean and variance of a count."""

    mean: float
    variance: float


def replace_probe(t: int, probe: Probe) -> float:
    r"""Fitted value when every fit sees only the synthetic points of the model before.

    .. math:: m_t = t - 1 \quad\text{(additive)}, \qquad m_t = c^{t-1} \quad\text{(factor c, real 1)}

    Args:
        t: Number of fits, at least 1.
        probe: The deterministic model.

    Returns:
        The fitted value :math:`m_t`.

    Raises:
        ValueError: If t is below 1.
    """
    return real_fraction_probe(t, probe, n_real=0, n_synthetic=1)


def accumulate_probe(t: int, probe: Probe, *, n: int, n0: int | None = None) -> float:
    r"""Fitted value when every fit sees all real and all synthetic points so far.

    .. math:: m_t = \sum_{j=2}^t n/N_j \quad\text{(additive)}, \qquad
        m_t = \prod_{j=2}^t \bigl[1 + (c-1)\,n/N_j\bigr] \quad\text{(factor c, real 1)}, \qquad N_j = n_0 + (j-1)n

    Args:
        t: Number of fits, at least 1.
        probe: The deterministic model.
        n: Synthetic points added per generation, at least 1.
        n0: Real points, at least 1; n if None.

    Returns:
        The fitted value :math:`m_t`.

    Raises:
        ValueError: If a count is below its range.
    """
    check_count("n", n, 1)
    return accumulate_fresh_probe(t, probe, n_real=0, n_synthetic=n, n0=n if n0 is None else n0)


def accumulate_fresh_probe(t: int, probe: Probe, *, n_real: int, n_synthetic: int, n0: int) -> float:
    r"""Fitted value when every generation adds fresh real points and synthetic points to the pool.

    .. math:: m_t = \bigl[N_{t-1}m_{t-1} + n_r x + n_s(c\,m_{t-1} + b)\bigr] / N_t, \qquad N_t = n_0 + (t-1)(n_r + n_s)

    with x, c, b the real value, factor and shift of the probe.

    Args:
        t: Number of fits, at least 1.
        probe: The deterministic model.
        n_real: Fresh real points added per generation, at least 0.
        n_synthetic: Synthetic points added per generation, at least 0.
        n0: Real points of the first fit, at least 1.

    Returns:
        The fitted value :math:`m_t`.

    Raises:
        ValueError: If a count is below its range.
    """
    _check_counts(t, n_real, n_synthetic)
    check_count("n0", n0, 1)
    fit, pool = probe.real, n0
    for _ in range(t - 1):
        total = pool * fit + n_real * probe.real + n_synthetic * probe.emit(fit)
        pool += n_real + n_synthetic
        fit = total / pool
    return fit


def real_fraction_probe(t: int, probe: Probe, *, n_real: int, n_synthetic: int) -> float:
    r"""Fitted value when every fit after the first sees real and synthetic points in a fixed proportion.

    .. math:: m_t = \rho\,\frac{1-\rho^{t-1}}{1-\rho} \quad\text{(additive)}, \qquad
        m_t = (\rho c)^{t-1} + (1-\rho)\frac{1-(\rho c)^{t-1}}{1-\rho c} \quad\text{(factor c, real 1)}

    with :math:`\rho = n_s/(n_r+n_s)`. The same whether the real points are fresh, anchors or redrawn, and whatever
    the number of points of the first fit. The additive probe tends to :math:`\rho/(1-\rho)`.

    Args:
        t: Number of fits, at least 1.
        probe: The deterministic model.
        n_real: Real points per fit, at least 0.
        n_synthetic: Synthetic points per fit, at least 0; the two together at least 1.

    Returns:
        The fitted value :math:`m_t`.

    Raises:
        ValueError: If a count is below its range.
    """
    _check_counts(t, n_real, n_synthetic)
    rho = n_synthetic / (n_real + n_synthetic)
    fit = probe.real
    for _ in range(t - 1):
        fit = (1 - rho) * probe.real + rho * probe.emit(fit)
    return fit


def subsample_real_count(t: int, *, n: int, size: int, n0: int | None = None) -> CountMoments:
    r"""Number of real points in a subsample of the accumulated pool, drawn without replacement.

    .. math:: \mathbb{E} = b\,\frac{n_0}{N}, \qquad
        \operatorname{Var} = b\,\frac{n_0}{N}\Bigl(1 - \frac{n_0}{N}\Bigr)\frac{N-b}{N-1}, \qquad N = n_0 + (t-1)n

    Args:
        t: Number of fits, at least 1; fit t sees a pool with t - 1 synthetic generations.
        n: Synthetic points added per generation, at least 1.
        size: Size b of the subsample, in 1 to N.
        n0: Real points, at least 2; n if None.

    Returns:
        Mean and variance of the hypergeometric count.

    Raises:
        ValueError: If a count is out of its range.
    """
    n0 = n if n0 is None else n0
    _check_counts(t, n0, n)
    check_count("n0", n0, 2)
    pool = n0 + (t - 1) * n
    if not 1 <= size <= pool:
        raise ValueError(f"size must lie in [1, {pool}], the size of the pool at fit {t}, got {size}")
    share = n0 / pool
    return CountMoments(size * share, size * share * (1 - share) * (pool - size) / (pool - 1))


def _check_counts(t: int, n_real: int, n_synthetic: int) -> None:
    check_count("t", t, 1)
    check_count("n_real", n_real, 0)
    check_count("n_synthetic", n_synthetic, 0)
    check_count("n_real + n_synthetic", n_real + n_synthetic, 1)
