"""The interface of a method: the term that makes one fine-tuning differ from plain fine-tuning.

A method is a frozen dataclass. Its fields are its coefficients, declared with default and range together
(`beta: float = Range(1.0, low=1e-2, high=1e2, log=True)`); `sweeps.space` reads the ranges. It sees one trial's
outputs on the streams it asks for and returns scalars to differentiate. It never sees a model, a device, an optimiser
or another trial, and that is what lets many trials share one forward pass.

Shape legend: N response tokens of the rows of a stream, concatenated; D hidden width; V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from settings.setting import Stream, UserError

SPACE = "space"


@dataclass(frozen=True)
class RangeSpec:
    """The values of a number: searched in [low, high], allowed in [at_least, at_most]."""

    low: float
    high: float
    log: bool
    at_least: float
    at_most: float
    neutral: float | None

    def check(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and math.isfinite(value) and self.at_least <= value <= self.at_most:
            return None
        return f"must be a number in [{self.at_least:g}, {self.at_most:g}]"


@dataclass(frozen=True)
class ChoiceSpec:
    """The values of a categorical coefficient; `searched` tells whether a sweep varies it by default."""

    options: tuple[Any, ...]
    searched: bool

    def check(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return None if value in self.options else f"must be one of {', '.join(map(repr, self.options))}"


Spec = RangeSpec | ChoiceSpec


def Range(
    default: float,
    *,
    low: float,
    high: float,
    log: bool = False,
    at_least: float = 0.0,
    at_most: float = math.inf,
    neutral: float | None = None,
) -> Any:
    """A numeric coefficient.

    Args:
        default: used when nothing is said.
        low, high: the interval that a sweep searches.
        log: search it on a logarithmic scale.
        at_least, at_most: the values that make sense at all.
        neutral: the value at which the method equals plain fine-tuning, if there is one.
    """
    return field(default=default, metadata={SPACE: RangeSpec(low, high, log, at_least, at_most, neutral)})


def Choice(default: Any, *options: Any, searched: bool = False) -> Any:
    """A categorical coefficient; `options` lists its values, the default among them."""
    return field(default=default, metadata={SPACE: ChoiceSpec(options, searched)})


@dataclass(frozen=True)
class Forward:
    """What the rows of one stream gave for one trial (or for the reference).

    Attributes:
        hidden_ND: final hidden state at the position that predicts each response token.
        labels_N: the response tokens.
        row_N: which row of the batch each token belongs to, 0 .. num_rows - 1.
        num_rows: rows in the batch.
        head: maps hidden states to logits in float32 (or wider), `[N, D] -> [N, V]`.
    """

    hidden_ND: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int
    head: Callable[[Tensor], Tensor]

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits of each response token; computed once, when first asked for."""
        return self.head(self.hidden_ND)


@dataclass(frozen=True)
class Step:
    """One trial's view of one optimiser step.

    Attributes:
        policy: stream -> outputs of the adapted model.
        reference: stream -> outputs of the frozen base model on the same rows.
        recorded: values a method wants plotted; filled by `record`.
    """

    policy: Mapping[Stream, Forward]
    reference: Mapping[Stream, Forward]
    recorded: dict[str, Tensor] = field(default_factory=dict)

    def record(self, **values: Tensor) -> None:
        """Keep unweighted terms, detached, for curves and liveness checks."""
        self.recorded.update({name: value.detach() for name, value in values.items()})


@dataclass(frozen=True)
class BatchSizes:
    """Rows per optimiser step of a trial: `task` always, `alignment` for methods that read the alignment stream."""

    task: int
    alignment: int


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one fine-tuning minimises. Subclasses are one file, one equation, one citation.

    Class attributes:
        streams: rows sent through the adapted model at each step.
        reference: of these, the streams also wanted from the frozen base model.
        alive: recorded terms that must be above zero once the adapter has moved. A term that stays at zero is not
            connected, and the trial is marked invalid.
        source: the citation.
        equation: the loss in one line.
    """

    streams: ClassVar[tuple[Stream, ...]] = ("task",)
    reference: ClassVar[tuple[Stream, ...]] = ()
    alive: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    equation: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for coefficient in coefficients(type(self)):
            value = getattr(self, coefficient.name)
            problem = coefficient.metadata[SPACE].check(value)
            if problem:
                raise UserError(f"method {self.name!r}: coefficient {coefficient.name!r} {problem}, got {value!r}")

    @property
    def name(self) -> str:
        """The name of the file that defines the method."""
        return type(self).__module__.rpartition(".")[2]

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        """How many rows of `stream` one step reads. A fraction alternates between the integers around it."""
        return sizes.task if stream == "task" else sizes.alignment

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        """One scalar for each gradient that `combine` wants to see; one is the rule."""
        raise NotImplementedError(f"{type(self).__name__} must define losses(step)")

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Turn the gradients of `losses` into the one that is applied.

        Args:
            gradients: `[loss][tensor]`, each tensor of the shape of an adapter factor of this trial.

        Returns:
            One gradient per tensor; their sum unless a method does surgery.
        """
        return [sum(parts[1:], start=parts[0]) for parts in zip(*gradients, strict=True)]


def coefficients(method: type[Method]) -> list[Field[Any]]:
    """The coefficient fields of a method, in order. Raises TypeError for a field without a range."""
    for item in fields(method):
        if SPACE not in item.metadata or item.default is MISSING:
            raise TypeError(f"{method.__name__}.{item.name} must be declared with Range(...) or Choice(...)")
    return list(fields(method))
