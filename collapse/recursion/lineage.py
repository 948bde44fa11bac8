"""Lineage: where a row came from, model by model back to gold, and what has been trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from collapse.data.folder import StoreError
from collapse.data.manifest import Manifest
from collapse.data.rows import HELD, NO_CANDIDATE, UNLABELED, Origin
from collapse.data.store import GenerationStore

__all__ = ["Lineage", "exposure", "lineage"]


@dataclass(frozen=True)
class Lineage:
    """Where one row of a pool came from.

    Attributes:
        row: Its index in the pool.
        place: Name of the file it lies in, and its place there.
        record: Its provenance.
        manifests: Those of the generations before it, its own first, gold's last.
        trained: How often each generation trained on it, by generation; those that did not are left out.
    """

    row: int
    place: tuple[str, int]
    record: np.void
    manifests: list[Manifest]
    trained: dict[int, float]

    def lines(self) -> Iterator[str]:
        """Say it, a line at a time."""
        record, own = self.record, self.manifests[0]
        origin = Origin(int(record["origin"])).name.lower()
        held = record["generation"] == HELD
        since = "came undeclared, held back unless admitted" if held else f"for generation {record['generation']} on"
        label = "" if record["label"] == UNLABELED else f", label {record['label']}"
        yield f"row {self.row}: {origin}, {since}{label}, digest {bytes(record['digest']).hex()}"
        yield f"  in {self.place[0]}, place {self.place[1]}"
        if record["candidate"] != NO_CANDIDATE:
            yield f"  {_draw(own.facts, int(record['candidate']))}"
        if not np.isnan(record["score"]):
            yield f"  kept by curation with score {record['score']:.6g}"
        for manifest in self.manifests:
            yield f"  {_made(manifest)}"
        times = ", ".join(f"generation {generation} {_times(count)}" for generation, count in self.trained.items())
        yield f"  trained on: {times or 'by no generation so far'}"


def lineage(store: GenerationStore, row: int) -> Lineage:
    """Follow a row back to gold.

    Args:
        store: The run's store.
        row: Index into the pool: gold, what is held back, then one deposit per generation.

    Raises:
        IndexError: If there is no such row.
    """
    start = 0
    for manifest in _in_pool_order(store):
        if row < start + manifest.rows and row >= 0:
            break
        start += manifest.rows
    else:
        raise IndexError(f"there is no row {row}: the pool of {store.root} has {start} rows, counted from 0")
    last = max(0, manifest.generation)
    before = [store.manifest(index) for index in range(last, -1, -1)]
    chain = before if manifest.generation >= 0 else [manifest]
    name, place, record = _record(store, manifest, row - start)
    return Lineage(row, (name, place), record, chain, dict(_trained(store, row)))


def exposure(store: GenerationStore) -> list[dict[str, float]]:
    """Return, for every trained generation, how many rows of each origin it trained on; a mean over replicates.

    Returns:
        One dict per generation: rows by ``"gold"``, ``"held synthetic"``, ``"held unknown"`` or ``"generation g"``.
    """
    order = [part for manifest in _in_pool_order(store) for part in _parts(manifest)]
    names, ends = [name for name, _ in order], np.cumsum([rows for _, rows in order])
    found = []
    for generation in range(len(store) - 1):
        rows = store.training_set(generation)
        counts = np.bincount(np.searchsorted(ends, rows.reshape(-1), side="right"), minlength=len(order))
        replicates = rows.size // len(rows)
        found.append({name: count / replicates for name, count in zip(names, counts.tolist(), strict=True) if count})
    return found


def _parts(manifest: Manifest) -> list[tuple[str, int]]:
    """Return names and rows of what follows one another in a pool; what is held back lies there by origin."""
    if manifest.generation == HELD:
        return [(f"held {origin}", rows) for origin, rows in manifest.facts.items()]
    return [(_name(manifest), manifest.rows)]


def _in_pool_order(store: GenerationStore) -> list[Manifest]:
    held = store.held()
    manifests = [store.manifest(index) for index in range(len(store))]
    if not manifests:
        raise StoreError(f"{store.root} holds no chain: it has no gold")
    return manifests if held is None else [manifests[0], held, *manifests[1:]]


def _record(store: GenerationStore, manifest: Manifest, place: int) -> tuple[str, int, np.void]:
    for rows, records in manifest.chunks:
        content = np.load(store.folder(manifest.generation) / records, allow_pickle=False)
        if place < len(content):
            return f"{store.folder(manifest.generation).name}/{rows}", place, content[place]
        place -= len(content)
    raise StoreError(f"{store.folder(manifest.generation)} has fewer rows than its manifest says")


def _trained(store: GenerationStore, row: int) -> Iterator[tuple[int, float]]:
    for generation in range(len(store) - 1):
        rows = store.training_set(generation)
        count = np.count_nonzero(rows == row) * len(rows) / rows.size
        if count:
            yield generation, count


def _draw(facts: dict[str, Any], candidate: int) -> str:
    chunk, place = divmod(candidate, int(facts["chunk_size"]))
    settings = ", ".join(f"{name}={value}" for name, value in facts["sampler"].items()) or "no settings"
    return (
        f"candidate {candidate} of {facts['candidates']}: chunk {chunk}, place {place}, seed {facts['seed']}, "
        f"sampler with {settings}"
    )


def _made(manifest: Manifest) -> str:
    model = manifest.facts.get("model")
    if model is None:
        name = _name(manifest)
        what = manifest.facts.get("data", "rows that came with gold and are not declared real")
        return f"{name}: {what}, {manifest.rows} rows, content {manifest.content[:12]}"
    return (
        f"generation {manifest.generation} is what the model of generation {model['generation']} made: weights "
        f"{model['weights'][:12]}, trained on {model['rows']:g} rows, {model['real']:g} of them real"
    )


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:g} times"


def _name(manifest: Manifest) -> str:
    return {0: "gold", HELD: "held"}.get(manifest.generation, f"generation {manifest.generation}")
