"""One optimiser step of a pack: the only place with forward, backward and update. It never names a method.

The rows of all members go through the frozen base together, stream by stream. The outputs are then cut into per-member
pieces, each method turns its piece into scalars, and their gradients at the final hidden states are sent back through
the base in one pass. Cutting the graph there keeps a single member's `[N, V]` logits alive at a time.

Shape legend: R rows, T padded length, N response tokens, D hidden width, V vocabulary, K members, P parameters of a
member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.setting import Stream, UserError
from trainables.adapters import PackedAdapters, Route
from trainables.batches import STREAM_ORDER, Batch, Row, collate
from trainables.method import Forward, Method, Step
from trainables.optimizer import PackedAdamW


@dataclass(frozen=True)
class MemberStep:
    """What one member does at a step: its method, and its rows of each stream that the method reads."""

    method: Method
    rows: Mapping[Stream, Sequence[Row]]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on CUDA, nothing elsewhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def head_of(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The map from final hidden states to logits in float32 or wider, `[N, D] -> [N, V]`."""
    output = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)

    def head(hidden_ND: Tensor) -> Tensor:
        logits = output(hidden_ND.to(output.weight.dtype))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return head


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse an architecture whose logits are not `head_of` its final hidden states. Raises UserError."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    expected = model(input_ids=ids, use_cache=False).logits[0]
    found = head_of(model)(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    if not torch.allclose(found, expected.to(found.dtype), rtol=1e-2, atol=1e-2):
        raise UserError(f"model type {model.config.model_type!r} scales its logits in a way that is not supported")


def response_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Final hidden states that predict the response tokens, `[N, D]`."""
    hidden_RTD = model.base_model(input_ids=batch.ids_RT, use_cache=False).last_hidden_state
    return hidden_RTD[batch.row_N, batch.column_N]


@dataclass(frozen=True)
class _StreamOutput:
    """One stream of one step, for all members that read it: the graph's end, and each member's detached piece of it."""

    hidden_ND: Tensor
    policy: dict[int, Forward]
    reference: dict[int, Forward]


def train_step(
    model: PreTrainedModel,
    adapters: PackedAdapters,
    optimizer: PackedAdamW,
    members: Mapping[int, MemberStep],
    pad_id: int,
) -> dict[int, dict[str, Tensor]]:
    """Train the given members for one step and return each one's loss, gradient norm and recorded terms, detached.

    Args:
        members: index in the pack -> what it does; members left out keep every bit of their state.
    """
    with autocast(model.device):
        streams = [stream for stream in STREAM_ORDER if any(member.rows.get(stream) for member in members.values())]
        outputs = {stream: _forward(model, adapters, members, stream, pad_id) for stream in streams}
        measured, seeds = _losses(members, outputs, head_of(model))
    gradient_KP = _gradient(adapters, members, [output.hidden_ND for output in outputs.values()], seeds)
    active = [index in members for index in range(adapters.num_members)]
    norm_K = optimizer.step(gradient_KP, active)
    return {index: {**terms, "grad_norm": norm_K[index]} for index, terms in measured.items()}


def _forward(
    model: PreTrainedModel,
    adapters: PackedAdapters,
    members: Mapping[int, MemberStep],
    stream: Stream,
    pad_id: int,
) -> _StreamOutput:
    rows = {index: member.rows[stream] for index, member in members.items() if member.rows.get(stream)}
    batch = collate([row for some in rows.values() for row in some], pad_id, model.device)
    with adapters.routed(Route(tuple(rows), tuple(len(some) for some in rows.values()))):
        hidden_ND = response_hidden(model, batch)
    policy = _split(hidden_ND.detach(), batch, rows, head_of(model))
    for forward in policy.values():
        forward.hidden_ND.requires_grad_()
    if not any(stream in members[index].method.reference for index in rows):
        return _StreamOutput(hidden_ND, policy, {})
    # The reference sees the very batch that the policy saw, so that equal weights give equal bits.
    with torch.no_grad(), adapters.routed(None):
        reference_ND = response_hidden(model, batch)
    return _StreamOutput(hidden_ND, policy, _split(reference_ND, batch, rows, head_of(model)))


def _split(
    hidden_ND: Tensor, batch: Batch, rows: Mapping[int, Sequence[Row]], head: Callable[[Tensor], Tensor]
) -> dict[int, Forward]:
    """Cut the outputs of a batch into one `Forward` per member."""
    forwards, first_row, first_token = {}, 0, 0
    for index, some in rows.items():
        count = sum(batch.tokens_per_row[first_row : first_row + len(some)])
        tokens = slice(first_token, first_token + count)
        forwards[index] = Forward(
            hidden_ND=hidden_ND[tokens].clone(),
            labels_N=batch.labels_N[tokens],
            row_N=batch.row_N[tokens] - first_row,
            num_rows=len(some),
            head=head,
        )
        first_row, first_token = first_row + len(some), first_token + count
    return forwards


def _losses(
    members: Mapping[int, MemberStep],
    outputs: Mapping[Stream, _StreamOutput],
    head: Callable[[Tensor], Tensor],
) -> tuple[dict[int, dict[str, Tensor]], list[list[Tensor]]]:
    """Each member's measured terms, and the gradients at the hidden states: `[loss][stream] -> [N, D]`."""
    measured: dict[int, dict[str, Tensor]] = {}
    pieces: dict[int, list[list[Tensor]]] = {}
    for index, member in members.items():
        policy = {stream: _piece(outputs, stream, index, head, "policy") for stream in member.method.streams}
        reference = {stream: _piece(outputs, stream, index, head, "reference") for stream in member.method.reference}
        step = Step(policy, reference)
        losses = member.method.losses(step)
        leaves = [output.policy[index].hidden_ND for output in outputs.values() if index in output.policy]
        pieces[index] = [
            list(torch.autograd.grad(loss, leaves, retain_graph=number + 1 < len(losses), materialize_grads=True))
            for number, loss in enumerate(losses)
        ]
        measured[index] = {"loss": torch.stack([loss.detach() for loss in losses]).sum(), **step.recorded}
    return measured, [_assemble(pieces, outputs, number) for number in range(max(map(len, pieces.values())))]


def _piece(
    outputs: Mapping[Stream, _StreamOutput], stream: Stream, index: int, head: Callable[[Tensor], Tensor], side: str
) -> Forward:
    """A member's part of a stream; an empty one when this step gives it no row of that stream."""
    if stream in outputs and index in outputs[stream].policy:
        return getattr(outputs[stream], side)[index]
    like = next(iter(outputs.values()))
    nothing = next(iter(like.policy.values())).labels_N[:0]
    return Forward(like.hidden_ND.detach()[:0].requires_grad_(), nothing, nothing, 0, head)


def _assemble(
    pieces: Mapping[int, list[list[Tensor]]], outputs: Mapping[Stream, _StreamOutput], number: int
) -> list[Tensor]:
    """Gradient `number` of every member, member after member, one tensor per stream; zeros where a member has fewer."""
    assembled = []
    taken = dict.fromkeys(pieces, 0)
    for output in outputs.values():
        parts = []
        for index, forward in output.policy.items():
            some = pieces[index]
            parts.append(some[number][taken[index]] if number < len(some) else torch.zeros_like(forward.hidden_ND))
            taken[index] += 1
        assembled.append(torch.cat(parts))
    return assembled


def _gradient(
    adapters: PackedAdapters,
    members: Mapping[int, MemberStep],
    roots: Sequence[Tensor],
    seeds: Sequence[Sequence[Tensor]],
) -> Tensor:
    """Send the gradients at the hidden states back through the base: `[K, P]`, combined as each method wants."""
    factors = adapters.factors
    found = []
    for number, seed in enumerate(seeds):
        more = number + 1 < len(seeds)
        found.append(torch.autograd.grad(roots, factors, seed, retain_graph=more, materialize_grads=True))
    if len(found) == 1:
        return adapters.flat(found[0])
    combined = [torch.empty_like(factor) for factor in factors]
    for index in range(adapters.num_members):
        parts = [[gradient[index] for gradient in gradients] for gradients in found]
        method = members[index].method if index in members else None
        result = method.combine(parts) if method else parts[0]
        for target, value in zip(combined, result, strict=True):
            target[index] = value
    return adapters.flat(combined)
