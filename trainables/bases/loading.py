"""Base models that others have trained, from the Hub or from a local directory.

All base models are returned in the same form, frozen, with a fast tokenizer that has a chat template, so that the
engine need not tell them apart.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from settings.base_models import PretrainedModel
from settings.common.content import content_id, file_sha256
from settings.model_files import check_files, model_directory
from settings.tokenizer import fit_to_embedding, load_tokenizer
from trainables.engine.base import LoadedBase
from trainables.engine.forward import check_architecture
from trainables.engine.four_bit import four_bit_options, keep_layout
from trainables.engine.weights import load_model
from trainables.trial import AdapterConfig


def load_pretrained(spec: PretrainedModel, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    """Load a model from the directory or Hub repository that its source names.

    Raise UserError if there is no such model, it cannot be reached, or it lacks something that fine-tuning needs.
    """
    directory = model_directory(spec.source)
    model, tokenizer = _load(str(directory or spec.source), spec.revision, dtype, device, spec.quantize)
    if directory:
        identity = _directory_content_id(directory)
    else:  # the content id names the commit, whichever branch led to it
        commit = getattr(model.config, "_commit_hash", None) or spec.revision
        identity = content_id({"source": spec.source, "commit": commit})
    if spec.quantize:
        identity = content_id({"model": identity, "quantize": spec.quantize})
    return LoadedBase(model, tokenizer, identity, str(directory or spec.source))


def load_directory(
    directory: Path, model_content_id: str, dtype: torch.dtype, device: torch.device | str
) -> LoadedBase:
    """Load the model in a directory whose content id the caller knows. Raise UserError as `load_pretrained` does."""
    model, tokenizer = _load(str(directory), None, dtype, device)
    return LoadedBase(model, tokenizer, model_content_id, str(directory))


def _directory_content_id(directory: Path) -> str:
    """Hash configuration, tokenizer and weights: every JSON, text, template and safetensors file at the top level."""
    suffixes = {".json", ".txt", ".model", ".jinja", ".safetensors"}
    files = sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.is_file())
    return content_id({path.name: file_sha256(path) for path in files})


def _load(
    source: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device | str,
    quantize: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen model and its tokenizer."""
    check_files(source)
    tokenizer = load_tokenizer(source, revision)
    model = load_model(source, revision, dtype, four_bit_options(dtype, device) if quantize else {})
    fit_to_embedding(tokenizer, int(model.get_input_embeddings().num_embeddings), source)
    if quantize:
        keep_layout(model)
    else:
        model.to(device)
    model.eval().requires_grad_(False)
    check_architecture(model, AdapterConfig())
    return model, tokenizer
