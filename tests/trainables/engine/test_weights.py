"""Weights that do not fit their architecture are refused: transformers makes up what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from trainables.bases.load_base import load_base
from trainables.engine.weights import load_model

Weights = dict[str, Tensor]


def _without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


CHANGES: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "prefixed by a merge": (
        lambda weights: {f"base_model.model.{name}": value for name, value in weights.items()},
        "missing, e.g. .*; its names carry the prefix 'base_model.model.'",
    ),
    "one missing": (
        lambda weights: _without(weights, "model.norm.weight"),
        "1 tensors of its architecture are missing, e.g. model.norm.weight",
    ),
    "a layer too many": (
        lambda weights: weights | {"model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)},
        "1 tensors have no place in it, e.g. model.layers.9.mlp.up_proj.weight",
    ),
    "another shape": (
        lambda weights: weights | {"model.norm.weight": torch.ones(5)},
        r"1 tensors have another shape, e.g. model.norm.weight \(\(5,\) and not \(\d+,\)\)",
    ),
}


@pytest.fixture
def directory(tiny_qwen3_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_qwen3_dir, tmp_path / "model"))


@pytest.mark.parametrize("how", CHANGES)
def test_weights_that_do_not_fit_are_refused(directory: Path, how: str) -> None:
    change, message = CHANGES[how]
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message) as caught:
        load_model(str(directory), None, torch.float32)
    assert "\n" not in str(caught.value)


def test_tied_weights_are_not_missing(tiny_gemma_dir: Path) -> None:
    assert "lm_head.weight" not in load_file(tiny_gemma_dir / "model.safetensors")
    load_model(str(tiny_gemma_dir), None, torch.float32)


def test_an_adapter_beside_the_model_is_refused(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has a PEFT adapter next to a model .*merge it"):
        load_base(PretrainedModel(str(directory)))


def test_an_adapter_alone_is_no_model(directory: Path) -> None:
    (directory / "config.json").rename(directory / "adapter_config.json")
    with pytest.raises(UserError, match="is a PEFT adapter, not a model"):
        load_base(PretrainedModel(str(directory)))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(directory: Path, name: str) -> None:
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=f"{name} is a git-lfs pointer, .* run `git lfs pull`"):
        load_base(PretrainedModel(str(directory)))


def test_a_tokenizer_of_a_newer_library_is_one_line(directory: Path) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["type"] = "SomethingNew"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"written by a newer version than the installed tokenizers \d") as caught:
        load_base(PretrainedModel(str(directory)))
    assert "\n" not in str(caught.value)


def test_padding_that_the_model_does_not_know_is_done_with_the_end(directory: Path) -> None:
    """Llama and Mistral models are often given a pad token in the tokenizer alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    size = load_model(str(directory), None, torch.float32).get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"extra{number}" for number in range(size - len(tokenizer) + 1)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= size
    tokenizer.save_pretrained(directory)
    base = load_base(PretrainedModel(str(directory)))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id < size
