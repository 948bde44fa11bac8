"""The command line. Nothing heavy is imported before a command needs it: ``--help`` must answer at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import click

from collapse.stopping import StoppedForRequeue, StopRequest

__all__ = ["main"]

DONE, FAILED, USAGE, REQUEUE = 0, 1, 2, 75
READABLE = 360  # characters of a sentence about a config; what it quotes may be of any length
INTERRUPTED = "interrupted"
CONTINUED = "; `collapse resume RUN` continues the chain"
KINDS = ("models", "data", "mitigations", "metrics", "experiments")


class _Group(click.Group):
    """A click group whose usage errors, too, are one sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command, show what there is."""
        return super().parse_args(ctx, args or ["--help"])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.ClickException as error:
            _fail(error.format_message(), USAGE)
        except (click.Abort, KeyboardInterrupt):
            _fail(INTERRUPTED, FAILED)
        sys.exit(status if isinstance(status, int) else DONE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="collapse")
def main() -> None:
    """Model collapse, generation by generation."""


@main.command("run")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE ...]")
def run_command(arguments: tuple[str, ...]) -> None:
    """Train one chain; prints the run folder last. Without CONFIG: a VAE on scikit-learn's digits."""
    with _guarded(chain=True):
        StopRequest().install()  # a signal that comes before the chain has begun must not be lost
        from collapse.config import load
        from collapse.config.execute import run
        from collapse.config.messages import quiet

        quiet()
        chain = run(load(*_split(arguments)))
        _say_folder(chain.root)


@main.command("resume")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def resume_command(folder: Path) -> None:
    """Continue an interrupted chain, bit for bit; a finished one is left as it is."""
    with _guarded(chain=True):
        StopRequest().install()  # a signal that comes before the chain has begun must not be lost
        from collapse.config import load_run
        from collapse.config.execute import run
        from collapse.config.messages import quiet

        quiet()
        chain = run(load_run(folder))
        _say_folder(chain.root)


@main.command("verify")
@click.argument("folder", metavar="RUN|POOL", type=click.Path(path_type=Path))
def verify_command(folder: Path) -> int:
    """Hash every file of a run, or of a pool of ingested data; one line per fault, and 1 if there is any."""
    with _guarded():
        from collapse.config import ConfigError
        from collapse.config.ingest import pool_faults
        from collapse.recursion.verification import faults

        if (pool := pool_faults(folder)) is not None:
            click.echo("\n".join(pool or [f"{folder}: every byte of the pool as it was ingested"]))
            return FAILED if pool else DONE
        store, found = _store(folder), 0
        if (holder := store.lock.holder()) is not None:
            raise ConfigError(f"{folder} is in use by {holder}; verify it when that has ended")
        for found, fault in enumerate(faults(store), 1):  # noqa: B007
            click.echo(fault)
        if not found:
            click.echo(f"{folder}: {len(store)} pools, every byte as it was written")
        return FAILED if found else DONE


@main.command("lineage")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--row", type=int, help="Index into the pool; without it, how often every origin was trained on.")
def lineage_command(folder: Path, row: int | None) -> None:
    """Say where a row of a run's pool came from, back to gold, and what was trained on it."""
    with _guarded():
        from collapse.config import ConfigError
        from collapse.recursion.lineage import exposure, lineage

        store = _store(folder)
        if row is not None:
            try:
                found = lineage(store, row)
            except IndexError as error:
                raise ConfigError(f"--row: {error}") from None
            for line in found.lines():
                click.echo(line)
        for generation, counts in enumerate(exposure(store)):
            shown = ", ".join(f"{count:g} of {name}" for name, count in counts.items())
            click.echo(f"generation {generation} trained on {shown}")


@main.command("ingest")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="POOL", type=click.Path(path_type=Path), help="Folder to append to.")
@click.option("--origin", default="unknown", show_default=True, help="real, synthetic or unknown: who made the rows.")
@click.option("--shape", metavar="S,...", help="Sides of a row, for an array whose rows are flat.")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Height and width to resize images to.")
@click.option("--length", type=int, help="Bytes in a row of text, each of them a token.")
@click.option("--label", metavar="COLUMN", help="Labels of a table.")
def ingest_command(path: Path, out: Path, origin: str, **layout: Any) -> None:
    """Append outside data to a pool; what is not declared real is held: no generation trains on it until a mitigation
    names it.

    PATH is .npy, .npz, .txt, .jsonl, .parquet, or a folder of images (a subfolder per class) or .txt files. Prints what
    was found, and the new batch's folder last.
    """
    with _guarded():
        from collapse.config.ingest import ingest_path

        for line in ingest_path(path, out, origin, **layout):
            click.echo(line)


