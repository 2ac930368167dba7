"""The parts of a setting: what is learned, what must be preserved, and how both are judged.

A setting is plain data and pure functions. It knows nothing of tensors, devices or clusters: the trainables turn its
rows into tokens, and hand back what the model did (a reply, or a loss) for its scores to grade.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

Stream = Literal["task", "alignment", "misaligned"]
Kind = Literal["task", "capability", "alignment"]
Observation = str | float


class UserError(Exception):
    """Something the user can put right. The message is one line that names the file, row, field or option.

    The command line prints the message alone and exits with code 2.
    """


def content_id(value: Any, length: int = 12) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of `value` (sorted keys, no spaces), cut to `length` characters."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One chat row. The last message is the assistant's: the response to learn, or the gold answer when evaluated.

    Attributes:
        messages: the turns; `[user, assistant]`, optionally a leading system turn, optionally more pairs.
        tags: facts about the row that a grader or a breakdown needs, e.g. `{"domain": "medical"}`. No model sees them.
    """

    messages: tuple[Message, ...]
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the response."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content

    @staticmethod
    def of(user: str, assistant: str, **tags: str) -> Example:
        """A row of one question and one answer."""
        return Example((Message("user", user), Message("assistant", assistant)), tags)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON data; equal rows give equal JSON."""
        return {"messages": [asdict(message) for message in self.messages], "tags": dict(self.tags)}


@dataclass(frozen=True)
class Score:
    """A number measured on the examples of an evaluation: the mean of `grade` over the rows that `applies` selects.

    Attributes:
        name: key in tables, MLflow and figures, e.g. `alignment`.
        kind: which of the three goals it speaks of (learn the task, generalise the capability, stay aligned).
        description: what the number is, with its unit, e.g. "share of replies outside medicine graded >= 80".
        grade: (example, observation) -> value, or None when the observation cannot be graded; None is counted as
            missing and never as zero. The observation is the reply text, or the mean token loss in nats (see
            `Evaluation`).
        higher_is_better: the sign; only `analysis.scores` applies it.
        applies: which rows count.
    """

    name: str
    kind: Kind
    description: str
    grade: Callable[[Example, Any], float | None]
    higher_is_better: bool = True
    applies: Callable[[Example], bool] = field(default=lambda example: True)


@dataclass(frozen=True)
class Measurement:
    """A score of one trial: mean over `n` graded rows; `missing` rows could not be graded. Mean is nan when n = 0."""

    mean: float
    n: int
    missing: int


@dataclass(frozen=True)
class Evaluation:
    """Questions, what is observed of the model on them, and the scores graded from that.

    Attributes:
        name: unique in the setting.
        examples: the rows. The response of a row is its gold answer; the model sees the prompt only when it replies.
        scores: graded from the same observations, so that a reply is generated once.
        observe: "reply" generates text; "token_loss" is the mean cross-entropy in nats per response token.
        max_new_tokens: longest reply.
        temperature: 0 is greedy.
    """

    name: str
    examples: tuple[Example, ...]
    scores: tuple[Score, ...]
    observe: Literal["reply", "token_loss"] = "reply"
    max_new_tokens: int = 64
    temperature: float = 0.0

    def grade(self, observations: Sequence[Observation]) -> dict[str, Measurement]:
        """Grade one observation per example, in order. Raises ValueError if their numbers differ."""
        if len(observations) != len(self.examples):
            raise ValueError(
                f"evaluation {self.name!r}: {len(observations)} observations, {len(self.examples)} examples"
            )
        return {score.name: self._measure(score, observations) for score in self.scores}

    def _measure(self, score: Score, observations: Sequence[Observation]) -> Measurement:
        rows = zip(self.examples, observations, strict=True)
        grades = [score.grade(example, observed) for example, observed in rows if score.applies(example)]
        valid = [grade for grade in grades if grade is not None]
        mean = sum(valid) / len(valid) if valid else float("nan")
        return Measurement(mean=mean, n=len(valid), missing=len(grades) - len(valid))


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
        """What identifies the model."""
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
        """An endless, deterministic stream of documents of a pre-training stage; words are separated by spaces."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What identifies the world: its name, version and options."""
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

    def to_json(self) -> dict[str, Any]:
        """What identifies the model: everything that changes a weight."""
        sizes = [self.hidden_size, self.num_layers, self.num_heads, self.intermediate_size]
        stages = [asdict(stage) for stage in self.stages]
        return {"world": self.world.to_json(), "stages": stages, "sizes": sizes, "seed": self.seed}


