"""The frozen base model as the engine needs it, and the weights of one that lies in a directory or on the Hub.

Shape legend: I and O in- and output features of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from settings.base_models import BaseModel
from settings.common.errors import UserError
from settings.model_files import model_directory
from settings.setting import Setting
from trainables.engine.batches import EncodedSetting
from trainables.projections import WeightDirection


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base model, ready to be fine-tuned around.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        tokenizer: fast, with pad and eos tokens and a chat template.
        content_id: of the weights and tokenizer.
        source: where it was loaded from, a Hub id or a directory; what a PEFT checkpoint names as its base.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    content_id: str
    source: str
    _encoded: dict[tuple[int, int], EncodedSetting] = field(default_factory=dict, repr=False, compare=False)

    def encoded(self, setting: Setting, max_length: int) -> EncodedSetting:
        """Return a setting as tokens of this model; one setting object is encoded once, for all packs."""
        key = (id(setting), max_length)  # the encoded setting holds the object, so its id is not reused
        if key not in self._encoded:
            self._encoded[key] = EncodedSetting(setting, self.tokenizer, max_length)
        return self._encoded[key]


def tuning_directions(spec: BaseModel, layers: Mapping[str, Tensor]) -> list[WeightDirection]:
    """Return what tuning changed in the base model's weights, layer by layer, since `PretrainedModel.pretrained`.

    Args:
        layers: name -> the base model's weights `[O, I]`.

    Raises:
        UserError: the setting names no pretrained model, it cannot be loaded, or its layers have other shapes.
    """
    source = spec.pretrained
    if source is None:
        raise UserError("the setting names no pretrained model that its base model was tuned from")
    source = str(model_directory(source) or source)
    weights = dict(load_model(source, None, torch.float32).named_parameters())
    directions = []
    for name, tuned_OI in layers.items():
        before = weights.get(f"{name}.weight")
        if before is None or before.shape != tuned_OI.shape:
            raise UserError(f"{source} is not what the base model was tuned from: its layer {name!r} does not fit")
        directions.append(WeightDirection(tuned_OI.detach(), before.detach()))
    return directions


def load_model(source: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    try:
        with no_progress_bars():
            return AutoModelForCausalLM.from_pretrained(
                source, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=dtype
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(why_not_loaded(source, error)) from error


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off the progress bars of transformers, which would tear the display of a sweep."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def why_not_loaded(source: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if Path(source).is_dir():
        return f"cannot load the model in {source}: {reason}"
    return (
        f"cannot load the model {source!r} from the Hugging Face Hub; where there is a network, run"
        f" `hf download {source} --local-dir DIR`, and give DIR as the model here: {reason}"
    )
