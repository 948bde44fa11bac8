"""What there is, and a config with the origin of each value."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from collapse.config.load import LoadedConfig, config_root, names_in

__all__ = ["annotated", "listing"]


def listing(kind: str) -> list[tuple[str, str]]:
    """Return (name, one line) of every class or config of a kind."""
    if kind == "experiments":
        return [(name, _first_comment(name)) for name in names_in("experiment")]
    if kind == "metrics":
        from collapse.metrics import METRICS, TEXT_METRICS

        arrows = {True: "higher is better", False: "lower is better"}
        return [
            (metric.name, f"{metric.detects}, {arrows[metric.higher_is_better]}; {metric.citation}")
            for metric in (*METRICS, *TEXT_METRICS)
        ]
    from collapse.config.build import registry

    return [(name, (inspect.getdoc(value) or "").split("\n")[0]) for name, value in registry(kind).items()]


def annotated(loaded: LoadedConfig) -> str:
    """Return a config as YAML, each value followed by where it came from."""
    lines: list[str] = []
    _annotate(loaded.tree, loaded.origins, lines)
    width = max(len(line.split("\0")[0]) for line in lines)
    return "\n".join(_aligned(line, width) for line in lines)


def _annotate(tree: Mapping[str, Any], origins: Mapping[str, str], lines: list[str], prefix: str = "") -> None:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:")
            _annotate(value, origins, lines, f"{prefix}{key}.")
        else:
            text = OmegaConf.to_yaml(OmegaConf.create({key: value})).rstrip().split("\n")
            lines.append(f"{indent}{text[0]}\0{origins.get(prefix + key, 'default')}")
            lines.extend(f"{indent}{line}" for line in text[1:])


def _aligned(line: str, width: int) -> str:
    text, mark, origin = line.partition("\0")
    return f"{text:<{width}}  # {origin}" if mark else text


def _first_comment(name: str) -> str:
    text = (config_root() / "experiment" / f"{name}.yaml").read_text()
    return text.splitlines()[0].lstrip("# ").strip() if text.startswith("#") else ""
