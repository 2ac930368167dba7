"""One optimiser step of a pack: the only place with forward, backward and update. It never names a method.

The rows of all members go through the frozen base together, stream by stream (`StreamPass`). Each method turns its
pieces of the outputs into scalars, and their gradients at the hidden states are sent back through the base in one pass.

Shape legend: K members, P parameters of a member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import STREAM_ORDER
from trainables.engine.forward import Head, autocast, checkpoint_layers, head_of
from trainables.engine.optimizer import PackedAdamW
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.engine.stream import MemberStep, StreamPass, added
from trainables.losses import cross_entropy
from trainables.method import Forward, Method, Step


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
    """Train the given members for one step and return each one's loss, gradient norm and recorded terms, detached.

    Args:
        members: index in the pack -> what it does; members left out keep every bit of their state.
        rows_per_forward: most rows that go through the base at a time (a micro-batch); None is all of a stream's. More
            than one micro-batch costs one more forward pass and changes no result.
        gradient_checkpointing: see `checkpoint_layers`; it changes no result either.
        workers: who takes the step together; each ends with the same adapters.
    """
    keep = checkpoint_layers(model, adapters) if gradient_checkpointing else nullcontext()
    wanted = [stream for stream in STREAM_ORDER if any(member.rows.get(stream) for member in members.values())]
    with keep:
        with autocast(model.device):
            streams = {
                stream: StreamPass(model, adapters, members, stream, pad_id, rows_per_forward, workers)
                for stream in wanted
            }
            measured, seeds = _losses(adapters, members, streams, head_of(model))
        gradients = _gradients(adapters, streams, seeds, workers)
    active = [index in members for index in range(adapters.num_members)]
    if len(gradients) == 1:  # nobody operates on gradients
        norm_K = optimizer.step(adapters.flat(gradients[0]), active)
    else:
        combined = _operated(adapters, members, gradients, lambda method, own: method.combine(own))
        norm_K = optimizer.step(adapters.flat(combined), active, revise=_reviser(adapters, members, gradients))
    return {index: {**terms, "grad_norm": norm_K[index]} for index, terms in measured.items()}


@dataclass(frozen=True)
class _OutputGradients:
    """The gradients of each member's losses at what the losses saw.

    Attributes:
        outputs: `[loss][stream]`: member -> gradients at its leaves of that stream.
        weights: `[loss]`: member -> gradients at its own factors, if its method speaks of them.
    """

    outputs: list[list[dict[int, list[Tensor | None]]]]
    weights: list[dict[int, list[Tensor | None]]]


def _losses(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], streams: Mapping[Stream, StreamPass], head: Head
) -> tuple[dict[int, dict[str, Tensor]], _OutputGradients]:
    """Each member's measured terms, and the gradients at the outputs."""
    most = max(member.method.num_losses for member in members.values())
    seeds = _OutputGradients([[{} for _ in streams] for _ in range(most)], [{} for _ in range(most)])
    measured: dict[int, dict[str, Tensor]] = {}
    nothing = _nothing(next(iter(streams.values())), head)
    for index, member in members.items():
        method = member.method
        weights = adapters.leaves(index) if method.weights else []
        step = Step(
            policy={stream: _piece(streams, stream, "policy", index, nothing) for stream in method.streams},
            reference={stream: _piece(streams, stream, "reference", index, nothing) for stream in method.reference},
            adapter=adapters.member_factors(index, weights) if weights else (),
            prior=adapters.prior_factors(index) if method.underneath else (),
        )
        losses = method.losses(step)
        _check(method, losses, step)
        read = [(at, stream.leaves(index)) for at, stream in enumerate(streams.values()) if index in stream.policy]
        leaves = [leaf for _, some in read for leaf in some] + weights
        if member.checked and not _is_connected(method, losses, step, leaves):
            step.recorded.update({name: torch.zeros_like(losses[0].detach()) for name in method.alive})
        for number, loss in enumerate(losses):
            more = number + 1 < len(losses)
            found: list[Tensor | None] = list(torch.autograd.grad(loss, leaves, retain_graph=more, allow_unused=True))
            for at, some in read:
                seeds.outputs[number][at][index] = [found.pop(0) for _ in some]
            seeds.weights[number][index] = found
        recorded = dict(step.recorded)
        if "task" in method.streams:
            recorded["task"] = cross_entropy(step.policy["task"]).detach()
        if method.synchronized and not all(member.rows.values()):  # a step without proxy rows says nothing of its term
            recorded = {name: value for name, value in recorded.items() if name not in method.alive}
        measured[index] = {"loss": losses[0].detach(), **recorded}
    return measured, seeds


