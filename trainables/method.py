"""The interface of a method: the term that makes one fine-tuning differ from plain fine-tuning.

A method is a frozen dataclass. Its fields are its coefficients, declared with default and range together
(`beta: float = Range(1.0, low=1e-2, high=1e2, log=True)`); `sweeps.space` reads the ranges. It sees one trial's
outputs on the streams it asks for and returns scalars to differentiate. It never sees a model, a device, an optimiser
or another trial, and that is what lets many trials share one forward pass.

Shape legend: N positions of the rows of a stream, concatenated; D hidden width; V vocabulary; L layers; R rank of an
adapter; I and O in- and output features of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from settings.common.errors import UserError
from settings.setting import Stream
from trainables.chunked import per_position
from trainables.coefficients import SPACE, Choice, RangeSpec, coefficients, label_of
from trainables.projections import Direction, Factors

Definition = Literal["principled", "published"]
Positions = Literal["response", "text", "padded", "answer"]
"""Which positions of a row count.

    response  those that predict a response token
    text      those that predict any token of the row, prompt included
    padded    every position of the row padded to the trial's `max_length`, padding included
    answer    from the last one of the prompt to the end of the padding
"""


@dataclass(frozen=True)
class Forward:
    """What the rows of one stream gave for one trial (or for the reference).

    Attributes:
        hidden_ND: final hidden state at each position that the method counts (`Method.positions`).
        labels_N: the token that follows each position; the padding token where nothing does.
        row_N: which row of the batch each position belongs to, 0 .. num_rows - 1.
        num_rows: rows in the batch.
        head: maps hidden states to logits in float32 (or wider), `[N, D] -> [N, V]`.
        layers_LND: hidden states after each layer, the last one being `hidden_ND`; None unless the method asks for
            them (`Method.layers`).
        chunk: positions whose logits are held at a time by losses that need them for one position after the other;
            None is all.
    """

    hidden_ND: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int
    head: Callable[[Tensor], Tensor]
    layers_LND: Tensor | None = None
    chunk: int | None = None

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits at each position, all at a time; computed once, when first asked for."""
        return self.head(self.hidden_ND)

    @cached_property
    def nll_N(self) -> Tensor:
        """Negative log-likelihood of the token that follows each position, in nats; computed once, in chunks."""

        def nll(hidden_ND: Tensor, at: slice) -> Tensor:
            return torch.nn.functional.cross_entropy(self.head(hidden_ND), self.labels_N[at], reduction="none")

        return per_position(nll, self.hidden_ND, self.chunk)


