"""The class-conditional VAE: against closed forms, against the unconditional one, and on digits."""

import math

import pytest
import torch
from torch import distributions, nn

from collapse.callbacks.evaluation import default_extractor
from collapse.data import Batch, Digits
from collapse.models import VAE
from collapse.seeding import Clock, Stream, generator, keyed_rng

SIGMAS = 4.5
SCALE, W = 0.6, torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, 1.0]])
B, CLASS_MEANS = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.5]])


def made(*args, **kwargs):
    with keyed_rng(3):
        return VAE(*args, **kwargs)


def batch_of(x, y):
    n = len(x)
    return Batch(x, y, torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def digits(rows=None):
    return (part[:rows] for part in Digits().gold().tensors())


def linear_vae(**settings):
    """x = W z + b + c_y + s e, with orthogonal columns in W and the exact posterior, which is diagonal."""
    vae = made((3,), 2, likelihood="gaussian", scale=SCALE, classes=2, **settings)
    variance = 1 / (1 + W.square().sum(0) / SCALE**2)
    vae.encoder, vae.decoder = nn.Linear(3, 4), nn.Linear(2 + 2, 3)
    with torch.no_grad():
        posterior = variance[:, None] * W.T / SCALE**2
        vae.encoder.weight.copy_(torch.cat([posterior, torch.zeros(2, 3)]))
        vae.encoder.bias.copy_(torch.cat([-posterior @ B, variance.log()]))
        vae.offset.weight.copy_(-CLASS_MEANS.T)
        vae.decoder.weight.copy_(torch.cat([W, CLASS_MEANS.T], 1))
        vae.decoder.bias.copy_(B)
    return vae


@pytest.mark.parametrize("label", [0, 1, -1])
def test_elbo_of_a_linear_model_with_its_posterior_is_the_evidence_given_the_label(label):
    x, mean = torch.tensor([0.9, -0.4, 0.8]), B if label < 0 else B + CLASS_MEANS[label]
    with torch.no_grad():
        y = torch.full((40_000,), label)
        bounds = linear_vae().elbo(x.expand(40_000, 3), y=y, generator=generator(2))
    evidence = distributions.MultivariateNormal(mean, W @ W.T + SCALE**2 * torch.eye(3)).log_prob(x)
    error = bounds.std() / math.sqrt(len(bounds))
    assert abs(bounds.mean() - evidence) < SIGMAS * error
    assert error < 0.01


@pytest.mark.parametrize("label", [0, 1, -1])
def test_samples_have_the_law_of_their_label(label):
    n, mean = 40_000, B if label < 0 else B + CLASS_MEANS[label]
    drawn = linear_vae().sample(n, generator(4), torch.full((n,), label))
    covariance = W @ W.T + SCALE**2 * torch.eye(3)
    assert ((drawn.mean(0) - mean) / (covariance.diagonal() / n).sqrt()).abs().max() < SIGMAS
    spread = (covariance.diagonal().outer(covariance.diagonal()) + covariance**2).div(n).sqrt()
    assert ((drawn.T.cov() - covariance) / spread).abs().max() < SIGMAS


def test_every_row_is_sampled_under_its_own_label():
    vae, y = linear_vae(harvest="mean"), torch.tensor([0, 1, -1, 1, 0])
    shifts = vae.sample(5, generator(5), y) - vae.sample(5, generator(5), torch.full((5,), -1))
    expected = torch.stack([torch.zeros(3) if label < 0 else CLASS_MEANS[label] for label in y.tolist()])
    torch.testing.assert_close(shifts, expected)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_without_a_label_it_is_the_unconditional_model(network):
    x, y = digits(6)
    vae, plain = made(network=network, classes=10, hidden=32), made(network=network, hidden=32)
    first = "0.0." if network == "mlp" else "0."
    state = {name: value for name, value in vae.state_dict().items() if name != "offset.weight"}
    state[f"decoder.{first}weight"] = state[f"decoder.{first}weight"][:, :16]  # the part that reads z
    plain.load_state_dict(state)
    none = torch.full_like(y, -1)
    torch.testing.assert_close(vae.encode(x, none), plain.encode(x))
    torch.testing.assert_close(vae.sample(6, generator(1), none), plain.sample(6, generator(1)))
    assert not torch.allclose(vae.encode(x, y)[0], plain.encode(x)[0])
    vae.loss(batch_of(x, none)).mean().backward()
    assert vae.offset.weight.grad.abs().max() == 0
    assert vae.get_parameter(f"decoder.{first}weight").grad[:, 16:].abs().max() == 0


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_gradients_reach_every_parameter(network):
    vae = made(hidden=32, network=network, classes=10)
    vae.loss(batch_of(*digits(64))).mean().backward()
    assert [name for name, p in vae.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_parameters_are_those_of_shumailov_and_ten_planes_and_ten_columns():
    vae = made((1, 28, 28), 20, network="conv", classes=10)
    assert sum(p.numel() for p in vae.parameters()) == 647_081 + 10 * 28 * 28 + 10 * 128 * 7 * 7
    plain = made((1, 28, 28), 20, network="conv")
    assert set(vae.state_dict()) - set(plain.state_dict()) == {"offset.weight"}


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_bfloat16_autocast_keeps_the_loss_in_single_precision(network):
    vae, batch = made(network=network, classes=10), batch_of(*digits(64))
    losses = []
    for enabled in (False, True):
        with keyed_rng(1), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = vae.outputs(batch)
        assert {value.dtype for value in outputs.values()} == {torch.float32}
        losses.append(outputs["loss"])
    torch.testing.assert_close(losses[1], losses[0], rtol=5e-3, atol=0)


def test_a_prediction_has_the_labels_of_its_batch():
    x, y = digits(20)
    vae = made(classes=10, hidden=16)
    vae.clock = Clock(seed=7)
    expected = vae.sample(20, generator(7, Stream.PREDICT, 0, 3, 0), y)
    assert torch.equal(vae.predict_step(batch_of(x, y), 3), expected)
    plain = made(hidden=16)
    assert torch.equal(plain.predict_step(batch_of(x, y), 3), plain.sample(20, generator(0, Stream.PREDICT, 0, 3, 0)))


def test_labels_where_there_are_no_classes_and_the_other_way_round():
    x, y = digits(3)
    with pytest.raises(ValueError, match="3 labels, but a VAE is unconditional"):
        made().sample(3, generator(0), y)
    with pytest.raises(ValueError, match="3 labels, but a VAE is unconditional"):
        made().elbo(x, y=y)
    for act in (
        lambda vae: vae.sample(3, generator(0)),
        lambda vae: vae.loss(batch_of(x, None)),
        lambda vae: vae.elbo(x),
    ):
        with pytest.raises(ValueError, match="y is None, but a VAE with classes = 10 is given labels; use -1"):
            act(made(classes=10))
    with pytest.raises(ValueError, match="classes = 0 must be at least 1, or None"):
        VAE(classes=0)


@pytest.mark.parametrize(("network", "hidden", "steps"), [("mlp", 64, 300), ("conv", 32, 200)], ids=["mlp", "conv"])
def test_a_classifier_reads_the_digit_that_was_asked_for(network, hidden, steps):
    x, y = digits()
    vae, rng = made(hidden=hidden, network=network, classes=10, harvest="mean", learning_rate=3e-3), generator(8)
    optimizer = vae.configure_optimizers()
    with keyed_rng(10):
        for _ in range(steps):
            rows = torch.randint(len(x), (128,), generator=rng)
            optimizer.zero_grad()
            vae.loss(batch_of(x[rows], y[rows])).mean().backward()
            optimizer.step()
    asked = torch.arange(10).repeat(50)
    read = default_extractor(Digits().gold(), 10).classify(vae.sample(500, generator(9), asked))
    assert (read == asked).double().mean() > 0.8  # 0.1 by chance


@pytest.mark.parametrize("bad", [[0, 10, 3], [-2, 1, 9]], ids=str)
def test_labels_of_no_class_are_refused_by_name(bad):
    """As unit vectors they would be zero, which means no label."""
    vae, y, x = made(hidden=8, classes=10), torch.tensor(bad), next(digits(3))
    sentence = rf"labels from {min(bad)} to {max(bad)}, and a model with classes = 10 knows 0 to 9, and -1 for no label"
    for act in (
        lambda: vae.sample(3, generator(0), y),
        lambda: vae.elbo(x, y=y),
        lambda: vae.loss(batch_of(x, y)),
    ):
        with pytest.raises(ValueError, match=sentence):
            act()


def test_labels_are_looked_at_in_the_first_batch_alone(monkeypatch):
    """The answer waits for the device, which no step of a training may."""
    asked, aminmax = [], torch.Tensor.aminmax
    monkeypatch.setattr(torch.Tensor, "aminmax", lambda self: asked.append(self) or aminmax(self))
    vae, (x, y) = made(hidden=8, classes=10), digits(5)
    for _ in range(3):
        vae.training_step(batch_of(x, y), 0)
    assert len(asked) == 1
    assert asked[0] is y
    vae.sample(5, generator(0), y)
    assert len(asked) == 2
