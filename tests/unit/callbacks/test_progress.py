"""Progress: exact lines in a log file, one live line on a terminal."""

import io
import re

import pytest
from rich.console import Console

from collapse.callbacks import ChainProgress
from collapse.data import GaussianData
from collapse.data.generation import GenerationCallback
from collapse.models import Gaussian
from collapse.recursion import run_chain

SHOWN = ("fd_identity", "coverage", "variance_ratio")


class Says(GenerationCallback):
    """Records one number under one name."""

    def __init__(self, name, value) -> None:
        self.name, self.value = name, value

    def on_generation_end(self, trainer, module, generation):
        generation.record(self.name, self.value)


class Fails(GenerationCallback):
    """Gives up at the end of generation 1."""

    def on_generation_end(self, trainer, module, generation):
        if generation.index == 1:
            raise RuntimeError("enough")


def chain(*callbacks, **arguments):
    defaults = {"generations": 3, "samples_per_generation": 60}
    return run_chain(Gaussian(2), GaussianData(60, 2), callbacks=list(callbacks), **{**defaults, **arguments})


def log_file(width=80):
    return Console(file=io.StringIO(), width=width)


def terminal():
    """A terminal of its own for a chain to write on."""
    return Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None, _environ={"TERM": "xterm"})


def written(console):
    return console.file.getvalue()


# A log file


def test_a_log_file_gets_one_line_per_generation():
    console = log_file(width=30)  # narrower than a line: nothing is wrapped
    done = chain(ChainProgress(console=console))
    expected = ""
    for index, record in enumerate(done.records):
        values = "  ".join(f"{name} {record.metrics[name]:.4g}" for name in SHOWN)
        expected += f"generation {index + 1}/3  {values}\n"
    assert written(console) == expected
    assert len(expected.splitlines()[0]) > 30


def test_the_format_of_numbers():
    console = log_file()
    names = ("large", "small", "whole", "absent")
    says = [Says("large", 123456.7), Says("small", 0.000012345), Says("whole", 2.0)]
    chain(*says, ChainProgress(names, console), generations=1, evaluate=False)
    assert written(console) == "generation 1/1  large 1.235e+05  small 1.234e-05  whole 2\n"


def test_nothing_in_a_line_is_markup():
    console = log_file()
    chain(Says("[red]name[/]", 1.0), ChainProgress(["[red]name[/]"], console), generations=1, evaluate=False)
    assert written(console) == "generation 1/1  [red]name[/] 1\n"


def test_it_shows_what_was_measured_before_it_in_the_list():
    console = log_file()
    chain(
        Says("before", 1.0),
        ChainProgress(["before", "after"], console),
        Says("after", 2.0),
        generations=1,
        evaluate=False,
    )
    assert written(console) == "generation 1/1  before 1\n"


def test_a_resumed_chain_goes_on_counting(tmp_path):
    with pytest.raises(RuntimeError, match="enough"):
        chain(Fails(), ChainProgress((), log_file()), store=tmp_path, evaluate=False)
    console = log_file()
    chain(ChainProgress((), console), store=tmp_path, evaluate=False)
    assert written(console) == "generation 2/3\ngeneration 3/3\n"


# A terminal


def states(text):
    """What stood on the line, one state after the other."""
    plain = re.sub(r"\x1b\[\?25[hl]", "", text)
    return [state.rstrip() for state in re.split(r"\r\x1b\[2K", plain)]


def test_a_terminal_has_one_line_that_is_rewritten():
    console = terminal()
    done = chain(ChainProgress(console=console))
    text = written(console)
    assert text.count("\n") == 1
    found = states(text)
    assert found[0].startswith("generation 1/3 ")
    values = "  ".join(f"{name} {done.records[2].metrics[name]:.4g}" for name in SHOWN)
    assert found[-1].startswith(f"generation 3/3  {values} ━")
    assert "0:00:00" in found[-1]  # no time is left


def test_the_bar_fills_epoch_by_epoch():
    console, progress = terminal(), ChainProgress(())
    progress.console = console
    seen = []

    class Look(GenerationCallback):
        def on_train_epoch_start(self, trainer, pl_module):
            task = progress._progress.tasks[0]
            seen.append((task.completed, task.total))

    chain(progress, Look(), epochs_per_generation=2, evaluate=False)
    assert seen[1:] == [(index, 6) for index in range(1, 6)]


@pytest.mark.parametrize("failing", [False, True])
def test_the_terminal_is_given_back(failing):
    console = terminal()
    progress = ChainProgress((), console)
    if failing:
        with pytest.raises(RuntimeError, match="enough"):
            chain(Fails(), progress, evaluate=False)
    else:
        chain(progress, evaluate=False)
    text = written(console)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert text.rindex("\x1b[?25h") > text.rindex("generation")
    assert not console._live_stack


def test_a_resumed_chain_draws_its_line(tmp_path):
    with pytest.raises(RuntimeError, match="enough"):
        chain(Fails(), store=tmp_path, evaluate=False)
    console = terminal()
    chain(ChainProgress((), console), store=tmp_path, evaluate=False)
    found = states(written(console))
    assert found[-1].startswith("generation 3/3 ")
    assert written(console).count("\n") == 1
