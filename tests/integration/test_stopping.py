"""A chain that is asked to stop, anywhere, and started again leaves the very bytes of the one that was left alone."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import test_cli
from slurm_stubs import until
from test_sigkill import ENVIRONMENT, Children, check_equal, check_resume, files

from collapse.recursion import newest_checkpoint

CHILD = Path(__file__).with_name("stopped_chain.py")
STOPPED, SECONDS = 75, 240


class Stopped(Children):
    """Runs chains that are stopped by a signal, and not killed."""

    child = CHILD

    def kill(self, config, root, point):
        code, _ = self.run(config, root, point)
        assert code == STOPPED, self.output
        said = (
            rf"^stopped after step \d+, as a signal asked; `collapse resume {root}`, or the same command again, goes on"
        )
        assert re.search(said, self.output, re.MULTILINE)


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    children = Stopped(tmp_path_factory.mktemp("references"))
    yield children
    children.server.stdin.close()
    children.server.wait(30)
    children.server.stdout.close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("config", "point", "newest"),
    [
        ("plain", "on_fit_start:1", None),
        pytest.param("plain", "on_train_start:1@SIGTERM", None, marks=pytest.mark.slow),
        ("plain", "step:3", "step-000000003"),
        pytest.param("plain", "step:3@SIGTERM", "step-000000003", marks=pytest.mark.slow),
        ("plain", "on_before_optimizer_step:7", "step-000000007"),  # within a step
        ("plain", "step:5", "epoch-000000"),  # an epoch's last batch
        ("plain", "step:10@SIGTERM", "epoch-000001"),  # a generation's
        pytest.param("plain", "weights:1", "epoch-000001", marks=pytest.mark.slow),
        ("plain", "harvest:2", "epoch-000001"),
        pytest.param("plain", "manifest:1:before", "epoch-000001", marks=pytest.mark.slow),
        pytest.param("plain", "ledger:1", "epoch-000001", marks=pytest.mark.slow),
        pytest.param("plain", "checkpoint:2:before", "epoch-000001", marks=pytest.mark.slow),
        pytest.param("plain", "checkpoint:3", "epoch-000002", marks=pytest.mark.slow),
        ("plain", "turn:1", "epoch-000001"),
        pytest.param("plain", "on_train_epoch_start:2", "epoch-000000", marks=pytest.mark.slow),
        ("plain", "on_train_batch_end:13+", "step-000000013"),  # and again while it saves, and ends
        pytest.param("plain", "on_save_checkpoint:1+", "epoch-000000", marks=pytest.mark.slow),
        ("digits", "on_generation_end:1", "epoch-000001"),  # before the evaluation
        pytest.param("digits", "step:2", "step-000000002", marks=pytest.mark.slow),
        ("ema", "step:8", "step-000000008"),  # where there is a checkpoint anyway
        pytest.param("ema", "step:13", "step-000000013", marks=pytest.mark.slow),
        ("steps", "on_train_batch_end:3", "step-000000002"),  # between two optimizer steps
        pytest.param("stopping", "step:22", "step-000000022", marks=pytest.mark.slow),
        ("validated", "on_train_batch_end:5", "step-000000006"),  # a validation follows this batch
        ("validated", "on_validation_batch_end:3", "epoch-000000"),  # at the end of the epoch
        ("gaussian", "on_train_batch_end:3", "step-000000003"),
        ("kde", "on_train_batch_end:8", "step-000000008"),
    ],
)
def test_a_stopped_chain_continues_to_the_same_bytes(children, root, config, point, newest):
    children.kill(config, root, point)
    found = newest_checkpoint(root)
    assert (found.stem if found else None) == newest
    assert len(list(root.glob("checkpoints/*.ckpt"))) == (newest is not None), "what is superseded is gone"
    check_resume(children, config, root)


@pytest.mark.parametrize(
    ("config", "points"),
    [
        ("plain", ["on_train_start:1", "step:4", "on_train_start:1", "turn:1", "step:11@SIGTERM", "step:29"]),
        pytest.param(
            "steps", ["step:1", "on_train_batch_end:1", "on_train_batch_end:1", "turn:2"], marks=pytest.mark.slow
        ),
        ("kde", ["on_train_batch_end:1"] * 3),
    ],
)
def test_a_chain_stopped_again_and_again(children, root, config, points):
    check_resume(children, config, root, *points)


def test_with_two_loader_workers_it_is_the_run_without(children, root):
    check_resume(children, "workers", root, "step:7", of="plain")


def test_a_signal_in_the_last_epoch_is_passed_on_when_the_chain_is_complete(children, root):
    code, _ = children.run("plain", root, "step:30@SIGTERM")
    assert code == -signal.SIGTERM
    check_equal(root, children.reference("plain")[0])
    assert children.finish("plain", root) == 0


def test_a_signal_before_anybody_listens_ends_the_process(children, root):
    code, _ = children.run("plain", root, "gold:1")  # in an earlier callback's setup
    assert code == -signal.SIGUSR1
    check_resume(children, "plain", root)


# Two processes


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 10, 27])
def test_two_processes_stop_within_an_epoch_though_one_was_asked(tmp_path, batch):
    def pair(name, *arguments):
        command = [sys.executable, CHILD, "pair", tmp_path / name / "run", *arguments]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS)

    stopped = pair("stopped", str(batch))
    assert stopped.returncode == STOPPED, stopped.stderr
    said = re.findall(r"stopped after step (\d+), as a signal asked", stopped.stdout)
    assert said == [str(batch)] * 2
    wanted = f"step-{batch:09d}" if batch % 10 else f"epoch-{batch // 10 - 1:06d}"
    assert newest_checkpoint(tmp_path / "stopped" / "run").stem == wanted
    for name in ("stopped", "alone"):
        finished = pair(name)
        assert finished.returncode == 0, finished.stderr
    check_equal(tmp_path / "stopped" / "run", tmp_path / "alone" / "run")


# The command line


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = test_cli.Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def alone(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert shell(folder, "run", *test_cli.LONG).code == 0
    return computed(folder / "run")


def computed(root):
    """What a run left, but for who wrote it when."""
    return {name: digest for name, digest in files(root).items() if name not in ("lock", "journal.jsonl")}


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (signal.SIGUSR1, "run"),  # before the chain has begun
        (signal.SIGTERM, "run/metrics.jsonl"),
        pytest.param(signal.SIGUSR1, "", marks=pytest.mark.slow),  # at once
        pytest.param(signal.SIGTERM, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "run", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "run/metrics.jsonl", marks=pytest.mark.slow),
    ],
)
def test_a_command_that_is_asked_to_stop_exits_75_and_continues(shell, tmp_path, alone, number, file):
    process = shell.start(tmp_path, "run", *test_cli.LONG)
    until((tmp_path / file).exists)
    os.kill(process, number)
    ended = shell.wait()
    if file or ended.code != -number:  # a process that has not begun may be ended by the signal itself
        assert (ended.code, ended.out) == (STOPPED, "")
        assert re.fullmatch(r"stopped after step \d+, as a signal asked; `collapse resume run`, .*", ended.sentence)
    assert shell(tmp_path, "run", *test_cli.LONG).code == 0
    assert computed(tmp_path / "run") == alone
