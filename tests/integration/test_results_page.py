"""`make results` in small: the page's numbers are those of the chains' records, and its verdicts follow from them."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from collapse.config import load
from collapse.recursion.checks import check_budget

ROOT = Path(__file__).parent.parent.parent
NUMBER = r"-?\d+\.\d+"


@pytest.fixture(scope="module")
def scripts():
    """The two scripts, importable as they are from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("results"), importlib.import_module("results_page")
        for name in ("results", "results_page", "demo"):
            sys.modules.pop(name, None)


def small_page(results, root, *families):
    page = root / "docs" / "results.md"
    where = ["--out", str(root / "runs"), "--page", str(page), "--workers", "1"]
    results.main(["--quick", "--seeds", "2", "--families", *families, *where])
    return page


@pytest.fixture(scope="module")
def made(scripts, tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, small_page(scripts[0], root, "vae")


def records(folder):
    """{(generation, name): value} as the chain has written them."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(row["generation"], row["name"]): row["value"] for row in rows}


def tables(page):
    """{heading: the cells of the table below it}."""
    found = {}
    for heading, body in re.findall(r"^### (.*?)\n\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE):
        found[heading] = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
    return found


def half_interval(values):
    return scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)


def check_tables(results, root, page, name):
    family, found = results.FAMILIES[name], tables(page)
    for metric, title in family.metrics.items():
        head, _, *rows = found[title]
        assert head == ["generation", *family.arms]
        assert [row[0] for row in rows] == ["0", "1"]
        for g, row in enumerate(rows):
            for arm, cell in zip(family.arms, row[1:], strict=True):
                folders = sorted((root / "runs").glob(f"{name}-{arm.replace(', ', '-').replace(' ', '-')}-[0-9]"))
                values = [records(folder)[g, metric] for folder in folders]
                assert len(values) == 2
                mean, half = (float(part) for part in re.fullmatch(rf"({NUMBER}) ± ({NUMBER})", cell).groups())
                rounding = 0.5 * 10 ** -len(cell.split(" ")[0].partition(".")[2])
                assert mean == pytest.approx(np.mean(values), abs=1.001 * rounding)
                assert half == pytest.approx(half_interval(values), rel=1e-3, abs=1.001 * rounding)


def test_tables_are_the_records(scripts, made):
    check_tables(scripts[0], *made, "vae")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", "gpt"])
def test_every_model_has_its_page(scripts, name, tmp_path):
    page = small_page(scripts[0], tmp_path, name)
    check_tables(scripts[0], tmp_path, page, name)
    assert page.read_text().count("collapse run ") == len(scripts[0].FAMILIES[name].arms)


def test_the_page_says_what_it_depends_on(made):
    root, page = made
    text, environment = page.read_text(), json.loads((root / "runs/vae-replace-0/environment.json").read_text())
    assert f"commit: {environment['commit'] or 'none'}" in text
    assert f"torch {environment['packages']['torch']}" in text
    assert "have hardly trained" in text
    assert text.count("collapse run ") == 2
    (picture,) = re.findall(r"\((figures/.*?)\)", text)
    assert (page.parent / picture).read_text().count("<svg") == 1


def test_finished_chains_are_read_and_give_the_same_page(scripts, made):
    root, page = made
    before = page.read_bytes(), (page.parent / "figures/results_vae.svg").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/metrics.jsonl")}
    small_page(scripts[0], root, "vae")
    assert (page.read_bytes(), (page.parent / "figures/results_vae.svg").read_bytes()) == before
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/*/metrics.jsonl")} == stamps


# Claims, on chains made up


def chains(**arms):
    """One metric m; per arm the values of each seed, generation by generation."""
    return {arm: [[{"m": value} for value in seed] for seed in seeds] for arm, seeds in arms.items()}


RISING = [[1.0, 1.5, 1.6, 2.0], [1.1, 1.5, 1.7, 2.3], [0.9, 1.4, 1.6, 2.0]]
STAYING = [[1.0, 1.02, 1.01, 1.02], [1.1, 1.11, 1.12, 1.10], [0.9, 0.91, 0.92, 0.91]]


@pytest.mark.parametrize(
    ("measure", "arguments", "values"),
    [
        ("every_rise", ("m", "up"), [[0.5, 0.4, 0.5], [0.1, 0.2, 0.2], [0.4, 0.6, 0.4]]),
        ("above_first", ("m", "flat"), [[0.02, 0.01, 0.01], [0.01, 0.02, 0.02], [0.02, 0.0, 0.01]]),
        ("change", ("m", "up"), [[1.0, 1.2, 1.1]]),
        ("change", ("m", "up", -1.0), [[-1.0, -1.2, -1.1]]),
        ("last_gap", ("m", "up", "flat"), [[0.98, 1.2, 1.09]]),
        ("last_gap", ("m", "up", "flat", -1.0), [[-0.98, -1.2, -1.09]]),
    ],
)
def test_measures_by_hand(scripts, measure, arguments, values):
    found = getattr(scripts[1], measure)(*arguments)(chains(up=RISING, flat=STAYING))
    np.testing.assert_allclose(found, values, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "bounds", "verdict", "seeds"),
    [
        ([0.1, 0.2, 0.2], {"least": 0}, "held", "3 of 3"),  # 0.167 ± 0.143
        ([0.1, 0.3, 0.2], {"least": 0}, "held on average", "3 of 3"),  # 0.2 ± 0.248
        ([-0.1, 0.3, 0.2], {"least": 0}, "held on average", "2 of 3"),
        ([-0.3, 0.1, 0.1], {"least": 0}, "not held", "2 of 3"),
        ([0.01, 0.02, 0.015], {"most": 0.03}, "held", "3 of 3"),  # 0.015 ± 0.012
        ([0.04, 0.02, 0.02], {"most": 0.03}, "held on average", "2 of 3"),
        ([0.04, 0.05, 0.02], {"most": 0.03}, "not held", "1 of 3"),
        ([0.2], {"least": 0}, "held on average", "1 of 1"),  # one seed has no interval
    ],
)
def test_a_verdict_follows_from_the_interval(scripts, values, bounds, verdict, seeds):
    row = scripts[1].Claim("something holds", lambda chains: [values], **bounds).row({})
    assert (row[0], row[3], row[4]) == ("something holds", seeds, verdict)
    if len(values) > 1:
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
        assert (verdict == "held") == (bounds.get("least", -9) < low and high <= bounds.get("most", 9))


def test_a_claim_about_every_generation_is_held_in_every_one(scripts):
    parts = [[0.1, 0.12, 0.11], [0.2, 0.9, 0.1]]  # 0.11 ± 0.02 and 0.4 ± 1.1: the larger mean is the unsure one
    claim = scripts[1].Claim("it rises", lambda chains: parts, least=0)
    assert claim.row({})[1:] == ["0.400 ± 1.082", "> 0", "3 of 3", "held on average"]
    assert scripts[1].Claim("it rises", lambda chains: parts[:1], least=0).row({})[-1] == "held"


def test_the_page_is_made_of_chains_that_can_be_run(scripts, tmp_path):
    for cell in scripts[0].cells(tuple(scripts[0].FAMILIES), 1, tmp_path):
        config = load(None, cell.settings).config
        check_budget(
            generations=config.generations,
            epochs_per_generation=config.epochs_per_generation,
            steps_per_generation=config.steps_per_generation,
        )
        assert config.generations == 10


def test_every_model_has_as_many_seeds_as_it_says_unless_told_otherwise(scripts, tmp_path):
    results = scripts[0]
    for asked in (None, 2):
        plan = list(results.cells(tuple(results.FAMILIES), asked, tmp_path))
        for name, family in results.FAMILIES.items():
            for arm in family.arms:
                own = [cell.seed for cell in plan if (cell.family, cell.arm) == (name, arm)]
                assert own == list(range(asked or family.seeds))
        assert [cell.seed for cell in plan] == sorted(cell.seed for cell in plan)


def test_every_claim_reads_metrics_that_are_shown(scripts):
    for name, family in scripts[0].FAMILIES.items():
        flat = {arm: [[dict.fromkeys(family.metrics, 1.0 + seed)] * 3 for seed in range(2)] for arm in family.arms}
        for claim in family.claims:
            assert len(claim.row(flat)) == 5, name
