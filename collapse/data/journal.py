"""The journal: what a run folder may hold, written down before it is done.

    {"entry": 7, "file": "metrics.jsonl", "sha256": "9f…", "previous": "3b…"}     this file is about to have these bytes
    {"entry": 8, "file": "checkpoints/epoch-000002.ckpt", "sha256": null, …}      this file is about to be removed

A line is on the disk before the file changes, so a process killed at any moment leaves every file as its last line
says, or, for what stands in the last entry, as the line before says. Anything else is a change that no run has made.
Each line names the digest of the one before it, so that none can be changed or left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapse.data.files import file_digest

__all__ = ["JOURNAL", "Journal", "JournalError"]

JOURNAL = "journal.jsonl"
START = "0" * 64


class JournalError(ValueError):
    """A journal that was changed after it was written."""


class Journal:
    """What a run folder may hold. One process writes it: the one that holds the folder's lock.

    Args:
        root: The run folder.
        durable: Force every entry to the disk before it is acted upon.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root, self.path, self.durable = root, root / JOURNAL, durable
        self._previous: str | None = None
        self._entry = 0

    def announce(self, changes: Mapping[str, str | None]) -> None:
        """Write down that files are about to have the given SHA-256, or to be removed (None).

        Args:
            changes: Digest by path relative to the run folder.
        """
        if self._previous is None:
            self._take_up()
        lines, self._entry = [], self._entry + 1
        for file, digest in changes.items():
            line = json.dumps({"entry": self._entry, "file": file, "sha256": digest, "previous": self._previous})
            self._previous = hashlib.sha256(line.encode()).hexdigest()
            lines.append(line + "\n")
        self._append("".join(lines))

    def states(self) -> dict[str, tuple[str | None, ...]]:
        """Return the digests each file may have, None for absent; more than one only where a crash decides.

        Raises:
            JournalError: If a line was changed, or lines are missing.
        """
        known: dict[str, tuple[str | None, ...]] = {}
        lines = self._checked()
        last = lines[-1]["entry"] if lines else 0
        for line in lines:
            file, before = line["file"], known.get(line["file"], (None,))[0]
            known[file] = (line["sha256"], before) if line["entry"] == last else (line["sha256"],)
        return known

    def _checked(self) -> list[dict[str, Any]]:
        previous, checked = START, []
        for number, line in enumerate(self._lines(), 1):
            try:
                content = json.loads(line)
                fits = content["previous"] == previous and {"entry", "file", "sha256"} <= content.keys()
            except (ValueError, TypeError, KeyError):
                fits = False
            if not fits:
                raise JournalError(f"{self.path} was changed in or before line {number}; restore it from a backup")
            previous = hashlib.sha256(line.encode()).hexdigest()
            checked.append(content)
        return checked

    def _lines(self) -> list[str]:
        """Return the complete lines; what follows the last line's end is a crash's, and was not acted upon."""
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def _take_up(self) -> None:
        """Continue the journal another process left: drop a torn line, and settle what its crash left open."""
        lines, states = self._lines(), self.states()
        self._previous = hashlib.sha256(lines[-1].encode()).hexdigest() if lines else START
        if self.path.exists():
            os.truncate(self.path, sum(len(line.encode()) + 1 for line in lines))
        self._entry = json.loads(lines[-1])["entry"] if lines else 0
        unsettled = {file: self._found(file) for file, permitted in states.items() if len(permitted) > 1}
        if unsettled:
            self.announce({file: found for file, found in unsettled.items() if found in states[file]})

    def _found(self, file: str) -> str | None:
        path = self.root / file
        return file_digest(path) if path.exists() else None

    def _append(self, text: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(text.encode())
                if self.durable:
                    os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
