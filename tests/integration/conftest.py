"""``chain(module, ...)`` runs a chain in a folder of its own."""

import itertools

import chains
import pytest


@pytest.fixture
def chain(tmp_path):
    folders = itertools.count()

    def start(module, data=None, **settings):
        root = settings.pop("root", tmp_path / f"run_{next(folders)}")
        return chains.train(root, module, data, **settings)

    return start
