"""A gallery saves what the model samples, pixel for pixel."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchvision.io import ImageReadMode, decode_png

from collapse.callbacks import SampleGallery
from collapse.callbacks.gallery import image_grid
from collapse.data import GenerationStore, Samples
from collapse.data.module import RecursiveDataModule
from collapse.models import GenerativeModule
from collapse.recursion import run_chain
from collapse.recursion.sampling import ConditionedSampler, sample_rows
from collapse.recursion.verification import faults
from collapse.seeding import Stream


class Images(RecursiveDataModule):
    """Noise of a given shape."""

    def __init__(self, shape, batch_size=8, num_workers=0) -> None:
        super().__init__(batch_size, num_workers)
        self.shape = shape

    def gold(self):
        return Samples(np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (16, *self.shape), dtype=np.uint8))

    def reference(self):
        return self.gold()


class Noise(GenerativeModule):
    """Samples noise around the generation's own level, out of range in places."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.shape, self.level = tuple(shape), nn.Parameter(torch.zeros(()))

    def loss(self, batch):
        return (batch.x - self.level).square().flatten(1).sum(1)

    def sample(self, n, generator, y=None):
        return self.level + 1.5 * torch.rand(n, *self.shape, generator=generator) - 0.25


def chain(shape, gallery, **arguments):
    return run_chain(
        Noise(shape),
        Images(shape),
        generations=2,
        samples_per_generation=16,
        evaluate=False,
        callbacks=[gallery],
        **arguments,
    )


# The grid


def test_a_grid_places_every_pixel():
    images = torch.tensor([[[0.0, 1.0], [0.5, 0.2]], [[1.0, 0.0], [0.1, 0.9]], [[0.3, 0.3], [0.3, 0.3]]])[:, None]
    grid = image_grid(images, columns=2, least_side=4)  # 2 x 2 pixels become 4 x 4, with 2 pixels of black around
    expected = torch.zeros(3, 2 * (4 + 2) + 2, 2 * (4 + 2) + 2, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = 2 + 6 * (index // 2), 2 + 6 * (index % 2)
        values = (image * 255).round().to(torch.uint8)
        for row in range(2):
            for column in range(2):
                here = slice(top + 2 * row, top + 2 * row + 2), slice(left + 2 * column, left + 2 * column + 2)
                expected[:, here[0], here[1]] = values[:, row, column][:, None, None]
    assert torch.equal(grid, expected)


def test_colors_stay_and_values_are_clamped():
    images = torch.stack([torch.full((4, 4), value) for value in (-1.0, 0.4, 2.0)])[None]
    grid = image_grid(images.repeat(2, 1, 1, 1), least_side=4)
    assert grid.shape == (3, 4 + 4, 2 * (4 + 2) + 2)
    assert grid[:, 2, 2].tolist() == [0, 102, 255]
    assert grid[:, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("side", "enlarged"), [(8, 32), (28, 56), (32, 32), (64, 64)])
def test_small_images_are_enlarged_by_whole_pixels(side, enlarged):
    assert image_grid(torch.rand(2, 1, side, side), columns=1).shape == (3, 2 * (enlarged + 2) + 2, enlarged + 4)


# The files


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)], ids=str)
def test_a_png_holds_the_models_samples(shape, tmp_path):
    done = chain(shape, SampleGallery(10), store=tmp_path)
    folder = tmp_path / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["samples_gen_000.png", "samples_gen_001.png"]
    for index in range(2):
        model = Noise(shape)
        model.load_state_dict(done.state(index))
        drawn = sample_rows(model, ConditionedSampler(model.sample), 10, (0, Stream.EVALUATE, index), 1024)
        content = torch.frombuffer(bytearray((folder / f"samples_gen_{index:03d}.png").read_bytes()), dtype=torch.uint8)
        assert torch.equal(decode_png(content, ImageReadMode.RGB), image_grid(drawn))
    assert (folder / "samples_gen_000.png").read_bytes() != (folder / "samples_gen_001.png").read_bytes()


def test_a_picture_is_on_record(tmp_path):
    chain((1, 4, 4), SampleGallery(1), store=tmp_path)
    (tmp_path / "figures" / "samples_gen_001.png").write_bytes(b"another picture")
    (fault,) = faults(GenerationStore(tmp_path))
    assert "samples_gen_001.png has other bytes" in fault


class Letters(Images):
    """Rows of letters, a to z."""

    vocabulary = 26

    def gold(self):
        return Samples(np.random.Generator(np.random.Philox(key=2)).integers(0, 26, (16, *self.shape)).astype("u2"))

    def decode(self, tokens):
        return "".join(chr(ord("a") + token) for token in tokens.tolist())


class Typist(Noise):
    """Types letters at random."""

    def sample(self, n, generator, y=None):
        return torch.randint(26, (n, *self.shape), generator=generator)


def test_text_is_written_as_it_reads(tmp_path):
    arguments = {"generations": 2, "samples_per_generation": 16, "evaluate": False, "store": tmp_path}
    run_chain(Typist((5,)), Letters((5,)), callbacks=[SampleGallery(texts=3)], **arguments)
    for index in range(2):
        drawn = sample_rows(Typist((5,)), ConditionedSampler(Typist((5,)).sample), 3, (0, Stream.EVALUATE, index), 1024)
        first, second, third = (Letters((5,)).decode(row) for row in drawn)
        written = (tmp_path / "figures" / f"samples_gen_{index:03d}.txt").read_text()
        assert written == f"--- 1\n{first}\n\n--- 2\n{second}\n\n--- 3\n{third}\n"
    assert len({path.read_text() for path in (tmp_path / "figures").iterdir()}) == 2
    assert list(faults(GenerationStore(tmp_path))) == []


@pytest.mark.parametrize("shape", [(2,), (2, 4, 4), (4, 4)], ids=str)
def test_what_is_no_image_is_passed_over(shape, tmp_path):
    chain(shape, SampleGallery(4), store=tmp_path)
    assert not (tmp_path / "figures").exists()
    assert (tmp_path / "metrics.jsonl").exists()


def test_the_gallery_changes_nothing():
    shape = (1, 4, 4)
    alone, watched = (chain(shape, callback) for callback in (pl.Callback(), SampleGallery(4)))
    assert [record.digests for record in alone.records] == [record.digests for record in watched.records]


def test_there_must_be_something_to_show():
    for arguments, said in (({"samples": 0}, "0 and 8"), ({"texts": 0}, "64 and 0")):
        with pytest.raises(ValueError, match=f"samples and texts must be at least 1, got {said}"):
            SampleGallery(**arguments)
