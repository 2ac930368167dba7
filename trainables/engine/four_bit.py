"""Linear layers whose frozen weights are kept in four bits: NF4 of QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

The package `bitsandbytes` quantises a model as it is loaded, and is imported only for this. A weight is dequantised for
each product, forward and backward, and not kept. Embeddings, norms and the head stay as they are.

Shape legend: I and O in- and output features of a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from settings.model_files import check_four_bit


def four_bit_options(dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """Return the arguments with which transformers quantises a model to NF4 on a device, for products in `dtype`.

    Raise UserError if bitsandbytes is not installed.
    """
    check_four_bit()
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": how, "device_map": {"": device}}


def keep_layout(model: PreTrainedModel) -> None:
    """Keep layers from repacking their weights for a kernel of some CPUs, in a layout that only this kernel reads."""
    for layer in model.modules():
        if is_four_bit(layer) and hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def is_four_bit(layer: Any) -> bool:
    """Return whether a layer keeps its weight in four bits."""
    return isinstance(layer, nn.Linear) and getattr(layer.weight, "quant_state", None) is not None


def wide_dtype(layer: Any) -> torch.dtype:
    """Return the type of a layer's dequantised weight."""
    dtype: torch.dtype = layer.weight.quant_state.dtype
    return dtype


def wide_weight(layer: Any) -> Tensor:
    """Return a layer's dequantised weight `[O, I]`."""
    from bitsandbytes.functional import dequantize_4bit

    weight_OI: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight_OI
