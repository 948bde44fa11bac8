"""A conditional model on data without its labels ends in a sentence, before anything is trained where that can be."""

import pytest

from collapse import VAE, GaussianMixtureData, run_chain
from collapse.cli import main
from collapse.data import GaussianData, Samples
from collapse.mitigations import Mitigation
from collapse.recursion.rehearsal import rehearse

DATA = GaussianMixtureData([0.6, 0.3, 0.1], [[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]], rows=200, batch_size=50)


def vae(classes):
    return VAE((2,), 2, hidden=16, likelihood="gaussian", scale=0.5, classes=classes)


def chain(*mitigations, module, data=DATA):
    return run_chain(module, data, generations=3, samples_per_generation=60, mitigations=mitigations, evaluate=False)


class Unlabeled(GaussianData):
    """Says that there are classes, and has no labels."""

    classes = 2


@pytest.mark.parametrize(
    ("module", "data", "sentence"),
    [
        (
            VAE((1,), 1, likelihood="gaussian", classes=2),
            GaussianData(rows=9),
            r"GaussianData has none; leave the model",
        ),
        (VAE((1,), 1, likelihood="gaussian", classes=2), Unlabeled(rows=9), r"Unlabeled has none; leave the model's"),
        (vae(2), DATA, r"VAE\(classes=2\) knows fewer classes than GaussianMixtureData, which has 3; give classes=3"),
    ],
    ids=["no classes", "no labels", "too few"],
)
def test_data_without_the_labels_are_refused_before_anything_is_trained(module, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        rehearse(module, data, generations=2, samples=8)
    with pytest.raises(ValueError, match=sentence):
        chain(module=module, data=data)


def test_a_generation_that_lost_its_labels_is_a_sentence():
    class Forgets(Mitigation):
        def curate(self, samples, generation):
            return Samples(samples.x)

    with pytest.raises(ValueError, match=r"no row of the training set has a label.*train on labeled rows"):
        chain(Forgets(), module=vae(3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=gaussian", "model.classes=2", "model.likelihood=gaussian"], "GaussianData has none"),
        (["data=digits", "model.classes=4"], "knows fewer classes than Digits, which has 10; give classes=10"),
        (["data=digits", "model.classes=0"], "classes = 0 must be at least 1"),
    ],
    ids=["no classes", "too few", "none"],
)
def test_the_command_line_ends_with_two(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
