"""The interface of a method: the term that makes one fine-tuning differ from plain fine-tuning.

A method is a frozen dataclass. Its fields are its coefficients, each declared with its default and its range
(`beta: float = Range(1.0, low=1e-2, high=1e2, log=True)`); `sweeps.space` reads the ranges. A method sees one trial's
outputs on the streams that it declares, and returns scalars to differentiate. It never sees a model, a device, an
optimizer or another trial: this lets many trials share one forward pass.

Shape legend: N positions of the rows of a stream, concatenated; D hidden width; V vocabulary; L layers; R rank of an
adapter; I and O in- and output features of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

from torch import Tensor

from settings.common.errors import UserError
from settings.setting import Setting, Stream
from trainables.coefficients import Choice
from trainables.interface.configured import Configured
from trainables.interface.edits import Edit
from trainables.interface.outputs import Forward
from trainables.interface.preparation import Pass, Preparation
from trainables.interface.rewriting import Rewriting
from trainables.projections import Direction, Factors

Positions = Literal["response", "text", "padded", "answer"]
"""Which positions of a row count.

    response  those that predict a response token
    text      those that predict any token of the row, including the prompt
    padded    every position of the row padded to the trial's `max_length`, including padding
    answer    from the last position of the prompt to the end of the padding
"""
Kind = Literal["data", "loss", "gradient", "weights", "activations", "after training"]
"""What a method works on; `selgen methods` groups by it."""
ProxySchedule = Literal["continuous", "synchronized"]
"""When the rows of the proxy streams are read.

    continuous    in every step; once used up, they start again in a new order
    synchronized  once per pass over the task rows, in its first steps; later steps have none
