"""A row's lineage is what the chain did, seen from its end."""

import numpy as np
import pytest
import torch

from collapse import AnchorReplay, DataAccumulation, Gaussian, GaussianData, run_chain
from collapse.data.rows import row_digests
from collapse.mitigations import Mitigation
from collapse.recursion.lineage import exposure, lineage
from collapse.recursion.sampling import draw_chunk
from collapse.seeding import Stream

GOLD, MADE, CHUNK = 40, 30, 8


class UpperHalf(Mitigation):
    """Keeps the rows above the median."""

    def curate(self, samples, generation):
        score = samples.x[:, 0]
        return samples.select(score > score.median(), score)


def chain(root, *mitigations, generations=3):
    return run_chain(
        Gaussian(1),
        GaussianData(rows=GOLD),
        generations=generations,
        samples_per_generation=MADE,
        mitigations=mitigations,
        chunk_size=CHUNK,
        store=root,
        evaluate=False,
        seed=3,
    )


def test_a_gold_row_was_trained_on_by_every_generation_that_kept_it(tmp_path):
    found = lineage(chain(tmp_path, DataAccumulation()).store, 17)
    assert found.trained == {0: 1, 1: 1, 2: 1}
    assert found.place == ("gen_000/chunk_00000.npy", 17)
    assert [manifest.generation for manifest in found.manifests] == [0]
    assert next(found.lines()).startswith("row 17: real, for generation 0 on")


@pytest.mark.parametrize(("generation", "place"), [(1, 0), (1, 7), (1, 8), (2, 29), (3, 13)])
def test_a_made_row_is_the_draw_its_record_speaks_of(tmp_path, generation, place):
    run = chain(tmp_path)
    row = GOLD + (generation - 1) * MADE + place
    found = lineage(run.store, row)
    assert found.record["candidate"] == place
    assert found.record["generation"] == generation
    assert found.place == (f"gen_{generation:03d}/chunk_{place // CHUNK:05d}.npy", place % CHUNK)
    assert [manifest.generation for manifest in found.manifests] == list(range(generation, -1, -1))
    assert found.trained == ({generation: 1} if generation < 3 else {})
    # The draw can be made again from what the manifest says.
    facts = found.manifests[0].facts
    model = Gaussian(1)
    model.load_state_dict(run.state(generation - 1))
    chunk, within = divmod(place, facts["chunk_size"])
    rows = min(CHUNK, MADE - chunk * CHUNK)
    address = (facts["seed"], Stream.SAMPLE, generation, chunk)
    again = draw_chunk(model.sample, rows, address, torch.device("cpu"))[within]
    stored = run.pool().stored(np.array([row]))[0]
    np.testing.assert_array_equal(again.numpy(), stored)
    assert bytes(found.record["digest"]) == bytes(row_digests(stored[None])[0])


def test_a_curated_row_remembers_its_score_and_so_do_those_left_out(tmp_path):
    run = chain(tmp_path, UpperHalf(), generations=1)
    rejected = run.store.rejected(1)
    assert len(rejected) == MADE // 2 == run.records[0].counts["kept"]
    records = [lineage(run.store, GOLD + place).record for place in range(MADE // 2)]
    kept = np.array([(record["candidate"], record["score"]) for record in records])
    assert sorted([*kept[:, 0].astype(int), *rejected["candidate"]]) == list(range(MADE))
    assert kept[:, 1].min() > rejected["score"].max()
    np.testing.assert_array_equal(kept[:, 1], run.pool().stored(GOLD + np.arange(MADE // 2))[:, 0].astype(np.float32))
    plain = chain(tmp_path.with_name("plain"), generations=1)
    drawn = plain.pool().stored(GOLD + rejected["candidate"])
    np.testing.assert_array_equal(row_digests(drawn), rejected["digest"])
    assert any("kept by curation with score" in line for line in lineage(run.store, GOLD).lines())


def test_exposure_counts_every_origin(tmp_path):
    assert exposure(chain(tmp_path / "a").store) == [
        {"gold": 40.0},
        {"generation 1": 30.0},
        {"generation 2": 30.0},
    ]
    assert exposure(chain(tmp_path / "b", AnchorReplay(0.2)).store) == [
        {"gold": 40.0},
        {"gold": 6.0, "generation 1": 24.0},
        {"gold": 6.0, "generation 2": 24.0},
    ]
    assert exposure(chain(tmp_path / "c", DataAccumulation()).store)[2] == {
        "gold": 40.0,
        "generation 1": 30.0,
        "generation 2": 30.0,
    }


@pytest.mark.parametrize("row", [-1, GOLD + 3 * MADE])
def test_a_row_that_does_not_exist_is_named(tmp_path, row):
    with pytest.raises(IndexError, match=rf"no row {row}: the pool of .* has {GOLD + 3 * MADE} rows"):
        lineage(chain(tmp_path).store, row)
