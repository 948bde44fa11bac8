"""Closed forms of recursive training: oracles of the tests, overlays of the plots.

A law is addressed by what is fitted, then by its regime and its quantity: ``gaussian.replace_variance``,
``regression.accumulate_fresh_design_excess_error``, ``categorical.replace_expected_support``. Everywhere t counts model
fits, so the generation index of the framework is t - 1. The probes, which fit nothing random, are here themselves.
"""

from collapse.theory import categorical, diffusion, gaussian, kde, metric_laws, regression, stability
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
    # families of laws
    "gaussian",
    "regression",
    "categorical",
    "kde",
    "stability",
    "diffusion",
    "metric_laws",
    # probes
    "Probe",
    "ADDITIVE",
    "CountMoments",
    "replace_probe",
    "accumulate_probe",
    "accumulate_fresh_probe",
    "real_fraction_probe",
    "subsample_real_count",
]
