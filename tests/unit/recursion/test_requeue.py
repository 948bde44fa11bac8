"""Signals as requests, what a stopped chain leaves, and when several processes ask each other."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

import collapse.recursion.requeue
from collapse import VAE, Gaussian, GaussianData, RingOfGaussians, StopForRequeue, StoppedForRequeue, run_chain
from collapse.recursion.requeue import _resumable
from collapse.stopping import SIGNALS, StopRequest

CHAIN = {"generations": 2, "samples_per_generation": 40, "evaluate": False, "accelerator": "cpu"}


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def heard():
    """Handlers that note what reaches them, in place of those that would end the tests."""
    heard, before = [], handlers()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: heard.append(number))
    yield heard
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


# Requests


def test_a_request_remembers_the_first_signal_and_gives_the_handlers_back(heard):
    before, request = handlers(), StopRequest()
    request.install()
    assert handlers() == [request, request]
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGUSR1)
    assert (request.received, heard) == (signal.SIGTERM, [])
    request.restore(heeded=True)
    assert (handlers(), heard) == (before, [])


def test_what_nobody_heeded_reaches_the_handler_before_it_once(heard):
    request = StopRequest()
    request.install()
    signal.raise_signal(signal.SIGUSR1)
    request.restore(heeded=False)
    assert heard == [signal.SIGUSR1]
    request.restore(heeded=False)
    assert heard == [signal.SIGUSR1]


def test_a_request_takes_over_what_an_earlier_one_received(heard):
    earlier, later = StopRequest(), StopRequest()
    earlier.install()
    signal.raise_signal(signal.SIGUSR1)
    later.install()
    assert later.received == signal.SIGUSR1
    later.restore(heeded=True)
    assert handlers() == [earlier, earlier]
    earlier.restore(heeded=True)
    assert heard == []


def test_a_request_leaves_other_threads_alone():
    before, request = handlers(), StopRequest()
    thread = threading.Thread(target=request.install)
    thread.start()
    thread.join()
    request.restore(heeded=False)
    assert handlers() == before


def test_to_listen_imports_nothing_heavy():
    code = "import sys, collapse.stopping; print({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# The callback


class Asking(pl.Callback):
    """Asks the process to stop, at a step."""

    def __init__(self, step, number=signal.SIGUSR1):
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


def vae_chain(root, *callbacks):
    module = VAE((2,), 2, hidden=4, likelihood="gaussian")
    return run_chain(module, RingOfGaussians(rows=40, batch_size=10), store=root, callbacks=[*callbacks], **CHAIN)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_chain_raises_and_leaves_the_signals_as_they_were(tmp_path, heard, number):
    before = handlers()
    with pytest.raises(StoppedForRequeue, match=r"stopped after step 2, as a signal asked; `collapse resume "):
        vae_chain(tmp_path, Asking(2, number))
    assert (handlers(), heard) == (before, [])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000002.ckpt"]
    assert len(vae_chain(tmp_path).records) == 2
    assert handlers() == before


def test_a_signal_that_comes_too_late_is_passed_on(tmp_path, heard):
    before = handlers()
    assert len(vae_chain(tmp_path, Asking(8)).records) == 2
    assert (handlers(), heard) == (before, [signal.SIGUSR1])


class Failing(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        raise ZeroDivisionError


def test_an_error_gives_the_signals_back(tmp_path):
    before = handlers()
    with pytest.raises(ZeroDivisionError):
        vae_chain(tmp_path, Failing())
    assert handlers() == before


def test_a_chain_in_memory_leaves_the_signals_alone(heard):
    class Looking(pl.Callback):
        def on_train_batch_end(self, *rest):
            signal.raise_signal(signal.SIGUSR1)

    run_chain(Gaussian(), GaussianData(rows=10), callbacks=[Looking()], **CHAIN)
    assert heard == [signal.SIGUSR1] * 2


def test_the_interval_is_a_time():
    with pytest.raises(ValueError, match=r"seconds=0 must be above 0"):
        StopForRequeue("run", seconds=0)


@pytest.mark.parametrize(
    ("batches", "settings"),
    [
        ([0, 1, 2, 3], {}),  # but the last
        ([1, 3], {"accumulate_grad_batches": 2}),
        ([0, 2], {"enable_validation": True, "val_check_batch": 2}),
        ([0, 1, 2, 3], {"enable_validation": False, "val_check_batch": 2}),
        ([0, 1, 2, 3], {"enable_validation": True, "val_check_batch": float("inf")}),
    ],
)
def test_where_a_checkpoint_can_be_continued(batches, settings):
    defaults = {"accumulate_grad_batches": 1, "enable_validation": False, "val_check_batch": None}
    found = [
        index
        for index in range(5)
        if _resumable(SimpleNamespace(**{**defaults, **settings, "is_last_batch": index == 4}), index)
    ]
    assert found == batches


# Several processes


class Processes:
    """Two trainers in one process, whose clocks differ; a question is answered when both have asked it."""

    def __init__(self, monkeypatch, tmp_path, paces, seconds):
        self.now, self.paces = [0.0, 0.0], paces
        self.asked = [[], []]
        self.callbacks = []
        for rank in range(2):
            self.enter(monkeypatch, rank)
            self.callbacks.append(StopForRequeue(tmp_path, seconds=seconds))

    def enter(self, monkeypatch, rank):
        monkeypatch.setattr(collapse.recursion.requeue, "time", SimpleNamespace(monotonic=lambda: self.now[rank]))

    def run(self, monkeypatch, steps):
        """Take steps, and return those after which each process asked."""
        for step in range(steps):
            told = []
            for rank, callback in enumerate(self.callbacks):
                self.enter(monkeypatch, rank)
                self.now[rank] += self.paces[rank](step)
                if callback._steps + 1 >= callback._interval:
                    self.asked[rank].append(step)
                    told.append([float(callback._request.received is not None), self.now[rank] - callback._asked])
            self.answer = torch.tensor(told).amax(0) if told else None
            stops = []
            for rank, callback in enumerate(self.callbacks):
                self.enter(monkeypatch, rank)
                strategy = SimpleNamespace(root_device="cpu", reduce=lambda tensor, reduce_op: self.answer)
                trainer = SimpleNamespace(
                    world_size=2,
                    strategy=strategy,
                    is_last_batch=False,
                    accumulate_grad_batches=1,
                    enable_validation=False,
                    global_step=step + 1,
                    save_checkpoint=lambda path: None,
                    is_global_zero=False,
                )
                try:
                    callback.on_train_batch_end(trainer, None, None, None, step)
                except StoppedForRequeue:
                    stops.append(rank)
            if stops:
                assert stops == [0, 1]
                return step
        return None


def test_processes_with_different_clocks_ask_at_the_same_steps(monkeypatch, tmp_path):
    pace = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    processes = Processes(monkeypatch, tmp_path, [lambda step: 0.1 * pace[step], lambda step: 0.2 * pace[-step]], 5.0)
    assert processes.run(monkeypatch, 400) is None
    assert processes.asked[0] == processes.asked[1]
    gaps = [later - earlier for earlier, later in zip(processes.asked[0], processes.asked[0][1:], strict=False)]
    assert gaps[:5] == [2, 4, 8, 16, 32]
    assert all(35 < gap < 70 for gap in gaps[6:]), "five seconds of the slower one, a tenth of a second a step"


def test_slow_steps_are_followed_by_a_question_each(monkeypatch, tmp_path):
    processes = Processes(monkeypatch, tmp_path, [lambda step: 0.01 if step < 200 else 60.0] * 2, 5.0)
    processes.run(monkeypatch, 460)
    assert processes.asked[0][-5:] == list(range(455, 460))


def test_all_stop_where_one_was_told(monkeypatch, tmp_path):
    processes = Processes(monkeypatch, tmp_path, [lambda step: 0.5] * 2, 5.0)
    processes.run(monkeypatch, 50)
    processes.callbacks[1]._request(signal.SIGUSR1, None)
    assert processes.run(monkeypatch, 20) is not None
