"""Every key of a config, with its default and its unit. Components (data, model, mitigations) take whatever arguments
their class takes; everything else is here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ChainConfig", "EvaluationConfig", "WandbConfig"]


@dataclass
class EvaluationConfig:
    """What is measured of every generation."""

    enabled: bool = True
    neighbors: int = 5  # k of precision, recall, density and coverage
    max_rows: int = 2000  # most rows per set
    gallery: int = 64  # images per sample grid; 0 for none
    check: float | None = None  # false-alarm rate at which deposits are tested against gold; not tested when unset


@dataclass
class WandbConfig:
    """Weights & Biases: a view of the run; the record is metrics.jsonl."""

    enabled: bool = True
    project: str = "collapse"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str = "auto"  # auto: online where W&B is configured, else offline; or online, offline, disabled


@dataclass
class ChainConfig:
    """One chain."""

    data: dict[str, Any] = field(default_factory=dict)  # {name: Class, argument: value, ...}
    model: dict[str, Any] = field(default_factory=dict)  # the same
    mitigations: list[Any] = field(default_factory=list)  # [Class, {Class: {argument: value}}, ...]
    generations: int = 10
    samples_per_generation: int | None = None  # rows; as many as gold has when unset
    epochs_per_generation: int = 1
    steps_per_generation: int | None = None  # batches; instead of epochs
    initialization: str = "fresh"  # fresh, same or warm
    chunk_size: int = 1024  # rows per call of the sampler
    checkpoint_steps: int | None = None  # steps between checkpoints within an epoch; none when unset
    seed: int = 0
    out: str | None = None  # run folder; runs/<hash of the config>-<seed> when unset
    trainer: dict[str, Any] = field(default_factory=dict)  # arguments of pytorch_lightning.Trainer
    sweep: dict[str, list[Any]] = field(
        default_factory=dict
    )  # {key: [values], 'key,key': [[values]]}: the cells of `collapse theory`
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
