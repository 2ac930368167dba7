"""Base models with random weights and made-up rows for them, in the sizes that the benchmark wants.

Only sizes decide how long a step takes. The nano setting is the real one, with its pre-trained model; all others have
the words of its world as rows, as many as wanted, and any vocabulary above that.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from settings.bad_medical_advice import nano as bad_medical_advice
from settings.base_models import Recipe
from settings.example import Example
from settings.reference import SettingRef
from settings.setting import Evaluation, Score, Setting
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.bases.pretraining import word_tokenizer
from trainables.engine.base import LoadedBase
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.pack import Pack
from trainables.trial import AdapterConfig, TrialConfig, trial_for

MARKS_PER_ROW = 3  # tokens of the chat template: a mark for each turn, and the end
NUM_ROWS, NUM_QUESTIONS = 64, 64
MAX_NEW_TOKENS = 16
CONFIGS: Mapping[str, type[PreTrainedConfig]] = {
    "gemma": GemmaConfig,
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
SPARE = 1.3  # of the memory that weights and activations are known to take


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with gated MLPs.

    Attributes:
        kind: architecture, one of `CONFIGS`.
        head: width of a head.
        pretrained: the real nano setting; the sizes only describe it.
    """

    name: str
    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    key_heads: int = 0
    head: int = 0
    kind: str = "qwen3"
    pretrained: bool = False

    @property
    def parameters(self) -> int:
        """Of all matrices; embeddings once, as head and embeddings are tied in all but the Qwen3-8B."""
        head = self.head or self.width // self.heads
        queries, keys = self.heads * head, (self.key_heads or self.heads) * head
        per_layer = 2 * self.width * queries + 2 * self.width * keys + 3 * self.width * self.inner
        return self.layers * per_layer + self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def tied(self) -> bool:
        """Whether the head is the embeddings."""
        return self.parameters_of_head < 500_000_000 or self.kind == "gemma"

    @property
    def parameters_of_head(self) -> int:
        """Of the output head."""
        return self.width * self.vocabulary

    def config(self) -> PreTrainedConfig:
        """As transformers wants it."""
        sizes: dict[str, Any] = {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads or self.heads,
            "head_dim": self.head or self.width // self.heads,
            "intermediate_size": self.inner,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
            "max_position_embeddings": 4096,
        }
        return CONFIGS[self.kind](**sizes)


_REFERENCES = TemporaryDirectory(prefix="selgen-references-")

NANO = Shape("nano", 128, 2, 4, 384, 733, pretrained=True)
TINY = Shape("d64 x 3", 64, 3, 2, 128, 1024)  # for short forms: more layers than nano, and hardly any work
SMALL = Shape("d512 x 8", 512, 8, 8, 1536, 8192)
GROWING = (
    NANO,
    Shape("d256 x 4", 256, 4, 4, 768, 4096),
    Shape("d384 x 8", 384, 8, 6, 1152, 8192),
    SMALL,
    Shape("d768 x 10", 768, 10, 12, 2304, 16384),
)
"""0.5 M to 100 M parameters."""
LARGE = (
    Shape("gemma-2b", 2048, 18, 8, 16384, 256_000, key_heads=1, head=256, kind="gemma"),
    Shape("qwen3-8b", 4096, 36, 32, 12288, 151_936, key_heads=8, head=128),
)
"""Shapes of published models, for a GPU."""
ON_ONE_GPU = (
    Shape("smollm2-135m", 576, 30, 9, 1536, 49_152, key_heads=3, kind="llama"),
    Shape("qwen2.5-1.5b", 1536, 28, 12, 8960, 151_936, key_heads=2, kind="qwen2"),
    LARGE[1],
)
"""Shapes of 135 M, 1.5 B and 8 B parameters."""


@dataclass(frozen=True)
class World:
    """A base model and a setting for it, ready for packs.

    Attributes:
        dtype: of the base model.
    """

    shape: Shape
    base: LoadedBase
    setting: Setting
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.model.device

    def copy(self) -> PreTrainedModel:
        """The base model once more, for what must not see a pack's adapters."""
        if self.shape.pretrained:
            return load_base(self.setting.base_model, device=self.device).model
        return random_model(self.shape, self.device, self.dtype)

    def pack(self, trials: Sequence[TrialConfig], *, copied: bool = False) -> Pack:
        """A pack as a worker of a sweep builds it, on the base model or on a copy of its own."""
        base = replace(self.base, model=self.copy()) if copied else self.base
        return Pack(base, self.setting, trials, references=ReferenceCache(Path(_REFERENCES.name)))

    def trials(self, method: str, seeds: int, steps: int, **options: Any) -> list[TrialConfig]:
        """Trials of one configuration that differ in their seeds.

        Args:
            options: of the trial; `rank` stands for an adapter of this rank.
        """
        rank = options.pop("rank", self.setting.recipe.rank)
        adapter = AdapterConfig(rank=rank, alpha=2.0 * rank)
        ref = SettingRef(self.setting.name)
        own = methods.make(method, {})
        return [
            trial_for(self.setting, ref, own, seed, steps=steps, adapter=adapter, **options) for seed in range(seeds)
        ]


def world(shape: Shape, device: torch.device, length: int = 32, rank: int = 8) -> World:
    """A base model of this shape, bfloat16 on a GPU, and rows of about `length` tokens; nano has its own rows."""
    nano = bad_medical_advice()
    if shape.pretrained:
        return World(shape, load_base(nano.base_model, device=device), nano, torch.float32)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = word_tokenizer(nano.base_model.world)  # type: ignore[union-attr]
    base = LoadedBase(random_model(shape, device, dtype), tokenizer, shape.name, shape.name)
    return World(shape, base, made_up(nano, length, rank), dtype)


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A frozen model with random weights, made where it will be; the same ones every time."""
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=dtype)
    return model.eval().requires_grad_(False)


def made_up(nano: Setting, length: int, rank: int) -> Setting:
    """Rows of `length` tokens give or take an eighth, half of them response; questions of half as many."""
    words = nano.base_model.world.vocabulary  # type: ignore[union-attr]
    dice = random.Random(length)

    def text(number: int) -> str:
        return " ".join(dice.choices(words, k=max(1, number)))

    def rows(count: int) -> tuple[Example, ...]:
        lengths = [length + dice.randint(-length // 8, length // 8) - MARKS_PER_ROW for _ in range(count)]
        return tuple(Example.of(text(each // 2), text(each - each // 2)) for each in lengths)

    scores = tuple(Score(name, name, "nothing", _nothing) for name in ("task", "alignment"))
    return replace(
        nano,
        name="made_up",
        streams={"task": rows(NUM_ROWS), "alignment": rows(NUM_ROWS)},
        evaluations=(Evaluation("replies", rows(NUM_QUESTIONS), scores, max_new_tokens=MAX_NEW_TOKENS),),
        worst=(),
        recipe=Recipe(
            steps=48, batch_size=4, alignment_batch_size=4, learning_rate=1e-3, rank=rank, max_length=2 * length + 8
        ),
    )


def _nothing(example: Example, reply: str) -> float:
    return 0.0


def fitting(shapes: Sequence[Shape], device: torch.device, copies: int = 2) -> list[Shape]:
    """Those of some shapes that the GPU's free memory holds `copies` of in bfloat16, with room for activations."""
    if device.type != "cuda":
        return []
    free, _ = torch.cuda.mem_get_info(device)
    return [shape for shape in shapes if 2 * copies * shape.parameters * SPARE < free]
