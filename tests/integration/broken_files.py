"""Files, folders and command lines that are broken by construction."""

from typing import Any

import yaml
from broken import BASES, THEORIES, Broken, misspelled, no_numbers
from hypothesis import strategies as st

from collapse.cli import main

# texts that are no YAML, or no config

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
NO_CONFIG = [
    "seed: [1\n", "seed: 1\n model: 3\n", "\tseed: 1\n", "seed: 1\nseed: 2\n", "model: {hidden: 1, hidden: 2}\n",
    "seed: 'open\n", 'seed: "\\q"\n', "seed: *nowhere\n", "- 1\n- 2\n", "text\n", "3\n", "2001-01-01\n",
    "seed: 1\n---\nseed: 2\n", "%YAML 9.9\n---\nseed: 1\n", "seed: @x\n", "seed: `x`\n", "? [a, b]\n: 1\n",
    "? {a: 1}\n: 1\n", "seed: &a [*a]\n", "seed: !!python/object/apply:os.system ['touch mark']\n",
    "seed: !!python/name:os.system\n", "seed: !unknown 3\n",
    "seed: !!python/object/new:subprocess.Popen [[touch, mark]]\n", "!!python/module:os\n", "seed: !!set {1, 2}\n",
    "seed: !!float abc\n", "seed: !!int abc\n", "seed: !!timestamp x\n", "seed: !!binary '='\n", "seed: !!omap [a]\n",
    "seed: !!bool perhaps\n", "<<: 3\n", "<<: [1, 2]\n", "<<: *nothing\n", "model: {<<: {hiden: 3}}\n<<: {sed: 3}\n",
    "seed: " + "[" * 3000, "seed: " + "[" * 400 + "]" * 400, "seed: " + "{a: " * 400 + "1" + "}" * 400, BOMB,
    "seed: " + "9" * 5000, "seed: 1e99999\n", "seed: 0x\n", "seed: " + "9" * 400 + ".5\n",
    "model: !!python/tuple [1]\n", "include: 3\n", "include: [1]\n", "include: [null]\n", "include: {a: b}\n",
    "include: [[data/digits]]\n", "include: ['']\n", "include: ['\\0']\n", 'include: ["\\0"]\n',
    "include: [../../setup]\n", "include: [/etc/passwd]\n", "include: [data]\n", "include: ['" + "x" * 3000 + "']\n",
    "include: [data/digits.yaml]\n", "include: data/digits\n", "include: [mine]\n", "\ufeff- a\n", "seed: \u2028- 1\n",
    "...\nseed\n", "seed: !!null x\nmodel: 3\n", "{seed: 1", "}", "]", ":", "a", "? ", "*a", "@", "`", "%", "[]",
    "seed: 1: 2\n", "seed: - 1\n", "key: [a, b\nc: d\n", "seed: !!str [1]\n",
]  # fmt: skip
NO_TEXT = [
    b"\xff\xfe\x00", b"seed: \xff\n", b"\x00", b"seed: 1\x00\n", b"\x1b[2J: 1\n", b"\xc3\x28: 1\n",
    b"PK\x03\x04\x14\x00", b"\x80\x04\x95\x1a\x00\x00\x00", b"seed: \x07\n", b"\xed\xa0\x80: 1\n",
]  # fmt: skip
INTERPOLATIONS = [
    "${nothing}", "${oc.env:COLLAPSE_NOWHERE}", "${oc.env:}", "${seed}", "${.seed}", "${..seed}", "${...seed}", "${",
    "${}", "${..}", "${oc.decode:'['}", "${oc.nothing:1}", "${eval:1+1}", "${python:os.system}", "${oc.create:{a:1}}",
    "${oc.env:HOME}", "${a.b.c}", "${${seed}}", "${oc.select:nothing}", "${oc.dict.keys:nothing}", "$${seed}",
    "\\${seed}", "${hydra:runtime.cwd}", "${resolver:${resolver:${resolver:1}}}", "${oc.deprecated:nothing}",
    "${now:%Y}", "${model.hidden}",
]  # fmt: skip
HELD = [BOMB.encode(), *(text.encode() for text in NO_CONFIG), *NO_TEXT]


@st.composite
def no_configs(draw: Any) -> Broken:
    """Files that cannot be read, for every command that reads one."""
    content = draw(st.sampled_from(HELD))
    command = draw(st.sampled_from(["run", "config", "theory", "resume"]))
    if command == "resume":
        return Broken(["resume", "run"], ("run",), {"run": None, "run/config.yaml": content})
    return Broken([command, "mine.yaml"], ("mine.yaml",), {"mine.yaml": content})


