"""Configs and command lines that are broken by construction: each starts from a valid one and gets one fault."""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

from collapse.config import load
from collapse.config.load import GROUPS, names_in
from collapse.config.schema import ChainConfig

SMALL = ("samples_per_generation=8", "wandb.enabled=false")


class Broken(NamedTuple):
    """A command line with one fault.

    Attributes:
        arguments: What is typed after ``collapse``.
        named: The sentence must hold one of these: the key, or the value.
        files: What lies in the working folder by its path: bytes, or None for a folder.
    """

    arguments: list[str]
    named: tuple[str, ...]
    files: Mapping[str, bytes | None] = MappingProxyType({})


# what is valid

PAIRS = [
    ("data=digits", "model=vae"),
    ("data=digits", "model=vae/conv", "mitigation=sigreg"),
    ("data=digits", "model=vae", "mitigation=ema"),
    ("data=contaminated", "model=vae", "mitigation=outlier_filter"),
    ("data=ring", "model=vae", "mitigation=accumulate"),
    ("data=ring", "model=vae", "mitigations=[{ProtectedStrata:{share:0.001}}]"),
    ("data=ring", "model=vae", "mitigation=pool_gate"),
    ("data=ring", "model=vae", "mitigation=admit"),
    ("data=two_moons", "model=kde", "model.dim=2", "mitigation=weighted"),
    ("data=grid", "model=gaussian_mixture", "model.dim=2", "mitigation=window"),
    ("data=gaussian", "model=gaussian", "mitigation=anchor_fresh"),
    ("data=gaussian", "model=gaussian_diffusion", "mitigation=anchor"),
    ("data=gaussian", "model=histogram", "mitigation=replace"),
    ("data=gaussian", "data.dim=4", "model=ppca", "mitigation=anchor_redrawn"),
    ("data=gaussian_mixture", "model=gaussian_mixture", "mitigation=accumulate_subsample"),
    ("data=categorical", "model=categorical", "mitigation=real_only"),
    ("data=zipf", "model=categorical", "model.categories=20000"),
    ("data=markov", "model=ngram"),
    ("data=pydoc_text", "model={name: NGram}"),
    ("data=pydoc_text", "model=gpt/tiny"),
    ("data=digits", "model=diffusion/tiny"),
    ("data=regression", "model=linear_regression"),
]
"""Compatible choices, all of a kind at least once."""

EXPERIMENTS = [
    (name, "data.replicates=2", "model.replicates=2") if "replicates" in load(name).config.model else (name,)
    for name in names_in("experiment")
    if load(name).config.data["name"] != "MNIST"  # whose files are nobody's
]
THEORIES = [arguments for arguments in EXPERIMENTS if len(arguments) > 1]
RUNS = [("run", *pair, *SMALL) for pair in PAIRS]
BASES = [*RUNS, *(("run", *experiment, *SMALL) for experiment in EXPERIMENTS)]
READ = [("config",), ("run", *SMALL), ("theory", "--workers=1"), *(("config", *pair) for pair in PAIRS)]
"""Commands that read a config: what is wrong with one before anything is built."""

# values that nothing could take

ODD = [
    "", " ", "abc", "\x1b[31mred", "zero\x00byte", "line\nbreak", "ünï çödé", "数据", "\u202e", "\U0001f4a5", "null",
    "~", "x" * 3000, "os.system", "__import__('os')", "../../etc/passwd", "%s%n", "{}", "'", '"', "a: b", "- a", "#",
]  # fmt: skip
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$\\"), max_size=40)
shapes = st.sampled_from([[1], [[]], {"a": 1}, {"a": {"b": []}}, [None], [[1, [2]]]])
unreal = st.sampled_from([math.nan, math.inf, -math.inf])
negative = st.integers(max_value=-1) | st.floats(max_value=-1e-9, allow_infinity=False)
enormous = st.integers(min_value=2**63, max_value=10**60)


def is_no(kind: type, text: str) -> bool:
    """Whether a text is no value of a kind."""
    try:
        kind(text)
    except ValueError:
        return True
    return False


no_numbers = texts.filter(lambda text: is_no(float, text) and is_no(int, text))
WORDS = {"yes", "y", "on", "true", "no", "n", "off", "false"}


def unlike(hint: Any, *, strict: bool) -> st.SearchStrategy[Any]:
    """Values that no type hint's value is; ``strict`` where numbers are not read out of texts."""
    options = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, UNION) else {hint}
    kinds = {typing.get_origin(option) or option for option in options}
    parts: list[st.SearchStrategy[Any]] = [] if dict in kinds else [st.just({"a": 1})]
    if type(None) not in kinds and (strict or not kinds & {list, dict}):
        parts.append(st.none())
    if str not in kinds:
        parts.append(texts if kinds & {list, dict, Sequence} else no_numbers.filter(lambda t: t.lower() not in WORDS))
    if not kinds & {list, Sequence}:
        parts.append(shapes.filter(lambda shape: isinstance(shape, list)))
    if not kinds & {bool, str} or (strict and bool not in kinds):
        parts.append(st.booleans())
    if kinds & {int, float}:
        parts.append(unreal)
    if int in kinds and float not in kinds:
        parts.append(st.sampled_from([0.5, 1e-9, 2.000001, 1e308]))
    if kinds & {list, dict, Sequence} and not kinds & {int, float}:
        parts.append(st.integers())
    return st.one_of(parts)


