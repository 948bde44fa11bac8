"""Broken configs and command lines end with exit code 2 and one sentence, and leave nothing behind."""

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import broken
import broken_components
import broken_files
import broken_settings
import pytest
import pytorch_lightning as pl
from hypothesis import HealthCheck, Phase, given, settings

import collapse.config.execute
import collapse.config.wandb_export  # noqa: F401 - now: importing W&B makes temporary folders
from collapse.cli import main
from collapse.stopping import SIGNALS

KINDS = {
    "misspelled keys": (broken.misspelled_keys(), 40),
    "unknown keys": (broken.unknown_keys(), 25),
    "wrong types": (broken.wrong_types(), 60),
    "out of range": (broken.out_of_range(), 40),
    "misspelled arguments": (broken_components.misspelled_arguments(), 30),
    "arguments of a wrong type": (broken_components.arguments_of_wrong_type(), 60),
    "arguments out of range": (broken_components.arguments_out_of_range(), 60),
    "too large": (broken_components.too_large(), 20),
    "missing arguments": (broken_components.missing_arguments(), 10),
    "unknown names": (broken_components.unknown_names(), 30),
    "nameless": (broken_components.nameless(), 10),
    "groups": (broken_components.groups(), 30),
    "mitigations": (broken_components.mitigations(), 25),
    "no configs": (broken_files.no_configs(), 60),
    "cut short": (broken_files.cut_short(), 15),
    "interpolations": (broken_files.interpolations(), 30),
    "no overrides": (broken_files.no_overrides(), 40),
    "commands": (broken_files.commands(), 30),
    "no files": (broken_files.no_files(), 25),
    "outs": (broken_files.outs(), 25),
    "resumes": (broken_files.resumes(), 25),
    "trainers": (broken_settings.trainers(), 40),
    "trackers": (broken_settings.trackers(), 20),
    "sweeps": (broken_settings.sweeps(), 30),
    "unfit": (broken_settings.unfit(), 60),
    "theories": (broken_settings.theories(), 10),
}
MOST_CHARACTERS = 400
MOST_BYTES = 4 << 30  # a size that is refused for want of memory is refused at once
MOST_SECONDS = 20


class Trained(BaseException):
    """Raised in place of training: a broken config must not come that far."""


class Folder:
    """A working folder with a home, a cache and a temporary folder in it, empty at first."""

    def __init__(self, root):
        self.root = root
        self.clean()

    def clean(self):
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("home", "cache", "tmp", "here"):
            (self.root / name).mkdir(parents=True)

    def put(self, files):
        for name, content in files.items():
            path = self.root / "here" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if content is None and not path.exists() else content is None or path.write_bytes(content)

    def seen(self):
        """Everything there is: the bytes of files, and in the working folder when anything last changed."""
        return {
            str(path.relative_to(self.root)): (
                path.stat().st_mtime_ns if self.root / "here" in (path, *path.parents) else 0,
                path.read_bytes() if path.is_file() else None,
            )
            for path in self.root.rglob("*")
        }


