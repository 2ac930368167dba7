"""The frozen base model as the engine needs it.

Shape legend: I and O in- and output features of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from settings.base_models import BaseModel
from settings.common.errors import UserError
from settings.model_files import model_directory
from settings.setting import Setting
from trainables.engine.batches import EncodedSetting
from trainables.engine.targets import LINEAR, weight_of
from trainables.engine.weights import load_model
from trainables.projections import WeightDirection


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base model, ready for fine-tuning with adapters.

    Attributes:
        model: the model in evaluation mode; no parameter requires a gradient.
        tokenizer: a fast tokenizer with pad and eos tokens and a chat template.
        content_id: content id of the weights and tokenizer.
        source: the Hub id or directory it was loaded from, which PEFT checkpoints name as their base model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    content_id: str
    source: str
    _encoded: dict[tuple[int, int], EncodedSetting] = field(default_factory=dict, repr=False, compare=False)

    def encoded(self, setting: Setting, max_length: int) -> EncodedSetting:
        """Return a setting as tokens of this model; each setting object is encoded once, for all packs."""
        key = (id(setting), max_length)  # the encoded setting keeps the object alive, so its id is not reused
        if key not in self._encoded:
            known = int(self.model.get_input_embeddings().num_embeddings)
            self._encoded[key] = EncodedSetting(setting, self.tokenizer, max_length, known)
        return self._encoded[key]


def tuning_directions(spec: BaseModel, layers: Mapping[str, Tensor]) -> list[WeightDirection]:
    """Return, layer by layer, how the base model's weights differ from `PretrainedModel.pretrained`.

    Args:
        layers: name -> the base model's weights `[O, I]`.

    Raises:
        UserError: the setting names no pretrained model, it cannot be loaded, or its layers have different shapes.
    """
    source = spec.pretrained
    if source is None:
        raise UserError("the setting names no pretrained model that its base model was tuned from")
    source = str(model_directory(source) or source)
    before_tuning = dict(load_model(source, None, torch.float32).named_modules())
    directions = []
    for name, tuned_OI in layers.items():
        layer = before_tuning.get(name)
        before = weight_of(layer) if isinstance(layer, LINEAR) else None
        if before is None or before.shape != tuned_OI.shape:
            raise UserError(f"{source} is not what the base model was tuned from: its layer {name!r} does not fit")
        directions.append(WeightDirection(tuned_OI.detach(), before.detach()))
    return directions
