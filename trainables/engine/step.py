"""One optimizer step of a pack: the only place with forward, backward and update. It never names a method.

The rows of all members go through the frozen base together, stream by stream (`StreamPass`). Each method turns its
pieces of the outputs into scalars; their gradients at the hidden states go back through the base in one pass.

Shape legend: N positions that count, D hidden width, V vocabulary, K members, P parameters of a member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters, gated
from trainables.engine.batches import STREAM_ORDER
from trainables.engine.chunks import add_gradients
from trainables.engine.forward import Head, autocast, checkpoint_layers, head_of
from trainables.engine.optimizer import PackedAdamW
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.engine.stream import MemberStep, StreamPass
from trainables.interface.outputs import Forward
from trainables.interface.undeclared import Declared, Undeclared
from trainables.losses import cross_entropy
from trainables.method import Method, Step

T = TypeVar("T")


def train_step(
    model: PreTrainedModel,
    adapters: PackedAdapters,
    optimizer: PackedAdamW,
    members: Mapping[int, MemberStep],
    pad_id: int,
    rows_per_forward: int | None = None,
    gradient_checkpointing: bool = False,
    workers: ProcessGroup = SINGLE_PROCESS,
) -> dict[int, dict[str, Tensor]]:
    """Train members for one step and return each one's loss, gradient norm and recorded terms, detached.

    Args:
        members: index in the pack -> what the member does; members left out keep every bit of their state.
        rows_per_forward: the most rows that go through the base at a time (a micro-batch); None means all of a
            stream's. More than one micro-batch costs one more forward pass but changes no result.
        gradient_checkpointing: see `checkpoint_layers`; it changes no result either.
        workers: the processes that take the step together; each ends with the same adapters.
    """
    streams_read = [stream for stream in STREAM_ORDER if any(member.rows.get(stream) for member in members.values())]
    gates = {index: member.gates for index, member in members.items() if member.gates}
    with checkpoint_layers(model, adapters) if gradient_checkpointing else nullcontext(), gated(adapters, gates):
        with autocast(model.device):
            streams = {
                stream: StreamPass(model, adapters, members, stream, pad_id, rows_per_forward, workers)
                for stream in streams_read
            }
            measured, at_outputs = _differentiate_losses(adapters, members, streams, head_of(model))
        gradients = _backward(adapters, streams, at_outputs, workers)
    active = [index in members for index in range(adapters.num_members)]
    if not any(_edits_gradients(member.method) for member in members.values()):
        norm_K = optimizer.step(adapters.flat(gradients[0]), active)
    else:
        combined = adapters.flat(_combine(adapters, members, gradients))
        norm_K = optimizer.step(combined, active, transform=_update_transform(adapters, members, gradients))
    return {index: {**terms, "grad_norm": norm_K[index]} for index, terms in measured.items()}


@dataclass(frozen=True)
class _OutputGradients:
    """Gradients of each member's losses at the tensors that the losses read.

    Attributes:
        outputs: `[loss][stream]`: member -> gradients at its leaves of that stream (`StreamPass.leaves`).
        factors: `[loss]`: member -> gradients at its adapter's factors, for methods that declare `weights`.
    """

    outputs: list[list[dict[int, list[Tensor | None]]]]
    factors: list[dict[int, list[Tensor | None]]]


def _differentiate_losses(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], streams: Mapping[Stream, StreamPass], head: Head
) -> tuple[dict[int, dict[str, Tensor]], _OutputGradients]:
    """Return each member's measured terms, and the gradients of its losses at the outputs."""
    most = max(member.method.num_losses for member in members.values())
    names = list(streams)
    gradients = _OutputGradients([[{} for _ in streams] for _ in range(most)], [{} for _ in range(most)])
    measured: dict[int, dict[str, Tensor]] = {}
    for index, member in members.items():
        method = member.method
        factors = adapters.leaves(index) if method.weights else []
        step = _step_of(adapters, streams, index, member, factors, head)
        losses = method.losses(step)
        _check(method, losses, step)
        leaves_of = {at: stream.leaves(index) for at, stream in enumerate(streams.values()) if index in stream.policy}
        leaves = [leaf for stream_leaves in leaves_of.values() for leaf in stream_leaves] + factors
        if member.checked:
            at_task = [leaf for at, some in leaves_of.items() if names[at] == "task" for leaf in some]
            dead = _disconnected(method, losses, step, at_task, leaves[len(at_task) :])
            step.recorded.update({name: torch.zeros_like(losses[0].detach()) for name in dead})
        step.attached.clear()
        for number, loss in enumerate(losses):
            retain = number + 1 < len(losses)
            at_leaves: list[Tensor | None] = [
                *torch.autograd.grad(loss, leaves, retain_graph=retain, allow_unused=True)
            ]
            for at, stream_leaves in leaves_of.items():
                gradients.outputs[number][at][index] = at_leaves[: len(stream_leaves)]
                del at_leaves[: len(stream_leaves)]
            gradients.factors[number][index] = at_leaves
        recorded = dict(step.recorded)
        if "task" in method.streams:
            recorded["task"] = cross_entropy(step.policy["task"]).detach()
        if method.proxy_schedule == "synchronized" and not all(member.rows.values()):
            # A step without proxy rows says nothing about the term.
            recorded = {name: value for name, value in recorded.items() if name not in method.must_stay_active}
        measured[index] = {"loss": losses[0].detach(), **recorded}
    return measured, gradients


