r"""Categorical chains: frequencies, refitted to draws from the frequencies before. Wright-Fisher drift, in other words.

Model t is :math:`p_t`, the relative frequencies of n draws of :math:`p_{t-1}`; the first fit sees n draws of the real
law :math:`p_0`. ``replace`` holds the moments of that chain, with and without smoothing, ``wright_fisher`` its exact
laws of lost categories, entropy and absorption; ``accumulate`` and ``mixing`` the other regimes; ``first_fit`` sums for
large vocabularies and Zipf's law.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* The measure of diversity is the heterozygosity :math:`H = 1 - \sum_i p_i^2`; :math:`\sum_i p_i^2` is one minus it.
* A context-free language model is this chain; so is each row of a bigram model whose context is visited a *fixed*
  number of times per generation. In a free-running bigram model the visits depend on the rows: an approximation.
* The weights of a mixture model with well separated components follow the same laws: a component dies as a category
  does, n being the points of a fit.

References:
    Chain: Ewens, "Mathematical Population Genetics", 2nd edition, 2004. As model collapse: Shumailov et al., "AI models
    collapse when trained on recursively generated data", 2024. arXiv:2305.17493. Seddik et al., "How Bad is Training on
    Synthetic Data?", 2024. arXiv:2404.05090.
"""

from collapse.theory.categorical.accumulate import (
    SubsampleHeterozygosity,
    accumulate_expected_heterozygosity,
    accumulate_expected_l2,
    accumulate_expected_support,
    accumulate_limit_heterozygosity,
    accumulate_probability_variance,
    accumulate_subsample_expected_heterozygosity,
)
from collapse.theory.categorical.first_fit import (
    first_fit_expected_missing_mass,
    first_fit_expected_support,
    zipf_asymptotic_missing_mass,
    zipf_asymptotic_support,
    zipf_probabilities,
)
from collapse.theory.categorical.mixing import (
    independent_mixture_expected_heterozygosity,
    independent_mixture_stationary_heterozygosity,
    real_fraction_expected_heterozygosity,
    real_fraction_stationary_heterozygosity,
)
from collapse.theory.categorical.replace import (
    heterozygosity,
    replace_expected_heterozygosity,
    replace_expected_l2,
    replace_probability_variance,
    smoothing_expected_heterozygosity,
    smoothing_expected_probabilities,
    smoothing_stationary_heterozygosity,
)
from collapse.theory.categorical.wright_fisher import (
    replace_diffusion_absorption_time,
    replace_expected_absorption_time,
    replace_expected_entropy,
    replace_expected_forgotten_mass,
    replace_expected_reverse_kl,
    replace_expected_support,
    replace_extinction_probabilities,
)

__all__ = [
    # replace
    "heterozygosity",
    "replace_expected_heterozygosity",
    "replace_probability_variance",
    "replace_expected_l2",
    "smoothing_expected_probabilities",
    "smoothing_expected_heterozygosity",
    "smoothing_stationary_heterozygosity",
    # wright_fisher
    "replace_extinction_probabilities",
    "replace_expected_support",
    "replace_expected_forgotten_mass",
    "replace_expected_entropy",
    "replace_expected_reverse_kl",
    "replace_expected_absorption_time",
    "replace_diffusion_absorption_time",
    # accumulate
    "SubsampleHeterozygosity",
    "accumulate_expected_heterozygosity",
    "accumulate_limit_heterozygosity",
    "accumulate_probability_variance",
    "accumulate_expected_l2",
    "accumulate_expected_support",
    "accumulate_subsample_expected_heterozygosity",
    # mixing
    "real_fraction_expected_heterozygosity",
    "real_fraction_stationary_heterozygosity",
    "independent_mixture_expected_heterozygosity",
    "independent_mixture_stationary_heterozygosity",
    # first_fit
    "first_fit_expected_support",
    "first_fit_expected_missing_mass",
    "zipf_probabilities",
    "zipf_asymptotic_support",
    "zipf_asymptotic_missing_mass",
]
