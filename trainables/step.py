"""One optimiser step of a pack: the only place with forward, backward and update. It never names a method.

The rows of all members go through the frozen base together, stream by stream. The outputs are then cut into per-member
pieces, each method turns its pieces into scalars, and their gradients at the hidden states are sent back through the
base in one pass. Cutting the graph there keeps a single member's `[N, V]` logits alive at a time, and makes
micro-batching exact for any loss: the pieces are collected chunk by chunk without a graph, and each chunk is forwarded
again when its gradients are known (Gao et al. 2021, arXiv:2101.06983).

Shape legend: R rows, T padded length, N positions that count, D hidden width, V vocabulary, L layers, K members, P
parameters of a member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.setting import Stream, UserError
from trainables.adapters import PackedAdapters, Route
from trainables.batches import STREAM_ORDER, Batch, Counted, Row, collate
from trainables.method import Forward, Method, Step
from trainables.optimizer import PackedAdamW

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MemberStep:
    """What one member does at a step: its method, its rows of each stream that the method reads, its longest row."""

    method: Method
    rows: Mapping[Stream, Sequence[Row]]
    max_length: int

    def counted(self, stream: Stream) -> list[Counted]:
        """The rows of a stream with the positions that the method counts."""
        positions = self.method.positions(stream)
        return [Counted(row, positions, self.max_length) for row in self.rows[stream]]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on CUDA, nothing elsewhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def head_of(model: PreTrainedModel) -> Head:
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


def hidden_states(model: PreTrainedModel, batch: Batch, deep_M: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Final hidden states at the positions that count `[N, D]`, and those after each layer at some of them `[L, M, D]`.

    The embeddings are no layer; the last layer's states are taken after the final norm, and so are the final ones.

    Args:
        deep_M: which of the N positions want the states of all layers; None for no layers at all.
    """
    found = model.base_model(
        input_ids=batch.ids_RT, attention_mask=batch.mask_RT, use_cache=False, output_hidden_states=deep_M is not None
    )
    hidden_ND = found.last_hidden_state[batch.row_N, batch.column_N]
    if deep_M is None:
        return hidden_ND, None
    row_M, column_M = batch.row_N[deep_M], batch.column_N[deep_M]
    return hidden_ND, torch.stack([states[row_M, column_M] for states in found.hidden_states[1:]])


def train_step(
    model: PreTrainedModel,
    adapters: PackedAdapters,
    optimizer: PackedAdamW,
    members: Mapping[int, MemberStep],
    pad_id: int,
    rows_per_forward: int | None = None,
) -> dict[int, dict[str, Tensor]]:
    """Train the given members for one step and return each one's loss, gradient norm and recorded terms, detached.

    Args:
        members: index in the pack -> what it does; members left out keep every bit of their state.
        rows_per_forward: most rows that go through the base at a time (a micro-batch); None is all of a stream's. More
            than one micro-batch costs one more forward pass and changes no result.
    """
    with autocast(model.device):
        wanted = [stream for stream in STREAM_ORDER if any(member.rows.get(stream) for member in members.values())]
        streams = {stream: _StreamPass(model, adapters, members, stream, pad_id, rows_per_forward) for stream in wanted}
        measured, seeds = _losses(adapters, members, streams, head_of(model))
    gradients = _gradients(adapters, streams, seeds)
    active = [index in members for index in range(adapters.num_members)]
    if len(gradients) == 1:  # nobody operates on gradients
        norm_K = optimizer.step(adapters.flat(gradients[0]), active)
    else:
        combined = _operated(adapters, members, gradients, lambda method, own: method.combine(own))
        norm_K = optimizer.step(adapters.flat(combined), active, revise=_reviser(adapters, members, gradients))
    return {index: {**terms, "grad_norm": norm_K[index]} for index, terms in measured.items()}


Outputs = tuple[Tensor, Tensor | None]  # hidden_ND and layers_LMD; their gradients, too


@dataclass(frozen=True)
class _Chunk:
    """Rows that go through the base together, whose they are, and which of their positions want all layers."""

    batch: Batch
    route: Route
    deep_M: Tensor | None


