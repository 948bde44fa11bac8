"""Two processes: however they are started, sharded or not, sharing uneven batches, observed, and disagreeing."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ddp_chain
import process_chain
import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from test_torchrun import bytes_of, torchrun, untrained
from torch.multiprocessing import ProcessRaisedException

from collapse.callbacks import ChainProgress
from collapse.data.loading import KeyedBatches
from collapse.models import sharding
from collapse.recursion import Chain
from collapse.recursion.lightning import last_words
from collapse.recursion.observing import SharedSampler
from collapse.recursion.sampling import state_digest, turns
from collapse.recursion.strategies import check_strategy
from collapse.seeding import Stream

CHILD = Path(__file__).with_name("process_chain.py")
RESULTS = ("generations/*/*", "weights/*", "training/*", "metrics.jsonl", "run.json")
WHOLE = (
    *("data=ring", "data.rows=301", "data.batch_size=40", "generations=2", "samples_per_generation=1300"),
    *("model=vae", "model.latent_dim=2", "model.hidden=32", "model.likelihood=gaussian", "model.learning_rate=0.01"),
    *("mitigations=[{SIGReg:{weight:0.2,slices:16}},{AnchorReplay:{fraction:0.2}}]", "epochs_per_generation=2"),
    *("chunk_size=512", "seed=5", "wandb.enabled=false", "evaluation.gallery=0"),
    *("trainer.accelerator=cpu", "trainer.devices=2"),
)
SUCCEED = ["whole", "gradients", "accumulated", "observed"]
SHARDED = ["sharded", "tied", "tied_sharded", "averaged", "resumed"] if sharding.SHARDS else []
FAIL = ["apart", "failing", "late", "other_gold", "unseen", "another_checkpoint"]
REFUSED = ["in_pieces", "by_tensors"] if sharding.SHARDS else []
sharded = pytest.mark.skipif(not sharding.SHARDS, reason="this torch cannot shard a model in place")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each process found in every case; one launch, as two interpreters take longer to start than to run."""
    folder = tmp_path_factory.mktemp("two")
    cases = [*SUCCEED, *SHARDED, *(f"?{case}" for case in (*FAIL, *REFUSED))]
    result, found = torchrun(folder, *cases, child=CHILD)
    assert all(None not in ranks for ranks in found.values()), result.stdout[-5000:]
    return {"folder": folder, **found}


def bytes_in(folder, case):
    found = bytes_of(folder / case / "run", *RESULTS)
    assert len(found) > 20
    return found


def without_likelihood(found):
    """Leave the held-out likelihood out: one process evaluates, and sharded weights take all of them together."""
    lines = found["metrics.jsonl"].splitlines()
    return {**found, "metrics.jsonl": [line for line in lines if b'"heldout_nll"' not in line]}


