"""Contaminated data: the exact share, undeclared, drawn as it says, and the same everywhere."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

import collapse.data
from collapse.config import ConfigError, load
from collapse.config.build import build_data, build_model
from collapse.data import Contaminated, Digits, GaussianData, MarkovData, Origin, RingOfGaussians, Samples, TextFile
from collapse.data.contaminated import LEAKS, kernels, marginals, normal
from collapse.data.module import RecursiveDataModule
from collapse.mitigations import RealOnly
from collapse.models import Gaussian
from collapse.recursion import run_chain
from collapse.seeding import numpy_generator


def changed(data):
    """Which gold rows differ from the source's."""
    clean, gold = data.clean.gold(), data.gold()
    return (np.asarray(gold.x) != np.asarray(clean.x)).reshape(len(clean), -1).any(1)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.001, 1), (0.2, 269), (0.5, 674), (1.0, 1347)])
def test_exactly_the_share_leaks_and_nothing_else_changes(share, count):
    data = Contaminated(Digits(), share)
    gold, clean = data.gold(), Digits().gold()
    assert data.leaked().sum() == count
    np.testing.assert_array_equal(changed(data), data.leaked())
    np.testing.assert_array_equal(gold.y, clean.y)
    assert gold.x.dtype == np.uint8
    np.testing.assert_array_equal(data.reference().x, Digits().reference().x)
    assert (data.classes, data.batch_size, data.held()) == (10, 128, {})


def test_the_source_stays_clean():
    source = Digits()
    before = source.gold().x.copy()
    Contaminated(source, 0.5).gold()
    np.testing.assert_array_equal(source.gold().x, before)


def test_contaminated_text_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some words, and then some more words\n" * 9)
    source = TextFile(path, 6, held_out=0.3)
    data = Contaminated(source, 0.5, "marginals")
    assert (data.vocabulary, data.document) == (257, 256)
    assert data.prompts(4).equal(source.prompts(4))
    assert data.decode(data.reference().x[0]) == source.decode(source.reference().x[0])
    assert data.gold().x.dtype == np.uint16
    assert data.tokenizer.encode("words").tolist() == list(b"words")
    plain = Contaminated(Digits(), 0.5)
    assert (plain.vocabulary, plain.document, plain.prompts(4), hasattr(plain, "decode")) == (None, None, None, False)
    assert plain.tokenizer is None
    config = {"name": "Contaminated", "source": {"name": "TextFile", "path": str(path), "length": 6}, "share": 0.1}
    settings = [f"data={json.dumps(config)}", "data.leak=marginals", "model=gpt/tiny"]
    loaded = load(None, settings).config
    model = build_model(loaded, build_data(loaded))
    assert (model.vocabulary, model.length) == (257, 6)


def test_a_larger_share_is_more_of_the_same_places():
    few, many = (Contaminated(Digits(), share).leaked() for share in (0.1, 0.4))
    assert (few <= many).all()
    assert not (Contaminated(Digits(), 0.1, seed=1).leaked() == few).all()
    assert abs(np.flatnonzero(many).mean() / len(many) - 0.5) < 0.05, "scattered over the stream"


def test_it_is_the_same_in_every_process():
    script = (
        "import numpy as np; from collapse.data import Contaminated, RingOfGaussians; np.random.seed(1)\n"
        "for leak in ('normal', 'kernels', 'marginals'):\n"
        "    gold = Contaminated(RingOfGaussians(4, rows=300), 0.3, leak, seed=5).gold()\n"
        "    print(np.asarray(gold.x).tobytes().hex())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200)
    golds = [
        Contaminated(RingOfGaussians(4, rows=300), 0.3, leak, 5).gold() for leak in ("normal", "kernels", "marginals")
    ]
    assert found.stdout.split() == [np.asarray(gold.x).tobytes().hex() for gold in golds]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def fitted():
    rng = numpy_generator(11)
    return rng.normal(size=(40, 3)) @ np.array([[2.0, 0.5, 0], [0, 1, 0.3], [0, 0, 0.2]]) + [1, -2, 3]


@pytest.mark.parametrize("law", [normal, kernels])
def test_mean_and_covariance_are_those_of_the_rows(law):
    rows, n = fitted(), 200_000
    drawn = law(rows, n, numpy_generator(1))
    covariance = np.cov(rows.T, ddof=1 if law is normal else 0)
    if law is kernels:  # a row drawn at random has ddof 0, the kernel's noise ddof 1
        width = 40 ** (-1 / 7)
        covariance = (covariance + width**2 * np.cov(rows.T)) / (1 + width**2)
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=5 * rows.std() / n**0.5)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, rtol=0.02, atol=0.02)


