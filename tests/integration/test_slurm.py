"""The batch scripts, on a cluster of stubs: what they requeue, and that a requeued chain leaves the same bytes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slurm_stubs import Cluster, until
from test_sigkill import ENVIRONMENT, files
from wandb_reader import of_kind

from collapse.config import load
from collapse.config.execute import run

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
NAMES = ("single", "ddp", "array")
CHAIN = (
    "data=ring",
    "data.rows=400",
    "model.hidden=8",
    "generations=3",
    "epochs_per_generation=1",
    "steps_per_generation=150",
    "samples_per_generation=300",
    "evaluation.enabled=false",
    "trainer.accelerator=cpu",
)
SECONDS = 240  # nothing takes that long
# What stands in for the chain in a script's own tests: stops when it is asked to, and is done at once if it comes back.
STUBBORN = r"""
echo "$*" >>"$STUBS/runs"
((SLURM_RESTART_COUNT == 0)) || exit 0
trap '{0}' USR1
touch "$STUBS/listening"
while :; do sleep 0.01; done
"""


def script(name):
    return SCRIPTS / f"{name}.sbatch"


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


# The scripts


@pytest.mark.parametrize("file", sorted(SCRIPTS.iterdir()), ids=lambda file: file.name)
def test_the_scripts_are_sound(file):
    subprocess.run(["bash", "-n", file], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", file], check=True)


def test_the_scripts_differ_in_what_they_start_only():
    heads, bodies = zip(*(script(name).read_text().split("# ---- From here on") for name in NAMES), strict=True)
    assert len(set(bodies)) == 1
    for name, head in zip(NAMES, heads, strict=True):
        for line in ("--signal=B:USR1@300", "--requeue", "--open-mode=append"):
            assert f"#SBATCH {line}\n" in head, name


@pytest.mark.parametrize(
    ("number", "reaction", "codes", "requeued"),
    [
        (signal.SIGUSR1, "exit 75", [75, 0], True),
        (signal.SIGUSR1, "exit 0", [0], False),  # it was about to end anyway
        (signal.SIGUSR1, "exit 1", [1], False),  # a fault of its own
        (signal.SIGUSR1, "trap - USR1; kill -USR1 $$", [138, 0], True),  # nobody listened yet
        (signal.SIGTERM, "exit 75", [75], False),  # SLURM's own decision
        (signal.SIGTERM, "exit 0", [0], False),
    ],
)
def test_a_job_comes_back_if_it_was_stopped_for_that(cluster, tmp_path, number, reaction, codes, requeued):
    cluster.install("collapse", STUBBORN.replace("{0}", reaction))
    process = cluster.submit(script("single"), "out folder", "digits", "seed=3")
    until((tmp_path / "listening").exists, process)
    cluster.warn(number)
    assert process.wait(30) == 0
    assert cluster.codes() == codes
    assert cluster.requeued() == [f"requeue {cluster.name()}"] * requeued
    assert (tmp_path / "runs").read_text() == "run digits seed=3 out=out folder\n" * len(codes)


def test_a_chain_that_takes_its_time_to_stop_is_waited_for(cluster, tmp_path):
    cluster.install("collapse", STUBBORN.replace("{0}", 'echo heard >>"$STUBS/heard"; sleep 0.5; exit 75'))
    process = cluster.submit(script("single"), "out")
    until((tmp_path / "listening").exists, process)
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):  # the time limit, at last
        cluster.warn(number)
        until((tmp_path / "heard").exists, process)
    assert process.wait(30) == 0
    assert (cluster.codes(), cluster.requeued()) == ([75, 0], [f"requeue {cluster.name()}"])


def test_a_chain_that_stops_by_itself_comes_back(cluster, tmp_path):
    cluster.install("collapse", "((SLURM_RESTART_COUNT)) || exit 75")
    assert cluster.submit(script("single"), "out").wait(30) == 0
    assert (cluster.codes(), cluster.requeued()) == ([75, 0], [f"requeue {cluster.name()}"])


def test_a_cluster_that_does_not_requeue_is_named(cluster, tmp_path):
    cluster.install("collapse", "exit 75")
    assert cluster.submit(script("single"), "out", REFUSED="yes").wait(30) == 0
    assert cluster.codes() == [75]
    assert f"could not requeue job {cluster.name()}; submit it again and it goes on" in cluster.output()


def test_without_a_folder_there_is_one_line(cluster, tmp_path):
    assert cluster.submit(script("single")).wait(30) == 0
    assert "usage: sbatch scripts/slurm/single.sbatch FOLDER" in cluster.output()
    assert not (tmp_path / "tasks").exists()


def test_ddp_starts_a_task_per_device(cluster, tmp_path):
    cluster.install("collapse", 'echo "$SLURM_PROCID $*" >>"$STUBS/runs"')
    assert cluster.submit(script("ddp"), "out", "digits").wait(30) == 0
    started = sorted((tmp_path / "runs").read_text().splitlines())
    size = "trainer.devices=4 trainer.num_nodes=1 trainer.strategy=ddp"
    assert started == [f"{task} run digits {size} out=out" for task in range(4)]


def test_an_array_takes_its_arms_from_a_file(cluster, tmp_path):
    (tmp_path / "arms").write_text("seed=1 'mitigations=[{AnchorReplay: {alpha: 0.2}}]'\nmitigations=[]\n\n")
    cluster.install("collapse", 'printf "%s|" "$@" >"$STUBS/arm.$SLURM_ARRAY_TASK_ID"')
    assert cluster.submit("--array=1,2,3", script("array"), "out", "digits", ARMS="arms").wait(30) == 0
    arms = [(tmp_path / f"arm.{task}").read_text() for task in (1, 2)]
    assert arms[0] == "run|digits|seed=1|mitigations=[{AnchorReplay: {alpha: 0.2}}]|out=out/1|"
    assert arms[1] == "run|digits|mitigations=[]|out=out/2|"
    assert cluster.codes(3) == [2]
    assert "arms has no line 3" in cluster.output(3)


def test_what_was_recorded_offline_is_uploaded_part_by_part(cluster, tmp_path):
    cluster.install("wandb", 'echo "$*" >>"$STUBS/synced"')
    for run_folder in ("a/wandb/offline-run-1-x", "a/wandb/offline-run-2-x", "b c/wandb/offline-run-1-y"):
        (tmp_path / run_folder).mkdir(parents=True)
    subprocess.run(["bash", SCRIPTS / "sync.sh", "a", "b c"], cwd=tmp_path, env=cluster.environment, check=True)
    lines = (tmp_path / "synced").read_text().splitlines()
    assert lines == ["sync a/wandb/offline-run-1-x a/wandb/offline-run-2-x", "sync b c/wandb/offline-run-1-y"]


# Chains


def results(root):
    """What a chain computed: digest by name."""
    kept = ("generations/", "weights/", "metrics.jsonl", "run.json")
    return {name: digest for name, digest in files(root).items() if name.startswith(kept)}


def written(root):
    """When everything was written that is no view of W&B's."""
    paths = [path for path in root.rglob("*") if "wandb" not in path.parts]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def undisturbed(root, *arguments):
    """Run a config in this process, and return what it computed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(load(None, (*CHAIN, "wandb.enabled=false", f"out={root}", *arguments)))
    finally:
        torch.set_num_threads(threads)
    return results(root)


def identities(root):
    """The ids under which W&B knows a run's parts."""
    return [of_kind(path, "run")[0].run_id for path in sorted(root.glob("wandb/offline-run-*/run-*.wandb"))]


