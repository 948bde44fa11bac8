"""SIGReg: the statistic as a term of the loss, its keyed directions, and what it does to a chain."""

import math
from types import SimpleNamespace

import pytest
import torch

from collapse import EMA, VAE, Digits, RingOfGaussians, SIGReg, run_chain
from collapse.metrics.normality import epps_pulley, random_directions, sliced_epps_pulley
from collapse.mitigations import NoEffectWarning
from collapse.seeding import Clock, Stream, generator

TOY = {"shape": (2,), "latent_dim": 2, "hidden": 8, "likelihood": "gaussian", "scale": 0.1}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def module_at(rank=0, **moment):
    return SimpleNamespace(clock=Clock(**moment), global_rank=rank)


def term(latent, rank=0, sigreg=None, **moment):
    return (sigreg or SIGReg(1.0)).regularize({"latent": latent}, None, module_at(rank, **moment))


def chain(store, *mitigations, seed=0):
    return run_chain(
        VAE(**TOY),
        RingOfGaussians(rows=200, batch_size=50),
        generations=2,
        samples_per_generation=200,
        epochs_per_generation=2,
        mitigations=mitigations,
        seed=seed,
        store=store,
        evaluate=False,
        accelerator="cpu",
    )


def digests(chain):
    return [record.digests for record in chain.records]


# The term


@pytest.mark.parametrize("unbiased", [False, True])
def test_it_is_the_weighted_mean_over_the_directions_of_its_moment(unbiased):
    latent = 1.3 * normal(100, 6) + 0.2
    moment = {"seed": 5, "generation": 2, "epoch": 1, "batch": 7}
    rng = generator(5, Stream.REGULARIZE, 2, 1, 7)
    directions = random_directions(6, 32, rng)
    options = {"unbiased": unbiased, "t_max": 2.0, "knots": 9}
    expected = 0.3 * epps_pulley(latent @ directions, **options).mean()
    torch.testing.assert_close(term(latent, sigreg=SIGReg(0.3, slices=32, **options), **moment), expected)
    folded = latent.view(100, 2, 3)
    assert torch.equal(
        term(folded, sigreg=SIGReg(0.3), **moment), term(latent, sigreg=SIGReg(0.3), **moment)
    )  # a latent of any shape is a row of numbers


def test_directions_are_the_same_on_every_rank_and_new_at_every_moment():
    latent = normal(50, 16) * torch.linspace(0.2, 2, 16)
    here = {"seed": 1, "generation": 1, "epoch": 1, "batch": 1}
    value = term(latent, rank=0, **here)
    assert torch.equal(term(latent, rank=1, **here), value)
    others = [term(latent, **{**here, counter: 2}) for counter in here]
    assert len({value.item(), *(other.item() for other in others)}) == 5
    assert all(abs(other / value - 1) < 0.5 for other in others)  # other directions, the same quantity


def test_global_randomness_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = term(normal(20, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(term(normal(20, 4)), first)


def test_the_gradient_is_that_of_the_statistic_and_reaches_every_row():
    latent, rng = normal(64, 4).requires_grad_(), generator(0, Stream.REGULARIZE, 0, 0, 0)
    (gradient,) = torch.autograd.grad(term(latent, sigreg=SIGReg(2.0)), latent)
    statistic = sliced_epps_pulley(latent, random_directions(4, 64, rng), unbiased=True)
    (expected,) = torch.autograd.grad(2 * statistic, latent)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().amin(1).min() > 0


def test_it_is_zero_in_expectation_at_the_prior_and_large_at_a_collapse():
    values = torch.stack([term(normal(128, 8, seed=i), batch=i) for i in range(400)])
    assert abs(values.mean()) < 4.5 * values.std() / math.sqrt(len(values))
    assert values.std() < 1
    assert term(torch.zeros(128, 8)).item() == pytest.approx(0.4020476 * 128, rel=1e-6)
    assert term(0.5 * normal(128, 8)) > 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_and_half_precision_little(dtype):
    latent = 0.8 * normal(512, 16)
    plain = term(latent)
    with torch.autocast("cpu", dtype):
        assert torch.equal(term(latent), plain)
        narrow = term(latent.to(dtype))
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(plain.item(), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": -0.1}, "weight must be at least 0, got -0.1"),
        ({"weight": 1, "slices": 0}, "slices must be at least 1, got 0"),
        ({"weight": 1, "knots": 1}, "knots must be at least 2, got 1"),
    ],
)
def test_a_wrong_argument_is_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        SIGReg(**arguments)


# In a chain


def test_a_wrong_target_is_a_sentence_before_anything_is_trained(tmp_path):
    sentence = r"SIGReg\(.*target='hidden'\) works on the output 'hidden'.*VAE does not expose.*exposes: latent\)"
    with pytest.raises(ValueError, match=sentence):
        chain(tmp_path / "run", SIGReg(0.1, target="hidden"))
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # torch's; pytest.warns emits it again without its module
def test_weight_zero_leaves_every_digest_and_says_that_it_does(tmp_path):
    with pytest.warns(NoEffectWarning, match=r"SIGReg\(weight=0\) changed nothing in generation 1"):
        idle = chain(tmp_path / "idle", SIGReg(0))
    assert digests(idle) == digests(chain(tmp_path / "plain"))
    assert digests(idle) != digests(chain(tmp_path / "other", seed=1))


def test_drawing_directions_shifts_no_other_stream(tmp_path):
    """A weight too small for float32 to add leaves every bit, though the directions are drawn at every step."""
    plain = digests(chain(tmp_path / "plain", EMA(0.5)))
    assert digests(chain(tmp_path / "with", SIGReg(1e-30), EMA(0.5))) == plain
    assert digests(chain(tmp_path / "after", EMA(0.5), SIGReg(1e-30))) == plain
    assert digests(chain(tmp_path / "strong", SIGReg(1.0), EMA(0.5))) != plain


def test_it_brings_the_aggregate_posterior_to_the_prior(tmp_path):
    arguments, held_out = {"latent_dim": 8, "hidden": 64, "beta": 0.1}, Digits().reference().tensors()[0]

    def distance(name, *mitigations):
        """Statistic of z ~ q(z | x) over held-out digits, along directions that training did not see."""
        trained = run_chain(
            VAE(**arguments),
            Digits(batch_size=256),
            generations=1,
            samples_per_generation=256,
            epochs_per_generation=4,
            mitigations=mitigations,
            store=tmp_path / name,
            evaluate=False,
            accelerator="cpu",
        )
        vae = VAE(**arguments)
        vae.load_state_dict(trained.state(-1))
        with torch.no_grad():
            mu, log_variance = vae.encode(held_out)
        z = mu + (0.5 * log_variance).exp() * normal(*mu.shape, seed=3)
        return sliced_epps_pulley(z, random_directions(8, 256, generator(4)), unbiased=True).item()

    assert distance("plain") > 50  # 109.9 when written
    assert distance("sigreg", SIGReg(0.2)) < 5  # 0.9 when written; 0 is the prior itself