def _check(method: Method, losses: object, step: Step) -> None:
    """Raises TypeError for what a method's `losses` should not give or record."""
    wanted = f"losses(step) of method {method.name!r} must return a tuple of {method.num_losses} scalar tensors"
    if not isinstance(losses, Sequence) or len(losses) != method.num_losses:
        raise TypeError(f"{wanted} (num_losses), got {type(losses).__name__}{_size(losses)}")
    for loss in losses:
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise TypeError(f"{wanted} that depend on the adapter, got {type(loss).__name__}{_size(loss)}")
    unknown = [name for name in method.alive if name not in step.recorded]
    if unknown:
        known = ", ".join(step.recorded) or "nothing"
        raise TypeError(f"method {method.name!r} has alive = {method.alive!r}, and its losses(step) records {known}")


def _size(value: object) -> str:
    return f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def _is_connected(method: Method, losses: Sequence[Tensor], step: Step, leaves: Sequence[Tensor]) -> bool:
    """Whether the losses pull at anything beside the task, as they have to where there are terms that must be alive.

    What they add to plain fine-tuning has a gradient of exactly 0 where a term was detached.
    """
    if not method.alive or method.is_neutral or "task" not in step.policy:
        return True
    added = torch.stack([*losses]).sum() - cross_entropy(step.policy["task"])
    found = torch.autograd.grad(added, leaves, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


def _nothing(stream: StreamPass, head: Head) -> Forward:
    """The outputs on no rows at all."""
    like = next(iter(stream.policy.values()))
    none, empty = like.labels_N[:0], like.hidden_ND.detach()[:0].requires_grad_()
    return Forward(empty, none, none, 0, head, empty[None])


def _piece(streams: Mapping[Stream, StreamPass], stream: Stream, side: str, index: int, nothing: Forward) -> Forward:
    """A member's part of a stream; an empty one when this step gives it no row of that stream."""
    if stream in streams and index in streams[stream].policy:
        return getattr(streams[stream], side)[index]
    return nothing


def _gradients(
    adapters: PackedAdapters, streams: Mapping[Stream, StreamPass], seeds: _OutputGradients, workers: ProcessGroup
) -> list[list[Tensor]]:
    """Send the gradients at the outputs back through the base: `[loss][factor]`, each stacked over the members."""
    found = [[torch.zeros_like(factor) for factor in adapters.factors] for _ in seeds.outputs]
    for at, stream in enumerate(streams.values()):
        for number, gradient in enumerate(stream.backward([outputs[at] for outputs in seeds.outputs])):
            if gradient is not None:
                found[number] = added(found[number], gradient)
    if workers.count > 1:  # each has sent its own rows back; what the factors themselves add, all of them know
        found = [adapters.unflat(workers.sum(adapters.flat(gradient))) for gradient in found]
    for number, weights in enumerate(seeds.weights):
        for index, gradients in weights.items():
            for target, own in zip(found[number], gradients, strict=False):
                if own is not None:
                    target[index] += own
    return found


def _operated(
    adapters: PackedAdapters,
    members: Mapping[int, MemberStep],
    gradients: Sequence[Sequence[Tensor]],
    operate: Callable[[Method, list[list[Tensor]]], Sequence[Tensor]],
) -> list[Tensor]:
    """What each member's method makes of its own gradients, stacked over the members like a factor."""
    stacked = [torch.zeros_like(factor) for factor in adapters.factors]
    for index, member in members.items():
        own = [[factor[index] for factor in gradient] for gradient in gradients[: member.method.num_losses]]
        for target, value in zip(stacked, operate(member.method, own), strict=True):
            target[index] = value
    return stacked


def _reviser(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], gradients: Sequence[Sequence[Tensor]]
) -> Callable[[Tensor], Tensor]:
    """`revise` of all members' methods, on the optimiser's directions `[K, P]`."""

    def revise(update_KP: Tensor) -> Tensor:
        revised = update_KP.clone()
        for index, member in members.items():
            own = [[factor[index] for factor in gradient] for gradient in gradients[: member.method.num_losses]]
            update = adapters.unflat(update_KP[index])
            kept = member.method.revise(update, own)
            revised[index] = torch.cat([tensor.reshape(-1) for tensor in kept])
        return revised

    return revise