def _step_of(
    adapters: PackedAdapters,
    streams: Mapping[Stream, StreamPass],
    index: int,
    member: MemberStep,
    factors: Sequence[Tensor],
    head: Head,
) -> Step:
    """Return a member's view of the step, with empty outputs for streams without rows in this step."""
    method = member.method
    like = next(iter(next(iter(streams.values())).policy.values()))

    def no_rows(stream: Stream) -> Forward:
        labels, hidden_ND = like.labels_N[:0], like.hidden_ND.detach()[:0].requires_grad_()
        groups = max(1, method.num_row_groups(stream))
        return Forward(hidden_ND, labels, labels, 0, head, hidden_ND[None], num_groups=groups)

    def of_stream(passed: Mapping[Stream, Mapping[int, Forward]], stream: Stream) -> Forward:
        if stream not in passed:
            return no_rows(stream)
        forward = passed[stream][index]
        return forward if stream in method.layers else replace(forward, layers_LND=undeclared_layers(stream))

    def undeclared_layers(stream: Stream) -> Any:
        return Undeclared(
            f'method {method.name!r} reads layers_LND of {stream} rows: declare layers = ("{stream}", ...)'
        )

    def of_weights(name: str, value: Sequence[T]) -> Sequence[T]:
        return value if factors else Undeclared(f"method {method.name!r} reads step.{name}: declare weights = True")

    policies = {stream: passed.policy for stream, passed in streams.items() if index in passed.policy}
    references = {stream: passed.reference for stream, passed in streams.items() if index in passed.policy}
    reference = {stream: of_stream(references, stream) for stream in method.reference}
    return Step(
        policy=Declared({s: of_stream(policies, s) for s in method.streams}, "step.policy", "streams"),
        reference=Declared(reference, "step.reference", "reference"),
        adapter=of_weights("adapter", adapters.member_factors(index, factors) if factors else ()),
        priors=of_weights("priors", member.priors),
        prepared=member.prepared,
        state=member.state,
        kept=member.kept,
        directions=of_weights("directions", member.directions),
        gates=member.gates,
    )


def _check(method: Method, losses: object, step: Step) -> None:
    """Raise TypeError if a method's `losses` returns or records something invalid."""
    rule = f"losses(step) of method {method.name!r} must return a tuple of {method.num_losses} scalar tensors"
    if not isinstance(losses, Sequence) or len(losses) != method.num_losses:
        if isinstance(losses, Sequence):
            raise TypeError(f"{rule}, got {len(losses)} losses; num_row_groups(stream) sets how many there are")
        raise TypeError(f"{rule} (num_losses), got {type(losses).__name__}{_shape_text(losses)}")
    for loss in losses:
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise TypeError(f"{rule} that depend on the adapter, got {type(loss).__name__}{_shape_text(loss)}")
    if any(name not in step.recorded for name in method.must_stay_active):
        recorded = ", ".join(step.recorded) or "nothing"
        declared = f"must_stay_active = {method.must_stay_active!r}"
        raise TypeError(f"method {method.name!r} has {declared}, and its losses(step) records {recorded}")


