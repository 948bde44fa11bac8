"""The journal: what a run folder may hold, written down before it is done.

    {"entry": 7, "file": "metrics.jsonl", "sha256": "9f…", "digest": "3b…"}     this file is about to have these bytes
    {"entry": 8, "file": "checkpoints/epoch-000002.ckpt", "sha256": null, …}    this file is about to be removed

A line is on the disk before the file changes, so a process killed at any moment leaves every file as its last line
says, or, for what stands in the last entry, as the line before says. Anything else is a change that no run has made.
A line's digest is that of its content and of the digest before, so that none can be changed or left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapse.data.files import file_digest, sync_folder

__all__ = ["JOURNAL", "Journal", "JournalError"]

JOURNAL = "journal.jsonl"
START = "0" * 64
OPENING = '{"entry": '


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
        self._last: tuple[int, str] | None = None  # entry and digest of the last line; None: to be read

    def announce(self, changes: Mapping[str, str | None]) -> None:
        """Write down that files are about to have the given SHA-256, or to be removed (None).

        Args:
            changes: Digest by path relative to the run folder.
        """
        if self._last is None:
            self._take_up()
        (entry, digest), lines = self._last or (0, START), []
        for file, sha256 in changes.items():
            content = {"entry": entry + 1, "file": file, "sha256": sha256}
            digest = _digest(digest, content)
            lines.append(json.dumps({**content, "digest": digest}) + "\n")
        self.forget()  # until the lines are there for certain
        self._append("".join(lines))
        self._last = (entry + 1, digest)

    def forget(self) -> None:
        """Read the file again before the next entry: another process has written, or an action has failed."""
        self._last = None

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
        digest, checked = START, []
        lines, torn = self._lines()
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
                digest = _digest(digest, {name: content[name] for name in ("entry", "file", "sha256")})
                sound = content["digest"] == digest
            except (ValueError, TypeError, KeyError):
                sound = False
            if not sound:
                raise JournalError(f"{self.path} was changed in or before line {number}; restore it from a backup")
            checked.append(content)
        if not torn.startswith(OPENING) and not OPENING.startswith(torn):
            raise JournalError(f"{self.path} was changed after line {len(lines)}; restore it from a backup")
        return checked

    def _lines(self) -> tuple[list[str], str]:
        """Return the complete lines and the torn one that a crash may have left, which nobody acted upon."""
        try:
            *lines, torn = self.path.read_bytes().decode(errors="replace").split("\n")
        except FileNotFoundError:
            return [], ""
        return lines, torn

    def _take_up(self) -> None:
        """Continue the journal another process left: drop a torn line, and settle what its crash left open."""
        checked, states = self._checked(), self.states()
        lines, torn = self._lines()
        if torn:
            os.truncate(self.path, sum(len(line.encode()) + 1 for line in lines))
        self._last = (checked[-1]["entry"], checked[-1]["digest"]) if checked else (0, START)
        unsettled = {file: self._found(file) for file, permitted in states.items() if len(permitted) > 1}
        settled = {file: found for file, found in unsettled.items() if found in states[file]}
        if settled:
            self.announce(settled)

    def _found(self, file: str) -> str | None:
        path = self.root / file
        return file_digest(path) if path.exists() else None

    def _append(self, text: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        begun = self.path.exists()
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                if self.durable:
                    os.fsync(file.fileno())
            if self.durable and not begun:
                sync_folder(self.root)
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise


def _digest(before: str, content: dict[str, Any]) -> str:
    return hashlib.sha256((before + json.dumps(content)).encode()).hexdigest()
