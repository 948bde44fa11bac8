"""Metrics of collapse: pure functions of a reference set and a generated set of features.

This namespace is the registry: a metric exists for configuration, tests and tables by being exported here.
"""

from collapse.metrics.diversity import class_histogram, coverage, recall, total_variation, variance_ratio
from collapse.metrics.features import ClassifierFeatures, FeatureExtractor, IdentityFeatures, RandomConvFeatures
from collapse.metrics.fidelity import density, frechet_distance, precision
from collapse.metrics.metric import Metric
from collapse.metrics.neighbors import neighborhood_profile

__all__ = [
    "Metric",
    "METRICS",
    # fidelity
    "frechet_distance",
    "precision",
    "density",
    # diversity
    "recall",
    "coverage",
    "variance_ratio",
    "class_histogram",
    "total_variation",
    # both, from one pass
    "neighborhood_profile",
    # feature spaces
    "FeatureExtractor",
    "IdentityFeatures",
    "RandomConvFeatures",
    "ClassifierFeatures",
]

METRICS: tuple[Metric, ...] = (
    Metric("frechet_distance", frechet_distance, "fidelity", False, "Heusel et al., 2017. arXiv:1706.08500"),
    Metric("precision", precision, "fidelity", True, "Kynkäänniemi et al., 2019. arXiv:1904.06991"),
    Metric("density", density, "fidelity", True, "Naeem et al., 2020. arXiv:2002.09797"),
    Metric("recall", recall, "diversity", True, "Kynkäänniemi et al., 2019. arXiv:1904.06991"),
    Metric("coverage", coverage, "diversity", True, "Naeem et al., 2020. arXiv:2002.09797"),
    Metric("variance_ratio", variance_ratio, "diversity", True, "Shumailov et al., 2024. arXiv:2305.17493"),
)