@main.command("list")
@click.argument("kind", required=False, metavar="[" + "|".join(KINDS) + "]")
def list_command(kind: str | None) -> None:
    """List what there is, one line each."""
    with _guarded():
        from collapse.config import ConfigError, did_you_mean, listing

        if kind is not None and kind not in KINDS:
            raise ConfigError(f"there is nothing called {kind!r} to list{did_you_mean(kind, KINDS)}")
        for one in KINDS if kind is None else (kind,):
            rows = listing(one)
            width = max((len(name) for name, _ in rows), default=0)
            if kind is None:
                click.echo(f"{one}:")
            for name, line in rows:
                click.echo(f"{'  ' if kind is None else ''}{name:<{width}}  {line}")


@main.command("config")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE ...]")
def config_command(arguments: tuple[str, ...]) -> None:
    """Print the resolved config, with the origin of each value."""
    with _guarded():
        from collapse.config import annotated, load

        click.echo(annotated(load(*_split(arguments))))


@main.command("theory")
@click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE ...]")
@click.option("--workers", default=0, show_default="processors", help="Processes to run the sweep's cells in.")
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw laws and chains (.png, .svg, .pdf)."
)
def theory_command(arguments: tuple[str, ...], workers: int, figure: Path | None) -> int:
    """Run a config's chains and print what theory predicts beside what they did; 1 where they disagree."""
    with _guarded():
        from collapse.config.messages import quiet
        from collapse.config.theory import confront

        quiet()
        return FAILED if confront(*_split(arguments), workers=workers, figure=figure, say=click.echo) else DONE


def _store(folder: Path) -> Any:
    """Return the store of an existing run."""
    from collapse.config import ConfigError
    from collapse.data import GenerationStore

    if not (folder / "journal.jsonl").is_file() and not (folder / "generations").is_dir():
        raise ConfigError(f"{folder} is no run folder: it has neither a journal nor generations")
    return GenerationStore(folder)


@main.command("wandb-export")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; RUN/wandb-export when left out.")
def wandb_export_command(folder: Path, out: Path | None) -> None:
    """Write what was logged to W&B offline as plain JSON files; prints their folder last."""
    with _guarded():
        from collapse.config.wandb_export import export_wandb

        click.echo(export_wandb(folder, out, say=lambda line: click.echo(f"collapse: {line}", err=True)))


def _split(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Tell the config, which comes first and has no ``=``, from the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], arguments[1:]
    return None, arguments


class _guarded:
    """Turn errors into one sentence on standard error and an exit code: 2 for use, 75 for a chain
    that was asked to stop and can be continued, 1 for the rest of what can fail.

    Args:
        chain: Whether what was interrupted is a chain, which goes on where it stopped.
    """

    def __init__(self, *, chain: bool = False) -> None:
        self.chain = chain

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from collapse.config.errors import ConfigError

        if isinstance(error, ConfigError):
            _fail(str(error), USAGE)
        if isinstance(error, StoppedForRequeue):
            if not _is_first():
                sys.exit(DONE)  # the first process speaks for all: launchers take another's code for a crash
            _fail(str(error), REQUEUE)
        if isinstance(error, OSError):
            where = f" {error.filename}" if error.filename else ""
            remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
            goes_on = ", or `collapse resume RUN`: the chain goes on where it stopped" if self.chain else ""
            _fail(
                f"could not read or write{where}: {error.strerror or error}; {remedy}, then give the same command "
                f"again{goes_on}",
                FAILED,
            )
        if isinstance(error, SystemExit | KeyboardInterrupt):  # Lightning makes the one, with any code, of the other
            _fail(INTERRUPTED + CONTINUED * self.chain, FAILED)
        if isinstance(error, RuntimeError | ArithmeticError | ValueError | TypeError) and not os.environ.get(
            "COLLAPSE_TRACEBACK"
        ):
            from collapse.config.messages import on_purpose

            _fail(f"{error}{'' if on_purpose(type(error)) else ' (COLLAPSE_TRACEBACK=1 shows where)'}", FAILED)


def _fail(sentence: str, code: int) -> None:
    from collapse.config.errors import one_line

    click.echo(f"collapse: {one_line(sentence, READABLE if code == USAGE else None)}", err=True)
    sys.exit(code)


def _say_folder(root: Path) -> None:
    if _is_first():
        click.echo(root)


def _is_first() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


if __name__ == "__main__":
    main()