def one_process(function, *arguments, **options):
    """Run in this process what two have run, single-threaded as they are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*arguments, world=1, **options)
    finally:
        torch.set_num_threads(threads)


def command(*words, timeout=120, **environment):
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        timeout=timeout,
        text=True,
    )


# Started in three ways


@pytest.mark.slow
def test_spawned_processes_make_the_chain_that_torchrun_makes(two, tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAPSE_CACHE", str(two["folder"]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = tmp_path / "spawned" / "run"
    found = ddp_chain.chain(root, **process_chain.whole_options(), strategy="ddp_spawn")
    assert bytes_in(tmp_path, "spawned") == bytes_in(two["folder"], "whole")
    whole = two["whole"][0]
    assert json.loads(json.dumps(found["records"])) == whole["records"]  # only files came back
    assert found["weights"] == whole["weights"]  # and the module's last weights
    assert state_digest(Chain.load(root).state(-1)) == whole["weights"]


def check_command(two, folder, *words, case):
    root = folder / case / "run"
    result = command(*words, "collapse", "run", *WHOLE, f"out={root}", COLLAPSE_CACHE=str(two["folder"]))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(root)]
    found, wanted = (bytes_of(where, *RESULTS) for where in (root, two["folder"] / "whole" / "run"))
    assert found.keys() == wanted.keys()
    assert {name for name in wanted if found[name] != wanted[name]} == set()


@pytest.mark.slow
def test_the_command_line_starts_a_second_process_of_its_own(two, tmp_path):
    check_command(two, tmp_path, "-m", case="ddp")


@pytest.mark.slow
def test_the_command_line_spawns(two, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WHOLE", (*WHOLE, "trainer.strategy=ddp_spawn"))
    check_command(two, tmp_path, "-m", case="spawned")


@pytest.mark.slow
def test_the_command_line_runs_under_torchrun(two, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    check_command(two, tmp_path, *launcher, case="torchrun")


def test_what_a_spawned_process_failed_of_is_its_last_line():
    said = "\n\n-- Process 1 terminated with the following error:\nTraceback (...):\nValueError: no luck\n"
    assert str(last_words(ProcessRaisedException(said, 1, 99))) == "ValueError: no luck"


def test_the_progress_of_a_chain_can_be_sent_to_a_spawned_process():
    sent = pickle.loads(pickle.dumps(ChainProgress(metrics=["coverage"])))
    assert sent.metrics == ("coverage",)
    assert sent.console.stderr


# Sharded weights


@sharded
@pytest.mark.parametrize(("case", "whole"), [("sharded", "whole"), ("tied_sharded", "tied"), ("resumed", "averaged")])
def test_sharded_weights_make_the_chain_of_whole_ones(two, case, whole):
    """Every byte of pools, weights, manifests and metrics; "resumed" was also interrupted three times."""
    one, other = (without_likelihood(bytes_in(two["folder"], name)) for name in (case, whole))
    assert one == other
    for rank in two[case]:
        assert rank["weights"] == two[whole][0]["weights"]
        for found, expected in zip(rank["records"], two[whole][0]["records"], strict=True):
            kept = {name: value for name, value in expected[2].items() if name != "heldout_nll"}
            assert list(found) == [*expected[:2], kept, *expected[3:]]


@sharded
def test_a_sharded_generation_starts_from_its_twin_in_the_same_tensors(two):
    for rank in two["sharded"]:
        assert rank["initial"] == rank["twins"]
        assert len(set(rank["twins"])) == 2
        assert rank["tensors"][0] == rank["tensors"][1]
        assert rank["slices"] == [[0.5] * 8] * 2


@pytest.mark.parametrize(("case", "sentence"), [("in_pieces", "a checkpoint in pieces"), ("by_tensors", "2 processes")])
@sharded
def test_other_ways_to_shard_are_refused(two, case, sentence):
    for rank in two[case]:
        assert rank["error"].startswith(f"MisconfigurationException: RecursiveTrainer: {sentence}")
        assert "tensor_parallel_size=1, save_distributed_checkpoint=False" in rank["error"]


def test_weights_that_cannot_be_renewed_in_place_are_refused():
    with pytest.raises(MisconfigurationException, match=r"FSDPStrategy keeps .*; shard with ModelParallelStrategy\("):
        check_strategy(SimpleNamespace(strategy=FSDPStrategy()))


def test_an_old_torch_says_that_it_cannot_shard(monkeypatch):
    monkeypatch.setattr(sharding, "SHARDS", False)
    module = process_chain.small()
    with pytest.raises(RuntimeError, match=r"cannot shard a model in place; install torch 2\.6"):
        sharding.shard(module, None)
    assert not sharding.is_sharded(module)
    assert sharding.full_state(module, keep=False) is None
    assert state_digest(sharding.full_state(module)) == state_digest(module.state_dict())


# Uneven batches


@pytest.mark.parametrize("case", ["gradients", "accumulated"])
def test_gradients_are_those_of_the_global_batch(two, case, tmp_path):
    options = {"accumulate_grad_batches": 2} if case == "accumulated" else {}
    one = one_process(process_chain.gradients, tmp_path / "run", **options)
    first, second = two[case]
    assert one["rows"] == [18, 19, 19, 19, 19, 20]
    assert first["rows"] == [9, 9, 9, 9, 9, 10]
    assert second["rows"] == [9, 10, 10, 10, 10, 10]
    assert len(one["gradients"]) == (3 if options else 6)
    for rank in (first, second):
        for found, wanted in zip(rank["gradients"], one["gradients"], strict=True):
            assert found == pytest.approx(wanted, rel=1e-10, abs=1e-12)
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-6)  # logged in single precision
    assert min(abs(value) for gradient in one["gradients"] for value in gradient) > 1e-4


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"steps": 7}])
@pytest.mark.parametrize("size", [4, None])
def test_a_share_of_a_batch_counts_by_its_rows(world, size, options):
    batches = [KeyedBatches(37, size, rank=rank, world=world, **options) for rank in range(world)]
    for index, shares in enumerate(zip(*batches, strict=True)):
        rows = [len(share) for share in shares]
        factors = [batch.factor(index) for batch in batches]
        assert factors == pytest.approx([world * own / sum(rows) for own in rows], rel=1e-15)
        if len(set(rows)) == 1:
            assert factors == [1.0] * world  # exactly: nothing is rounded where nothing has to be


# Observers


def test_whoever_asks_gets_the_rows_of_one_process(two, tmp_path):
    """The sampler needs both processes, and some observers ask on one of them alone."""
    one = one_process(process_chain.observed, tmp_path / "run")
    alone, everywhere, last, nobody = one["sums"]
    assert [len(sums) for sums in one["sums"]] == [2, 6, 2, 0]
    assert two["observed"][0]["sums"] == [alone, everywhere, [], nobody]
    assert two["observed"][1]["sums"] == [[], everywhere, last, nobody]
    for rank in two["observed"]:  # with an evaluation, which samples on the first process
        assert "coverage" in rank["records"][-1][2]
        assert [untrained(record) for record in rank["records"]] == [
            json.loads(json.dumps(untrained(record))) for record in one["records"]
        ]


@pytest.mark.parametrize(("rows", "chunk_size"), [(1, 4), (4, 4), (17, 4), (3, 100)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_draws_equally_often_and_every_chunk_once(rows, chunk_size, processes):
    shared = list(turns(rows, chunk_size, processes))
    assert all(len(turn) == processes for turn in shared)
    drawn = dict(chunk for turn in shared for chunk in turn)
    assert list(drawn) == list(range(-(-rows // chunk_size)))
    assert sum(drawn.values()) == rows
    assert set(list(drawn.values())[:-1]) <= {chunk_size}
    assert len(shared) == -(-len(drawn) // processes)
    for turn, chunks in enumerate(shared):
        assert [chunk for chunk, _ in chunks] == [
            min(turn * processes + rank, len(drawn) - 1) for rank in range(processes)
        ]


@pytest.mark.parametrize(
    ("case", "errors"),
    [
        ("apart", ["RuntimeError: the processes ask for different samples at once, (10, 10) and (11, 10)"] * 2),
        ("late", ["RuntimeError: generation.sample draws from the model as it was trained; call it inside"] * 2),
        (
            "failing",  # even if an observer of the other process goes on sampling
            [
                "OtherProcessFailed: another process of this run failed; process 1 says: ValueError: no luck here",
                "ValueError: no luck here",
            ],
        ),
    ],
)
def test_an_observer_that_fails_does_so_everywhere(two, case, errors):
    for rank, sentence in zip(two[case], errors, strict=True):
        assert rank["error"].startswith(sentence)


def test_one_process_samples_in_its_generation_only():
    trainer = SimpleNamespace(world_size=1, datamodule=None)
    sampler = SharedSampler(trainer, process_chain.small(), None, address=(0, 0), chunk_size=4)
    with pytest.raises(RuntimeError, match="call it inside on_generation_end"):
        sampler(3, Stream.EVALUATE)
    with sampler.attended(), pytest.raises(ValueError, match="rows=0 must be at least 1"):
        sampler(0, Stream.EVALUATE)


# The same data


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("other_gold", "the data set of process 1 has other rows than"),
        ("unseen", "process 1 does not see"),
        ("another_checkpoint", "process 1 stands at step 0 with 1 pools, and the first one at step 4 with 1"),
    ],
)
def test_a_process_that_sees_something_else_stops_all(two, case, sentence):
    first, second = (rank["error"] for rank in two[case])
    assert second.startswith(f"StoreError: {sentence}")
    assert first == f"OtherProcessFailed: another process of this run failed; process 1 says: {second}"
    assert not list((two["folder"] / case).glob("run*/generations/gen_001/manifest.json"))


# A worker of the loader


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_a_sentence_and_the_chain_continues(tmp_path):
    settings = [word for word in WHOLE if not word.startswith("trainer.devices")]
    result = command(CHILD, tmp_path, "worker", *settings, "evaluation.enabled=false")
    lines = result.stdout.split("\n")
    assert lines[-2] == "[0, 1, 0]", result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("collapse: ")]
    assert len(said) == 1
    assert "DataLoader worker (" in said[0]
    assert "Traceback" not in result.stderr
    assert bytes_in(tmp_path, "killed") == bytes_in(tmp_path, "whole")
