"""One stream of one step: all members' rows through the frozen base model, and their gradients back.

The rows go through the base together, stream by stream. The outputs are cut into per-member pieces; the gradients of
the members' losses at these go back through the base in one pass. Cutting the graph there keeps only one member's
`[N, V]` logits alive at a time, and makes micro-batching exact for any loss: the pieces are collected chunk by chunk
without a graph, and each chunk is forwarded again once its gradients are known (Gao et al. 2021, arXiv:2101.06983).

Shape legend: R rows, T padded length, N positions that count, M those of them whose states of all layers are kept, D
hidden width, V vocabulary, L layers, K members of the pack, P parameters of a member.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import RowPositions, to_device
from trainables.engine.chunks import (
    Chunk,
    ChunkGradients,
    Cutter,
    Graph,
    Outputs,
    Part,
    add_gradients,
    concatenate,
    disjoint,
    of_sent_rows,
    parts_read,
    sum_of_losses,
)
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.frozen.prefix import Prefix
from trainables.engine.frozen.reference_cache import CachedOutputs
from trainables.engine.memory import LOGITS
from trainables.engine.packed_linear import Route
from trainables.engine.process_group import ProcessGroup
from trainables.interface.outputs import Forward
from trainables.method import Method
from trainables.projections import Direction, Factors


@dataclass(frozen=True)
class MemberStep:
    """What one member does at a step.

    Attributes:
        method: its method.
        rows: the rows of each stream that the method reads.
        max_length: longest row, in tokens.
        cached: the base model's outputs on the rows of some streams; for other streams the base model is run.
        prefixes: cached states below the pack's lowest adapted layer on the rows of some streams; other streams go
            through the whole model.
        checked: check that the terms that must stay active have a gradient at the adapter.
        priors, prepared, state, directions, gates: see `Step`.
        kept: the state entries that the step kept, once it is taken.
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
    kept: dict[str, Tensor] = field(default_factory=dict)
    directions: Sequence[Direction] = ()
    gates: Sequence[float] = ()

    def row_positions(self, stream: Stream) -> list[RowPositions]:
        """Return the rows of a stream with the positions that the method counts."""
        positions = self.method.positions(stream)
        return [RowPositions(row, positions, self.max_length) for row in self.rows[stream]]


