"""Names become objects: the namespaces are the registry, and what is wrong is said with the key and the way out."""

import importlib
import sys

import pytest

import collapse
from collapse.config import ConfigError, listing, load
from collapse.config.build import build_data, build_mitigations, build_model, registry, trainer_options
from collapse.config.schema import ChainConfig
from collapse.config.tracking import resolved_mode
from collapse.data import Digits, RecursiveDataModule, RingOfGaussians
from collapse.mitigations import EMA, AnchorReplay, DataAccumulation, Mitigation, SIGReg
from collapse.models import VAE, Gaussian, GenerativeModule

BASES = {"data": RecursiveDataModule, "models": GenerativeModule, "mitigations": Mitigation}


def config(*overrides):
    return load(None, overrides).config


def refusal(build, *overrides):
    with pytest.raises(ConfigError) as caught:
        build(config(*overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def model_of(config):
    return build_model(config, build_data(config))


# The registry


@pytest.mark.parametrize("kind", BASES)
def test_what_a_namespace_exports_can_be_named(kind):
    module = importlib.import_module(f"collapse.{kind}")
    exported = {name: getattr(module, name) for name in module.__all__}
    classes = {
        name: value for name, value in exported.items() if isinstance(value, type) and issubclass(value, BASES[kind])
    }
    del classes[BASES[kind].__name__]
    assert registry(kind) == classes
    assert len(classes) >= 2
    assert set(classes) <= set(collapse.__all__)


def test_bases_and_helpers_cannot_be_named():
    names = {name for kind in BASES for name in registry(kind)}
    assert not names & {"Mitigation", "MitigationStack", "Claim", "GenerativeModule", "RecursiveDataModule", "DataPool"}


# What is built


def test_data():
    digits = build_data(config("data.batch_size=7", "data.held_out=0.5"))
    assert type(digits) is Digits
    assert (digits.batch_size, digits.held_out) == (7, 0.5)
    assert digits.describe() == Digits(0.5, batch_size=7).describe()
    assert build_data(config("data=ring", "data.batch_size=null")).batch_size is None


def test_a_model_takes_the_shape_of_the_rows():
    assert model_of(config("model.latent_dim=3")).describe() == config_model((1, 8, 8), latent_dim=3).describe()
    assert model_of(config("data=ring")).shape == (2,)
    given = build_model(config("model.shape=[1,4,4]"), RingOfGaussians(rows=4))
    assert given.shape == (1, 4, 4)
    gaussian = model_of(config("data=gaussian", "model=gaussian", "model.ddof=0"))
    assert type(gaussian) is Gaussian  # takes no shape
    assert gaussian.ddof == 0


def test_a_model_takes_the_tokens_of_the_rows():
    text = model_of(config("data=pydoc_text", "data.length=32", "model=ngram"))
    assert text.describe() == "NGram(vocabulary=257, length=32, smoothing=0.01)"
    chain = model_of(config("data=markov", "model=ngram", "model.smoothing=0"))
    assert chain.describe() == "NGram(vocabulary=2, length=16)"
    wide = "data={name: MarkovData, transition: [[0, 1, 0], [0, 0, 1], [1, 0, 0]], length: 5, replicates: 7}"
    model = model_of(config(wide, "model=ngram", "model.replicates=7"))
    assert (model.vocabulary, model.length, model.replicates) == (3, 5, 7)  # not as long as there are replicates
    given = model_of(config("data=markov", "model=ngram", "model.vocabulary=9", "model.length=15"))
    assert (given.vocabulary, given.length) == (9, 15)


def test_a_model_of_tokens_needs_data_that_are():
    message = refusal(model_of, "data=gaussian", "model=ngram")
    assert message == "model: NGram needs 'vocabulary'; give vocabulary=VALUE"


def config_model(shape, **arguments):
    """The VAE of configs/model/vae.yaml."""
    said = {name: value for name, value in load().tree["model"].items() if name != "name"}
    return VAE(shape=shape, **{**said, **arguments})


def test_mitigations_in_their_order():
    overrides = "mitigations=[DataAccumulation,{AnchorReplay:{fraction:0.1}},{SIGReg:{weight:1}},{EMA:null}]"
    assert build_mitigations(config(overrides)) == [
        DataAccumulation(),
        AnchorReplay(fraction=0.1),
        SIGReg(weight=1),
        EMA(),
    ]
    assert build_mitigations(config()) == []


def test_trainer_options_are_lightnings():
    assert trainer_options(config("trainer.devices=2", "trainer.precision=bf16-mixed")) == {
        "devices": 2,
        "precision": "bf16-mixed",
    }


# What is refused


@pytest.mark.parametrize(
    ("build", "override", "said"),
    [
        (build_data, "data.name=Digts", ["data: there is no 'Digts'; did you mean 'Digits'?"]),
        (build_data, "data.name=VAE", ["data: there is no 'VAE'", "Digits"]),
        (build_data, "data.batchsize=3", ["data: Digits takes no 'batchsize'; did you mean 'batch_size'?"]),
        (build_data, "data.batch_size=few", ["data.batch_size='few' must be of type int"]),
        (build_data, "data.seed=true", ["data.seed=True must be of type int"]),
        (build_data, "data.held_out=2", ["data (Digits): held_out", "got 2"]),
        (build_data, "data=mnist", ["data: MNIST needs 'root'; give root=VALUE"]),
        (model_of, "model.name=Vae", ["model: there is no 'Vae'; did you mean 'VAE'?"]),
        (model_of, "model.latent=3", ["model: VAE takes no 'latent'; did you mean 'latent_dim'?"]),
        (model_of, "model.latent_dim=1.5", ["model.latent_dim=1.5 must be of type int"]),
        (model_of, "model.scale=wide", ["model.scale='wide' must be of type float"]),
        (model_of, "model.shape=8", ["model.shape=8 must be of type"]),
        (model_of, "model.likelihood=gauss", ["model (VAE)", "'gauss'", "did you mean 'gaussian'?"]),
        (build_mitigations, "mitigations=[Anchor]", ["mitigations[0]: there is no 'Anchor'", "'AnchorReplay'"]),
        (build_mitigations, "mitigations=[EMA,Mitigation]", ["mitigations[1]: there is no 'Mitigation'"]),
        (build_mitigations, "mitigations=[AnchorReplay]", ["mitigations[0]: AnchorReplay needs 'fraction'"]),
        (build_mitigations, "mitigations=[{EMA:{dcay:0.9}}]", ["mitigations[0]: EMA takes no 'dcay'", "'decay'"]),
        (build_mitigations, "mitigations=[{EMA:{decay:x}}]", ["mitigations[0].decay='x' must be of type float"]),
        (build_mitigations, "mitigations=[{EMA:{decay:2}}]", ["mitigations[0] (EMA): decay must lie in [0, 1), got 2"]),
        (build_mitigations, "mitigations=[3]", ["mitigations[0]=3 must be a name", "{Name: {argument: value}}"]),
        (build_mitigations, "mitigations=[{EMA:[1]}]", ["mitigations[0]={'EMA': [1]} must be a name"]),
        (build_mitigations, "mitigations=[{EMA:{},SIGReg:{}}]", ["mitigations[0]=", "must be a name"]),
        (build_mitigations, "mitigations=[Replace,{SlidingWindow:{k:2}}]", ["Replace()", "SlidingWindow(k=2)", "both"]),
        (trainer_options, "trainer.device=2", ["unknown key 'trainer.device'; did you mean 'devices'?"]),
        (trainer_options, "trainer.max_epochs=2", ["trainer.max_epochs is decided by the chain", "leave it out"]),
        (trainer_options, "trainer.logger=false", ["trainer.logger is decided by the chain"]),
    ],
)
def test_what_is_wrong_is_said(build, override, said):
    message = refusal(build, override)
    for part in said:
        assert part in message


def test_no_argument_is_proposed_that_would_be_refused():
    assert "max_epochs" not in refusal(trainer_options, "trainer.max_epoch=2")


def test_a_component_needs_a_name():
    with pytest.raises(
        ConfigError, match="data needs a name; there are: CIFAR10, CategoricalData, Contaminated, Digits"
    ):
        build_data(ChainConfig(data={"batch_size": 3}))


# Entry points

PLUGIN = '''
from collapse.data import RingOfGaussians
from collapse.mitigations import Mitigation
from collapse.models import Gaussian


class Forget(Mitigation):
    """Forget rows."""

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = rate


class Rings(RingOfGaussians):
    """Rings of rings."""


class Bell(Gaussian):
    """A Gaussian by another name."""


class Stranger:
    """Something else."""
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(group=..., ...)`` puts a package with the given entry points on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(**points):
        (tmp_path / "forgetful.py").write_text(PLUGIN)
        folder = tmp_path / "forgetful-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1.0\n")
        lines = [f"[collapse.{group}]\n" + "\n".join(entries) for group, entries in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")

    yield install
    sys.modules.pop("forgetful", None)


def test_third_parties_add_theirs(install):
    install(
        mitigations=["Forget = forgetful:Forget"], data=["Rings = forgetful:Rings"], models=["Bell = forgetful:Bell"]
    )
    (forget,) = build_mitigations(config("mitigations=[{Forget:{rate:0.25}}]"))
    assert repr(forget) == "Forget(rate=0.25)"
    assert type(forget).__module__ == "forgetful"
    assert len(build_data(config("data={name:Rings,rows:10}")).gold()) == 10
    assert model_of(config("data=gaussian", "model={name:Bell,dim:1}")).dim == 1
    assert ("Forget", "Forget rows.") in listing("mitigations")
    assert "did you mean 'Forget'?" in refusal(build_mitigations, "mitigations=[Forgets]")
    assert "takes no 'rat'; did you mean 'rate'?" in refusal(build_mitigations, "mitigations=[{Forget:{rat:1}}]")


def test_third_parties_do_not_replace_ours(install):
    install(mitigations=["EMA = forgetful:Forget"])
    assert registry("mitigations")["EMA"] is EMA


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("forgetful:Nothing", "cannot be loaded"),
        ("no_such_module:Forget", "cannot be loaded (No module named 'no_such_module')"),
        ("forgetful:Stranger", "is no Mitigation"),
        ("forgetful:Bell", "is no Mitigation"),
    ],
)
def test_a_broken_third_party_is_named(install, value, said):
    install(mitigations=[f"Broken = {value}"])
    message = refusal(build_mitigations, "mitigations=[EMA]")
    assert message.startswith(f"the entry point Broken = {value} of the group collapse.mitigations")
    assert said in message
    assert message.endswith("mend or uninstall its package")


# Weights & Biases: where it is configured, and nowhere else


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """An environment without an account; returns its home."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_an_account_weights_and_biases_is_offline(nobody):
    assert resolved_mode("auto") == "offline"
    (nobody / ".netrc").write_text("machine example.org login me password secret\n")
    (nobody / ".netrc").chmod(0o600)
    assert resolved_mode("auto") == "offline"
    (nobody / ".netrc").write_text("not a netrc\n")
    assert resolved_mode("auto") == "offline"


def test_with_an_account_it_is_online(nobody, monkeypatch):
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (nobody / ".netrc").chmod(0o600)
    assert resolved_mode("auto") == "online"
    (nobody / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert resolved_mode("auto") == "online"


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_mode_that_is_asked_for_is_taken(nobody, monkeypatch, mode):
    assert resolved_mode(mode) == mode
    monkeypatch.setenv("WANDB_MODE", mode)
    assert resolved_mode("auto") == mode


def test_a_mode_that_does_not_exist(nobody):
    with pytest.raises(ConfigError, match=r"wandb\.mode='ofline' is no mode; did you mean 'offline'"):
        resolved_mode("ofline")