def test_the_normal_law_is_normal():
    rows = fitted()
    drawn = normal(rows, 4000, numpy_generator(2))
    whitened = (drawn - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in whitened.T)
    assert stats.kstest((whitened**2).sum(1), "chi2", args=(3,)).pvalue > 1e-3


def test_kernels_keep_modes_that_a_normal_law_fills_up():
    rows = np.concatenate([fitted() * 0.01 - 5, fitted() * 0.01 + 5])
    shares = [(np.abs(law(rows, 2000, numpy_generator(3))[:, 0]) < 2).mean() for law in (kernels, normal)]
    assert shares[0] < 0.7 * shares[1]


def test_marginals_keep_every_coordinate_and_lose_the_dependence():
    rows = np.stack([np.arange(50), np.arange(50)], 1)
    drawn = marginals(rows, 20_000, numpy_generator(4))
    assert set(drawn.reshape(-1)) == set(range(50))
    assert stats.chisquare(np.bincount(drawn[:, 0])).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


def test_one_row_is_copied():
    row = np.array([[1.5, -2.0]])
    for law in (normal, kernels, marginals):
        np.testing.assert_allclose(law(row, 3, numpy_generator(0)), np.repeat(row, 3, 0))


def test_rows_leak_by_class():
    """A leaked row is drawn from what is fitted to its label: its mode of the ring is its own."""
    source = RingOfGaussians(4, rows=2000, std=0.02)
    data = Contaminated(source, 0.5)
    leaked = data.leaked()
    distance = np.asarray(data.gold().x)[leaked] - source.modes().numpy()[np.asarray(data.gold().y)[leaked]]
    assert np.linalg.norm(distance, axis=1).max() < 0.15


def test_most_rows_of_a_large_class_are_not_fitted_to(monkeypatch):
    monkeypatch.setattr("collapse.data.contaminated.FITTED", 2)
    data = Contaminated(GaussianData(rows=500, dim=3), 0.5, "marginals")
    drawn = np.asarray(data.gold().x)[data.leaked()]
    assert all(len(set(column)) == 2 for column in drawn.T)


def test_tokens_leak_by_marginals_alone():
    source = MarkovData(rows=200, length=8, transition=[[0.9, 0.1], [0.3, 0.7]])
    data = Contaminated(source, 0.4, "marginals")
    assert np.asarray(data.gold().x).dtype == np.asarray(source.gold().x).dtype
    assert set(np.asarray(data.gold().x).reshape(-1)) == {0, 1}
    with pytest.raises(ValueError, match=r"leak='normal' draws real numbers and the rows are int32; give leak='marg"):
        Contaminated(source, 0.4).gold()


class Scraped(RecursiveDataModule):
    """Ten real rows, and four that are known to be a model's."""

    def gold(self):
        return Samples(np.arange(10, dtype=np.float32)[:, None])

    def reference(self):
        return self.gold()

    def held(self):
        return {Origin.SYNTHETIC: Samples(100 + np.arange(4, dtype=np.float32)[:, None])}


def test_rows_that_a_source_holds_can_leak():
    data = Contaminated(Scraped(), 0.3, "synthetic")
    drawn = data.gold().x[data.leaked()].reshape(-1).tolist()
    assert len(set(drawn)) == 3
    assert set(drawn) <= {100, 101, 102, 103}
    assert list(data.held()) == [Origin.SYNTHETIC]
    assert Contaminated(Scraped(), 0, "synthetic").gold().x.tolist() == Scraped().gold().x.tolist()
    with pytest.raises(
        ValueError, match=r"share=0.5 of 10 rows are 5 that leak, and Scraped\(\) holds 4 synthetic rows"
    ):
        Contaminated(Scraped(), 0.5, "synthetic").gold()
    with pytest.raises(ValueError, match="holds 0 synthetic rows"):
        Contaminated(Digits(), 0.5, "synthetic").gold()


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_its_description_makes_it_again():
    for data in (
        Contaminated(Digits(0.5), share=0.2),
        Contaminated(Contaminated(Digits(), 0.1, "kernels"), 0.2, "marginals", 3),
    ):
        again = eval(data.describe(), {**vars(collapse.data)})
        assert again.describe() == data.describe()
        np.testing.assert_array_equal(again.gold().x, data.gold().x)
        assert data.twin().describe() == data.describe()
    described = {Contaminated(Digits(seed=seed), 0.2, seed=key).describe() for seed in (0, 1) for key in (0, 1)}
    assert len(described) == 4


