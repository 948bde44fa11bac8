"""Any LightningDataModule as gold, and what a data module serves on its own."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from collapse import VAE, RecursiveDataModule, RingOfGaussians, run_chain
from collapse.data.module import AdoptedData

X = torch.arange(60.0).reshape(30, 2)
Y = torch.arange(30) % 3


class Plain(pl.LightningDataModule):
    """A user's data module, with a shuffling loader."""

    def __init__(self, *, held_out=None, labels=True):
        super().__init__()
        self.held_out, self.labels, self.stages = held_out, labels, []

    def setup(self, stage):
        self.stages.append(stage)
        self.train = TensorDataset(X, Y) if self.labels else TensorDataset(X)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=7, shuffle=True, drop_last=True)


class WithValidation(Plain):
    def val_dataloader(self):
        return DataLoader(TensorDataset(-X[:5], Y[:5]), batch_size=2)


class WithTest(Plain):
    def test_dataloader(self):
        return DataLoader(TensorDataset(-2 * X[:4], Y[:4]), batch_size=2)


def test_every_training_row_becomes_gold_in_the_datasets_own_order():
    data = RecursiveDataModule.from_datamodule(WithValidation())
    assert isinstance(data, AdoptedData)
    assert torch.equal(data.gold().x, X), "whatever the loader shuffles or drops"
    assert torch.equal(data.gold().y, Y)
    assert data.classes == 3
    assert torch.equal(data.reference().x, -X[:5])


def test_the_test_set_is_the_reference_where_there_is_no_validation_set():
    assert torch.equal(RecursiveDataModule.from_datamodule(WithTest()).reference().x, -2 * X[:4])


def test_without_either_the_last_rows_are_held_out():
    data = RecursiveDataModule.from_datamodule(Plain(), held_out=0.2)
    assert torch.equal(data.gold().x, X[:24])
    assert torch.equal(data.reference().x, X[24:])
    assert torch.equal(data.reference().y, Y[24:])


def test_rows_without_labels():
    data = RecursiveDataModule.from_datamodule(Plain(labels=False))
    assert data.gold().y is None
    assert data.classes is None


def test_real_valued_targets_are_no_labels():
    class Regression(Plain):
        def setup(self, stage):
            self.train = TensorDataset(X, torch.linspace(0, 1, 30))

    assert RecursiveDataModule.from_datamodule(Regression()).gold().y is None


def test_a_stream_is_read_once():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(X)

    class Streaming(Plain):
        def setup(self, stage):
            self.train = Stream()

        def train_dataloader(self):
            return DataLoader(self.train, batch_size=8)

    assert torch.equal(RecursiveDataModule.from_datamodule(Streaming(), held_out=0.1).gold().x, X[:27])


def test_items_of_another_kind_are_refused():
    class Dicts(Plain):
        def train_dataloader(self):
            return DataLoader([{"image": row} for row in X], batch_size=4)

    with pytest.raises(TypeError, match="tensor or a tuple that starts with one, got dict; adapt the data module"):
        RecursiveDataModule.from_datamodule(Dicts())


def test_a_chain_runs_on_adopted_rows(tmp_path):
    data = RecursiveDataModule.from_datamodule(WithValidation(), batch_size=10)
    model = VAE(shape=(2,), latent_dim=1, hidden=4, likelihood="gaussian")
    chain = run_chain(model, data, generations=2, samples_per_generation=12, store=tmp_path, evaluate=False)
    assert [record.counts["real"] for record in chain.records] == [30, 0]
    stored = np.load(tmp_path / "generations" / "gen_000" / "chunk_00000.npy", allow_pickle=False)
    np.testing.assert_array_equal(stored, X.numpy())
    records = np.load(tmp_path / "generations" / "gen_000" / "chunk_00000.rows.npy", allow_pickle=False)
    np.testing.assert_array_equal(records["label"], Y.numpy())


def test_on_its_own_a_module_serves_every_gold_row_once_per_epoch():
    data = RingOfGaussians(rows=50, batch_size=16)
    loader = data.train_dataloader()
    rows = torch.cat([batch.row for batch in loader])
    assert sorted(rows.tolist()) == list(range(50))
    batch = next(iter(loader))
    torch.testing.assert_close(batch.x, torch.as_tensor(data.gold().x)[batch.row])
    assert batch.origin.tolist() == [0] * len(batch.x)


def test_batches_move_as_they_are():
    data = RingOfGaussians(rows=8, batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = data.transfer_batch_to_device(batch._replace(y=None), torch.device("meta"), 0)
    assert moved.x.device.type == moved.row.device.type == "meta"
    assert moved.y is None
    plain = data.transfer_batch_to_device((batch.x, batch.y), torch.device("meta"), 0)
    assert [part.device.type for part in plain] == ["meta", "meta"]


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_has_a_row(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1 or None for all rows, got {batch_size}"):
        RingOfGaussians(batch_size=batch_size)


@pytest.mark.parametrize("held_out", [0, 1, -0.5])
def test_some_but_not_all_rows_are_held_out(held_out):
    with pytest.raises(ValueError, match="held_out must lie strictly between 0 and 1"):
        RecursiveDataModule.from_datamodule(Plain(), held_out=held_out)


def test_a_random_split_is_the_same_in_every_process():
    class Split(Plain):
        def setup(self, stage):
            self.train = torch.utils.data.random_split(TensorDataset(X, Y), [20, 10])[0]

    torch.manual_seed(1)
    first = RecursiveDataModule.from_datamodule(Split()).gold().x
    torch.manual_seed(2)
    assert torch.equal(first, RecursiveDataModule.from_datamodule(Split()).gold().x)


def test_loaders_set_on_the_instance_count():
    given = pl.LightningDataModule.from_datasets(TensorDataset(X, Y), TensorDataset(-X[:6], Y[:6]), batch_size=4)
    assert torch.equal(RecursiveDataModule.from_datamodule(given).reference().x, -X[:6])


def test_an_empty_list_of_loaders_is_none():
    class Empty(Plain):
        def val_dataloader(self):
            return []

    assert len(RecursiveDataModule.from_datamodule(Empty(), held_out=0.1).reference()) == 3


class OwnModule(pl.LightningModule):
    """A user's module as it was before: it unpacks what its own data module gave it."""

    def __init__(self, unpacks=True):
        super().__init__()
        self.save_hyperparameters()
        self.mean = torch.nn.Parameter(torch.zeros(2))
        self.validated = 0

    def training_step(self, batch, batch_idx):
        if self.hparams.unpacks:
            x, y = batch
            assert y.dtype == torch.int64
        else:
            x = batch
        return (x - self.mean).square().mean()

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.validated += len(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def sample(self, n, generator):
        return self.mean.detach() + torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize("labels", [True, False])
def test_a_users_module_gets_its_batches_and_validation_set_as_before(labels):
    class Bare(WithValidation):
        def train_dataloader(self):
            return DataLoader(self.train if labels else X, batch_size=7)

    module = OwnModule(unpacks=labels)
    data = RecursiveDataModule.from_datamodule(Bare(), batch_size=10, validate=True)
    chain = run_chain(module, data, generations=2, samples_per_generation=20, evaluate=False)
    assert [record.counts["real"] for record in chain.records] == [30, 0]
    assert module.validated == 2 * 5
    assert chain.state(0)["mean"].abs().sum() > 0


def test_a_validation_set_that_is_not_there_cannot_be_used():
    with pytest.raises(ValueError, match="validate=True, but Plain has no val_dataloader"):
        RecursiveDataModule.from_datamodule(Plain(), validate=True)
