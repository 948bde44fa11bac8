"""Every config that is shipped loads, builds, and runs."""

import math
import re

import pytest

from collapse.config import cells, load, load_run
from collapse.config.build import build_data, build_mitigations, build_model, trainer_options
from collapse.config.execute import run
from collapse.config.load import GROUPS, config_root, names_in
from collapse.config.run_folder import finished
from collapse.config.theory import setting_of
from collapse.mitigations import MitigationStack
from collapse.oracle import compare

GROUP_FILES = [(group, name) for group in GROUPS for name in names_in(group)]
EXPERIMENTS = names_in("experiment")
IN_CLOSED_FORM = [name for name in EXPERIMENTS if "replicates" in load(name).config.model]
FILED = {**dict.fromkeys(["mnist", "fashion_mnist", "cifar10", "ingested"], "root"), "text_file": "path"}
"""Data that need files -> what says where they are."""
DATA_OF = {"vae": "digits", "diffusion": "digits", "gpt": "pydoc_text", "ngram": "markov"}
"""What a model's configs are tried on."""


def test_every_file_is_in_a_group_that_is_tested():
    files = {str(path.relative_to(config_root())) for path in config_root().rglob("*.yaml")}
    tested = {f"{group}/{name}.yaml" for group, name in GROUP_FILES} | {
        f"experiment/{name}.yaml" for name in EXPERIMENTS
    }
    assert files == tested | {"base.yaml"}
    assert EXPERIMENTS
    assert set(names_in("data")) > set(FILED)


@pytest.mark.parametrize(("group", "name"), GROUP_FILES, ids="/".join)
def test_a_group_file_loads_and_says_what_its_group_is_for(group, name):
    loaded = load(None, [f"{group}={name}"])
    origins = {key for key, origin in loaded.origins.items() if origin == f"configs/{group}/{name}.yaml"}
    assert {key.partition(".")[0] for key in origins} >= {GROUPS[group]}
    build_mitigations(loaded.config)
    trainer_options(loaded.config)


@pytest.mark.parametrize("name", sorted(set(names_in("data")) - set(FILED)))
def test_data_configs_give_gold_and_reference_rows(name):
    data = build_data(load(None, [f"data={name}"]).config)
    gold, reference = data.gold(), data.reference()
    assert len(gold) >= 500
    assert len(reference) >= 100
    assert gold.x.shape[1:] == reference.x.shape[1:]
    assert (gold.y is None) == (data.classes is None)


@pytest.mark.parametrize("name", sorted(FILED))
def test_data_configs_that_need_files_build_without_them(name, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    data = build_data(load(None, [f"data={name}", f"data.{FILED[name]}={nowhere}"]).config)
    with pytest.raises(FileNotFoundError, match=nowhere):
        data.gold()


@pytest.mark.parametrize("name", sorted(set(names_in("model")) - {"pretrained"}))  # which needs a folder
def test_model_configs_build(name):
    data = DATA_OF.get(name.partition("/")[0], "gaussian")
    config = load(None, [f"data={data}", f"model={name}"]).config
    model = build_model(config, build_data(config))
    assert model.describe() == model.twin().describe()
    wanted = {key: value for key, value in config.model.items() if key != "name"}
    assert {key: model.arguments[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", names_in("mitigation"))
def test_mitigation_configs_hold_one_mitigation(name):
    (mitigation,) = build_mitigations(load(None, [f"mitigation={name}"]).config)
    assert eval(repr(mitigation), {type(mitigation).__name__: type(mitigation)}) == mitigation
    assert len(MitigationStack([mitigation])) == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_is(name):
    text = (config_root() / "experiment" / f"{name}.yaml").read_text()
    assert text.startswith("# ")


def budget(loaded):
    """The smallest budget in the unit that an experiment counts in."""
    return ["epochs_per_generation=1", *(["steps_per_generation=5"] if loaded.config.steps_per_generation else [])]


def rows(loaded):
    """A root for data that need one is nobody's: their experiments run on digits here."""
    return ["data=digits"] if loaded.config.data["name"] in {"MNIST", "FashionMNIST", "CIFAR10"} else []


@pytest.mark.parametrize("name", IN_CLOSED_FORM)
def test_an_experiment_in_closed_form_says_what_was_published_what_differs_and_what_was_reached(name):
    text = (config_root() / "experiment" / f"{name}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert text.splitlines()[: len(header)] == header
    assert re.search(r"arXiv:\d{4}\.\d{5}|Nature \d+:\d+", header[0])
    for word in ("Published: ", "Differs: ", "Reached"):
        assert sum(line.startswith(f"# {word}") for line in header) == 1, word
    reached = " ".join(header[[line.startswith("# Reached") for line in header].index(True) :])
    assert f"collapse theory {name}" in reached, "the command that gives the numbers"
    assert len(re.findall(r"\[-?\d+\.?\d*, -?\d+\.?\d*\]", reached)) >= 1, "an interval"


@pytest.mark.parametrize("name", IN_CLOSED_FORM)
def test_every_experiment_in_closed_form_agrees_with_its_laws(name):
    found = cells(name, ["data.replicates=20", "model.replicates=20", "generations=3"])
    for label, loaded in found:
        rows = compare(setting_of(loaded)).rows
        assert [row.name for row in rows if row.misses] == [], label
        assert {row.t for row in rows} == {1, 2, 3}
        assert {row.replicates for row in rows} == {20}


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(IN_CLOSED_FORM)))
def test_every_experiment_runs(name, tmp_path):
    loaded = load(name)
    overrides = [
        "generations=2",
        "samples_per_generation=64",
        "evaluation.max_rows=100",
        "wandb.enabled=false",
        f"out={tmp_path / 'run'}",
        *budget(loaded),
        *rows(loaded),
    ]
    chain = run(load(name, overrides))
    assert finished(chain.root, 2)
    assert [record.counts["kept"] for record in chain.records] == [64, 64]
    profiled = {"heldout_cross_entropy"} if loaded.config.model["name"] == "GPT" else {"coverage", "variance_ratio"}
    for record in chain.records:
        assert all(math.isfinite(value) for value in record.metrics.values())
        assert profiled | {"real_fraction"} <= set(record.metrics)
    asked = load(name, overrides)
    pinned = build_data(asked.config).pinned()  # the hash of a text
    assert load_run(chain.root).tree == {**asked.tree, "data": {**asked.tree["data"], **pinned}}
