"""Settings that are broken by construction: trainers, trackers, sweeps, and parts that do not go together."""

import inspect
import math
from typing import Any

import pytorch_lightning as pl
import yaml
from broken import RUNS, SMALL, THEORIES, Broken, misspelled, placed, written
from hypothesis import strategies as st

from collapse.config.build import OWNED

# trainer, wandb, sweep

TRAINER = set(inspect.signature(pl.Trainer).parameters)
NONSENSE: dict[str, list[Any]] = {
    "accelerator": ["warp", "", 3, [1], None, True, "os.system", {"a": 1}],
    "strategy": ["warp", "", 3, [1], None, {"a": 1}, True],
    "devices": [-5, 0, "abc", "", [], [-1], 1.5, {"a": 1}, None, ["a"], True, "1,x", [[1]]],
    "num_nodes": [0, -1, "two", 1.5, None, [1], True],
    "precision": [13, "half", "", [32], True, {"a": 1}, -1, "float"],
    "limit_val_batches": [-1, 1.5, "all", [1], -0.1],
    "limit_test_batches": [-1, 1.5, "all", [1]],
    "limit_predict_batches": [-1, 1.5, "all", [1]],
    "val_check_interval": [-1, 1.5, "all", [1], {"a": 1}],
    "check_val_every_n_epoch": ["often", 0.5, [1], -1, 0],
    "log_every_n_steps": [-1, "often", 0.5, [1]],
    "accumulate_grad_batches": [0, -1, 1.5, "two", [1], None, {"4": 2}],
    "gradient_clip_val": ["a", [1], -1.0, {"a": 1}, math.nan, True],
    "gradient_clip_algorithm": ["sum", 3, [1], ""],
    "deterministic": ["maybe", 3, [1], 0.5],
    "benchmark": ["maybe", 3, [1]],
    "inference_mode": ["maybe", 3, [1], None],
    "detect_anomaly": ["maybe", 3, [1], None],
    "sync_batchnorm": ["maybe", 3, [1], None],
    "profiler": ["fast", 3, [1], {"a": 1}, ""],
    "enable_progress_bar": ["maybe", 3, [1]],
    "enable_model_summary": ["maybe", 3, [1]],
}


@st.composite
def trainers(draw: Any) -> Broken:
    """Trainer arguments that there are not, that are the chain's own, or of which Lightning makes nothing."""
    base = draw(st.sampled_from(RUNS))
    key = draw(st.sampled_from(sorted(NONSENSE)))
    wrong = draw(misspelled(key, TRAINER))
    owned = draw(st.sampled_from(sorted(OWNED)))
    return draw(
        st.sampled_from(
            [
                Broken([*base, f"trainer.{wrong.strip()}=1"], (wrong.strip(),)),
                Broken([*base, f"trainer.{owned}={draw(st.sampled_from([1, 'null', '[a]']))}"], (owned,)),
            ]
            + [Broken([*base, f"trainer.{key}={written(value)}"], (key,)) for value in NONSENSE[key]]
        )
    )


