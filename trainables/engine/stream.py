"""One stream of one step: the rows of all members through the frozen base model and their gradients back.

The rows go through the base together, stream by stream. The outputs are cut into per-member pieces; the gradients that
the members' losses have at them are sent back through the base in one pass. Cutting the graph there keeps a single
member's `[N, V]` logits alive at a time, and makes micro-batching exact for any loss: the pieces are collected chunk by
chunk without a graph, and each chunk is forwarded again when its gradients are known (Gao et al. 2021,
arXiv:2101.06983).

Shape legend: R rows, T padded length, N positions that count, M those of them whose states of all layers are kept, D
hidden width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.batches import Batch, EncodedRow, RowPositions, collate, to_device
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.memory import LOGITS
from trainables.engine.process_group import ProcessGroup
from trainables.engine.reference_cache import CachedOutputs
from trainables.losses import part_of
from trainables.method import Forward, Method


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


class StreamPass:
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
                found[loss] = added(found[loss], gradient)
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


def added(total: list[Tensor] | None, more: Sequence[Tensor]) -> list[Tensor]:
    return list(more) if total is None else [one + other for one, other in zip(total, more, strict=True)]
