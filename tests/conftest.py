"""What every test may rely on."""

import logging

import pytest

from collapse.seeding import keyed_rng

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


@pytest.fixture(scope="session")
def language_models(tmp_path_factory):
    """Folders of tiny language models with random weights, by architecture: 257 tokens, of which 256 begins a text."""
    import transformers  # takes seconds

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 48}
    tokens = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    configs = {
        "gpt2": transformers.GPT2Config(**sizes, **tokens, initializer_range=0.2),
        "opt": transformers.OPTConfig(**sizes, **tokens, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2),
        "llama": transformers.LlamaConfig(**sizes, **tokens, intermediate_size=64, initializer_range=0.2),
    }
    root = tmp_path_factory.mktemp("language_models")
    transformers.utils.logging.disable_progress_bar()
    with keyed_rng(0):
        for name, config in configs.items():
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    return {name: root / name for name in configs}
