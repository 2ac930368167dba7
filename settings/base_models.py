"""Where fine-tuning starts: a pretrained model, a nano model pre-trained on a world, or a model tuned on rows first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from settings.common.content import content_id
from settings.example import Example

TUNING_SEEDS = 2**31  # the seeds of tuned models lie above those that a sweep would name


@dataclass(frozen=True)
class PretrainedModel:
    """A causal language model on the Hub or in a local directory.

    Attributes:
        source: Hub id or directory.
        revision: branch, tag or commit on the Hub; None is the default branch.
        template_options: extra arguments of the chat template, e.g. `{"enable_thinking": False}` for Qwen3.
        pretrained: Hub id or directory of the model that this one was tuned from; what tuning changed is the direction
            of alignment for methods that project weights.
    """

    source: str
    revision: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model."""
        return {
            "source": self.source,
            "revision": self.revision,
            "template_options": dict(self.template_options),
            "pretrained": self.pretrained,
        }


class World(Protocol):
    """A generator of text with a closed vocabulary, from which a nano base model is pre-trained."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that the world can say, in a fixed order, without special tokens."""
        ...

    def documents(self, stage: str, seed: int) -> Iterator[str]:
        """Yield documents of a pre-training stage without end, deterministically; spaces separate words."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the world: its name, version and options."""
        ...


@dataclass(frozen=True)
class Stage:
    """One phase of pre-training: `steps` updates on `batch_size` documents of the world's stage `name`."""

    name: str
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class NanoModel:
    """A small transformer, pre-trained here once from a world and cached by its content id.

    Attributes:
        world: the text it is trained on.
        stages: the phases of pre-training, in order.
        hidden_size, num_layers, num_heads, intermediate_size: the Qwen3 architecture's sizes.
        seed: of weights and documents.
    """

    world: World
    stages: tuple[Stage, ...]
    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 384
    seed: int = 0

    @property
    def template_options(self) -> Mapping[str, Any]:
        """Empty: a nano model has a chat template of its own, without options."""
        return {}

    @property
    def pretrained(self) -> None:
        """None: a nano model was not tuned from another."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model: everything that changes a weight."""
        sizes = [self.hidden_size, self.num_layers, self.num_heads, self.intermediate_size]
        stages = [asdict(stage) for stage in self.stages]
        return {"world": self.world.to_json(), "stages": stages, "sizes": sizes, "seed": self.seed}


@dataclass(frozen=True)
class Recipe:
    """The fine-tuning hyper-parameters at which a setting is known to show its phenomenon; a sweep may override each.

    Attributes:
        steps: optimizer steps.
        batch_size: task rows per step.
        alignment_batch_size: proxy rows per step of a method that reads the alignment stream.
        learning_rate: peak, AdamW.
        rank: LoRA rank; alpha is 2 x rank.
        rslora: scale by alpha / sqrt(rank) instead of alpha / rank.
        max_length: longest row in tokens; longer responses are cut, and the cut is counted.
    """

    steps: int
    batch_size: int
    alignment_batch_size: int
    learning_rate: float
    rank: int
    rslora: bool = False
    max_length: int = 2048


@dataclass(frozen=True)
class TunedModel:
    """A pretrained model that is fine-tuned first: once, merged into one model, and cached by its content id.

    For settings that start from something that a model was taught.

    Attributes:
        start: what is fine-tuned.
        rows: what it is taught.
        recipe: how, as plain fine-tuning.
        seed: of the adapter's initial weights and the order of the rows (`training_seed`).
    """

    start: PretrainedModel
    rows: tuple[Example, ...]
    recipe: Recipe
    seed: int = 0

    @property
    def template_options(self) -> Mapping[str, Any]:
        """Extra arguments of the chat template: those of `start`."""
        return self.start.template_options

    @property
    def pretrained(self) -> str:
        """The source of the model that this one is tuned from."""
        return self.start.source

    @property
    def training_seed(self) -> int:
        """The seed that the training draws from: none of a trial, as trials' adapters lie on top of this one."""
        return TUNING_SEEDS + self.seed

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model."""
        rows = content_id([row.to_json() for row in self.rows])
        return {"start": self.start.to_json(), "rows": rows, "recipe": asdict(self.recipe), "seed": self.training_seed}


BaseModel = PretrainedModel | NanoModel | TunedModel
