"""The laws of categorical chains against a table of simulated values and against exact small chains.

Values are printed with seven significant digits, so the relative tolerance is 1e-6. Row names are those of the table.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from collapse.theory import categorical

P = (0.4, 0.3, 0.2, 0.1)


def near(expected):
    return pytest.approx(expected, rel=1e-6, abs=0)


def first(law):
    return lambda *args, **options: law(*args, **options)[0]


def last(law):
    return lambda *args, **options: law(*args, **options)[-1]


C1 = {"t": 10, "n": 20, "probabilities": P}
C2 = {"n": 20, "pseudocount": 0.5}
C3 = {"n_real": 5, "n_synthetic": 15, "probabilities": P}
C3_IID = {"n": 20, "real_fraction": 0.25, "probabilities": P}
ANCHORS = {"dataset_size": 5}
C7 = {"n": 1000, "probabilities": categorical.zipf_probabilities(20_000, exponent=1.5)}
ASYMPTOTE = {"n": 1000, "categories": 20_000, "exponent": 1.5}
X1 = {"t": 8, "n": 30, "probabilities": (0.5, 0.3, 0.2)}
FRACTION = categorical.real_fraction_expected_heterozygosity
STATIONARY = categorical.real_fraction_stationary_heterozygosity
ABSORPTION = categorical.replace_expected_absorption_time
DIFFUSION = categorical.replace_diffusion_absorption_time
ROWS = {
    "C1.heterozygosity": (categorical.replace_expected_heterozygosity, C1, 0.4191159),
    "C1.l2": (categorical.replace_expected_l2, C1, 0.2808841),
    "C1.variance": (first(categorical.replace_probability_variance), C1, 0.09630313),
    "C1.support": (categorical.replace_expected_support, C1, 2.438989),
    "C1.forgotten": (categorical.replace_expected_forgotten_mass, C1, 0.3055328),
    "C1.extinct": (last(categorical.replace_extinction_probabilities), C1, 0.6757925),
    "C1.entropy": (categorical.replace_expected_entropy, C1, 0.6761011),
    "C1.reverse_kl": (categorical.replace_expected_reverse_kl, C1, 0.6037531),
    "C2.heterozygosity": (categorical.smoothing_expected_heterozygosity, C1 | C2, 0.6141556),
    "C2.probability": (first(categorical.smoothing_expected_probabilities), C1 | C2, 0.3078315),
    "C2.stat": (categorical.smoothing_stationary_heterozygosity, C2 | {"categories": 4}, 0.6057692),
    "C3.fresh": (FRACTION, C3 | {"t": 10, "n_first": 5}, 0.6261149),
    "C3.fresh.stat": (STATIONARY, C3, 0.6263158),
    "C3.anchor": (FRACTION, C3 | ANCHORS | {"t": 10, "n_first": 5}, 0.5159234),
    "C3.anchor.stat": (STATIONARY, C3 | ANCHORS, 0.5157895),
    "C3.iid": (categorical.independent_mixture_expected_heterozygosity, C3_IID | {"t": 10}, 0.6249749),
    "C3.iid.stat": (categorical.independent_mixture_stationary_heterozygosity, C3_IID, 0.6248322),
    "C4.heterozygosity": (categorical.accumulate_expected_heterozygosity, C1, 0.6469024),
    "C4.variance": (first(categorical.accumulate_probability_variance), C1, 0.0182049),
    "C4.support": (categorical.accumulate_expected_support, C1, 3.86606),
    "C4.l2": (categorical.accumulate_expected_l2, C1, 0.05309763),
    "C5.model": (first(categorical.accumulate_subsample_expected_heterozygosity), C1 | {"size": 20}, 0.6117074),
    "C5.pool": (last(categorical.accumulate_subsample_expected_heterozygosity), C1 | {"size": 20}, 0.640683),
    "C6.1": (ABSORPTION, {"n": 20, "probabilities": (10 / 20, 10 / 20)}, 26.22949),
    "C6.1.diffusion": (DIFFUSION, {"n": 20, "probabilities": (10 / 20, 10 / 20)}, 27.725887),
    "C6.2": (ABSORPTION, {"n": 20, "probabilities": (2 / 20, 18 / 20)}, 11.98066),
    "C6.2.diffusion": (DIFFUSION, {"n": 20, "probabilities": (2 / 20, 18 / 20)}, 13.003319),
    "C7.support": (categorical.first_fit_expected_support, C7, 135.8189),
    "C7.missing": (categorical.first_fit_expected_missing_mass, C7, 0.08903358),
    "C7.support.asymptote": (categorical.zipf_asymptotic_support, ASYMPTOTE, 141.74594),
    "C7.missing.asymptote": (categorical.zipf_asymptotic_missing_mass, ASYMPTOTE, 0.094497297),
    "X1.heterozygosity": (categorical.replace_expected_heterozygosity, X1, 0.4727218),
    "X1.support": (categorical.replace_expected_support, X1, 2.638206),
    "X1.extinct": (last(categorical.replace_extinction_probabilities), X1, 0.2397654),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows(row):
    law, options, expected = ROWS[row]
    assert law(**options) == near(expected)


def test_sum_of_squares_row():  # C1: F = 1 - H
    assert 1 - categorical.replace_expected_heterozygosity(**C1) == near(0.5808841)


def test_published_setting():  # Kazdan et al.: ten equal categories, 100 draws
    uniform = np.full(10, 0.1)
    series = 200 * math.fsum((1 - 10 ** (1 - j)) / (j * (j - 1)) for j in range(2, 2_000_000))
    assert DIFFUSION(100, probabilities=uniform) == near(series)
    assert DIFFUSION(100, probabilities=uniform) == pytest.approx(189.6, abs=0.05)
    assert ABSORPTION(100, probabilities=uniform) == pytest.approx(187.43, abs=0.005)  # inside 189.3 ± 1.9 simulated
    assert categorical.replace_expected_heterozygosity(100, 100, probabilities=uniform) == pytest.approx(
        0.3294, abs=5e-5
    )


@pytest.mark.parametrize(("beta", "missing", "support"), [(1.5, -0.3351, 0.6666), (2.0, -0.4999, 0.5034)])
def test_power_laws_of_a_large_vocabulary(beta, missing, support):
    """Local exponents between 10³ and 10⁴ draws; -(1 - 1/β) and 1/β in the limit."""
    p = categorical.zipf_probabilities(5_000_000, exponent=beta)

    def exponent(law):
        return math.log10(law(10_000, probabilities=p) / law(1000, probabilities=p))

    assert exponent(categorical.first_fit_expected_missing_mass) == pytest.approx(missing, abs=5e-5)
    assert exponent(categorical.first_fit_expected_support) == pytest.approx(support, abs=5e-5)
    for exact, asymptote in [
        (categorical.first_fit_expected_missing_mass, categorical.zipf_asymptotic_missing_mass),
        (categorical.first_fit_expected_support, categorical.zipf_asymptotic_support),
    ]:
        value = asymptote(10_000, categories=5_000_000, exponent=beta)
        assert 0.97 * value < exact(10_000, probabilities=p) < value  # from below


# --- replace and smoothing: the whole chain on the counts of three categories ---------------------------------------

N = 4
REAL = np.array([0.55, 0.3, 0.15])
COUNTS = np.array([c for c in itertools.product(range(N + 1), repeat=3) if sum(c) == N])


def laws_of_counts(t, pseudocount=0.0):
    """Frequencies of every state of a chain with n = 4, (15, 3), and the exact law of fit t over them."""
    fits = (COUNTS + pseudocount) / (N + 3 * pseudocount)
    law = stats.multinomial(N, REAL).pmf(COUNTS)
    step = np.array([stats.multinomial(N, fit / fit.sum()).pmf(COUNTS) for fit in fits])
    for _ in range(t - 1):
        law = law @ step
    return fits, law


STATISTICS = {  # of frequencies (S, 3)
    categorical.replace_expected_heterozygosity: lambda p: 1 - np.sum(p**2, 1),
    categorical.replace_expected_l2: lambda p: np.sum((p - REAL) ** 2, 1),
    categorical.replace_probability_variance: lambda p: (p - REAL) ** 2,
    categorical.replace_extinction_probabilities: lambda p: p == 0,
    categorical.replace_expected_support: lambda p: np.sum(p > 0, 1),
    categorical.replace_expected_forgotten_mass: lambda p: (p == 0) @ REAL,
    categorical.replace_expected_entropy: lambda p: stats.entropy(p, axis=1),
    categorical.replace_expected_reverse_kl: lambda p: stats.entropy(p, REAL, axis=1),
}


@pytest.mark.parametrize("t", [1, 2, 7])
@pytest.mark.parametrize("law", STATISTICS, ids=lambda law: law.__name__)
def test_replace_is_the_chain_on_counts(law, t):
    fits, weights = laws_of_counts(t)
    exact = np.tensordot(weights, STATISTICS[law](fits), 1)
    assert law(t, N, probabilities=REAL) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("pseudocount", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("t", [1, 2, 7])
def test_smoothing_is_the_chain_on_counts(t, pseudocount):
    fits, weights = laws_of_counts(t, pseudocount)
    options = {"probabilities": REAL, "pseudocount": pseudocount}
    assert categorical.smoothing_expected_probabilities(t, N, **options) == pytest.approx(weights @ fits, rel=1e-12)
    assert categorical.smoothing_expected_heterozygosity(t, N, **options) == pytest.approx(
        weights @ (1 - np.sum(fits**2, 1)), rel=1e-12
    )


def test_smoothing_forgets_the_real_law():
    late = categorical.smoothing_expected_heterozygosity(2000, 50, probabilities=P, pseudocount=0.1)
    assert late == near(categorical.smoothing_stationary_heterozygosity(50, categories=4, pseudocount=0.1))
    assert categorical.smoothing_stationary_heterozygosity(50, categories=4, pseudocount=0.0) == 0
    one = categorical.smoothing_stationary_heterozygosity(1, categories=2, pseudocount=0.5)
    assert one == near(0.375)  # every fit to one draw is (3/4, 1/4) or (1/4, 3/4)


def test_absorption_is_that_of_the_chain_on_counts():
    fits, weights = laws_of_counts(1)
    open_ = fits.max(1) < 1
    step = np.array([stats.multinomial(N, fit).pmf(COUNTS) for fit in fits[open_]])[:, open_]
    exact = 1 + weights[open_] @ np.linalg.solve(np.eye(len(step)) - step, np.ones(len(step)))
    assert ABSORPTION(N, probabilities=REAL) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("n", [2, 9])
def test_absorption_of_two_categories_is_the_first_step_equation(n):
    x = np.arange(1, n)
    inner = stats.binom.pmf(x, n, x[:, None] / n)
    times = np.linalg.solve(np.eye(n - 1) - inner, np.ones(n - 1))
    assert [ABSORPTION(n, probabilities=(k / n, 1 - k / n)) for k in x] == pytest.approx(times, rel=1e-12)


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_diffusion_takes_one_to_three_fits_too_long(n):
    excess = DIFFUSION(n, probabilities=P) - ABSORPTION(n, probabilities=P)
    assert 1 < excess < 3.5


def test_decided_chains():
    assert ABSORPTION(7, probabilities=(0, 1, 0)) == 0
    assert DIFFUSION(7, probabilities=(0, 1, 0)) == 0
    assert ABSORPTION(1, probabilities=P) == 1
    assert categorical.replace_expected_heterozygosity(1, 1, probabilities=P) == 0
    assert categorical.replace_extinction_probabilities(3, 7, probabilities=(0, 1)) == pytest.approx([1, 0], abs=1e-14)
    assert categorical.replace_expected_entropy(3, 7, probabilities=(0, 1)) == pytest.approx(0, abs=1e-14)
    assert categorical.first_fit_expected_support(7, probabilities=(0, 1)) == 1
    assert categorical.first_fit_expected_missing_mass(7, probabilities=(0, 1)) == 0
    assert categorical.accumulate_limit_heterozygosity(7, probabilities=(0, 1)) == 0


def test_smallest_fits():
    assert categorical.replace_expected_heterozygosity(3, 2, probabilities=P) == near(0.7 / 8)
    assert categorical.first_fit_expected_support(1, probabilities=P) == near(1)
    assert categorical.first_fit_expected_missing_mass(1, probabilities=P) == near(0.7)
    assert categorical.zipf_asymptotic_support(1, categories=1, exponent=2.0) == near(math.sqrt(math.pi))
    weights = np.sqrt([36, 18, 12])
    assert categorical.zipf_probabilities(3, exponent=0.5) == near(weights / weights.sum())


def test_binomial_coefficients_beyond_float64():
    """n = 1200 overflows them; two fits by hand: a category that had k of n is missed with (1 - k/n)^n."""
    k = np.arange(1201)
    exact = stats.binom.pmf(k, 1200, 0.002) @ (1 - k / 1200) ** 1200
    assert categorical.replace_extinction_probabilities(2, 1200, probabilities=(0.002, 0.998))[0] == near(exact)


def test_many_categories_are_taken_in_chunks():
    """9000 different probabilities of 501 counts do not fit one chunk; order and repeats survive the split."""
    p = categorical.zipf_probabilities(9000, exponent=1.1)
    p = np.concatenate([p[::-1], p]) / 2
    assert categorical.replace_extinction_probabilities(1, 500, probabilities=p) == near((1 - p) ** 500)


# --- the other regimes: whole chains on the number of draws of one of two categories ---------------------------------

Q = 0.3
HALVES = (Q, 1 - Q)


def binomial(n, p):
    """Law of the count of n draws as pairs of a count and its probability."""
    return [(k, float(stats.binom.pmf(k, n, p))) for k in range(n + 1)] if n else [(0, 1.0)]


def taken(pool, hits, size):
    """Law of the hits among a sample without replacement."""
    return [(k, float(stats.hypergeom.pmf(k, pool, hits, size))) for k in range(size + 1)]


def mean_heterozygosity(fits):
    """Of a law given as pairs of a frequency and its probability."""
    return math.fsum(2 * p * (1 - p) * weight for p, weight in fits.items())


def push(law, branches):
    """Law after a step that takes a state to pairs of a state and its probability."""
    after = {}
    for state, weight in law.items():
        for following, probability in branches(state):
            after[following] = after.get(following, 0.0) + weight * probability
    return after


@pytest.mark.parametrize(("real", "synthetic"), [(2, 3), (0, 4), (3, 0), (1, 1)])
@pytest.mark.parametrize("t", [1, 2, 4])
def test_fresh_real_draws(t, real, synthetic):
    def refit(p):
        for (x, a), (y, b) in itertools.product(binomial(real, Q), binomial(synthetic, p)):
            yield (x + y) / (real + synthetic), a * b

    fits = {k / 4: weight for k, weight in binomial(4, Q)}
    for _ in range(t - 1):
        fits = push(fits, refit)
    exact = mean_heterozygosity(fits)
    value = FRACTION(t, n_real=real, n_synthetic=synthetic, n_first=4, probabilities=HALVES)
    assert value == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dataset_size", [3, 5])  # 3: anchors; 5: redrawn
@pytest.mark.parametrize("t", [1, 2, 4])
def test_real_draws_of_a_finite_set(t, dataset_size):
    """The first fit sees as many of the real draws as every other one."""
    real, synthetic, exact = 3, 2, 0.0
    for hits, weight in binomial(dataset_size, Q):

        def refit(p, hits=hits):
            for (x, a), (y, b) in itertools.product(taken(dataset_size, hits, real), binomial(synthetic, p)):
                yield (x + y) / (real + synthetic), a * b

        fits = {k / real: probability for k, probability in taken(dataset_size, hits, real)}
        for _ in range(t - 1):
            fits = push(fits, refit)
        exact += weight * mean_heterozygosity(fits)
    options = {"n_real": real, "n_synthetic": synthetic, "n_first": 3, "probabilities": HALVES}
    assert FRACTION(t, dataset_size=dataset_size, **options) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("t", [1, 2, 4])
def test_anchors_chosen_among_the_draws_of_the_first_fit(t):
    gold, anchors, synthetic, exact = 5, 2, 2, 0.0
    for (hits, weight), anchored in itertools.product(binomial(gold, Q), range(anchors + 1)):
        chosen = dict(taken(gold, hits, anchors))[anchored]

        def refit(p, anchored=anchored):
            return [((anchored + k) / (anchors + synthetic), w) for k, w in binomial(synthetic, p)]

        fits = {hits / gold: 1.0}
        for _ in range(t - 1):
            fits = push(fits, refit)
        exact += weight * chosen * mean_heterozygosity(fits)
    options = {"n_real": anchors, "n_synthetic": synthetic, "n_first": gold, "probabilities": HALVES}
    assert FRACTION(t, dataset_size=anchors, **options) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t", [1, 2, 4])
def test_independent_mixture(t, alpha):
    fits = {k / 5: weight for k, weight in binomial(5, Q)}
    for _ in range(t - 1):
        fits = push(fits, lambda p: [(k / 5, w) for k, w in binomial(5, alpha * Q + (1 - alpha) * p)])
    value = categorical.independent_mixture_expected_heterozygosity(t, 5, real_fraction=alpha, probabilities=HALVES)
    assert value == pytest.approx(mean_heterozygosity(fits), rel=1e-12)


@pytest.mark.parametrize("t", [1, 2, 4])
def test_accumulate_is_an_urn(t):
    n0, n = 3, 2
    pools = dict(binomial(n0, Q))
    for total in range(n0, n0 + (t - 1) * n, n):
        pools = push(pools, lambda hits, total=total: [(hits + k, w) for k, w in binomial(n, hits / total)])
    total = n0 + (t - 1) * n
    fits = {hits / total: weight for hits, weight in pools.items()}
    options = {"probabilities": HALVES, "n0": n0}
    variance = math.fsum(weight * (p - Q) ** 2 for p, weight in fits.items())
    support = 2 - fits[0.0] - fits[1.0]
    assert categorical.accumulate_expected_heterozygosity(t, n, **options) == near(mean_heterozygosity(fits))
    assert categorical.accumulate_probability_variance(t, n, **options) == near([variance, variance])
    assert categorical.accumulate_expected_l2(t, n, **options) == near(2 * variance)
    assert categorical.accumulate_expected_support(t, n, **options) == near(support)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("t", [1, 2, 4])
def test_accumulate_subsample_is_an_urn(t, size, replacement):
    n0, n = 3, 2
    pools, fits = dict(binomial(n0, Q)), {}
    for fit in range(t):
        total = n0 + fit * n
        b = size if replacement else min(size, total)

        def sample(hits, total=total, b=b):
            return [(k / b, w) for k, w in (binomial(b, hits / total) if replacement else taken(total, hits, b))]

        fits, pool = push(pools, sample), {hits / total: weight for hits, weight in pools.items()}
        pools = push(pools, lambda hits, s=sample: [(hits + k, w * v) for p, w in s(hits) for k, v in binomial(n, p)])
    moments = categorical.accumulate_subsample_expected_heterozygosity(
        t, n, size=size, probabilities=HALVES, n0=n0, replacement=replacement
    )
    assert moments.model == pytest.approx(mean_heterozygosity(fits), rel=1e-12, abs=1e-15)
    assert moments.pool == pytest.approx(mean_heterozygosity(pool), rel=1e-12)


@pytest.mark.parametrize(("n", "n0"), [(20, 20), (5, 12)])
def test_accumulate_tends_to_its_limit(n, n0):
    late = categorical.accumulate_expected_heterozygosity(1_000_000, n, probabilities=P, n0=n0)
    assert late == near(categorical.accumulate_limit_heterozygosity(n, probabilities=P, n0=n0))


def test_accumulate_limit_is_a_cardinal_sine():
    exact = 0.7 * np.sinc(1 / math.sqrt(20))
    assert categorical.accumulate_limit_heterozygosity(20, probabilities=P) == near(exact)


@pytest.mark.parametrize("size", [math.inf, 7, 30])
def test_stationary_states_are_the_late_ones(size):
    options = {"n_real": 7, "n_synthetic": 13, "probabilities": P, "dataset_size": size}
    assert FRACTION(200, n_first=7, **options) == near(STATIONARY(**options))


def test_no_real_draw_is_replace_and_no_synthetic_one_is_fresh():
    assert STATIONARY(n_real=0, n_synthetic=9, probabilities=P) == 0
    for t in (1, 5):
        replaced = categorical.replace_expected_heterozygosity(t, 9, probabilities=P)
        assert FRACTION(t, n_real=0, n_synthetic=9, n_first=9, probabilities=P) == near(replaced)
        assert FRACTION(t, n_real=9, n_synthetic=0, n_first=9, probabilities=P) == near(0.7 * 8 / 9)


def test_probabilities_in_float32_are_taken_as_meant():
    p = np.array(P, dtype=np.float32)
    assert categorical.heterozygosity(p) == near(0.7)
    assert categorical.replace_expected_support(10, 20, probabilities=p) == near(2.438989)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: categorical.replace_expected_heterozygosity(0, 20, probabilities=P), "t counts model fits"),
        (lambda: categorical.replace_extinction_probabilities(0, 20, probabilities=P), "t counts model fits"),
        (lambda: categorical.replace_expected_support(1, 0, probabilities=P), "n must be at least 1, got 0"),
        (lambda: ABSORPTION(0, probabilities=P), "n must be at least 1"),
        (lambda: categorical.heterozygosity([0.5, 0.6]), "sum to one.*a sum of 1.1"),
        (lambda: categorical.heterozygosity([1.5, -0.5]), "non-negative.*smallest of -0.5"),
        (lambda: categorical.heterozygosity([math.nan, 1.0]), "probabilities must be non-negative"),
        (lambda: categorical.heterozygosity([]), "probabilities must be a vector"),
        (lambda: categorical.heterozygosity(np.eye(2)), r"got shape \(2, 2\)"),
        (
            lambda: categorical.smoothing_expected_heterozygosity(1, 9, probabilities=P, pseudocount=-1.0),
            "pseudocount must be at least 0",
        ),
        (lambda: categorical.smoothing_stationary_heterozygosity(9, categories=0, pseudocount=1.0), "categories must"),
        (lambda: categorical.accumulate_expected_support(1, 0, probabilities=P), "n must be at least 1"),
        (
            lambda: categorical.accumulate_subsample_expected_heterozygosity(1, 9, size=0, probabilities=P),
            "size must be at least 1",
        ),
        (lambda: STATIONARY(n_real=0, n_synthetic=0, probabilities=P), r"n_real \+ n_synthetic must be at least 1"),
        (lambda: STATIONARY(**C3, dataset_size=4), "dataset_size must be at least 5"),
        (lambda: FRACTION(1, **C3, n_first=6, dataset_size=4), "dataset_size must be at least 5"),
        (lambda: FRACTION(1, **C3, n_first=0), "n_first must be at least 1"),
        (
            lambda: categorical.independent_mixture_stationary_heterozygosity(9, real_fraction=1.5, probabilities=P),
            r"real_fraction must lie in \[0, 1\]",
        ),
        (lambda: categorical.zipf_probabilities(9, exponent=0.0), "exponent must be positive"),
        (lambda: categorical.zipf_asymptotic_support(9, categories=9, exponent=1.0), "exponent must be above 1"),
        (lambda: categorical.zipf_asymptotic_missing_mass(9, categories=9, exponent=0.0), "exponent must be above 1"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
