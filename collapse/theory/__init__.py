"""Closed forms of recursive training: oracles of the tests, overlays of the plots.

A law is named by its regime, then by its quantity: ``replace_expected_variance``, ``accumulate_expected_w2``,
``real_fraction_moments``. Everywhere t counts model fits, so the generation index of the framework is t - 1.
"""

from collapse.theory.gaussian import (
    replace_expected_std,
    replace_expected_variance,
    replace_expected_w2,
    replace_marginal_variance,
    replace_mean_covariance,
    replace_mean_variance,
    replace_variance_of_variance,
)
from collapse.theory.gaussian_accumulate import (
    accumulate_expected_log_variance,
    accumulate_expected_std,
    accumulate_expected_variance,
    accumulate_expected_w2,
    accumulate_limit_mean_square_error,
    accumulate_limit_variance,
    accumulate_mean_square_error,
    accumulate_variance_of_variance,
)
from collapse.theory.gaussian_log import (
    replace_critical_multiplier,
    replace_expected_log_variance,
    replace_expected_test_nll,
    replace_log_variance_rate,
    replace_log_variance_variance,
    replace_median_variance,
)
from collapse.theory.gaussian_mixing import (
    Moments,
    SubsampleMoments,
    accumulate_fresh_moments,
    accumulate_subsample_moments,
    real_fraction_contraction,
    real_fraction_moments,
    real_fraction_stationary_moments,
)
from collapse.theory.gaussian_multivariate import (
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
from collapse.theory.probes import (
    ADDITIVE,
    CountMoments,
    Probe,
    accumulate_fresh_probe,
    accumulate_probe,
    real_fraction_probe,
    replace_probe,
    subsample_real_count,
)

__all__ = [
    # probes
    "Probe",
    "ADDITIVE",
    "CountMoments",
    "replace_probe",
    "accumulate_probe",
    "accumulate_fresh_probe",
    "real_fraction_probe",
    "subsample_real_count",
    # gaussian
    "replace_mean_variance",
    "replace_mean_covariance",
    "replace_expected_variance",
    "replace_variance_of_variance",
    "replace_expected_std",
    "replace_marginal_variance",
    "replace_expected_w2",
    # gaussian_log
    "replace_log_variance_rate",
    "replace_critical_multiplier",
    "replace_expected_log_variance",
    "replace_log_variance_variance",
    "replace_median_variance",
    "replace_expected_test_nll",
    # gaussian_multivariate
    "TraceMoments",
    "Bounds",
    "replace_mean_square_error",
    "replace_trace_moments",
    "replace_log_eigenvalue_rates",
    "replace_expected_logdet",
    "replace_expected_det",
    "replace_w2_bounds",
    "replace_expected_w2_bivariate_first_fit",
    # gaussian_accumulate
    "accumulate_mean_square_error",
    "accumulate_expected_variance",
    "accumulate_variance_of_variance",
    "accumulate_expected_log_variance",
    "accumulate_expected_std",
    "accumulate_expected_w2",
    "accumulate_limit_variance",
    "accumulate_limit_mean_square_error",
    # gaussian_mixing
    "Moments",
    "SubsampleMoments",
    "accumulate_subsample_moments",
    "accumulate_fresh_moments",
    "real_fraction_moments",
    "real_fraction_stationary_moments",
    "real_fraction_contraction",
]
