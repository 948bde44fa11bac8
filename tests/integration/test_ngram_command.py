"""The n-gram preset on the command line: on text, and on tokens of a law in closed form."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collapse import Chain

COLLAPSE = Path(sys.executable).with_name("collapse")
SMALL = ("model=ngram", "generations=2", "samples_per_generation=40", "wandb.enabled=false", "out=run")


@pytest.mark.parametrize(
    ("data", "vocabulary", "length", "smoothing"),
    [
        (["data=pydoc_text"], 257, 128, ", smoothing=0.01"),
        (["data=markov", "model.smoothing=0"], 2, 16, ""),
    ],
    ids=["text", "markov"],
)
def test_the_preset_takes_the_tokens_of_its_data(tmp_path, data, vocabulary, length, smoothing):
    done = subprocess.run(
        [COLLAPSE, "run", *SMALL, *data],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLLAPSE_CACHE": str(tmp_path / "c")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
    model = f"NGram(vocabulary={vocabulary}, length={length}{smoothing})"
    assert json.loads((tmp_path / "run/run.json").read_text())["model"] == model
    chain = Chain.load(tmp_path / "run")
    assert [record.counts["kept"] for record in chain.records] == [40, 40]
    assert chain.pool().row_shape == (length,)
    first, second = (record.metrics["heldout_cross_entropy"] for record in chain.records)
    assert 0 < first < second < math.log(vocabulary)  # better than guessing, and worse from generation to generation
