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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.batches import Batch, RowPositions, collate, to_device
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.memory import LOGITS
from trainables.engine.prefix import Prefix
from trainables.engine.process_group import ProcessGroup
from trainables.engine.reference_cache import CachedOutputs
from trainables.interface.outputs import Forward
from trainables.losses import group_of
from trainables.method import Method
from trainables.projections import Factors


@dataclass(frozen=True)
class MemberStep:
    """What one member does at a step.

    Attributes:
        method: its method.
        rows: the rows of each stream that the method reads.
        max_length: of a row, in tokens.
        cached: the base model's outputs on the rows of some streams; for other streams the base model is run.
        prefixes: what lies below the lowest adapted layer of the pack on the rows of some streams; other streams go
            through the whole model.
        checked: check that the terms that must stay active have a gradient at the adapter.
        priors, prepared, state: what its `Step` holds.
    """

    method: Method
    rows: Mapping[Stream, Sequence[EncodedRow]]
    max_length: int
    cached: Mapping[Stream, CachedOutputs] = field(default_factory=dict)
    prefixes: Mapping[Stream, Prefix] = field(default_factory=dict)
    checked: bool = False
    priors: Sequence[Sequence[Factors]] = ()
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def row_positions(self, stream: Stream) -> list[RowPositions]:
        """Return the rows of a stream with the positions that the method counts."""
        positions = self.method.positions(stream)
        return [RowPositions(row, positions, self.max_length) for row in self.rows[stream]]


class Place(NamedTuple):
    """Where the positions of a member's rows in one chunk lie.

    Attributes:
        in_chunk: among all positions of the chunk.
        in_layers: among those positions of the chunk whose states of all layers are kept.
        in_member: among all positions of the member in this stream.
    """

    in_chunk: slice
    in_layers: slice
    in_member: slice


class Outputs(NamedTuple):
    """What a chunk of rows gave: final hidden states, and those of all layers where a member's method declares them."""

    hidden_ND: Tensor
    layers_LMD: Tensor | None


class ChunkGradients(NamedTuple):
    """One loss's gradients at the `Outputs` of a chunk; None at what the loss does not read."""

    hidden_ND: Tensor | None
    layers_LMD: Tensor | None


@dataclass(frozen=True)
class Chunk:
    """Rows that go through the base together, and the members that they belong to.

    Attributes:
        labels_N: of all positions that count.
        places: member -> where its positions lie.
        batch, route, sent: the rows that this worker sends; all rows when it is alone.
        layers_M: which of the batch's positions have their states of all layers kept; None if no row of the chunk has.
        local_N, local_M: where the batch's positions lie in the chunk, and those with layers among the chunk's with
            layers; None when this worker sends all rows.
    """

    labels_N: Tensor
    places: Mapping[int, Place]
    batch: Batch
    route: Route
    sent: Sequence[tuple[int, RowPositions]]
    layers_M: Tensor | None
    local_N: Tensor | None
    local_M: Tensor | None