"""
GIVEN_AS: Mapping[Stream, str] = {  # how `chat_files` takes rows
    "task": "option 'task'",
    "alignment": "option 'alignment'",
    "misaligned": "pairs ('chosen', 'rejected') as option 'alignment', or a file as option 'misaligned'",
}


@dataclass(frozen=True)
class Step:
    """One trial's view of one optimizer step.

    Attributes:
        policy: stream -> outputs of the adapted model.
        reference: stream -> outputs of the frozen base model on the same rows.
        adapter: the trial's LoRA factors, layer after layer, with gradients; reading them raises TypeError unless the
            method declares `weights`, as for `priors` and `directions`.
        priors: the frozen factors of each prior adapter (`Method.priors`), in the same order.
        prepared: what the method computed before training (`Method.prepare`).
        state: what the method carries from step to step (`Method.initial_state`), as the previous step left it.
        directions: see `Trained`.
        gates: what `Method.gates` drew for this step.
        recorded: detached values for curves; filled by `record`.
        attached: the same values with their graph, until it is checked that those of `must_stay_active` have one.
        kept: what `keep` sets.
    """

    policy: Mapping[Stream, Forward]
    reference: Mapping[Stream, Forward]
    adapter: Sequence[Factors] = ()
    priors: Sequence[Sequence[Factors]] = ()
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    directions: Sequence[Direction] = ()
    gates: Sequence[float] = ()
    recorded: dict[str, Tensor] = field(default_factory=dict)
    attached: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def record(self, **values: Tensor) -> None:
        """Keep unweighted terms, detached, for curves and `must_stay_active`. Raise TypeError for non-tensors.

        Terms of `must_stay_active` must be given with their graph, as a term without one is not connected.
        """
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"record({name}=...) takes a scalar tensor, got {value!r}")
            self.recorded[name], self.attached[name] = value.detach(), value

    def keep(self, **values: Tensor) -> None:
        """Set entries of the state, detached, for the next step.

        Raise KeyError for an entry that is not in it, TypeError for anything but a tensor of its shape.
        """
        for name, value in values.items():
            if name not in self.state:
                known = ", ".join(self.state) or "nothing; define initial_state"
                raise KeyError(f"keep({name}=...): the state has {known}")
            shape = self.state[name].shape
            if not isinstance(value, Tensor) or value.shape != shape:
                raise TypeError(f"keep({name}=...) takes a tensor of shape {tuple(shape)}, got {value!r}")
            self.kept[name] = value.detach()


@dataclass(frozen=True)
class Trained:
    """A trained adapter, with what a method may use to edit it (`Method.finalize`).

    Attributes:
        adapter: its factors, layer after layer.
        priors: the factors of each prior adapter (`Method.priors`), on the same layers.
        directions: for each of these layers, the weight change made by the first prior, or by tuning the base model
            (`Method.needs_pretrained`); empty without either.
        prepared, state: see `Step`; the state is that after the last update.
    """

    adapter: Sequence[Factors]
    priors: Sequence[Sequence[Factors]] = ()
    directions: Sequence[Direction] = ()
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchSizes:
    """Rows per optimizer step of a trial: `task` always; `alignment` of either proxy stream that a method reads."""

    task: int
    alignment: int


@dataclass(frozen=True, kw_only=True)
class Method(Configured):
    """What one fine-tuning minimises. A subclass is one file, one equation, one citation.

    Its members come in groups; most methods need only the first.

    Every method:
        kind: what it works on.
        streams: streams whose rows go through the adapted model at each step.
        reference: the streams that also go through the frozen base model.
        layers: the streams whose hidden states after every layer are kept.
        passes: the passes over whole streams that `prepare` asks for, whether or not a step reads these streams.
        weights: whether the loss reads the adapter's own factors (`Step.adapter`).
        must_stay_active: names of recorded terms that must not be exactly zero, and must have a gradient at the
            adapter, once it has moved; nor may what the losses add to the task's loss have a zero gradient then.
            Otherwise the term is not connected, and the trial is marked invalid. Leave out a term that may rightly be
            0, such as a hinge.
        equation: the loss in one line.
        source: the citation.
        evidence: what others have measured about it, in a sentence with its citation; empty if nothing is known.
        losses(step): the only method that must be defined.
        rows_per_step(stream, sizes), positions(stream): which rows and which of their positions are read.

    Gradient surgery:
        num_row_groups(stream): how many groups of a stream's rows have a gradient that is not simply added.
        combine(gradients): the gradient that the optimizer gets.
        transform_update(update, gradients): the direction to step along.

    Gates:
        gates(rank, random): what each rank of the adapter is multiplied by in a step.
        rank_multiple: what the adapter's rank must be a multiple of.

    Before training:
        prepare(preparation): what is computed once, from whole streams, before the first step.
        rows_read(stream, num_rows, prepared): which rows of a stream are read at all.
        rewriting(stream): how its rows are rewritten.
        edits(prepared): what is added to or removed from hidden states on their way through the model.

    State:
        initial_state(adapter), after_update(state, adapter): what is carried from step to step, besides what a step
            keeps (`Step.keep`).

    Two stages:
        priors, prior_is_active: adapters to train first, and whether the first of them stays in the model.
        trained_as, reads_priors_out, needs_pretrained, finalize(trained): editing a trained adapter.

    Replicating the study:
        as_published: (coefficient, value) pairs that the published definition sets; see `Configured`.
        proxy_schedule: see `ProxySchedule`; a coefficient of every `ProxyMethod`.
    """

    # --- every method ---

    kind: ClassVar[Kind] = "loss"
    streams: ClassVar[tuple[Stream, ...]] = ("task",)
    reference: ClassVar[tuple[Stream, ...]] = ()
    layers: ClassVar[tuple[Stream, ...]] = ()
    passes: ClassVar[tuple[Pass, ...]] = ()
    weights: ClassVar[bool] = False
    must_stay_active: ClassVar[tuple[str, ...]] = ()
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""
    evidence: ClassVar[str] = ""

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        """Return the scalar that is minimised and plotted as the loss, and one more per row group, if any.

        See `num_row_groups`; `losses.cross_entropy_by_group` returns a tuple of these.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses(step)")

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        """Return how many rows of `stream` a step reads. A fraction alternates between the integers around it."""
        return sizes.task if stream == "task" else sizes.alignment

    def positions(self, stream: Stream) -> Positions:
        """Return which positions of the rows of `stream` the `Forward` holds."""
        return "text" if self.definition == "published" else "response"

    # --- gradient surgery ---

    def num_row_groups(self, stream: Stream) -> int:
        """Return into how many groups, each with its own loss and gradient, a step's rows of `stream` are split.

        The default, 0, is for rows that only the first loss reads. The rows of a group are contiguous. All groups go
        back through the base model in one pass, so that no row is computed more often.
        """
        return 0

    @property
    def num_losses(self) -> int:
        """Number of scalars that `losses` returns and of gradients that `combine` sees: 1, plus one per row group."""
        return 1 + sum(self.num_row_groups(stream) for stream in self.streams)

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Return the gradient that the optimizer gets, one tensor per adapter factor; by default the sum of all.

        Args:
            gradients: `[loss][tensor]`, each tensor of the shape of an adapter factor of this trial.
        """
        return [sum(tensors[1:], start=tensors[0]) for tensors in zip(*gradients, strict=True)]

    def transform_update(self, update: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """Return the direction to step along; by default `update`. For methods that constrain the step itself.

        Args:
            update: one tensor per adapter factor: Adam's direction for `combine`'s gradient, without learning rate and
                weight decay.
            gradients: as for `combine`.
        """
        return update

    # --- gates ---

    rank_multiple: ClassVar[int] = 1
    """What the adapter's rank must be a multiple of."""

    def check_rank(self, rank: int) -> None:
        """Refuse a rank that the method cannot divide. Raise UserError."""
        if rank % self.rank_multiple:
            what = f"must be a multiple of {self.rank_multiple} for method {self.name!r}"
            raise UserError(f"adapter option 'rank' {what}, got {rank}")

    def gates(self, rank: int, random: Random) -> Sequence[float]:
        """Return the factors by which a step multiplies the adapter's ranks; empty, the default, leaves them unchanged.

        They hold only in training passes; `finalize` decides what the adapter is in evaluation.

        Args:
            random: seeded by the trial's seed and the number of the step, so that all configurations draw alike.
        """
        return ()

    # --- before training ---

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        """Return what is computed before the first step: directions, scores of rows, curvature; by default nothing.

        It must depend only on `preparation` and the coefficients. Called whenever a pack with the trial is built;
        `preparation` caches what is expensive by content.
        """
        return {}

    @property
    def prepared_streams(self) -> tuple[Stream, ...]:
        """The streams that `prepare` reads."""
        return tuple(dict.fromkeys(each.stream for each in self.passes))

    def rows_read(self, stream: Stream, num_rows: int, prepared: Mapping[str, Tensor]) -> Sequence[int] | None:
        """Return the numbers of the rows of `stream` that are read; None, the default, means all."""
        return None

    def rewriting(self, stream: Stream) -> Rewriting | None:
        """Return how the rows of `stream` are rewritten before training; None, the default, means not at all."""
        return None

    edits_in_training_only: ClassVar[bool] = False
    """Whether no edit holds in evaluation, so that the adapter alone is the model wherever it is evaluated."""

    def edits(self, prepared: Mapping[str, Tensor]) -> Sequence[Edit]:
        """Return the edits of the forward pass; by default none. The reference is never edited.

        If all of them hold only in training, set `edits_in_training_only`.

        The edits of `trained_as` hold while that trains, but not here.
        """
        return ()

    # --- state ---

    def initial_state(self, adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        """Return the initial state that the method carries from step to step; by default nothing.

        Args:
            adapter: the initial factors, layer after layer.
        """
        return {}

    def after_update(self, state: Mapping[str, Tensor], adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        """Return the state after the optimizer's update; by default unchanged.

        Args:
            state: the state, including what the step kept.
            adapter: the updated factors, layer after layer.
        """
        return state

    # --- two stages ---

    prior_is_active: ClassVar[bool] = False
    """Whether the first prior adapter stays frozen beneath the trained one. The others are only seen."""

    @property
    def priors(self) -> tuple[Method, ...]:
        """The methods that train adapters before this one, each once, with the same seed; empty without a first stage.

        A method that declares `weights` sees them in its steps, and `finalize` sees them in any case.
        """
        return ()

    @property
    def trained_as(self) -> Method:
        """The method whose trained adapter this one takes over and only edits (`finalize`); by default itself."""
        return self

    reads_priors_out: ClassVar[bool] = False
    """Whether the result depends on the priors as much as on its training: readouts of the same ones share a draw."""

    @property
    def needs_pretrained(self) -> bool:
        """Whether the directions are the changes made by tuning the base model, and not those made by the prior."""
        return False

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        """Return the factors to evaluate and keep; by default the trained ones.

        Called on a copy wherever an adapter is evaluated or kept. The result may have a different rank in each layer;
        the kept checkpoint has the largest. Raise InvalidAdapterError if the result would say nothing about the method.
        """
        return trained.adapter

    # --- replicating the study ---

    @property
    def proxy_schedule(self) -> ProxySchedule:
        """When the rows of the proxy streams are read."""
        return "continuous"

    @property
    def revision(self) -> int:
        """How often the numbers of trials of this method, with these coefficients, have changed when others' did not.

        Part of a trial's identity. 1 if a prior lies beneath the adapter, which once started as a copy of it.
        """
        return int(self.prior_is_active)


@dataclass(frozen=True, kw_only=True)
class ProxyMethod(Method):
    """A method that reads batches of alignment rows besides the task batches.

    Coefficients:
        proxy_schedule: "continuous" restarts the alignment rows whenever they are used up, so that every step has some;
            "synchronized" shows them once per pass over the task rows, in its first steps; later steps have none.
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
    """Return the cost of a method's step, assuming that all rows are equally long."""
    rows = {stream: method.rows_per_step(stream, sizes) / sizes.task for stream in method.streams}
    policy = sum(rows.values())
    reference = sum(rows[stream] for stream in method.reference)
    return StepCost(policy + reference, policy, policy)


def require(setting: Setting, method: Method) -> None:
    """Raise UserError if the method, or what it builds on, needs something that the setting does not have."""
    for stream in (*method.streams, *method.prepared_streams):
        if stream not in setting.streams:
            lacking = f"method {method.name!r} needs {stream} rows, but setting {setting.name!r} has none"
            raise UserError(f"{lacking}; add them as its stream {stream!r} (chat_files: {GIVEN_AS[stream]})")
    for name in instructions_of(method):
        if name not in setting.instructions:
            raise UserError(
                f"method {method.name!r} needs the instruction {name!r}, but setting {setting.name!r} has"
                f" {', '.join(setting.instructions) or 'none'}; add it to its `instructions`, {{{name!r}: text}}"
                " (chat_files: option 'instructions')"
            )
    for needed in (method.trained_as, *method.priors):
        if needed != method:
            require(setting, needed)
    if method.needs_pretrained and not setting.base_model.pretrained:
        raise UserError(
            f"method {method.name!r} needs the pretrained model that the base model was tuned from, but setting"
            f" {setting.name!r} names none"
        )


def instructions_of(method: Method) -> list[str]:
    """Return the names of the instructions that a method, or what it builds on, puts before rows."""
    rewritings = [method.rewriting(stream) for stream in (*method.streams, *method.prepared_streams)]
    names = [each.instruction for each in rewritings if each and each.instructs]
    built_on = [needed for needed in (method.trained_as, *method.priors) if needed != method]
    return sorted({*names, *(name for needed in built_on for name in instructions_of(needed))})
