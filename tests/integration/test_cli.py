"""The command line as a user meets it: what it prints, how it ends, and what it leaves on the disk."""

import contextlib
import gc
import hashlib
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import yaml
from wandb_reader import of_kind

from collapse.cli import main
from collapse.config.wandb_file import set_items, wandb_history

COLLAPSE = Path(sys.executable).with_name("collapse")
COMMANDS = sorted(main.commands)
CHAIN = (
    "generations=3",
    "epochs_per_generation=1",
    "steps_per_generation=20",
    "samples_per_generation=300",
    "evaluation.max_rows=100",
)
QUIET = (*CHAIN, "wandb.enabled=false", "out=run")


def serve():
    """Fork a process per line of standard input: every command starts with everything imported."""
    from collapse.config.execute import build_data
    from collapse.config.load import load

    build_data(load().config).gold()  # what else a command would wait for: scikit-learn
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if not process:
            for target, source in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
                os.dup2(os.open(source, os.O_RDWR | os.O_CREAT | os.O_APPEND), target)
            os.chdir(order["folder"])
            os.environ.update(order["environment"])
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if order["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
            code = 1
            try:
                main(order["arguments"])
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)  # taking the interpreter down takes longer than a chain
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


class Ended:
    """How a command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def sentence(self):
        """What it said about its failure, in one line and without a traceback."""
        lines = self.err.splitlines()
        assert lines, "nothing on standard error"
        assert not any("Traceback" in line for line in lines), self.err
        assert [line for line in lines if line.startswith("collapse: ")] == lines[-1:], self.err
        return lines[-1].removeprefix("collapse: ")


class Shell:
    """Runs ``collapse`` commands, each in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            text=True,
        )

    def start(self, folder, *arguments, err=None, limit=None, **environment):
        """Start a command in ``folder``; ``err`` may be a terminal, ``limit`` the largest file in bytes."""
        self.paths = [Path(err) if err else self.folder / "err", self.folder / "out"]
        for path in self.paths:
            if path.is_file():
                path.unlink()
        order = {
            "arguments": arguments,
            "folder": str(folder),
            "err": str(self.paths[0]),
            "out": str(self.paths[1]),
            "limit": limit,
            "environment": environment,
        }
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self):
        code = int(self.server.stdout.readline())
        err, out = (path.read_text() if path.is_file() else "" for path in self.paths)
        return Ended(code, out, err)

    def __call__(self, folder, *arguments, **settings):
        self.start(folder, *arguments, **settings)
        return self.wait()

    def close(self):
        self.server.stdin.close()
        self.server.wait(30)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.close()


def snapshot(folder):
    """Every file under a folder: its bytes and when it was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(folder):
    """What a run computed: digest by name. Checkpoints, which hold paths, and what tells of the processes, aside."""
    aside = ("checkpoints/", "journal.jsonl", "lock")
    return {name: digest for name, (_, digest) in snapshot(folder).items() if not name.startswith(aside)}


def measured(folder):
    """{generation: {name: value}} of a metrics.jsonl."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["generation"], {})[row["name"]] = row["value"]
    return found


def progress_line(generation, total, values):
    """A generation's line as it stands in a log file."""
    names = ("train/loss", "fd_classifier", "coverage", "variance_ratio")
    return "  ".join([f"generation {generation + 1}/{total}", *(f"{name} {values[name]:.4g}" for name in names)])


