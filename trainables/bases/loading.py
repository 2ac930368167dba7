"""Base models that others have trained, from the Hub or from a local directory.

All base models come back the same way, frozen, with a fast tokenizer that has a chat template, so that the engine does
not see which is which.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from settings.base_models import PretrainedModel
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.model_files import model_directory
from trainables.engine.base import LoadedBase, load_model, no_progress_bars, why_not_loaded


def load_pretrained(spec: PretrainedModel, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    """Load a model from the directory or the Hub's repository that its source names.

    Raise UserError when there is no such model, it cannot be reached, or it lacks what fine-tuning needs.
    """
    directory = model_directory(spec.source)
    if directory:
        return load_directory(directory, _directory_content_id(directory), dtype, device)
    return _load_from_hub(spec, dtype, device)


def load_directory(
    directory: Path, model_content_id: str, dtype: torch.dtype, device: torch.device | str
) -> LoadedBase:
    """Load the model in a directory, whose content id the caller knows. Raise UserError as `load_pretrained` does."""
    model, tokenizer = _load(str(directory), None, dtype, device)
    return LoadedBase(model, tokenizer, model_content_id, str(directory))


def _directory_content_id(directory: Path) -> str:
    """Hash configuration, tokenizer and weights: every JSON, text, template and safetensors file at the top."""
    suffixes = {".json", ".txt", ".model", ".jinja", ".safetensors"}
    files = sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.is_file())
    return content_id({path.name: _file_hash(path) for path in files})


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_from_hub(spec: PretrainedModel, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    """Load from the Hub or its local cache. The content id names the commit, whatever branch led to it."""
    model, tokenizer = _load(spec.source, spec.revision, dtype, device)
    commit = getattr(model.config, "_commit_hash", None) or spec.revision
    return LoadedBase(model, tokenizer, content_id({"source": spec.source, "commit": commit}), spec.source)


def _load(
    source: str, revision: str | None, dtype: torch.dtype, device: torch.device | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen model and its tokenizer. Code that comes with them is never run, pickled weights are never read."""
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    model = load_model(source, revision, dtype)
    _check_tokenizer(tokenizer, source)
    model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer without an end or a chat template; pad with the end token where there is no pad token."""
    if not tokenizer.is_fast:
        raise UserError(f"the model {source} has no fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {source} has no eos_token, so a reply would never end")
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {source} has no chat template; use the model's instruction-tuned version")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
