"""`collapse theory`: the chains of a config, and of its sweep, beside what theory says of them."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from collapse.config.errors import ConfigError
from collapse.config.load import LoadedConfig, cells

if TYPE_CHECKING:  # the process that prints needs no torch
    from collapse.oracle import Comparison, Confrontation, Setting

__all__ = ["confront", "setting_of"]

SUFFIXES = (".png", ".svg", ".pdf")


def setting_of(loaded: LoadedConfig) -> Setting:
    """Return the chain that a config describes.

    Raises:
        ConfigError: If a part of it cannot be built.
    """
    from collapse.config.build import build_data, build_mitigations, build_model, rows_of, usage
    from collapse.mitigations import MitigationStack
    from collapse.oracle import Setting
    from collapse.oracle.registry import check_theory
    from collapse.recursion.checks import check_budget, check_module
    from collapse.recursion.rehearsal import rehearse
    from collapse.recursion.reinitialize import check_initialization

    config = loaded.config
    if config.epochs_per_generation != 1 or config.steps_per_generation is not None or config.trainer:
        raise ConfigError(
            f"epochs_per_generation={config.epochs_per_generation}, steps_per_generation={config.steps_per_generation} "
            f"and trainer={config.trainer} are not for `collapse theory`: an estimator sees every row once; give "
            "epochs_per_generation=1 alone"
        )
    with usage():
        check_initialization(config.initialization)
        data = build_data(config)
        rows = rows_of(data, config)
        samples = rows if config.samples_per_generation is None else config.samples_per_generation
        check_budget(
            generations=config.generations,
            samples_per_generation=samples,
            chunk_size=config.chunk_size,
            epochs_per_generation=1,
            steps_per_generation=None,
        )
        model, mitigations = build_model(config, data), tuple(build_mitigations(config))
        check_theory(model)
        check_module(model, MitigationStack(mitigations))
        rehearse(model, data, mitigations, generations=config.generations, samples=samples)
    numbers = (config.generations, samples, config.seed, config.chunk_size)
    return Setting(model, data, mitigations, *numbers, config.initialization)


def confront(
    config: str | None,
    overrides: Sequence[str] = (),
    *,
    workers: int = 0,
    figure: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run every cell of a config and print its comparison; return how many rows contradict their law.

    Args:
        config: A config's name or path.
        overrides: ``key=value``.
        workers: Processes; 0 for one per processor.
        figure: Where to draw, or None.
        say: Prints one line.

    Raises:
        ConfigError: If a cell's config cannot be read, before any is run; or if one cannot be built or has no theory.
    """
    if workers < 0:
        raise ConfigError(f"--workers {workers} must be at least 1, or 0 for one per processor")
    if figure is not None and (figure.suffix not in SUFFIXES or not figure.parent.is_dir()):
        raise ConfigError(f"--figure {figure} must be a {', '.join(SUFFIXES)} file in an existing folder")
    found = cells(config, overrides)
    head = [f"{'t':>6}  {'quantity':<18} {'predicted':>12} {'measured':>12}  {'95 % interval':<26} {'z':>6}"]
    drawn, misses = [], 0
    for (label, _), cell in zip(found, _cells(found, workers or os.cpu_count() or 1, figure), strict=True):
        for line in head + ([label] if label else []) + cell.lines:
            say(line)
        head = []  # said with the first cell: a config that cannot be run says nothing
        misses += cell.misses
        drawn.append((label, cell.drawing))
    if figure is not None:
        from collapse.oracle import plot

        plot([(label, drawing) for label, drawing in drawn if drawing is not None], figure)
        say(str(figure))
    return misses


class _Cell(NamedTuple):
    """What a worker hands back: text, so that the process that prints has no torch to import; the numbers themselves
    only where they are drawn."""

    lines: list[str]
    misses: int
    drawing: Confrontation | None


def _cells(found: Sequence[tuple[str, LoadedConfig]], workers: int, figure: Path | None) -> Iterator[_Cell]:
    """Yield the cells in order, run in as many processes as there are workers and cells."""
    workers = min(workers, len(found))
    if workers == 1:
        for label, loaded in found:
            _check(label, loaded)
        yield from (_cell(loaded, figure is not None) for _, loaded in found)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=_workers(), initializer=_settle, initargs=(threads,)) as pool:
        list(pool.map(_check, *zip(*found, strict=True)))  # what is wrong with any cell is said before one is run
        # Sweeps grow along their axes: the last cells take longest, so they go first.
        jobs = [pool.submit(_cell, loaded, figure is not None) for _, loaded in reversed(found)]
        yield from (job.result() for job in reversed(jobs))


def _workers() -> multiprocessing.context.BaseContext:
    """Return how to start a worker: by a fork of a server that has imported torch and never used it, so that the import
    is paid once; where there is no such server, by a new process. A fork of this process, which may have used OpenMP,
    may hang."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["collapse.config.build", "collapse.oracle"])
    return context


def _settle(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")


def _check(label: str, loaded: LoadedConfig) -> None:
    """Raise ConfigError, naming the cell, if it cannot be run."""
    try:
        setting_of(loaded)
    except ConfigError as error:
        raise ConfigError(f"{error} (sweep: {label})" if label else str(error)) from None


def _cell(loaded: LoadedConfig, drawn: bool) -> _Cell:
    import pytorch_lightning  # noqa: F401 - sets the level of its logger when it is imported

    from collapse.oracle import compare

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    setting = setting_of(loaded)
    try:
        found = compare(setting, curves=drawn)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    return _Cell([_line(row) for row in found.rows], sum(row.misses for row in found.rows), found if drawn else None)


def _line(row: Comparison) -> str:
    predicted = "-" if math.isnan(row.predicted) else f"{row.predicted:.5g}"
    interval = f"[{row.low:.5g}, {row.high:.5g}]" if math.isfinite(row.low) else "one chain"
    mark = " !" if row.misses else ""
    z = "" if math.isnan(row.z) else "heavy" if row.heavy_tailed else f"{row.z:.2f}{mark}"
    return f"{row.t:>6}  {row.name:<18} {predicted:>12} {row.measured:>12.5g}  {interval:<26} {z:>6}".rstrip()
