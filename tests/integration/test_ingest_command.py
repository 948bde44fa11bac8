"""``collapse ingest``: from files to a pool to a chain that trains on nothing undeclared."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from collapse.cli import main
from collapse.config import load_run
from collapse.data import Contaminated, GenerationStore, Ingested, Origin
from collapse.data import lock as locks
from collapse.data.ingest import IngestPool, append, ingest, open_source
from collapse.recursion import Chain

CHAIN = (
    *("generations=3", "epochs_per_generation=1", "samples_per_generation=50", "model.hidden=16"),
    *("evaluation.enabled=false", "wandb.enabled=false"),
)
BUNCH = load_digits()
IMAGES = np.rint(BUNCH.images * (255 / 16)).astype(np.uint8)[:, None]


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # of fork, from 3.12 on


@pytest.fixture
def collapse(capsys, tmp_path, monkeypatch):
    """Run a command in the test's folder; returns exit code, output lines and error lines."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return stop.value.code, said.out.splitlines(), [line for line in said.err.splitlines() if "collapse: " in line]

    return command


@pytest.fixture
def files(tmp_path):
    """Two hundred digits in an archive, forty in folders by class, thirty of a model's in an array."""
    np.savez(tmp_path / "real.npz", x=IMAGES[:200], y=BUNCH.target[:200])
    (tmp_path / "scrape").mkdir()
    for index in range(200, 240):
        Image.fromarray(IMAGES[index, 0]).save(tmp_path / "scrape" / f"{index}.png")
    np.save(tmp_path / "made.npy", 255 - IMAGES[300:330])


@pytest.fixture
def pool(collapse, files, tmp_path):
    for path, origin in (("real.npz", "real"), ("scrape", "unknown"), ("made.npy", "synthetic")):
        assert collapse("ingest", path, "--origin", origin, "--out", "pool")[0] == 0
    return tmp_path / "pool"


def test_it_says_what_it_did_and_the_folder_last(collapse, files):
    code, said, _ = collapse("ingest", "real.npz", "--origin", "real", "--out", "pool")
    assert (code, said) == (
        0,
        [
            "200 rows (1, 8, 8) of uint8 from real.npz, declared real",
            "not checked against real rows: the pool held none before",
            "pool/real/batch_00000",
        ],
    )
    code, said, _ = collapse("ingest", "scrape", "--out", "pool")
    assert said[0] == "40 rows (1, 8, 8) of uint8 from scrape, of unknown origin", "undeclared is the default"
    assert said[-1] == "pool/unknown/batch_00001"
    assert len(said) == 3
    assert said[1].startswith("40 incoming rows beside 200 of gold: ")
    np.save("made.npy", np.concatenate([255 - IMAGES[300:330], IMAGES[:5]]))
    code, said, _ = collapse("ingest", "made.npy", "--origin", "synthetic", "--out", "pool")
    assert said[1] == "some of them equal rows that the pool held before: 5 real"
    assert said[2].startswith("warning: 35 incoming rows beside 200 of gold: ")
    assert "mean_shift" in said[2]
    assert code == 0, "a finding refuses nothing"


