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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from settings.common.errors import UserError
from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.batches import STREAM_ORDER, Batch, EncodedRow, RowPositions, collate, to_device
from trainables.engine.memory import LOGITS
from trainables.engine.optimizer import PackedAdamW
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, layers_of
from trainables.losses import cross_entropy, part_of
from trainables.method import Forward, Method, Step

if TYPE_CHECKING:
    from trainables.engine.reference_cache import CachedOutputs

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MemberStep:
    """What one member does at a step.

    Attributes:
        method: its method.
        rows: of each stream that the method reads.
        max_length: of a row, in tokens.
        known: what the base model gives on the rows of some streams; on those of others it is asked.
        checked: see whether the terms that must be alive pull at the adapter.
    """

    method: Method
    rows: Mapping[Stream, Sequence[EncodedRow]]
    max_length: int
    known: Mapping[Stream, CachedOutputs] = field(default_factory=dict)
    checked: bool = False

    def counted(self, stream: Stream) -> list[RowPositions]:
        """The rows of a stream with the positions that the method counts."""
        positions = self.method.positions(stream)
        return [RowPositions(row, positions, self.max_length) for row in self.rows[stream]]


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


class _RestoreRoute(AbstractContextManager[None]):
    """Rows routed as they were once. Entered as often as a layer runs again: once for every loss that goes back."""

    def __init__(self, adapters: PackedAdapters, route: Route | None) -> None:
        self._adapters, self._route = adapters, route
        self._routed: AbstractContextManager[None] = nullcontext()

    def __enter__(self) -> None:
        self._routed = self._adapters.routed(self._route)
        self._routed.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._routed.__exit__(*error)


