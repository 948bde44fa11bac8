"""What W&B holds of a real run, read back from its files: every number on record, and where every pool came from."""

import json
import logging
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import wandb
from chains import ring, train, vae
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from test_cli import COLLAPSE, Shell, measured
from wandb_reader import of_kind

from collapse.config import ConfigError, load, tracking
from collapse.config.tracking import FOLDERS, finish_wandb, run_id, wandb_logger
from collapse.config.wandb_file import wandb_files, wandb_history
from collapse.config.wandb_record import COLUMNS, WandbRecord, lineage
from collapse.data.store import GenerationStore
from collapse.stopping import StoppedForRequeue

CHAIN = ("data=gaussian", "model=gaussian", "data.rows=50", "evaluation.max_rows=20")
FIELDS = ("generation", "name", "value", "n", "extractor", "floor")


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.close()


class Export:
    """An exported run."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root
        self.history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for name in ("summary", "config", "media", "artifacts", "run"):
            setattr(self, name, json.loads((folder / f"{name}.json").read_text()))

    def tables(self):
        """{generation: rows} of the tables."""
        found = {}
        for one in self.media:
            if one["name"] == "gen/measurements":
                assert one["generation"] not in found
                (place,) = one["files"]
                table = json.loads((self.root / place).read_text())
                assert table["columns"] == list(COLUMNS)
                found[one["generation"]] = table["data"]
        return found

    def named(self, kind):
        return [artifact for artifact in self.artifacts if artifact["type"] == kind]


def export(shell, root):
    ended = shell(root.parent, "wandb-export", root.name)
    assert (ended.code, ended.out) == (0, f"{root.name}/wandb-export\n"), ended.err
    return Export(root / "wandb-export", root)


def check_record(found):
    """Every number of metrics.jsonl is in one row of the history and in one of the tables; nothing else is there."""
    lines = [json.loads(line) for line in (found.root / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 10
    expected = {generation: [] for generation in measured(found.root)}
    for line in lines:
        expected[line["generation"]].append([line[field] for field in FIELDS])
        name = f"gen/{line['name']}"
        values = [row[name] for row in found.history if row.get("generation") == line["generation"] and name in row]
        assert values == [line["value"]], (line, values)
    assert found.tables() == expected
    names = {name for row in found.history for name in row if name.startswith("gen/")}
    assert names - {"gen/samples", "gen/measurements"} == {f"gen/{line['name']}" for line in lines}


def check_lineage(found, generations):
    store = GenerationStore(found.root)
    (gold,) = found.named("gold")
    manifests = [store.manifest(index) for index in range(generations + 1)]
    assert gold["metadata"] == {"generation": 0, "rows": manifests[0].rows, "digest": manifests[0].digest, "parent": ""}
    assert gold["name"] == f"gold-{manifests[0].digest[:12]}"
    pools = found.named("pool")
    assert {pool["name"] for pool in pools} == {f"pool-{found.run['id']}"}
    for index, pool in enumerate(sorted(pools, key=lambda pool: pool["metadata"]["generation"])):
        manifest, model = manifests[index + 1], manifests[index + 1].facts["model"]
        assert pool["aliases"] == [f"gen-{index + 1:03d}", "latest"]
        assert pool["metadata"] == {
            "run": found.root.name,
            "generation": index + 1,
            "rows": manifest.rows,
            "digest": manifest.digest,
            "parent": manifests[index].digest,
            "weights": model["weights"],
            "training_set": model["training_set"],
            "real_fraction": model["real_fraction"],
        }
        size = (store.folder(index + 1) / "manifest.json").stat().st_size
        assert pool["contents"] == [{"path": "manifest.json", "size": size}]
    assert len(pools) == generations


# a run without an account


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of a process of its own, with an empty home and an empty folder for temporary files."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "COLLAPSE_CACHE": os.environ["COLLAPSE_CACHE"],
        "MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "offline",
    }
    arguments = ("run", *CHAIN, "generations=3", "mitigations=[{AnchorReplay:{fraction:0.5}}]", "out=run")
    done = subprocess.run(
        [COLLAPSE, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_every_number_on_record_is_in_the_history_and_in_a_table(shell, alone):
    found = export(shell, alone)
    check_record(found)
    assert [row["generation"] for row in found.history if "gen/coverage" in row] == [0, 1, 2]
    assert found.summary["gen/coverage"] == measured(alone)[2]["coverage"]
    assert found.config["data"] == {"name": "GaussianData", "rows": 50, "dim": 1, "batch_size": None}
    assert found.run["axes"]["gen/*"] == "generation"
    assert (found.run["exit_code"], found.run["id"]) == (0, (alone / "wandb" / "id").read_text().strip())


def test_the_pools_have_manifests_and_lineage_and_no_rows(shell, alone):
    found = export(shell, alone)
    check_lineage(found, 3)
    assert [pool["metadata"]["real_fraction"] for pool in found.named("pool")] == [1.0, 0.5, 0.5]
    assert lineage(GenerationStore(alone), 2) == {
        name: value for name, value in found.named("pool")[1]["metadata"].items() if name != "run"
    }


def test_home_and_the_temporary_folder_stay_empty(alone):
    assert list((alone.parent / "home").rglob("*")) == []
    assert list((alone.parent / "tmp").rglob("*")) == []
    assert {path.name for path in (alone / "wandb").iterdir()} >= {"id", "cache", "data"}


# a run that is killed


@pytest.mark.parametrize("flush", ["100000", tracking.FLUSH_SECONDS], ids=["all lost", "some lost"])
def test_a_killed_run_is_one_run_with_one_history(shell, tmp_path, flush):
    arguments = (*CHAIN, "generations=12", "out=run")
    pid = shell.start(tmp_path, "run", *arguments, WANDB_MODE="offline", **{tracking.FLUSH: flush})
    root = tmp_path / "run"
    while not any(path.name > "epoch-000004" for path in root.glob("checkpoints/epoch-*.ckpt")):
        time.sleep(0.002)
    os.kill(pid, 9)
    assert shell.wait().code == -9
    name = (root / "wandb" / "id").read_text()
    (before,) = wandb_files(root / "wandb")
    told = {row["generation"] for row in wandb_history(before) if "gen/measurements" in row}
    if flush == "100000":
        assert len(told) < len(measured(root))  # there is something to make up for

    assert shell(tmp_path, "resume", "run", WANDB_MODE="offline").code == 0
    assert (root / "wandb" / "id").read_text() == name
    assert [path.stem for path in wandb_files(root / "wandb")] == [f"run-{name.strip()}"] * 2
    found = export(shell, root)
    assert len(found.run["files"]) == 2
    check_record(found)
    check_lineage(found, 12)
    steps = [row["trainer/global_step"] for row in found.history]
    assert steps == sorted(steps)
    assert [row["_step"] for row in found.history] == list(range(len(steps)))


def test_a_finished_run_is_not_told_again(shell, alone):
    before = {path: path.stat().st_mtime_ns for path in (alone / "wandb").rglob("*")}
    assert shell(alone.parent, "resume", "run", WANDB_MODE="offline").code == 0
    assert {path: path.stat().st_mtime_ns for path in (alone / "wandb").rglob("*")} == before


@pytest.mark.slow
def test_two_processes_are_one_run(shell, tmp_path):
    processes = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp")
    chain = ("data=ring", "data.rows=100", "model=vae", "model.hidden=8", "generations=2", "evaluation.max_rows=20")
    command = [COLLAPSE, "run", *chain, "samples_per_generation=50", *processes, "out=run"]
    variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, check=True, capture_output=True, timeout=300)
    root = tmp_path / "run"
    assert [path.stem for path in wandb_files(root / "wandb")] == [f"run-{(root / 'wandb' / 'id').read_text().strip()}"]
    found = export(shell, root)
    check_record(found)
    check_lineage(found, 2)


# the id of a run


def settings(out, *overrides):
    return load(None, [*CHAIN, "generations=2", f"out={out}", *overrides])


def test_a_folder_has_one_id_and_another_folder_another(tmp_path):
    one, two = (settings(tmp_path / name) for name in "ab")
    assert one.digest == two.digest
    first = run_id(one, first=True)
    assert first == run_id(one, first=True) == run_id(one, first=False)
    assert first.startswith(f"{one.digest[:8]}-0-")
    assert first != run_id(two, first=True)


def test_the_other_processes_wait_for_the_first(tmp_path):
    loaded, found = settings(tmp_path / "run"), []
    waiting = [threading.Thread(target=lambda: found.append(run_id(loaded, first=False))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert found == []
    assert not (tmp_path / "run").exists()  # nothing of theirs is in the way of the first
    name = run_id(loaded, first=True)
    for thread in waiting:
        thread.join()
    assert found == [name] * 3


def test_a_process_that_does_not_see_the_folder_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    assert run_id(settings(tmp_path / "run"), first=False) is None


# where W&B writes


def environment(*names):
    return {name: os.environ.get(name) for name in names}


@pytest.fixture
def offline(monkeypatch):
    for name in (*FOLDERS, "WANDB_DIR", tracking.FLUSH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return (*FOLDERS, "WANDB_DIR", "WANDB_MODE", tracking.FLUSH)


def test_two_runs_of_a_process_have_a_folder_each(tmp_path, offline):
    before = environment(*offline)
    for name in "ab":
        loaded = settings(tmp_path / name)
        logger = wandb_logger(loaded)
        assert environment(*FOLDERS) == {v: str(tmp_path / name / "wandb" / part) for v, part in FOLDERS.items()}
        logger.experiment.log({"x": 1.5, "text": name * 100_000})  # over the ends of W&B's own blocks
        finish_wandb(logger)
        assert environment(*offline) == before
        (path,) = wandb_files(tmp_path / name / "wandb")
        assert [(row["x"], row["text"]) for row in wandb_history(path)] == [(1.5, name * 100_000)]
        assert of_kind(path, "exit")[0].exit_code == 0


def test_what_the_user_has_set_stays_set(tmp_path, offline, monkeypatch):
    own = {name: str(tmp_path / "own" / name) for name in (*FOLDERS, "WANDB_DIR")}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    Path(own["WANDB_DIR"]).mkdir(parents=True)
    logger = wandb_logger(settings(tmp_path / "run"))
    assert environment(*own) == own
    logger.log_metrics({"x": 1.5}, step=0)
    finish_wandb(logger)
    assert environment(*own) == own
    assert [path.name for path in (tmp_path / "run" / "wandb").iterdir()] == ["id"]
    assert len(wandb_files(Path(own["WANDB_DIR"]) / "wandb")) == 1


def test_a_run_that_fails_is_not_one_that_finished(tmp_path, offline):
    def fail(logger):
        try:
            logger.log_metrics({"x": 1.5}, step=0)
            raise FloatingPointError
        finally:
            finish_wandb(logger)

    with pytest.raises(FloatingPointError):
        fail(wandb_logger(settings(tmp_path / "run")))
    (path,) = wandb_files(tmp_path / "run" / "wandb")
    assert of_kind(path, "exit")[0].exit_code == 1
    assert of_kind(path, "preempting") == []


def test_a_start_that_comes_back_has_been_preempted(tmp_path, offline):
    """W&B takes an exit code other than 0 for a failure, except of a run that is marked."""

    def stop(logger):
        try:
            logger.log_metrics({"x": 1.5}, step=0)
            raise StoppedForRequeue
        finally:
            finish_wandb(logger)

    with pytest.raises(StoppedForRequeue):
        stop(wandb_logger(settings(tmp_path / "run")))
    (path,) = wandb_files(tmp_path / "run" / "wandb")
    assert len(of_kind(path, "preempting")) == 1
    assert of_kind(path, "exit")[0].exit_code == 1


def test_only_the_process_that_writes_starts_anything(tmp_path, offline, monkeypatch):
    loaded = settings(tmp_path / "run")
    name = run_id(loaded, first=True)
    monkeypatch.setattr(wandb, "setup", lambda *_: pytest.fail("this process has nothing to do with W&B"))
    logger = wandb_logger(loaded, first=False)
    assert logger.version == name
    finish_wandb(logger)
    assert [path.name for path in (tmp_path / "run" / "wandb").iterdir()] == ["id"]


# other loggers, and none; online


@pytest.mark.parametrize("logger", [lambda _: False, CSVLogger], ids=["no logger", "another logger"])
def test_without_w_and_b_nothing_happens(chain, logger, tmp_path):
    root = tmp_path / "run"
    found = chain(vae(), ring(), root=root, callbacks=[WandbRecord()], trainer={"logger": logger(tmp_path / "csv")})
    assert len(found.chain.records) == 3
    assert not (root / "wandb").exists()


class Run:
    """What W&B's run is to the record, online or disabled; remembers what it is told."""

    id, name = "abc", "arm-0"

    def __init__(self, offline=False, error=None):
        self.offline, self.error = offline, error
        self.rows, self.logged, self.used, self.config = [], [], [], wandb.Config()

    def define_metric(self, *names, **options):
        pass

    def log(self, row, **options):
        self.rows.append(row)

    def log_artifact(self, artifact, aliases=()):
        self.logged.append((artifact.type, list(aliases), artifact.metadata["generation"]))

    def use_artifact(self, artifact):
        self.used.append((artifact.type, artifact.metadata["generation"], threading.current_thread().name))
        if self.error is not None:
            raise self.error


