"""Configs are composed in order, strictly, and every value knows where it came from."""

from pathlib import Path

import pytest
import yaml

from collapse.config import ConfigError, annotated, did_you_mean, load, load_run
from collapse.config.execute import run
from collapse.config.load import config_root, names_in
from collapse.config.schema import ChainConfig

DEFAULTS = load().tree


@pytest.fixture
def write(tmp_path):
    """``write(text)`` makes a config file and returns its path."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def refusal(config=None, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load(config, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Order


def test_the_default_is_the_one_that_is_shipped():
    loaded = load()
    assert loaded.config.data == {"name": "Digits", "batch_size": 128}
    assert loaded.config.model["name"] == "VAE"
    assert (loaded.config.generations, loaded.config.epochs_per_generation, loaded.config.seed) == (10, 40, 0)
    assert loaded.config.mitigations == []
    assert loaded.tree.keys() == vars(ChainConfig()).keys()


def test_later_layers_win(write):
    path = write("include: [data/ring]\ngenerations: 4\nseed: 1\ndata:\n  rows: 70\n")
    loaded = load(path, ["seed=2", "data.rows=80", "seed=3"])
    assert loaded.config.data == {"name": "RingOfGaussians", "rows": 80}
    assert (loaded.config.generations, loaded.config.seed) == (4, 3)
    assert loaded.config.epochs_per_generation == 40  # of the base
    assert load(path).config.data["rows"] == 70  # the file over what it includes


def test_a_group_chosen_on_the_command_line_stands_where_it_was_said():
    assert load(None, ["model.hidden=8", "model=vae/conv"]).config.model["hidden"] == 256
    assert load(None, ["model=vae/conv", "model.hidden=8"]).config.model["hidden"] == 8


def test_an_experiment_is_found_by_its_name_or_by_its_path():
    by_name = load("demo")
    assert by_name.tree == load("experiment/demo").tree == load(str(config_root() / "experiment" / "demo.yaml")).tree
    assert by_name.config.model["harvest"] == "mean"


def test_includes_are_followed_and_stay_under_the_root(write, tmp_path):
    (tmp_path / "outside.yaml").write_text("seed: 7\n")
    for include in ("../setup", f"../../../..{tmp_path}/outside", f"{tmp_path}/outside", "data/nothing", "data"):
        message = refusal(write(f"include: [{include}]\n"))
        assert message == f"{tmp_path}/mine.yaml: include {include!r} is no file under {config_root()}"
    for include in ("data/digits", "3"):
        message = refusal(write(f"include: {include}\n"))
        assert "must be a list" in message
        assert include in message
    assert "include" not in load(write("include: [data/ring, model/gaussian]\n")).tree


# Budgets: epochs or steps, whichever was said later


@pytest.mark.parametrize(
    ("text", "overrides", "epochs", "steps"),
    [
        ("steps_per_generation: 7\n", [], 1, 7),  # over the base's epochs
        ("seed: 1\n", ["steps_per_generation=7"], 1, 7),
        ("epochs_per_generation: 3\n", ["steps_per_generation=7"], 1, 7),
        ("steps_per_generation: 7\n", ["epochs_per_generation=3"], 3, None),
        ("steps_per_generation: 7\n", ["epochs_per_generation=1"], 1, None),
        ("steps_per_generation: 7\n", ["steps_per_generation=8"], 1, 8),
        ("steps_per_generation: 7\n", ["steps_per_generation=null"], 1, None),
        ("steps_per_generation: null\n", [], 40, None),  # which says nothing
        ("epochs_per_generation: 1\nsteps_per_generation: 7\n", [], 1, 7),  # as a run folder has it
        ("include: [model/gaussian]\nsteps_per_generation: 7\n", [], 1, 7),
        ("steps_per_generation: 7\n", ["model=gaussian"], 1, None),  # whose file counts in epochs
        ("seed: 1\n", ["model=gaussian", "steps_per_generation=7"], 1, 7),
        ("seed: 1\n", ["steps_per_generation=7", "model=gaussian"], 1, 7),  # what was asked for stays
    ],
)
def test_a_budget_takes_the_place_of_one_in_another_unit(write, text, overrides, epochs, steps):
    config = load(write(text), overrides).config
    assert (config.epochs_per_generation, config.steps_per_generation) == (epochs, steps)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("steps_per_generation: 7\nepochs_per_generation: 3\n", []),
        ("seed: 1\n", ["steps_per_generation=7", "epochs_per_generation=3"]),
        ("seed: 1\n", ["epochs_per_generation=3", "steps_per_generation=7"]),
        ("steps_per_generation: 9\n", ["epochs_per_generation=3", "seed=1", "steps_per_generation=7"]),
    ],
)
def test_two_budgets_said_at_once_are_refused_where_the_chain_begins(write, tmp_path, monkeypatch, text, overrides):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="steps_per_generation=7 and epochs_per_generation=3 are two budgets; give"):
        run(load(write(text), overrides))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_budget_that_was_replaced_leaves_no_origin(write):
    loaded = load(write("steps_per_generation: 7\n"))
    assert loaded.origins["epochs_per_generation"] == "default"
    assert loaded.digest == load(write("steps_per_generation: 7\nepochs_per_generation: 1\n")).digest


# Components: another class starts afresh, the same class merges


def test_another_class_drops_the_arguments_of_the_old_one():
    assert load(None, ["data=ring"]).config.data == {"name": "RingOfGaussians", "rows": 5000}
    assert load(None, ["model=gaussian"]).config.model == {"name": "Gaussian", "dim": 1, "ddof": 1}
    assert load(None, ["model.hidden=8", "model={name: Gaussian}"]).config.model == {"name": "Gaussian"}
    assert not [name for name in load(None, ["data=ring"]).origins if name == "data.batch_size"]


def test_the_same_class_keeps_what_is_not_said_again():
    conv = load(None, ["model.scale=0.5", "model=vae/conv"]).config.model
    assert conv["scale"] == 0.5  # vae/conv says nothing about it
    assert (conv["network"], conv["latent_dim"]) == ("conv", 20)
    assert load(None, ["model={name: VAE, hidden: 8}"]).tree["model"] == {**DEFAULTS["model"], "hidden": 8}


def test_arguments_without_a_class_go_to_the_class_there_is(write):
    assert load(write("model:\n  hidden: 8\n")).tree["model"] == {**DEFAULTS["model"], "hidden": 8}


def test_a_list_of_mitigations_replaces_the_one_before():
    both = load(None, ["mitigation=accumulate", "mitigation=sigreg"]).config.mitigations
    assert both == [{"SIGReg": {"weight": 0.05}}]
    assert load(None, ["mitigation=accumulate", "mitigations=[]"]).config.mitigations == []


def test_a_group_may_set_other_keys_too():
    loaded = load(None, ["model=gaussian"])
    assert loaded.config.epochs_per_generation == 1
    assert loaded.origins["epochs_per_generation"] == "configs/model/gaussian.yaml"


# Origins


def test_every_leaf_has_an_origin(write):
    path = write("include: [data/ring]\ngenerations: 4\nwandb:\n  project: mine\n")
    origins = load(path, ["model=vae/conv", "model.beta=2", "evaluation.neighbors=3"]).origins
    assert origins["data.rows"] == "configs/data/ring.yaml"
    assert origins["generations"] == origins["wandb.project"] == path
    assert origins["model.network"] == "configs/model/vae/conv.yaml"
    assert origins["model.scale"] == "configs/model/vae.yaml"
    assert origins["model.beta"] == origins["evaluation.neighbors"] == "command line"
    assert origins["seed"] == "configs/base.yaml"
    assert origins["chunk_size"] == origins["wandb.tags"] == origins["trainer"] == "default"
    assert set(origins.values()) == {
        "default",
        "command line",
        path,
        *(f"configs/{name}.yaml" for name in ("base", "data/ring", "model/vae", "model/vae/conv")),
    }


def test_a_printed_config_shows_each_value_and_origin(write):
    loaded = load(None, ["mitigations=[Replace,{EMA:{decay:0.9}}]", "wandb.tags=[a]"])
    text = annotated(loaded)
    assert yaml.safe_load(text) == loaded.tree
    assert len({line.index("  # ") for line in text.splitlines() if "  # " in line}) == 1, "origins are aligned"
    shown = {line.split(":")[0].strip() for line in text.splitlines() if line.endswith("# command line")}
    assert shown == {"mitigations", "tags"}
    assert load(write(text)).tree == loaded.tree


# Values from the command line


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("out=runs/a=b", "out", "runs/a=b"),
        ("out=null", "out", None),
        ("steps_per_generation=7", "steps_per_generation", 7),
        ("trainer.precision=bf16-mixed", "trainer", {"precision": "bf16-mixed"}),
        ("trainer={devices:2,strategy:ddp}", "trainer", {"devices": 2, "strategy": "ddp"}),
        ("mitigations=[Replace]", "mitigations", ["Replace"]),
        (
            "mitigations=[DataAccumulation,{AnchorReplay:{fraction:0.1}}]",
            "mitigations",
            ["DataAccumulation", {"AnchorReplay": {"fraction": 0.1}}],
        ),
        (
            "mitigations=[DataAccumulation, {AnchorReplay: {fraction: 0.1, rows: 'a:b'}}]",
            "mitigations",
            ["DataAccumulation", {"AnchorReplay": {"fraction": 0.1, "rows": "a:b"}}],
        ),
        ("data={name:MNIST,root:/a/b:c}", "data", {"name": "MNIST", "root": "/a/b:c"}),
        ("data={name:MNIST,root:'/a/b:c'}", "data", {"name": "MNIST", "root": "/a/b:c"}),
        ("data={name:MNIST,root:/a/b}", "data", {"name": "MNIST", "root": "/a/b"}),
        ("mitigations=[EMA:{decay:0.9}]", "mitigations", [{"EMA": {"decay": 0.9}}]),
        (
            "wandb={tags:[a,'b:c'],group:'x,y:z'}",
            "wandb",
            {**DEFAULTS["wandb"], "tags": ["a", "b:c"], "group": "x,y:z"},
        ),
        ("data={name:MNIST,root:s3://a}", "data", {"name": "MNIST", "root": "s3://a"}),
    ],
)
def test_values_have_their_type_without_spaces_too(override, key, value):
    found = load(None, [override]).tree[key]
    assert found == value
    assert type(found) is type(value)


def test_numbers_stay_what_they_are_and_floats_take_integers():
    config = load(None, ["model.scale=1e-3", "model.beta=2", "wandb.project=123"]).config
    assert (config.model["scale"], config.model["beta"]) == (1e-3, 2)
    assert config.wandb.project == "123"


# Refusals: the key, the value, and what it should have been


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generation=3", ["unknown key 'generation'", "command line", "did you mean 'generations'?"]),
        ("wandb.grup=x", ["unknown key 'wandb.grup'", "did you mean 'group'?"]),
        ("evaluation.k=3", ["unknown key 'evaluation.k'", "there are: check, enabled, gallery, max_rows, neighbors"]),
        ("a.b.c=3", ["unknown key 'a'", "there are: checkpoint_steps,"]),
        ("seed=abc", ["seed", "'abc'", "command line"]),
        ("seed=1.5", ["seed", "1.5"]),
        ("generations=null", ["generations", "command line"]),
        ("wandb.enabled=maybe", ["wandb.enabled", "'maybe'", "bool"]),
        ("wandb=false", ["wandb=False", "write wandb.KEY=VALUE"]),
        ("data=[1]", ["data=[1] (from command line)", "write data.KEY=VALUE"]),
        ("trainer=3", ["trainer=3", "write trainer.KEY=VALUE"]),
        ("mitigations=Replace", ["mitigations='Replace'", "must be a list; write [Replace]"]),
        ("wandb.tags=a", ["wandb.tags='a'", "must be a list; write [a]"]),
        ("mitigations=null", ["mitigations=None", "must be a list; write []"]),
        ("data=mnst", ["data=mnst", "did you mean 'mnist'?"]),
        ("model=gan", ["model=gan", "no such config"]),
        ("mitigation=anchors", ["mitigation=anchors", "did you mean 'anchor'?"]),
        ("seed", ["'seed' is no override; write key=value"]),
        ("=3", ["'=3' is no override; write key=value"]),
        ("mitigations=[{EMA:{decay:[}}]", ["mitigations=[{EMA:{decay:[}}]", "cannot be read", "line 1"]),
    ],
)
def test_an_override_that_is_wrong_is_refused(override, said):
    message = refusal(None, [override])
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generation: 3\n", ["unknown key 'generation'", "mine.yaml", "did you mean 'generations'?"]),
        ("seed: abc\n", ["seed", "'abc'", "mine.yaml"]),
        ("wandb:\n  enabled: [1]\n", ["wandb.enabled", "mine.yaml"]),
        ("1: 3\n", ["unknown key '1'"]),
        ("- 1\n", ["mine.yaml must hold keys and values"]),
        ("seed: [1\ndata: 3\n", ["mine.yaml cannot be read as YAML", "line 2"]),
        ("seed: 1\n model: 3\n", ["mine.yaml cannot be read as YAML", "line 2"]),
        ("seed: ${nothing}\n", ["mine.yaml cannot be read as YAML", "'nothing' not found"]),
    ],
)
def test_a_file_that_is_wrong_is_refused(write, text, said):
    message = refusal(write(text))
    for part in said:
        assert part in message


def test_a_config_that_is_not_there_is_refused():
    assert refusal("mine.yaml") == "there is no config file mine.yaml"
    assert refusal("dmo") == "there is no experiment 'dmo'; did you mean 'demo'?"


def test_bytes_are_no_config(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as YAML" in refusal(str(tmp_path / "mine.yaml"))


def test_did_you_mean():
    assert did_you_mean("anchorreplay", ["EMA", "AnchorReplay"]) == "; did you mean 'AnchorReplay'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; there are: a, b"
    assert did_you_mean("zzz", []) == ""


# Identity and run folders


def test_the_digest_is_of_what_decides_the_results():
    one = load()
    assert one.out == Path(f"runs/{one.digest[:8]}-0")
    same = [["out=elsewhere"], ["wandb.enabled=false", "wandb.tags=[a]"], ["seed=5"], ["generations=10"]]
    assert {load(None, overrides).digest for overrides in same} == {one.digest}
    other = [["generations=11"], ["model.hidden=8"], ["mitigation=anchor"], ["data=ring"], ["trainer.precision=64"]]
    assert len({load(None, overrides).digest for overrides in other} | {one.digest}) == 6
    assert load(None, ["seed=5"]).out.name == f"{one.digest[:8]}-5"


HASHED = "sha256: 0123456789abcdef"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"data={{name: TextFile, path: a.txt, {HASHED}}}", f"data={{name: TextFile, path: b.txt, {HASHED}}}", True),
        (
            f"data={{name: Contaminated, share: 0.1, source: {{name: TextFile, path: a.txt, {HASHED}}}}}",
            f"data={{name: Contaminated, share: 0.1, source: {{name: TextFile, path: b.txt, {HASHED}}}}}",
            True,
        ),
        (f"model={{name: PretrainedLM, path: a, {HASHED}}}", f"model={{name: PretrainedLM, path: b, {HASHED}}}", True),
        ("data={name: TextFile, path: a.txt}", "data={name: TextFile, path: b.txt}", False),
        ("data={name: TextFile, path: a.txt, sha256: null}", "data={name: TextFile, path: b.txt, sha256: null}", False),
        ("model={name: PretrainedLM, path: a}", "model={name: PretrainedLM, path: b}", False),
        (f"data={{name: TextFile, path: a.txt, {HASHED}}}", f"data={{name: TextFile, path: a.txt, {HASHED}a}}", False),
        (
            f"data={{name: TextFile, path: a.txt, held_out: c.txt, {HASHED}}}",
            f"data={{name: TextFile, path: a.txt, held_out: d.txt, {HASHED}}}",
            False,
        ),
    ],
)
def test_a_path_is_no_part_of_a_run_where_the_hash_of_its_content_is(one, other, same):
    here, there = load(None, [one]), load(None, [other])
    assert (here.digest == there.digest) is same
    assert (here.essence == there.essence) is same
    assert here.tree != there.tree


def test_a_run_folder_gives_its_config_back(tmp_path):
    loaded = load("demo", ["mitigation=anchor", "out=somewhere/else"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(loaded.tree))
    again = load_run(tmp_path)
    assert again.tree == loaded.tree
    assert again.digest == loaded.digest
    assert again.out == tmp_path  # where it is now
    assert set(again.origins.values()) == {str(tmp_path / "config.yaml")}
    with pytest.raises(ConfigError, match=r"is no run folder: it has no config\.yaml"):
        load_run(tmp_path / "nothing")


def test_names_are_those_of_the_files():
    names = names_in("model")
    assert {"gaussian", "vae", "vae/conv"} < set(names)
    assert names == sorted(names)
    assert (config_root() / "base.yaml").is_file()
    assert all((config_root() / group / f"{name}.yaml").is_file() for group in ("data",) for name in names_in(group))
