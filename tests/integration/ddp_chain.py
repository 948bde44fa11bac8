"""Chains on two processes: the child of ``test_torchrun.py``.

    python -m torch.distributed.run ... ddp_chain.py FOLDER CASE...

Every process writes what it found to FOLDER/CASE.rank<R>.json; with an "error", if the case raised one. A case written
?CASE may fail, and the next one follows; NAME=CASE runs a case in a folder of that name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from collapse import VAE, AnchorReplay, RingOfGaussians, SIGReg, run_chain
from collapse.distributed import processes
from collapse.metrics.normality import epps_pulley
from collapse.recursion.sampling import state_digest
from collapse.seeding import Clock

RING = {"shape": (2,), "latent_dim": 2, "hidden": 8, "likelihood": "gaussian"}
SHARDS = {"equal": (0, 8, 16), "unequal": (0, 5, 16)}  # rows of a sample of 16 by rank


def sample_of_16(dtype=torch.float32):
    """The input of sigreg-truth.json, section "ddp"."""
    i, j = torch.arange(16, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    return (0.7 * torch.sin(7 * i + 3 * j) + 0.2).to(dtype)


class Scale(nn.Module):
    """theta * x, with theta = 1.3."""

    def __init__(self, dtype):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.3, dtype=dtype))

    def forward(self, x):
        return self.theta * x


def statistic(x, **options):
    return epps_pulley(x, **options).mean()


def penalty(x, **options):
    """SIGReg's term at one moment of a chain, in single precision whatever the parameter's type."""
    module = SimpleNamespace(clock=Clock(3, 1, 4, 1))
    return SIGReg(0.5, slices=16, unbiased=options["unbiased"]).regularize({"latent": x}, None, module)


def value_and_slope(term, model, x, **options):
    """Return the value at theta = 1.3 and its derivative in theta, of whatever ``model`` does with gradients."""
    value = term(model(x), **options)
    value.backward()
    theta = next(model.parameters())
    return value.item(), theta.grad.item()


def frozen_options():
    """A chain of equal weights on any number of processes: its learning rate is zero."""
    return {
        "module": VAE(**RING, learning_rate=0.0),
        "data": RingOfGaussians(rows=300, batch_size=40),
        "mitigations": [AnchorReplay(0.25, rows="redrawn")],
        "generations": 3,
        "samples_per_generation": 2500,
        "steps_per_generation": 4,
        "seed": 3,
        "evaluate": False,
    }


def chain(folder, module, data, *, world=2, strategy="ddp", **options):
    strategy = strategy if world > 1 else "auto"
    run = run_chain(module, data, store=folder, accelerator="cpu", devices=world, strategy=strategy, **options)
    return {
        "weights": state_digest(module.state_dict()),
        "records": [
            [record.digests, record.counts, record.metrics, record.real_fraction, record.effective_size]
            for record in run.records
        ],
    }


# The cases


def case_statistic(folder, rank):
    """Values and slopes on this process's rows, under the mean that DDP takes."""
    torch.distributed.init_process_group("gloo")
    assert processes() == 2
    found = {}
    for split, ends in SHARDS.items():
        for dtype in (torch.float32, torch.float64):
            for term in (statistic, penalty):
                for unbiased in (False, True):
                    model = DistributedDataParallel(Scale(dtype))
                    x = sample_of_16(dtype)[ends[rank] : ends[rank + 1]]
                    options = {"unbiased": unbiased, "across_processes": True}
                    name = f"{term.__name__}-{split}-{str(dtype)[6:]}-{unbiased}"
                    found[name] = value_and_slope(term, model, x, **options)
    model = DistributedDataParallel(Scale(torch.float32))
    found["local"] = value_and_slope(statistic, model, sample_of_16()[8 * rank : 8 * rank + 8])
    return found


def case_means(folder, rank):
    """What an epoch resumed in its middle goes on from; the first process's checkpoint is the one that is written."""
    saved, taken_up, checkpoint = VAE(**RING), VAE(**RING), {}
    saved.epoch_sums, saved.epoch_steps = {"loss": torch.tensor(1.0 + rank), "penalty": torch.tensor(10.0 * rank)}, 2
    saved.on_save_checkpoint(checkpoint)
    written = [checkpoint if rank == 0 else None]
    torch.distributed.broadcast_object_list(written)
    taken_up.on_load_checkpoint(written[0])
    return taken_up.epoch_means()


def case_frozen(folder, rank):
    return chain(folder, **frozen_options())


class Rows(pl.Callback):
    """Note which pool rows each global step trained on."""

    def __init__(self):
        self.rows = {}

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rows.setdefault(trainer.current_epoch, []).append(batch.row.tolist())


def case_guarded(folder, rank):
    rows = Rows()
    found = chain(
        folder,
        VAE(**RING, learning_rate=0.01, beta=0.1),
        RingOfGaussians(rows=600, batch_size=100),
        mitigations=[SIGReg(0.2, slices=16), AnchorReplay(0.2)],
        generations=2,
        samples_per_generation=2500,
        epochs_per_generation=2,
        chunk_size=512,
        callbacks=[rows],
    )
    return {**found, "rows": rows.rows}


class Normalized(VAE):
    """Its batch statistics differ between the processes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoder.insert(1, nn.BatchNorm1d(2))


def case_normalized(folder, rank):
    return chain(folder, **{**frozen_options(), "module": Normalized(**RING)})


class NotANumber(VAE):
    """A sampler whose second process returns one NaN."""

    def sample(self, n, generator, y=None):
        x = super().sample(n, generator, y)
        if torch.distributed.get_rank() == 1:
            x[n // 2, 0] = torch.nan
        return x


class Raising(VAE):
    """A training step that fails on the second process, in the second generation, while the first one trains on."""

    def outputs(self, batch):
        if torch.distributed.get_rank() == 1 and self.clock.generation == 1:
            raise RuntimeError("out of luck")
        return super().outputs(batch)


def case_nan(folder, rank):
    return chain(folder, **{**frozen_options(), "module": NotANumber(**RING)})


def case_raising(folder, rank):
    return chain(folder, **{**frozen_options(), "module": Raising(**RING)})


class Nudge(pl.Callback):
    """Change one weight of the second process, as a step taken there alone would."""

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.global_rank == 1 and trainer.is_last_batch:
            with torch.no_grad():
                next(module.parameters())[0] += 1e-6


def case_diverged(folder, rank):
    return chain(folder, **frozen_options(), callbacks=[Nudge()])


class Killer(pl.Callback):
    """Kill the second process after one of the chain's steps."""

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_rank == 1 and trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)


def case_whole(folder, rank, *callbacks):
    data = RingOfGaussians(rows=2500, batch_size=250)
    options = {"generations": 3, "samples_per_generation": 2500, "epochs_per_generation": 2, "evaluate": False}
    return chain(folder, VAE(**RING, learning_rate=0.01), data, callbacks=callbacks, **options)


def case_killed(folder, rank):
    return case_whole(folder, rank, Killer())


def main(table, folder, *cases):
    rank = int(os.environ["RANK"])
    for case in cases:
        root, _, name = case.lstrip("?").rpartition("=")
        file, begun = folder / f"{case.lstrip('?')}.rank{rank}.json", time.monotonic()
        try:
            found = table[f"case_{name}"](folder / (root or name) / "run", rank)
        except Exception as error:
            file.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
            if not case.startswith("?"):
                raise
        else:
            file.write_text(json.dumps({**found, "seconds": time.monotonic() - begun}))
    if torch.distributed.is_initialized():  # its threads may abort an interpreter that ends beside them
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(globals(), Path(sys.argv[1]), *sys.argv[2:])
