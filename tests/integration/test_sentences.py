"""What a command says on the way, as a user reads it: sentences, and nothing of where in the code they come from."""

import os
import re
import shutil
import signal

import pytest
from test_cli import QUIET, Shell, until

SMALL = (*QUIET, "evaluation.enabled=false")


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.close()


def spoken(ended):
    """The lines that are not a generation's."""
    return [line for line in ended.err.splitlines() if not re.match(r"generation \d+/\d+", line)]


def test_a_warning_is_one_plain_line_for_each_generation(shell, tmp_path):
    ended = shell(tmp_path, "run", *SMALL, "evaluation.check=0.5", "model.hidden=2", "samples_per_generation=40")
    assert ended.code == 0, ended.err
    warned = spoken(ended)
    assert warned
    for line in warned:
        assert re.match(r"collapse: generation \d deposited 40 incoming rows beside \d+ of gold: ", line), line
        assert re.search(r"; together p = [\d.e-]+ \(of 20 divisions, false-alarm rate 0.5\)$", line), line


def test_a_refusal_says_all_there_is(shell, tmp_path):
    gated = (*SMALL, "model.hidden=2", "mitigation=pool_gate", "samples_per_generation=200")
    ended = shell(tmp_path, "run", *gated)
    assert ended.code == 1
    assert "PoolGate() refuses the pool of generation 1" in ended.sentence
    assert "COLLAPSE_TRACEBACK" not in ended.err


def test_a_mitigation_without_effect_is_said_in_one_line(shell, tmp_path):
    ended = shell(tmp_path, "run", *SMALL, "mitigations=[{OutlierFilter:{rate:0}}]")
    assert spoken(ended) == [
        f"collapse: OutlierFilter(rate=0) changed nothing in generation {generation}" for generation in (1, 2)
    ]


def test_a_copied_run_is_continued_where_it_is(shell, tmp_path):
    process = shell.start(tmp_path, "run", *SMALL, "steps_per_generation=300")
    until(lambda: list(tmp_path.glob("run/checkpoints/*.ckpt")))
    os.kill(process, signal.SIGTERM)
    assert shell.wait().code == 75
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    ended = shell(tmp_path, "resume", "copy")
    assert (ended.code, ended.out) == (0, "copy\n"), ended.err
    assert spoken(ended) == []
