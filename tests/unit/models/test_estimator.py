"""What every estimator owes a chain: batches do not matter, a crash does not matter, and one process is enough."""

import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from collapse import (
    Batch,
    CategoricalData,
    GaussianData,
    MarkovData,
    RegressionData,
    RingOfGaussians,
    models,
    run_chain,
)
from collapse.mitigations import AnchorReplay, DataAccumulation, WeightedLikelihood
from collapse.models.estimators import (
    KDE,
    PPCA,
    Categorical,
    Estimator,
    Gaussian,
    GaussianDiffusion,
    GaussianMixture,
    Histogram,
    LinearRegression,
    NGram,
)
from collapse.recursion.checkpointing import StepCheckpoint, newest_checkpoint
from collapse.seeding import generator, keyed_rng

# Advice for models with gradients; what an estimator has taken up is in its buffers.
pytestmark = pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")

SIZES = {"rows": 40, "batch_size": 8, "reference_rows": 8}


def numbers(replicates=None, **settings):
    return GaussianData(**{**SIZES, **settings}, replicates=replicates)


def plane():
    return RingOfGaussians(4, **SIZES)


KINDS = {  # a model with three replicates where it can have them, and data that it takes
    "gaussian": (lambda: Gaussian(1, replicates=3), lambda: numbers(3)),
    "maximum likelihood": (lambda: Gaussian(1, ddof=0, replicates=3), lambda: numbers(3)),
    "known variance": (lambda: Gaussian(1, replicates=3, known_variance=2.0), lambda: numbers(3)),
    "ppca": (lambda: PPCA(2, 1), plane),
    "mixture": (lambda: GaussianMixture(2, 1, replicates=3), lambda: numbers(3)),
    "diffusion": (lambda: GaussianDiffusion(2), plane),
    "kde": (lambda: KDE(1, replicates=3), lambda: numbers(3)),
    "empirical": (lambda: KDE(1, 0.0, replicates=3), lambda: numbers(3)),
    "histogram": (lambda: Histogram(-9.0, 9.0, replicates=3), lambda: numbers(3)),
    "categorical": (lambda: Categorical(4, replicates=3), lambda: CategoricalData(**SIZES, replicates=3)),
    "n-gram": (lambda: NGram(2, length=16), lambda: MarkovData(**SIZES)),
    "regression": (
        lambda: LinearRegression(2, replicates=3),
        lambda: RegressionData(dim=2, replicates=3, **SIZES),
    ),
    "regression on the same covariates": (
        lambda: LinearRegression(2, replicates=3, covariates="same"),
        lambda: RegressionData(dim=2, replicates=3, **SIZES),
    ),
}


def test_every_estimator_is_here():
    named = {type(make()) for make, _ in KINDS.values()}
    exported = {getattr(models, name) for name in models.__all__}
    assert {kind for kind in exported if issubclass(kind, Estimator) and kind is not Estimator} == named


def chain_of(name, **settings):
    make, data = KINDS[name]
    defaults = {"generations": 3, "samples_per_generation": 40, "chunk_size": 40, "evaluate": False}
    return run_chain(make(), data(), **{**defaults, **settings})


def digests(chain):
    return [record.digests for record in chain.records]


# --- batches ----------------------------------------------------------------------------------------------------------


def take_up(model, x, weights, size):
    with keyed_rng(0):  # a mixture starts from a draw
        model.begin()
        for place in torch.arange(len(x)).split(size):
            nothing = torch.zeros(len(place), dtype=torch.int64)
            batch = Batch(model.arranged(x[place]), None, nothing, nothing, place)
            model.update(batch, None if weights is None else weights[place])
        model.finish()
    return model.state_dict()


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("weight", [None, 1.0, 0.05])
@pytest.mark.parametrize("name", KINDS)
def test_batches_do_not_matter(name, weight, size):
    """However little of the weight a batch has."""
    make, data = KINDS[name]
    x = data().gold().tensors()[0]
    weights = None
    if weight is not None:
        weights = weight * (0.5 + torch.rand(40, 1, dtype=torch.float64, generator=generator(3)))
    whole, parts = (take_up(make(), x, weights, step) for step in (40, size))
    assert whole.keys() == parts.keys()
    for buffer, value in whole.items():
        np.testing.assert_allclose(parts[buffer], value, rtol=1e-8, atol=1e-12, err_msg=buffer)


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_of_two_is_the_row_twice(name):
    if name in ("kde", "empirical", "mixture", "regression on the same covariates"):
        pytest.skip("keeps every row once, or starts from a draw among them")
    make, data = KINDS[name]
    x = data().gold().tensors()[0]
    weights = torch.ones(40, 1, dtype=torch.float64)
    weights[5:15] = 2
    weighted, repeated = take_up(make(), x, weights, 40), take_up(make(), torch.cat([x, x[5:15]]), None, 50)
    for buffer, value in repeated.items():
        np.testing.assert_allclose(weighted[buffer], value, rtol=1e-8, atol=1e-12, err_msg=buffer)


@pytest.mark.parametrize("name", KINDS)
def test_rows_without_weight_do_not_count(name):
    make, data = KINDS[name]
    if name in ("kde", "empirical", "mixture", "regression on the same covariates"):
        pytest.skip("keeps every row, or starts from a draw among them")
    x = data().gold().tensors()[0]
    weights = torch.ones(40, 1, dtype=torch.float64)
    weights[25:] = 0
    some, few = take_up(make(), x, weights, 40), take_up(make(), x[:25], None, 25)
    for buffer, value in few.items():
        np.testing.assert_allclose(some[buffer], value, rtol=1e-10, atol=1e-13, err_msg=buffer)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_can_be_sampled_from_no_weight(name):
    make, data = KINDS[name]
    if name.startswith("regression"):
        pytest.skip("zero weights are a model")
    x, model = data().gold().tensors()[0], make()
    with pytest.raises(ValueError, match=r"fitted on .*(no|0) rows|weights are all zero"):  # noqa: PT012
        take_up(model, x, torch.zeros(40, 1, dtype=torch.float64), 40)
        model.sample(3, generator(0))


