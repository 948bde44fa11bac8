"""`collapse theory`: the command itself, as a user calls it, and what it does with bad input."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collapse import theory
from collapse.config import ConfigError, cells
from collapse.config.theory import confront

CONFIG = """
include: [data/gaussian, model/gaussian]
data: {rows: 10, replicates: 400}
model: {ddof: 0, replicates: 400}
generations: 5
sweep:
  mitigation: [replace, accumulate]
  data.rows: [10, 20]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    return path


def collapse_theory(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "collapse", "theory", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def printed(text):
    """{cell: {(quantity, t): [predicted, measured]}} of the table."""
    found, cell = {}, None
    for line in text.splitlines()[1:]:
        row = re.match(r"\s*(\d+)  (.{18}) +(\S+) +(\S+)  \[", line)
        if row is None:
            cell = found.setdefault(line, {})
        else:
            cell[row[2].strip(), int(row[1])] = [
                float(value.replace("-", "nan", value == "-")) for value in row.groups()[2:]
            ]
    return found


def test_a_sweep_is_one_command_with_a_table_and_a_figure(tmp_path, config):
    ended = collapse_theory(tmp_path, config, "--workers", "2", "--figure", "laws.png")
    assert (ended.returncode, ended.stderr) == (0, "")
    *table, figure = ended.stdout.splitlines()
    assert figure == "laws.png"
    assert (tmp_path / "laws.png").read_bytes()[:4] == b"\x89PNG"
    found = printed("\n".join(table))
    assert list(found) == [
        f"mitigation={name} data.rows={rows}" for name in ("replace", "accumulate") for rows in (10, 20)
    ]
    predicted, measured = found["mitigation=accumulate data.rows=20"]["E var", 5]
    assert predicted == pytest.approx(theory.gaussian.accumulate_variance(5, 20, ddof=0), rel=1e-4)
    assert measured == pytest.approx(predicted, rel=0.1)
    predicted, _ = found["mitigation=replace data.rows=10"]["median var", 5]
    assert predicted == pytest.approx(theory.gaussian.replace_median_variance(5, 10, ddof=0), rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laws.png", "mine.yaml"], "no run folder is left"


def test_workers_change_nothing(config):
    lines = {workers: [] for workers in (1, 3)}
    for workers, said in lines.items():
        assert confront(str(config), ["generations=2"], workers=workers, say=said.append) == 0
    assert lines[1] == lines[3]


def test_a_contradiction_is_marked_and_counted(config, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("collapse.oracle.compare"), "SIGMAS", 1e-3
    )  # as if chance could not move a mean
    said = []
    assert confront(str(config), ["data.rows=10", "mitigation=replace"], workers=1, say=said.append) > 0
    assert sum(line.endswith("!") for line in said) > 10


def test_a_key_that_is_set_is_not_swept(config):
    assert [label for label, _ in cells(str(config), ["data.rows=7"])] == [
        "mitigation=replace",
        "mitigation=accumulate",
    ]
    assert [loaded.config.data["rows"] for _, loaded in cells(str(config), ["data.rows=7"])] == [7, 7]
    ((label, loaded),) = cells(str(config), ["data.rows=7", "mitigation=anchor"])
    assert (label, loaded.config.mitigations) == ("", [{"AnchorReplay": {"fraction": 0.1}}])


def test_keys_can_be_swept_together(tmp_path):
    path = tmp_path / "pairs.yaml"
    path.write_text(
        re.sub(r"sweep:\n(  .*\n)*", "sweep: {'data.rows, generations': [[10, 2], [20, 3]], seed: [0, 1]}", CONFIG)
    )
    found = cells(str(path))
    assert [label for label, _ in found] == [
        f"data.rows={rows} generations={fits} seed={seed}" for rows, fits in ((10, 2), (20, 3)) for seed in (0, 1)
    ]
    assert [(one.config.data["rows"], one.config.generations, one.config.seed) for _, one in found][2] == (20, 3, 0)
    assert len(cells(str(path), ["generations=4"])) == 2, "the pair is left out as one"


BAD = [
    (["nothing_of_this_name"], {}, "there is no experiment 'nothing_of_this_name'"),
    (["demo"], {}, "are not for `collapse theory`: an estimator sees every row once"),
    (["demo", ["epochs_per_generation=1", "steps_per_generation=null"]], {}, "there is no theory for chains of VAE"),
    (["mine.yaml", ["initialization=cold"]], {}, "initialization must be one of"),
    (["mine.yaml"], {"figure": Path("laws.txt")}, "--figure laws.txt must be a .png, .svg, .pdf file"),
    (["mine.yaml"], {"figure": Path("nowhere/laws.png")}, "in an existing folder"),
    (["mine.yaml"], {"workers": -1}, "--workers -1 must be at least 1"),
    (["mine.yaml", ["model.ddof=2"]], {}, "ddof=2"),
]


@pytest.mark.parametrize(("arguments", "options", "sentence"), BAD)
def test_bad_input_is_one_sentence(tmp_path, config, monkeypatch, arguments, options, sentence):
    monkeypatch.chdir(tmp_path)
    said = []
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        confront(*arguments, **{"workers": 1, "say": said.append, **options})
    assert len(said) <= 1, "at most the table's head"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_error_in_a_worker_is_a_sentence_and_exit_code_2(tmp_path, config):
    ended = collapse_theory(tmp_path, config, "model.ddof=2", "--workers", "2")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("collapse: model (Gaussian)")
    assert "ddof=2" in ended.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sweep: {data.rows: []}", "sweep.data.rows has no values"),
        ("sweep: {data.row: [5]}", "takes no 'row'"),
        ("sweep: {generation: [5]}", "unknown key 'generation'"),
        ("sweep: {mitigation: [replac]}", "did you mean 'replace'"),
        ("sweep: [data.rows]", "sweep=.* must hold keys"),
        ("sweep: {data.rows: 5}", "sweep"),
        ("sweep: {'data.rows,seed': [[5]]}", "must be a list of 2 values"),
        ("sweep: {'data.rows,seed': [5]}", "must be a list of 2 values"),
    ],
)
def test_a_bad_sweep_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_text(re.sub(r"sweep:\n(  .*\n)*", text, CONFIG))
    with pytest.raises(ConfigError, match=sentence):
        confront(str(path), workers=1, say=lambda line: None)
