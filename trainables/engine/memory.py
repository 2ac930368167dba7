"""How much memory a pack will take: one estimate for planning a sweep and for refusing a pack.

It counts what grows with models, members and tokens, but neither fragmentation nor temporary results. Imports nothing
heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil

from settings.base_models import BaseModel, NanoModel, PackagedModel, TunedModel
from settings.model_files import model_config
from settings.setting import Stream
from trainables.trial import AdapterConfig, TrialConfig

if TYPE_CHECKING:
    import torch

FLOAT = 4  # bytes
FOUR_BIT = 0.5 + FLOAT / 64  # bytes of a weight in NF4, with its share of a scale per 64 weights
ADAPTER_COPIES = 4  # factor, gradient, two moments
ACTIVATIONS_PER_LAYER = 24  # saved numbers per token, in units of the hidden width, for a block with a gated MLP
KEPT_BY_CHECKPOINTING = 1  # with gradient checkpointing, a layer saves only its input
LOGITS = 1 << 25  # held at a time for one member of a step, see `StreamPass`: 128 MiB in float32
LOGIT_COPIES = 3  # logits, log-probabilities, gradient
ON_DEVICE_BYTES = 1e9  # that each cache of base model outputs puts on a GPU; the rest stays in main memory
ROW_STATES_BYTES = 10**9  # states of all layers held at a time by a pass over whole streams, see `row_states`
PROCESS_BYTES = 600e6  # Python, torch and transformers, before any model


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a base model that determine its cost.

    Attributes:
        parameters: parameters of the matrices that a token goes through: all linear layers, and the head.
        layers, width: number of decoder layers, and width of their hidden states.
        adapted: sum of in- and output features of all linear layers.
        vocabulary: number of tokens.
        inner: width between the matrices of an MLP.
        queries, keys: features of all heads' queries; of their keys, and equally of their values.
        embedded: parameters of an embedding that is not tied to the head.
    """

    parameters: float
    layers: int
    width: int
    adapted: int
    vocabulary: int
    inner: int = 0
    queries: int = 0
    keys: int = 0
    embedded: float = 0

    @property
    def linear(self) -> float:
        """Parameters of the matrices without the head."""
        return self.parameters - self.width * self.vocabulary

    def upper_part(self, adapters: Sequence[AdapterConfig]) -> ModelShape:
        """Return the layers from the lowest adapted one on, with the head, as if they were the whole model.

        Layers that the model does not have count as its last ones, because its sizes may only be assumed.
        """
        if any(each.layers == "all" for each in adapters):
            return self
        last = self.layers - 1
        adapted = {
            min(max(number, 0), last) for each in adapters for number in each.layer_numbers(self.layers, check=False)
        }
        layers = self.layers - min(adapted)
        parameters = self.linear * layers / self.layers + self.width * self.vocabulary
        of_adapters = round(self.adapted * len(adapted) / self.layers)
        return replace(self, parameters=parameters, layers=layers, adapted=of_adapters)

    def weight_bytes(self, number: int = FLOAT, quantize: str | None = None) -> float:
        """Return the bytes of all weights, at `number` bytes each; in four bits, those of linear layers take fewer.

        The largest of these is dequantised at a time, and counted.
        """
        if quantize:
            largest = self.width * max(self.inner, self.queries)
            return FOUR_BIT * self.linear + number * (self.parameters - self.linear + self.embedded + largest)
        return number * (self.parameters + self.embedded)

    @staticmethod
    def of(model: BaseModel) -> ModelShape | None:
        """Read the sizes from a specification, or a config.json in a directory or the Hub cache; None without."""
        if isinstance(model, NanoModel):
            width, inner, heads = model.hidden_size, model.intermediate_size, model.hidden_size
            return _shape(width, inner, heads, heads, model.num_layers, len(model.world.vocabulary) + 5)
        start = model.start if isinstance(model, TunedModel) else model
        if isinstance(start, PackagedModel):
            return ModelShape.of_config(start.config)
        path = model_config(start.source, start.revision)
        return ModelShape.of_config(json.loads(path.read_text(encoding="utf-8"))) if path else None

    @staticmethod
    def assumed() -> ModelShape:
        """Assume Qwen3-8B's sizes for a model that is not available."""
        return replace(_shape(4096, 12288, 4096, 1024, 36, 151_936), embedded=4096 * 151_936)

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> ModelShape | None:
        """Read the sizes from the content of config.json; GPT-2, OPT, BLOOM and others name them differently.

        Layers are assumed to have a gated MLP, or experts, which are not adapted. None if a size is left to the
        architecture's default, has another name, or differs between layers.
        """
        try:
            return ModelShape._of_sizes(config)
        except KeyError:
            return None

    @staticmethod
    def _of_sizes(config: Mapping[str, Any]) -> ModelShape:
        config = config.get("text_config") or config
        width = _read(config, "hidden_size", "n_embd", "d_model")
        heads = _read(config, "num_attention_heads", "n_head", "n_heads")
        inner = _read(config, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", otherwise=4 * width)
        head = _read(config, "head_dim", otherwise=width // heads)
        keys = head * _read(config, "num_key_value_heads", otherwise=heads)
        layers = _read(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
        experts = _read(config, "num_local_experts", "num_experts", "n_routed_experts", otherwise=0)
        dense = 0 if experts else inner
        shape = _shape(width, dense, head * heads, keys, layers, _read(config, "vocab_size"))
        size = 3 * width * _read(config, "moe_intermediate_size", otherwise=inner)
        tied = config.get("tie_word_embeddings", True)
        embedded = 0 if tied else width * shape.vocabulary
        return replace(shape, parameters=shape.parameters + layers * experts * size, embedded=embedded)


def _read(config: Mapping[str, Any], *names: str, otherwise: int | None = None) -> int:
    """Return the first of these numbers that a configuration has. Raise KeyError if it has none."""
    for name in names:
        if isinstance(config.get(name), int) and config[name]:
            return int(config[name])
    if otherwise is None:
        raise KeyError(names[0])
    return otherwise


def _shape(width: int, inner: int, queries: int, keys: int, layers: int, vocabulary: int) -> ModelShape:
    """Return the shape of a decoder with gated MLPs: q, k, v, o, gate, up, down in each layer, and a head."""
    per_layer = 2 * width * queries + 2 * width * keys + 3 * width * inner
    adapted = layers * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner))
    head = width * vocabulary
    return ModelShape(layers * per_layer + head, layers, width, adapted, vocabulary, inner, queries, keys)


def memory_left(device: torch.device, gpus: float, memory: float | None) -> float | None:
    """Return the bytes that a process with a loaded base model may still use; None if not known.

    Args:
        device: device of the base model.
        gpus: GPUs of the process; below 1, that share of the GPU's memory.
        memory: bytes of main memory that the process may use, for a model on the CPU.
    """
    if device.type == "cpu":
        if memory is None:
            return None
        held = psutil.Process().memory_info()
        return memory - (held.rss - getattr(held, "shared", 0))  # mapped files are shared with other processes
    import torch

    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free + unused, total * min(1.0, gpus) - torch.cuda.memory_allocated(device))