@pytest.mark.parametrize("name", ["gaussian", "kde", "categorical", "regression", "histogram"])
def test_one_replicate_is_the_chain_without_a_replicate_axis(name):
    plain = {
        "gaussian": (lambda r: Gaussian(1, replicates=r), numbers),
        "kde": (lambda r: KDE(1, replicates=r), numbers),
        "categorical": (lambda r: Categorical(4, replicates=r), lambda r: CategoricalData(**SIZES, replicates=r)),
        "regression": (
            lambda r: LinearRegression(2, replicates=r),
            lambda r: RegressionData(dim=2, replicates=r, **SIZES),
        ),
        "histogram": (lambda r: Histogram(-9.0, 9.0, replicates=r), numbers),
    }
    make, data = plain[name]
    none, one = (
        run_chain(make(r), data(r), generations=3, samples_per_generation=40, evaluate=False) for r in (None, 1)
    )
    for buffer, value in none.state(2).items():
        np.testing.assert_array_equal(one.state(2)[buffer], value)


# --- crashes ----------------------------------------------------------------------------------------------------------


class Crash(pl.Callback):
    """Stops the run after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, *unused):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def crashed_and_resumed(root, name, batches, every=2, **settings):
    """Return the chain, and the name of the checkpoint that it was taken up from."""
    with pytest.raises(InterruptedError):
        chain_of(name, store=root, callbacks=[StepCheckpoint(root, every), Crash(batches)], **settings)
    newest = newest_checkpoint(root)
    return chain_of(name, store=root, callbacks=[StepCheckpoint(root, every)], **settings), newest.name


@pytest.mark.parametrize("name", KINDS)
def test_a_crash_within_an_epoch_changes_nothing(tmp_path, name):
    whole = chain_of(name)
    assert [record.counts["steps"] for record in whole.records] == [5, 5, 5]
    resumed, newest = crashed_and_resumed(tmp_path, name, batches=9)
    assert newest == "step-000000008.ckpt", "in the middle of generation 1, three of its five batches taken up"
    assert digests(resumed) == digests(whole)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixture", {"initialization": "warm"}),
        ("mixture", {"epochs_per_generation": 2, "mitigations": [DataAccumulation()]}),
        ("kde", {"steps_per_generation": 7}),
        ("kde", {"mitigations": [DataAccumulation(), WeightedLikelihood(0.7)]}),
        ("gaussian", {"mitigations": [AnchorReplay(0.5, "redrawn"), WeightedLikelihood(0.7)]}),
        ("gaussian", {"epochs_per_generation": 2}),
        ("categorical", {"mitigations": [DataAccumulation(30)]}),
        ("regression on the same covariates", {"mitigations": [DataAccumulation()]}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value.values())),
)
@pytest.mark.parametrize("batches", [3, 11])
def test_nor_does_one_beside_mitigations(tmp_path, name, settings, batches):
    resumed, newest = crashed_and_resumed(tmp_path, name, batches, every=1, **settings)
    assert newest.startswith(("step-", "epoch-"))
    assert digests(resumed) == digests(chain_of(name, **settings))


class Fault(pl.Callback):
    """Fails at the end of generation 1, when its rows are in the store and no checkpoint holds it."""

    def on_train_epoch_end(self, trainer, pl_module):
        if pl_module.clock.generation == 1:
            raise InterruptedError


@pytest.mark.parametrize("name", ["kde", "gaussian", "regression on the same covariates"])
def test_nor_does_one_after_a_harvest(tmp_path, name):
    with pytest.raises(InterruptedError):
        chain_of(name, store=tmp_path, callbacks=[Fault()])
    assert (tmp_path / "generations" / "gen_002" / "manifest.json").exists()
    assert digests(chain_of(name, store=tmp_path)) == digests(chain_of(name))


# --- buffers that grow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_state_is_loaded_whatever_was_fitted_before(name):
    make, data = KINDS[name]
    x, model, other = data().gold().tensors()[0], make(), make()
    state = {key: value.clone() for key, value in take_up(model, x, None, 40).items()}
    take_up(other, x[:13], None, 13)
    for target in (other, make()):
        target.load_state_dict(state)
        assert target.state_dict().keys() == state.keys()
        assert all(torch.equal(target.state_dict()[buffer], value) for buffer, value in state.items())
        assert torch.equal(target.sample(40, generator(1)), model.sample(40, generator(1)))
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.sample(40, generator(1)), model.sample(40, generator(1)))


def test_a_state_of_another_model_is_refused():
    wide = KDE(2)
    wide.fit(torch.randn(9, 2, generator=generator(0)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        KDE(1).load_state_dict(wide.state_dict())


# --- outside a chain --------------------------------------------------------------------------------------------------


def test_rows_of_another_shape_are_refused():
    model = Gaussian(2, replicates=3)
    for shape in ((5, 2), (5, 3, 1), (5, 7)):
        with pytest.raises(ValueError, match=r"it takes rows of shape \(3, 2\)"):
            model.fit(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"it takes rows of shape \(2,\)"):
        Gaussian(2).fit(torch.zeros(5, 3))


@pytest.mark.parametrize("replicates", [0, -1])
def test_replicates_are_at_least_one(replicates):
    with pytest.raises(ValueError, match="must be at least 1, or None"):
        Gaussian(2, replicates=replicates)
