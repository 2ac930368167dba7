"""Rows that go through the base together: their members, their outputs, and how gradients are cut and joined.

Shape legend: N positions that count, M those of them whose states of all layers are kept, D hidden width, L layers, G
groups of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.engine.batches import Batch, RowPositions, collate, to_device
from trainables.engine.packed_linear import Route
from trainables.engine.process_group import ProcessGroup
from trainables.interface.outputs import Forward
from trainables.losses import group_of


class Place(NamedTuple):
    """The places of a member's positions in one chunk.

    Attributes:
        in_chunk: their places among all positions of the chunk.
        in_layers: their places among the chunk's positions whose states of all layers are kept.
        in_member: their places among all positions of the member in this stream.
    """

    in_chunk: slice
    in_layers: slice
    in_member: slice


class Outputs(NamedTuple):
    """The outputs of a chunk: final hidden states, and those of all layers if a member's method declares them."""

    hidden_ND: Tensor
    layers_LMD: Tensor | None


class ChunkGradients(NamedTuple):
    """One loss's gradients at the `Outputs` of a chunk; None for outputs that the loss does not read."""

    hidden_ND: Tensor | None
    layers_LMD: Tensor | None


class Part(NamedTuple):
    """The rows of one group of one member (`Method.num_row_groups`); all its rows if it has no groups."""

    member: int
    group: int


class Graph(NamedTuple):
    """A forward pass that can be backpropagated: the factors that it used, and its outputs."""

    factors: Sequence[Tensor]
    outputs: Outputs


@dataclass(frozen=True)
class Chunk:
    """Rows that go through the base together, and their members.

    Attributes:
        labels_N: labels of all positions that count.
        places: member -> places of its positions.
        batch, sent: the rows that this worker sends; all rows if it is the only one.
        route: the members that these rows belong to.
        parts: (member, group) of the rows that have their own gradient, if a member has several losses.
        parts_route: the route by parts.
        layers_M: the batch's positions whose states of all layers are kept; None if no row of the chunk needs them.
        local_N, local_M: places of the batch's positions in the chunk, and of those with layers among the chunk's with
            layers; None if this worker sends all rows.
    """

    labels_N: Tensor
    places: Mapping[int, Place]
    batch: Batch
    sent: Sequence[tuple[int, RowPositions]]
    route: Route
    parts: Sequence[Part]
    parts_route: Route
    layers_M: Tensor | None
    local_N: Tensor | None
    local_M: Tensor | None


@dataclass(frozen=True)
class Cutter:
    """Cuts the rows of a stream into chunks.

    Attributes:
        num_groups: member -> number of row groups with a gradient each (`Method.num_row_groups`); 1 if it has none.
        with_layers: members whose states of all layers are kept.
        workers: the processes that send a chunk's rows together.
        pad_id, device: pad token and device of the batches.
    """

    num_groups: Mapping[int, int]
    with_layers: Container[int]
    workers: ProcessGroup
    pad_id: int
    device: torch.device

    def cut(self, rows: Mapping[int, Sequence[RowPositions]], rows_per_forward: int | None) -> list[Chunk]:
        """Cut rows, member after member, into chunks of `rows_per_forward`; None makes one chunk."""
        listed = [
            (Part(index, group_of(number, len(member_rows), self.num_groups[index])), row)
            for index, member_rows in rows.items()
            for number, row in enumerate(member_rows)
        ]
        size, ends = rows_per_forward or len(listed), dict[int, int]()
        return [self._chunk(listed[start : start + size], ends) for start in range(0, len(listed), size)]

    def _chunk(self, listed: Sequence[tuple[Part, RowPositions]], ends: dict[int, int]) -> Chunk:
        """Build a chunk. `ends` counts each member's positions so far, and is updated."""
        rows = [(part.member, row) for part, row in listed]
        local, sent_parts = self.workers.shard(listed)
        sent = [(part.member, row) for part, row in sent_parts]
        batch = collate([row for _, row in sent], self.pad_id, self.device)
        counts, counts_of_parts = Counter(index for index, _ in sent), Counter(part for part, _ in sent_parts)
        parts = tuple(counts_of_parts)
        layered = np.repeat([index in self.with_layers for index, _ in sent], batch.positions_per_row)
        any_layers = any(index in self.with_layers for index, _ in rows)
        labels_N, local_N, local_M = batch.labels_N, None, None
        if self.workers.count > 1:
            labels_N = collate([row for _, row in rows], self.pad_id, self.device).labels_N
            counted = [len(row.columns) for _, row in rows]
            with_layers = [len(row.columns) if index in self.with_layers else 0 for index, row in rows]
            local_N, local_M = (to_device(positions_of(each, local), self.device) for each in (counted, with_layers))
        return Chunk(
            labels_N=labels_N,
            places=self._places(rows, ends),
            batch=batch,
            sent=sent,
            route=Route(tuple(counts), tuple(counts.values())),
            parts=parts,
            parts_route=Route(tuple(part.member for part in parts), tuple(counts_of_parts.values())),
            layers_M=to_device(np.flatnonzero(layered), self.device) if any_layers else None,
            local_N=local_N,
            local_M=local_M,
        )

    def _places(self, rows: Sequence[tuple[int, RowPositions]], ends: dict[int, int]) -> dict[int, Place]:
        places, at, layers_at = {}, 0, 0
        for index in dict.fromkeys(index for index, _ in rows):
            count = sum(len(row.columns) for owner, row in rows if owner == index)
            with_layers = count if index in self.with_layers else 0
            before = ends.get(index, 0)
            places[index] = Place(
                in_chunk=slice(at, at + count),
                in_layers=slice(layers_at, layers_at + with_layers),
                in_member=slice(before, before + count),
            )
            at, layers_at, ends[index] = at + count, layers_at + with_layers, before + count
        return places


