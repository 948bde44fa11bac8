"""What every model of the namespace owes; a new one is tested by being exported, and fails until it has settings."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

import collapse.models
from collapse import Batch, CategoricalData, GaussianData, GenerativeModule, MarkovData, RingOfGaussians, run_chain
from collapse.seeding import generator, keyed_rng

MODELS = [
    value
    for name in collapse.models.__all__
    if inspect.isclass(value := getattr(collapse.models, name)) and value is not GenerativeModule
]
PLANE = RingOfGaussians(rows=256, batch_size=64)
CASES = {  # arguments, and data whose rows the model takes
    "VAE": ({"shape": (2,), "latent_dim": 2, "hidden": 8, "likelihood": "gaussian"}, PLANE),
    "Diffusion": ({"shape": (2,), "network": "mlp", "hidden": 16, "steps": 5}, PLANE),
    "Gaussian": ({"dim": 2}, PLANE),
    "LinearRegression": ({"dim": 1}, PLANE),
    "Categorical": ({"categories": 4}, CategoricalData(rows=256, batch_size=64)),
    "GaussianMixture": ({"components": 3, "dim": 2}, PLANE),
    "GaussianDiffusion": ({"dim": 2}, PLANE),
    "PPCA": ({"dim": 2, "latent_dim": 1}, PLANE),
    "KDE": ({"dim": 2}, PLANE),
    "Histogram": ({"low": -8.0, "high": 8.0}, GaussianData(rows=256, batch_size=64)),
    "PretrainedLM": ({"path": "gpt2", "length": 16, "vocabulary": 2, "prompt": 0}, MarkovData(rows=256, batch_size=64)),
    "NGram": ({"vocabulary": 2, "length": 16}, MarkovData(rows=256, batch_size=64)),
    "GPT": ({"vocabulary": 2, "length": 16, "layers": 1, "width": 16}, MarkovData(rows=256, batch_size=64)),
}


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def case(request):
    arguments, data = CASES[request.param.__name__]
    if "path" in arguments:
        folders = request.getfixturevalue("language_models")
        arguments = {**arguments, "path": str(folders[arguments["path"]])}
    return request.param, arguments, data


@pytest.fixture
def model(case):
    kind, arguments, _ = case
    with keyed_rng(1):
        return kind(**arguments)


@pytest.fixture
def trained(model, case):
    chain = run_chain(model, case[2], generations=1, samples_per_generation=8, evaluate=False)
    model.load_state_dict(chain.state(0))
    return model


@pytest.fixture
def batch(case):
    x = case[2].gold().tensors()[0][:32]
    return Batch(x, None, torch.zeros(32), torch.zeros(32), torch.arange(32))


def test_loss_is_per_row(trained, batch):
    with keyed_rng(0):
        whole = trained.loss(batch)
    assert whole.shape == (32,)
    assert torch.isfinite(whole).all()
    if not list(trained.parameters()):  # no noise in the loss: rows are independent of their neighbors
        part = Batch(*(value if value is None else value[:5] for value in batch))
        torch.testing.assert_close(trained.loss(part), whole[:5])


def test_gradients_reach_every_parameter(model, batch):
    parameters = dict(model.named_parameters())
    if parameters:
        model.loss(batch).mean().backward()
        assert [
            name for name, value in parameters.items() if value.grad is None or not value.grad.abs().sum() > 0
        ] == []


def test_samples_depend_on_weights_and_generator_alone(trained, case):
    trained.eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, again = trained.sample(16, generator(9)), trained.sample(16, generator(9))
        other = trained.sample(16, generator(10))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (16, *case[2].gold().x.shape[1:])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_twin_is_made_by_the_same_path(model):
    with keyed_rng(1):
        twin = model.twin()
    assert all(torch.equal(one, other) for one, other in zip(twin.parameters(), model.parameters(), strict=True))
    assert twin.describe() == model.describe()
    if not model.incidental:  # a description tells what is read by its digest, not where it lies
        assert type(eval(model.describe(), vars(collapse.models))) is type(model)


def test_saves_and_loads(trained):
    other = copy.deepcopy(trained)
    for value in [*other.parameters(), *other.buffers()]:
        value.data.zero_()
    other.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(trained.eval().sample(4, generator(0)), other.eval().sample(4, generator(0)))


def test_sampler_settings_are_plain(model):
    assert isinstance(model.sampler_settings, dict)
    assert set(model.sampler_settings) <= {"sampler", "steps", "spacing", "eta", "guidance"}, (
        "unbiased by default, up to a discretized path"
    )
    assert not model.sampler_settings.get("eta")
    assert not model.sampler_settings.get("guidance")