REFUSALS = [
    (("nothing.npy",), "there is no nothing.npy"),
    (
        ("real.npz", "--origin", "reel"),
        "origin must be one of real, synthetic, unknown, got 'reel'; did you mean 'real'?",
    ),
    (("real.npz", "--length", "4"), "--length is not for an array, which is what real.npz holds; leave it out"),
    (("made.npy", "--shape", "8x8"), "--shape=8x8 must be whole numbers separated by commas, such as 1,28,28"),
    (("made.npy", "--shape", "3,3"), "shape=(3, 3) does not fit the rows of made.npy, which are (1, 8, 8)"),
    (("scrape", "--size", "0", "4"), "size=(0, 4) must be at least 1 in every place"),
    (("run.py",), "run.py is nothing that can be ingested (.py); give .npy"),
    (("scrape", "--size", "4"), "Invalid value for '--size'"),
    (("real.npz", "--orign", "real"), "No such option"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSALS, ids=[" ".join(given) for given, _ in REFUSALS])
def test_what_is_wrong_is_one_sentence_and_nothing_is_left(collapse, files, tmp_path, arguments, sentence):
    (tmp_path / "run.py").touch()
    before = sorted(tmp_path.rglob("*"))
    code, said, errors = collapse("ingest", *arguments, "--out", "deep/pool")
    assert code == 2
    assert said == []
    assert len(errors) == 1
    assert errors[0].startswith(f"collapse: {sentence}")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_file_is_refused_the_second_time(collapse, pool):
    code, _, errors = collapse("ingest", "made.npy", "--origin", "real", "--out", "pool")
    assert code == 2
    assert errors == ["collapse: made.npy is in the pool already: pool/synthetic/batch_00002 has the same content"]


def trained_on(root):
    """Rows of each origin that each generation trained on, gold's apart from other real ones."""
    store = GenerationStore(root)
    pool = store.pool([store.manifest(index) for index in range(4)])
    made = pool.generation.numpy()
    for generation in range(3):
        rows = store.training_set(generation)
        origin = pool.origin.numpy()[rows]
        held = np.isin(rows, np.flatnonzero((made < 0) | (made > 100)))
        yield {
            "real": int((origin == Origin.REAL).sum()),
            "made": int(((origin == Origin.SYNTHETIC) & ~held).sum()),
            "unknown": int((origin == Origin.UNKNOWN).sum()),
            "synthetic": int(((origin == Origin.SYNTHETIC) & held).sum()),
        }


def counts(real, made=0, unknown=0, synthetic=0):
    return {"real": real, "made": made, "unknown": unknown, "synthetic": synthetic}


CHAINS = [
    ("[]", [counts(180), counts(0, 50), counts(0, 50)]),
    ("[DataAccumulation]", [counts(180), counts(180, 50), counts(180, 100)]),
    ("[Admit]", [counts(180), counts(0, 50, 40), counts(0, 50)]),
    (
        "[Admit:{origin:synthetic,from_generation:2},DataAccumulation]",
        [counts(180), counts(180, 50), counts(180, 100, 0, 30)],
    ),
    (
        "[Admit,{Admit:{origin:synthetic}},DataAccumulation]",
        [counts(180), counts(180, 50, 40, 30), counts(180, 100, 40, 30)],
    ),
]


@pytest.mark.parametrize(("mitigations", "expected"), CHAINS, ids=[given for given, _ in CHAINS])
def test_a_chain_trains_on_exactly_what_is_let_in(collapse, pool, tmp_path, mitigations, expected):
    code, said, errors = collapse(
        "run", "data=ingested", "data.root=pool", f"mitigations={mitigations}", *CHAIN, "out=run"
    )
    assert (code, said[-1:], errors) == (0, ["run"], [])
    assert list(trained_on(tmp_path / "run")) == expected
    records = Chain.load(tmp_path / "run").records
    assert [record.counts["real"] for record in records] == [row["real"] for row in expected]
    assert [record.counts["trained"] for record in records] == [sum(row.values()) for row in expected]


def test_a_run_knows_its_pool_by_its_rows_and_not_by_its_place(collapse, pool, tmp_path):
    arguments = ("run", "data=ingested", *CHAIN, "out=run")
    assert collapse(*arguments, "data.root=pool")[0] == 0
    pool.rename(tmp_path / "moved")
    assert collapse(*arguments, "data.root=moved")[0] == 0
    np.save("more.npy", IMAGES[400:450])
    assert collapse("ingest", "more.npy", "--out", "moved")[0] == 0
    assert len(Ingested("moved").held()[Origin.UNKNOWN]) == 90
    started = Chain.load("run")
    code, said, errors = collapse(*arguments, "data.root=moved")
    assert (code, said, len(errors)) == (2, [], 1), "other rows are another run"
    version = IngestPool(tmp_path / "moved").version
    assert errors[0].startswith("collapse: out=run holds another run: its data is {")
    assert f"'version': {version!r}}}; choose another folder, or go on with that one: collapse resume run" in errors[0]
    first = load_run(Path("run")).tree["data"]["version"]
    assert collapse(*arguments, "data.root=moved", f"data.version={first}")[:2] == (0, ["run"])
    (tmp_path / "moved").rename(pool)
    assert collapse("resume", "run")[:2] == (0, ["run"])
    assert Chain.load("run").records == started.records
    assert started.store.manifest(0).facts["data"] == f"Ingested(version={first!r})"
    assert first != version


def test_each_pool_has_a_run_folder_of_its_own(collapse, files, tmp_path):
    np.save("more.npy", 255 - IMAGES[600:650])
    for name in ("one", "two"):
        assert collapse("ingest", "real.npz", "--origin", "real", "--out", name)[0] == 0
    run = ("run", "data=ingested", *CHAIN, "generations=1")
    folders = {root: collapse(*run, f"data.root={root}")[1] for root in ("one", "two")}
    assert folders["one"] == folders["two"], "the same rows"
    assert collapse("ingest", "more.npy", "--origin", "synthetic", "--out", "two")[0] == 0
    code, said, _ = collapse(*run, "data.root=two")
    assert (code, said == folders["one"]) == (0, False)
    leak = ("data={name: Contaminated, share: 0.1, source: {name: Ingested, root: two}}", "data.leak=synthetic")
    contaminated = collapse("run", *leak, *CHAIN, "generations=1")
    assert contaminated[0] == 0
    version = IngestPool(tmp_path / "two").version
    assert load_run(tmp_path / contaminated[1][0]).tree["data"]["source"]["version"] == version
    assert f"version={version!r}" in GenerationStore(contaminated[1][0]).manifest(0).facts["data"]


@pytest.mark.parametrize("origin", ["unknown", "real"])
def test_a_chain_goes_on_while_its_pool_grows(collapse, pool, tmp_path, monkeypatch, origin):
    arguments = ("run", "data=ingested", "data.root=pool", "mitigations=[Admit,DataAccumulation]", *CHAIN)
    assert collapse(*arguments, "out=whole")[0] == 0
    commit, count = GenerationStore.commit_manifest, []

    def dying(store, manifest):
        commit(store, manifest)
        count.append(manifest)
        if len(count) == 3:  # gold, what is held back, what model 0 sampled
            raise OSError(5, "gone", "disk")

    with monkeypatch.context() as patch:
        patch.setattr(GenerationStore, "commit_manifest", dying)
        assert collapse(*arguments, "out=cut")[0] == 1
    assert len(GenerationStore("cut")) == 2
    np.save("more.npy", IMAGES[700:1000])
    assert collapse("ingest", "more.npy", "--origin", origin, "--out", "pool")[0] == 0
    assert collapse("resume", "cut")[:2] == (0, ["cut"])
    assert Chain.load("cut").records == Chain.load("whole").records
    assert list(trained_on(tmp_path / "cut")) == list(trained_on(tmp_path / "whole"))


def test_folders_of_digits_join_a_pool_of_numbered_digits(collapse, pool):
    for index in range(300, 310):
        folder = Path("by_class", str(BUNCH.target[index]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[index, 0]).save(folder / f"{index}.png")
    assert collapse("ingest", "by_class", "--origin", "real", "--out", "pool")[0] == 0
    labels = IngestPool("pool").rows.labels[-10:]
    assert sorted(labels.tolist()) == sorted(BUNCH.target[300:310].tolist())


def test_verify_reads_a_pool(collapse, pool):
    assert collapse("verify", "pool") == (0, ["pool: every byte of the pool as it was ingested"], [])
    for name in ("real/batch_00000/chunk_00000.npy", "synthetic/batch_00002/chunk_00000.npy"):
        (pool / name).chmod(0o644)
        (pool / name).write_bytes(b"x")
    bytes_differ = "has other bytes than its manifest says; restore it from a backup"
    expected = [
        f"pool/{name} {bytes_differ}"
        for name in ("real/batch_00000/chunk_00000.npy", "synthetic/batch_00002/chunk_00000.npy")
    ]
    assert collapse("verify", "pool") == (1, expected, [])
    (pool / "real/batch_00000/manifest.json").unlink()
    assert collapse("verify", "pool") == (1, ["pool has no batch_00000; restore it from a backup"], [])
    (pool / "notes.md").touch()
    stranger = "pool is no pool of ingested data: it holds notes.md; choose another folder"
    assert collapse("verify", "pool") == (1, [stranger], [])
    Path("empty").mkdir()
    assert collapse("verify", "empty")[0] == 2


def test_tokens_are_not_compared_by_distance(collapse, tmp_path):
    for name, text in (("one.txt", "abcdefgh" * 20), ("two.txt", "stuvwxyz" * 20)):
        (tmp_path / name).write_text(text)
        code, said, _ = collapse("ingest", name, "--origin", "real", "--out", "words", "--length", 4)
        assert (code, said[2]) == (0, "not checked against real rows: tokens have no distance")


INTERRUPTIONS = [
    (KeyboardInterrupt(), "interrupted"),
    (
        OSError(28, "No space left on device", "pool/x"),
        "could not read or write pool/x: No space left on device; free some space, then give the same command again",
    ),
]


@pytest.mark.parametrize(("error", "sentence"), INTERRUPTIONS, ids=["Ctrl-C", "a full disk"])
@pytest.mark.parametrize("command", ["ingest", "verify", "run"])
def test_only_a_chain_is_said_to_go_on(collapse, pool, monkeypatch, command, error, sentence):
    def fails(*_, **__):
        raise error

    chain = {KeyboardInterrupt: "; `collapse resume RUN` continues the chain"}.get(
        type(error), ", or `collapse resume RUN`: the chain goes on where it stopped"
    )
    monkeypatch.setattr("collapse.config.ingest.ingest", fails)
    monkeypatch.setattr("collapse.config.ingest.is_pool", fails)
    monkeypatch.setattr("collapse.config.execute.build_data", fails)
    given = {"ingest": ("scrape", "--out", "pool"), "verify": ("pool",), "run": ()}[command]
    code, said, errors = collapse(command, *given)
    assert (code, said, errors) == (1, [], [f"collapse: {sentence}{chain if command == 'run' else ''}"])


@pytest.mark.parametrize("name", ["real/batch_00000/chunk_00000.npy", "unknown/batch_00001/chunk_00000.rows.npy"])
def test_a_changed_pool_trains_nothing(collapse, pool, tmp_path, name):
    content = bytearray((pool / name).read_bytes())
    content[-3] ^= 4
    (pool / name).chmod(0o644)
    (pool / name).write_bytes(content)
    code, _, errors = collapse("run", "data=ingested", "data.root=pool", *CHAIN, "out=run")
    assert code == 1
    assert len(errors) == 1
    assert f"pool/{name} has other bytes than its manifest says" in errors[0]
    assert not (tmp_path / "run").exists()


def test_held_rows_can_leak_into_gold(pool):
    data = Contaminated(Ingested(pool), 0.1, "synthetic")
    leaked = np.asarray(data.gold().x)[data.leaked()]
    made = {row.tobytes() for row in 255 - IMAGES[300:330]}
    assert len(leaked) == 18
    assert {row.tobytes() for row in leaked} <= made


def in_a_child(work):
    """Do ``work`` in a forked process; returns how that ended."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("write", range(14))
def test_killed_at_any_write_the_pool_is_as_it_was(pool, tmp_path, monkeypatch, write):
    """SIGKILL before and after each of the files of three chunks, and before and after the manifest."""
    np.save("more.npy", IMAGES[500:530])
    monkeypatch.setattr(append, "CHUNK_BYTES", 64 * 10)
    monkeypatch.setattr("collapse.data.ingest.arrays.BLOCK_BYTES", 64 * 10)
    before, commit, written = IngestPool(pool).digest, append.commit, []

    def dying(path, *parts):
        for moment in ("before", "after"):
            if len(written) == write:
                os.kill(os.getpid(), signal.SIGKILL)
            written.append((path, moment))
            if moment == "before":
                commit(path, *parts)

    def work():
        monkeypatch.setattr(append, "commit", dying)
        ingest(open_source("more.npy"), pool, Origin.UNKNOWN)

    assert os.WTERMSIG(in_a_child(work)) == signal.SIGKILL
    found = IngestPool(pool)
    found.verify()
    if write == 13:  # the manifest stands: that was the commit point
        assert len(found) == 300
        return
    assert (found.digest, len(found)) == (before, 270)
    monkeypatch.setattr(append, "commit", commit)
    ingest(open_source("more.npy"), pool, Origin.UNKNOWN)
    once = IngestPool(pool)
    once.verify()
    assert len(once) == 300
    assert sorted(path.name for path in once.batches[-1].folder.iterdir()) == sorted(
        [*(name for name, _, _ in once.batches[-1].manifest.files), "manifest.json"]
    )


def test_one_process_at_a_time_writes_to_a_pool(collapse, pool, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    np.save("more.npy", IMAGES[600:610])
    holder = locks.RunLock(pool)
    holder.acquire()
    try:
        code = None

        def work():
            os._exit(7 if collapse("ingest", "more.npy", "--out", "pool")[0] == 1 else 3)

        code = os.waitstatus_to_exitcode(in_a_child(work))
        assert code == 7
    finally:
        holder.release()
    assert collapse("ingest", "more.npy", "--out", "pool")[0] == 0