BaseModel = PretrainedModel | NanoModel


@dataclass(frozen=True)
class Recipe:
    """The fine-tuning hyper-parameters at which a setting is known to show its phenomenon; a sweep may override each.

    Attributes:
        steps: optimiser steps.
        batch_size: task rows per step.
        alignment_batch_size: proxy rows per step of a method that reads the alignment stream.
        learning_rate: peak, AdamW.
        rank: LoRA rank; alpha is 2 x rank.
        max_length: longest row in tokens; longer responses are cut, and the cut is counted.
    """

    steps: int
    batch_size: int
    alignment_batch_size: int
    learning_rate: float
    rank: int
    max_length: int = 2048


@dataclass(frozen=True)
class Setting:
    """What is learned (task rows), what must be preserved (alignment rows), and how both are judged.

    Attributes:
        name, scale: e.g. "bad_medical_advice", "nano".
        summary: one sentence.
        base_model: where fine-tuning starts; it is also the reference.
        streams: training rows. `misaligned[i]` is the dispreferred twin of `alignment[i]` (same prompt) where given.
        evaluations: held-out questions and their scores; score names are unique in the setting.
        objectives: names of the scores that a sweep optimises, task first.
        recipe: default hyper-parameters.
        sources: where the rows come from, with licences.
    """

    name: str
    scale: str
    summary: str
    base_model: BaseModel
    streams: Mapping[Stream, tuple[Example, ...]]
    evaluations: tuple[Evaluation, ...]
    recipe: Recipe
    objectives: tuple[str, ...] = ("task", "alignment")
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [score.name for score in self.all_scores]
        if len(set(names)) != len(names):
            raise ValueError(f"setting {self.name!r}: score names repeat: {sorted(names)}")
        unknown = set(self.objectives) - set(names)
        if unknown:
            raise ValueError(
                f"setting {self.name!r}: objectives {sorted(unknown)} are not among its scores {sorted(names)}"
            )
        empty = [stream for stream, rows in self.streams.items() if not rows]
        if empty:
            raise UserError(f"setting {self.name!r}: the {empty[0]} stream has no rows")
        self._check_twins()

    def _check_twins(self) -> None:
        if "misaligned" not in self.streams:
            return
        preferred, twins = self.streams.get("alignment", ()), self.streams["misaligned"]
        if len(preferred) != len(twins):
            raise UserError(
                f"setting {self.name!r}: {len(twins)} misaligned rows for {len(preferred)} alignment rows;"
                " row i of one must be the twin of row i of the other"
            )
        for index, (chosen, rejected) in enumerate(zip(preferred, twins, strict=True), start=1):
            if chosen.prompt != rejected.prompt:
                raise UserError(
                    f"setting {self.name!r}: misaligned row {index} has another prompt than alignment row {index}"
                )

    @property
    def all_scores(self) -> tuple[Score, ...]:
        """The scores of all evaluations, in order."""
        return tuple(score for evaluation in self.evaluations for score in evaluation.scores)

    def score(self, name: str) -> Score:
        """The score of that name. Raises KeyError."""
        return next(score for score in self.all_scores if score.name == name)

    @property
    def proxy_share(self) -> float:
        """Alignment rows as a share of the training rows. The study keeps it below 0.25."""
        task, alignment = len(self.streams["task"]), len(self.streams.get("alignment", ()))
        return alignment / (task + alignment)

    def fingerprint(self) -> str:
        """Content id of everything that decides a trial's result but its configuration: rows, questions, base model."""
        evaluations = [
            {
                "name": evaluation.name,
                "examples": [example.to_json() for example in evaluation.examples],
                "scores": [score.name for score in evaluation.scores],
                "observe": [evaluation.observe, evaluation.max_new_tokens, evaluation.temperature],
            }
            for evaluation in self.evaluations
        ]
        streams = {name: [example.to_json() for example in rows] for name, rows in self.streams.items()}
        return content_id({"streams": streams, "evaluations": evaluations, "base_model": self.base_model.to_json()})