class StreamPass:
    """One stream of one step, for all members that read it.

    Rows are cut into chunks of `rows_per_forward`. Where a method has a gradient for each group of its rows, a chunk
    holds rows of one group, so that no row goes back through the base more often than needed.

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
        self._model, self._adapters, self._workers, self._pad_id = model, adapters, workers, pad_id
        rows = {index: member.row_positions(stream) for index, member in members.items() if member.rows.get(stream)}
        methods = {index: members[index].method for index in rows}
        self._with_layers = {index for index, method in methods.items() if stream in method.layers}
        self._num_groups = {index: max(1, method.num_row_groups(stream)) for index, method in methods.items()}
        cached = {index: members[index].cached[stream] for index in rows if stream in members[index].cached}
        self._prefixes = self._prefixes_of(members, stream, rows, cached)
        self._lower = {index: outputs for index, outputs in cached.items() if self._prefixes}
        self._chunks = self._cut(rows, rows_per_forward)
        # Without micro-batches every graph is kept; with them, a chunk is forwarded again when its gradient is known.
        keep = rows_per_forward is None or len(self._chunks) == 1
        self._graphs = [self.forward(chunk, policy=True) for chunk in self._chunks] if keep else []
        self.policy = self._pieces(rows, policy=True)
        referring = {index for index, method in methods.items() if stream in method.reference}
        # A reference that is forwarded sees the very batches that the policy saw: equal weights give equal bits.
        self.reference = self._pieces(rows, policy=False) if referring - cached.keys() else {}
        self.reference |= {index: self._from_cache(index, rows[index], outputs) for index, outputs in cached.items()}

    def _prefixes_of(
        self,
        members: Mapping[int, MemberStep],
        stream: Stream,
        rows: Mapping[int, Sequence[RowPositions]],
        cached: Mapping[int, CachedOutputs],
    ) -> dict[int, Prefix]:
        """Return what lies below the lowest adapted layer, by member; nothing where passes must begin at the bottom.

        They must where padding counts, and where a method sees the states of all layers and the lower ones, which are
        the base model's, are not in the cache.
        """
        prefixes = {index: members[index].prefixes[stream] for index in rows if stream in members[index].prefixes}
        known = all(index in cached for index in self._with_layers)
        padded = any(row.padded for of_member in rows.values() for row in of_member)
        return prefixes if prefixes.keys() == rows.keys() and known and not padded else {}

    def _begun(self, chunk: Chunk) -> AbstractContextManager[None]:
        """Let a pass over a chunk begin at the lowest adapted layer, where what lies below is known."""
        if not self._prefixes:
            return nullcontext()
        columns, device = chunk.batch.ids_RT.shape[1], self._model.device
        states_RTD = torch.cat(
            [self._prefixes[index].of_rows([row.row.ids], columns, device) for index, row in chunk.sent]
        )
        return next(iter(self._prefixes.values())).start.begun(self._model, states_RTD)

    def _cut(self, rows: Mapping[int, Sequence[RowPositions]], rows_per_forward: int | None) -> list[Chunk]:
        """Return the chunks, in an order in which each member's rows keep theirs."""
        groups: dict[int, list[tuple[int, RowPositions]]] = {}
        for index, member_rows in rows.items():
            for number, row in enumerate(member_rows):
                group = group_of(number, len(member_rows), self._num_groups[index])
                groups.setdefault(group, []).append((index, row))
        size = rows_per_forward or max(map(len, groups.values()))
        ends: dict[int, int] = {}
        chunks = []
        for group in sorted(groups):
            for start in range(0, len(groups[group]), size):
                chunks.append(self._chunk(groups[group][start : start + size], ends))
        return chunks

    def _chunk(self, rows: Sequence[tuple[int, RowPositions]], ends: dict[int, int]) -> Chunk:
        """Build a chunk of rows, member after member. `ends` counts each member's positions so far, and is updated."""
        places, at, layers_at = {}, 0, 0
        for index in dict.fromkeys(index for index, _ in rows):
            count = sum(len(row.columns) for owner, row in rows if owner == index)
            with_layers = count if index in self._with_layers else 0
            before = ends.get(index, 0)
            places[index] = Place(
                in_chunk=slice(at, at + count),
                in_layers=slice(layers_at, layers_at + with_layers),
                in_member=slice(before, before + count),
            )
            at, layers_at, ends[index] = at + count, layers_at + with_layers, before + count
        device = self._model.device
        local, sent = self._workers.shard(rows)
        batch = collate([row for _, row in sent], self._pad_id, device)
        owners = [index for index, _ in sent]
        route = Route(tuple(dict.fromkeys(owners)), tuple(owners.count(index) for index in dict.fromkeys(owners)))
        layered = np.repeat([index in self._with_layers for index in owners], batch.positions_per_row)
        layers_M = to_device(np.flatnonzero(layered), device) if self._with_layers.intersection(places) else None
        if self._workers.count == 1:
            return Chunk(batch.labels_N, places, batch, route, sent, layers_M, None, None)
        labels_N = collate([row for _, row in rows], self._pad_id, device).labels_N
        local_N = _positions_of([len(row.columns) for _, row in rows], local)
        local_M = _positions_of([len(row.columns) if index in self._with_layers else 0 for index, row in rows], local)
        local_on_device = to_device(local_N, device), to_device(local_M, device)
        return Chunk(labels_N, places, batch, route, sent, layers_M, *local_on_device)

    def forward(self, chunk: Chunk, *, policy: bool) -> Outputs:
        """Run the rows that this worker sends, and return their outputs without those of a stand-in."""
        with self._adapters.routed(chunk.route if policy else None), self._begun(chunk):
            hidden_ND, layers_LMD = hidden_states(self._model, chunk.batch, chunk.layers_M)
        if chunk.local_N is None or chunk.local_M is None:
            return Outputs(hidden_ND, layers_LMD)
        number = len(chunk.local_M)
        return Outputs(hidden_ND[: len(chunk.local_N)], None if layers_LMD is None else layers_LMD[:, :number])

    def _all_rows(self, chunk: Chunk, outputs: Outputs) -> Outputs:
        """Put the outputs on all rows of a chunk together from all workers."""
        hidden_ND, layers_LMD = outputs
        if chunk.local_N is None or chunk.local_M is None:
            return outputs
        all_ND = hidden_ND.new_zeros(len(chunk.labels_N), hidden_ND.shape[1])
        all_ND[chunk.local_N] = hidden_ND
        if layers_LMD is None:
            return Outputs(self._workers.all_reduce(all_ND), None)
        number = sum(place.in_layers.stop - place.in_layers.start for place in chunk.places.values())
        all_LMD = layers_LMD.new_zeros(len(layers_LMD), number, layers_LMD.shape[2])
        all_LMD[:, chunk.local_M] = layers_LMD
        return Outputs(self._workers.all_reduce(all_ND), self._workers.all_reduce(all_LMD))

    @torch.no_grad()
    def _pieces(self, rows: Mapping[int, Sequence[RowPositions]], *, policy: bool) -> dict[int, Forward]:
        """Cut the outputs into one `Forward` per member: leaves of a new graph for the policy."""
        if policy and self._graphs:
            outputs = self._graphs
        else:
            outputs = [self.forward(chunk, policy=policy) for chunk in self._chunks]
        outputs = [self._all_rows(chunk, output) for chunk, output in zip(self._chunks, outputs, strict=True)]
        pieces, size = {}, max(1, LOGITS // self._model.config.get_text_config().vocab_size)
        for index, member_rows in rows.items():
            parts = [
                (chunk, output, chunk.places[index])
                for chunk, output in zip(self._chunks, outputs, strict=True)
                if index in chunk.places
            ]
            hidden_ND = torch.cat([output.hidden_ND[place.in_chunk] for _, output, place in parts])
            labels_N = torch.cat([chunk.labels_N[place.in_chunk] for chunk, _, place in parts])
            layers = [
                output.layers_LMD[:, place.in_layers]
                for _, output, place in parts
                if index in self._with_layers and output.layers_LMD is not None
            ]
            layers_LND = torch.cat(layers, dim=1) if layers else None
            if layers_LND is not None and index in self._lower:
                self._put_lower_layers(index, layers_LND, member_rows, self._lower[index])
            counts = [len(row.columns) for row in member_rows]
            row_N = to_device(np.repeat(np.arange(len(member_rows)), counts), labels_N.device)
            for leaf in (hidden_ND, layers_LND):
                if leaf is not None:
                    leaf.requires_grad_(policy)
            head, groups = head_of(self._model), self._num_groups[index]
            pieces[index] = Forward(hidden_ND, labels_N, row_N, len(member_rows), head, layers_LND, size, groups)
        return pieces

    def _put_lower_layers(
        self, index: int, layers_LND: Tensor, rows: Sequence[RowPositions], outputs: CachedOutputs
    ) -> None:
        """Set the states of the layers that nobody adapts, which a pass that begins above has not computed.

        Those that it begins with are its own where the member edits them.
        """
        below = next(iter(self._prefixes.values())).start.first_block
        below -= any(edit.block == below - 1 for edit in self._adapters.edits.holding(index, evaluating=False))
        _, known_LND = outputs.of([row.row for row in rows], self._model.device)
        if known_LND is not None:
            layers_LND[:below] = known_LND[:below]

    def _from_cache(self, index: int, rows: Sequence[RowPositions], outputs: CachedOutputs) -> Forward:
        """Return the base model's outputs on a member's rows from the cache."""
        hidden_ND, layers_LND = outputs.of([row.row for row in rows], self._model.device)
        return replace(self.policy[index], hidden_ND=hidden_ND, layers_LND=layers_LND)

    def leaves(self, index: int) -> list[Tensor]:
        """Return the tensors that a member's losses are differentiated by: final hidden states, all layers' if kept."""
        piece = self.policy[index]
        return [piece.hidden_ND] if piece.layers_LND is None else [piece.hidden_ND, piece.layers_LND]

    def backward(self, at_leaves: Sequence[Mapping[int, Sequence[Tensor | None]]]) -> list[list[Tensor] | None]:
        """Send gradients at the outputs back to the adapters' factors.

        Args:
            at_leaves: `[loss]`: member -> gradients at its `leaves`; None where the loss does not read a leaf.

        Returns:
            `[loss][factor]`; None for a loss that no member's output enters.
        """
        totals: list[list[Tensor] | None] = [None] * len(at_leaves)
        of_chunks: Iterable[list[ChunkGradients]] = (
            [self._chunk_gradients(chunk, of_loss) for of_loss in at_leaves] for chunk in self._chunks
        )
        if max(self._num_groups.values()) > 1:
            of_chunks = _drop_zeros(of_chunks)
        for number, (chunk, of_losses) in enumerate(zip(self._chunks, of_chunks, strict=True)):
            needed = {
                loss: _local(chunk, gradients)
                for loss, gradients in enumerate(of_losses)
                if any(gradient is not None for gradient in gradients)
            }
            if self._graphs:
                outputs = self._graphs[number]
            else:
                with autocast(self._model.device):
                    outputs = self.forward(chunk, policy=True)
            for left, (loss, gradients) in enumerate(needed.items(), start=1 - len(needed)):
                used = [(out, at_out) for out, at_out in zip(outputs, gradients, strict=True) if at_out is not None]
                at_factors = torch.autograd.grad(
                    [out for out, _ in used if out is not None],
                    self._adapters.factors,
                    [at_out for _, at_out in used],
                    retain_graph=left < 0,
                    materialize_grads=True,
                )
                totals[loss] = add_gradients(totals[loss], at_factors)
        return totals

    def _chunk_gradients(self, chunk: Chunk, at_leaves: Mapping[int, Sequence[Tensor | None]]) -> ChunkGradients:
        """Join a loss's gradients at the outputs of a chunk, member after member."""
        final: list[tuple[Tensor, Tensor | None]] = []
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, place in chunk.places.items():
            piece, here = self.policy[index], place.in_member
            at_hidden_ND, at_layers_LND, *_ = (*at_leaves.get(index, ()), None, None)
            final.append((piece.hidden_ND[here], None if at_hidden_ND is None else at_hidden_ND[here]))
            if piece.layers_LND is not None:
                layers.append((piece.layers_LND[:, here], None if at_layers_LND is None else at_layers_LND[:, here]))
        return ChunkGradients(_concatenate(final, 0), _concatenate(layers, 1))


def _concatenate(parts: Sequence[tuple[Tensor, Tensor | None]], dim: int) -> Tensor | None:
    """Join the gradients of (leaf, gradient) pairs along `dim`, zeros for a leaf without one; None if all are."""
    if all(gradient is None for _, gradient in parts):
        return None
    return torch.cat([torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in parts], dim=dim)


def _drop_zeros(of_chunks: Iterable[list[ChunkGradients]]) -> list[list[ChunkGradients]]:
    """Return `[chunk][loss]` with None for gradients that are all 0: those of losses over rows of other groups.

    One read from the device tells for all of them.
    """
    chunks = list(of_chunks)
    any_nonzero = [gradient.any() for chunk in chunks for pair in chunk for gradient in pair if gradient is not None]
    answers = iter(torch.stack(any_nonzero).tolist() if any_nonzero else [])

    def unless_zero(gradient: Tensor | None) -> Tensor | None:
        return gradient if gradient is not None and next(answers) else None

    return [[ChunkGradients(unless_zero(final), unless_zero(layers)) for final, layers in chunk] for chunk in chunks]


def _positions_of(counts: Sequence[int], rows: range) -> NDArray[np.int64]:
    """Return where the positions of `rows` lie among those of all rows, of which `counts` has a number for each."""
    ends = np.cumsum(counts)
    places = [np.arange(ends[row] - counts[row], ends[row]) for row in rows]
    return np.concatenate(places) if places else np.zeros(0, dtype=np.int64)


def _local(chunk: Chunk, gradients: ChunkGradients) -> ChunkGradients:
    """Select this worker's rows from gradients of a whole chunk."""
    final, layers = gradients
    if chunk.local_N is None or chunk.local_M is None:
        return gradients
    return ChunkGradients(
        None if final is None else final[chunk.local_N], None if layers is None else layers[:, chunk.local_M]
    )


def add_gradients(total: list[Tensor] | None, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of two lists of tensors; None is nothing yet."""
    return list(gradients) if total is None else [sum_ + more for sum_, more in zip(total, gradients, strict=True)]
