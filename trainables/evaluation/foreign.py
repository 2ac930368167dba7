"""Adapters that were trained elsewhere, evaluated side by side in one copy of the base model.

PEFT's LoRA checkpoints of any ranks, layers and targets share a pack: layers that one does not adapt are zero. What a
pack cannot hold is refused, and the message names the field that asks for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from settings.common.errors import UserError
from settings.setting import Setting
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase
from trainables.engine.edits.files import load_edits
from trainables.engine.targets import block_numbers
from trainables.evaluation.evaluate import Evaluated, Progress, evaluate
from trainables.interface.edits import Edit
from trainables.trial import AdapterConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PACK = 16  # adapters evaluated at a time
PREFIX, KINDS = "base_model.model.", ("lora_A", "lora_B")
# Fields of PEFT's LoRA configuration that must be off, because a pack of plain LoRA adapters cannot hold them.
MUST_BE_OFF = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
)
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that change the base model


@dataclass(frozen=True)
class ForeignAdapter:
    """A PEFT LoRA checkpoint.

    Attributes:
        directory: its directory.
        base_model: the base model that it names.
        rank, alpha, rslora: see `AdapterConfig`.
        tensors: the factors by PEFT's names.
        edits: edits of hidden states, if stored beside it.
    """

    directory: Path
    base_model: str
    rank: int
    alpha: float
    rslora: bool
    tensors: Mapping[str, Tensor]
    edits: tuple[Edit, ...] = ()

    @property
    def layers(self) -> list[str]:
        """The names of the adapted layers."""
        return sorted({_layer_of(key) for key in self.tensors})

    def config_for(self, base: LoadedBase) -> AdapterConfig:
        """Return the smallest configuration of this base model that covers the adapted layers. Raise UserError."""
        modules, blocks = dict(base.model.named_modules()), block_numbers(base.model)
        unknown = [layer for layer in self.layers if layer not in modules]
        if unknown:
            raise UserError(f"{self.directory}: the base model {base.source} has no layer {unknown[0]!r}")
        numbers = {blocks.get(layer) for layer in self.layers}
        everywhere = None in numbers or numbers == set(blocks.values())
        return AdapterConfig(
            rank=self.rank,
            alpha=self.alpha,
            rslora=self.rslora,
            targets=tuple(sorted({layer.rpartition(".")[2] for layer in self.layers})),
            layers="all" if everywhere else tuple(sorted(number for number in numbers if number is not None)),
        )


def _layer_of(key: str) -> str:
    return key.removeprefix(PREFIX).rpartition(".lora_")[0]


def read_adapter(directory: Path) -> ForeignAdapter:
    """Read a LoRA checkpoint. Raise UserError that names the field that a pack cannot hold."""
    config = _config(directory)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{directory / CONFIG}: peft_type is {kind!r}; only 'LORA' can be scored")
    if config.get("bias", "none") != "none":
        raise UserError(f"{directory / CONFIG}: bias is {config['bias']!r}; only 'none' can be scored")
    for field in MUST_BE_OFF:
        if config.get(field):
            shown = json.dumps(config[field])
            raise UserError(f"{directory / CONFIG}: {field} is {shown[:60]}; an adapter that uses it cannot be scored")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise UserError(f"{directory / CONFIG}: init_lora_weights is {start!r}, which changes the base model's weights")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise UserError(f"{directory / CONFIG}: r is {rank!r} and lora_alpha {alpha!r}; both must be positive numbers")
    tensors = _tensors(directory, rank)
    base, rslora = str(config.get("base_model_name_or_path")), bool(config.get("use_rslora"))
    return ForeignAdapter(directory, base, rank, float(alpha), rslora, tensors, load_edits(directory))


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    if not path.is_file():
        hint = "; a whole model is scored as `base`, with --option model=DIR" if _is_model(directory) else ""
        raise UserError(f"{directory} is not a PEFT adapter: it has no {CONFIG}{hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object")
    return config


def _is_model(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _tensors(directory: Path, rank: int) -> dict[str, Tensor]:
    path = directory / WEIGHTS
    if not path.is_file():
        raise UserError(f"{directory} has no {WEIGHTS}; save the adapter as safetensors")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for key, tensor in tensors.items():
        kind = next((kind for kind in KINDS if key.endswith(f".{kind}.weight")), None)
        if kind is None or not key.startswith(PREFIX) or tensor.ndim != 2:
            raise UserError(f"{path}: {key!r} is not a factor of a linear layer's LoRA adapter")
        if tensor.shape[0 if kind == "lora_A" else 1] != rank:
            raise UserError(f"{path}: {key!r} is {tuple(tensor.shape)}, but the rank r is {rank}")
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: {key!r} has values that are not finite")
    layers = {_layer_of(key) for key in tensors}
    if not layers:
        raise UserError(f"{path} has no tensors")
    for layer in sorted(layers):
        for kind in KINDS:
            if f"{PREFIX}{layer}.{kind}.weight" not in tensors:
                raise UserError(f"{path}: layer {layer!r} has no {kind}")
    return tensors


def score_adapters(
    base: LoadedBase,
    setting: Setting,
    adapters: Sequence[ForeignAdapter],
    seed: int = 0,
    progress: Progress = lambda evaluation, done, total: None,
) -> list[Evaluated]:
    """Evaluate adapters on a setting, up to `PACK` in one pass. Raise UserError for one that does not fit the model.

    Args:
        seed: seed of evaluations that sample replies.
    """
    encoded = base.encoded(setting, setting.recipe.max_length)
    results: list[Evaluated] = []
    for start in range(0, len(adapters), PACK):
        members = adapters[start : start + PACK]
        configs = [adapter.config_for(base) for adapter in members]
        packed = PackedAdapters(base.model, configs, [0] * len(members), dtype=torch.float32)
        try:
            for member, adapter in enumerate(members):
                load_into(packed, member, adapter)
            packed.attach_edits({member: adapter.edits for member, adapter in enumerate(members) if adapter.edits})
            numbers = range(len(members))
            results += evaluate(
                base.model, encoded, adapters=packed, members=numbers, seeds=[seed] * len(members), progress=progress
            )
        finally:
            packed.detach()
    return results


def score_base(
    base: LoadedBase,
    setting: Setting,
    seed: int = 0,
    progress: Progress = lambda evaluation, done, total: None,
) -> Evaluated:
    """Evaluate the base model itself."""
    encoded = base.encoded(setting, setting.recipe.max_length)
    return evaluate(base.model, encoded, seeds=[seed], progress=progress)[0]


def load_into(packed: PackedAdapters, member: int, adapter: ForeignAdapter) -> None:
    """Set a member's factors; zero on layers of its configuration that it does not adapt. Raise UserError."""
    tensors: dict[str, Tensor] = {}
    for name, layer in packed.layers_of(member).items():
        shapes = {"A": (adapter.rank, layer.in_features), "B": (layer.out_features, adapter.rank)}
        for kind, shape in shapes.items():
            key = f"{PREFIX}{name}.lora_{kind}.weight"
            tensors[key] = adapter.tensors.get(key, torch.zeros(shape))
    missing = sorted(adapter.tensors.keys() - tensors.keys())
    if missing:
        raise UserError(f"{adapter.directory}: no adapter can sit on the layer of {missing[0]!r}")
    try:
        packed.load_member(member, tensors)
    except UserError as error:
        raise UserError(f"{adapter.directory}: {error}") from error
