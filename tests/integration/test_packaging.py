"""What is installed: the package, its types and its configs, wherever it is installed from."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import collapse
from collapse.config.load import config_root

ROOT = Path(__file__).parents[2]
SOURCES = ("collapse", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def files(folder, pattern):
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy: a build leaves its traces in the tree it is made from."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    if importlib.util.find_spec("setuptools") and importlib.util.find_spec("pip"):
        build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)]
    else:
        build = ["build", "--wheel", "--outdir", str(out), str(source)]
    done = subprocess.run([sys.executable, "-m", *build], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_is_complete(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"collapse/{name}" for name in files(ROOT / "collapse", "*.py")} <= names
    assert {f"collapse/configs/{name}" for name in files(ROOT / "configs", "*.yaml")} <= names
    assert {"collapse/py.typed", "collapse/configs/base.yaml"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"collapse", f"collapse-{collapse.__version__}.dist-info"}
    assert not [name for name in names if "test" in name.lower()]


@pytest.mark.slow
def test_the_wheel_says_who_it_is(wheel):
    archive, info = zipfile.ZipFile(wheel), f"collapse-{collapse.__version__}.dist-info"
    assert "collapse = collapse.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    metadata = archive.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {collapse.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    for package in ("torch", "torchvision", "pytorch-lightning", "wandb", "omegaconf", "einops"):
        assert f"\nRequires-Dist: {package}" in metadata


@pytest.mark.slow
def test_an_installed_package_finds_its_configs(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def said(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert Path(said("-c", "import collapse; print(collapse.__file__)").strip()).parent == site / "collapse"
    root = said("-c", "from collapse.config.load import config_root; print(config_root())").strip()
    assert Path(root) == site / "collapse" / "configs"
    here = subprocess.run([sys.executable, "-m", "collapse", "config", "demo"], capture_output=True, text=True).stdout
    assert said("-m", "collapse", "config", "demo") == here != ""
    assert collapse.__version__ in said("-m", "collapse", "--version")


def test_a_checkout_finds_its_configs_beside_the_package():
    assert Path(collapse.__file__).parents[1] == ROOT, "the tests run against the tree they lie in"
    assert config_root() == ROOT / "configs"
    assert (ROOT / "collapse" / "py.typed").exists()
