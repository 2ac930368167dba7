"""LoRA adapters in PEFT's files: names of the tensors, `adapter_config.json`, reading and writing. No model.

Shape legend: R rank of an adapter, I and O in- and output features of a linear layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.common.errors import UserError
from trainables.projections import Factors
from trainables.trial import AdapterConfig


class LinearSizes(Protocol):
    """A linear layer, as far as an adapter must fit it."""

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int: ...


@dataclass(frozen=True)
class Stack:
    """The adapted blocks of a transformer: PEFT's name of their list, e.g. "layers", and their numbers in it."""

    name: str
    numbers: tuple[int, ...]


def to_peft(layers: Iterable[str], adapter: Sequence[Factors]) -> dict[str, Tensor]:
    """Copy the factors and name them as PEFT does."""
    tensors = {}
    for name, factors in zip(layers, adapter, strict=True):
        tensors[_key(name, "A")] = factors.A_RI.detach().clone()
        tensors[_key(name, "B")] = factors.B_OR.detach().clone()
    return tensors


def from_peft(layers: Mapping[str, LinearSizes], tensors: Mapping[str, Tensor], config: AdapterConfig) -> list[Factors]:
    """Read an adapter from tensors with PEFT's names. Raise UserError for missing, unknown or misshapen ones."""
    names = {_key(name, kind) for name in layers for kind in "AB"}
    if names != tensors.keys():
        raise UserError(f"adapter does not fit the model: layers differ at {sorted(names ^ tensors.keys())[0]!r}")
    adapter = []
    for name, layer in layers.items():
        shapes = {"A": (config.rank, layer.in_features), "B": (layer.out_features, config.rank)}
        for kind, shape in shapes.items():
            key = _key(name, kind)
            if tuple(tensors[key].shape) != shape:
                raise UserError(f"adapter tensor {key!r} is {tuple(tensors[key].shape)}, not {shape}")
        adapter.append(Factors(tensors[_key(name, "A")], tensors[_key(name, "B")], config.scale))
    return adapter


def _key(layer: str, kind: str) -> str:
    return f"base_model.model.{layer}.lora_{kind}.weight"


def save_peft(
    directory: Path,
    layers: Sequence[str],
    adapter: Sequence[Factors],
    config: AdapterConfig,
    base_model: str,
    stack: Stack,
    *,
    transposed: bool,
) -> None:
    """Write a checkpoint that `peft.PeftModel.from_pretrained` loads.

    Args:
        directory: created if needed.
        base_model: the name or path that the checkpoint names as its base model.
        stack: the adapted blocks, if not all blocks are.
        transposed: whether the layers are Conv1D, which store their weights transposed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in to_peft(layers, adapter).items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    described = json.dumps(peft_config(config, layers, base_model, stack, transposed), indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(described + "\n", encoding="utf-8")


def load_peft(directory: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read a LoRA checkpoint's configuration and factors, safetensors only. Raise UserError if there is none."""
    weights, description = directory / "adapter_model.safetensors", directory / "adapter_config.json"
    for path in (weights, description):
        if not path.is_file():
            raise UserError(f"not a PEFT checkpoint: {path} is missing")
    config = json.loads(description.read_text(encoding="utf-8"))
    targets = tuple(config["target_modules"])
    adapter = AdapterConfig(
        rank=config["r"],
        alpha=config["lora_alpha"],
        rslora=config.get("use_rslora", False),
        targets=targets,
        layers=config.get("layers_to_transform") or "all",
    )
    return adapter, load_file(weights)


def peft_config(
    config: AdapterConfig, layers: Sequence[str], base_model: str, stack: Stack, transposed: bool
) -> dict[str, Any]:
    """Return the content of `adapter_config.json`."""
    chosen = {"layers_to_transform": list(stack.numbers), "layers_pattern": stack.name}
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "task_type": "CAUSAL_LM",
        "use_rslora": config.rslora,
        **({} if config.layers == "all" else chosen),
    }
