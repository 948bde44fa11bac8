"""The recursion: one ``trainer.fit()`` for a chain of generations."""

from collapse.recursion.chain import Chain, Record, run_chain
from collapse.recursion.checkpointing import AtomicCheckpointIO, EpochCheckpoint, StepCheckpoint, newest_checkpoint
from collapse.recursion.early_stopping import GenerationEarlyStopping
from collapse.recursion.ledger import Ledger, Measurement, read_measurements
from collapse.recursion.requeue import StopForRequeue
from collapse.recursion.trainer import RecursiveTrainer
from collapse.stopping import StoppedForRequeue

__all__ = [
    "RecursiveTrainer",
    "run_chain",
    "Chain",
    "Record",
    "GenerationEarlyStopping",
    "EpochCheckpoint",
    "StepCheckpoint",
    "StopForRequeue",
    "StoppedForRequeue",
    "AtomicCheckpointIO",
    "newest_checkpoint",
    "Ledger",
    "Measurement",
    "read_measurements",
]