def told(run, root):
    logger = WandbLogger(experiment=run, save_dir=root, name="x")
    train(root, vae(), ring(), callbacks=[WandbRecord()], trainer={"logger": logger})
    for thread in threading.enumerate():
        if thread.name == "collapse-wandb":
            thread.join()
    return run


def test_online_the_inputs_of_a_run_are_declared_in_the_background(tmp_path):
    run = told(Run(), tmp_path / "run")
    assert sorted(run.used) == [("gold", 0, "collapse-wandb"), *(("pool", g, "collapse-wandb") for g in (1, 2))]
    assert run.logged == [("pool", [f"gen-{g:03d}"], g) for g in (1, 2, 3)]
    assert [row["generation"] for row in run.rows if "gen/measurements" in row] == [0, 1, 2]
    assert [row["lifetime_step"] for row in run.rows if "gen/measurements" in row] == [8, 14, 20]


def test_offline_gold_is_an_output_and_nothing_is_used(tmp_path):
    run = told(Run(offline=True), tmp_path / "run")
    assert run.used == []
    assert run.logged == [("gold", [], 0), *(("pool", [f"gen-{g:03d}"], g) for g in (1, 2, 3))]


def test_a_server_that_refuses_an_input_stops_nothing(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "collapse"):
        run = told(Run(error=wandb.errors.CommError("no route to host")), tmp_path / "run")
    assert len(run.logged) == 3
    said = [record.getMessage() for record in caplog.records if "input of the run" in record.getMessage()]
    assert len(said) == 3
    assert all(line.endswith("no route to host") for line in said)