def _shape_text(value: object) -> str:
    return f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def _disconnected(
    method: Method, losses: Sequence[Tensor], step: Step, at_task: Sequence[Tensor], elsewhere: Sequence[Tensor]
) -> list[str]:
    """Return the terms that must stay active and through which the losses have no gradient.

    If a term was detached, what the losses add to plain fine-tuning has a gradient of exactly 0, or, where they change
    the task's loss as well, the term has none itself, or the losses have none where it has one besides the task's rows.

    Args:
        at_task, elsewhere: what a term may have a gradient at: the outputs on the task's rows, and all else.
    """
    if not method.must_stay_active or method.is_neutral:
        return []
    added = torch.stack([*losses]).sum()
    if "task" in step.policy:
        added = added - cross_entropy(step.policy["task"])
    gradients = _gradients(added, [*at_task, *elsewhere])
    added_elsewhere = gradients[len(at_task) :]
    # Gates also weight the task's loss, so a term must then have a gradient at other rows.
    counted = added_elsewhere if step.gates else gradients
    if "task" in step.policy and not any(gradient is not None and bool(gradient.any()) for gradient in counted):
        return [*method.must_stay_active]

    def is_connected(term: Tensor) -> bool:
        if not term.requires_grad:
            return False
        of_term = _gradients(term, elsewhere)
        found = [added for own, added in zip(of_term, added_elsewhere, strict=True) if own is not None]
        return not found or any(gradient is not None for gradient in found)

    return [name for name in method.must_stay_active if not is_connected(step.attached[name])]


def _gradients(value: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the gradients at leaves, None where there is no path, and keep the graph."""
    return torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True) if leaves else ()


def _backward(
    adapters: PackedAdapters, streams: Mapping[Stream, StreamPass], at_outputs: _OutputGradients, workers: ProcessGroup
) -> list[list[Tensor]]:
    """Backpropagate the gradients at the outputs through the base: `[loss][factor]`, each stacked over the members."""
    gradients = [[torch.zeros_like(factor) for factor in adapters.factors] for _ in at_outputs.outputs]
    for at, stream in enumerate(streams.values()):
        for number, gradient in enumerate(stream.backward([outputs[at] for outputs in at_outputs.outputs])):
            if gradient is not None:
                gradients[number] = add_gradients(gradients[number], gradient)
    if workers.count > 1:  # rows are split over workers; the losses' gradients at the factors are on all
        gradients = [adapters.unflat(workers.all_reduce(adapters.flat(gradient))) for gradient in gradients]
    for number, of_members in enumerate(at_outputs.factors):
        for index, at_factors in of_members.items():
            if not at_factors:
                continue
            for total_K, at_factor in zip(adapters.of_member(index, gradients[number]), at_factors, strict=True):
                if at_factor is not None:
                    total_K[index] += at_factor
    return gradients


def _member_gradients(
    adapters: PackedAdapters, member: MemberStep, index: int, gradients: Sequence[Sequence[Tensor]]
) -> list[list[Tensor]]:
    """Return a member's gradients, `[loss][factor]`."""
    of_losses = gradients[: member.method.num_losses]
    return [[factor[index] for factor in adapters.of_member(index, gradient)] for gradient in of_losses]


def _combine(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], gradients: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Let each method combine its member's gradients; return them stacked over the members, factor by factor."""
    combined = [torch.zeros_like(factor) for factor in adapters.factors]
    for index, member in members.items():
        of_member = member.method.combine(_member_gradients(adapters, member, index, gradients))
        for total_K, gradient in zip(adapters.of_member(index, combined), of_member, strict=True):
            total_K[index] = gradient
    return combined


def _edits_gradients(method: Method) -> bool:
    """Say whether a step needs the method's `combine` or `transform_update`; by default they change nothing."""
    defined = type(method).combine, type(method).transform_update
    return method.num_losses > 1 or defined != (Method.combine, Method.transform_update)


def _update_transform(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], gradients: Sequence[Sequence[Tensor]]
) -> Callable[[Tensor], Tensor]:
    """Return `transform_update` of all members' methods as one function of the optimizer's directions `[K, P]`."""

    def transform(update_KP: Tensor) -> Tensor:
        transformed_KP = update_KP.clone()
        for index, member in members.items():
            update = adapters.of_member(index, adapters.unflat(update_KP[index]))
            of_losses = _member_gradients(adapters, member, index, gradients)
            transformed = adapters.of_member(index, adapters.unflat(transformed_KP[index]))
            for view, direction in zip(transformed, member.method.transform_update(update, of_losses), strict=True):
                view.copy_(direction)
        return transformed_KP

    return transform