@contextlib.contextmanager
def limits():
    """Bound memory and time, so that a config that gets past the checks ends the example and not the tests."""

    def over(*unused):
        raise TimeoutError(f"more than {MOST_SECONDS} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, before[1]))
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def invoke(folder, arguments):
    """Give a command in this process; return exit code, standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), None
    environment, temporary = dict(os.environ), tempfile.tempdir
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    os.environ |= {"HOME": str(folder.root / "home"), "COLLAPSE_CACHE": str(folder.root / "cache")}
    tempfile.tempdir = str(folder.root / "tmp")
    try:
        with (
            contextlib.chdir(folder.root / "here"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            limits(),
        ):
            warnings.simplefilter("always")  # shown, as to a user
            main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ |= environment
        tempfile.tempdir = temporary
    return code, out.getvalue(), err.getvalue()


def plain(text):
    return " ".join(text.split())


def check(case, code, out, err):
    """Assert that a command line was refused in one sentence that names what is wrong."""
    assert code == 2, err
    assert out == ""
    assert err.startswith("collapse: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert err.rstrip("\n").isprintable(), err
    assert len(err) <= MOST_CHARACTERS, err
    assert "Traceback" not in err
    assert "Error:" not in err, err
    assert "Exception" not in err, err
    assert "(COLLAPSE_TRACEBACK" not in err
    assert any(plain(name) in err for name in case.named), err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("fuzz") / "folder")


@pytest.fixture
def no_training(monkeypatch):
    def fit(*unused, **settings):
        raise Trained

    monkeypatch.setattr(pl.Trainer, "fit", fit)


counts = Counter()


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    print(f"\n{sum(counts.values())} broken configs and command lines:")
    for kind, count in counts.items():
        print(f"  {count:4} {kind}")


def refuse(folder, case):
    folder.clean()
    folder.put(case.files)
    before = folder.seen()
    ended = invoke(folder, case.arguments)
    check(case, *ended)
    assert folder.seen() == before


def fuzz(kind, folder, **profile):
    strategy, seen = KINDS[kind][0], set()

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **profile)
    @given(strategy)
    def run(case):
        refuse(folder, case)
        if repr(case) not in seen:
            seen.add(repr(case))
            counts[kind] += 1

    run()
    return len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_is_refused(kind, folder, no_training):
    fuzz(kind, folder, derandomize=True, max_examples=KINDS[kind][1])


NGRAM = ("data=markov", "model=ngram")
FOUND = [
    broken.Broken(["theory", "mine.yaml"], ("mine.yaml",), {"mine.yaml": b"seed: " + b"9" * 5000}),
    broken.Broken(["run", "mine.yaml"], ("mine.yaml",), {"mine.yaml": b"seed: !!timestamp x\n"}),
    broken.Broken(["config", "mine.yaml"], ("mine.yaml",), {"mine.yaml": b'include: ["\\0"]\n'}),
    broken.Broken(["config", "mine.yaml"], ("mine.yaml",), {"mine.yaml": b"include: [" + b"x" * 3000 + b"]\n"}),
    broken.Broken(["config", "mine.yaml"], ("project",), {"mine.yaml": b"wandb: {project: '\\${seed}'}\n"}),
    broken.Broken(["run", "model.[x]=1"], ("model.[x]",)),
    broken.Broken(["run", 'seed="\\x12"'], ("seed",)),
    broken.Broken(["run", "wandb.tags=[[1]]"], ("tags",)),
    broken.Broken(["run", "mitigations=[{EMA: {3: 4}}]"], ("mitigations[0]", "3")),
    broken.Broken(["run", "out=" + "x" * 300], ("out",)),
    broken.Broken(["run", "out=file/run"], ("out=file/run",), {"file": b""}),
    broken.Broken(["resume", "x" * 300], ("run folder",)),
    broken.Broken(["resume", "run"], ("run/config.yaml",), {"run": None, "run/config.yaml": b""}),
    broken.Broken(["run", "x" * 5000], ("experiment",)),
    broken.Broken(["run", "data=gaussian", "data.rows=1000000000000000"], ("data (GaussianData)",)),
    broken.Broken(["run", "data=gaussian", "data.reference_rows=1000000000000000"], ("data (GaussianData)",)),
    broken.Broken(["run", "model.hidden=4611686018427387904"], ("model (VAE)",)),
    broken.Broken(["run", "data.num_workers=-1"], ("num_workers",)),
    broken.Broken(["run", "generations=" + "9" * 30], ("generations",)),
    broken.Broken(["run", "trainer.sync_batchnorm=[1]"], ("sync_batchnorm",)),
    broken.Broken(["run", "trainer.accumulate_grad_batches=0"], ("accumulate_grad_batches",)),
    broken.Broken(["run", "wandb.project=a/b"], ("wandb.project",)),
    broken.Broken(["run", "data=gaussian", "model=gaussian", "mitigation=ema"], ("EMA",)),
    broken.Broken(["run", "data=gaussian", "model=gaussian", "model.dim=2"], ("Gaussian(dim=2",)),
    broken.Broken(["run", "data=mnist", "data.root=~nobody_at_all/x"], ("root",)),
    broken.Broken(["theory", "model=vae", "data=gaussian"], ("theory",)),
    broken.Broken(["theory", "shumailov2024_gaussian", "--workers=1", "sweep={generations: [2, 0]}"], ("generations",)),
    broken.Broken(["run", "data=digits", "mitigations=[{OutlierFilter:{rate:0.0001}}]"], ("rate",)),
    broken.Broken(["run", "data=digits", "mitigations=[{OutlierFilter:{rate:0.0005}}]"], ("rate",)),
    broken.Broken(["run", "data=digits", "mitigation=pool_gate", "samples_per_generation=1"], ("PoolGate",)),
    broken.Broken(["run", *NGRAM, "mitigation=pool_gate"], ("PoolGate",)),
    broken.Broken(["run", *NGRAM, "mitigation=outlier_filter"], ("OutlierFilter",)),
]
"""What once ended in another way, and was mended."""


@pytest.mark.parametrize("case", FOUND, ids=lambda case: " ".join(case.arguments)[:60])
def test_what_was_found_is_refused(case, folder, no_training):
    refuse(folder, case)


@pytest.mark.parametrize("case", [FOUND[5], FOUND[23]], ids=lambda case: " ".join(case.arguments)[:60])
def test_a_process_of_its_own_says_the_same(case, folder):
    folder.clean()
    folder.put(case.files)
    before = folder.seen()
    settings = {"HOME": str(folder.root / "home"), "TMPDIR": str(folder.root / "tmp")}
    settings["MPLCONFIGDIR"] = str(Path.home() / ".cache" / "matplotlib")  # making its list of fonts takes seconds
    ended = subprocess.run(
        [sys.executable, "-m", "collapse", *case.arguments],
        cwd=folder.root / "here",
        env={**os.environ, **settings, "CUDA_VISIBLE_DEVICES": "", "COLLAPSE_CACHE": str(folder.root / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    check(case, ended.returncode, ended.stdout, ended.stderr)
    assert folder.seen() == before


def test_there_are_enough_of_them():
    if set(counts) != set(KINDS):
        pytest.skip("not all kinds have been run by this process")
    assert sum(counts.values()) >= 500


@pytest.mark.parametrize(
    "base", [*broken.BASES, *(("theory", "--workers=1", *base) for base in broken.THEORIES)], ids=" ".join
)
def test_what_was_broken_was_whole_before(base, folder, no_training):
    folder.clean()
    with pytest.raises(Trained):
        invoke(folder, base)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_much_more_that_is_broken_is_refused(kind, folder, no_training):
    fuzz(kind, folder, max_examples=20 * KINDS[kind][1], phases=[Phase.generate, Phase.shrink])