@dataclass(frozen=True)
class Step:
    """One trial's view of one optimiser step.

    Attributes:
        policy: stream -> outputs of the adapted model.
        reference: stream -> outputs of the frozen base model on the same rows.
        adapter: the trial's own LoRA factors, layer after layer, to be differentiated; empty unless the method asks
            for them (`Method.weights`).
        prior: the frozen factors of the prior adapter, in the same order; empty without a prior.
        recorded: values a method wants plotted; filled by `record`.
    """

    policy: Mapping[Stream, Forward]
    reference: Mapping[Stream, Forward]
    adapter: Sequence[Factors] = ()
    prior: Sequence[Factors] = ()
    recorded: dict[str, Tensor] = field(default_factory=dict)

    def record(self, **values: Tensor) -> None:
        """Keep unweighted terms, detached, for curves and liveness checks. Raises TypeError for what is no tensor."""
        for name, value in values.items():
            if not isinstance(value, Tensor):
                hint = "" if self.adapter else "; step.adapter is empty unless the method has weights = True"
                raise TypeError(f"record({name}=...) takes a scalar tensor, got {value!r}{hint}")
            self.recorded[name] = value.detach()


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
        layers: of these, the streams of which the hidden states of all layers are wanted.
        weights: whether the loss speaks of the adapter's own factors.
        underneath: whether the prior adapter lies frozen under the trained one. Else it is only seen by `finalize`.
        alive: recorded terms that must be above zero, and pull at the adapter, once that has moved. A term that stays
            at zero, or is detached, is not connected, and the trial is marked invalid.
        as_published: what the `published` definition sets, as (coefficient, value) pairs.
        source: the citation.
        equation: the loss in one line.

    Coefficients of every method:
        definition: "principled" counts response tokens only, as the method's docstring says; "published" computes what
            the study's own code computes, so that its coefficients mean the same: the loss covers the whole rendered
            text (prompt, special tokens added twice, a trailing empty assistant turn), and the method's coefficients
            are set as in `as_published`. What was a defect and no definition is not reproduced: a KL that is silently
            left out, non-finite losses that are trained on, ignored seeds and options, stale caches.
    """

    streams: ClassVar[tuple[Stream, ...]] = ("task",)
    reference: ClassVar[tuple[Stream, ...]] = ()
    layers: ClassVar[tuple[Stream, ...]] = ()
    weights: ClassVar[bool] = False
    underneath: ClassVar[bool] = False
    alive: ClassVar[tuple[str, ...]] = ()
    as_published: ClassVar[tuple[tuple[str, Any], ...]] = ()
    source: ClassVar[str] = ""
    equation: ClassVar[str] = ""

    definition: Literal["principled", "published"] = Choice("principled", "principled", "published")

    def __post_init__(self) -> None:
        for coefficient in coefficients(type(self)):
            value = getattr(self, coefficient.name)
            problem = coefficient.metadata[SPACE].check(value)
            if problem:
                raise UserError(f"method {self.name!r}: coefficient {coefficient.name!r} {problem}, got {value!r}")
            if isinstance(coefficient.metadata[SPACE], RangeSpec) and not coefficient.metadata[SPACE].integer:
                object.__setattr__(self, coefficient.name, float(value))  # 1 and 1.0 are one trial
        if self.definition == "published":
            self._set_as_published()

    def _set_as_published(self) -> None:
        defaults = {item.name: item.default for item in fields(self)}
        for name, value in self.as_published:
            given = getattr(self, name)
            if given not in (defaults[name], value):
                raise UserError(
                    f"method {self.name!r}: the published definition sets {name}={value!r}, got {given!r};"
                    f" leave {name!r} out, or take the principled definition"
                )
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The name of the file that defines the method."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """Name and definition, e.g. "kl_penalty" or "kl_penalty (published)"."""
        return self.name if self.definition == "principled" else f"{self.name} ({self.definition})"

    @property
    def label(self) -> str:
        """The coefficients as short text, e.g. "beta=0.3": the searched ones, and others that are not as usual."""
        usual: dict[str, Any] = {"definition": self.definition}
        usual |= dict(self.as_published) if self.definition == "published" else {}
        shown = {}
        for item in coefficients(type(self)):
            value = getattr(self, item.name)
            if item.metadata[SPACE].searched or value != usual.get(item.name, item.default):
                shown[item.name] = value
        return label_of(shown)

    @property
    def is_neutral(self) -> bool:
        """Whether a coefficient has the value at which the method is plain fine-tuning."""
        specs = {item.name: item.metadata[SPACE] for item in coefficients(type(self))}
        return any(getattr(self, name) == getattr(spec, "neutral", None) for name, spec in specs.items())

    @property
    def prior(self) -> Method | None:
        """What trains the adapter that has to be there first; None without one. Trained once, with the same seed."""
        return None

    @property
    def trained_as(self) -> Method:
        """The method whose training this one takes over and only edits afterwards (`finalize`); itself, as a rule."""
        return self

    @property
    def needs_pretrained(self) -> bool:
        """Whether `finalize` wants the base model minus the one it was tuned from as directions, and no prior's."""
        return False

    @property
    def synchronized(self) -> bool:
        """Whether the rows of other streams are seen once in each pass over the task rows, not cycled through it."""
        return False

    @property
    def num_losses(self) -> int:
        """How many gradients `combine` and `revise` see."""
        return 1

    def parts(self, stream: Stream) -> int:
        """Into how many parts the rows of `stream` are dealt, each of which has a loss of its own."""
        return 1

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        """How many rows of `stream` one step reads. A fraction alternates between the integers around it."""
        return sizes.task if stream == "task" else sizes.alignment

    def positions(self, stream: Stream) -> Positions:
        """Which positions of the rows of `stream` its `Forward` holds."""
        return "text" if self.definition == "published" else "response"

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        """One scalar for each gradient that `combine` wants to see (`num_losses`); one is the rule.

        The first one is what is minimised, and what is plotted as the loss.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses(step)")

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Turn the gradients of `losses` into the one that is applied.

        Args:
            gradients: `[loss][tensor]`, each tensor of the shape of an adapter factor of this trial.

        Returns:
            One gradient per tensor; their sum unless a method does surgery.
        """
        return [sum(parts[1:], start=parts[0]) for parts in zip(*gradients, strict=True)]

    def revise(self, update: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Change the direction that the optimiser has made of `combine`'s gradient, before it is stepped along.

        Args:
            update: one tensor per adapter factor: Adam's direction, without learning rate and weight decay.
            gradients: as `combine` sees them.

        Returns:
            The direction to step along; `update` unless a method needs the step itself to have a property.
        """
        return update

    def finalize(self, adapter: Sequence[Factors], directions: Sequence[Direction]) -> Sequence[Factors]:
        """Edit the trained adapter, once, before it is evaluated.

        Args:
            adapter: factors of the trained adapter, layer after layer.
            directions: of each of these layers, the weight change that `prior` or tuning the base model made; empty
                without either.

        Returns:
            The factors to evaluate and keep; those given unless a method edits weights.
        """
        return adapter


@dataclass(frozen=True, kw_only=True)
class ProxyMethod(Method):
    """A method that reads batches of alignment rows beside the task batches.

    Coefficients:
        cycling: "continuous" starts the alignment rows anew whenever they are used up, so that every step has some;
            "synchronized" shows them once in each pass over the task rows, and the steps after that have none.
    """

    streams: ClassVar[tuple[Stream, ...]] = ("task", "alignment")

    cycling: Literal["continuous", "synchronized"] = Choice("continuous", "continuous", "synchronized")

    @property
    def synchronized(self) -> bool:
        return self.cycling == "synchronized"


@dataclass(frozen=True)
class Cost:
    """What a step takes, in units of a step of plain fine-tuning on the task rows.

    Attributes:
        forwards: rows sent through the base model, with and without adapter.
        backwards: rows sent back through it.
        memory: rows whose activations are kept until the backward pass.
    """

    forwards: float
    backwards: float
    memory: float


def cost_of(method: Method, sizes: BatchSizes) -> Cost:
    """The cost of a method's step, all rows taken to be equally long."""
    rows = {stream: method.rows_per_step(stream, sizes) / sizes.task for stream in method.streams}
    policy = sum(rows.values())
    reference = sum(rows[stream] for stream in method.reference)
    return Cost(policy + reference, policy, policy)
