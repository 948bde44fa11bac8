"""Verification: whether every byte of a run folder is what a run wrote there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapse.data.files import MappedArray, is_temporary
from collapse.data.folder import StoreError
from collapse.data.journal import JOURNAL, JournalError
from collapse.data.manifest import Manifest
from collapse.data.rows import HELD, row_digests
from collapse.data.store import GenerationStore
from collapse.recursion.sampling import state_digest

__all__ = ["config_digest", "faults", "refuse_changed"]

STRICT = ("checkpoints", "generations", "training", "weights")
"""Folders that hold nothing but what a run wrote."""
NAMED = ("config.yaml", "environment.json", "metrics.jsonl", "run.json")
"""Files of the run folder itself that a run writes; others there are the user's own."""
LEFTOVER = re.compile(r"chunk_\d+(\.rows)?\.npy|rejected\.npy")
"""Files of a generation that was never committed."""


def config_digest(identity: dict[str, Any]) -> str:
    """Return the SHA-256 of what decides a run's bytes, the content of ``run.json``."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def refuse_changed(store: GenerationStore) -> None:
    """Raise StoreError, before anything is trained, if a file of the run folder is not as it was written."""
    found = list(faults(store))
    if found:
        more = f" ({len(found)} faults in all; `collapse verify {store.root}` lists them)" if len(found) > 1 else ""
        raise StoreError(f"{found[0]}{more}")


def faults(store: GenerationStore) -> Iterator[str]:
    """Hash every file of a run folder again, whatever was known of it, and yield a sentence for each fault.

    A run that was killed has none: files of a generation that was never committed, and temporary ones, are no part
    of it.

    Args:
        store: The store in the folder; what is hashed here needs not be hashed again by it.
    """
    try:
        known = store.journal.states()
    except JournalError as error:
        yield str(error)
        return
    manifests = _manifests(store)
    if not known:
        if manifests or any(not LEFTOVER.fullmatch(path.name) for path in _written(store)):
            yield f"{store.journal.path} is missing: it says what the folder may hold; restore it from a backup"
        return
    for name, permitted in known.items():
        yield from _journal_faults(store, name, permitted)
    yield from _chain_faults(store, manifests)
    for manifest in manifests.values():
        if isinstance(manifest, Manifest):
            yield from _pool_faults(store, manifest)
            yield from _model_faults(store, manifest)
    yield from _strangers(store, known, manifests)


def _journal_faults(store: GenerationStore, name: str, permitted: tuple[str | None, ...]) -> Iterator[str]:
    path = store.root / name
    found = store.digest(str(path), afresh=True) if path.is_file() else None
    if found in permitted:
        if found is not None and name.startswith("checkpoints/") and not _holds(lambda: _loads(path)):
            yield f"{path} holds more than tensors and plain values, and is not loaded; remove it"
        return
    if found is None:
        yield f"{path} is missing, and {JOURNAL} does not say so; restore it from a backup"
    elif permitted == (None,):
        yield f"{path} was removed by the run, says {JOURNAL}, and is here again; remove it"
    else:
        yield f"{path} has other bytes than {JOURNAL} says; restore it from a backup"


def _manifests(store: GenerationStore) -> dict[int, Manifest | str]:
    """Return every manifest there is, gold first, or what is wrong with it."""
    found: dict[int, Manifest | str] = {}
    numbers = [int(path.name[4:]) for path in store.pools.glob("gen_*") if path.name[4:].isdecimal()]
    for generation in [*sorted(numbers), HELD]:
        if store.committed(generation):
            try:
                found[generation] = store.manifest(generation)
            except StoreError as error:
                found[generation] = str(error)
    return found


def _chain_faults(store: GenerationStore, manifests: dict[int, Manifest | str]) -> Iterator[str]:
    """Follow the chain of digests from gold on."""
    config = _config_of(store)
    parent: str | None = ""
    for generation in range(1 + max(manifests, default=-1)):
        path, manifest = store.folder(generation) / "manifest.json", manifests.get(generation)
        if manifest is None:
            yield f"{path} is missing, and generations after it are there; restore it from a backup"
        elif isinstance(manifest, str):
            yield manifest
        else:
            if parent is not None and manifest.parent != parent:
                yield f"{path} does not follow from the manifest before it: one of the two was changed or swapped"
            if manifest.generation != generation:
                yield f"{path} says it is of generation {manifest.generation}; restore it from a backup"
            if generation and config is not None and manifest.config != config:
                yield f"{path} belongs to another run than run.json; one of the two was changed or swapped"
        parent = manifest.digest if isinstance(manifest, Manifest) else None
    held, gold = manifests.get(HELD), manifests.get(0)
    if isinstance(held, str):
        yield held
    elif held is not None and isinstance(gold, Manifest) and held.parent != gold.digest:
        yield f"{store.folder(HELD) / 'manifest.json'} does not belong to gold; one of the two was changed or swapped"


def _config_of(store: GenerationStore) -> str | None:
    try:
        return config_digest(json.loads((store.root / "run.json").read_bytes()))
    except (OSError, ValueError):
        return None  # the journal has a word for that


def _pool_faults(store: GenerationStore, manifest: Manifest) -> Iterator[str]:
    """Hash the files of a generation, and its rows against their records."""
    folder, sound = store.folder(manifest.generation), set()
    for name, _, digest in manifest.files:
        path = folder / name
        if not path.is_file():
            yield f"{path} is missing; restore it from a backup"
        elif store.digest(str(path), afresh=True) != digest:
            yield f"{path} has other bytes than its manifest says; restore it from a backup"
        else:
            sound.add(name)
    for rows, records in manifest.chunks:
        if {rows, records} <= sound:
            yield from _row_faults(folder / rows, folder / records, manifest.generation)


def _row_faults(rows: Path, records: Path, generation: int) -> Iterator[str]:
    try:
        x, provenance = MappedArray(rows)[:], np.load(records, allow_pickle=False)
        described = np.array_equal(row_digests(x), provenance["digest"])
        own = bool((provenance["generation"] == generation).all())
    except (ValueError, IndexError, TypeError) as error:  # a file of another kind
        yield f"{records} and {rows.name} are not rows with their records ({error}); restore both from a backup"
        return
    if not described:
        yield f"{records} does not describe the rows of {rows.name}; restore both from a backup"
    if not own:
        yield f"{records} holds rows of another generation; restore it from a backup"


def _model_faults(store: GenerationStore, manifest: Manifest) -> Iterator[str]:
    """Compare what a manifest says about the model behind it with what was kept of that model."""
    model = manifest.facts.get("model")
    if manifest.generation < 1 or not isinstance(model, dict):
        return
    index = manifest.generation - 1
    name = f"gen_{index:03d}"
    kept = {
        f"training/{name}.npy": lambda: _training_digest(store, index) == model.get("training_set"),
        f"weights/{name}.pt": lambda: state_digest(store.state(index)) == model.get("weights"),
    }
    for file, agrees in kept.items():
        path = store.root / file
        if path.is_file() and not _holds(agrees):
            yield f"{path} is not what the next manifest says generation {index} had; restore it from a backup"


def _training_digest(store: GenerationStore, generation: int) -> str:
    return hashlib.sha256(store.training_set(generation).astype(np.int64).tobytes()).hexdigest()


def _loads(path: Path) -> bool:
    return bool(torch.load(path, weights_only=True, mmap=True, map_location="cpu"))


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # whatever a damaged file makes of its reader
        return False


def _written(store: GenerationStore) -> Iterator[Path]:
    """Yield every file that only a run writes; temporary ones, of a process or of a file system, aside."""
    folders = (store.root / name for name in STRICT)
    places = [store.root / name for name in NAMED] + [path for folder in folders for path in folder.rglob("*")]
    for path in sorted(places):
        if path.is_file() and not is_temporary(path.name) and not path.name.startswith(".nfs"):
            yield path


def _strangers(
    store: GenerationStore, known: dict[str, tuple[str | None, ...]], manifests: dict[int, Manifest | str]
) -> Iterator[str]:
    """Find files that no run has written where only a run writes."""
    ours = {store.root / name for name in known}
    for generation, manifest in manifests.items():
        if isinstance(manifest, Manifest):
            ours |= {store.folder(generation) / name for name, _, _ in manifest.files}
    under_way = {store.folder(len(store)), store.folder(HELD)} - {store.folder(each) for each in manifests}
    checkpoints = any(name.startswith("checkpoints/") for name in known)  # or a Trainer of the user's own writes them
    unreadable = {store.folder(generation) for generation, found in manifests.items() if isinstance(found, str)}
    for folder in sorted(unreadable):
        names = ", ".join(sorted(path.name for path in folder.iterdir() if path.name != "manifest.json"))
        yield f"{folder} cannot be checked without its manifest: {names or 'it is empty'}"
    for path in _written(store):
        if path in ours or path.parent in unreadable or (path.parent.name == "checkpoints" and not checkpoints):
            continue
        if path.is_symlink() and path.resolve() in {one.resolve() for one in ours}:  # a link to "the last one"
            continue
        if path.parent in under_way and LEFTOVER.fullmatch(path.name):
            continue
        yield f"{path} is in no manifest and not in {JOURNAL}: it is no part of the run, or that was cut short"