@st.composite
def trackers(draw: Any) -> Broken:
    """Settings of Weights & Biases that it would refuse, found before it is asked."""
    base = [word for word in draw(st.sampled_from(RUNS)) if word != "wandb.enabled=false"]
    bad = draw(st.sampled_from(["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "x" * 129, ""]))
    key, value = draw(
        st.sampled_from(
            [
                *(("project", name) for name in (bad, ["a"], {"a": 1})),
                *(("tags", tags) for tags in ([""], ["x" * 65], ["a", "a" * 300], [[1]], [None], {"a": 1})),
                *(("group", group) for group in (["a"], "x" * 129)),
                *(("entity", entity) for entity in (["a"], {"a": 1})),
                *(("mode", mode) for mode in ("of", "On line")),
                ("enabled", "maybe"),
            ]
        )
    )
    return draw(placed(base, f"wandb.{key}", value))


AXES: list[Any] = [
    {"seed": []}, {"seed": 3}, {"seed": None}, {"seed": "0,1"}, {"seed": {"a": 1}}, {"sed": [1]},
    {"seed,generations": [1]}, {"seed,generations": [[1]]}, {"seed,generations": [[1, 2, 3]]}, {"": [1]},
    {"model.hiden": [1]}, {"model.dim": [0]}, {"mitigation": ["acumulate"]}, {"data": ["mnst"]}, {"seed": ["a"]},
    {"generations": [2, 0]}, {"mitigations": ["EMA"]}, {"mitigations": [["Nothing"]]}, {",": [[1, 2]]},
    {"seed,": [[1, 2]]}, {"seed": [[1]]}, {"seed": [{}]}, {"seed": [None]}, {"data.rows": [10, -1]},
    {"model.ddof": [0, 5]}, {"model": ["gaussian", "vae/conf"]}, {"sweep": [1]}, {"a.b.c": [1]}, {"seed": [1.5]},
    {"wandb.mode": [["a"]]}, {"include": [["data/ring"]]}, {"model.dim": [1, 2]}, {"seed=1": [1]},
    {f"x{place}": [0] * 10 for place in range(12)}, {"model.name": ["VAE", "os.system"]}, {"data.replicates": [2, 3]},
]  # fmt: skip


@st.composite
def sweeps(draw: Any) -> Broken:
    """Axes without values, of keys there are not, or with places where nothing can be run."""
    content = draw(st.sampled_from(AXES))
    names = ("sweep", *(str(key).split(",")[0].split(".")[-1] for key in content))
    whole = {"include": ["data/gaussian", "model/gaussian"]}
    if draw(st.booleans()):
        text = yaml.safe_dump({**whole, "sweep": content}).encode()
        return Broken(["theory", "mine.yaml", "--workers=1"], names, {"mine.yaml": text})
    arguments = ["theory", "mine.yaml", f"sweep={written(content)}", "--workers=1"]
    return Broken(arguments, names, {"mine.yaml": yaml.safe_dump(whole).encode()})


# pairs that do not go together

ALL_FRESH = "mitigations=[{AnchorReplay:{fraction:1,rows:fresh}}]"
REPLICATED = ["data.replicates=2", "model=gaussian", "model.replicates=2"]
FEW_GOLD = ["data=gaussian", "model=gaussian", "data.rows=5"]
PRETRAINED = ["model=pretrained", "model.length=16"]
COINS = "mitigations=[{AnchorReplay:{fraction:0.5,rows:coin}}]"
UNFIT: list[tuple[list[str], tuple[str, ...]]] = [
    (["data=gaussian", "model=gaussian", "model.dim=2"], ("dim", "rows")),
    (["data=gaussian", "data.dim=3", "model=gaussian"], ("dim", "rows")),
    (["data=gaussian", "data.replicates=3", "model=gaussian"], ("replicates", "rows")),
    (["data=gaussian", "model=gaussian", "model.replicates=3"], ("replicates", "rows")),
    (["data=gaussian", "data.replicates=2", "model=gaussian", "model.replicates=3"], ("replicates", "rows")),
    (["data=digits", "model=gaussian"], ("rows", "shape")),
    (["data=digits", "model=ngram"], ("NGram", "rows")),
    (["data=digits", "model=categorical"], ("Categorical", "rows")),
    (["data=digits", "model=linear_regression"], ("LinearRegression", "rows")),
    (["data=gaussian", "model=categorical"], ("Categorical", "integers")),
    (["data=ring", "model=kde"], ("KDE", "rows")),
    (["data=ring", "model=vae/conv"], ("shape",)),
    (["data=ring", "model=vae", "model.shape=[3]"], ("shape", "rows")),
    (["data=digits", "model=vae", "model.shape=[1,8,9]"], ("shape", "rows")),
    (["data=digits", "model=vae", "model.shape=[64,2]"], ("shape", "rows")),
    (["data=categorical", "model=vae"], ("shape", "rows")),
    (["data=categorical", "model=categorical", "model.categories=3"], ("categories", "integers")),
    (["data=zipf", "model=categorical"], ("categories", "integers")),
    (["data=markov", "model=ngram", "model.length=15"], ("length", "rows")),
    (["data=markov", "model=ngram", "model.vocabulary=1"], ("vocabulary", "integers")),
    (["data=regression", "model=linear_regression", "model.dim=5"], ("dim", "rows")),
    (["data=gaussian", "model=histogram", "model.low=0"], ("low", "high")),
    (["data=gaussian", "model=histogram", "model.high=0.5"], ("low", "high")),
    (["data=gaussian_mixture", "model=gaussian_mixture", "model.components=2", "model.start=[[1]]"], ("start",)),
    (["data=digits", "model=vae", "mitigations=[{SIGReg:{weight:1,target:pixels}}]"], ("pixels",)),
    (["data=gaussian", "model=gaussian", "mitigation=sigreg"], ("latent",)),
    (["data=gaussian", "model=gaussian", "mitigation=ema"], ("EMA",)),
    (["data=digits", "model=vae", ALL_FRESH, "samples_per_generation=900"], ("fraction",)),
    (["data=digits", "model=vae", COINS, "samples_per_generation=900"], ("fraction",)),
    (["data=ring", "model=vae", "mitigations=[DataAccumulation,{AnchorReplay:{fraction:0.5,rows:coin}}]"], ("coin",)),
    (["data=digits", "data.held_out=0.9999", "model=vae"], ("held_out", "gold")),
    (["data=digits", "data.held_out=0.0001", "model=vae"], ("held_out", "reference")),
    (["data=regression", "data.design=orthonormal", "data.rows=2", "model=linear_regression"], ("rows",)),
    (["data=gaussian", "data.std=1.0e+308", "data.mean=1.0e+308", "model=gaussian"], ("infinite", "data")),
    (["data=digits", "mitigations=[{OutlierFilter:{rate:0.0001}}]"], ("rate",)),
    (["data=digits", "mitigations=[{OutlierFilter:{rate:0.0005}}]"], ("rate",)),
    (["data=digits", "mitigation=pool_gate", "samples_per_generation=1"], ("samples", "PoolGate")),
    ([*FEW_GOLD, "mitigation=pool_gate", "data.rows=1"], ("PoolGate", "rows")),
    ([*FEW_GOLD, "mitigations=[{OutlierFilter:{rate:0.5}}]"], ("neighbors",)),
    (["data=markov", "model=ngram", "mitigation=pool_gate"], ("PoolGate",)),
    (["data=zipf", "model=categorical", "model.categories=20000", "mitigation=outlier_filter"], ("OutlierFilter",)),
    (["data=gaussian", *REPLICATED, "mitigation=pool_gate"], ("PoolGate",)),
    (["data=markov", "model=pretrained"], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=/nowhere"], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=facebook/opt-125m"], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=/dev/null"], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=/", "model.scratch=true"], ("config.json",)),
    (["data=markov", *PRETRAINED, 'model.path="a\\0b"'], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=" + "x" * 5000], ("model (PretrainedLM)",)),
    (["data=markov", *PRETRAINED, "model.path=~nobody_at_all/x"], ("path",)),
    (["data=markov", *PRETRAINED, "model.path=/", "model.beams=5", "model.top_k=3"], ("beams",)),
    (["data=pydoc_text", "data.length=600000", "model={name: NGram}"], ("length",)),
    (["data=pydoc_text", "data.sha256=0123456a", "model={name: NGram}"], ("sha256",)),
    (["data=text_file", "model={name: NGram}"], ("path",)),
    (["data=text_file", "data.path=nowhere.txt", "model={name: NGram}"], ("path",)),
    (["data=text_file", "data.path=/dev/null", "model={name: NGram}"], ("path",)),
    (["data=text_file", "data.path=[]", "model={name: NGram}"], ("path",)),
    (["data=text_file", "data.path=" + "x" * 5000, "model={name: NGram}"], ("data (TextFile)",)),
    (["data=text_file", "data.path=~nobody_at_all/x", "model={name: NGram}"], ("path",)),
    (["data=mnist"], ("root",)),
    (["data=mnist", "data.root=nowhere"], ("root",)),
    (["data=cifar10", "data.root=/dev/null"], ("root",)),
    (["data=fashion_mnist", "data.root=[a]"], ("root",)),
    (["data=mnist", "data.root=3"], ("root",)),
    (["data=mnist", 'data.root="a\\0b"'], ("root",)),
    (["data=mnist", "data.root=" + "x" * 5000], ("data (MNIST)",)),
    (["data=mnist", "data.root=~nobody_at_all/x"], ("root",)),
]  # fmt: skip


@st.composite
def unfit(draw: Any) -> Broken:
    """Data, models and mitigations that are right each by itself."""
    pair, named = draw(st.sampled_from(UNFIT))
    seed = draw(st.sampled_from([[], ["seed=3"], ["generations=3"], ["initialization=same"], ["chunk_size=64"]]))
    own = [setting for setting in SMALL if setting.partition("=")[0] not in {word.partition("=")[0] for word in pair}]
    return Broken(["run", *own, *seed, *pair], named)


THEORYLESS = [
    "model=vae",
    "model=ngram",
    "data=markov",
    "model=histogram",
    "model=ppca",
    "model.name=Nothing",
    "data=mnist",
]
TWO_BUDGETS = ["epochs_per_generation=2", "steps_per_generation=3", "trainer.precision=64", "steps_per_generation=0"]


@st.composite
def theories(draw: Any) -> Broken:
    """Configs that can be read, and of which there is no theory."""
    base = draw(st.sampled_from(THEORIES))
    word = draw(st.sampled_from(THEORYLESS + TWO_BUDGETS))
    case = ["theory", "--workers=1", *base, word]
    if word.startswith(("model=", "data=")):
        case = ["theory", "--workers=1", word, *(["data=gaussian"] if word.startswith("model=") else [])]
    names = ("theory", "model", "data", "rows", "shape", "epochs_per_generation", "steps_per_generation", "root", "dim")
    return Broken(case, names)
