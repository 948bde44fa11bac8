"""The pool of ingested rows, and the data module that trains on its real ones."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from xxhash import xxh3_128_digest

from collapse.data import Contaminated, GaussianData, Ingested, Origin
from collapse.data.folder import StoreError
from collapse.data.ingest import IngestPool, Layout, append, arrays, ingest, open_source
from collapse.data.ingested import held_out_rows
from collapse.data.manifest import Manifest
from collapse.data.rows import NEVER
from collapse.seeding import numpy_generator

PIXELS = numpy_generator(5).integers(0, 256, (12, 6, 4), dtype=np.uint8)


def rows_of(pool):
    return pool.rows.stored(np.arange(len(pool)))


def add(path, root, origin=Origin.REAL, **settings):
    return ingest(open_source(path, Layout(**settings)), root, origin)


def saved(path, array):
    np.save(path, array)
    return path


def tree(root):
    """Every file and folder, the former with its bytes; who held the lock last is nothing of the pool's."""
    found = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    return {name: content for name, content in found.items() if name != "lock"}


# --- the pool ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path):
    """A pool of three batches, one of each origin; rows 3 and 4 of the second are the first two of the first."""
    x = numpy_generator(8).random((20, 3)).astype(np.float32)
    real, unknown, synthetic = x[:10], np.concatenate([x[10:13], x[:2]]), x[13:]
    for origin, rows in (("real", real), ("unknown", unknown), ("synthetic", synthetic)):
        add(saved(tmp_path / f"{origin}.npy", rows), tmp_path / "pool", Origin[origin.upper()])
    return tmp_path / "pool"


def test_every_row_says_who_made_it_and_when_it_may_train(pool):
    found = IngestPool(pool)
    assert [batch.folder.relative_to(pool).as_posix() for batch in found.batches] == [
        "real/batch_00000",
        "unknown/batch_00001",
        "synthetic/batch_00002",
    ]
    assert found.counts() == {Origin.REAL: 10, Origin.UNKNOWN: 5, Origin.SYNTHETIC: 7}
    assert found.rows.origin.tolist() == [0] * 10 + [2] * 5 + [1] * 7
    assert found.rows.generation.tolist() == [0] * 10 + [NEVER] * 12
    expected = [xxh3_128_digest(row.tobytes()) for row in rows_of(found)]
    assert [bytes(digest) for digest in found.digests] == expected
    found.verify()


