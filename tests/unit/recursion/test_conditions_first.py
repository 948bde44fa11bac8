"""What samples are conditioned on is looked for before a chain trains or writes anything, by run_chain too."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from collapse import VAE, AnchorReplay, GaussianMixtureData, MarkovData, RecursiveTrainer, run_chain
from collapse.data import Samples, TextFile
from collapse.data.store import StoreError
from collapse.models import GPT
from collapse.recursion import rehearsal

TEXT = "".join(f"Line {number}.\n" for number in range(40))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return TextFile(tmp_path / "text.txt", 8, batch_size=16)


@pytest.fixture
def trained(monkeypatch):
    """The steps that were trained."""
    steps, step = [], GPT.training_step
    monkeypatch.setattr(GPT, "training_step", lambda *given: steps.append(given[2]) or step(*given))
    return steps


def gpt(vocabulary=257, length=8, **settings):
    return GPT(vocabulary, length, layers=1, heads=1, width=8, **settings)


def chain(module, data, store, **settings):
    budget = {"generations": 2, "samples_per_generation": 8, "steps_per_generation": 2, "evaluate": False}
    return run_chain(module, data, store=store, **budget, **settings)


@pytest.mark.parametrize(
    ("module", "data", "sentence"),
    [
        (gpt(prompt=50), None, r"held-out text has \d+ tokens, fewer than one row of 50; lower length, or give"),
        (gpt(130), None, "vocabulary = 130, but the rows of TextFile have 257 tokens; use that"),
        (
            gpt(2, 16, document_start=True),
            MarkovData(rows=8),
            "document_start = True, but MarkovData has no documents; use a text, or leave it out",
        ),
        (
            gpt(2, 16, prompt=3),
            MarkovData(rows=8),
            "prompt = 3, but MarkovData has no text to begin with; use a text, or prompt = 0",
        ),
    ],
    ids=["long prompt", "small vocabulary", "no documents", "no text"],
)
def test_nothing_is_trained_or_written_for_conditions_that_are_not_there(
    text, tmp_path, trained, module, data, sentence
):
    for store in (tmp_path / "run", None):
        with pytest.raises(ValueError, match=sentence):
            chain(module, text if data is None else data, store)
    assert trained == []
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


def test_the_folder_is_free_for_the_chain_as_it_was_meant(text, tmp_path, trained):
    with pytest.raises(ValueError, match="fewer than one row of 50"):
        chain(gpt(prompt=50), text, tmp_path / "run")
    found = chain(gpt(prompt=5), text, tmp_path / "run")
    assert [record.counts["steps"] for record in found.records] == [2, 2]
    assert len(trained) == 4
    with pytest.raises(StoreError, match="another run: its model is"):  # of a run there is, the store has the word
        chain(gpt(prompt=6), text, tmp_path / "run")


def test_a_trainer_of_ones_own_looks_as_well(text, tmp_path, trained):
    recursion = RecursiveTrainer(2, samples_per_generation=8, store=tmp_path / "run")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1}
    trainer = pl.Trainer(callbacks=[recursion], **quiet, **recursion.trainer_kwargs())
    with pytest.raises(ValueError, match="fewer than one row of 50"):
        trainer.fit(gpt(prompt=50), datamodule=text)
    assert trained == []
    assert not (tmp_path / "run" / "run.json").exists()


class Unlabeled(GaussianMixtureData):
    """Has a label column, and no label in it."""

    def gold(self):
        clean = super().gold()
        return Samples(clean.x, np.full(len(clean), -1))


def test_labels_that_are_all_missing_are_found_first(tmp_path, monkeypatch):
    monkeypatch.setattr(VAE, "training_step", lambda *unused: pytest.fail("a step was trained"))
    model = VAE((1,), 1, hidden=4, likelihood="gaussian", classes=2)
    with pytest.raises(ValueError, match="no row of the training set has a label"):
        chain(model, Unlabeled([0.5, 0.5], [[-4.0], [4.0]], rows=64), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_module_is_asked_with_the_mixture_of_generation_zero_and_stays_as_it_is(tmp_path):
    class Asks(VAE):
        def conditions(self, data):
            torch.rand(7)  # which is nobody's business
            seen.append(super().conditions(data).probabilities.tolist())
            return super().conditions(data)

    data = GaussianMixtureData([0.5, 0.5], [[-4.0], [4.0]], rows=64)
    share = float(torch.as_tensor(data.gold().y).double().mean())
    digests = {}
    for kind in (VAE, Asks):
        seen = []
        module = kind((1,), 1, hidden=4, likelihood="gaussian", classes=2)
        found = chain(module, data, None, mitigations=[AnchorReplay(0.5)])
        digests[kind] = [record.digests["pool"] for record in found.records]
        assert module.training_facts == {}
    assert seen[0] == pytest.approx([1 - share, share])
    assert digests[Asks] == digests[VAE]


def test_a_module_that_is_conditioned_on_nothing_costs_no_composition(monkeypatch):
    monkeypatch.setattr(rehearsal, "compose", lambda *unused: pytest.fail("generation 0 was composed for nothing"))
    data = GaussianMixtureData([0.5, 0.5], [[-4.0], [4.0]], rows=64)
    assert len(chain(VAE((1,), 1, hidden=4, likelihood="gaussian"), data, None).records) == 2
