"""Components that are broken by construction: names, arguments, types, ranges, sizes, and mitigations that conflict."""

import inspect
import math
import typing
from typing import Any

import yaml
from broken import RUNS, Broken, misspelled, negative, no_numbers, texts, unlike, written
from hypothesis import strategies as st

from collapse.config import load
from collapse.config.build import registry
from collapse.config.load import GROUPS, names_in

# components

WHERE = {"data": "data", "models": "model", "mitigations": "mitigations"}
CLASSES = {name: (kind, cls) for kind in WHERE for name, cls in registry(kind).items()}
ARGUMENTS = [(name, argument) for name, (_, cls) in CLASSES.items() for argument in cls.constructor_parameters()]
EXAMPLES: dict[str, dict[str, Any]] = {
    "SlidingWindow": {"k": 2},
    "AnchorReplay": {"fraction": 0.5},
    "WeightedLikelihood": {"share": 0.5},
    "SIGReg": {"weight": 0.1},
    "MNIST": {"root": "files"},
    "FashionMNIST": {"root": "files"},
    "CIFAR10": {"root": "files"},
    "Ingested": {"root": "files"},
    "TextFile": {"path": "text.txt"},
    "ProtectedStrata": {"share": 0.001},
    "PretrainedLM": {"path": "files", "length": 16},
}


def example(name: str) -> tuple[list[str], dict[str, Any]]:
    """A valid command line with a component, and the component's arguments."""
    kind, _ = CLASSES[name]
    for base in RUNS:
        config = load(None, base[1:]).config
        node = {"data": config.data, "models": config.model}.get(kind, {})
        if node.get("name") == name:
            return list(base), {key: value for key, value in node.items() if key != "name"}
    return list(RUNS[0]), EXAMPLES.get(name, {})


BASE_OF = {name: example(name) for name in CLASSES}


def with_component(name: str, arguments: dict[str, Any], *named: str) -> Broken:
    """The valid command line of a component, with these arguments instead of its own."""
    kind, (base, _) = CLASSES[name][0], BASE_OF[name]
    content: Any = [{name: arguments}] if kind == "mitigations" else {"name": name, **arguments}
    drop = "data=" if kind == "data" else "model=" if kind == "models" else "mitigation="
    kept = [word for word in base if not word.startswith((drop, drop.replace("=", ".")))]
    return Broken([*kept, f"{WHERE[kind]}={written(content)}"], named)


@st.composite
def misspelled_arguments(draw: Any) -> Broken:
    name, argument = draw(st.sampled_from(ARGUMENTS))
    wrong = draw(misspelled(argument, [*CLASSES[name][1].constructor_parameters(), "name"]))
    return with_component(name, {**BASE_OF[name][1], wrong: draw(st.sampled_from([1, 0.5, "a", None]))}, wrong.strip())


@st.composite
def arguments_of_wrong_type(draw: Any) -> Broken:
    name, argument = draw(st.sampled_from(ARGUMENTS))
    hint = typing.get_type_hints(CLASSES[name][1].__init__)[argument]
    return with_component(name, {**BASE_OF[name][1], argument: draw(unlike(hint, strict=True))}, argument)