def test_manifests_say_where_rows_came_from_and_are_a_chain(pool):
    manifests = [batch.manifest for batch in IngestPool(pool).batches]
    assert manifests[0].parent == ""
    assert [manifest.parent for manifest in manifests[1:]] == [manifest.digest for manifest in manifests[:-1]]
    for manifest, origin in zip(manifests, ("real", "unknown", "synthetic"), strict=True):
        source = pool.parent / f"{origin}.npy"
        assert manifest.facts["source"] == source.name
        assert manifest.facts["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert manifest.tools["numpy"] == np.__version__
    assert [manifest.generation for manifest in manifests] == [0, -1, -1]
    assert str(pool) not in json.dumps(manifests[0].to_dict()), "where it lay is nobody's business"


def test_the_same_sources_make_the_same_bytes(pool, tmp_path):
    for origin in ("real", "unknown", "synthetic"):
        add(tmp_path / f"{origin}.npy", tmp_path / "again", Origin[origin.upper()])
    assert tree(tmp_path / "again") == tree(pool)


def test_rows_that_were_there_before_are_counted(pool, tmp_path):
    x = rows_of(IngestPool(pool))
    done = add(
        saved(tmp_path / "more.npy", np.concatenate([x[:4], x[10:12], x[-1:], x[:1] + 1])), pool, Origin.SYNTHETIC
    )
    assert done.known == {Origin.REAL: 4, Origin.UNKNOWN: 4, Origin.SYNTHETIC: 1}
    assert done.batch.manifest.facts["known"] == {"real": 4, "synthetic": 1, "unknown": 4}


@pytest.mark.parametrize("origin", Origin)
def test_the_same_content_is_refused_whatever_it_is_called(pool, tmp_path, origin):
    before = tree(pool)
    (tmp_path / "unknown.npy").rename(tmp_path / "renamed.npy")
    with pytest.raises(ValueError, match=r"is in the pool already: .*unknown/batch_00001 has the same content"):
        add(tmp_path / "renamed.npy", pool, origin)
    assert tree(pool) == before


def test_rows_of_another_shape_or_type_are_refused(pool, tmp_path):
    before = tree(pool)
    with pytest.raises(ValueError, match=r"its rows are \[4\], the pool's \[3\]; .*, or ingest it into another pool"):
        add(saved(tmp_path / "x.npy", np.zeros((2, 4), np.float32)), pool)
    with pytest.raises(ValueError, match="its values are float64, the pool's float32; convert them, or ingest it"):
        add(saved(tmp_path / "x.npy", np.zeros((2, 3))), pool)
    assert tree(pool) == before


@pytest.mark.parametrize("write", ["chunk_00000.npy", "chunk_00000.rows.npy", "manifest.json"])
def test_an_interrupted_ingestion_does_not_count_and_goes(pool, tmp_path, monkeypatch, write):
    """As a kill at this write leaves it: no cleaning up."""
    before, path = tree(pool), saved(tmp_path / "x.npy", np.zeros((2, 3), np.float32))

    def dying(target, *parts, **settings):
        if target.name == write:
            target.with_name(f"{write}.tmp1").write_bytes(b"torn")
            raise KeyboardInterrupt
        return commit(target, *parts, **settings)

    commit = append.commit
    with monkeypatch.context() as patch:
        patch.setattr(append, "commit", dying)
        patch.setattr(append.shutil, "rmtree", lambda *arguments, **settings: None)
        with pytest.raises(KeyboardInterrupt):
            add(path, pool, Origin.UNKNOWN)
    assert (pool / "unknown" / "batch_00003").exists()
    assert len(IngestPool(pool)) == 22
    IngestPool(pool).verify()
    assert len(Ingested(pool, held_out=0.2).gold()) == 8
    add(path, pool, Origin.REAL)
    left = tree(pool)
    assert not any(name.startswith("unknown/batch_00003") for name in left)
    assert {name: left[name] for name in before} == before


def test_a_failed_ingestion_leaves_nothing(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 24)
    monkeypatch.setattr(append, "CHUNK_BYTES", 24)
    rows = np.zeros((5, 3), np.float32)
    rows[4, 1] = np.nan
    before = tree(pool)
    with pytest.raises(ValueError, match="NaN or infinite values in row 4"):
        add(saved(tmp_path / "x.npy", rows), pool, Origin.UNKNOWN)
    assert tree(pool) == before


def test_a_folder_that_is_no_pool_is_left_alone(tmp_path):
    path = saved(tmp_path / "x.npy", np.zeros((2, 3)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "set" / "real").mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(tmp_path / "set" / "real" / "a.png")
    for name in ("mine", "set", "x.npy"):
        with pytest.raises(ValueError, match=r"is no pool of ingested data: it holds|is a file; choose a folder"):
            add(path, tmp_path / name)
    with pytest.raises(ValueError, match=r"lies within .*set, which would be read while it is written"):
        add(tmp_path / "set", tmp_path / "set" / "pool")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def resealed(path):
    """Change what a manifest says, and renew its digest."""
    content = json.loads(path.read_text())
    content["facts"]["source"] = "elsewhere.npy"
    path.chmod(0o644)
    path.write_text(json.dumps(Manifest.from_dict(content).sealed().to_dict()))


FAULTS = [
    (lambda root: flipped(root / "real/batch_00000/chunk_00000.npy"), "chunk_00000.npy has other bytes"),
    (lambda root: flipped(root / "unknown/batch_00001/chunk_00000.rows.npy"), "chunk_00000.rows.npy has other bytes"),
    (lambda root: (root / "real/batch_00000/chunk_00000.npy").unlink(), "chunk_00000.npy is missing"),
    (lambda root: (root / "real/batch_00000/more.npy").touch(), "more.npy was not written by collapse"),
    (lambda root: (root / "unknown/batch_00001/manifest.json").unlink(), "has no batch_00001"),
    (lambda root: resealed(root / "real/batch_00000/manifest.json"), "batch_00001/manifest.json was changed or moved"),
    (
        lambda root: (root / "unknown/batch_00001").rename(root / "real/batch_00001"),
        "real/batch_00001/manifest.json was changed or moved",
    ),
    (lambda root: flipped(root / "synthetic/batch_00002/manifest.json"), "is not a manifest"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_a_pool_that_was_changed_trains_nobody(pool, damage, message):
    damage(pool)
    with pytest.raises(StoreError, match=message):
        Ingested(pool).gold()


# --- the data module --------------------------------------------------------------------------------------------------


def test_gold_is_what_was_declared_real_and_the_rest_is_held(pool):
    data, everything = Ingested(pool, held_out=0.3), rows_of(IngestPool(pool))
    gold, reference, held = (
        np.asarray(part.x[:]) for part in (data.gold(), data.reference(), data.held()[Origin.UNKNOWN])
    )
    assert (len(gold), len(reference)) == (7, 3)
    assert {row.tobytes() for row in (*gold, *reference)} == {row.tobytes() for row in everything[:10]}
    positions = [everything[:10].tolist().index(row) for row in gold.tolist()]
    assert positions == sorted(positions), "in the pool's order"
    assert set(data.held()) == {Origin.UNKNOWN, Origin.SYNTHETIC}
    np.testing.assert_array_equal(data.held()[Origin.SYNTHETIC].x[:], everything[15:])
    known = {row.tobytes() for row in reference}
    np.testing.assert_array_equal(held, [row for row in everything[10:15] if row.tobytes() not in known])
    assert data.classes is None
    version = IngestPool(pool).digest[:12]
    assert data.describe() == f"Ingested(held_out=0.3, version={version!r})", "where it lies is not what it is"


def test_a_version_is_the_pool_as_it_was(pool, tmp_path):
    before = Ingested(pool, held_out=0.3)
    described, rows = before.describe(), [np.asarray(part.x[:]) for part in (before.gold(), before.reference())]
    version = IngestPool(pool).version
    add(saved(tmp_path / "more.npy", np.ones((5, 3), np.float32)), pool)
    add(saved(tmp_path / "other.npy", np.zeros((9, 3), np.float32)), pool, Origin.UNKNOWN)
    again, grown = Ingested(pool, held_out=0.3, version=version), Ingested(pool, held_out=0.3)
    assert (again.describe(), again.pinned()) == (described, {"version": version})
    for part, expected in zip((again.gold(), again.reference()), rows, strict=True):
        np.testing.assert_array_equal(part.x[:], expected)
    assert {origin: len(part) for origin, part in again.held().items()} == {
        origin: len(part) for origin, part in before.held().items()
    }
    assert grown.describe() != described
    assert len(grown.gold()) + len(grown.reference()) == 15
    first = IngestPool(pool).batches[0].manifest.digest
    assert Ingested(pool, version=first).held() == {}
    assert Ingested(pool, version=first).describe() == f"Ingested(version={first[:12]!r})", "however given"
    assert again.twin().describe() == described
    source = Contaminated(Ingested(pool, version=first), 0.2)
    assert source.pinned() == {"source": {"version": first[:12]}}
    assert Contaminated(GaussianData(rows=9), 0.2).pinned() == {}


@pytest.mark.parametrize(("version", "count"), [("nothing", 0), ("", 3)])
def test_a_pool_that_never_was_of_a_version(pool, version, count):
    newest = IngestPool(pool).version
    with pytest.raises(ValueError, match=f"version='{version}' fits {count} of the 3 batches of .*which is {newest}"):
        Ingested(pool, version=version).gold()


def test_every_fault_of_a_pool_is_listed(pool):
    assert list(IngestPool(pool).faults()) == []
    flipped(pool / "real/batch_00000/chunk_00000.npy")
    (pool / "unknown/batch_00001/chunk_00000.npy").unlink()
    (pool / "unknown/batch_00001/more.npy").touch()
    assert [fault.split("pool/")[-1].split(";")[0] for fault in IngestPool(pool).faults()] == [
        "real/batch_00000/chunk_00000.npy has other bytes than its manifest says",
        "unknown/batch_00001/chunk_00000.npy is missing",
        "unknown/batch_00001/more.npy was not written by collapse",
    ]


def test_a_held_row_that_equals_a_reference_row_is_for_nobody(pool):
    """For any key: the two doubled rows are held where they are gold, and left out where they are reference."""
    sizes = set()
    for seed in range(20):
        data = Ingested(pool, held_out=0.4, seed=seed)
        reference = {row.tobytes() for row in data.reference().x[:]}
        held = [row.tobytes() for rows in data.held().values() for row in rows.x[:]]
        assert not reference & set(held)
        sizes.add(len(data.held()[Origin.UNKNOWN]))
    assert sizes == {3, 4, 5}


def test_equal_rows_stay_on_one_side_and_the_share_is_met():
    rng = numpy_generator(3)
    for seed in range(30):
        digests = rng.integers(0, 256, (40, 16), dtype=np.uint8)[rng.integers(0, 40, 100)]
        for share in (0.01, 0.1, 0.5, 0.99):
            chosen = held_out_rows(digests, share, seed)
            inside = {bytes(digest) for digest in digests[chosen]}
            outside = {bytes(digest) for digest in np.delete(digests, chosen, 0)}
            assert inside
            assert outside
            assert not inside & outside
            copies = max(np.unique(digests, axis=0, return_counts=True)[1])
            assert abs(len(chosen) - 100 * share) <= copies
    distinct = rng.integers(0, 256, (1000, 16), dtype=np.uint8)
    assert len(held_out_rows(distinct, 0.137, 7)) == 137


def test_a_pool_that_grows_keeps_its_split():
    digests = numpy_generator(4).integers(0, 256, (1100, 16), dtype=np.uint8)
    before, after = held_out_rows(digests[:1000], 0.1, 5), held_out_rows(digests, 0.1, 5)
    assert len(set(before) & set(after[after < 1000])) >= 90
    other = held_out_rows(digests[:1000], 0.1, 6)
    assert len(set(before) & set(other)) < 30


def test_too_little_real_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no ingested data; collapse ingest PATH --origin real --out"):
        Ingested(tmp_path / "nothing").gold()
    add(saved(tmp_path / "x.npy", np.zeros((3, 2))), tmp_path / "pool", Origin.UNKNOWN)
    with pytest.raises(ValueError, match="0 rows are declared real, and no two of them differ"):
        Ingested(tmp_path / "pool").gold()
    add(saved(tmp_path / "y.npy", np.ones((3, 2))), tmp_path / "pool")
    with pytest.raises(ValueError, match="3 rows are declared real, and no two of them differ"):
        Ingested(tmp_path / "pool").gold()
    with pytest.raises(ValueError, match="held_out must lie strictly between 0 and 1, got 1"):
        Ingested(tmp_path / "pool", held_out=1)


def test_labels_count_as_classes_where_every_gold_row_has_one(tmp_path):
    np.savez(tmp_path / "a.npz", x=PIXELS[:, None], y=np.arange(12) % 4)
    add(tmp_path / "a.npz", tmp_path / "pool")
    assert Ingested(tmp_path / "pool").classes == 4
    np.savez(tmp_path / "b.npz", x=PIXELS[:, None] ^ 1, y=np.full(12, 9))
    add(tmp_path / "b.npz", tmp_path / "pool", Origin.UNKNOWN)
    assert Ingested(tmp_path / "pool").classes == 10, "held rows may be let in"
    add(saved(tmp_path / "c.npy", PIXELS[:, None] ^ 2), tmp_path / "pool")
    data = Ingested(tmp_path / "pool")
    assert data.classes is None
    assert set(np.asarray(data.gold().y)) == {-1, 0, 1, 2, 3}


def test_rows_are_read_from_their_files_when_they_are_wanted(pool, monkeypatch):
    data = Ingested(pool, held_out=0.3)
    x, expected = data.gold().x, np.asarray(data.gold().x[:])
    for rows in (slice(2, 5), slice(None, None, 3), np.array([6, 0, 6]), torch.tensor([3, 1]), np.arange(7) % 2 == 0):
        np.testing.assert_array_equal(x[rows], expected[np.asarray(rows) if not isinstance(rows, slice) else rows])
    np.testing.assert_array_equal(x.elements(np.array([1, 4]), np.array([2, 0])), expected[[1, 4], [2, 0]])
    assert (x.shape, x.dtype, len(x), x.nbytes) == ((7, 3), np.float32, 7, 84)
    batches = list(data.train_dataloader())
    np.testing.assert_array_equal(
        torch.cat([b.x for b in batches])[torch.cat([b.row for b in batches]).argsort()], expected
    )
