"""A source: outside data, looked at before a row of them is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from collapse.data.files import file_digest
from collapse.data.ingest.arrays import read_arrays
from collapse.data.ingest.images import read_images
from collapse.data.ingest.layout import Block, Findings, Layout
from collapse.data.ingest.tables import read_tables
from collapse.data.ingest.text import read_text

__all__ = ["Source", "open_source"]

Reader = Callable[[Path, list[Path], Layout, Findings], Iterator[Block]]


class Kind(NamedTuple):
    """One kind of outside data.

    Attributes:
        name: What a user calls it.
        suffixes: Of its files.
        read: Its reader.
        setting: The one setting of ``Layout`` that it has.
        depth: Levels of folders that its files may lie in; 0 for single files.
    """

    name: str
    suffixes: frozenset[str]
    read: Reader
    setting: str
    depth: int = 0


KINDS = (
    Kind("an array", frozenset({".npy", ".npz"}), read_arrays, "shape"),
    Kind("images", frozenset({".png", ".jpg", ".jpeg"}), read_images, "size", depth=2),
    Kind("text", frozenset({".txt"}), read_text, "length", depth=1),
    Kind("text", frozenset({".jsonl"}), read_text, "length"),
    Kind("a table", frozenset({".parquet"}), read_tables, "label"),
)
READABLE = ".npy, .npz, .txt, .jsonl, .parquet, or a folder of .png and .jpg images or .txt files"


@dataclass
class Source:
    """Outside data at a path.

    Attributes:
        path: As it was given.
        kind: What they are.
        files: In the order of their rows.
        digest: SHA-256 of the file, or of the names and SHA-256 of a folder's files.
        layout: How they become rows.
        findings: What the reader has to say; complete after the last block.
    """

    path: Path
    kind: Kind
    files: list[Path]
    digest: str
    layout: Layout
    findings: Findings = field(default_factory=Findings)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows, and refuse those of files that change in the meantime.

        Raises:
            ValueError: If the data are damaged, or do not make rows of one shape.
        """
        before = [_stamp(file) for file in self.files]
        yield from self.kind.read(self.path, self.files, self.layout, self.findings)
        changed = [file for file, stamp in zip(self.files, before, strict=True) if _stamp(file) != stamp]
        if changed:
            raise ValueError(f"{changed[0]} changed while it was read; ingest it when it is finished")


def open_source(path: str | Path, layout: Layout | None = None) -> Source:
    """Find out what lies at ``path``.

    Args:
        path: A file, or a folder of images or texts.
        layout: How the data become rows.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is nothing that can be read, a link leads out of the folder, or a setting is for other data.
    """
    path, layout, findings = Path(path), layout or Layout(), Findings()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    files = _files_under(path) if path.is_dir() else [path]
    kind = _kind_of(path, files)
    if path.is_dir():
        kept = [file for file in files if file.suffix.lower() in kind.suffixes]
        others = sorted(file.name for file in set(files) - set(kept))
        if others:
            findings.notes.append(f"left out {len(others)} files of other kinds, {others[0]} first")
        files = kept
        _check_places(path, files, kind)
    strange = [name for name in layout.given if name != kind.setting]
    if strange:
        raise ValueError(f"--{strange[0]} is not for {kind.name}, which is what {path} holds; leave it out")
    return Source(path, kind, files, _digest(path, files), layout, findings)


def _files_under(root: Path) -> list[Path]:
    """Return every file under a folder, sorted by path; nothing outside of it is reached."""
    inside, files = root.resolve(), []
    for folder, folders, names in os.walk(root, onerror=_refuse):
        for name in sorted((*folders, *names)):
            path = Path(folder, name)
            if path.is_symlink() and (path.is_dir() or inside not in path.resolve().parents):
                raise ValueError(f"{path} is a link to {path.resolve()}; copy what is meant into {root}")
            if name in names and not path.is_file():
                raise ValueError(f"{path} is no file; remove it")
        files += [Path(folder, name) for name in names]
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise error  # os.walk would leave out the folder


def _kind_of(path: Path, files: list[Path]) -> Kind:
    suffixes = {file.suffix.lower() for file in files}
    if path.is_file():
        found = [kind for kind in KINDS if suffixes <= kind.suffixes]
    else:
        found = [kind for kind in KINDS if suffixes & kind.suffixes and kind.depth]
    if len(found) > 1:
        raise ValueError(f"{path} holds both {found[0].name} and {found[1].name}; ingest them one by one")
    if not found:
        seen = ", ".join(sorted(suffixes)) or "no files"
        raise ValueError(f"{path} is nothing that can be ingested ({seen}); give {READABLE}")
    return found[0]


def _check_places(root: Path, files: list[Path], kind: Kind) -> None:
    depths = {len(file.relative_to(root).parts) for file in files}
    if len(depths) > 1 or max(depths) > kind.depth:
        deepest = max(files, key=lambda file: len(file.parts))
        raise ValueError(
            f"{deepest} lies where it cannot be placed: images lie all in one folder or in one subfolder per class, "
            "texts in one folder"
        )


def _digest(path: Path, files: list[Path]) -> str:
    if path.is_file():
        return file_digest(path)
    lines = [f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
