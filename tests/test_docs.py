"""What is written is true: docstrings exist, examples run, tables match the classes."""

import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import collapse
import collapse.mitigations
from collapse.cli import main
from collapse.config import load
from collapse.config.build import build_mitigations
from collapse.mitigations import Mitigation
from collapse.mitigations.mitigation import HOOKS

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(collapse.__path__, "collapse.")
    if module.name not in {"collapse.__main__", "collapse.configs"}
)
PAGES = sorted(str(path.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.md"))


# Docstrings


def public(module):
    """The public names of a module, and the public methods of its classes that it wrote itself."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if not inspect.isclass(value) and not inspect.isroutine(value):
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{attribute}", inspect.getattr_static(value, attribute)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    module = importlib.import_module(module)
    assert module.__doc__, "the module says what it is for"
    # a method may leave it to the class it overrides: inspect.getdoc looks there
    bare = []
    for name, value in public(module):
        owner = getattr(module, name.removeprefix(f"{module.__name__}.").partition(".")[0])
        attribute = name.removeprefix(f"{module.__name__}.").partition(".")[2]
        found = inspect.getdoc(getattr(owner, attribute)) if attribute else value.__doc__
        if not (found or "").strip():
            bare.append(name)
    assert bare == []


def test_the_lazy_table_of_the_package_is_what_the_parts_export():
    for home, names in collapse._HOMES.items():
        exported = importlib.import_module(home).__all__
        assert set(names) <= set(exported), home
        for name in names:
            assert getattr(collapse, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'Accumulate'"):
        _ = collapse.Accumulate
    assert set(collapse.__all__) <= set(dir(collapse))


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module, capsys):
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, capsys.readouterr().out


def test_there_are_doctests():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test.name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert {"collapse.recursion.chain.run_chain", "collapse.seeding.key"} <= set(found)


# Pages


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    excused: bool


def blocks(page):
    """Yield the fenced blocks of a page; the comment ``<!-- not run: REASON -->`` excuses the one after it."""
    lines = (ROOT / page).read_text().splitlines()
    language, start, before = None, 0, ""
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r" *```(\w*)", line)
        if language is None and fence:
            language, start = fence[1], number
        elif fence:
            excused = re.fullmatch(r"<!-- not run: \S.* -->", before) is not None
            yield Block(start, language, "\n".join(lines[start : number - 1]) + "\n", excused)
            language, before = None, ""
        elif language is None and line.strip():
            before = line.strip()


def test_pages_are_found():
    assert {"README.md", "ARCHITECTURE.md", "MITIGATIONS.md", "docs/reliability.md"} <= set(PAGES)
    found = list(blocks("README.md"))
    assert {"python", "bash"} <= {block.language for block in found}
    assert any(block.language == "python" and not block.excused for block in found)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and not block.excused:
            # numbered as in the page, for the traceback
            code = compile("\n" * block.line + block.text, str(ROOT / page), "exec")
            exec(code, namespace)


def commands(text):
    """Yield the arguments of the ``collapse`` commands in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "collapse" in words and not set(words[: words.index("collapse")]) - {"python", "-m", "srun"}:
            yield words[words.index("collapse") + 1 :]


def parse(arguments):
    """Read a command line as click does, without doing what it says."""
    name, *rest = arguments
    assert name in main.commands, f"there is no command {name}"
    return main.commands[name].make_context(name, rest)


SHELL = [
    (page, f"collapse {shlex.join(arguments)}", arguments)
    for page in PAGES
    for block in blocks(page)
    if block.language in {"bash", "sh", "shell", "console"} and not block.excused
    for arguments in commands(block.text)
]


@pytest.mark.parametrize(("page", "line", "arguments"), SHELL, ids=[line for _, line, _ in SHELL])
def test_shell_commands_parse(page, line, arguments, capsys):
    given = parse(arguments).params
    if arguments[0] in {"run", "config", "list"}:  # what a run would do first is what `config` does
        shown = ["config" if arguments[0] == "run" else arguments[0], *arguments[1:]]
        with pytest.raises(SystemExit) as stop:
            main(shown)
        said = capsys.readouterr()
        assert stop.value.code == 0, said.err
        assert said.out
    if arguments[0] in {"run", "config"} and given["arguments"]:
        config, *overrides = (None, *given["arguments"]) if "=" in given["arguments"][0] else given["arguments"]
        build_mitigations(load(config, overrides).config)


BATCH = re.compile(r"^# +(?:\w+=\S+ )?sbatch .*?scripts/slurm/(\w+)\.sbatch \S+ (.*)$", re.MULTILINE)
SUBMITTED = [
    (path.stem, *found)
    for path in (ROOT / "scripts/slurm").glob("*.sbatch")
    for found in BATCH.findall(path.read_text())
]


@pytest.mark.parametrize(("script", "named", "words"), SUBMITTED)
def test_a_batch_script_shows_itself_with_a_config_that_there_is(script, named, words):
    assert named == script
    assert load(words.split()[0], words.split()[1:]).config.generations > 1


def test_every_batch_script_shows_itself():
    assert {script for script, *_ in SUBMITTED} == {"array", "ddp", "single"}


def test_the_readme_shows_the_commands():
    assert {arguments[0] for page, _, arguments in SHELL if page == "README.md"} >= {"run", "resume", "config"}
    with pytest.raises(click.UsageError):
        parse(["run", "--fast"])


def test_local_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text()):
            assert "://" in target or (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_are_there(page):
    for name in re.findall(r"[\w/]*\btest_\w+\.py", (ROOT / page).read_text()):
        found = [ROOT / name] if "/" in name else list((ROOT / "tests").rglob(name))
        assert [path for path in found if path.is_file()], f"{page} names {name}"


def test_a_promise_names_its_proof():
    promises = [line for line in (ROOT / "docs/reliability.md").read_text().splitlines() if line.startswith("| ")]
    assert sum(bool(re.search(r"`test_\w+\.py`", line)) for line in promises) > 15


def test_the_build_needs_nothing_but_setuptools():
    assert list(tomllib.loads((ROOT / "pyproject.toml").read_text())) == ["build-system"]


# The table of mitigations

COLUMNS = ("mitigation", "changes", "hook", "claim", "cost", "paper", "config", "reproduced")
CHANGES = {
    "initialize": "initial weights",
    "compose_training_set": "training data",
    "weigh": "loss per row",
    "regularize": "loss, added",
    "wrap_sampler": "sampler",
    "curate": "samples",
    "finalize": "weights after training",
}
CLASSES = {
    name: value
    for name in collapse.mitigations.__all__
    if inspect.isclass(value := getattr(collapse.mitigations, name))
    and issubclass(value, Mitigation)
    and value is not Mitigation
}


@pytest.fixture(scope="module")
def table():
    """The rows of MITIGATIONS.md as dicts, by the name of the class."""
    lines = [line for line in (ROOT / "MITIGATIONS.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == COLUMNS
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]
    assert len({row["mitigation"] for row in rows}) == len(rows)
    return {row["mitigation"].strip("`"): row for row in rows}


def configured(row):
    """The mitigation that a row's config makes."""
    override = row["config"].strip("`")
    (mitigation,) = build_mitigations(load(None, [override]).config)
    return mitigation


def test_hooks_are_the_ones_the_table_can_name():
    assert set(CHANGES) == {hook for hook in HOOKS if not hook.startswith("on_")}


def test_the_table_lists_every_mitigation(table):
    assert set(table) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_row_of_the_table_is_true(table, name):
    row, value = table[name], CLASSES[name]
    mitigation = configured(row)
    assert type(mitigation) is value
    hooks = [hook for hook in CHANGES if mitigation.overrides(hook)]
    assert re.findall(r"`(\w+)`", row["hook"]) == hooks
    assert row["changes"] == "; ".join(CHANGES[hook] for hook in hooks)
    assert row["paper"] == value.citation
    assert row["cost"]


@pytest.mark.parametrize("name", CLASSES)
def test_a_row_claims_what_the_class_claims(table, name):
    row, mitigation = table[name], configured(table[name])
    always, sometimes = set(), {}
    for claim in re.split(r", ?", row["claim"]) if row["claim"] != "–" else []:
        wanted, _, argument = claim.partition(" with ")
        if argument:
            sometimes[wanted] = argument.strip("`")
        else:
            always.add(wanted)
    assert {claim.name for claim in mitigation.claims} == always
    for wanted, argument in sometimes.items():
        other = type(mitigation)(**{**mitigation.arguments, argument: 1})
        assert {claim.name for claim in other.claims} == always | {wanted}


def test_what_the_table_says_is_reproduced_is_there(table):
    for row in table.values():
        assert row["reproduced"]
        for path in re.findall(r"`(tests/[\w/.]+)`", row["reproduced"]):
            assert (ROOT / path).exists(), f"{row['mitigation']}: {path}"
