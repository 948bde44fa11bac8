"""A pool read in any order is what was written in it."""

import numpy as np
import pytest
import torch

from collapse.data import DataPool, Origin
from collapse.data import files as files_module
from collapse.data.files import MappedArray
from collapse.data.rows import provenance

SIZES = (5, 1, 7, 4)


def shards_of(shape, dtype="<f8"):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 250, (size, *shape)).astype(dtype) for size in SIZES]


def records_of(labels=False):
    made = [provenance(SIZES[0], origin=Origin.REAL, generation=0, y=np.arange(5) if labels else None)]
    return made + [provenance(size, origin=Origin.SYNTHETIC, generation=1 + i) for i, size in enumerate(SIZES[1:])]


@pytest.fixture(params=["memory", "mapped", "read"])
def pool_of(request, tmp_path, monkeypatch):
    """Make a pool of arrays, of mapped files, or of files beyond the budget of maps."""

    def make(shape, dtype="<f8", labels=False):
        shards = shards_of(shape, dtype)
        if request.param == "memory":
            return DataPool(shards, records_of(labels)), np.concatenate(shards)
        for index, shard in enumerate(shards):
            np.save(tmp_path / f"{index}.npy", shard)
        if request.param == "read":
            monkeypatch.setattr(files_module, "_MAPS", files_module._Maps(0))
        mapped = [MappedArray(tmp_path / f"{index}.npy") for index in range(len(shards))]
        return DataPool(mapped, records_of(labels)), np.concatenate(shards)

    return make


ORDERS = {
    "all": list(range(17)),
    "within one shard": [7, 8, 9],
    "over all shards": list(range(3, 15)),
    "up to a shard's end": [3, 4],
    "from a shard's start": [5, 6, 7],
    "one": [5],
    "last": [16],
    "falling": [9, 8, 7],
    "repeated": [4, 4, 5, 5],
    "shuffled": [16, 0, 6, 5, 12, 4, 11, 0],
    "none": [],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_rows_come_in_the_order_asked_for(pool_of, shape, order):
    pool, whole = pool_of(shape)
    rows = np.array(order, dtype=np.int64)
    read = pool.stored(rows)
    np.testing.assert_array_equal(read, whole[rows])
    assert read.dtype == whole.dtype
    batch = pool.gather(torch.from_numpy(rows))
    np.testing.assert_array_equal(batch.x, whole[rows])
    assert batch.generation.tolist() == [0 if row < 5 else 1 if row < 6 else 2 if row < 13 else 3 for row in order]
    assert batch.origin.tolist() == [int(row >= 5) for row in order]
    assert batch.row.tolist() == order


COLUMNS = {
    "shuffled": [[16, 3], [0, 0], [4, 5], [5, 4], [11, 2]],
    "one of each replicate": [[6, 12]],
    "the same in both": [[7, 7], [3, 3]],
    "one after the other": [[7, 8], [9, 10]],
    "one after the other over shards": [[3, 4], [5, 6], [7, 8]],
    "none": np.empty((0, 2)).tolist(),
}


@pytest.mark.parametrize("rows", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_every_replicate_reads_rows_of_its_own(pool_of, shape, rows):
    pool, whole = pool_of(shape)
    rows = np.array(rows, dtype=np.int64).reshape(-1, 2)
    wanted = np.stack([whole[rows[:, replicate], replicate] for replicate in range(2)], 1)
    np.testing.assert_array_equal(pool.stored_columns(rows), wanted)
    batch = pool.gather(torch.from_numpy(rows))
    np.testing.assert_array_equal(batch.x, wanted)
    assert batch.origin.tolist() == (rows >= 5).astype(int).tolist()
    assert batch.row.tolist() == rows.tolist()


@pytest.mark.parametrize("rows", [[[3], [4], [5]], [[9], [2]], [[11]]])
def test_one_replicate_is_read_as_none_is(pool_of, rows):
    pool, whole = pool_of((1, 3))
    wanted, rows = whole[np.array(rows)[:, 0]], torch.tensor(rows)
    np.testing.assert_array_equal(pool.gather(rows).x, wanted)
    np.testing.assert_array_equal(pool.gather(rows[:, 0]).x, wanted)


def test_images_are_read_as_floats_and_rows_without_a_label_say_so(pool_of):
    pool, whole = pool_of((1, 2, 2), "u1", labels=True)
    rows = torch.tensor([0, 4, 5, 16])
    batch = pool.gather(rows)
    assert batch.x.dtype == torch.float32
    np.testing.assert_array_equal(batch.x, whole[rows].astype(np.float32) / np.float32(255))
    assert batch.y.tolist() == [0, 4, -1, -1]
    assert pool.gather(torch.tensor([[4], [5]])).y.tolist() == [[4], [-1]]


def test_what_is_read_is_the_readers_own(pool_of):
    pool, whole = pool_of((2, 3))
    for rows in (torch.arange(5), torch.tensor([4, 2]), torch.tensor([[4, 2]])):
        pool.gather(rows).x.fill_(-1)
        pool.stored(np.arange(17)).fill(-1)
    np.testing.assert_array_equal(pool.stored(np.arange(17)), whole)


@pytest.mark.parametrize("rows", [[17], [16, 17], [3, 17], [-1], [-1, 0], [3, -1]])
def test_a_row_that_does_not_exist_is_an_error(pool_of, rows):
    """Never rows of another place, and never memory that nobody wrote."""
    with pytest.raises(IndexError):
        pool_of((2,))[0].gather(torch.tensor(rows))


def test_a_record_for_every_row():
    with pytest.raises(ValueError, match="10 provenance records for 17 rows"):
        DataPool(shards_of(()), [provenance(10, origin=Origin.REAL, generation=0)])