# help


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    arguments = [command, "--help"] if command else ["--help"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "collapse", *arguments], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "collapse" in imported
    assert not imported & {"torch", "pytorch_lightning", "numpy", "omegaconf", "wandb", "rich", "sklearn"}
    assert f"Usage: collapse {command or '[OPTIONS]'}" in done.stdout
    if command is None:
        listed = re.findall(r"^  ([\w-]+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
        assert listed == COMMANDS
        assert {"config", "list", "resume", "run"} <= set(listed)


def test_help_answers_within_half_a_second():
    def seconds():
        start = time.perf_counter()
        subprocess.run([COLLAPSE, "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_without_a_command_there_is_help(shell, tmp_path):
    alone, asked = shell(tmp_path), shell(tmp_path, "--help")
    assert (alone.code, alone.out, alone.err) == (0, asked.out, "")
    assert "resume" in alone.out


def test_version(shell, tmp_path):
    import collapse

    assert collapse.__version__ in shell(tmp_path, "--version").out


# one run, as a user without a W&B account starts it


class Run:
    """A chain run from a bare environment: no key, an empty home, standard input closed."""

    def __init__(self, folder):
        self.home, self.folder = folder / "home", folder
        self.home.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "COLLAPSE_CACHE": str(folder / "cache"),
            "MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib"),  # making its list of fonts takes seconds
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.arguments = (
            "run",
            *CHAIN,
            "mitigations=[{AnchorReplay:{fraction:0.1}}]",
            "wandb.group=study",
            "wandb.tags=[a,b]",
        )
        self.done = subprocess.run(
            [COLLAPSE, *self.arguments],
            cwd=folder,
            env=environment,
            preexec_fn=lambda: os.close(0),
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.root = folder / self.done.stdout.strip()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("finished"))


def test_a_run_prints_its_folder_last_and_one_line_per_generation(finished):
    assert finished.done.returncode == 0, finished.done.stderr
    assert re.fullmatch(r"runs/[0-9a-f]{8}-0\n", finished.done.stdout)
    values = measured(finished.root)
    assert finished.done.stderr.splitlines() == [progress_line(index, 3, values[index]) for index in range(3)]


def test_what_a_run_folder_holds(finished):
    from collapse.config import load

    root = finished.root
    files = set(snapshot(root))
    deposits = {f"generations/gen_{index:03d}/manifest.json" for index in range(4)}
    weights = {f"weights/gen_{index:03d}.pt" for index in range(3)}
    figures = {f"figures/samples_gen_{index:03d}.png" for index in range(3)}
    training = {f"training/gen_{index:03d}.npy" for index in range(3)}
    named = {"config.yaml", "environment.json", "run.json", "metrics.jsonl", "journal.jsonl", "lock"}
    assert named | deposits | weights | figures | training <= files
    assert [name for name in files if name.startswith("checkpoints/")] == ["checkpoints/epoch-000002.ckpt"]
    rest = {name for name in files if not name.startswith(("generations/", "checkpoints/", "wandb/"))}
    assert rest == named | weights | figures | training
    assert not [name for name in files if ".tmp" in name]

    loaded = load(None, finished.arguments[1:])
    assert yaml.safe_load((root / "config.yaml").read_text()) == loaded.tree
    assert root.name == f"{loaded.digest[:8]}-0"
    environment = json.loads((root / "environment.json").read_text())
    assert {"commit", "python", "platform", "packages", "cpus", "devices"} <= set(environment)
    assert {"torch", "pytorch-lightning", "collapse"} <= set(environment["packages"])


def test_the_record_of_a_run(finished):
    rows = [json.loads(line) for line in (finished.root / "metrics.jsonl").read_text().splitlines()]
    assert {tuple(sorted(row)) for row in rows} == {
        ("arm", "extractor", "floor", "generation", "n", "name", "run", "seed", "value")
    }
    assert {(row["run"], row["seed"]) for row in rows} == {(finished.root.name, 0)}
    assert len({(row["generation"], row["name"]) for row in rows}) == len(rows)
    by_name = {(row["generation"], row["name"]): row for row in rows}
    assert [by_name[index, "real_fraction"]["value"] for index in range(3)] == [1.0, 0.1, 0.1]
    for prefix in ("", "deposit/"):
        coverage = by_name[2, f"{prefix}coverage"]
        assert coverage["n"] == 100
        assert coverage["extractor"].startswith("classifier-")
        assert 0 <= coverage["value"] <= 1
        assert coverage["floor"] > 0.8


def test_nothing_is_written_outside_of_the_run_folder_and_the_cache(finished):
    assert {path.name for path in finished.folder.iterdir()} == {"home", "cache", "runs"}
    assert {path.name for path in (finished.folder / "runs").iterdir()} == {finished.root.name, ".gold"}
    cached = [path.name for path in (finished.folder / "cache").iterdir()]
    assert len(cached) == 1
    assert re.fullmatch(r"classifier-[0-9a-f]{8}\.pt", cached[0])
    assert list(finished.home.rglob("*")) == []


def test_weights_and_biases_holds_one_run(finished):
    paths = list(finished.root.glob("wandb/**/*.wandb"))
    assert len(paths) == 1
    (run,) = of_kind(paths[0], "run")
    assert run.run_id == (finished.root / "wandb" / "id").read_text().strip()
    assert re.fullmatch(rf"{finished.root.name}-[0-9a-f]{{8}}", run.run_id)
    assert run.display_name == finished.root.name
    assert (run.project, run.run_group, run.job_type) == ("collapse", "study", "recursive")
    assert list(run.tags) == ["a", "b", "VAE", "Digits", "AnchorReplay"]
    config = set_items({}, run.config.update)
    assert config["data"] == {"name": "Digits", "batch_size": 128}
    assert config["mitigations"] == [{"AnchorReplay": {"fraction": 0.1}}]
    assert (config["generations"], config["seed"]) == (3, 0)
    assert [ended.exit_code for ended in of_kind(paths[0], "exit")] == [0]


def test_weights_and_biases_knows_the_axes(finished):
    (path,) = finished.root.glob("wandb/**/*.wandb")
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in of_kind(path, "metric")}
    assert {"generation", "lifetime_step"} <= set(axes)
    assert axes["gen/*"] == "generation"


def test_weights_and_biases_shows_what_the_record_says(finished):
    (path,) = finished.root.glob("wandb/**/*.wandb")
    rows, values = wandb_history(path), measured(finished.root)
    generations = [row for row in rows if "gen/coverage" in row]
    assert [row["generation"] for row in generations] == [0, 1, 2]
    assert [row["lifetime_step"] for row in generations] == [20, 40, 60]
    for row in generations:
        logged = {name.removeprefix("gen/"): value for name, value in row.items() if name.startswith("gen/")}
        assert logged == values[row["generation"]]
    images = [row for row in rows if "gen/samples" in row]
    assert [row["gen/samples"]["captions"] for row in images] == [[f"generation {index}"] for index in range(3)]
    assert [row["generation"] for row in images] == [0, 1, 2]


def test_weights_and_biases_never_goes_back_a_step(finished):
    (path,) = finished.root.glob("wandb/**/*.wandb")
    steps = [row["trainer/global_step"] for row in wandb_history(path)]
    assert len(steps) == 12  # an image, the measurements, their table and Lightning's own row of every generation
    assert steps == sorted(steps)


# a finished run stays as it is


@pytest.mark.parametrize("command", ["resume", "run"])
def test_a_finished_run_is_left_alone(shell, finished, command):
    before = snapshot(finished.root)
    assert len(before) > 25
    arguments = ["resume", f"runs/{finished.root.name}"] if command == "resume" else finished.arguments
    ended = shell(finished.folder, *arguments)
    assert (ended.code, ended.out, ended.err) == (0, f"runs/{finished.root.name}\n", "")
    assert snapshot(finished.root) == before


def test_a_folder_of_another_config_is_refused(shell, finished):
    before = snapshot(finished.root)
    ended = shell(finished.folder, *finished.arguments, f"out=runs/{finished.root.name}", "generations=4")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.sentence == (
        f"out=runs/{finished.root.name} holds another run: its generations is 3, not 4; choose another folder, "
        f"or go on with that one: collapse resume runs/{finished.root.name}"
    )
    assert snapshot(finished.root) == before


def test_where_a_run_goes_and_who_watches_is_not_its_config(shell, finished):
    before = snapshot(finished.root)
    ended = shell(finished.folder, *finished.arguments, f"out={finished.root}", "wandb.project=other")
    assert (ended.code, ended.out) == (0, f"{finished.root}\n")
    assert snapshot(finished.root) == before


# misuse: exit code 2, one sentence, nothing left behind


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generation=3"], ["unknown key 'generation'", "command line", "did you mean 'generations'"]),
        (["wandb.prject=x"], ["unknown key 'wandb.prject'", "did you mean 'project'"]),
        (["model.latentdim=4"], ["model", "VAE", "'latentdim'", "did you mean 'latent_dim'"]),
        (["seed=abc"], ["seed", "'abc'", "command line"]),
        (["generations=0"], ["generations must be at least 1, got 0"]),
        (["mitigations=[AnchorReply]"], ["mitigations[0]", "'AnchorReply'", "did you mean 'AnchorReplay'"]),
        (["mitigations=[{AnchorReplay:{fraction:1.5}}]"], ["AnchorReplay", "fraction must lie in [0, 1], got 1.5"]),
        (["mitigations=[DataAccumulation,RealOnly]"], ["DataAccumulation()", "RealOnly()", "both decide"]),
        (["mitigation=acumulate"], ["mitigation=acumulate", "did you mean 'accumulate'"]),
        (["trainer.acelerator=cpu"], ["unknown key 'trainer.acelerator'", "did you mean 'accelerator'"]),
        (["trainer.accelerator=warp"], ["accelerator='warp'", "cpu"]),
        (["trainer.max_epochs=3"], ["trainer.max_epochs", "epochs_per_generation", "leave it out"]),
        (["data=mnist"], ["MNIST needs 'root'"]),
        (["data=mnist", "data.root=/nowhere"], ["MNIST", "root = '/nowhere'", "put the files"]),
        (["initialization=frsh"], ["initialization", "'frsh'", "did you mean 'fresh'"]),
        (["epochs_per_generation=2"], ["steps_per_generation=20", "epochs_per_generation=2", "one of them"]),
        (["checkpoint_steps=0"], ["checkpoint_steps=0 must be at least 1"]),
        (["evaluation.gallery=-1"], ["evaluation.gallery=-1 must be at least 0"]),
        (["evaluation.neighbors=0"], ["neighbors must be at least 1", "got 0"]),
        (["wandb.enabled=true", "wandb.mode=ofline"], ["wandb.mode='ofline'", "did you mean 'offline'"]),
        (["data.held_out=0.9995"], ["held_out", "0.9995", "no gold rows"]),
        (["mitigations=[{SIGReg:{weight:1,target:z}}]"], ["SIGReg", "'z'", "VAE", "latent"]),
        # found out when the gold set is composed, in a run folder of its own that goes again
        (["mitigations=[{AnchorReplay:{fraction:1,rows:fresh}}]", "samples_per_generation=900"], ["lower fraction"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_misuse(shell, tmp_path, arguments, said):
    ended = shell(tmp_path, "run", *QUIET, *arguments)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert ended.sentence.count("\n") == 0
    for part in said:
        assert part in ended.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rn"], "No such command 'rn'. Did you mean 'run'?"),
        (["resume"], "Missing argument 'RUN'."),
        (["run", "--fast"], "No such option '--fast'."),
        (["run", "demoo"], "there is no experiment 'demoo'; did you mean 'demo'?"),
        (["run", "mine.yaml"], "there is no config file mine.yaml"),
        (["run", "demo", "fast"], "'fast' is no override; write key=value"),
        (["config", "data=digit"], "data=digit: there is no such config; did you mean 'digits'?"),
        (["list", "model"], "there is nothing called 'model' to list; did you mean 'models'?"),
        (["resume", "nowhere"], "nowhere is no run folder: it has no config.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_misuse_of_a_command(shell, tmp_path, arguments, said):
    ended = shell(tmp_path, *arguments)
    assert (ended.code, ended.out, ended.sentence) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_users_stays_empty(shell, tmp_path):
    (tmp_path / "run").mkdir()
    ended = shell(
        tmp_path, "run", *QUIET, "samples_per_generation=900", "mitigations=[{AnchorReplay:{fraction:1,rows:fresh}}]"
    )
    assert ended.code == 2
    assert not list(tmp_path.glob("run/*"))


def test_out_must_not_be_anything_else(shell, tmp_path):
    (tmp_path / "run").write_text("mine")
    file = shell(tmp_path, "run", *QUIET)
    assert (file.code, file.sentence) == (2, "out=run is a file; choose a folder")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    folder = shell(tmp_path, "run", *QUIET, "out=thesis")
    assert (folder.code, folder.sentence) == (2, "out=thesis is not empty and holds no run; choose another folder")
    assert {name: digest for name, (_, digest) in snapshot(tmp_path).items()} == dict.fromkeys(
        ("run", "thesis/chapter"), hashlib.sha256(b"mine").hexdigest()
    )


# what can fail: exit code 1


def mounted(folder, options):
    """Mount a memory file system; False where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


@contextlib.contextmanager
def mount(folder, options):
    if not (shutil.which("mount") and os.geteuid() == 0 and mounted(folder, options)):
        pytest.skip("may not mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = shell(folder, "run", *QUIET)
    assert (ended.code, ended.out) == (0, "run\n"), ended.err
    return results(folder / "run")


@pytest.mark.parametrize("kilobytes", [8, 400, 1200])
def test_a_full_disk_fails_with_a_sentence_and_resumes_to_the_same_bytes(shell, tmp_path, undisturbed, kilobytes):
    folder = tmp_path / "disk"
    folder.mkdir()
    with mount(folder, f"size={kilobytes}k"):
        ended = shell(folder, "run", *QUIET)
        assert ended.code == 1
        assert ended.out == ""
        assert "No space left on device; free some space" in ended.sentence
        assert not list(folder.rglob("*.tmp*"))
        assert len(results(folder / "run")) < len(undisturbed)
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        # too full for the config: that is no run folder yet
        again = ["resume", "run"] if (folder / "run" / "config.yaml").exists() else ["run", *QUIET]
        ended = shell(folder, *again)
        assert (ended.code, ended.out) == (0, "run\n"), ended.err
        assert results(folder / "run") == undisturbed


@pytest.mark.parametrize("limit", [60_000, 150_000, 400_000])
def test_a_file_that_may_not_grow_fails_with_a_sentence(shell, tmp_path, undisturbed, limit):
    # what a quota looks like: gold is too large, or the first weights, or the first checkpoint
    ended = shell(tmp_path, "run", *QUIET, limit=limit)
    assert (ended.code, ended.out) == (1, "")
    assert "File too large; free some space" in ended.sentence
    assert not list(tmp_path.rglob("*.tmp*"))
    ended = shell(tmp_path, "resume", "run")
    assert (ended.code, ended.out) == (0, "run\n"), ended.err
    assert results(tmp_path / "run") == undisturbed


def test_a_folder_that_cannot_be_written(shell, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            stack.enter_context(mount(folder, "ro"))
        else:
            folder.chmod(0o555)
        ended = shell(tmp_path, "run", *QUIET, "out=disk/run")
        assert (ended.code, ended.out) == (1, "")
        assert "could not read or write disk/run" in ended.sentence
        assert list(tmp_path.rglob("*")) == [folder]


def test_a_model_that_blows_up(shell, tmp_path):
    arguments = ("run", *QUIET, "model.learning_rate=1e30")
    assert "lower the learning rate" in shell(tmp_path, *arguments).sentence
    shutil.rmtree(tmp_path / "run")
    ended = shell(tmp_path, *arguments, COLLAPSE_TRACEBACK="1")
    assert ended.code == 1
    assert ended.err.splitlines()[0] == "Traceback (most recent call last):"
    assert "NonFiniteLossError: the loss of batch 1 in epoch 0 of generation 0 is" in ended.err.splitlines()[-1]


def until(condition, seconds=30):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited too long"
        time.sleep(0.005)


LONG = (*QUIET, "steps_per_generation=300")  # so long that a signal comes in time


@pytest.fixture(scope="module")
def undisturbed_long(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed_long")
    assert shell(folder, "run", *LONG).code == 0
    return results(folder / "run")


ENDS = [
    (signal.SIGINT, 1, "interrupted; `collapse resume RUN` continues the chain"),
    (signal.SIGTERM, 75, "stopped after step [0-9]+, as a signal asked; `collapse resume run`, or the same command"),
]


@pytest.mark.parametrize(("number", "code", "sentence"), ENDS, ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_so_and_resumes_to_the_same_bytes(
    shell, tmp_path, undisturbed_long, number, code, sentence
):
    process = shell.start(tmp_path, "run", *LONG)
    until(lambda: (tmp_path / "run/metrics.jsonl").exists())
    os.kill(process, number)
    ended = shell.wait()
    assert (ended.code, ended.out) == (code, "")
    assert re.match(sentence, ended.sentence)
    assert set(measured(tmp_path / "run")) < {0, 1, 2}
    assert shell(tmp_path, "resume", "run").code == 0
    assert results(tmp_path / "run") == undisturbed_long


# progress


def test_on_a_terminal_progress_is_one_live_line(shell, tmp_path, undisturbed):
    reader, terminal = pty.openpty()
    chunks, over = [], threading.Event()

    def read():
        while not over.is_set() or select.select([reader], [], [], 0)[0]:
            if select.select([reader], [], [], 0.05)[0]:
                chunks.append(os.read(reader, 4096))

    watcher = threading.Thread(target=read)
    watcher.start()
    ended = shell(tmp_path, "run", *QUIET, err=os.ttyname(terminal), TERM="xterm", COLUMNS="160")
    over.set()
    watcher.join()
    for end in (reader, terminal):
        os.close(end)
    assert (ended.code, ended.out) == (0, "run\n")
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]", "", b"".join(chunks).decode())  # without colors
    assert text.count("\n") == 1
    assert text.endswith("\n")
    states = re.split(r"\r\x1b\[2K", text.rstrip("\r\n"))
    assert states[0].startswith("generation 1/3 ")
    values = measured(tmp_path / "run")
    shown = list(dict.fromkeys(state.partition("━")[0].rstrip(" ") for state in states[1:] if "train/loss" in state))
    lines = [progress_line(index, 3, values[index]) for index in range(3)]
    assert [line for line in lines if line in shown] == [line for line in shown if line in lines]
    assert lines[-1] in states[-1]
    assert results(tmp_path / "run") == undisturbed


# list and config


def test_config_prints_a_config_that_can_be_run_and_where_it_came_from(shell, tmp_path):
    from collapse.config import load

    ended = shell(tmp_path, "config", "demo", "data.batch_size=7", "mitigation=anchor")
    assert (ended.code, ended.err) == (0, "")
    assert yaml.safe_load(ended.out) == load("demo", ["data.batch_size=7", "mitigation=anchor"]).tree
    origin = dict(re.findall(r"^ *(\w+):.*?  # (.*)$", ended.out, re.MULTILINE))
    assert origin["batch_size"] == "command line"
    assert origin["steps_per_generation"] == "configs/experiment/demo.yaml"
    assert origin["hidden"] == "configs/model/vae.yaml"
    assert origin["mitigations"] == "configs/mitigation/anchor.yaml"
    assert origin["chunk_size"] == "default"
    (tmp_path / "mine.yaml").write_text(ended.out)
    again = shell(tmp_path, "config", "mine.yaml")
    assert yaml.safe_load(again.out) == yaml.safe_load(ended.out)


def test_list_names_everything_that_can_be_named(shell, tmp_path):
    from collapse.config.build import registry
    from collapse.config.load import names_in
    from collapse.metrics import METRICS, TEXT_METRICS

    known = {kind: list(registry(kind)) for kind in ("models", "data", "mitigations")}
    known |= {"metrics": [metric.name for metric in (*METRICS, *TEXT_METRICS)], "experiments": names_in("experiment")}
    for kind, names in known.items():
        lines = shell(tmp_path, "list", kind).out.splitlines()
        assert [line.split()[0] for line in lines] == names
        assert all(len(line.split()) > 3 for line in lines), "every name has a line about it"
    everything = shell(tmp_path, "list").out.splitlines()
    assert [line.rstrip(":") for line in everything if not line.startswith(" ")] == list(known)
    assert len(everything) == sum(len(names) for names in known.values()) + len(known)


if __name__ == "__main__":
    serve()