@st.composite
def cut_short(draw: Any) -> Broken:
    """A config whose end is missing, in the middle of a bracket or a quotation."""
    text = "model: {name: VAE, hidden: 8, shape: [1, 8, 8], network: 'mlp'}\n"
    end = draw(st.integers(min_value=text.index("{") + 1, max_value=text.rindex("}")))
    rest = draw(st.sampled_from(["", "\n", "\nseed: 1\n", "\n]", "\x00", " # comment"]))
    return Broken(["config", "mine.yaml"], ("mine.yaml",), {"mine.yaml": (text[:end] + rest).encode()})


@st.composite
def interpolations(draw: Any) -> Broken:
    """Interpolations that lead nowhere, in circles, or to no number."""
    text = draw(st.sampled_from(INTERPOLATIONS))
    key = draw(st.sampled_from(["seed", "generations", "evaluation.neighbors"]))
    command = draw(st.sampled_from(["run", "config", "theory"]))
    if draw(st.booleans()):
        return Broken([command, f"{key}={text}"], (key.rpartition(".")[2],))
    owner, _, name = key.rpartition(".")
    content = yaml.safe_dump({owner: {name: text}} if owner else {name: text}).encode()
    return Broken([command, "mine.yaml"], (name, "mine.yaml"), {"mine.yaml": content})


# the command line

COMMANDS = sorted(main.commands)
NO_OVERRIDES = [
    "seed", "=3", "==", "=", "seed:3", "..=1", ".seed=1", "seed.=1", "a..b=1", "[=1", "]=1", "seed[0]=1", "seed]=1",
    "[0]=1", "seed.a=1", "seed.a.b=1", "mitigations.0=EMA", "mitigations[0]=EMA", "wandb.tags.0=a", "'seed'=1",
    "se ed=1", " seed =1", "{seed=1", "seed =1", "seed\n=1", "sé=1", "\x1b[31m=1", "\udcff=1", "seed=\udcff",
    "${seed}=1", "a[b]=1", "model[0]=1", "model.[x]=1", "seed+=1", "+seed=1", "~seed=1", "~seed", "seed@model=1",
    "--seed=1", "-s", "--nothing", "x" * 5000 + "=1", "." * 3000 + "=1", "seed=[", "seed={", "seed='", "seed=*a",
    "seed=!!python/name:os.system", "seed=!!python/object/apply:os.system ['touch mark']", "seed=" + "[" * 3000,
    "seed=" + "9" * 5000, "seed=1\n- 2", "", "seed=&a [*a]", "seed=@", "seed=`", "seed=%", "seed=a: b: c",
    "seed=!!float x", "seed=!!int x", "seed=\x00", "seed=\x07",
]  # fmt: skip


@st.composite
def no_overrides(draw: Any) -> Broken:
    """Arguments that are no ``key=value``, or whose value cannot be read."""
    text = draw(st.sampled_from(NO_OVERRIDES))
    command = draw(st.sampled_from([("run",), ("config",), ("theory",), ("run", "demo"), ("config", "seed=1")]))
    return Broken(
        [*command, text], ("override", "config", "seed", "key", "option", "experiment", "mitigations", "tags")
    )


@st.composite
def commands(draw: Any) -> Broken:
    """Commands, options and things to list that there are not, and arguments that are missing or too many."""
    command = draw(st.sampled_from(COMMANDS))
    word = draw(
        misspelled(command, [*COMMANDS]) | no_numbers.filter(lambda text: text and text[0] != "-" and "\0" not in text)
    )
    option = draw(st.sampled_from(["--nothing", "--wrkers=2", "-x", "--help=3", "--version", "---", "-w", "--figure"]))
    kinds = draw(misspelled("models", ["models", "data", "mitigations", "metrics", "experiments"]))
    workers = draw(
        st.sampled_from([*(str(n) for n in (-1, -2, -(10**30))), "1.5", "abc", "", "nan", "two", "1e3", "[1]"])
    )
    figure = draw(st.sampled_from(["x.txt", "x", "nowhere/x.png", "x.png/y.svg", ".", "/", "x.PNG.gz", "\udcff"]))
    return draw(
        st.sampled_from(
            [
                Broken([word], ("command", word)),
                Broken([word, "demo"], ("command", word)),
                Broken([command, option], ("option", "Option")),
                Broken([option, command], ("option", "Option", option))
                if option != "--version"
                else Broken(["-V"], ("-V",)),
                Broken(["list", kinds.strip()], (kinds.strip(),)),
                Broken(["list", "models", "data"], ("argument", "data")),
                Broken(["resume"], ("RUN", "argument")),
                Broken(["resume", "a", "b"], ("argument", "b")),
                Broken(["theory", THEORIES[0][0], f"--workers={workers}"], ("workers",)),
                Broken(["theory", THEORIES[0][0], f"--figure={figure}"], ("figure",)),
                Broken([draw(st.sampled_from(["verify", "lineage", "wandb-export", "resume"])), word], ("run", "W&B")),
                Broken(["lineage", "here", f"--row={workers}"], ("row", "here")),
                Broken(["ingest", "nowhere", "--out=pool"], ("nowhere",)),
                Broken(["ingest", "nowhere"], ("--out",)),
            ]
        )
    )


