"""The command line. Nothing heavy is imported before a command needs it: ``--help`` must answer at once."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

__all__ = ["main", "quiet"]

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED = "interrupted; `collapse resume RUN` continues the chain"
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
    with _guarded():
        from collapse.config import load
        from collapse.config.execute import run

        quiet()
        chain = run(load(*_split(arguments)))
        _say_folder(chain.root)


@main.command("resume")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def resume_command(folder: Path) -> None:
    """Continue an interrupted chain, bit for bit; a finished one is left as it is."""
    with _guarded():
        from collapse.config import load_run
        from collapse.config.execute import run

        quiet()
        chain = run(load_run(folder))
        _say_folder(chain.root)


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
        from collapse.config.theory import confront

        quiet()
        return FAILED if confront(*_split(arguments), workers=workers, figure=figure, say=click.echo) else DONE


def _split(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Tell the config, which comes first and has no ``=``, from the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], arguments[1:]
    return None, arguments


class _guarded:
    """Turn errors into one sentence on standard error and an exit code: 2 for use, 1 for the rest of what can fail."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from collapse.config.errors import ConfigError

        if isinstance(error, ConfigError):
            _fail(str(error), USAGE)
        if isinstance(error, OSError):
            where = f" {error.filename}" if error.filename else ""
            remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
            _fail(
                f"could not read or write{where}: {error.strerror or error}; {remedy}, then give the same command "
                "again, or `collapse resume RUN`: the chain goes on where it stopped",
                FAILED,
            )
        if isinstance(error, SystemExit):  # what Lightning makes of Ctrl-C and of SIGTERM, with any exit code
            _fail(INTERRUPTED, FAILED)
        if isinstance(error, RuntimeError | ArithmeticError | ValueError | TypeError) and not os.environ.get(
            "COLLAPSE_TRACEBACK"
        ):
            _fail(f"{error} (COLLAPSE_TRACEBACK=1 shows where)", FAILED)


def _fail(sentence: str, code: int) -> None:
    click.echo(f"collapse: {' '.join(sentence.split())}", err=True)
    sys.exit(code)


def quiet() -> None:
    """Keep Lightning's advice out of a chain's output: what concerns a user is said by us."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*isinstance.treespec.*",
        ".*number of training batches.*",
        ".*GPU available but not used.*",
        ".*ModelCheckpoint with manual optimization.*",  # an estimator's step is the whole of its optimization
    ):
        warnings.filterwarnings("ignore", message=message)


def _say_folder(root: Path) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0":
        click.echo(root)


if __name__ == "__main__":
    main()
