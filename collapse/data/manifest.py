"""The manifest: what one generation's folder holds and where it came from, sealed by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Manifest"]

SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """What one generation's folder holds, and where it came from.

    Attributes:
        generation: First generation allowed to train on these rows; 0 is gold.
        rows: Number of rows.
        files: (name, rows, sha256) of every file, in order.
        parent: Digest of the manifest before; empty for gold.
        facts: How the rows were made: model digest, sampler settings, seed, what the model was trained on.
        digest: SHA-256 of all of the above.
    """

    generation: int
    rows: int
    files: list[tuple[str, int, str]]
    parent: str
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    digest: str = ""

    def sealed(self) -> Manifest:
        """Return the manifest with its digest filled in."""
        content = {name: value for name, value in asdict(self).items() if name != "digest"}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Manifest(**content, digest=digest)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers: safe in a checkpoint and in JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        """Inverse of ``to_dict``; a file name that leaves the folder is a ValueError."""
        strange = [name for name, _, _ in content["files"] if not name or Path(name).name != name]
        if strange:
            raise ValueError(f"{strange[0]!r} is no file name")
        return cls(**{**content, "files": [(str(n), int(r), str(h)) for n, r, h in content["files"]]})
