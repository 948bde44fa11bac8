"""The manifest: what one generation's folder holds and where it came from, sealed by a digest."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Manifest", "tool_versions"]

SCHEMA = 2
KINDS = {"generation": int, "rows": int, "parent": str, "facts": dict, "config": str, "tools": dict, "digest": str}
TOOLS = ("collapse", "torch", "numpy", "pytorch-lightning")


@dataclass(frozen=True)
class Manifest:
    """What one generation's folder holds, and where it came from.

    Attributes:
        generation: First generation allowed to train on these rows; 0 is gold, -1 what came with gold undeclared.
        rows: Number of rows.
        files: (name, rows, sha256) of every file, in order.
        parent: Digest of the manifest before; empty for gold. So the manifests are a chain: none can be changed, not
            even with its own digest renewed, without all that follow.
        facts: How the rows were made: model digest, sampler settings, seed, what the model was trained on.
        config: SHA-256 of what decides the run's bytes (``run.json``); empty for gold, which belongs to no run.
        tools: Versions of the software that wrote it.
        schema: Version of this format.
        digest: SHA-256 of all of the above.
    """

    generation: int
    rows: int
    files: list[tuple[str, int, str]]
    parent: str
    facts: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    digest: str = ""

    def sealed(self) -> Manifest:
        """Return the manifest with its digest filled in."""
        content = {name: value for name, value in asdict(self).items() if name != "digest"}
        return Manifest(**content, digest=_digest(content))

    @property
    def content(self) -> str:
        """SHA-256 of what the files hold, whoever wrote them with whatever software."""
        return _digest([self.rows, self.files])

    @property
    def chunks(self) -> list[tuple[str, str]]:
        """Names of the files of rows, each with that of its records."""
        names = [name for name, _, _ in self.files if name.startswith("chunk_")]
        pairs = list(zip(names[::2], names[1::2], strict=False))
        if len(names) % 2 or any(records != f"{rows.removesuffix('.npy')}.rows.npy" for rows, records in pairs):
            raise ValueError("its files are not rows with their records")
        return pairs

    def says_the_same(self, other: Manifest) -> bool:
        """Whether two manifests differ in the software that wrote them at most."""
        return replace(self, tools={}).sealed().digest == replace(other, tools={}).sealed().digest

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers: safe in a checkpoint and in JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        """Inverse of ``to_dict``; a file name that leaves the folder, or another schema, is a ValueError."""
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, and this version of collapse reads {SCHEMA}")
        manifest = cls(**{**content, "files": [(n, r, h) for n, r, h in content["files"]]})
        for name, kind in KINDS.items():
            if not isinstance(getattr(manifest, name), kind) or isinstance(getattr(manifest, name), bool):
                raise ValueError(f"its {name} is no {kind.__name__}")
        for name, rows, digest in manifest.files:
            if not isinstance(name, str) or not name or Path(name).name != name:
                raise ValueError(f"{name!r} is no file name")
            if not isinstance(rows, int) or not isinstance(digest, str):
                raise ValueError(f"it says neither rows nor digest of {name}")
        counts = {name: rows for name, rows, _ in manifest.files}
        if manifest.rows != sum(counts[rows] for rows, _ in manifest.chunks):
            raise ValueError("its rows are not those of its files")
        return manifest


@functools.cache
def tool_versions() -> dict[str, str]:
    """Return the versions of the software that pools are made with."""
    found = {"python": platform.python_version()}
    for package in TOOLS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path
            found[package] = "unknown"
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