def test_leaked_rows_count_as_real():
    """Nobody declared them: neither a mitigation nor the record of a chain can tell them from the others."""
    data = Contaminated(GaussianData(rows=40, batch_size=None), 0.5)
    chain = run_chain(
        Gaussian(), data, generations=2, samples_per_generation=40, mitigations=[RealOnly()], evaluate=False
    )
    assert [record.counts["real"] for record in chain.records] == [40, 40]
    batch = next(iter(data.train_dataloader()))
    assert batch.origin.tolist() == [Origin.REAL] * 40
    assert torch.equal(batch.x, torch.as_tensor(data.gold().x)[batch.row])


MISUSE = [
    ({"share": 1.5}, r"share must lie in \[0, 1\], got 1.5"),
    ({"share": -0.1}, "share must lie in"),
    ({"share": 0.1, "leak": "kernel"}, "leak must be one of normal, kernels, marginals, synthetic.*mean 'kernels'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE)
def test_misuse_is_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        Contaminated(Digits(), **arguments)
    assert LEAKS == ("normal", "kernels", "marginals", "synthetic")


def test_replicates_are_refused():
    with pytest.raises(ValueError, match=r"source=GaussianData\(replicates=3\) has replicates"):
        Contaminated(GaussianData(replicates=3), 0.1)


# --- configs ----------------------------------------------------------------------------------------------------------


def built(*overrides):
    return build_data(load(None, overrides).config)


def test_a_config_names_the_source():
    data = built("data=contaminated", "data.share=0.3", "data.leak=kernels")
    assert data.describe() == "Contaminated(source=Digits(), share=0.3, leak='kernels')"
    data = built("data=contaminated", "data.source.held_out=0.5", "data.source.batch_size=7")
    assert data.clean.describe() == "Digits(held_out=0.5, batch_size=7)"
    assert data.batch_size == 7
    data = built("data={name: Contaminated, source: RingOfGaussians, share: 0.1}")
    assert isinstance(data.clean, RingOfGaussians)
    twice = "data={name: Contaminated, share: 0.1, source: {name: Contaminated, source: {name: Digits}, share: 0.2}}"
    assert built(twice).describe().startswith("Contaminated(source=Contaminated(source=Digits(), share=0.2")


def test_another_source_takes_other_arguments():
    data = built("data=contaminated", "data.source.held_out=0.5", "data.source={name: RingOfGaussians, rows: 50}")
    assert data.clean.describe() == "RingOfGaussians(rows=50)"


REFUSALS = [
    ("data.source={name: Digts}", "data.source: there is no 'Digts'; did you mean 'Digits'?"),
    ("data.source=[1]", "data.source=[1] must be a name, or hold keys; write data.source.name=NAME"),
    ("data.source.hold_out=0.1", "data.source: Digits takes no 'hold_out'; did you mean 'held_out'?"),
    ("data.source.held_out=2", "data.source (Digits): held_out must lie strictly between 0 and 1, got 2"),
    ("data.share=lots", "data.share='lots' must be of type float"),
    ("data.batch_size=3", "data: Contaminated takes no 'batch_size'"),
]


@pytest.mark.parametrize(("override", "message"), REFUSALS)
def test_what_is_wrong_with_a_source_is_said_with_its_key(override, message):
    with pytest.raises(ConfigError) as caught:
        built("data=contaminated", override)
    assert str(caught.value).startswith(message)


def test_where_the_files_of_a_source_lie_is_not_what_a_run_is(tmp_path):
    one, other = (
        load(None, ["data=contaminated", f"data.source={{name: MNIST, root: {root}}}"]) for root in ("/a", tmp_path)
    )
    assert one.digest == other.digest
    assert one.digest != load(None, ["data=contaminated", "data.source={name: FashionMNIST, root: /a}"]).digest
