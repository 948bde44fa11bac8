"""The folders that pretrained language models are read from: what is read, and what is refused."""

import json
import shutil
import socket
import sys

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from collapse.config import ConfigError, load
from collapse.config.build import build_data, build_model
from collapse.config.execute import run
from collapse.data import Contaminated
from collapse.data.text import TextFile
from collapse.models import PretrainedLM
from collapse.models.huggingface import fingerprint
from collapse.seeding import generator, keyed_rng

END = 256  # begin and end token of the tiny models
ARCHITECTURES = ["gpt2", "opt", "llama"]


def made(folder, length=12, **options):
    with keyed_rng(3):
        return PretrainedLM(str(folder), length, **{"prompt": 0, **options})


@pytest.fixture(params=ARCHITECTURES)
def folder(request, language_models):
    return language_models[request.param]


@pytest.fixture
def gpt2(language_models):
    return language_models["gpt2"]


@pytest.fixture
def copied(gpt2, tmp_path):
    """A folder of one's own to spoil."""
    return shutil.copytree(gpt2, tmp_path / "model")


# the weights


def test_weights_are_those_of_the_file_in_single_precision(copied):
    stored = {name: value.half() for name, value in load_file(copied / "model.safetensors").items()}
    save_file(stored, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    network = made(copied).network
    found = dict(network.named_parameters())
    assert all(torch.equal(found[name], value.float()) for name, value in stored.items())
    scratch = made(copied, scratch=True).network
    assert {value.dtype for value in [*found.values(), *scratch.parameters()]} == {torch.float32}


def test_from_scratch_the_weights_are_drawn_under_the_key(copied):
    (copied / "model.safetensors").unlink()
    first, again = (dict(made(copied, scratch=True).named_parameters()) for _ in range(2))
    with keyed_rng(4):
        other = dict(PretrainedLM(str(copied), 12, prompt=0, scratch=True).named_parameters())
    name = "network.transformer.wte.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert float(first[name].detach().std()) == pytest.approx(0.2, rel=0.05)  # its config's initializer_range


def test_what_was_read_is_part_of_the_identity(copied):
    model = made(copied)
    assert model.arguments["sha256"] == model.sha256 == fingerprint(copied, weights=True)
    assert f"sha256='{model.sha256}'" in model.describe()
    assert made(copied, sha256=model.sha256).sha256 == model.sha256
    stored = load_file(copied / "model.safetensors")
    save_file({**stored, "transformer.ln_f.bias": torch.ones(32)}, copied / "model.safetensors", {"format": "pt"})
    assert made(copied).sha256 != model.sha256
    assert made(copied, scratch=True).sha256 == fingerprint(copied, weights=False) != model.sha256
    with pytest.raises(ValueError, match=rf"sha256 = '{model.sha256}' is asked for: its files have changed"):
        model.twin()


def test_nothing_asks_the_network(folder, monkeypatch):
    def refused(*unused):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    made(folder).sample(1, generator(0))
    with pytest.raises(FileNotFoundError, match=r"path = 'facebook/opt-125m' is no folder .* never downloaded"):
        made("facebook/opt-125m")


# what is refused


def without(*files):
    return lambda folder: [(folder / name).unlink() for name in files]


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder):
    stored = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(stored[: len(stored) // 2])


def incomplete(folder):
    stored = load_file(folder / "model.safetensors")
    del stored["transformer.h.1.mlp.c_fc.bias"]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


def nameless(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": None, "eos_token_id": None}))


def with_code(folder):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    maps = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": maps}))


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def no_json(folder):
    (folder / "config.json").write_text("{")


def looking_ahead(folder):
    config = transformers.BertConfig(
        vocab_size=257, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0
    )
    (folder / "model.safetensors").unlink()
    config.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "kind", "sentence"),
    [
        (shutil.rmtree, FileNotFoundError, "is no folder of this machine, and models are never downloaded"),
        (without("config.json"), FileNotFoundError, "holds no config.json, so it is no model's folder"),
        (without("model.safetensors"), FileNotFoundError, "holds no weights .*scratch=true draws random ones"),
        (pickled, ValueError, r"holds pickled weights only \(pytorch_model.bin\), and to read a pickle is to run it"),
        (adapter, ValueError, "holds an adapter, whose base model lies elsewhere"),
        (cut_short, ValueError, "cannot be read as a causal language model"),
        (no_json, ValueError, "cannot be read as a causal language model"),
        (incomplete, ValueError, "lacks 1 of the network's tensors, 'transformer.h.1.mlp.c_fc.bias' first"),
        (nameless, ValueError, "config.json names neither bos_token_id nor eos_token_id"),
        (with_code, ValueError, "cannot be read as a causal language model"),
    ],
    ids=["folder", "config", "weights", "pickle", "adapter", "half", "no_json", "tensor", "begin", "code"],
)
def test_a_folder_that_is_no_model_is_refused(copied, spoil, kind, sentence):
    spoil(copied)
    with pytest.raises(kind, match=sentence) as caught:
        made(copied)
    assert "\n" not in str(caught.value)
    assert not (copied / "ran").exists()


def test_a_model_that_looks_ahead_is_refused(copied):
    looking_ahead(copied)
    with pytest.raises(ValueError, match="holds a model that sees the tokens after the one it predicts"):
        made(copied, scratch=True)


# from a config


def built(*overrides):
    config = load(None, ["model=pretrained", *overrides]).config
    return build_model(config, build_data(config))


def test_a_config_needs_a_folder_alone(folder):
    rows = ("data=markov", "model.length=16", "model.prompt=32")
    model = built(*rows, f"model.path={folder}")
    assert model.sampler_settings == {"prompt": 32}
    assert model.network.config.model_type == folder.name
    with pytest.raises(ConfigError, match="model: PretrainedLM needs 'path'"):
        built(*rows)
    with pytest.raises(ConfigError, match=r"model \(PretrainedLM\): path = '/nowhere' is no folder of this machine"):
        built(*rows, "model.path=/nowhere")


@pytest.fixture
def literate(copied):
    """A model's folder with a tokenizer in it, and beside it a text."""
    tokens = {token: place for place, token in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({**tokens, "<end>": END}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(copied / "tokenizer.json"))
    (copied / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (copied.parent / "text.txt").write_text("".join(f"The {number}th line of a text.\n\n" for number in range(200)))
    return copied


def test_the_text_must_be_in_the_tokens_of_the_model(literate):
    path, options = str(literate.parent / "text.txt"), {"length": 12, "documents": "paragraph"}
    own, bytes_ = TextFile(path, tokenizer=str(literate), **options), TextFile(path, tokenizer="bytes", **options)
    model = made(literate, vocabulary=own.vocabulary, prompt=8)
    y = model.conditions(own).draw(3, generator(0))
    assert {own.decode(row) for row in y} <= {own.decode(row) for row in own.prompts(8)}
    with pytest.raises(ValueError, match=r"the text's tokenizer is not that of the model in .*, for which its tokens"):
        model.conditions(bytes_)
    for depth in (1, 2):  # what leaks into a text, or twice, is in its tokens
        own, bytes_ = Contaminated(own, 0.1, "marginals"), Contaminated(bytes_, 0.1, "marginals")
        assert model.conditions(own).draw(3, generator(0)).equal(y), depth
        with pytest.raises(ValueError, match="the text's tokenizer is not that of the model"):
            model.conditions(bytes_)
    assert made(literate, scratch=True).conditions(bytes_) is None
    (literate / "tokenizer.json").unlink()
    assert made(literate).conditions(bytes_) is None


def test_a_run_fine_tunes_on_a_text_file(literate, tmp_path):
    settings = [
        "data=text_file", f"data.path={literate.parent / 'text.txt'}", f"data.tokenizer={literate}", "data.length=12",
        "data.documents=paragraph", "model=pretrained", f"model.path={literate}", "model.prompt=8",
        "wandb.enabled=false", "evaluation.enabled=false", "generations=2", "epochs_per_generation=1",
        "samples_per_generation=20", f"out={tmp_path / 'run'}", "model.learning_rate=0.001",
    ]  # fmt: skip
    chain = run(load(None, settings))
    assert [record.counts["kept"] for record in chain.records] == [20, 20]
    identity = json.loads((tmp_path / "run/run.json").read_text())
    assert f"sha256='{fingerprint(literate, weights=True)}'" in identity["model"]
    assert json.loads((tmp_path / "run/generations/gen_001/manifest.json").read_text())["facts"]["sampler"] == {
        "prompt": 8
    }


def test_a_missing_extra_is_named(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs transformers; pip install 'collapse\[hf\]'"):
        made(gpt2)
