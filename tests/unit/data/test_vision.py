"""Image data: the split of the digits, and readers against files made by hand."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from collapse.data import CIFAR10, MNIST, Digits, FashionMNIST
from collapse.data.vision import read_idx
from collapse.seeding import numpy_generator


def digest(samples):
    return hashlib.sha256(np.asarray(samples.x).tobytes() + np.asarray(samples.y).tobytes()).hexdigest()


def as_bytes(rows):
    return {row.tobytes() for row in np.asarray(rows.x)}


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A root with 7 training and 3 test images in MNIST's format, packed; returns it and the arrays."""
    rng, arrays = numpy_generator(1), {}
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, rows in (("train", 7), ("t10k", 3)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, rows, dtype=np.uint8)
    for name, array in arrays.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path, arrays


def test_digits_are_split_without_overlap_and_by_class():
    gold, reference = Digits().gold(), Digits().reference()
    everything = np.bincount(load_digits().target)
    assert len(gold) + len(reference) == 1797
    # no image occurs twice in load_digits, so equal bytes would be a leak
    assert len(as_bytes(gold) | as_bytes(reference)) == 1797
    held_out = np.bincount(reference.y)
    assert (held_out == [round(0.25 * count) for count in everything]).all()
    assert (np.bincount(gold.y) + held_out == everything).all()


def test_digits_values():
    gold = Digits().gold()
    assert gold.x.shape == (1347, 1, 8, 8)
    assert gold.x.dtype == np.uint8
    assert gold.y.dtype == np.int64
    assert sorted(np.unique(gold.x)) == [round(level * 255 / 16) for level in range(17)]
    both = np.concatenate([gold.x, Digits().reference().x])
    np.testing.assert_allclose(both.mean(), load_digits().images.mean() * 255 / 16, atol=0.5)


def test_digits_are_pinned():
    assert digest(Digits().gold()) == "56a99aacf6fd6c654a570fba0bee81bf3d15890a9b382455c09f26bca4fadc1a"
    assert digest(Digits().reference()) == "275937bb21fe860d5981ced9aa625b8d8727f190b7d7ef2399f57588df511d8b"


def test_digits_are_keyed_by_seed():
    assert digest(Digits(seed=1).gold()) != digest(Digits().gold())
    assert digest(Digits(0.25, 0, batch_size=7).gold()) == digest(Digits().gold())
    assert Digits().classes == 10
    assert len(Digits(0.5).reference()) == 898
    with pytest.raises(ValueError, match="held_out must lie strictly between 0 and 1, got 1"):
        Digits(1)


def test_digits_reach_a_model_as_floats_from_0_to_1():
    batch = next(iter(Digits(batch_size=None).train_dataloader()))
    assert batch.x.shape == (1347, 1, 8, 8)
    assert (batch.x.min(), batch.x.max()) == (0, 1)