def test_disabled_it_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    root = tmp_path / "run"
    try:
        found = train(root, vae(), ring(), callbacks=[WandbRecord()], trainer={"logger": WandbLogger(save_dir=root)})
    finally:
        wandb.finish()
    assert len(found.chain.records) == 3
    assert list(root.rglob("*.wandb")) == []


def test_the_record_changes_nothing(tmp_path):
    logger = WandbLogger(experiment=Run(), save_dir=tmp_path, name="x")
    runs = [
        train(tmp_path / "a", vae(), ring()),
        train(tmp_path / "b", vae(), ring(), callbacks=[WandbRecord()], trainer={"logger": logger}),
    ]
    assert runs[0].digests == runs[1].digests


# the command


def test_the_export_of_what_is_no_run(shell, tmp_path, alone):
    ended = shell(tmp_path, "wandb-export", "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert ended.sentence == "nowhere is no run folder: it has neither config.yaml nor run.json"
    assert shell(alone.parent, "wandb-export", "run", "--ot", "x").code == 2


def test_the_export_of_damaged_and_growing_files(shell, alone, tmp_path):
    root = tmp_path / "run"
    (copy,) = wandb_files(alone / "wandb")
    content = copy.read_bytes()
    path = root / "wandb" / "offline-run-x" / copy.name
    path.parent.mkdir(parents=True)
    (root / "run.json").write_text("{}")

    path.write_bytes(content[:9] + bytes([content[9] ^ 4]) + content[10:])
    ended = shell(tmp_path, "wandb-export", "run", "--out", "x")
    assert (ended.code, ended.out) == (1, "")
    assert f"{path} is damaged at byte 7; copy it anew" in ended.sentence
    assert not (tmp_path / "x").exists()

    path.write_bytes(content[:-3])
    ended = shell(tmp_path, "wandb-export", "run", "--out", "x")
    assert (ended.code, ended.out) == (0, "x\n")
    assert "ends within a record, at byte" in ended.sentence
    assert len((tmp_path / "x" / "history.jsonl").read_text().splitlines()) == len(wandb_history(copy))


def test_a_mode_that_does_not_exist_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"wandb\.mode='ofline' is no mode"):
        wandb_logger(settings(tmp_path / "run", "wandb.mode=ofline"))
    assert not (tmp_path / "run").exists()
