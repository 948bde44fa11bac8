"""Language models in Hugging Face's format, read from a folder of this machine: all that knows ``transformers``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from collapse.data.text import Pretrained, Tokenizer

if TYPE_CHECKING:
    from collapse.data.module import RecursiveDataModule

__all__ = [
    "begin_token",
    "check_tokenizer",
    "context_of",
    "evaluating",
    "fingerprint",
    "model_folder",
    "read_network",
    "recompute_activations",
]

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SAVE = "save_pretrained(FOLDER) writes it"


def model_folder(path: str, *, weights: bool) -> Path:
    """Return the folder of a model, once it is clear that it can be read without the network and without running code.

    Args:
        path: The folder; ``~`` is the home.
        weights: Whether it must hold weights and not its config alone.

    Raises:
        FileNotFoundError: If it does not exist, or a file is missing.
        ValueError: If it has pickled weights only, or an adapter to a model that lies elsewhere.
    """
    folder = Path(os.path.expanduser(path))  # noqa: PTH111 - the home of nobody is no folder, and no error
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path = {path!r} is no folder of this machine, and models are never downloaded here; where there is a "
            "network, save the model with save_pretrained(FOLDER), and give that folder"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"path = {path!r} holds no config.json, so it is no model's folder; {SAVE}")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"path = {path!r} holds an adapter, whose base model lies elsewhere; merge the two (merge_and_unload), "
            "and save the result with save_pretrained(FOLDER)"
        )
    if not weights or any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"path = {path!r} holds pickled weights only ({pickled[0]}), and to read a pickle is to run it; where you "
            "trust it, load the model and save it again: save_pretrained(FOLDER) writes safetensors"
        )
    raise FileNotFoundError(
        f"path = {path!r} holds no weights (model.safetensors); {SAVE}, and scratch=true draws random ones"
    )


def fingerprint(folder: Path, *, weights: bool) -> str:
    """Return the SHA-256 of what a model is made of: its config and, if they are read, its weights.

    A file is read again only when its place, size or time is another one.
    """
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *(folder.glob("*.safetensors") if weights else ())]):
        found = file.stat()
        digest.update(f"{file.name} {_sha256(file, found.st_ino, found.st_size, found.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _sha256(file: Path, inode: int, size: int, time: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_network(folder: Path, *, scratch: bool) -> Any:
    """Make a causal language model from a folder, in single precision and ready to be trained.

    Args:
        folder: From ``model_folder``.
        scratch: Draw the weights at random, from torch's global generator, by the config's rule.

    Raises:
        ValueError: If the folder holds no causal language model, or not all of its weights; or if transformers is not
            installed.
    """
    transformers = _transformers()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    report: dict[str, Any] = {"missing_keys": []}
    try:
        with _silent(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, **local)
            if scratch:
                network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            else:  # many are published in 16 bits, in which the steps of a fine-tuning are lost
                network, report = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
                )
    except Exception as error:  # what a damaged folder makes of it is open
        why = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ValueError(
            f"path = {str(folder)!r} cannot be read as a causal language model ({type(error).__name__}: {why}); save "
            "the model again, with save_pretrained(FOLDER)"
        ) from error
    if report["missing_keys"]:  # they would be drawn at random, and nobody would know
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"path = {str(folder)!r} lacks {len(missing)} of the network's tensors, {missing[0]!r} first; give a "
            "folder with all of them, or scratch=true"
        )
    network.generation_config = transformers.GenerationConfig()  # what its authors sample with is not this model's law
    _check_causal(network, folder)
    return network.train()  # it is read in evaluation mode, in which it would be trained without its dropout


def _check_causal(network: Any, folder: Path) -> None:
    """Raise ValueError unless a network predicts a token from those before it, and can remember them."""
    first = torch.tensor([[0, 0], [0, 1]], device=network.device)  # rows that differ in their second token
    with torch.no_grad(), evaluating(network):
        out = network(first, use_cache=True)
    ahead = not torch.allclose(out.logits[0, 0], out.logits[1, 0], atol=1e-4, equal_nan=True)
    if ahead or getattr(out, "past_key_values", None) is None:
        fault = "sees the tokens after the one it predicts" if ahead else "has no key-value cache to sample with"
        raise ValueError(
            f"path = {str(folder)!r} holds a model that {fault}; give a causal transformer (GPT-2, OPT, Llama)"
        )


def begin_token(config: Any) -> int:
    """Return the token that stands before a text: the model's begin token, or else its end token.

    Raises:
        ValueError: If it has neither.
    """
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < config.vocab_size:
            return token
    raise ValueError(
        "the model's config.json names neither bos_token_id nor eos_token_id, so that nothing can stand before the "
        "first token of a row; set bos_token_id there"
    )


def check_tokenizer(folder: Path, data: RecursiveDataModule) -> None:
    """Raise ValueError if data are text in other tokens than those of the model in a folder, as far as it has any."""
    if not isinstance(data.tokenizer, Tokenizer) or not (folder / "tokenizer.json").is_file():
        return
    if data.tokenizer.identity != Pretrained.read(folder).identity:
        raise ValueError(
            f"the text's tokenizer is not that of the model in {folder}, for which its tokens have no meaning; give "
            f"tokenizer={folder} to the data, or scratch=true to the model"
        )


def context_of(config: Any) -> float:
    """Return how many tokens a model can attend to; infinity where its config sets no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    return float("inf") if limit is None else limit


def recompute_activations(network: Any) -> None:
    """Let a network's blocks keep their inputs alone, and compute the rest again in the backward pass.

    Raises:
        ValueError: If it cannot.
    """
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # the second before transformers 5
    enable = next(getattr(network, name) for name in names if hasattr(network, name))
    enable({"use_reentrant": False})


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Do without dropout inside the block: it is no part of the model's law."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@contextlib.contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal; every generation reads the weights again."""
    say = transformers.utils.logging
    level, bars = say.get_verbosity(), say.is_progress_bar_enabled()
    say.set_verbosity_error()
    say.disable_progress_bar()
    try:
        yield
    finally:
        say.set_verbosity(level)
        if bars:
            say.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise ValueError("a pretrained language model needs transformers; pip install 'collapse[hf]'") from None
    return transformers
