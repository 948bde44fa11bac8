"""Ingesting: what files become, what is refused, and what the pool promises."""

import contextlib
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from collapse.data import Origin
from collapse.data.files import array_parts
from collapse.data.ingest import IngestPool, Layout, append, arrays, images, ingest, open_source, tables, text
from collapse.seeding import numpy_generator

PIXELS = numpy_generator(5).integers(0, 256, (12, 6, 4), dtype=np.uint8)


class Payload:
    """Unpickling this leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def rows_of(pool):
    return pool.rows.stored(np.arange(len(pool)))


def add(path, root, origin=Origin.REAL, **settings):
    return ingest(open_source(path, Layout(**settings)), root, origin)


def saved(path, array):
    np.save(path, array)
    return path


def image(path, pixels, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "i4", "i8", "u2", "f4", "f8", ">f4", ">i8"])
def test_an_array_is_stored_as_it_is(tmp_path, kind):
    x = np.arange(24).reshape(4, 3, 2).astype(kind)
    add(saved(tmp_path / "x.npy", x), tmp_path / "pool")
    pool = IngestPool(tmp_path / "pool")
    np.testing.assert_array_equal(rows_of(pool), x)
    assert rows_of(pool).dtype == np.dtype(kind).newbyteorder("=")


def test_fortran_order_and_rows_without_sides(tmp_path):
    x = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    add(saved(tmp_path / "x.npy", x), tmp_path / "a")
    np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / "a")), x)
    add(saved(tmp_path / "y.npy", np.arange(5.0)), tmp_path / "b")
    np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / "b")), np.arange(5.0)[:, None])


def test_flat_rows_get_their_shape(tmp_path):
    path = saved(tmp_path / "x.npy", np.arange(24, dtype=np.uint8).reshape(2, 12))
    done = add(path, tmp_path / "pool", shape=(1, 3, 4))
    np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / "pool")), np.arange(24).reshape(2, 1, 3, 4))
    assert done.batch.manifest.facts["settings"] == {"shape": [1, 3, 4]}
    with pytest.raises(ValueError, match=r"shape=\(5,\) does not fit the rows of .*x.npy, which are \(12,\)"):
        add(path, tmp_path / "other", shape=(5,))


def test_rows_and_labels_of_an_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=PIXELS, y=np.arange(12) % 3, more=np.zeros(2), z=np.zeros(1))
    done = add(tmp_path / "a.npz", tmp_path / "pool")
    pool = IngestPool(tmp_path / "pool")
    np.testing.assert_array_equal(rows_of(pool), PIXELS)
    assert pool.rows.labels.tolist() == [0, 1, 2] * 4
    assert done.notes == ["left out the arrays more, z"]


def test_many_blocks_and_chunks_are_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 70)
    monkeypatch.setattr(append, "CHUNK_BYTES", 200)
    x = np.arange(100.0).reshape(50, 2)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(50))
    done = add(tmp_path / "a.npz", tmp_path / "pool")
    chunks = [rows for name, rows, _ in done.batch.manifest.files if not name.endswith(".rows.npy")]
    assert chunks == [16, 16, 16, 2]  # four blocks of four rows: 256 bytes
    pool = IngestPool(tmp_path / "pool")
    np.testing.assert_array_equal(rows_of(pool), x)
    assert pool.rows.labels.tolist() == list(range(50))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    objects = np.array([Payload(tmp_path / "mark"), 1], dtype=object)
    if name.endswith("z"):
        np.savez(tmp_path / name, x=objects)
    else:
        np.save(tmp_path / name, objects)
    with pytest.raises(ValueError, match="holds objects; those are pickles"):
        add(tmp_path / name, tmp_path / "pool")
    assert not (tmp_path / "mark").exists()
    loaded = np.load(tmp_path / name, allow_pickle=True)
    loaded["x"] if name.endswith("z") else loaded
    assert (tmp_path / "mark").exists(), "the payload would have left one"


def header(shape, kind="<f8"):
    """The header of an array that says it holds ``shape``."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