def concatenate(parts: Sequence[tuple[Tensor, Tensor | None]], dim: int) -> Tensor | None:
    """Join the gradients of (leaf, gradient) pairs along `dim`, zeros for a missing one; None if all are missing."""
    if all(gradient is None for _, gradient in parts):
        return None
    return torch.cat([torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in parts], dim=dim)


def sum_of_losses(of_losses: Sequence[Mapping[int, Sequence[Tensor | None]]]) -> dict[int, list[Tensor | None]]:
    """Sum several losses' gradients at the leaves of each member; None for a leaf that no loss reads."""
    total: dict[int, list[Tensor | None]] = {}
    for of_members in of_losses:
        for index, gradients in of_members.items():
            before = total.get(index) or [None] * len(gradients)
            total[index] = [
                one if two is None else two if one is None else one + two
                for one, two in zip(before, gradients, strict=True)
            ]
    return total


def disjoint(parts_of: Mapping[int, set[Part]]) -> list[list[int]]:
    """Group losses into passes such that no two losses of a pass have a gradient at the same part."""
    passes: list[tuple[set[Part], list[int]]] = []
    for loss, parts in parts_of.items():
        for taken, losses in passes:
            if taken.isdisjoint(parts):
                taken |= parts
                losses.append(loss)
                break
        else:
            passes.append((set(parts), [loss]))
    return [losses for _, losses in passes]


def positions_of(counts: Sequence[int], rows: range) -> NDArray[np.int64]:
    """Return the places of the positions of `rows` among those of all rows; `counts` has each row's number."""
    ends = np.cumsum(counts)
    places = [np.arange(ends[row] - counts[row], ends[row]) for row in rows]
    return np.concatenate(places) if places else np.zeros(0, dtype=np.int64)


def of_sent_rows(chunk: Chunk, gradients: ChunkGradients) -> ChunkGradients:
    """Select this worker's rows from gradients of a whole chunk."""
    final, layers = gradients
    if chunk.local_N is None or chunk.local_M is None:
        return gradients
    return ChunkGradients(
        None if final is None else final[chunk.local_N], None if layers is None else layers[:, chunk.local_M]
    )


def add_gradients(total: list[Tensor] | None, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of two lists of tensors; `total` None means nothing yet."""
    return list(gradients) if total is None else [sum_ + more for sum_, more in zip(total, gradients, strict=True)]


def nonzero_positions(gradient: Tensor) -> Tensor:
    """Return 1 at the positions where a gradient `[N, D]` or `[L, N, D]` is not 0, and 0 elsewhere, `[N]`."""
    nonzero = (gradient != 0).any(dim=-1)
    return (nonzero if nonzero.ndim == 1 else nonzero.any(dim=0)).long()


def parts_read(
    at_leaves: Sequence[Mapping[int, Sequence[Tensor | None]]], pieces: Mapping[int, Forward]
) -> dict[int, set[Part]]:
    """Return the parts at which each loss has a gradient, with a single read from the device for all groups.

    Args:
        at_leaves: `[loss]`: member -> gradients at its outputs.
        pieces: member -> its outputs.
    """
    parts_of: dict[int, set[Part]] = {}
    counted: dict[tuple[int, Part], Tensor] = {}
    for loss, of_members in enumerate(at_leaves):
        for index, gradients in of_members.items():
            piece, read = pieces[index], [gradient for gradient in gradients if gradient is not None]
            if read and piece.num_groups == 1:
                parts_of.setdefault(loss, set()).add(Part(index, 0))
            elif read:
                any_N = torch.stack([nonzero_positions(each) for each in read]).sum(dim=0)
                group_N = group_of(piece.row_N, piece.num_rows, piece.num_groups)
                any_G = group_N.new_zeros(piece.num_groups).index_add(0, group_N, any_N)
                counted |= {(loss, Part(index, group)): count for group, count in enumerate(any_G)}
    counts = torch.stack(list(counted.values())).tolist() if counted else []
    for (loss, part), count in zip(counted, counts, strict=True):
        if count:
            parts_of.setdefault(loss, set()).add(part)
    return parts_of