class StreamPass:
    """One stream of one step, for all members that read it.

    Rows are cut into chunks of `rows_per_forward`. If a method has a gradient for each group of its rows, the groups go
    through copies of its adapter, so that one backward pass gives the gradients of all of them.

    Attributes:
        policy, reference: member -> its piece of the outputs; the policy's are leaves of a separate graph.
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
        self._in_parts = any(method.num_losses > 1 for method in methods.values())
        cached = {index: members[index].cached[stream] for index in rows if stream in members[index].cached}
        self._prefixes = self._prefixes_of(members, stream, rows, cached)
        self._lower = {index: outputs for index, outputs in cached.items() if self._prefixes}
        cutter = Cutter(self._num_groups, self._with_layers, workers, pad_id, model.device)
        self._chunks = cutter.cut(rows, rows_per_forward)
        # Without micro-batches, the graph is kept; with them, a chunk is forwarded again once its gradient is known.
        self._graphs = [self._with_graph(chunk) for chunk in self._chunks] if len(self._chunks) == 1 else []
        self.policy = self._pieces(rows, policy=True)
        referring = {index for index, method in methods.items() if stream in method.reference}
        # A forwarded reference sees exactly the policy's batches, so that equal weights give equal bits.
        self.reference = self._pieces(rows, policy=False) if referring - cached.keys() else {}
        self.reference |= {index: self._from_cache(index, rows[index], outputs) for index, outputs in cached.items()}

    def _prefixes_of(
        self,
        members: Mapping[int, MemberStep],
        stream: Stream,
        rows: Mapping[int, Sequence[RowPositions]],
        cached: Mapping[int, CachedOutputs],
    ) -> dict[int, Prefix]:
        """Return the states below the lowest adapted layer, by member; empty if passes must begin at the bottom.

        They must if padding counts, or if a method sees the states of all layers and the lower ones, which are the base
        model's, are not in the cache.
        """
        prefixes = {index: members[index].prefixes[stream] for index in rows if stream in members[index].prefixes}
        known = all(index in cached for index in self._with_layers)
        padded = any(row.padded for of_member in rows.values() for row in of_member)
        return prefixes if prefixes.keys() == rows.keys() and known and not padded else {}

    def _begun(self, chunk: Chunk) -> AbstractContextManager[None]:
        """Let a pass over a chunk begin at the lowest adapted layer, if the states below are known."""
        if not self._prefixes:
            return nullcontext()
        columns, device = chunk.batch.ids_RT.shape[1], self._model.device
        states_RTD = torch.cat(
            [self._prefixes[index].of_rows([row.row.ids], columns, device) for index, row in chunk.sent]
        )
        return next(iter(self._prefixes.values())).start.begun(self._model, states_RTD)

    def _with_graph(self, chunk: Chunk) -> Graph:
        """Run the rows of a chunk so that their gradients can be backpropagated, part by part if there are parts."""
        if not self._in_parts:
            return Graph(self._adapters.factors, self.forward(chunk, chunk.route))
        route = self._adapters.split(chunk.parts_route)
        factors = [factor for pair in (route.factors or {}).values() for factor in pair]
        return Graph(factors, self.forward(chunk, route))

    def forward(self, chunk: Chunk, route: Route | None) -> Outputs:
        """Run the rows that this worker sends; return their outputs without those of a stand-in."""
        with self._adapters.routed(route), self._begun(chunk):
            hidden_ND, layers_LMD = hidden_states(self._model, chunk.batch, chunk.layers_M)
        if chunk.local_N is None or chunk.local_M is None:
            return Outputs(hidden_ND, layers_LMD)
        number = len(chunk.local_M)
        return Outputs(hidden_ND[: len(chunk.local_N)], None if layers_LMD is None else layers_LMD[:, :number])

    def _all_rows(self, chunk: Chunk, outputs: Outputs) -> Outputs:
        """Join the outputs of all workers on a chunk's rows."""
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
            outputs = [graph.outputs for graph in self._graphs]
        else:
            outputs = [self.forward(chunk, chunk.route if policy else None) for chunk in self._chunks]
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
        """Set the states of the layers that no member adapts, which a pass that begins above has not computed.

        Where the member edits the states that the pass begins with, they are the pass's own.
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
        """Return the tensors to differentiate a member's losses by: final hidden states, and all layers' if kept."""
        piece = self.policy[index]
        return [piece.hidden_ND] if piece.layers_LND is None else [piece.hidden_ND, piece.layers_LND]

    def backward(self, at_leaves: Sequence[Mapping[int, Sequence[Tensor | None]]]) -> list[list[Tensor] | None]:
        """Backpropagate gradients at the outputs to the adapters' factors.

        Args:
            at_leaves: `[loss]`: member -> gradients at its `leaves`; None for a leaf that the loss does not read.

        Returns:
            `[loss][factor]`; None for a loss that uses no member's output.
        """
        parts_of = parts_read(at_leaves, self.policy)
        passes = disjoint(parts_of)
        joined = [sum_of_losses([at_leaves[loss] for loss in losses]) for losses in passes]
        totals: list[list[Tensor] | None] = [None] * len(at_leaves)
        for number, chunk in enumerate(self._chunks):
            of_passes = [self._chunk_gradients(chunk, of_pass) for of_pass in joined]
            needed = {
                at: of_sent_rows(chunk, gradients)
                for at, gradients in enumerate(of_passes)
                if any(gradient is not None for gradient in gradients)
            }
            if self._graphs:
                graph = self._graphs[number]
            else:
                with autocast(self._model.device):
                    graph = self._with_graph(chunk)
            for left, (at, gradients) in enumerate(needed.items(), start=1 - len(needed)):
                used = [
                    (out, at_out) for out, at_out in zip(graph.outputs, gradients, strict=True) if at_out is not None
                ]
                at_factors = torch.autograd.grad(
                    [out for out, _ in used if out is not None],
                    graph.factors,
                    [at_out for _, at_out in used],
                    retain_graph=left < 0,
                    materialize_grads=True,
                )
                for loss in passes[at]:
                    of_loss = self._of_parts(chunk, at_factors, parts_of[loss]) if self._in_parts else at_factors
                    totals[loss] = add_gradients(totals[loss], of_loss)
        return totals

    def _of_parts(self, chunk: Chunk, at_factors: Sequence[Tensor], parts: Container[Part]) -> list[Tensor]:
        """Return the gradients of some parts of a chunk, summed by member and shaped like the adapters' factors."""
        chosen = [number for number, part in enumerate(chunk.parts) if part in parts]
        members = [chunk.parts[number].member for number in chosen]
        flat_KP = torch.zeros_like(self._adapters.theta_KP)
        if chosen:
            at = torch.tensor([chosen, members]).to(flat_KP.device, non_blocking=True)
            flat_KP.index_add_(0, at[1], self._adapters.flat(at_factors)[at[0]])
        return self._adapters.unflat(flat_KP)

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
        return ChunkGradients(concatenate(final, 0), concatenate(layers, 1))