ARRAYS = [
    ("x.npy", lambda path: path.write_bytes(header((10**12,)) + b"0" * 80), "is cut short"),
    ("x.npy", lambda path: path.write_bytes(b"".join(array_parts(np.arange(9.0)))[:-1]), "is cut short"),
    ("x.npy", lambda path: path.write_bytes(b"no array at all"), "is damaged"),
    ("x.npy", lambda path: path.write_bytes(b""), "is damaged"),
    ("x.npy", lambda path: np.save(path, np.zeros((0, 3))), "holds no rows"),
    ("x.npy", lambda path: np.save(path, np.float64(3)), "holds no rows"),
    ("x.npy", lambda path: np.save(path, np.zeros(3, complex)), "type complex128, which no model reads"),
    ("x.npy", lambda path: np.save(path, np.array([["a"]])), "which no model reads"),
    ("x.npy", lambda path: np.save(path, np.zeros(3, bool)), "type bool, which no model reads"),
    ("x.npy", lambda path: np.save(path, np.array([[0.0], [np.nan], [np.inf]])), "NaN or infinite values in row 1"),
    ("x.npz", lambda path: path.write_bytes(b"PK no archive"), "is damaged"),
    ("x.npz", lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)), "holds a, b and no x"),
    ("x.npz", lambda path: np.savez(path, x=np.zeros((3, 1)), y=np.zeros(2, int)), "y in .* must be 3 integers or"),
    ("x.npz", lambda path: np.savez(path, x=np.zeros((3, 1)), y=np.zeros(3)), "got .3,. of float64"),
    ("x.npz", lambda path: np.savez(path, x=np.zeros((3, 1)), y=np.array([0, 1, -2])), "must be at least 0, or -1"),
]


@pytest.mark.parametrize(("name", "write", "message"), ARRAYS)
def test_an_array_that_cannot_be_rows_is_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        add(tmp_path / name, tmp_path / "deep" / "pool")
    assert not (tmp_path / "deep").exists(), "nothing is left, not even an empty folder"


def test_a_damaged_or_too_large_member_of_an_archive(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 10)))
    monkeypatch.setattr(arrays, "UNPACKED_BYTES", 80_000)
    with pytest.raises(ValueError, match=r"x in .* unpacks to 80128 bytes; save it as \.npy, which is read in pieces"):
        add(tmp_path / "x.npz", tmp_path / "pool")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("x.npy", header((10**9,)) + b"0" * 80)
    with pytest.raises(ValueError, match="is cut short"):
        add(tmp_path / "y.npz", tmp_path / "pool")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    monkeypatch.undo()
    for place in range(30, len(content), 7):
        (tmp_path / "x.npz").write_bytes(bytes([*content[:place], content[place] ^ 255, *content[place + 1 :]]))
        with contextlib.suppress(ValueError):  # nothing else is raised
            add(tmp_path / "x.npz", tmp_path / f"pool_{place}")
            # not every byte is one of the rows: some say when the archive was made
            np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / f"pool_{place}")), np.zeros((1000, 10)))


# --- images -----------------------------------------------------------------------------------------------------------


def test_images_of_classes_in_the_order_of_their_paths(tmp_path):
    for index, name in enumerate(("cat/b.png", "cat/a.png", "ant/z.PNG")):
        image(tmp_path / "in" / name, PIXELS[index])
    (tmp_path / "in" / "notes.md").write_text("x")
    done = add(tmp_path / "in", tmp_path / "pool")
    pool = IngestPool(tmp_path / "pool")
    np.testing.assert_array_equal(rows_of(pool), PIXELS[[2, 1, 0]][:, None])
    assert pool.classes == ["ant", "cat"]
    assert pool.rows.labels.tolist() == [0, 1, 1]
    assert done.notes == ["left out 1 files of other kinds, notes.md first"]


def test_names_keep_their_numbers_when_classes_are_added(tmp_path):
    image(tmp_path / "one" / "dog" / "1.png", PIXELS[0])
    image(tmp_path / "two" / "dog" / "1.png", PIXELS[1])
    image(tmp_path / "two" / "bee" / "1.png", PIXELS[2])
    np.savez(tmp_path / "three.npz", x=PIXELS[:2, None], y=np.array(["bee", "cow"]))
    for name in ("one", "two", "three.npz"):
        add(tmp_path / name, tmp_path / "pool")
    pool = IngestPool(tmp_path / "pool")
    assert pool.classes == ["dog", "bee", "cow"]
    assert pool.rows.labels.tolist() == [0, 1, 0, 1, 2]
    np.savez(tmp_path / "four.npz", x=PIXELS[2:4, None], y=np.array([0, 1]))
    with pytest.raises(
        ValueError, match=r"its labels are numbers, the pool's names; label it by names .* or not at all, or ingest"
    ):
        add(tmp_path / "four.npz", tmp_path / "pool")


