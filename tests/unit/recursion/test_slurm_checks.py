"""What is refused under SLURM, and what Lightning is kept from."""

import os
import signal

import pytest
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment

from collapse import VAE, RingOfGaussians, StoppedForRequeue, run_chain
from collapse.recursion.slurm import check_slurm, slurm_plugins

CHAIN = {"generations": 2, "samples_per_generation": 40, "evaluate": False, "accelerator": "cpu"}


class Asking(pl.Callback):
    """Asks the process to stop, after a step."""

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGUSR1)


def vae_chain(root, *callbacks):
    module = VAE((2,), 2, hidden=4, likelihood="gaussian")
    return run_chain(module, RingOfGaussians(rows=40, batch_size=10), store=root, callbacks=[*callbacks], **CHAIN)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """Forget the cluster that the tests may run on."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)


def slurm(monkeypatch, **variables):
    defaults = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_ID": "7"}
    for name, value in {**defaults, "JOB_NAME": "collapse", **variables}.items():
        if value is not None:
            monkeypatch.setenv(f"SLURM_{name}", value)


def test_lightning_neither_saves_nor_requeues_by_itself(monkeypatch, tmp_path):
    slurm(monkeypatch)
    seen = []

    class Looking(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(trainer._accelerator_connector.cluster_environment)

    with pytest.raises(StoppedForRequeue):
        vae_chain(tmp_path, Looking(), Asking())
    assert isinstance(seen[0], SLURMEnvironment)
    assert not seen[0].auto_requeue
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_checkpoint_that_lightning_would_load_by_itself_is_refused(monkeypatch, tmp_path):
    wanted = vae_chain(tmp_path / "other").records
    stray = tmp_path / "run" / "hpc_ckpt_1.ckpt"
    stray.parent.mkdir()
    stray.write_bytes(next((tmp_path / "other" / "checkpoints").iterdir()).read_bytes())
    slurm(monkeypatch)
    with pytest.raises(ValueError, match=rf"{stray} was left by Lightning's own requeue.* move it to another folder"):
        vae_chain(tmp_path / "run")
    assert list(stray.parent.iterdir()) == [stray]
    stray.unlink()
    assert vae_chain(tmp_path / "run").records == wanted


@pytest.mark.parametrize(("tasks", "devices"), [(2, 1), (1, 2), (4, 2)])
def test_tasks_that_are_not_the_processes_are_named(monkeypatch, tasks, devices):
    slurm(monkeypatch, NTASKS=str(tasks), NTASKS_PER_NODE=str(tasks))
    options = {"accelerator": "cpu", "devices": devices, "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(**options, plugins=slurm_plugins())
    said = rf"SLURM started {tasks} tasks .* the Trainer has {devices} processes.* --ntasks-per-node={devices}`"
    with pytest.raises(ValueError, match=said):
        check_slurm(trainer)


def test_tasks_without_a_number_per_node_are_named(monkeypatch):
    slurm(monkeypatch, NTASKS="2", NTASKS_PER_NODE=None)
    with pytest.raises(ValueError, match=r"SLURM started 2 tasks .* by --ntasks-per-node, not by --ntasks"):
        slurm_plugins()


@pytest.mark.parametrize(
    ("variables", "plugins", "count"),
    [
        ({"JOB_NAME": "bash", "NTASKS": "4", "NTASKS_PER_NODE": None}, (), 0),
        ({"JOB_NAME": "interactive", "NTASKS": "4"}, (), 0),
        ({}, (LightningEnvironment(),), 0),
        ({}, (), 1),
        ({"NTASKS": None}, (), 0),
    ],
)
def test_lightning_is_given_an_environment_where_it_would_choose_that(monkeypatch, variables, plugins, count):
    slurm(monkeypatch, **variables)
    found = slurm_plugins(plugins)
    assert [plugin.auto_requeue for plugin in found] == [False] * count


def test_an_interactive_job_runs_whatever_its_tasks(monkeypatch, tmp_path):
    slurm(monkeypatch, JOB_NAME="bash", NTASKS="4", NTASKS_PER_NODE=None)
    assert len(vae_chain(tmp_path).records) == 2
