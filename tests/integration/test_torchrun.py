"""Two processes under torchrun make the chain that one makes, agree on everything, and fail together."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import ddp_chain
import numpy as np
import pytest
import torch

from collapse.recursion.sampling import state_digest

CHILD = Path(__file__).with_name("ddp_chain.py")
TRUTH = json.loads((Path(__file__).parents[1] / "data" / "sigreg-truth.json").read_text())["ddp"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(folder, *cases, timeout=120, child=CHILD):
    """Run cases on two processes; return the launcher's result and what each process wrote, by case."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    address = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLLAPSE_CACHE": str(folder)}
    result = subprocess.run(
        [*launcher, *address, child, folder, *cases],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
    )
    found = {}
    for case in (case.lstrip("?") for case in cases):
        files = [folder / f"{case}.rank{rank}.json" for rank in range(2)]
        found[case] = [json.loads(file.read_text()) if file.exists() else None for file in files]
    return result, found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The cases that succeed, in one launch: starting two interpreters costs more than running them."""
    folder = tmp_path_factory.mktemp("two")
    result, found = torchrun(folder, "statistic", "means", "frozen", "guarded", "normalized")
    assert result.returncode == 0, result.stdout[-5000:]
    return {"folder": folder, "output": result.stdout, **found}


def bytes_of(root, *patterns):
    paths = [path for pattern in patterns for path in root.glob(pattern)]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def manifests(root):
    return [json.loads(path.read_text()) for path in sorted(root.glob("generations/*/manifest.json"))]


def untrained(record):
    """Leave out the losses, whose noise is keyed by the process, and the manifests, which name the run's config."""
    digests, counts, metrics, *rest = record
    measured = {name: value for name, value in metrics.items() if not name.startswith("train/")}
    return [digests["weights"], digests["training_set"], counts, measured, *rest]


# The chain of one process


def test_equal_weights_make_the_pools_of_one_process(two, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = ddp_chain.chain(tmp_path / "run", **ddp_chain.frozen_options(), world=1)
    finally:
        torch.set_num_threads(threads)
    root = two["folder"] / "frozen" / "run"
    kinds = ("generations/*/*", "weights/*")
    expected, found = bytes_of(tmp_path / "run", *kinds), bytes_of(root, *kinds)
    assert len(expected) == 2 + 1 + 3 * (3 * 2 + 1) + 3  # gold; three pools of three chunks; weights
    changed = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    assert changed == {f"generations/gen_00{index}/manifest.json" for index in (1, 2, 3)}
    runs = [json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "run", root)]
    assert {name for name in runs[0] if runs[0][name] != runs[1][name]} == {"processes"}
    for manifest, other in zip(manifests(root), manifests(tmp_path / "run"), strict=True):
        assert {name for name in manifest if manifest[name] != other[name]} <= {"config", "parent", "digest"}
        assert manifest["files"] == other["files"]
    for rank in two["frozen"]:
        assert rank["weights"] == one["weights"]
        assert [untrained(record) for record in rank["records"]] == [untrained(record) for record in one["records"]]


# A chain with mitigations and an evaluation


def test_the_processes_agree(two):
    first, second = two["guarded"]
    assert first["weights"] == second["weights"]
    assert first["records"] == second["records"]
    assert [digests["weights"] for digests, *_ in first["records"]][-1] == first["weights"]
    assert [counts["steps"] for _, counts, *_ in first["records"]] == [2 * 3, 2 * 13]
    assert [real for *_, real, _ in first["records"]] == [1.0, 0.2]


def test_every_sampled_row_is_there_once(two):
    root = two["folder"] / "guarded" / "run"
    for generation in (1, 2):
        chunks = [np.load(path) for path in sorted(root.glob(f"generations/gen_{generation:03d}/chunk_?????.npy"))]
        assert [len(chunk) for chunk in chunks] == [512, 512, 512, 512, 452]
        rows = np.concatenate(chunks)
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert np.isfinite(rows).all()


def test_an_epoch_visits_every_row_once(two):
    first, second = (rank["rows"] for rank in two["guarded"])
    assert list(first) == list(second) == ["0", "1", "2", "3"]
    for epoch in first:
        rows = [row for batch in first[epoch] + second[epoch] for row in batch]
        assert len(rows) == (600 if epoch in "01" else 2500)
        assert len(set(rows)) == len(rows)
        assert len(first[epoch]) == len(second[epoch])
        assert not {tuple(batch) for batch in first[epoch]} & {tuple(batch) for batch in second[epoch]}


