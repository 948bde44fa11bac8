"""Imports point down, each heavy package has its one place, and nothing on a read path runs code."""

import ast
import sys
from pathlib import Path

import pytest

import collapse
import collapse.mitigations
import collapse.models
from collapse.mitigations import Mitigation

ROOT = Path(collapse.__file__).parent
# Bottom up; a part may import those of the rows below it, and none of its own row.
ROWS = (
    (0, ("arguments", "seeding", "noise", "distributed", "stopping", "memory")),
    (0, ("nn", "theory", "metrics")),
    (1, ("data",)),
    (1, ("models",)),
    (2, ("mitigations",)),
    (3, ("callbacks",)),
    (3, ("recursion",)),  # run_chain adds the default evaluation
    (4, ("oracle",)),
    (4, ("config",)),
    (4, ("ablation",)),
    (5, ("cli",)),
    (5, ("__main__",)),
)
RANK = {part: rank for rank, (_, parts) in enumerate(ROWS) for part in parts}
LAYER = {part: layer for layer, parts in ROWS for part in parts}
TENSORS = {"torch", "einops", "numpy"}
LIGHTNING = {"pytorch_lightning", "torchvision", "sklearn"}
# The packages that a layer may import besides the standard library.
ALLOWED = {
    0: TENSORS,
    1: TENSORS | LIGHTNING | {"PIL", "pyarrow", "tokenizers", "transformers", "xxhash"},
    2: TENSORS | LIGHTNING,
    3: TENSORS | LIGHTNING | {"rich"},
    4: TENSORS | LIGHTNING | {"omegaconf", "yaml", "wandb", "google", "pandas", "matplotlib"},
    5: {"click"},
}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    """Dotted module name below the package: ``data.rows``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(), filename=str(path)) for path in FILES}
PARTS = {name: tree for name, tree in MODULES.items() if name != "__init__"}  # the package itself is a lazy table


def executed(tree):
    """Walk a tree without what only a type checker reads."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def imports(tree):
    """Every module that running a module, or a function of it, imports."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.module
            # ``from collapse.data import rows`` imports a module, too
            yield from (f"{node.module}.{alias.name}" for alias in node.names if is_module(node.module, alias.name))


def is_module(package, name):
    return f"{package}.{name}".removeprefix("collapse.") in MODULES


def part_of(name):
    """The layer's part that a module belongs to: ``data`` of ``collapse.data.rows``."""
    return name.removeprefix("collapse.").partition(".")[0]


def ours(tree):
    return {name for name in imports(tree) if name.partition(".")[0] == "collapse"}


def foreign(tree):
    return {name.partition(".")[0] for name in imports(tree)} - {"collapse"} - sys.stdlib_module_names


def test_every_part_has_its_layer():
    assert {part_of(name) for name in PARTS} <= set(RANK)
    assert len(PARTS) > 60


@pytest.mark.parametrize("module", PARTS)
def test_imports_point_down(module):
    here = part_of(module)
    for name in ours(PARTS[module]):
        assert name != "collapse", f"collapse.{module} imports the package's lazy table; name the part"
        there = part_of(name)
        assert there == here or RANK[there] < RANK[here], f"collapse.{module} is not above {name}"


@pytest.mark.parametrize("module", PARTS)
def test_a_layer_uses_its_packages_only(module):
    unexpected = foreign(PARTS[module]) - ALLOWED[LAYER[part_of(module)]]
    assert not unexpected, f"collapse.{module} imports {unexpected}"


def test_the_package_itself_imports_nothing():
    assert not ours(MODULES["__init__"])
    assert not foreign(MODULES["__init__"])


def test_omegaconf_and_wandb_stay_at_the_rim():
    using = {
        package: {name for name, tree in MODULES.items() if package in foreign(tree)}
        for package in ("omegaconf", "wandb")
    }
    assert {part_of(name) for name in using["omegaconf"]} == {"config"}
    assert {name for name, tree in MODULES.items() if "pyarrow" in foreign(tree)} <= {"data.ingest.tables"}
    assert {name for name, tree in MODULES.items() if "tokenizers" in foreign(tree)} <= {"data.text.subwords"}
    assert {name for name, tree in MODULES.items() if "transformers" in foreign(tree)} == {"models.huggingface"}
    assert {part_of(name) for name in using["wandb"]} == {"config"}


@pytest.mark.parametrize("script", sorted((ROOT.parent / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_thin(script):
    assert {part_of(name) for name in ours(ast.parse(script.read_text()))} <= {"cli", "config", "recursion"}


# mitigations know neither each other nor a model

CONCRETE = {
    value.__module__: name
    for name, value in vars(collapse.mitigations).items()
    if isinstance(value, type) and issubclass(value, Mitigation) and value is not Mitigation
}
MITIGATIONS = {name: tree for name, tree in PARTS.items() if part_of(name) == "mitigations" and "." in name}
MODELS = set(collapse.models.__all__) - {"GenerativeModule"}


def docstrings(tree):
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return {node.body[0].value for node in ast.walk(tree) if isinstance(node, owners) and ast.get_docstring(node)}


@pytest.mark.parametrize("module", MITIGATIONS)
def test_no_mitigation_imports_another(module):
    found = ours(MITIGATIONS[module]) & set(CONCRETE)
    assert found <= ({"collapse.mitigations.retention"} if module == "mitigations.stack" else set())
    if found:  # the stack's default
        assert [
            alias.name
            for node in executed(MITIGATIONS[module])
            if isinstance(node, ast.ImportFrom) and node.module in found
            for alias in node.names
        ] == ["Replace"]


@pytest.mark.parametrize("module", MITIGATIONS)
def test_no_mitigation_names_a_model(module):
    tree = MITIGATIONS[module]
    said = docstrings(tree)
    names = {
        getattr(node, field)
        for node in ast.walk(tree)
        for kind, field in ((ast.Name, "id"), (ast.Attribute, "attr"), (ast.alias, "name"), (ast.Constant, "value"))
        if isinstance(node, kind) and node not in said and isinstance(getattr(node, field), str)
    }
    assert not names & MODELS
    assert "VAE" in MODELS


# one Lightning, and no code in data


def test_there_is_one_lightning():
    # isinstance checks fail between ``lightning.pytorch`` and ``pytorch_lightning``
    assert [name for name, tree in MODULES.items() if "lightning" in foreign(tree)] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_that_is_read_can_run(module):
    tree = MODULES[module]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) in {"eval", "exec", "compile", "__import__"}]
    for call in calls:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            assert given.get("weights_only") == "True", f"line {call.lineno}"
        if ast.unparse(call.func) in {"np.load", "numpy.load"}:
            assert given.get("allow_pickle") == "False", f"line {call.lineno}"
        assert ast.unparse(call.func) not in {"joblib.load", "yaml.load", "yaml.unsafe_load"}, f"line {call.lineno}"
    assert not {"dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(imports(tree))
    # the one name of pickle's that may be said is that of the error torch.load raises
    said = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    pickled = {ast.unparse(node) for node in said if ast.unparse(node.value) == "pickle"}
    assert pickled <= {"pickle.UnpicklingError"}
    assert "pickle" not in {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
