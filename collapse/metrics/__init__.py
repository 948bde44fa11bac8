"""Metrics of collapse: pure functions of a reference set and a generated set of features.

This namespace is the registry: a metric exists for configuration, tests and tables by being exported here. ``METRICS``
lists those that compare a generated set with a reference set of features, ``TEXT_METRICS`` those of token rows; the
others describe one set, a law or a corpus.
"""

from functools import partial

from collapse.metrics.conformal import Outlyingness, conformal_outliers
from collapse.metrics.diversity import class_histogram, coverage, recall, total_variation, variance_ratio
from collapse.metrics.entropy import entropy, hill_number
from collapse.metrics.features import ClassifierFeatures, FeatureExtractor, IdentityFeatures, RandomConvFeatures
from collapse.metrics.fidelity import density, frechet_distance, precision
from collapse.metrics.gaussians import gaussian_frechet, kl_gaussian
from collapse.metrics.incoming import Finding, IncomingReport, check_incoming
from collapse.metrics.kernels import median_bandwidth, mmd2
from collapse.metrics.metric import Metric
from collapse.metrics.neighbors import neighborhood_profile
from collapse.metrics.ngrams import (
    distinct_ngrams,
    ngram_coverage,
    ngram_entropy,
    ngram_variation,
    rare_ngram_mass,
    repetition,
)
from collapse.metrics.normality import bhep, epps_pulley, random_directions, sliced_epps_pulley
from collapse.metrics.ranks import effective_rank, participation_ratio, rankme, stable_rank
from collapse.metrics.tails import gaussian_tail_mass, tail_mass, tail_recall
from collapse.metrics.text import distinct_n, perplexity, self_bleu
from collapse.metrics.transport import gaussian_sliced_wasserstein, sliced_wasserstein, wasserstein_1d
from collapse.metrics.vendi import cosine_vendi_score, vendi_score

__all__ = [
    "Metric",
    "METRICS",
    "TEXT_METRICS",
    # fidelity
    "frechet_distance",
    "sliced_wasserstein",
    "mmd2",
    "median_bandwidth",
    "precision",
    "density",
    # diversity
    "recall",
    "coverage",
    "variance_ratio",
    "vendi_score",
    "cosine_vendi_score",
    "class_histogram",
    "total_variation",
    "entropy",
    "hill_number",
    # both, from one pass
    "neighborhood_profile",
    # tails
    "tail_mass",
    "tail_recall",
    # dimensions in use
    "rankme",
    "effective_rank",
    "participation_ratio",
    "stable_rank",
    # lines
    "wasserstein_1d",
    "epps_pulley",
    "sliced_epps_pulley",
    "bhep",
    "random_directions",
    # Gaussians, from their moments
    "gaussian_frechet",
    "kl_gaussian",
    "gaussian_sliced_wasserstein",
    "gaussian_tail_mass",
    # could these rows be real?
    "conformal_outliers",
    "Outlyingness",
    "check_incoming",
    "IncomingReport",
    "Finding",
    # text
    "perplexity",
    "distinct_n",
    "self_bleu",
    "ngram_entropy",
    "distinct_ngrams",
    "repetition",
    "ngram_coverage",
    "ngram_variation",
    "rare_ngram_mass",
    # feature spaces
    "FeatureExtractor",
    "IdentityFeatures",
    "RandomConvFeatures",
    "ClassifierFeatures",
]

METRICS: tuple[Metric, ...] = (
    Metric("frechet_distance", frechet_distance, "fidelity", False, "Heusel et al., 2017. arXiv:1706.08500"),
    Metric("sliced_wasserstein", sliced_wasserstein, "fidelity", False, "Bonneel et al., 2015. JMIV 51"),
    Metric("mmd2", mmd2, "fidelity", False, "Gretton et al., 2012. JMLR 13"),
    Metric("precision", precision, "fidelity", True, "Kynkäänniemi et al., 2019. arXiv:1904.06991"),
    Metric("density", density, "fidelity", True, "Naeem et al., 2020. arXiv:2002.09797"),
    Metric("recall", recall, "diversity", True, "Kynkäänniemi et al., 2019. arXiv:1904.06991"),
    Metric("coverage", coverage, "diversity", True, "Naeem et al., 2020. arXiv:2002.09797"),
    Metric("variance_ratio", variance_ratio, "diversity", True, "Shumailov et al., 2024. arXiv:2305.17493"),
    Metric("tail_mass", tail_mass, "tails", True, "Shumailov et al., 2024. arXiv:2305.17493"),
    Metric("tail_recall", tail_recall, "tails", True, "Kynkäänniemi et al., 2019. arXiv:1904.06991"),
)

_LI, _MILLER = "Li et al., 2016. arXiv:1510.03055", "Miller, 1955"
_WELLECK, _SHUMAILOV = "Welleck et al., 2020. arXiv:1908.04319", "Shumailov et al., 2024. arXiv:2305.17493"

TEXT_METRICS: tuple[Metric, ...] = (
    Metric("token_total_variation", partial(ngram_variation, n=1), "fidelity", False, _SHUMAILOV),
    Metric("unigram_entropy", partial(ngram_entropy, n=1), "diversity", True, _MILLER),
    Metric("bigram_entropy", partial(ngram_entropy, n=2), "diversity", True, _MILLER),
    Metric("distinct_1", partial(distinct_ngrams, n=1), "diversity", True, _LI),
    Metric("distinct_2", partial(distinct_ngrams, n=2), "diversity", True, _LI),
    Metric("repetition_4", partial(repetition, n=4), "diversity", False, _WELLECK),
    Metric("vocabulary_coverage", partial(ngram_coverage, n=1), "tails", True, _SHUMAILOV),
    Metric("bigram_coverage", partial(ngram_coverage, n=2), "tails", True, _SHUMAILOV),
    Metric("rare_token_mass", partial(rare_ngram_mass, n=1), "tails", True, _SHUMAILOV),
)
