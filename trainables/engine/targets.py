"""Which layers of a model adapters may sit on, and which models no adapter can be trained on.

Shape legend: I and O in- and output features of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from settings.common.errors import UserError
from trainables.engine.four_bit import is_four_bit, wide_weight
from trainables.engine.process_group import layers_of
from trainables.trial import AdapterConfig

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)  # GPT-2 has Conv1D: a linear layer that stores W as [I, O]
MAY_BE_DENSE = ("fp8", "metal", "mxfp4")  # transformers loads these as plain weights if it has no kernels for them
TRAINABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def weight_of(layer: Any) -> Tensor:
    """Return a layer's weight as `[O, I]`: a view of the parameter, or a dequantised copy if it has four bits."""
    if is_four_bit(layer):
        return wide_weight(layer)
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def sizes_of(layer: Any) -> tuple[int, int]:
    """Return the numbers of in- and output features."""
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)


def target_names(model: nn.Module, config: AdapterConfig) -> list[str]:
    """Return the names of the linear layers to adapt, in the model's order.

    "all-linear" leaves out the output head, as PEFT does. Layers outside the blocks are adapted if all blocks are.

    Raises:
        UserError: a target matches no layer, or the model has no linear layers, too few blocks or quantised weights.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR) and module is not head]
    if not linear:
        raise UserError(f"{_title(getattr(model, 'config', None))} has no linear layers that an adapter could sit on")
    config.check_targets({name.rpartition(".")[2] for name in linear})
    names = [name for name in linear if config.targets == "all-linear" or name.rpartition(".")[2] in config.targets]
    if config.layers != "all":
        blocks = block_numbers(model)
        wanted = set(config.layer_numbers(len(layers_of(model))))
        there = [name for name in linear if blocks.get(name) in wanted]
        names = [name for name in names if name in there]
        if not names:
            raise UserError(
                f"adapter options 'targets' and 'layers' match no common layer: {config.layers_text!r} has no"
                f" {config.targets_text!r}, but {', '.join(sorted({name.rpartition('.')[2] for name in there}))}"
            )
    for name in names:
        layer = model.get_submodule(name)
        weight: Any = layer.weight
        if not is_four_bit(layer) and (getattr(model, "is_quantized", False) or weight.dtype not in TRAINABLE):
            raise _quantised(model.config, f"{name}: {str(weight.dtype).removeprefix('torch.')}")
    return names


def block_names(model: nn.Module) -> list[str]:
    """Return the names of a transformer's blocks, in order."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(block)] for block in layers_of(model)]


def block_numbers(model: nn.Module) -> dict[str, int]:
    """Return the number of the block that each module is in, by the module's name; others are left out."""
    blocks = zip(block_names(model), layers_of(model), strict=True)
    return {
        f"{name}.{inner}": number for number, (name, block) in enumerate(blocks) for inner, _ in block.named_modules()
    }


def lowest_block(model: nn.Module, adapters: Iterable[AdapterConfig]) -> int:
    """Return the lowest block that any of these adapters sits in; layers outside blocks count as 0. Raise UserError."""
    blocks = block_numbers(model)
    return min(blocks.get(name, 0) for adapter in adapters for name in target_names(model, adapter))


def check_not_quantised(config: PreTrainedConfig) -> None:
    """Raise UserError for a configuration whose weights stay quantised once loaded."""
    note = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not note:
        return
    facts: Mapping[str, Any] = note if isinstance(note, Mapping) else note.to_dict()
    method = str(facts.get("quant_method", "in an unknown way"))
    if method not in MAY_BE_DENSE and not facts.get("dequantize"):
        raise _quantised(config, method)


def adapted_share(model: PreTrainedModel, names: Iterable[str]) -> float:
    """Return the share of the parameters between embedding and output head that are in layers of these names."""
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    outside = {id(parameter) for module in ends for parameter in module.parameters()}
    between = [each for each in model.parameters() if each.ndim >= 2 and id(each) not in outside]
    adapted = sum(math.prod(sizes_of(model.get_submodule(name))) for name in names)
    return adapted / max(1, sum(_numel(parameter) for parameter in between))


def _numel(parameter: Any) -> int:
    """Return how many numbers a parameter represents, in however few bits."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel()) if state is None else math.prod(state.shape)


def check_attention(model: PreTrainedModel) -> None:
    """Refuse a model that reads token by token into a state, as state-space models do. Raise UserError.

    PEFT refuses adapters on some of them, and a batch of replies needs a cache whose rows can be selected.
    """
    layers = DynamicCache(config=model.config).layers
    recurrent = any(not hasattr(layer, "batch_select_indices") for layer in layers)
    if recurrent or getattr(model, "_is_stateful", False):
        raise UserError(
            f"{_title(model.config)} reads its tokens into a state (state-space, recurrent or convolution layers),"
            " which is not supported; use a model whose layers are all attention"
        )


def _quantised(config: Any, how: str) -> UserError:
    """Return the error for a model with quantised weights."""
    return UserError(
        f"{_title(config)} has quantised weights ({how}), on which no adapter is trained here; use the model that"
        " it was quantised from"
    )


def _title(config: Any) -> str:
    kind = getattr(config, "model_type", None)
    return f"a model of type {kind!r}" if kind else "the model"
