"""What every test may rely on."""

import logging

import pytest

# Lightning tells of every Trainer it makes. Its parents' levels are set anew when Lightning is imported.
for package in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(f"{package}.utilities.rank_zero").setLevel(logging.ERROR)


@pytest.fixture(scope="session", autouse=True)
def extractor_cache(tmp_path_factory):
    """Keep the feature extractors of a session together, and out of the user's home; child processes inherit it."""
    folder = tmp_path_factory.mktemp("extractors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLLAPSE_CACHE", str(folder))
        yield folder