whole = st.integers(max_value=0)
share = negative | st.floats(min_value=1.0001, allow_infinity=False)
laws = st.sampled_from(
    [
        [],
        [0.5],
        [0.5, 0.6],
        [-0.5, 1.5],
        [math.nan, 1.0],
        [[0.5, 0.5]] * 3,
        ["a", "b"],
        [0.5, None],
        [math.inf, 0.5],
        [[0.5], [0.5, 0.5]],
    ]
)
matrices = st.sampled_from(
    [
        [],
        [[]],
        [[1.0, 2.0]],
        [[1.0, 2.0], [3.0]],
        [[0.0]],
        [[-1.0]],
        [[math.nan]],
        [["a"]],
        [[[1.0]]],
        [[None]],
        [[1, 2], [3, 4]],
    ]
)
choices = texts.filter(lambda text: text.strip() not in {"scott", "silverman", "latent"})
LEAKS_AND_ORIGINS = {
    "unknown", "synthetic", "normal", "kernels", "marginals", "held", "class", "density", "token", "rarest_token",
}  # fmt: skip
RANGES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        [
            "rows",
            "reference_rows",
            "replicates",
            "batch_size",
            "dim",
            "modes",
            "side",
            "categories",
            "length",
            "bins",
            "components",
            "iterations",
            "order",
            "vocabulary",
            "hidden",
            "steps",
            "k",
            "slices",
            "subsample",
            "top_k",
        ],
        whole,
    ),
    **dict.fromkeys(["latent_dim", "num_workers"], st.integers(max_value=-1)),
    **dict.fromkeys(["std", "noise", "beta", "learning_rate", "variance_multiplier", "known_variance"], negative),
    **dict.fromkeys(["smoothing", "temperature", "exponent", "tolerance", "regularization", "ridge"], negative),
    **dict.fromkeys(["stds", "scale", "t_max", "bandwidth", "beta_start"], negative),
    **dict.fromkeys(["held_out", "fraction", "share", "decay", "top_p", "beta_end"], share),
    **dict.fromkeys(
        ["design", "network", "likelihood", "harvest", "covariates", "sampler", "covariance_type"], choices
    ),
    **dict.fromkeys(["target", "documents", "sha256"], choices),
    "vocabulary_size": whole,
    **dict.fromkeys(["probabilities", "weights", "initial"], laws),
    **dict.fromkeys(["transition", "covariance", "start"], matrices),
    **dict.fromkeys(["neighbors", "max_gold", "quota"], whole),
    **dict.fromkeys(["beams", "sampling_batch"], whole),
    **dict.fromkeys(["repetition_penalty", "weight_decay"], negative),
    "max_rows": st.integers(max_value=1),
    **dict.fromkeys(["rate", "false_alarm"], share),
    "from_generation": st.integers(max_value=-1),
    **dict.fromkeys(["leak", "by", "origin"], texts.filter(lambda text: text.strip() not in LEAKS_AND_ORIGINS)),
    "covariances": st.sampled_from([[], [[[1.0]]], [[[0.0]], [[1.0]]], [[[1.0]], [[-1.0]]], [[[1.0]], [[math.nan]]]]),
    "means": st.sampled_from([[], [0.0], [0.0, math.nan], [[0.0], [0.0, 1.0]], ["a", "b"], [None, 1.0], [[[]], [[]]]]),
    "mean": st.sampled_from([[], [0.0, 0.0], [math.inf], ["a"], [[0.0]], [None]]),
    "knots": st.integers(max_value=1),
    "ddof": st.integers(max_value=-1) | st.integers(min_value=2),
    "high": st.floats(max_value=-6.0, allow_infinity=False),
    "low": st.floats(min_value=6.0, allow_infinity=False),
    "shape": st.sampled_from(
        [[], [0], [-1, 8, 8], [1.5], ["a"], [1, 8], [2, 8, 8], [[1, 8, 8]], [10**30], [None], [True]]
    ),
}
OTHERWISE = {("PydocText", "tokenizer"): choices, ("AnchorReplay", "rows"): choices, ("SIGReg", "weight"): negative}
"""Arguments that mean something else in one class."""
FREE = {("RegressionData", "weight")}
RANGED = [
    (name, argument)
    for name, argument in ARGUMENTS
    if ((name, argument) in OTHERWISE or argument in RANGES) and (name, argument) not in FREE
]


@st.composite
def arguments_out_of_range(draw: Any) -> Broken:
    name, argument = draw(st.sampled_from(RANGED))
    value = draw(OTHERWISE.get((name, argument), RANGES.get(argument, st.nothing())))
    return with_component(name, {**BASE_OF[name][1], argument: value}, argument)


@st.composite
def too_large(draw: Any) -> Broken:
    """Sizes beyond any machine, and beyond any integer of one."""
    sizes = ["rows", "reference_rows", "dim", "hidden", "latent_dim", "categories", "bins", "vocabulary", "components"]
    found = [
        (name, argument) for name, argument in ARGUMENTS if argument in sizes and CLASSES[name][0] != "mitigations"
    ]
    name, argument = draw(st.sampled_from(found))
    where = WHERE[CLASSES[name][0]]
    value = draw(st.sampled_from([10**15, 2**62, 2**63, 2**64, 10**30, 10**400]))
    return with_component(name, {**BASE_OF[name][1], argument: value}, argument, where)


