"""The VAE against closed forms, and the promises every generative module makes."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn

from collapse.data import Batch, Digits
from collapse.models import VAE
from collapse.models.vae import divergence
from collapse.nn import MLP
from collapse.seeding import generator, keyed_rng

SIGMAS = 4.5


def batch_of(x):
    n = len(x)
    return Batch(x, None, torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def made(*args, **kwargs):
    with keyed_rng(3):
        return VAE(*args, **kwargs)


def digits():
    return Digits().gold().tensors()[0]


def without_weights(vae):
    """Leave the biases: encoder and decoder become constants."""
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("weight"):
                parameter.zero_()
            else:
                parameter.copy_(torch.linspace(-0.5, 0.7, parameter.numel()))
    return vae


def test_divergence_is_that_of_torch_distributions():
    rng = generator(0)
    mu, log_variance = torch.randn(2, 50, 7, generator=rng, dtype=torch.float64)
    q = distributions.Normal(mu, (0.5 * log_variance).exp())
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mu, log_variance), expected, rtol=1e-12, atol=1e-12)
    assert divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


@pytest.mark.parametrize(
    ("likelihood", "law"),
    [
        ("bernoulli", lambda p: distributions.Bernoulli(logits=p)),
        ("gaussian", lambda p: distributions.Normal(p, 0.3)),
    ],
)
def test_constant_networks_give_the_analytic_bound(likelihood, law):
    vae = without_weights(made((1, 8, 8), 4, hidden=8, likelihood=likelihood, scale=0.3, beta=2.5)).double()
    x = torch.bernoulli(torch.full((6, 1, 8, 8), 0.4, dtype=torch.float64), generator=generator(1))
    mu, log_variance = torch.linspace(-0.5, 0.7, 8).double().chunk(2)
    kl = distributions.kl_divergence(
        distributions.Normal(mu, (0.5 * log_variance).exp()), distributions.Normal(0.0, 1.0)
    ).sum()
    parameters = torch.linspace(-0.5, 0.7, 64).double().view(1, 8, 8)
    reconstruction = -law(parameters).log_prob(x).sum((1, 2, 3))
    outputs = vae.outputs(batch_of(x))
    torch.testing.assert_close(outputs["kl"], kl.expand(6), rtol=1e-7, atol=0)
    torch.testing.assert_close(outputs["reconstruction"], reconstruction, rtol=1e-7, atol=0)
    torch.testing.assert_close(outputs["loss"], reconstruction + 2.5 * kl, rtol=1e-7, atol=0)
    # the decoder ignores z, so the bound has no Monte Carlo error, and beta is no part of it
    torch.testing.assert_close(vae.elbo(x, samples=2), -reconstruction - kl, rtol=1e-7, atol=0)


def test_elbo_of_a_linear_model_with_its_posterior_is_the_log_evidence():
    """x = W z + b + s e with orthogonal columns: q(z | x) is diagonal, the bound tight, the evidence normal."""
    s, w, b = 0.6, torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, 1.0]]), torch.tensor([0.3, -0.2, 0.1])
    vae = made((3,), 2, likelihood="gaussian", scale=s)
    variance = 1 / (1 + w.square().sum(0) / s**2)
    vae.encoder, vae.decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    with torch.no_grad():
        posterior = variance[:, None] * w.T / s**2
        vae.encoder.weight.copy_(torch.cat([posterior, torch.zeros(2, 3)]))
        vae.encoder.bias.copy_(torch.cat([-posterior @ b, variance.log()]))
        vae.decoder.weight.copy_(w)
        vae.decoder.bias.copy_(b)
        x = torch.tensor([0.9, -0.4, 0.8])
        bounds = vae.elbo(x.expand(40_000, 3), generator=generator(2))
    evidence = distributions.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(3)).log_prob(x)
    error = bounds.std() / math.sqrt(len(bounds))
    assert abs(bounds.mean() - evidence) < SIGMAS * error
    assert error < 0.01


def test_elbo_averages_its_draws():
    vae, x = made(), digits()[:4]
    with torch.no_grad():
        one, many = (vae.elbo(x.repeat(200, 1, 1, 1), k, generator=generator(5)).view(200, 4) for k in (1, 16))
    ratio = (one.var(0) / many.var(0)).mean()  # 16, with a relative error of sqrt(2 * 2 / 199 / 4) = 0.07
    assert 16 * (1 - SIGMAS * 0.08) < ratio < 16 * (1 + SIGMAS * 0.08)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradients_reach_every_parameter(network, likelihood):
    vae = made(hidden=32, network=network, likelihood=likelihood)
    vae.loss(batch_of(digits()[:32])).mean().backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_loss_of_a_batch_is_that_of_its_rows(network, monkeypatch):
    vae, x = made(network=network).double(), digits()[:5].double()
    noise = torch.randn(5, 16, generator=generator(7), dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda mu: noise)
    whole = vae.outputs(batch_of(x))
    for row in range(5):
        monkeypatch.setattr(torch, "randn_like", lambda mu, row=row: noise[row : row + 1])
        alone = vae.outputs(batch_of(x[row : row + 1]))
        for name, value in whole.items():
            torch.testing.assert_close(alone[name][0], value[row], rtol=1e-10, atol=1e-10)


def test_latent_is_the_sampled_one():
    vae, x = made(), digits()[:200]
    with torch.no_grad():
        mu, log_variance = vae.encode(x)
        with keyed_rng(11):
            latent = vae.outputs(batch_of(x))["latent"]
    noise = (latent - mu) / (0.5 * log_variance).exp()
    count = noise.numel()
    assert abs(noise.mean()) < SIGMAS / math.sqrt(count)
    assert abs(noise.var() - 1) < SIGMAS * math.sqrt(2 / count)
    assert vae.exposes == {"latent"}


@pytest.mark.parametrize("harvest", ["draw", "mean"])
def test_sample_depends_on_its_generator_alone(harvest):
    vae = made(harvest=harvest)
    torch.manual_seed(1)
    first = vae.sample(20, generator(4))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = vae.sample(20, generator(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, vae.sample(20, generator(5)))
    assert not first.requires_grad


def test_draws_are_unbiased_around_the_decoders_mean():
    drawn, mean = (made(harvest=harvest).sample(4000, generator(4)) for harvest in ("draw", "mean"))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    excess = (drawn - mean).sum(0) / (mean * (1 - mean)).sum(0).sqrt()  # one standard normal value per pixel
    assert excess.abs().max() < SIGMAS


def test_gaussian_draws_have_the_scale_and_images_are_clamped():
    arguments = {"likelihood": "gaussian", "scale": 0.5}
    drawn, mean = (
        made((2,), **arguments, harvest=harvest).sample(20_000, generator(4)) for harvest in ("draw", "mean")
    )
    noise = (drawn - mean) / 0.5
    assert noise.mean(0).abs().max() < SIGMAS / math.sqrt(20_000)
    assert (noise.var(0) - 1).abs().max() < SIGMAS * math.sqrt(2 / 20_000)
    assert drawn.min() < 0
    images = made(**arguments).sample(50, generator(4))
    assert images.min() == 0
    assert images.max() == 1


def test_sampler_settings_name_the_bias():
    assert made().sampler_settings == {}
    assert made(harvest="mean").sampler_settings == {"harvest": "mean"}
    assert made(likelihood="gaussian").sampler_settings == {"clamp": [0, 1]}
    assert made((2,), likelihood="gaussian").sampler_settings == {}


def test_twin_has_the_same_weights_under_the_same_key():
    vae = made((1, 8, 8), 5, hidden=32, network="conv", beta=0.5)
    with keyed_rng(3):
        twin = vae.twin()
    assert twin.beta == 0.5
    assert twin.state_dict().keys() == vae.state_dict().keys()
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in twin.state_dict().items())
    assert dict(twin.hparams) == vae.arguments


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 11), (1, 15, 30)])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_networks_return_the_shape_they_were_given(shape, network):
    vae = made(shape, 3, hidden=16, network=network)
    outputs = vae.outputs(batch_of(torch.rand(4, *shape, generator=generator(0))))
    assert outputs["latent"].shape == (4, 3)
    assert outputs["loss"].shape == outputs["kl"].shape == outputs["reconstruction"].shape == (4,)
    assert vae.sample(2, generator(0)).shape == (2, *shape)


def test_conv_has_the_parameters_of_shumailov():
    vae = made((1, 28, 28), 20, network="conv")
    assert sum(p.numel() for p in vae.parameters()) == 647_081


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_bfloat16_autocast_keeps_the_loss_in_single_precision(network):
    vae, batch = made(network=network), batch_of(digits()[:64])
    losses = []
    for enabled in (False, True):
        with keyed_rng(1), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = vae.outputs(batch)
        assert {value.dtype for value in outputs.values()} == {torch.float32}
        losses.append(outputs["loss"])
    torch.testing.assert_close(losses[1], losses[0], rtol=5e-3, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.sample(3, generator(0)).dtype == torch.float32


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_training_on_digits_lowers_the_negative_bound(network):
    vae, x = made(network=network, hidden=64), digits()
    optimizer, rng = vae.configure_optimizers(), generator(8)
    held_out = Digits().reference().tensors()[0]
    with torch.no_grad():
        before = vae.elbo(held_out, 4, generator=generator(9)).mean()
    with keyed_rng(10):
        for _ in range(200):
            rows = torch.randint(len(x), (128,), generator=rng)
            optimizer.zero_grad()
            vae.loss(batch_of(x[rows])).mean().backward()
            optimizer.step()
    with torch.no_grad():
        after = vae.elbo(held_out, 4, generator=generator(9)).mean()
    assert abs(-before - 64 * math.log(2)) < 5  # before training, every pixel is nearly a coin
    assert after - before > 15  # nats per held-out image; 17.4 and 19.8 when written


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"network": "cnv"}, "network = 'cnv' .* did you mean 'conv'"),
        ({"likelihood": "gauss"}, "likelihood = 'gauss' .* did you mean 'gaussian'"),
        ({"harvest": "means"}, "harvest = 'means' .* did you mean 'mean'"),
        ({"latent_dim": 0}, "latent_dim = 0"),
        ({"scale": 0.0}, "scale = 0.0"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"shape": (2,), "network": "conv"}, r"shape = \(2,\) is not that of an image"),
        ({"shape": (1, 4, 8), "network": "conv"}, r"H and W at least 8"),
        ({"hidden": 0}, "hidden = 0"),
    ],
)
def test_a_wrong_argument_is_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        VAE(**arguments)


def test_it_refuses_labels_and_an_empty_mean():
    with pytest.raises(ValueError, match="3 labels, but a VAE is unconditional"):
        made().sample(3, generator(0), torch.zeros(3))
    with pytest.raises(ValueError, match="samples = 0"):
        made().elbo(digits()[:1], samples=0)


def test_bernoulli_loss_is_the_cross_entropy_of_gray_values():
    vae, x = without_weights(made((1, 8, 8), 4, hidden=8)), digits()[:9]
    logits = torch.linspace(-0.5, 0.7, 64).view(1, 1, 8, 8).expand_as(x)
    expected = F.binary_cross_entropy(logits.sigmoid(), x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(vae.outputs(batch_of(x))["reconstruction"], expected)


def test_mlp_needs_two_widths():
    with pytest.raises(ValueError, match=r"sizes must be at least two positive widths.*\(3,\)"):
        MLP((3,))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_tokens_are_refused_by_name(likelihood, dtype):
    """Networks would take them as numbers, and the harvest fail a generation later."""
    vae, x = made((6,), 2, hidden=4, likelihood=likelihood), torch.ones(3, 6, dtype=dtype)
    sentence = rf"^VAE takes no rows of shape \(6,\) and type {dtype}, as it models real numbers; use GPT or NGram"
    for act in (vae.encode, vae.elbo, lambda rows: vae.loss(batch_of(rows))):
        with pytest.raises(ValueError, match=sentence):
            act(x)
    assert vae.loss(batch_of(x.double())).shape == (3,)  # the way out for bits


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 8, 9), (3, 8, 8), (8, 8), (64,)], ids=str)
def test_rows_of_another_shape_are_refused_by_name(network, shape):
    vae, x = made((1, 8, 8), 2, hidden=8, network=network), torch.rand(3, *shape, generator=generator(0))
    sentence = rf"VAE takes no rows of shape {re.escape(str(shape))}, as it was made for shape = \(1, 8, 8\); give it"
    for act in (vae.encode, vae.elbo, lambda rows: vae.loss(batch_of(rows))):
        with pytest.raises(ValueError, match=sentence):
            act(x)


def test_gradients_can_be_watched_in_every_layer_of_a_convolutional_network():
    vae, seen = made((1, 8, 8), 2, hidden=64, network="conv"), []
    for part in (*vae.encoder, *vae.decoder):
        part.register_full_backward_hook(lambda module, inputs, outputs: seen.append(type(module).__name__))
    vae.loss(batch_of(torch.rand(3, 1, 8, 8, generator=generator(1)).requires_grad_())).sum().backward()
    assert len(seen) == len(vae.encoder) + len(vae.decoder)