def test_mnist_reads_packed_files_and_writes_nothing(mnist):
    root, arrays = mnist
    before = sorted(root.rglob("*"))
    data = MNIST(root)
    np.testing.assert_array_equal(data.gold().x[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.gold().y, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.reference().x[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.reference().y, arrays["t10k-labels-idx1-ubyte"])
    assert data.gold().x.shape == (7, 1, 28, 28)
    assert data.gold().x.dtype == np.uint8
    assert data.gold() is data.gold()
    assert sorted(root.rglob("*")) == before


def test_idx_reader_agrees_with_torchvision(mnist):
    torchvision_mnist = pytest.importorskip("torchvision.datasets.mnist")
    root, arrays = mnist
    for name in arrays:
        unpacked = root / name
        unpacked.write_bytes(gzip.decompress((root / "MNIST" / "raw" / f"{name}.gz").read_bytes()))
        np.testing.assert_array_equal(read_idx(unpacked), torchvision_mnist.read_sn3_pascalvincent_tensor(unpacked))


def test_unpacked_files_are_read_as_well_and_fashion_has_its_own_folder(mnist):
    root, arrays = mnist
    (root / "MNIST").rename(root / "FashionMNIST")
    for packed in (root / "FashionMNIST" / "raw").glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    np.testing.assert_array_equal(FashionMNIST(str(root)).gold().x[:, 0], arrays["train-images-idx3-ubyte"])
    with pytest.raises(FileNotFoundError, match="MNIST finds no train-images"):
        MNIST(root).gold()


def test_limited_rows_are_the_first_of_one_permutation(mnist):
    root, _ = mnist
    few, more = MNIST(root, 3).gold(), MNIST(root, 6).gold()
    np.testing.assert_array_equal(few.x, more.x[:3])
    np.testing.assert_array_equal(few.y, more.y[:3])
    assert as_bytes(more) < as_bytes(MNIST(root).gold())
    assert digest(MNIST(root, 6, seed=1).gold()) != digest(more)
    assert len(MNIST(root, reference_rows=2).reference()) == 2
    for limit in (0, 8):
        with pytest.raises(ValueError, match=rf"rows = {limit}, but it must be None or (at least|from) 1"):
            MNIST(root, limit).gold()


@pytest.mark.parametrize("data", [MNIST, FashionMNIST])
def test_missing_files_are_one_sentence_with_the_way_out(data, tmp_path):
    name = data.__name__
    with pytest.raises(FileNotFoundError) as error:
        data(tmp_path / "none").gold()
    message = str(error.value)
    assert f"put the files {name}/raw/*.gz under {tmp_path / 'none'}" in message
    assert f"torchvision.datasets.{name}('{tmp_path / 'none'}', download=True)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: b"",
        lambda data: b"<html>",
        lambda data: b"\0\0\x0d" + data[3:],
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_damaged_file_is_named(mnist, damage, pack):
    root, arrays = mnist
    path = root / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(pack(damage(idx(arrays["train-labels-idx1-ubyte"]))))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        MNIST(root).gold()


def test_a_download_cut_short_is_named(mnist):
    path = mnist[0] / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        MNIST(mnist[0]).gold()


def test_cifar_reads_the_binary_version(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng, images, labels = numpy_generator(2), [], []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images.append(rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
        labels.append(rng.integers(0, 10, 2, dtype=np.uint8))
        records = b"".join(bytes([y]) + x.tobytes() for x, y in zip(images[-1], labels[-1], strict=True))
        (folder / f"{name}.bin").write_bytes(records)
    data = CIFAR10(tmp_path)
    np.testing.assert_array_equal(data.gold().x, np.concatenate(images[:5]))
    np.testing.assert_array_equal(data.gold().y, np.concatenate(labels[:5]))
    np.testing.assert_array_equal(data.reference().x, images[5])
    np.testing.assert_array_equal(data.reference().y, labels[5])
    (folder / "test_batch.bin").write_bytes(records[:-1])
    with pytest.raises(ValueError, match=r"test_batch\.bin is damaged: its 6145 bytes are no multiple of 3073"):
        CIFAR10(tmp_path).reference()


def test_cifar_refuses_pickles(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match=r"only the pickles .* refuses .*cifar-10-binary\.tar\.gz"):
        CIFAR10(tmp_path).gold()
    with pytest.raises(FileNotFoundError, match=r"CIFAR10 needs .* finds none; .*cifar-10-binary\.tar\.gz"):
        CIFAR10(tmp_path / "none").gold()


def test_the_real_mnist():
    root = Path(os.environ.get("COLLAPSE_TEST_DATA", "")) / "mnist"
    if "COLLAPSE_TEST_DATA" not in os.environ or not root.is_dir():
        pytest.skip("set COLLAPSE_TEST_DATA to a folder that holds mnist/MNIST/raw/*.gz")
    data = MNIST(root)
    assert data.gold().x.shape == (60_000, 1, 28, 28)
    assert data.reference().x.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.gold().y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_allclose((data.gold().x.mean() / 255, data.gold().x.std() / 255), (0.1307, 0.3081), atol=5e-5)