def real(folder):
    """A cluster that runs this environment's chains."""
    place = f"{Path(sys.executable).parent}:{ENVIRONMENT['PATH']}"
    settings = {"PATH": place, "CUDA_VISIBLE_DEVICES": "", "COLLAPSE_CACHE": str(folder / "cache")}
    cluster = Cluster(folder)
    cluster.environment.update(settings | {"PATH": f"{cluster.bin}:{place}", "SLURM_CPUS_PER_TASK": "1"})
    return cluster


def begun(root):
    return (root / "metrics.jsonl").exists


@pytest.fixture(scope="module")
def array(tmp_path_factory):
    """Two seeds as one array, each warned once, in its second generation."""
    cluster = real(tmp_path_factory.mktemp("array"))
    process = cluster.submit("--array=1,2", script("array"), "runs", *CHAIN)
    waiting = {task: begun(cluster.folder / "runs" / str(task)) for task in (1, 2)}
    while waiting:  # whichever comes first; the other might be over by the time the one it waited for begins
        until(lambda: any(has_begun() for has_begun in waiting.values()), process)
        for task in [task for task, has_begun in waiting.items() if has_begun()]:
            cluster.warn(signal.SIGUSR1, task)
            del waiting[task]
    assert process.wait(SECONDS) == 0, cluster.output(1)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("task", [1, 2])
def test_a_requeued_chain_is_the_one_that_was_left_alone(array, tmp_path, task):
    assert array.codes(task) == [75, 0]
    assert f"requeue {array.name(task)}" in array.requeued()
    root = array.folder / "runs" / str(task)
    assert results(root) == undisturbed(tmp_path / str(task), f"seed={task}")
    said = array.output(task).splitlines()
    assert [line[:28] for line in said if line.startswith("collapse: ")] == ["collapse: stopped after step"]
    assert said[-1] == f"runs/{task}"


@pytest.mark.parametrize("task", [1, 2])
def test_a_requeued_chain_is_one_run_of_wandb(array, task):
    first, second = identities(array.folder / "runs" / str(task))
    assert first == second
    assert first != identities(array.folder / "runs" / str(3 - task))[0]


@pytest.mark.slow
def test_a_finished_chain_that_comes_back_is_left_alone(array):
    root = array.folder / "runs" / "1"
    before = written(root)
    assert array.submit(script("single"), "runs/1", *CHAIN, "seed=1", JOB="77").wait(SECONDS) == 0
    assert (array.folder / "77.codes").read_text() == "0\n"
    assert (array.folder / "77.out").read_text().splitlines()[-1] == "runs/1"
    assert written(root) == before


@pytest.fixture
def pair(tmp_path):
    """Two clusters on which two processes train one chain: left alone, and with one of the two told to stop."""
    pair = [real(tmp_path / name) for name in ("alone", "warned")]
    yield pair
    for cluster in pair:
        cluster.close()


@pytest.mark.slow
def test_two_processes_stop_together_though_one_was_told(pair, tmp_path):
    arguments = (script("ddp"), "run", *CHAIN, "wandb.enabled=false")
    for cluster, reached in zip(pair, ("", "1"), strict=True):
        process = cluster.submit(*arguments, TASKS="2", REACHED=reached)
        if reached:
            until(begun(cluster.folder / "run"), process)
            cluster.warn(signal.SIGUSR1)
        assert process.wait(SECONDS) == 0, cluster.output()
    alone, warned = pair
    assert (alone.codes(), warned.codes()) == ([0], [75, 0]), warned.output()
    assert sorted((tmp_path / "warned" / "tasks").read_text().split()) == ["0", "0", "0", "75"]
    assert warned.requeued() == [f"requeue {warned.name()}"]
    assert warned.output().count("collapse: stopped after step ") == 1
    assert warned.output().splitlines().count("run") == 1, "the first process speaks for all"
    assert results(tmp_path / "warned" / "run") == results(tmp_path / "alone" / "run")