def test_folders_named_by_numbers_are_numbers(tmp_path):
    np.savez(tmp_path / "real.npz", x=PIXELS[:3, None], y=np.array([7, 3, 10]))
    for index, name in enumerate(("10", "3", "007")):
        image(tmp_path / "in" / name / "1.png", PIXELS[3 + index])
    for name in ("real.npz", "in"):
        add(tmp_path / name, tmp_path / "pool")
    pool = IngestPool(tmp_path / "pool")
    assert (pool.classes, pool.layout["labels"]) == ([], "numbers")
    assert pool.rows.labels.tolist() == [7, 3, 10, 7, 10, 3]
    np.testing.assert_array_equal(rows_of(pool)[3:], PIXELS[[5, 3, 4]][:, None])


NAMES = [("1", "01"), ("1", "cat"), ("-1", "0"), ("²", "3"), ("1", "1" * 19)]


@pytest.mark.parametrize("folders", NAMES, ids=[" ".join(folders) for folders in NAMES])
def test_folders_that_are_not_all_numbers_are_names(tmp_path, folders):
    for index, name in enumerate(folders):
        image(tmp_path / "in" / name / "1.png", PIXELS[index])
    add(tmp_path / "in", tmp_path / "pool")
    assert IngestPool(tmp_path / "pool").classes == sorted(folders)


def test_color_where_one_image_has_color(tmp_path):
    color = np.stack([PIXELS[0], PIXELS[1], PIXELS[2]], -1)
    image(tmp_path / "in" / "a.png", PIXELS[0])
    image(tmp_path / "in" / "b.png", color)
    image(tmp_path / "in" / "c.png", np.concatenate([color, color[..., :1]], -1))
    done = add(tmp_path / "in", tmp_path / "pool")
    stored = rows_of(IngestPool(tmp_path / "pool"))
    np.testing.assert_array_equal(stored, [[PIXELS[0]] * 3, PIXELS[:3], PIXELS[:3]])
    assert done.notes == ["converted 1 images from L to RGB", "converted 1 images from RGBA to RGB"]
    assert IngestPool(tmp_path / "pool").rows.labels is None, "images in one folder have no labels"


def test_jpeg_is_what_pillow_decodes(tmp_path):
    path = image(tmp_path / "in" / "a.jpg", PIXELS[0], quality=90)
    add(tmp_path / "in", tmp_path / "pool")
    with Image.open(path) as opened:
        np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / "pool"))[0, 0], np.asarray(opened))


def test_sizes_that_differ_need_a_size(tmp_path):
    image(tmp_path / "in" / "a.png", np.full((8, 4), 7, np.uint8))
    image(tmp_path / "in" / "b.png", np.full((4, 6), 9, np.uint8))
    with pytest.raises(ValueError, match=r"a.png has 8 x 4 pixels and .*b.png has 4 x 6; give --size HEIGHT WIDTH"):
        add(tmp_path / "in", tmp_path / "pool")
    done = add(tmp_path / "in", tmp_path / "pool", size=(4, 6))
    stored = rows_of(IngestPool(tmp_path / "pool"))
    np.testing.assert_array_equal(stored, [np.full((1, 4, 6), 7), np.full((1, 4, 6), 9)])
    assert done.notes == ["resized 1 images to 4 x 6 pixels"]


