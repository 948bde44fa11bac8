"""Chains killed at random, again and again, until they get through: the bytes are those of a chain left alone."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import chaos
import pytest
from test_sigkill import check_equal, check_intact

CHILD = Path(chaos.__file__)


class Arena:
    """Attempts at chains, each in freshly forked processes."""

    def __init__(self, folder):
        self.folder, self.references = folder, {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, CHILD], env=environment, text=True, **pipes)

    def attempt(self, config, root, **when):
        """Run a chain, killed or not; return what became of it."""
        ranks = 2 if "ranks" in config else 1
        root.parent.mkdir(parents=True, exist_ok=True)
        request = {"config": config, "folder": str(root), "log": str(root.with_name("log")), "ranks": ranks}
        request |= {"environment": chaos.environment(ranks), "victim": 0, **when}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def reference(self, config):
        """Return the folder and the seconds of a chain left alone."""
        if config not in self.references:
            root = self.folder / config.replace(" ", "_") / "run"
            self.references[config] = (root, self.attempt(config, root)["seconds"])
        return self.references[config]

    def close(self):
        self.server.stdin.close()
        self.server.wait(30)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    arena = Arena(tmp_path_factory.mktemp("references"))
    yield arena
    arena.close()


def torture(arena, config, root, kills, rng):
    """Kill a chain up to ``kills`` times, let it finish, compare; return the phases the kills landed in."""
    reference, seconds = arena.reference(config)
    phases = []
    while len(phases) < kills:
        victim = rng.randrange(2) if "ranks" in config else 0
        result = arena.attempt(config, root, victim=victim, **chaos.plan(rng, seconds))
        if not result["killed"]:  # it got through before its time came
            break
        phases.append(result["phase"])
        if (root / "journal.jsonl").exists():
            check_intact(root)
    arena.attempt(config, root)
    check_equal(root, reference)
    return phases


def chaos_of(arena, folder, kills, seed, limit=4):
    """Share ``kills`` kills out over all configurations; no chain is killed more often than ``limit`` times."""
    rng, landed, chains = random.Random(seed), Counter(), Counter()
    while sum(landed.values()) < kills:
        config = list(chaos.CONFIGS)[sum(chains.values()) % len(chaos.CONFIGS)]
        root = folder / str(sum(chains.values())) / "run"
        landed.update(torture(arena, config, root, min(limit, kills - sum(landed.values())), rng))
        chains[config] += 1
    return landed, chains


def report(landed, chains):
    where = ", ".join(f"{landed[phase]} in {phase}" for phase in chaos.PHASES)
    print(f"\n{sum(landed.values())} kills ({where}) of {sum(chains.values())} chains {dict(chains)}: all bytes equal")


def test_a_few_kills(arena, tmp_path, capsys):
    landed, chains = chaos_of(arena, tmp_path, 10, seed=1, limit=2)
    with capsys.disabled():
        report(landed, chains)
    assert sum(landed.values()) == 10


@pytest.mark.slow
def test_a_hundred_kills(arena, tmp_path, capsys):
    landed, chains = chaos_of(arena, tmp_path, 100, seed=2)
    with capsys.disabled():
        report(landed, chains)
    assert sum(landed.values()) == 100
    assert all(landed[phase] for phase in chaos.PHASES[1:])
    assert len(chains) == len(chaos.CONFIGS)