@st.composite
def missing_arguments(draw: Any) -> Broken:
    wanted = [
        (name, argument)
        for name, argument in ARGUMENTS
        if CLASSES[name][1].constructor_parameters()[argument].default is inspect.Parameter.empty
    ]
    name, argument = draw(st.sampled_from(wanted))
    rest = {key: value for key, value in BASE_OF[name][1].items() if key != argument}
    return with_component(name, rest, argument)


STRANGE = [
    "os.system", "collapse.models.VAE", "torch.nn.Linear", "__class__", "GenerativeModule", "RecursiveDataModule",
    "Mitigation", "Estimator", "AdoptedData", "MitigationStack", "Batch", "../vae", "!!python/name:os.system",
]  # fmt: skip


@st.composite
def unknown_names(draw: Any) -> Broken:
    kind = draw(st.sampled_from(sorted(WHERE)))
    known = registry(kind)
    others = [name for name, (other, _) in CLASSES.items() if other != kind and name not in known]
    name = draw(st.sampled_from(STRANGE + others) | texts | misspelled(draw(st.sampled_from(sorted(known))), known))
    base = draw(st.sampled_from(RUNS))
    if name in known:
        name += "?"
    content: Any = {"name": name}
    if kind == "mitigations":
        content = [draw(st.sampled_from([name, {name: {}}, {name: None}]))]
    return Broken([*base, f"{WHERE[kind]}={written(content)}"], (WHERE[kind],))


@st.composite
def nameless(draw: Any) -> Broken:
    """Data and models without a name, or with one that is none."""
    kind = draw(st.sampled_from(["data", "model"]))
    value = draw(st.sampled_from([{"name": None}, {"name": 3}, {"name": ["VAE"]}, {"name": {"a": 1}}, {"name": True}]))
    return Broken([*draw(st.sampled_from(RUNS)), f"{kind}={written(value)}"], (kind,))


@st.composite
def groups(draw: Any) -> Broken:
    """Group files that are not there, and ways out of the configs' folder."""
    group = draw(st.sampled_from(sorted(GROUPS)))
    known = names_in(group)
    ways = ["../base", "/etc/passwd", "..", ".", "base", "*", "vae.yaml", "~", "vae/../../base", f"{group}/{known[0]}"]
    name = draw(st.sampled_from(ways) | no_numbers | misspelled(draw(st.sampled_from(known)), known))
    name = name + "?" if name in known or name.startswith(("[", "{")) else name
    if draw(st.booleans()):
        return Broken([draw(st.sampled_from(["run", "config", "theory"])), f"{group}={name}"], (group,))
    text = yaml.safe_dump({"include": [f"{group}/{name}?" if name != "../base" else name]}).encode()
    return Broken(["config", "mine.yaml"], ("include",), {"mine.yaml": text})


# mitigations

RETAINING = [
    "Replace", "DataAccumulation", "RealOnly", {"SlidingWindow": {"k": 2}}, {"DataAccumulation": {"fixed_size": True}},
]  # fmt: skip
BALANCING = ["RealOnly", {"AnchorReplay": {"fraction": 0.1}}, {"AnchorReplay": {"fraction": 0.2, "rows": "fresh"}}]
FINISHING = ["EMA", {"EMA": {"decay": 0.5}}]
MISSHAPEN: list[Any] = [
    [["Replace"]], [{"Replace": {}, "EMA": {}}], [{"EMA": 0.9}], [{"EMA": [0.9]}], [3], [None], [True], [{}], [""],
    [{"SlidingWindow": 3}], [{"name": "EMA"}], [{"EMA": "decay"}], [{3: {}}], [{"EMA": {3: 4}}], [1.5], [math.nan],
    [[]],
]  # fmt: skip


@st.composite
def mitigations(draw: Any) -> Broken:
    """Lists that are no lists of mitigations, and mitigations that decide the same thing."""
    rivals = st.sampled_from([RETAINING, BALANCING, FINISHING]).flatmap(
        lambda group: st.tuples(st.sampled_from(group), st.sampled_from(group)).map(list)
    )
    content = draw(st.sampled_from(MISSHAPEN) | rivals)
    base = [word for word in draw(st.sampled_from(RUNS[:4])) if not word.startswith("mitigation=")]
    return Broken([*base, f"mitigations={written(content)}"], ("mitigations",))