@contextmanager
def recomputing(model: PreTrainedModel, adapters: PackedAdapters) -> Iterator[None]:
    """Inside, a forward pass keeps the inputs of its layers alone; going back, each layer runs once more.

    Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174). A layer runs again with the rows routed as they were.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _RestoreRoute(adapters, adapters.route)

    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    layers = layers_of(model)
    for layer in layers:
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = layer.training = True  # of the layer, not of what it consists of
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


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
        gradient_checkpointing: see `recomputing`; it changes no result either.
        workers: who takes the step together; each ends with the same adapters.
    """
    keep = recomputing(model, adapters) if gradient_checkpointing else nullcontext()
    wanted = [stream for stream in STREAM_ORDER if any(member.rows.get(stream) for member in members.values())]
    with keep:
        with autocast(model.device):
            streams = {
                stream: _StreamPass(model, adapters, members, stream, pad_id, rows_per_forward, workers)
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


Outputs = tuple[Tensor, Tensor | None]  # hidden_ND and layers_LMD
Joined = tuple[Tensor | None, Tensor | None]  # gradients at these; None where a loss does not see them


@dataclass(frozen=True)
class _Chunk:
    """Rows that go through the base together, and whose they are.

    Attributes:
        labels_N: of all positions that count.
        places: member -> where its positions lie in the chunk, among the chunk's deep ones, and in the member's piece.
        batch, route: the rows that this worker sends, all of them when it is alone.
        deep_M: which of the batch's positions want the states of all layers; None if no row of the chunk does.
        own_N, own_M: where the batch's positions lie in the chunk, and its deep ones among the chunk's deep ones; None
            when this worker sends all.
    """

    labels_N: Tensor
    places: Mapping[int, tuple[slice, slice, slice]]
    batch: Batch
    route: Route
    deep_M: Tensor | None
    own_N: Tensor | None
    own_M: Tensor | None


class _StreamPass:
    """One stream of one step, for all members that read it.

    Rows are cut into chunks of `rows_per_forward`, and where a method wants a gradient of its own from each part of its
    rows, into one chunk for each part, so that no row goes back through the base more often than needed.

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
        workers: ProcessGroup,
    ) -> None:
        self._model, self._adapters, self._workers = model, adapters, workers
        rows = {index: member.counted(stream) for index, member in members.items() if member.rows.get(stream)}
        parts = {index: members[index].method.parts(stream) for index in rows}
        self._deep = {index for index in rows if stream in members[index].method.layers}
        self._split = max(parts.values()) > 1
        self._chunks = self._cut(rows, parts, pad_id, rows_per_forward)
        # Without micro-batches every graph is kept; with them, a chunk is forwarded again when its gradient is known.
        keep = rows_per_forward is None or len(self._chunks) == 1
        self._graphs = [self._forward(chunk, policy=True) for chunk in self._chunks] if keep else []
        self.policy = self._pieces(rows, policy=True)
        known = {index: members[index].known[stream] for index in rows if stream in members[index].known}
        asked = {index for index in rows if stream in members[index].method.reference}
        # A reference that is asked sees the very batches that the policy saw, so that equal weights give equal bits.
        self.reference = self._pieces(rows, policy=False) if asked - known.keys() else {}
        self.reference |= {index: self._recalled(index, rows[index], own) for index, own in known.items()}

    def _cut(
        self,
        rows: Mapping[int, Sequence[RowPositions]],
        parts: Mapping[int, int],
        pad_id: int,
        rows_per_forward: int | None,
    ) -> list[_Chunk]:
        """The chunks, in an order in which each member's rows keep theirs."""
        groups: dict[int, list[tuple[int, RowPositions]]] = {}
        for index, some in rows.items():
            for number, item in enumerate(some):
                groups.setdefault(part_of(number, len(some), parts[index]), []).append((index, item))
        size = rows_per_forward or max(map(len, groups.values()))
        ends: dict[int, int] = {}
        chunks = []
        for number in sorted(groups):
            for start in range(0, len(groups[number]), size):
                chunks.append(self._chunk(groups[number][start : start + size], ends, pad_id))
        return chunks

    def _chunk(self, rows: Sequence[tuple[int, RowPositions]], ends: dict[int, int], pad_id: int) -> _Chunk:
        """A chunk of rows, member after member. `ends` tells how many positions of each member came before."""
        places, at, deep_at = {}, 0, 0
        for index in dict.fromkeys(index for index, _ in rows):
            count = sum(len(item.columns) for owner, item in rows if owner == index)
            deep = count if index in self._deep else 0
            before = ends.get(index, 0)
            places[index] = (slice(at, at + count), slice(deep_at, deep_at + deep), slice(before, before + count))
            at, deep_at, ends[index] = at + count, deep_at + deep, before + count
        device = self._model.device
        own, sent = self._workers.deal(rows)
        batch = collate([item for _, item in sent], pad_id, device)
        owners = [index for index, _ in sent]
        route = Route(tuple(dict.fromkeys(owners)), tuple(owners.count(index) for index in dict.fromkeys(owners)))
        wanted = np.repeat([index in self._deep for index in owners], batch.positions_per_row)
        deep_M = to_device(np.flatnonzero(wanted), device) if self._deep.intersection(places) else None
        if self._workers.count == 1:
            return _Chunk(batch.labels_N, places, batch, route, deep_M, None, None)
        labels_N = collate([item for _, item in rows], pad_id, device).labels_N
        own_N = _positions([len(item.columns) for _, item in rows], own)
        own_M = _positions([len(item.columns) if index in self._deep else 0 for index, item in rows], own)
        return _Chunk(labels_N, places, batch, route, deep_M, to_device(own_N, device), to_device(own_M, device))

    def _forward(self, chunk: _Chunk, *, policy: bool) -> Outputs:
        """What the rows that this worker sends give; nothing of a stand-in."""
        with self._adapters.routed(chunk.route if policy else None):
            hidden_ND, layers_LMD = hidden_states(self._model, chunk.batch, chunk.deep_M)
        if chunk.own_N is None or chunk.own_M is None:
            return hidden_ND, layers_LMD
        return hidden_ND[: len(chunk.own_N)], None if layers_LMD is None else layers_LMD[:, : len(chunk.own_M)]

    def _whole(self, chunk: _Chunk, outputs: Outputs) -> Outputs:
        """The outputs on all rows of a chunk, put together from all workers."""
        hidden_ND, layers_LMD = outputs
        if chunk.own_N is None or chunk.own_M is None:
            return outputs
        all_ND = hidden_ND.new_zeros(len(chunk.labels_N), hidden_ND.shape[1])
        all_ND[chunk.own_N] = hidden_ND
        if layers_LMD is None:
            return self._workers.sum(all_ND), None
        number = sum(place.stop - place.start for _, place, _ in chunk.places.values())
        all_LMD = layers_LMD.new_zeros(len(layers_LMD), number, layers_LMD.shape[2])
        all_LMD[:, chunk.own_M] = layers_LMD
        return self._workers.sum(all_ND), self._workers.sum(all_LMD)

    @torch.no_grad()
    def _pieces(self, rows: Mapping[int, Sequence[RowPositions]], *, policy: bool) -> dict[int, Forward]:
        """The outputs cut into one `Forward` per member: leaves of a new graph for the policy."""
        if policy and self._graphs:
            found = self._graphs
        else:
            found = [self._forward(chunk, policy=policy) for chunk in self._chunks]
        found = [self._whole(chunk, outputs) for chunk, outputs in zip(self._chunks, found, strict=True)]
        pieces, chunk = {}, max(1, LOGITS // self._model.config.get_text_config().vocab_size)
        for index, some in rows.items():
            own = [
                (part, out, part.places[index])
                for part, out in zip(self._chunks, found, strict=True)
                if index in part.places
            ]
            hidden_ND = torch.cat([out[0][place] for _, out, (place, _, _) in own])
            labels_N = torch.cat([part.labels_N[place] for part, _, (place, _, _) in own])
            deep = [out[1][:, place] for _, out, (_, place, _) in own if index in self._deep and out[1] is not None]
            layers_LND = torch.cat(deep, dim=1) if deep else None
            row_N = to_device(np.repeat(np.arange(len(some)), [len(item.columns) for item in some]), labels_N.device)
            for leaf in (hidden_ND, layers_LND):
                if leaf is not None:
                    leaf.requires_grad_(policy)
            pieces[index] = Forward(hidden_ND, labels_N, row_N, len(some), head_of(self._model), layers_LND, chunk)
        return pieces

    def _recalled(self, index: int, rows: Sequence[RowPositions], known: CachedOutputs) -> Forward:
        """What the base model is known to give on a member's rows."""
        hidden_ND, layers_LND = known.of([item.row for item in rows], self._model.device)
        return replace(self.policy[index], hidden_ND=hidden_ND, layers_LND=layers_LND)

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
        found: list[list[Tensor] | None] = [None] * len(seeds)
        joined: Iterable[list[Joined]] = ([self._joined(chunk, seed) for seed in seeds] for chunk in self._chunks)
        for number, (chunk, of_losses) in enumerate(
            zip(self._chunks, _without_zeros(joined) if self._split else joined, strict=True)
        ):
            needed = {
                loss: _own(chunk, parts)
                for loss, parts in enumerate(of_losses)
                if any(part is not None for part in parts)
            }
            if self._graphs:
                roots = self._graphs[number]
            else:
                with autocast(self._model.device):
                    roots = self._forward(chunk, policy=True)
            for left, (loss, outputs) in enumerate(needed.items(), start=1 - len(needed)):
                used = [(root, seed) for root, seed in zip(roots, outputs, strict=True) if seed is not None]
                gradient = torch.autograd.grad(
                    [root for root, _ in used if root is not None],
                    self._adapters.factors,
                    [seed for _, seed in used],
                    retain_graph=left < 0,
                    materialize_grads=True,
                )
                found[loss] = _added(found[loss], gradient)
        return found

    def _joined(self, chunk: _Chunk, seed: Mapping[int, Sequence[Tensor | None]]) -> Joined:
        """A loss's gradients at the outputs of a chunk, member after member; None where no member's loss sees them."""
        final: list[tuple[Tensor, Tensor | None]] = []
        deep: list[tuple[Tensor, Tensor | None]] = []
        for index, (_, _, place) in chunk.places.items():
            piece, given = self.policy[index], seed.get(index, ())
            final.append((piece.hidden_ND[place], given[0][place] if given and given[0] is not None else None))
            if piece.layers_LND is not None:
                own = given[1][:, place] if len(given) > 1 and given[1] is not None else None
                deep.append((piece.layers_LND[:, place], own))
        return _concatenated(final, 0), _concatenated(deep, 1)


def _concatenated(parts: Sequence[tuple[Tensor, Tensor | None]], dim: int) -> Tensor | None:
    """The gradients of several leaves along `dim`, zeros where one has none; None where none has one."""
    if all(gradient is None for _, gradient in parts):
        return None
    return torch.cat([torch.zeros_like(leaf) if own is None else own for leaf, own in parts], dim=dim)


def _without_zeros(joined: Iterable[list[Joined]]) -> list[list[Joined]]:
    """`[chunk][loss]` with None for gradients that are 0: of losses over other parts of the rows than the chunk's.

    The device is asked once for all of them.
    """
    kept = list(joined)
    asked = [gradient.any() for chunk in kept for parts in chunk for gradient in parts if gradient is not None]
    found = iter(torch.stack(asked).tolist() if asked else [])

    def seen(gradient: Tensor | None) -> Tensor | None:
        return gradient if gradient is not None and next(found) else None

    return [[(seen(final), seen(deep)) for final, deep in chunk] for chunk in kept]


def _positions(counts: Sequence[int], rows: range) -> NDArray[np.int64]:
    """Where the positions of some rows lie among those of all rows; `counts` tells how many each row has."""
    ends = np.cumsum(counts)
    own = [np.arange(ends[row] - counts[row], ends[row]) for row in rows]
    return np.concatenate(own) if own else np.zeros(0, dtype=np.int64)


def _own(chunk: _Chunk, gradients: Joined) -> Joined:
    """Of gradients at the outputs of all rows of a chunk, those of the rows that this worker has sent."""
    final, deep = gradients
    if chunk.own_N is None or chunk.own_M is None:
        return gradients
    return None if final is None else final[chunk.own_N], None if deep is None else deep[:, chunk.own_M]


def _added(total: list[Tensor] | None, more: Sequence[Tensor]) -> list[Tensor]:
    return list(more) if total is None else [one + other for one, other in zip(total, more, strict=True)]


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
    adapters: PackedAdapters, members: Mapping[int, MemberStep], streams: Mapping[Stream, _StreamPass], head: Head
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


def _gradients(
    adapters: PackedAdapters, streams: Mapping[Stream, _StreamPass], seeds: _OutputGradients, workers: ProcessGroup
) -> list[list[Tensor]]:
    """Send the gradients at the outputs back through the base: `[loss][factor]`, each stacked over the members."""
    found = [[torch.zeros_like(factor) for factor in adapters.factors] for _ in seeds.outputs]
    for at, stream in enumerate(streams.values()):
        for number, gradient in enumerate(stream.backward([outputs[at] for outputs in seeds.outputs])):
            if gradient is not None:
                found[number] = _added(found[number], gradient)
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