def test_many_images_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BLOCK_BYTES", 60)
    for index in range(12):
        image(tmp_path / "in" / f"{index:02d}.png", PIXELS[index])
    add(tmp_path / "in", tmp_path / "pool")
    np.testing.assert_array_equal(rows_of(IngestPool(tmp_path / "pool")), PIXELS[:, None])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, data=b""):
    """A PNG image that says it is so large."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


IMAGES = [
    (lambda path: path.write_bytes(b"no image"), "cannot be read as a PNG or JPEG image"),
    (lambda path: path.write_bytes(png(4, 6, b"cut short")), "cannot be read as a PNG or JPEG image"),
    (lambda path: path.write_bytes(png(9000, 9000)), "is too large: 9000 x 9000 pixels"),
    (lambda path: path.write_bytes(png(12000, 12000)), "is too large"),
    (lambda path: path.write_bytes(png(60000, 60000)), "is too large"),
    (lambda path: Image.fromarray(PIXELS[0].astype(np.uint16)).save(path), "has pixels of mode I;16"),
    (lambda path: Image.fromarray(PIXELS[0]).save(path, format="GIF"), "cannot be read as a PNG or JPEG image"),
]


@pytest.mark.parametrize(("write", "message"), IMAGES)
def test_an_image_that_cannot_be_read_is_named(tmp_path, write, message):
    image(tmp_path / "in" / "a.png", PIXELS[0])
    write(tmp_path / "in" / "b.png")
    with pytest.raises(ValueError, match=rf"b\.png {message}"):
        add(tmp_path / "in", tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_images_lie_in_one_place_or_in_one_folder_per_class(tmp_path):
    image(tmp_path / "in" / "a.png", PIXELS[0])
    image(tmp_path / "in" / "cat" / "b.png", PIXELS[1])
    with pytest.raises(ValueError, match=r"cat/b.png lies where it cannot be placed"):
        open_source(tmp_path / "in")
    (tmp_path / "in" / "a.png").unlink()
    open_source(tmp_path / "in")
    image(tmp_path / "in" / "cat" / "deep" / "c.png", PIXELS[2])
    with pytest.raises(ValueError, match=r"deep/c.png lies where it cannot be placed"):
        open_source(tmp_path / "in")


# --- text -------------------------------------------------------------------------------------------------------------


def test_text_is_cut_into_rows_and_remainders_are_counted(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.txt").write_bytes("äbcdefgh".encode())  # nine bytes
    (folder / "a.txt").write_bytes(b"0123\n567")
    (folder / "c.txt").write_bytes(b"xy")
    done = add(folder, tmp_path / "pool", length=4)
    stored = rows_of(IngestPool(tmp_path / "pool"))
    assert stored.dtype == np.uint16
    assert [bytes(row.astype(np.uint8)) for row in stored] == [b"0123", b"\n567", "äbc".encode()[:4], b"defg"]
    assert done.notes == ["read 3 documents; dropped 3 bytes, remainders shorter than 4"]


def test_a_large_document_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 20)
    content = bytes(range(97, 120))
    (tmp_path / "a.txt").write_bytes(content)
    add(tmp_path / "a.txt", tmp_path / "pool", length=3)
    stored = rows_of(IngestPool(tmp_path / "pool"))
    assert bytes(stored.astype(np.uint8).reshape(-1)) == content[:21]


def test_a_document_a_line(tmp_path):
    lines = ['{"text": "abcd\\nefg", "id": 1}', "", '{"text": ""}', '{"text": "\\u00e4\\u00e4"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    done = add(tmp_path / "a.jsonl", tmp_path / "pool", length=4)
    stored = rows_of(IngestPool(tmp_path / "pool")).astype(np.uint8)
    assert [bytes(row) for row in stored] == [b"abcd", b"\nefg", "ää".encode()]
    assert done.notes == ["read 3 documents; dropped 0 bytes, remainders shorter than 4"]


LINES = ["{", "[1]", '"text"', '{"text": 3}', '{"txt": "abcd"}', '{"text": "\\ud800"}', "[" * 100_000, "\xff"]


@pytest.mark.parametrize("line", LINES, ids=[line[:9] for line in LINES])
def test_a_line_that_is_no_document_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "abcd"}\n' + line.encode("latin1") + b"\n")
    with pytest.raises(ValueError, match=r'a\.jsonl, line 2 must be a JSON object with a string "text"'):
        add(tmp_path / "a.jsonl", tmp_path / "pool", length=4)


def test_text_needs_a_length_and_documents_of_it(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(ValueError, match="is text, which is cut into rows of equal length; give --length BYTES"):
        add(tmp_path / "a.txt", tmp_path / "pool")
    with pytest.raises(ValueError, match="has no document of 4 bytes or more; lower --length"):
        add(tmp_path / "a.txt", tmp_path / "pool", length=4)
    monkeypatch.setattr(text, "LONGEST_LINE", 20)
    (tmp_path / "a.jsonl").write_text('{"text": "abc abc abc abc"}\n')
    with pytest.raises(ValueError, match="line 1 is longer than 20 bytes"):
        add(tmp_path / "a.jsonl", tmp_path / "pool", length=4)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_numeric_columns_are_coordinates_and_the_others_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 8 * 3 * 2)
    path = table(
        tmp_path / "a.parquet",
        b=pa.array([1, 2, 3, 4, 5], pa.int16()),
        url=["u"] * 5,
        a=pa.array([0.5, 1.5, 2.5, 3.5, 4.5], pa.float32()),
        kind=["x", "y", "x", "z", "x"],
    )
    done = add(path, tmp_path / "pool", label="kind")
    pool = IngestPool(tmp_path / "pool")
    np.testing.assert_array_equal(
        rows_of(pool), np.array([[1, 0.5], [2, 1.5], [3, 2.5], [4, 3.5], [5, 4.5]], np.float32)
    )
    assert rows_of(pool).dtype == np.float32
    assert pool.classes == ["x", "y", "z"]
    assert pool.rows.labels.tolist() == [0, 1, 0, 2, 0]
    assert done.batch.manifest.facts["columns"] == ["b", "a"]
    assert done.notes == ["left out the columns url, which hold no numbers"]
    with pytest.raises(ValueError, match=r"its columns are \['a', 'b'\], the pool's \['b', 'a'\]; write these"):
        add(
            table(tmp_path / "b.parquet", a=pa.array([1.0], pa.float32()), b=pa.array([2], pa.int8())),
            tmp_path / "pool",
        )


def test_wide_numbers_keep_their_width(tmp_path):
    add(table(tmp_path / "a.parquet", a=[2**40 + 1, 7], c=pa.array([1, 2], pa.int8())), tmp_path / "pool")
    stored = rows_of(IngestPool(tmp_path / "pool"))
    assert stored.dtype == np.float64
    assert stored.tolist() == [[2**40 + 1, 1], [7, 2]]


TABLES = [
    ({"a": [1.0, None]}, {}, "column 'a' of .* has missing values"),
    ({"a": [1.0, float("nan")]}, {}, "NaN or infinite values in row 1"),
    ({"a": ["x"]}, {}, "has no numeric column beside its labels"),
    ({"a": [1.0]}, {"label": "a"}, "has no numeric column beside its labels"),
    ({"a": [1.0]}, {"label": "b"}, "label='b' is no column of .*, which has a"),
    ({"a": [1.0], "b": [0.5]}, {"label": "b"}, "column 'b' of .* must hold integers or names"),
    ({"a": pa.array([], pa.float32())}, {}, "holds no rows"),
]


@pytest.mark.parametrize(("columns", "settings", "message"), TABLES)
def test_a_table_that_cannot_be_rows_is_refused(tmp_path, columns, settings, message):
    with pytest.raises(ValueError, match=message):
        add(table(tmp_path / "a.parquet", **columns), tmp_path / "pool", **settings)
    assert not (tmp_path / "pool").exists()


def test_a_table_that_is_none(tmp_path):
    path = table(tmp_path / "a.parquet", a=[1.0] * 100)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no whole Parquet file"):
        add(path, tmp_path / "pool")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = table(tmp_path / "a.parquet", a=[1.0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow; pip install 'collapse\[parquet\]'"):
        add(path, tmp_path / "pool")


# --- sources ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_ingested_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing\.npy"):
        open_source(tmp_path / "nothing.npy")
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model.pt is nothing that can be ingested \(.pt\); give .npy, .npz, .txt"):
        open_source(tmp_path / "model.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is nothing that can be ingested \(no files\)"):
        open_source(tmp_path / "empty")
    image(tmp_path / "both" / "a.png", PIXELS[0])
    (tmp_path / "both" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="holds both images and text; ingest them one by one"):
        open_source(tmp_path / "both")


@pytest.mark.parametrize("settings", [{"length": 0}, {"size": (3, -1)}, {"shape": ()}, {"shape": (0, 2)}])
def test_a_side_is_at_least_one(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* must be at least 1 in every place"):
        Layout(**settings)


@pytest.mark.parametrize("setting", [{"length": 4}, {"size": (2, 2)}, {"label": "y"}])
def test_a_setting_of_other_data_is_refused(tmp_path, setting):
    path = saved(tmp_path / "x.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=f"--{next(iter(setting))} is not for an array"):
        open_source(path, Layout(**setting))


def test_a_link_that_leads_out_is_refused(tmp_path):
    secret = image(tmp_path / "secret" / "s.png", PIXELS[0])
    image(tmp_path / "in" / "a.png", PIXELS[1])
    inside = tmp_path / "in" / "b.png"
    inside.symlink_to(tmp_path / "in" / "a.png")
    assert [path.name for path in open_source(tmp_path / "in").files] == ["a.png", "b.png"]
    inside.unlink()
    for link, target in (("b.png", secret), ("up", secret.parent), ("gone.png", tmp_path / "gone")):
        path = tmp_path / "in" / link
        path.symlink_to(target)
        with pytest.raises(ValueError, match=f"{link} is a link to .*; copy what is meant"):
            open_source(tmp_path / "in")
        path.unlink()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is no file"):
        open_source(tmp_path / "in")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 8)
    source = open_source(saved(tmp_path / "x.npy", np.arange(9.0)))
    blocks = source.blocks()
    next(blocks)
    os.utime(source.path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"x\.npy changed while it was read"):
        list(blocks)