UNION = type(int | None)


def written(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")


def nested(key: str, value: Any) -> dict[str, Any]:
    return functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)


@st.composite
def placed(draw: Any, base: Sequence[str], key: str, value: Any, *named: str) -> Broken:
    """Set a key on the command line, or in a file that the command reads."""
    name = named or (key.rpartition(".")[2],)
    experiment = any("=" not in word for word in base[1:])
    if (
        any(word.startswith(f"{key}=") for word in base)
        or experiment
        or draw(st.booleans())
        or any("model=" in word or "data=" in word for word in base)
    ):
        return Broken([*base, f"{key}={written(value)}"], name)
    text = yaml.safe_dump(nested(key, value), allow_unicode=draw(st.booleans())).encode()
    return Broken([base[0], "mine.yaml", *base[1:]], name, {"mine.yaml": text})


# keys

FIELDS = {field.name: field for field in dataclasses.fields(ChainConfig)}
HINTS: dict[str, Any] = {}
for owner, schema in [("", ChainConfig)] + [
    (f"{name}.", field.default_factory)
    for name, field in FIELDS.items()
    if dataclasses.is_dataclass(field.default_factory)
]:
    HINTS |= {
        owner + name: hint for name, hint in typing.get_type_hints(schema).items() if not dataclasses.is_dataclass(hint)
    }


def mutations(word: str) -> list[str]:
    """A word with a letter left out, doubled, exchanged, or too much."""
    cuts = [(word[:place], word[place:]) for place in range(len(word))]
    left_out = [a + b[1:] for a, b in cuts if len(word) > 1]
    doubled = [a + b[0] + b for a, b in cuts]
    exchanged = [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
    return [*left_out, *doubled, *exchanged, word.upper(), word + "s", word + " ", "_" + word, word.replace("_", "-")]


def misspelled(word: str, known: typing.Iterable[str]) -> st.SearchStrategy[str]:
    taken = {*known, "include"}
    return st.sampled_from([other for other in dict.fromkeys(mutations(word)) if other.strip() not in taken and other])


@st.composite
def misspelled_keys(draw: Any) -> Broken:
    key = draw(st.sampled_from(sorted(HINTS)))
    owner, dot, name = key.rpartition(".")
    siblings = [other.rpartition(".")[2] for other in HINTS if other.rpartition(".")[0] == owner]
    known = siblings if owner else [*FIELDS, *GROUPS]
    wrong = draw(misspelled(name, known))
    return draw(placed(draw(st.sampled_from(READ)), owner + dot + wrong, 1, wrong.strip()))


@st.composite
def unknown_keys(draw: Any) -> Broken:
    key = draw(texts | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False))
    content = {key: 1, **draw(st.sampled_from([{}, {"seed": 1}, {"generations": 2}]))}
    return Broken(
        [*draw(st.sampled_from(["run", "config", "theory"])).split(), "mine.yaml"],
        ("key", "mine.yaml"),
        {"mine.yaml": yaml.safe_dump(content).encode()},
    )


@st.composite
def wrong_types(draw: Any) -> Broken:
    key = draw(st.sampled_from(sorted(HINTS)))
    return draw(placed(draw(st.sampled_from(READ)), key, draw(unlike(HINTS[key], strict=False))))


COUNTS = ["generations", "samples_per_generation", "epochs_per_generation", "steps_per_generation", "chunk_size"]
no_choice = texts.filter(
    lambda text: text.strip() not in {"fresh", "same", "warm", "auto", "online", "offline", "disabled"}
)
OUTSIDE: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(COUNTS, st.integers(max_value=0) | enormous),
    "checkpoint_steps": st.integers(max_value=0),
    "evaluation.gallery": st.integers(max_value=-1),
    "evaluation.neighbors": st.integers(max_value=0),
    "evaluation.max_rows": st.integers(max_value=1),
    "initialization": no_choice,
    "wandb.mode": no_choice,
}


@st.composite
def out_of_range(draw: Any) -> Broken:
    key = draw(st.sampled_from(sorted(OUTSIDE)))
    base = draw(st.sampled_from(BASES))
    if key in [*COUNTS, "initialization"] and draw(st.booleans()):
        base = ("theory", "--workers=1", *draw(st.sampled_from(THEORIES)))
    alone = [] if key != "steps_per_generation" else ["epochs_per_generation=1"]
    return draw(placed((*base, *alone), key, draw(OUTSIDE[key])))
