"""The laws of diffusion samplers against the table and against the joint normal law of data and noise levels."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from collapse.theory import diffusion

RTOL = 1e-6
BETAS = np.linspace(1e-4, 0.2, 50)
KINDS = list(diffusion.SAMPLERS)
DATA = {"mean": 1.0, "variance": 0.25}


def near(expected, rel=RTOL):
    return pytest.approx(expected, rel=rel, abs=0)


# --- the rows of the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "one", "five"),
    [
        ("ddpm_beta", (0.998842, 0.2625968), (0.9936416864, 0.3132551335)),
        ("ddpm_posterior", (0.998842, 0.2085494), (0.9959229771, 0.08719375991)),
        ("ddim", (0.9673596, 0.2307999), (0.858621318, 0.1629687237)),
    ],
)
def test_sampler_rows(kind, one, five):
    assert diffusion.output_moments(BETAS, kind, **DATA) == near(one)
    assert diffusion.generation_moments(5, BETAS, kind=kind, **DATA) == near(five)
    assert diffusion.variance_multiplier(BETAS, kind, variance=0.25) == near(one[1] / 0.25)


# --- the steps: conditioning of a joint normal law ------------------------------------------------------------------


def condition(covariance, mean, target, given):
    """Coefficients, offset and variance of one normal variable given others."""
    gain = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given, target])
    residual = covariance[target, target] - gain @ covariance[given, target]
    return gain, mean[target] - gain @ mean[given], residual


def joint(k, mean, variance):
    """Mean and covariance of (x_0, x_{k-1}, x_k), for one variance of the clean point or for a known one (0)."""
    before, after = np.cumprod(np.r_[1.0, 1 - BETAS])[[k - 1, k]]
    maps = np.array([[1, 0, 0], [before**0.5, (1 - before) ** 0.5, 0]])
    last = (1 - BETAS[k - 1]) ** 0.5 * maps[1] + np.array([0, 0, BETAS[k - 1] ** 0.5])
    maps = np.vstack([maps, last])  # of the clean point, the noise up to k - 1, the noise of step k
    covariance = maps @ np.diag([variance, 1.0, 1.0]) @ maps.T
    return mean * np.array([1, before**0.5, after**0.5]), covariance


def conditioned_step(kind, k, mean, variance):
    """Scale, shift and noise variance of step k, without a predicted noise."""
    center, covariance = joint(k, mean, variance)
    (slope,), offset, _ = condition(covariance, center, 0, [2])  # expected clean point: slope * x_k + offset
    if kind == "ddim":
        before, after = np.cumprod(np.r_[1.0, 1 - BETAS])[[k - 1, k]]
        ratio = math.sqrt((1 - before) / (1 - after))  # keep the direction of the noise
        clean = math.sqrt(before) - ratio * math.sqrt(after)
        return ratio + clean * slope, clean * offset, 0.0
    if k == 1:
        return slope, offset, 0.0  # the last step returns the expected clean point
    (clean, noisy), rest, posterior = condition(covariance, center, 1, [0, 2])  # the same for every law of x_0
    noise = {"ddpm_beta": BETAS[k - 1], "ddpm_posterior": posterior}[kind]
    return noisy + clean * slope, rest + clean * offset, noise


@pytest.mark.parametrize("variance", [0.25, 1.0, 6.0])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_joint_normal_law(kind, variance):
    steps = list(diffusion.reverse_steps(BETAS, kind, mean=-1.5, variance=variance))
    assert len(steps) == 50
    for k, step in zip(range(50, 0, -1), steps, strict=True):
        assert step == pytest.approx(conditioned_step(kind, k, -1.5, variance), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_output_is_a_linear_map_of_all_noises(kind):
    weights, shift = np.zeros(51), 0.0  # of the first noise and of the noise of every step
    weights[0] = 1.0
    for k, step in enumerate(diffusion.reverse_steps(BETAS, kind, **DATA), 1):
        weights, shift = step.scale * weights, step.scale * shift + step.shift
        weights[k] = math.sqrt(step.noise_variance)
    assert diffusion.output_moments(BETAS, kind, **DATA) == near((shift, weights @ weights), 1e-12)


# --- what a sampler does to the variance ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "signs"), [("ddpm_beta", (1, 1, -1)), ("ddpm_posterior", (-1, -1, -1)), ("ddim", (-1, -1, -1))]
)
def test_samplers_inflate_or_deflate_as_stated(kind, signs):
    multiplier = diffusion.variance_multiplier(BETAS, kind, variance=np.array([0.01, 0.25, 4.0]))
    assert tuple(np.sign(multiplier - 1)) == signs


def test_beta_noise_keeps_standard_data_but_for_the_last_step():
    moments = diffusion.output_moments(BETAS, "ddpm_beta", mean=0.0, variance=1.0)
    assert moments == pytest.approx((0, 1 - BETAS[0]), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_is_of_first_order_in_the_number_of_steps(kind):
    coarse, fine = (
        diffusion.output_moments(np.linspace(0.1, 30, steps) / steps, kind, **DATA) for steps in (1000, 2000)
    )
    assert coarse.variance - 0.25 == near(2 * (fine.variance - 0.25), 0.05)
    assert abs(fine.variance - 0.25) < 3e-3
    assert fine.mean == near(1.0, 3e-4)  # from starting at zero


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_model_stays_at_its_mean(kind):
    assert diffusion.output_moments(BETAS, kind, mean=3.0, variance=0.0) == pytest.approx((3, 0), abs=1e-12)


def test_no_generation_is_the_real_law():
    assert diffusion.generation_moments(0, BETAS, kind="ddim", **DATA) == (1.0, 0.25)


# --- numbers, arrays, tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors_are_numbers_at_once(kind):
    means, variances = np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[0.25, 1.0], [3.0, 1e-3]])
    pairs = zip(means.flat, variances.flat, strict=True)
    single = [diffusion.output_moments(BETAS, kind, mean=mean, variance=variance) for mean, variance in pairs]
    expected = np.array(single).T.reshape(2, 2, 2)
    arrays = diffusion.output_moments(BETAS, kind, mean=means, variance=variances)
    tensors = diffusion.output_moments(
        torch.from_numpy(BETAS), kind, mean=torch.from_numpy(means), variance=torch.from_numpy(variances)
    )
    assert isinstance(tensors.variance, torch.Tensor)
    for moments in (arrays, [part.numpy() for part in tensors]):
        assert np.allclose(moments, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_all_steps_are_right(kind):
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)
    variance = torch.tensor([0.25, 2.0], dtype=torch.float64, requires_grad=True)

    def moments(mean, variance):
        return tuple(diffusion.output_moments(BETAS[::10], kind, mean=mean, variance=variance))

    assert torch.autograd.gradcheck(moments, (mean, variance))


@pytest.mark.parametrize("kind", KINDS)
def test_every_eigenvector_is_sampled_alone(kind):
    """The same recursion with matrices: the predicted noise solves a linear system in the covariance."""
    data = np.array([[2.0, 0.6], [0.6, 0.5]])
    values, vectors = np.linalg.eigh(data)
    levels = np.cumprod(1 - BETAS)
    output = np.eye(2)
    for k in range(49, -1, -1):
        step = diffusion.SAMPLERS[kind](levels[k], levels[k - 1] if k else 1.0)
        gain = math.sqrt(1 - levels[k]) * np.linalg.inv(levels[k] * data + (1 - levels[k]) * np.eye(2))
        linear = step.scale * np.eye(2) + step.noise_scale * gain
        output = linear @ output @ linear.T + step.noise_variance * np.eye(2)
    expected = diffusion.output_moments(BETAS, kind, mean=0 * values, variance=values).variance
    assert output == pytest.approx((vectors * expected) @ vectors.T, rel=1e-9, abs=1e-12)


# --- finite samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 10, 200])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_expected_variance_of_a_first_fit(kind, ddof, n):
    betas, law = BETAS[::5], stats.chi(n - 1)

    def integrand(root):
        fitted = 0.25 * root**2 / (n - ddof)
        return law.pdf(root) * diffusion.output_moments(betas, kind, mean=0.0, variance=fitted).variance

    center = math.sqrt(n - 1)
    expected = integrate.quad(integrand, max(center - 8, 0), center + 8, epsabs=0, epsrel=1e-10, limit=200)[0]
    value = diffusion.first_fit_expected_variance(n, betas, kind=kind, ddof=ddof, variance=0.25)
    assert value == near(expected, 1e-8)


def test_a_large_first_fit_is_exact():
    value = diffusion.first_fit_expected_variance(10**6, BETAS, kind="ddim", ddof=1, variance=0.25)
    assert value == near(0.2307999, 1e-5)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diffusion.reverse_steps(BETAS, "heun", **DATA), "kind must be one of .*'heun'"),
        (lambda: diffusion.reverse_steps([], "ddim", **DATA), "betas must be a vector"),
        (lambda: diffusion.reverse_steps(0.1, "ddim", **DATA), "betas must be a vector"),
        (lambda: diffusion.reverse_steps([0.1, 1.0], "ddim", **DATA), "betas must lie in \\(0, 1\\), got 0.1 to 1.0"),
        (lambda: diffusion.output_moments([0.1, math.nan], "ddim", **DATA), "betas must lie in"),
        (lambda: diffusion.generation_moments(-1, BETAS, kind="ddim", **DATA), "generations must be at least 0"),
        (lambda: diffusion.first_fit_expected_variance(1, BETAS, kind="ddim", ddof=0), "at least 2"),
        (lambda: diffusion.first_fit_expected_variance(5, BETAS, kind="ddim", ddof=5), "ddof must lie in"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