@st.composite
def no_files(draw: Any) -> Broken:
    """Configs that are not there, or are folders."""
    command = draw(st.sampled_from(["run", "config", "theory"]))
    name = draw(
        st.sampled_from(
            ["nowhere.yaml", "nowhere/mine.yaml", "folder.yaml", "folder.yml", ".yaml", "..", ".", "/", "/dev/null"]
        )
        | st.sampled_from(
            ["x" * 300 + ".yaml", "x" * 5000, "\udcff.yaml", "file/mine.yaml", "a\nb.yaml", "\x1b[31m.yaml"]
        )
        | st.sampled_from(
            ["demo.yaml", "base.yaml", "experiment/dmo", "../base", "base", "data/digits", "experiment/../../base"]
        )
        | misspelled("shumailov2024_gaussian", [])
        | no_numbers.filter(lambda text: "=" not in text and not text.startswith("-") and "\x00" not in text)
    )
    files = {"folder.yaml": None, "folder.yml": None, "file": b"seed: 1\n"}
    return Broken([command, name], ("config", "experiment", "override", "YAML"), files)


# folders

RUN = {"run": None, "run/config.yaml": b"include: []\n"}
FOLDERS: list[tuple[str, dict[str, bytes | None]]] = [
    ("file", {"file": b""}),
    ("file/run", {"file": b""}),
    ("file/a/b/run", {"file": b""}),
    ("full", {"full": None, "full/thesis.tex": b"mine"}),
    ("full", {"full": None, "full/folder": None}),
    (".", {"thesis.tex": b"mine"}),
    ("x" * 300, {}),
    ("a/" + "x" * 300 + "/run", {}),
    ("x/" * 3000, {}),
    ('"a\\0b"', {}),
    ("run", {"run": None, "run/config.yaml": None}),
    ("run", {"run": None, "run/config.yaml": b"\xff"}),
    ("run", {"run": None, "run/config.yaml": b"seed: [\n"}),
    ("run", {"run": None, "run/config.yaml": b""}),
    ("run", {"run": None, "run/config.yaml": b"sed: 1\n"}),
    ("run", {"run": None, "run/config.yaml": b"seed: 5\n"}),
    ("run", {"run": None, "run/config.yaml": b"data: {name: Digits}\ngenerations: 3\n"}),
    ("/dev/null", {}),
    ("/dev/null/run", {}),
]


@st.composite
def outs(draw: Any) -> Broken:
    """Run folders that cannot be one: files, others' folders, other runs."""
    out, files = draw(st.sampled_from(FOLDERS))
    base = draw(st.sampled_from(BASES))
    return Broken([*base, f"out={out}"], ("out", "run"), files)


VALID = b"data: {name: GaussianData}\nmodel: {name: Gaussian}\nwandb: {enabled: false}\n"
NO_RUNS: list[tuple[list[str], dict[str, bytes | None]]] = [
    (["nowhere"], {}),
    ([""], {}),
    (["."], {}),
    (["empty"], {"empty": None}),
    (["file"], {"file": b"seed: 1\n"}),
    (["file/run"], {"file": b""}),
    (["run/config.yaml"], {"run": None, "run/config.yaml": VALID}),
    (["x" * 300], {}),
    (["x/" * 3000], {}),
    (["\udcff"], {}),
    (["a\x1b[31m"], {}),
    (["a\nb"], {}),
    (["run", "seed=1"], {"run": None, "run/config.yaml": VALID}),
    (["run", "--force"], {"run": None, "run/config.yaml": VALID}),
    (["run"], {"run": None, "run/metrics.jsonl": b"{}\n"}),
    (["run"], {"run": None, "run/config.yaml": None}),
    (["run"], {"run": None, "run/config.yaml": b""}),
    (["run"], {"run": None, "run/config.yaml": b"data: {}\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID + b"sed: 1\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID + b"seed: x\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID + b"generations: 0\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID + b"include: [data/digits]\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID + b"mitigations: [Nothing]\n"}),
    (["run"], {"run": None, "run/config.yaml": VALID.replace(b"Gaussian}", b"Gaussian, dim: 2}")}),
    (["run"], {"run": None, "run/config.yaml": VALID[:40]}),
    (["run"], {"run": None, "run/config.yaml": VALID.replace(b"\n", b"\r\t")}),
]


@st.composite
def resumes(draw: Any) -> Broken:
    """Folders that are no run."""
    arguments, files = draw(st.sampled_from(NO_RUNS))
    return Broken(
        ["resume", *arguments],
        ("run", "config", "generations", "mitigations", "rows", "option", "argument", "data"),
        files,
    )
