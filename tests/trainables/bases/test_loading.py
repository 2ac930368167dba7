"""Models of others load like nano models, and one that cannot be used is refused in one line."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from tests.trainables.bases.nano import NANO, same
from trainables.bases.load_base import load_base


def test_a_local_checkpoint_loads(checkpoint: Path) -> None:
    base = load_base(PretrainedModel(str(checkpoint)))
    assert base.source == str(checkpoint)
    assert same(dict(base.model.state_dict()), dict(load_base(NANO).model.state_dict()))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_the_id_of_a_local_checkpoint_follows_its_files(checkpoint: Path, name: str) -> None:
    before = load_base(PretrainedModel(str(checkpoint))).content_id
    assert load_base(PretrainedModel(str(checkpoint))).content_id == before
    path = checkpoint / name
    if name == "model.safetensors":
        weights = load_file(path)
        weights["model.norm.weight"][0] += 1
        save_file(weights, path, metadata={"format": "pt"})
    else:
        path.write_text(path.read_text() + "\n")
    assert load_base(PretrainedModel(str(checkpoint))).content_id != before


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "../nowhere", "~/nowhere/model"])
def test_a_missing_directory_is_named(source: str) -> None:
    with pytest.raises(UserError, match=f"^no such model directory: {source}$"):
        load_base(PretrainedModel(source))


def broken(checkpoint: Path, how: str) -> None:
    """Damage a checkpoint."""
    weights = checkpoint / "model.safetensors"
    if how == "no config":
        (checkpoint / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "pickled weights":
        torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "bad config":
        (checkpoint / "config.json").write_text("{")
    elif how == "no template":
        (checkpoint / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "it has no config.json"),
        ("no weights", "cannot load the model in"),
        ("pickled weights", "cannot load the model in"),
        ("cut weights", "cannot load the model in"),
        ("bad config", "cannot load the model in"),
        ("no template", "has no chat template"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(checkpoint: Path, how: str, message: str) -> None:
    broken(checkpoint, how)
    with pytest.raises(UserError, match=message) as caught:
        load_base(PretrainedModel(str(checkpoint)))
    assert str(checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_pad_token_the_end_pads(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token": "<pad>"', '"pad_token": null'))
    tokenizer = load_base(PretrainedModel(str(checkpoint))).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_unreachable_hub_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download someone/no-such-model --local-dir DIR") as caught:
        load_base(PretrainedModel("someone/no-such-model"))
    assert "\n" not in str(caught.value)
