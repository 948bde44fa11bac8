"""One process trains in a run folder, and its death lets the next one in."""

import os
import signal
import subprocess
import sys
import time

import pytest

from collapse.data import lock as lock_module
from collapse.data.lock import LockedError, RunLock

HOLDER = """
import pathlib, runpy, sys, time, multiprocessing
RunLock = runpy.run_path(sys.argv[1])["RunLock"]  # without the seconds that torch takes
lock = RunLock(pathlib.Path(sys.argv[2]))
lock.acquire()
if len(sys.argv) > 3:  # a worker that outlives its parent
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(8,)).start()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, lock_module.__file__, str(tmp_path), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_told_who_holds_it(tmp_path, holder, monkeypatch):
    process = holder()
    monkeypatch.setattr(lock_module, "PATIENCE", 0.2)
    with pytest.raises(LockedError, match=rf"in use by process {process.pid} on .*; wait until it ends"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize("workers", [[], ["with a worker"]])
def test_it_goes_with_a_killed_process_even_if_a_worker_lives_on(tmp_path, holder, workers):
    process = holder(*workers)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = time.monotonic()
    lock = RunLock(tmp_path)
    lock.acquire()
    assert time.monotonic() - begun < 2
    assert f'"pid": {os.getpid()}' in lock.path.read_text()
    lock.release()


def test_it_waits_for_a_process_that_is_about_to_end(tmp_path, holder):
    process = holder()
    subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(0.5); os.kill({process.pid}, 9)"]).wait(5)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_file_that_was_removed_meanwhile_locks_nothing(tmp_path, monkeypatch):
    """``rm -r``, and a start that failed, remove it while others wait for it."""
    monkeypatch.setattr(lock_module, "PATIENCE", 0.0)
    first, waiting, third = (RunLock(tmp_path) for _ in range(3))
    first.acquire()
    take = RunLock._take

    def as_the_first_gives_up(lock, file):
        if first._file is not None:
            (tmp_path / "lock").unlink()
            first.release()
        return take(lock, file)

    monkeypatch.setattr(RunLock, "_take", as_the_first_gives_up)
    monkeypatch.setattr(lock_module, "PATIENCE", 1.0)
    waiting.acquire()
    monkeypatch.setattr(lock_module, "PATIENCE", 0.0)
    with pytest.raises(LockedError):
        third.acquire()
    waiting.release()


def test_who_holds_it_can_be_asked_without_writing(tmp_path, holder):
    assert RunLock(tmp_path).holder() is None
    assert not list(tmp_path.iterdir())
    process = holder()
    assert str(process.pid) in RunLock(tmp_path).holder()
    process.kill()
    process.wait()
    assert RunLock(tmp_path).holder() is None


def test_taking_it_twice_and_giving_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "PATIENCE", 0.0)
    mine, other = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    mine.acquire()
    mine.acquire()
    with pytest.raises(LockedError):
        other.acquire()
    mine.release()
    mine.release()
    other.acquire()
    other.release()
