"""Gaussian chains: a mean and a variance, refitted to the draws of the fit before, regime by regime.

``replace`` and ``logarithm`` hold the laws of the chain without real points, ``multivariate`` those in D dimensions,
``accumulate`` those of a growing pool, ``mixing`` those of every other mixture of real and synthetic points;
``weighting`` and ``known_variance`` those of chains that fit the mean only. t counts model fits.
"""

from collapse.theory.gaussian.accumulate import (
    accumulate_expected_log_variance,
    accumulate_expected_std,
    accumulate_expected_w2,
    accumulate_limit_mean_square_error,
    accumulate_limit_variance,
    accumulate_mean_square_error,
    accumulate_variance,
    accumulate_variance_of_variance,
)
from collapse.theory.gaussian.known_variance import (
    Pathways,
    accumulate_known_variance_mean_square_error,
    accumulate_subsample_known_variance_mean_square_error,
    pathways,
    replace_known_variance_mean_square_error,
)
from collapse.theory.gaussian.logarithm import (
    replace_critical_multiplier,
    replace_expected_log_variance,
    replace_expected_test_nll,
    replace_log_variance_rate,
    replace_log_variance_variance,
    replace_median_variance,
)
from collapse.theory.gaussian.mixing import (
    Moments,
    SubsampleMoments,
    accumulate_fresh_moments,
    accumulate_subsample_moments,
    real_fraction_contraction,
    real_fraction_moments,
    real_fraction_stationary_moments,
)
from collapse.theory.gaussian.multivariate import (
    Bounds,
    TraceMoments,
    replace_expected_det,
    replace_expected_logdet,
    replace_expected_w2_bivariate_first_fit,
    replace_log_eigenvalue_rates,
    replace_mean_square_error,
    replace_trace_moments,
    replace_w2_bounds,
)
from collapse.theory.gaussian.replace import (
    replace_expected_std,
    replace_expected_w2,
    replace_marginal_variance,
    replace_mean_covariance,
    replace_mean_variance,
    replace_variance,
    replace_variance_of_variance,
)
from collapse.theory.gaussian.weighting import (
    optimal_real_weight,
    weighted_mean_square_error,
    weighted_minimal_mean_square_error,
    weighted_stationary_mean_square_error,
)

__all__ = [
    # replace
    "replace_mean_variance",
    "replace_mean_covariance",
    "replace_variance",
    "replace_variance_of_variance",
    "replace_expected_std",
    "replace_marginal_variance",
    "replace_expected_w2",
    # logarithm
    "replace_log_variance_rate",
    "replace_critical_multiplier",
    "replace_expected_log_variance",
    "replace_log_variance_variance",
    "replace_median_variance",
    "replace_expected_test_nll",
    # multivariate
    "TraceMoments",
    "Bounds",
    "replace_mean_square_error",
    "replace_trace_moments",
    "replace_log_eigenvalue_rates",
    "replace_expected_logdet",
    "replace_expected_det",
    "replace_w2_bounds",
    "replace_expected_w2_bivariate_first_fit",
    # accumulate
    "accumulate_mean_square_error",
    "accumulate_variance",
    "accumulate_variance_of_variance",
    "accumulate_expected_log_variance",
    "accumulate_expected_std",
    "accumulate_expected_w2",
    "accumulate_limit_variance",
    "accumulate_limit_mean_square_error",
    # mixing
    "Moments",
    "SubsampleMoments",
    "accumulate_subsample_moments",
    "accumulate_fresh_moments",
    "real_fraction_moments",
    "real_fraction_stationary_moments",
    "real_fraction_contraction",
    # weighting
    "weighted_mean_square_error",
    "weighted_stationary_mean_square_error",
    "weighted_minimal_mean_square_error",
    "optimal_real_weight",
    # known_variance
    "Pathways",
    "pathways",
    "replace_known_variance_mean_square_error",
    "accumulate_known_variance_mean_square_error",
    "accumulate_subsample_known_variance_mean_square_error",
]
