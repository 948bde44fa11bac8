"""A run goes on with its text and its pretrained model in other folders, and stops where they are other ones."""

import json
import shutil

import pytest

from collapse.cli import main
from collapse.config import ConfigError, load, load_run
from collapse.config.execute import run
from collapse.data import PydocText
from collapse.recursion import chain as chains

TEXT = "".join(f"The {number}th line of a text.\n\n" for number in range(60))


class Cut(Exception):
    """Ends a chain as a crash does."""


@pytest.fixture
def here(tmp_path, language_models):
    """A folder with a text and a model in it."""
    folder = tmp_path / "here"
    shutil.copytree(language_models["gpt2"], folder / "model")
    (folder / "text.txt").write_text(TEXT)
    return folder


def settings(folder, out, *more):
    return [
        *("data=text_file", f"data.path={folder / 'text.txt'}", "data.length=12", "data.documents=paragraph"),
        *("model=pretrained", f"model.path={folder / 'model'}", "model.prompt=8", "model.learning_rate=0.001"),
        *("generations=2", "samples_per_generation=10", "steps_per_generation=3", "wandb.enabled=false"),
        *("evaluation.enabled=false", f"out={out}", *more),
    ]


def moved(folder):
    return folder.rename(folder.parent / "there")


def pools(root):
    manifests = [root / f"generations/gen_00{index}/manifest.json" for index in range(3)]
    return [json.loads(path.read_text())["files"] for path in manifests]


def test_a_run_says_what_it_read_and_goes_on_elsewhere(here, tmp_path, monkeypatch):
    whole = run(load(None, settings(here, tmp_path / "whole")))
    with monkeypatch.context() as patch:

        def cut(*unused, **settings):
            raise Cut

        patch.setattr(chains.RecursiveTrainer, "_turn", cut)
        with pytest.raises(Cut):
            run(load(None, settings(here, tmp_path / "run")))
    kept = load_run(tmp_path / "run").config
    assert len(kept.data["sha256"]) == len(kept.model["sha256"]) == 64
    there = moved(here)
    with pytest.raises(ConfigError, match=r"path = '.*here/model' is no folder of this machine|here/text\.txt"):
        run(load_run(tmp_path / "run"))
    found = run(load(None, settings(there, tmp_path / "run")))
    assert len(found.records) == 2
    assert pools(found.root) == pools(whole.root)
    identity = (found.root / "run.json").read_text()
    assert identity == (whole.root / "run.json").read_text()
    assert "here" not in identity
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(found.root)])
    assert ended.value.code == 0
    assert run(load(None, settings(there, tmp_path / "whole"))).records == whole.records  # finished, and this run's own


@pytest.mark.parametrize("name", ["text.txt", "model/config.json"])
def test_another_content_is_another_run(here, tmp_path, name):
    run(load(None, settings(here, tmp_path / "run", "generations=1")))
    there = moved(here)
    content = (there / name).read_text()
    (there / name).write_text(content + "\n")
    with pytest.raises(ConfigError, match=r"holds another run: its (data|model) is \{.*'sha256': "):
        run(load(None, settings(there, tmp_path / "run", "generations=1")))
    (there / name).write_text(content)
    assert len(run(load(None, settings(there, tmp_path / "run", "generations=1"))).records) == 1


def test_a_resumed_run_stops_at_another_model_in_the_old_place(here, tmp_path):
    run(load(None, settings(here, tmp_path / "run", "generations=1")))
    config = here / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ConfigError, match="its files have changed; put the old ones back, or begin another run"):
        run(load_run(tmp_path / "run"))


def test_data_within_data_are_held_to_their_text_by_name_too(tmp_path):
    noisy = "data={name: Contaminated, source: PydocText, share: 0.1, leak: marginals}"
    small = ["model=ngram", "generations=1", "samples_per_generation=5", "wandb.enabled=false"]
    run(load(None, [noisy, *small, "evaluation.enabled=false", f"out={tmp_path / 'run'}"]))
    source = load_run(tmp_path / "run").config.data["source"]
    assert source == {"name": "PydocText", "sha256": PydocText().sha256}
    assert len(run(load_run(tmp_path / "run")).records) == 1
