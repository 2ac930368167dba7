"""The interface of a method: the term that makes one fine-tuning differ from plain fine-tuning.

A method is a frozen dataclass. Its fields are its coefficients, declared with default and range together
(`beta: float = Range(1.0, low=1e-2, high=1e2, log=True)`); `sweeps.space` reads the ranges. A method sees one trial's
outputs on the streams that it declares, and returns scalars to differentiate. It never sees a model, a device, an
optimizer or another trial: that is what lets many trials share one forward pass.

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
    answer    from the last position of the prompt to the end of the padding
"""
ProxySchedule = Literal["continuous", "synchronized"]
"""When the rows of the proxy streams are read.

    continuous    in every step; once used up, they start anew in another order
    synchronized  once in each pass over the task rows, in its first steps; the steps after these have none
"""


@dataclass(frozen=True)
class Forward:
    """The outputs on the rows of one stream, for one trial or for the reference.

    Attributes:
        hidden_ND: final hidden state at each position that the method counts (`Method.positions`).
        labels_N: the token that follows each position; the padding token where nothing does.
        row_N: which row of the batch each position belongs to, 0 .. num_rows - 1.
        num_rows: rows in the batch.
        head: maps hidden states to logits in float32 (or wider), `[N, D] -> [N, V]`.
        layers_LND: hidden states after each layer, the last one being `hidden_ND`; None unless the method declares
            them (`Method.layers`).
        chunk: positions whose logits are held at a time by losses that are sums over positions; None is all.
        num_groups: groups of rows that have a gradient each (`Method.num_row_groups`); 1 when all rows are one group.
    """

    hidden_ND: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int
    head: Callable[[Tensor], Tensor]
    layers_LND: Tensor | None = None
    chunk: int | None = None
    num_groups: int = 1

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits at all positions; computed once, when first read."""
        return self.head(self.hidden_ND)

    @cached_property
    def nll_N(self) -> Tensor:
        """Negative log-likelihood of the token after each position, in nats; computed once, chunk by chunk."""

        def nll(hidden_ND: Tensor, at: slice) -> Tensor:
            return torch.nn.functional.cross_entropy(self.head(hidden_ND), self.labels_N[at], reduction="none")

        return per_position(nll, self.hidden_ND, self.chunk)


@dataclass(frozen=True)
class Step:
    """One trial's view of one optimizer step.

    Attributes:
        policy: stream -> outputs of the adapted model.
        reference: stream -> outputs of the frozen base model on the same rows.
        adapter: the trial's LoRA factors, layer after layer, with gradients; empty unless the method declares
            `weights`.
        prior: the frozen factors of the prior adapter, in the same order; empty unless it is active
            (`Method.prior_is_active`).
        recorded: detached values for curves; filled by `record`.
    """

    policy: Mapping[Stream, Forward]
    reference: Mapping[Stream, Forward]
    adapter: Sequence[Factors] = ()
    prior: Sequence[Factors] = ()
    recorded: dict[str, Tensor] = field(default_factory=dict)

    def record(self, **values: Tensor) -> None:
        """Keep unweighted terms, detached, for curves and `must_stay_active`. Raise TypeError for no tensor."""
        for name, value in values.items():
            if not isinstance(value, Tensor):
                hint = "" if self.adapter else "; step.adapter is empty unless the method has weights = True"
                raise TypeError(f"record({name}=...) takes a scalar tensor, got {value!r}{hint}")
            self.recorded[name] = value.detach()


@dataclass(frozen=True)
class BatchSizes:
    """Rows per optimizer step of a trial: `task` always, `alignment` for methods that read the alignment stream."""

    task: int
    alignment: int


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one fine-tuning minimises. A subclass is one file, one equation, one citation.

    Four groups, of which most methods need the first alone.

    Every method:
        streams: rows sent through the adapted model at each step.
        reference: those of the streams that are also sent through the frozen base model.
        layers: those of the streams whose hidden states after every layer are kept.
        weights: whether the loss reads the adapter's own factors (`Step.adapter`).
        must_stay_active: names of recorded terms that must be above zero, and have a gradient at the adapter, once it
            has moved. A term that stays at zero or is detached is not connected, and the trial is marked invalid.
        equation: the loss in one line.
        source: the citation.
        losses(step): the one method that has to be defined.
        rows_per_step(stream, sizes), positions(stream): which rows and which of their positions are read.

    Gradient surgery:
        num_row_groups(stream): how many groups of a stream's rows have a gradient that is not simply added.
        combine(gradients): what the optimizer gets.
        transform_update(update, gradients): what is stepped along.

    Two stages:
        prior, prior_is_active: an adapter that is trained first, and whether it stays in the model.
        trained_as, needs_pretrained, finalize(adapter, directions): editing an adapter that is trained already.

    Replicating the study:
        definition (a coefficient of every method): "principled" counts response tokens only, as the method's docstring
            says; "published" computes what the study's own code computes, so that its coefficients mean the same: the
            loss covers the whole rendered text (prompt, special tokens added twice, a trailing empty assistant turn),
            rows are padded on the side that the tokenizer names, gradients are never clipped, warm-up starts at 0, and
            coefficients are set as in `as_published`. Its control is published plain fine-tuning. Its defects are not
            reproduced: a KL that is silently left out, training on losses that are not finite, ignored seeds and
            options, stale caches.
        as_published: (coefficient, value) pairs that the published definition sets.
        proxy_schedule: see `ProxySchedule`; a coefficient of every `ProxyMethod`.

    Coefficients:
        definition: see above.
    """

    # --- every method ---

    streams: ClassVar[tuple[Stream, ...]] = ("task",)
    reference: ClassVar[tuple[Stream, ...]] = ()
    layers: ClassVar[tuple[Stream, ...]] = ()
    weights: ClassVar[bool] = False
    must_stay_active: ClassVar[tuple[str, ...]] = ()
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""

    definition: Literal["principled", "published"] = Choice("principled", "principled", "published")

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        """Return what is minimised and plotted as the loss, one scalar, and one more for each row group, if any.

        See `num_row_groups`; `losses.cross_entropy_by_group` returns a tuple of these.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses(step)")

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        """Return how many rows of `stream` a step reads. A fraction alternates between the integers around it."""
        return sizes.task if stream == "task" else sizes.alignment

    def positions(self, stream: Stream) -> Positions:
        """Return which positions of the rows of `stream` its `Forward` holds."""
        return "text" if self.definition == "published" else "response"

    # --- gradient surgery ---

    def num_row_groups(self, stream: Stream) -> int:
        """Return into how many groups a step's rows of `stream` are split for a loss and a gradient each.

        0, the rule, is for rows that only the first loss reads. The rows of a group are contiguous. Each group goes
        back through the base model in a pass of its own, so that no row is computed more often for it.
        """
        return 0

    @property
    def num_losses(self) -> int:
        """How many scalars `losses` returns, and gradients `combine` sees: the first loss, and one per row group."""
        return 1 + sum(self.num_row_groups(stream) for stream in self.streams)

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Return the gradient that the optimizer gets, one tensor per adapter factor; by default the sum of all.

        Called only when a member of the pack has more than one loss.

        Args:
            gradients: `[loss][tensor]`, each tensor of the shape of an adapter factor of this trial.
        """
        return [sum(tensors[1:], start=tensors[0]) for tensors in zip(*gradients, strict=True)]

    def transform_update(self, update: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Return the direction to step along; by default `update`. For methods that need the step to have a property.

        Args:
            update: one tensor per adapter factor: the direction that Adam has made of `combine`'s gradient, without
                learning rate and weight decay.
            gradients: as `combine` sees them.
        """
        return update

    # --- two stages ---

    prior_is_active: ClassVar[bool] = False
    """Whether the prior adapter lies frozen beneath the trained one. Otherwise only `finalize` sees it."""

    @property
    def prior(self) -> Method | None:
        """The method that trains an adapter before this one, once, with the same seed; None without a first stage."""
        return None

    @property
    def trained_as(self) -> Method:
        """The method whose trained adapter this one takes over and only edits (`finalize`); by default itself."""
        return self

    @property
    def needs_pretrained(self) -> bool:
        """Whether `finalize` gets what tuning changed in the base model as directions, and not what the prior did."""
        return False

    def finalize(self, adapter: Sequence[Factors], directions: Sequence[Direction]) -> Sequence[Factors]:
        """Return the factors to evaluate and keep; by default those that were trained. Called once, after training.

        Args:
            adapter: factors of the trained adapter, layer after layer.
            directions: for each of these layers, the weight change that the prior, or tuning the base model, made;
                empty without either.
        """
        return adapter

    # --- replicating the study ---

    as_published: ClassVar[tuple[tuple[str, Any], ...]] = ()

    @property
    def proxy_schedule(self) -> ProxySchedule:
        """When the rows of the proxy streams are read."""
        return "continuous"

    # --- what follows from these ---

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
        for name, published in self.as_published:
            value = getattr(self, name)
            if value not in (defaults[name], published):
                raise UserError(
                    f"method {self.name!r}: the published definition sets {name}={published!r}, got {value!r};"
                    f" leave {name!r} out, or take the principled definition"
                )
            object.__setattr__(self, name, published)

    @property
    def revision(self) -> int:
        """How often trials of this method, as it is set, have come to give other numbers while those of others did not.

        Part of a trial's identity. 1 where a prior lies beneath the adapter, which once started as a copy of it.
        """
        return int(self.prior_is_active)

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
        """The coefficients as short text, e.g. "beta=0.3": the searched ones, and others that differ from the usual."""
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
        """Whether the losses add nothing to the task's: a coefficient has the value of plain fine-tuning."""
        specs = {item.name: item.metadata[SPACE] for item in coefficients(type(self))}
        return any(getattr(self, name) == getattr(spec, "neutral", None) for name, spec in specs.items())


@dataclass(frozen=True, kw_only=True)
class ProxyMethod(Method):
    """A method that reads batches of alignment rows beside the task batches.

    Coefficients:
        proxy_schedule: "continuous" starts the alignment rows anew whenever they are used up, so that every step has
            some; "synchronized" shows them once in each pass over the task rows, and the steps after that have none.
    """

    streams: ClassVar[tuple[Stream, ...]] = ("task", "alignment")

    proxy_schedule: Literal["continuous", "synchronized"] = Choice("continuous", "continuous", "synchronized")


@dataclass(frozen=True)
class StepCost:
    """What a step takes, in units of a step of plain fine-tuning on the task rows.

    Attributes:
        forwards: rows sent through the base model, with and without adapter.
        backwards: rows sent back through it.
        memory: rows whose activations are kept until the backward pass.
    """

    forwards: float
    backwards: float
    memory: float


def step_cost(method: Method, sizes: BatchSizes) -> StepCost:
    """Return the cost of a method's step, all rows taken to be equally long."""
    rows = {stream: method.rows_per_step(stream, sizes) / sizes.task for stream in method.streams}
    policy = sum(rows.values())
    reference = sum(rows[stream] for stream in method.reference)
    return StepCost(policy + reference, policy, policy)
