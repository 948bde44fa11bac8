"""What a command says besides its output: sentences of ours, and nothing of Lightning's advice."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from typing import Any

from collapse.config.errors import one_line

__all__ = ["on_purpose", "quiet"]

ADVICE = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*isinstance.treespec.*",
    ".*number of training batches.*",
    ".*dirpath has changed.*",  # a run folder that was copied is continued where it is now
    ".*GPU available but not used.*",
    ".*ModelCheckpoint with manual optimization.*",  # an estimator's step is the whole of its optimization
)


def quiet() -> None:
    """Keep Lightning's advice out of a chain's output, and show a warning of ours as one line on standard error."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in ADVICE:
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = functools.partial(_show, warnings.showwarning)


def on_purpose(kind: type[BaseException]) -> bool:
    """Whether it is a class of this package: then the message says all there is, and where it was raised nothing."""
    return kind.__module__.partition(".")[0] == "collapse"


def _show(others: Any, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if on_purpose(category):
        sys.stderr.write(f"collapse: {one_line(str(message))}\n")
    else:
        others(message, category, *where, **more)
