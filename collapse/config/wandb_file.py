"""Read W&B's run files (``run-*.wandb``): no network, and no reader of the SDK's, which has none for Python any more.

A run file is a log in LevelDB's format. After 7 bytes of its own come blocks of 32 768 bytes, counted from the start of
the file; in them stand fragments: CRC-32 of what follows the length, length, kind, data. A record is one full fragment,
or a first, any number of middle ones and a last, joined; what it holds is a protocol buffer, ``wandb_internal.Record``.
No fragment crosses the end of a block: one that has no room is cut, and less room than a header takes is filled with
zeros.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

__all__ = ["WandbFileError", "set_items", "wandb_files", "wandb_history", "wandb_records"]

START = b":W&B\xe1\xbe\x00"
BLOCK = 32768
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class WandbFileError(ValueError):
    """A run file with bytes that W&B did not write."""


def wandb_files(folder: Path, run_id: str = "*") -> list[Path]:
    """Return the run files below a ``wandb`` folder, of every run or of one; in order of their folders' names."""
    found = {path.resolve() for path in folder.glob(f"*/run-{run_id}.wandb")}  # ``latest-run`` is a second name of one
    return sorted(found)


def wandb_history(path: Path, name: str | None = None) -> list[dict[str, Any]]:
    """Return the rows that a run file logged, in order: all of them, or those with a value of ``name``."""
    rows = [record.history.item for record in wandb_records(path) if record.WhichOneof("record_type") == "history"]
    return [set_items({}, row) for row in rows if name is None or any(name in (i.key, *i.nested_key[:1]) for i in row)]


def wandb_records(path: Path, on_cut: Callable[[int], None] | None = None) -> Iterator[Any]:
    """Yield the records of a run file, each a ``wandb_internal.Record``.

    A file may end anywhere: that of a killed run, or of one that is being written. What cannot be the end of a file is
    damage.

    Args:
        path: The file.
        on_cut: Told the byte of the record that the file ends within, if it does.

    Raises:
        WandbFileError: If the file is damaged, naming the byte.
    """
    content, begun = b"", None  # of a record in fragments
    cut: list[int] = []
    for place, kind, data in _fragments(path, cut.append):
        if (kind in (FULL, FIRST)) != (begun is None):
            raise _damaged(path, place)
        start = place if begun is None else begun
        content, begun = content + data, start
        if kind in (FULL, LAST):
            try:
                record = wandb_internal_pb2.Record.FromString(content)  # type: ignore[attr-defined]
            except DecodeError:
                raise _damaged(path, start) from None
            content, begun = b"", None
            yield record
    if on_cut is not None and (begun is not None or cut):
        on_cut(cut[0] if begun is None else begun)


def _fragments(path: Path, on_cut: Callable[[int], None]) -> Iterator[tuple[int, int, bytes]]:
    """Yield place, kind and data of every fragment."""
    with path.open("rb") as file:
        block, base, place = file.read(BLOCK), 0, len(START)
        if block[: len(START)] != START[: len(block)]:
            raise WandbFileError(f"{path} is no W&B run file, or of a version that is not known here")
        if len(block) < len(START):
            return on_cut(0)
        while block:
            while len(block) - place >= HEADER.size:
                found = _fragment(block, place)
                if found is None:
                    if not _ends_at(block, place):
                        raise _damaged(path, base + place)
                    return on_cut(base + place)
                yield base + place, *found
                place += HEADER.size + len(found[1])
            if len(block) < BLOCK:
                return on_cut(base + place) if place != len(block) else None
            if any(block[place:]):
                raise _damaged(path, base + place)
            block, base, place = file.read(BLOCK), base + BLOCK, 0


def _fragment(block: bytes, place: int) -> tuple[int, bytes] | None:
    """Return kind and data of the fragment at ``place``, None if there is no whole one."""
    checksum, length, kind = HEADER.unpack_from(block, place)
    place += HEADER.size
    if kind not in (FULL, FIRST, MIDDLE, LAST) or place + length > len(block):
        return None
    data = block[place : place + length]
    return (kind, data) if zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum else None


def _ends_at(block: bytes, place: int) -> bool:
    """Whether a file may have been cut off in the fragment at ``place``: nothing but zeros, or too little, is there.

    A changed length, too, may point beyond the end; but then whole fragments follow.
    """
    if len(block) == BLOCK:
        return False
    if not any(block[place:]):
        return True
    _, length, _ = HEADER.unpack_from(block, place)
    later = range(place + 1, len(block) - HEADER.size + 1)
    return place + HEADER.size + length > len(block) and all(_fragment(block, start) is None for start in later)


def _damaged(path: Path, place: int) -> WandbFileError:
    return WandbFileError(f"{path} is damaged at byte {place}; copy it anew from where it was written, or leave it out")


def set_items(tree: dict[str, Any], items: Iterable[Any], removed: Iterable[Any] = ()) -> dict[str, Any]:
    """Put the key-value items of a record into ``tree``, take ``removed`` ones out, and return it.

    An item's key is a path into nested dicts (``nested_key``) or one name (``key``); its value is JSON, in which W&B
    also writes NaN and Infinity.
    """
    for item in items:
        *path, last = item.nested_key or [item.key]
        _inside(tree, path)[last] = json.loads(item.value_json)
    for item in removed:
        *path, last = item.nested_key or [item.key]
        _inside(tree, path).pop(last, None)
    return tree


def _inside(tree: dict[str, Any], path: Iterable[str]) -> dict[str, Any]:
    """Return the dict at ``path``, made where something else or nothing stands."""
    for name in path:
        inner = tree.get(name)
        if not isinstance(inner, dict):
            inner = tree[name] = {}
        tree = inner
    return tree