def test_every_process_takes_its_own_running_means_up_again(two):
    means = [{name: value for name, value in found.items() if name != "seconds"} for found in two["means"]]
    assert means == [{"loss": 0.5, "penalty": 0.0}, {"loss": 1.0, "penalty": 5.0}]


def test_there_is_one_record(two):
    root = two["folder"] / "guarded" / "run"
    assert sorted(path.name for path in root.rglob("*.jsonl")) == ["journal.jsonl", "metrics.jsonl"]
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    keys = [(row["generation"], row["name"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for generation in (0, 1):
        assert {"real_fraction", "variance_ratio", "coverage", "train/loss", "train/sigreg"} <= {
            name for index, name in keys if index == generation
        }
    assert not list(root.rglob("*.tmp*"))
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["epoch-000003.ckpt"]


def test_batch_statistics_are_those_of_one_process(two):
    """They differ between the processes until a forward pass; a harvest wants one model."""
    first, second = two["normalized"]
    assert first["records"] == second["records"]
    weights = torch.load(two["folder"] / "normalized" / "run" / "weights" / "gen_002.pt", weights_only=True)
    assert state_digest(weights) == first["records"][-1][0]["weights"] == first["weights"] == second["weights"]
    assert weights["encoder.1.running_mean"].abs().min() > 0


# The statistic across processes


@pytest.mark.parametrize("split", ddp_chain.SHARDS)
def test_the_statistic_is_that_of_the_global_batch(two, split):
    truth = TRUTH["single_process_global"]
    for rank in two["statistic"]:
        value, slope = rank[f"statistic-{split}-float32-False"]
        assert value == pytest.approx(truth["loss"], rel=1e-5)
        assert slope == pytest.approx(truth["dtheta"], rel=1e-5)


def test_the_statistic_of_the_local_rows_is_not(two):
    wrong = TRUTH["wrong_local_only_rank0"]
    value, slope = two["statistic"][0]["local"]
    assert value == pytest.approx(wrong["loss"], rel=1e-5)
    assert slope == pytest.approx(wrong["dtheta"], rel=1e-5)


@pytest.mark.parametrize("split", ddp_chain.SHARDS)
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("term", [ddp_chain.statistic, ddp_chain.penalty])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_value_and_gradient_are_those_of_one_process(two, split, unbiased, term, dtype, rtol):
    x, model = ddp_chain.sample_of_16(dtype), ddp_chain.Scale(dtype)
    expected = ddp_chain.value_and_slope(term, model, x, unbiased=unbiased)
    for rank in two["statistic"]:
        assert rank[f"{term.__name__}-{split}-{str(dtype)[6:]}-{unbiased}"] == pytest.approx(expected, rel=rtol)


# Failing together


def failed(folder, *cases, seconds=100):
    begun = time.monotonic()
    result, found = torchrun(folder, *cases, timeout=seconds)
    assert result.returncode != 0
    assert time.monotonic() - begun < seconds
    return found


def test_a_failure_on_one_process_ends_both_with_a_sentence(tmp_path):
    found = failed(tmp_path, "?diverged", "nan")
    for rank in found["diverged"]:
        assert rank["error"].startswith("RuntimeError: the processes hold different weights")
    first, second = found["nan"]
    assert "Error: the model sampled NaN or infinite values" in second["error"]
    said = f"another process of this run failed; process 1 says: {second['error']}"
    assert first["error"] == f"OtherProcessFailed: {said}"
    for case in found:  # nothing of what failed was committed
        assert [manifest["generation"] for manifest in manifests(tmp_path / case / "run")] == [0]


def test_an_error_between_the_checks_ends_both(tmp_path):
    _, second = failed(tmp_path, "raising")["raising"]
    assert second["error"] == "RuntimeError: out of luck"
    assert [manifest["generation"] for manifest in manifests(tmp_path / "raising" / "run")] == [0, 1]


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_continue_to_the_same_bytes(tmp_path):
    failed(tmp_path, "killed")
    result, found = torchrun(tmp_path, "killed=whole", "whole")
    assert result.returncode == 0, result.stdout[-5000:]
    continued, whole = found["killed=whole"], found["whole"]
    assert continued[0]["weights"] == continued[1]["weights"] == whole[0]["weights"] == whole[1]["weights"]
    assert continued[0]["records"] == whole[0]["records"]
    kinds = ("generations/*/*", "weights/*", "metrics.jsonl", "run.json")
    assert bytes_of(tmp_path / "killed" / "run", *kinds) == bytes_of(tmp_path / "whole" / "run", *kinds)