class _StreamPass:
    """One stream of one step, for all members that read it.

    Attributes:
        policy, reference: member -> its piece of the outputs; the policy's are leaves of a graph of their own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: PackedAdapters,
        members: Mapping[int, MemberStep],
        stream: Stream,
        pad_id: int,
        rows_per_forward: int | None,
    ) -> None:
        self._model, self._adapters = model, adapters
        rows = {index: member.counted(stream) for index, member in members.items() if member.rows.get(stream)}
        self._deep = {index for index in rows if stream in members[index].method.layers}
        self._chunks = list(self._cut(rows, pad_id, rows_per_forward))
        self._graph = self._forward(self._chunks[0], policy=True) if len(self._chunks) == 1 else None
        self.policy = self._pieces(rows, self._all(policy=True), leaves=True)
        referring = any(stream in members[index].method.reference for index in rows)
        # The reference sees the very batches that the policy saw, so that equal weights give equal bits.
        self.reference = self._pieces(rows, self._all(policy=False), leaves=False) if referring else {}

    def _cut(
        self, rows: Mapping[int, Sequence[Counted]], pad_id: int, rows_per_forward: int | None
    ) -> Iterator[_Chunk]:
        flat = [(index, item) for index, some in rows.items() for item in some]
        size = rows_per_forward or len(flat)
        for start in range(0, len(flat), size):
            owners = [index for index, _ in flat[start : start + size]]
            batch = collate([item for _, item in flat[start : start + size]], pad_id, self._model.device)
            members = tuple(dict.fromkeys(owners))
            deep = torch.tensor([index in self._deep for index in owners], device=self._model.device)
            yield _Chunk(
                batch,
                Route(members, tuple(owners.count(index) for index in members)),
                torch.nonzero(deep[batch.row_N])[:, 0] if self._deep else None,
            )

    def _forward(self, chunk: _Chunk, *, policy: bool) -> Outputs:
        with self._adapters.routed(chunk.route if policy else None):
            return hidden_states(self._model, chunk.batch, chunk.deep_M)

    @torch.no_grad()
    def _all(self, *, policy: bool) -> Outputs:
        """The outputs on the rows of all chunks, detached."""
        if policy and self._graph is not None:
            found = [self._graph]
        else:
            found = [self._forward(chunk, policy=policy) for chunk in self._chunks]
        layers = [layers for _, layers in found if layers is not None]
        hidden_ND = torch.cat([hidden for hidden, _ in found]).detach()
        return hidden_ND, torch.cat(layers, dim=1).detach() if layers else None

    def _pieces(self, rows: Mapping[int, Sequence[Counted]], outputs: Outputs, *, leaves: bool) -> dict[int, Forward]:
        """Cut the outputs into one `Forward` per member."""
        hidden_ND, layers_LMD = outputs
        labels_N = torch.cat([chunk.batch.labels_N for chunk in self._chunks])
        pieces, at, deep_at = {}, 0, 0
        for index, some in rows.items():
            counts = [len(item.columns) for item in some]
            tokens, deep = slice(at, at + sum(counts)), slice(deep_at, deep_at + sum(counts))
            layers = layers_LMD[:, deep].clone() if layers_LMD is not None and index in self._deep else None
            row_N = torch.arange(len(some)).repeat_interleave(torch.tensor(counts)).to(labels_N.device)
            hidden = hidden_ND[tokens].clone()
            for tensor in (hidden, layers):
                if leaves and tensor is not None:
                    tensor.requires_grad_()
            pieces[index] = Forward(hidden, labels_N[tokens], row_N, len(some), head_of(self._model), layers)
            at, deep_at = tokens.stop, deep.stop if index in self._deep else deep_at
        return pieces

    def leaves(self, index: int) -> list[Tensor]:
        """What a member's losses are differentiated by: its final hidden states, and those of all layers if any."""
        piece = self.policy[index]
        return [piece.hidden_ND] if piece.layers_LND is None else [piece.hidden_ND, piece.layers_LND]

    def backward(self, seeds: Sequence[Mapping[int, Sequence[Tensor | None]]]) -> list[list[Tensor] | None]:
        """Send gradients at the outputs back to the adapters' factors.

        Args:
            seeds: `[loss]`: member -> gradients at its `leaves`; None where the loss does not see a leaf.

        Returns:
            `[loss][factor]`; None for a loss that no member's output enters.
        """
        joined = [self._joined(seed) for seed in seeds]
        needed = [number for number, outputs in enumerate(joined) if outputs != (None, None)]
        found: list[list[Tensor] | None] = [None] * len(seeds)
        at = deep_at = 0
        for chunk in self._chunks:
            with autocast(self._model.device) if self._graph is None else nullcontext():
                roots = self._graph or self._forward(chunk, policy=True)
            tokens = slice(at, at + len(roots[0]))
            deep = slice(deep_at, deep_at + (0 if roots[1] is None else roots[1].shape[1]))
            at, deep_at = tokens.stop, deep.stop
            for number in needed:
                hidden, layers = joined[number]
                pairs = [(roots[0], None if hidden is None else hidden[tokens])]
                pairs += [(roots[1], None if layers is None else layers[:, deep])] if roots[1] is not None else []
                used = [(root, seed) for root, seed in pairs if seed is not None]
                gradient = torch.autograd.grad(
                    [root for root, _ in used],
                    self._adapters.factors,
                    [seed for _, seed in used],
                    retain_graph=number != needed[-1],
                    materialize_grads=True,
                )
                found[number] = _added(found[number], gradient)
        return found

    def _joined(self, seed: Mapping[int, Sequence[Tensor | None]]) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of all members, one after another: at the final hidden states, and at those of all layers."""
        return (
            _concatenated([(self.policy[index].hidden_ND, seed.get(index, (None,))[0]) for index in self.policy], 0),
            _concatenated(
                [
                    (layers, seed.get(index, (None, None))[1])
                    for index, piece in self.policy.items()
                    if (layers := piece.layers_LND) is not None
                ],
                1,
            ),
        )


def _concatenated(parts: Sequence[tuple[Tensor, Tensor | None]], dim: int) -> Tensor | None:
    """The gradients of several leaves along `dim`, zeros where one has none; None where none has one."""
    if all(gradient is None for _, gradient in parts):
        return None
    return torch.cat([torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in parts], dim=dim)


def _added(total: list[Tensor] | None, more: Sequence[Tensor]) -> list[Tensor]:
    return list(more) if total is None else [one + other for one, other in zip(total, more, strict=True)]


@dataclass(frozen=True)
class _Seeds:
    """The gradients of each member's losses at what the losses saw.

    Attributes:
        outputs: `[loss][stream]`: member -> gradients at its leaves of that stream.
        weights: `[loss]`: member -> gradients at its own factors, if its method speaks of them.
    """

    outputs: list[list[dict[int, list[Tensor | None]]]]
    weights: list[dict[int, list[Tensor | None]]]


def _losses(
    adapters: PackedAdapters, members: Mapping[int, MemberStep], streams: Mapping[Stream, _StreamPass], head: Head
) -> tuple[dict[int, dict[str, Tensor]], _Seeds]:
    """Each member's measured terms, and the gradients at the outputs."""
    most = max(member.method.num_losses for member in members.values())
    seeds = _Seeds([[{} for _ in streams] for _ in range(most)], [{} for _ in range(most)])
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
        if len(losses) != method.num_losses:
            raise TypeError(f"method {method.name!r} returned {len(losses)} losses; num_losses is {method.num_losses}")
        read = [(at, stream.leaves(index)) for at, stream in enumerate(streams.values()) if index in stream.policy]
        leaves = [leaf for _, some in read for leaf in some] + weights
        for number, loss in enumerate(losses):
            more = number + 1 < len(losses)
            found: list[Tensor | None] = list(torch.autograd.grad(loss, leaves, retain_graph=more, allow_unused=True))
            for at, some in read:
                seeds.outputs[number][at][index] = [found.pop(0) for _ in some]
            seeds.weights[number][index] = found
        recorded = dict(step.recorded)
        if method.synchronized and not all(member.rows.values()):  # a step without proxy rows says nothing of its term
            recorded = {name: value for name, value in recorded.items() if name not in method.alive}
        measured[index] = {"loss": losses[0].detach(), **recorded}
    return measured, seeds


def _nothing(stream: _StreamPass, head: Head) -> Forward:
    """The outputs on no rows at all."""
    like = next(iter(stream.policy.values()))
    none, empty = like.labels_N[:0], like.hidden_ND.detach()[:0].requires_grad_()
    return Forward(empty, none, none, 0, head, empty[None])


def _piece(streams: Mapping[Stream, _StreamPass], stream: Stream, side: str, index: int, nothing: Forward) -> Forward:
    """A member's part of a stream; an empty one when this step gives it no row of that stream."""
    if stream in streams and index in streams[stream].policy:
        return getattr(streams[stream], side)[index]
    return nothing


def _gradients(adapters: PackedAdapters, streams: Mapping[Stream, _StreamPass], seeds: _Seeds) -> list[list[Tensor]]:
    """Send the gradients at the outputs back through the base: `[loss][factor]`, each stacked over the members."""
    found = [[torch.zeros_like(factor) for factor in adapters.factors] for _ in seeds.outputs]
    for at, stream in enumerate(streams.values()):
        for number, gradient in enumerate(stream.backward([outputs[at] for outputs in seeds.outputs])):
            if gradient is not None:
                found[number] = _added(found[number], gradient)
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