def kept_on_gpu(*caches: float) -> float:
    """Return the bytes that a GPU holds of caches of these sizes, besides the base model, during a pack."""
    return sum(min(size, ON_DEVICE_BYTES) for size in caches)


def training_bytes(
    shape: ModelShape,
    members: Sequence[TrialConfig],
    lengths: Mapping[Stream, float],
    rows_per_forward: int | None = None,
    gradient_checkpointing: bool = False,
    activation_bytes: int = FLOAT,
    num_workers: int = 1,
) -> float:
    """Return the bytes that a training step of a pack adds: adapters with their state, activations, logits.

    Args:
        lengths: tokens per row of each stream that a member reads.
        rows_per_forward, gradient_checkpointing: see `train_step`. Only one micro-batch's activations are kept.
        activation_bytes: bytes of one number of an activation.
        num_workers: workers that share the rows; each holds all adapters.
    """
    shape = shape.upper_part([trial.adapter for trial in members])  # no activations are kept below
    rank = max(trial.adapter.rank for trial in members)
    adapters = len(members) * rank * shape.adapted * ADAPTER_COPIES * FLOAT
    rows = {
        stream: sum(
            trial.method.rows_per_step(stream, trial.sizes) for trial in members if stream in trial.method.streams
        )
        for stream in lengths
    }
    if rows_per_forward is None:
        tokens = sum(rows[stream] * length for stream, length in lengths.items())
    else:
        tokens = max(min(rows[stream], rows_per_forward) * length for stream, length in lengths.items())
    kept = KEPT_BY_CHECKPOINTING if gradient_checkpointing else ACTIVATIONS_PER_LAYER
    member_tokens = sum(rows[stream] * length for stream, length in lengths.items()) / len(members)
    logits = min(member_tokens * shape.vocabulary, LOGITS) * LOGIT_COPIES * FLOAT
    return adapters + tokens / num_workers * shape.layers * shape.width * kept * activation_bytes + logits
