r"""Laws of linear regression on its own labels: excess error of ordinary least squares, ridge and minimum norm.

Rows x are :math:`N(0, I_d)`, real labels :math:`y = x^\top w^\ast + \varepsilon`, synthetic labels
:math:`y = x^\top w_{t-1} + \varepsilon`, with :math:`\varepsilon\sim N(0, \sigma^2)`. Every law is the expected excess
error

.. math:: E_t = \mathbb{E}\lVert w_t - w^\ast\rVert^2,

which is the test error above :math:`\sigma^2`. For features of any other full-rank covariance S least squares has the
same values in the norm of S; ridge and minimum norm do not.

* t counts model fits: t = 1 is the fit on real labels only, so the generation index of the framework is t - 1.
  Gerstgrasser et al. count as here; Dohmatob et al. count synthetic generations, one less.
* Least squares has a finite error from d + 2 rows on; its variance over chains asks for d + 10 or so.
* "Same design" keeps the rows x of the real data and relabels them, "fresh design" draws new ones.

References:
    Dohmatob, Feng and Kempe, "Model Collapse Demystified: The Case of Regression", 2024. arXiv:2402.07712 (replace,
    ridge, minimum norm). Gerstgrasser et al., "Is Model Collapse Inevitable?", 2024. arXiv:2404.01413 (accumulate).
    The closed forms follow from the moments of Wishart and matrix beta distributions.
"""

from collapse.theory.regression.accumulate import (
    accumulate_fresh_design_excess_error,
    accumulate_fresh_design_limit_excess_error,
    accumulate_same_design_excess_error,
    accumulate_same_design_limit_excess_error,
)
from collapse.theory.regression.mixing import (
    real_fraction_contraction,
    real_fraction_excess_error,
    real_fraction_stationary_excess_error,
)
from collapse.theory.regression.replace import (
    replace_excess_error,
    replace_minimum_norm_excess_error,
    replace_ridge_excess_error,
)

__all__ = [
    # replace
    "replace_excess_error",
    "replace_ridge_excess_error",
    "replace_minimum_norm_excess_error",
    # accumulate
    "accumulate_same_design_excess_error",
    "accumulate_fresh_design_excess_error",
    "accumulate_same_design_limit_excess_error",
    "accumulate_fresh_design_limit_excess_error",
    # mixing
    "real_fraction_excess_error",
    "real_fraction_stationary_excess_error",
    "real_fraction_contraction",
]
