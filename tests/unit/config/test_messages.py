"""What is ours is said in one line; what is not is left as it was."""

import warnings

import pytest

from collapse.callbacks import IncomingWarning
from collapse.config.messages import on_purpose, quiet
from collapse.data.lock import LockedError
from collapse.data.store import StoreError
from collapse.mitigations import NoEffectWarning, PoolRefusedError
from collapse.recursion.nonfinite import NonFiniteLossError
from collapse.stopping import StoppedForRequeue


@pytest.fixture(autouse=True)
def others():
    """As in a command; the warnings that are left to Python."""
    left = []
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.showwarning = lambda message, category, *where: left.append((str(message), category, where[0]))
        quiet()
        quiet()  # a process may run one chain after another
        yield left


@pytest.mark.parametrize("kind", [IncomingWarning, NoEffectWarning])
def test_a_warning_of_ours_is_one_plain_line(kind, capsys, others):
    warnings.warn("generation 1\ndeposited \x1b[31mthis", kind, stacklevel=1)
    assert capsys.readouterr().err == "collapse: generation 1 deposited \\x1b[31mthis\n"
    assert others == []


def test_a_warning_of_others_is_left_to_python(capsys, others):
    warnings.warn("take care", UserWarning, stacklevel=1)
    assert others == [("take care", UserWarning, __file__)]
    assert capsys.readouterr().err == ""


def test_advice_of_lightning_is_not_heard(others):
    for advice in ("The dirpath has changed from 'a' to 'b'", "The loader does not have many workers which"):
        warnings.warn(advice, UserWarning, stacklevel=1)
    assert others == []


def test_what_is_raised_on_purpose():
    ours = (PoolRefusedError, LockedError, StoreError, NonFiniteLossError, StoppedForRequeue)
    assert all(map(on_purpose, ours))
    assert not any(map(on_purpose, (RuntimeError, ValueError, ZeroDivisionError, FloatingPointError)))
