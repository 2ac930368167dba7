"""The outputs of the model on the rows of a stream, as a method sees them.

Shape legend: N positions of the rows of a stream, concatenated; D hidden width; V vocabulary; L layers; P rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainables.chunked import per_position


@dataclass(frozen=True)
class Forward:
    """The outputs on the rows of one stream, for one trial or for the reference.

    Attributes:
        hidden_ND: final hidden state at each position that the method counts (`Method.positions`).
        labels_N: the token that follows each position; the padding token if none does.
        row_N: which row of the batch each position belongs to, 0 .. num_rows - 1.
        num_rows: rows in the batch.
        head: maps hidden states to logits in float32 (or wider), `[N, D] -> [N, V]`.
        layers_LND: hidden states after each layer, the last one being `hidden_ND`; only if the method declares
            them (`Method.layers`); in a step, reading others says what to declare.
        chunk: number of positions whose logits are held at a time by losses that sum over positions; None means all.
        num_groups: number of row groups with a gradient each (`Method.num_row_groups`); 1 if all rows are one group.
    """

    hidden_ND: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int
    head: Callable[[Tensor], Tensor]
    layers_LND: Tensor | None = None
    chunk: int | None = None
    num_groups: int = 1

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits at all positions; computed once, when first read."""
        return self.head(self.hidden_ND)

    @cached_property
    def nll_N(self) -> Tensor:
        """Negative log-likelihood of the token after each position, in nats; computed once, chunk by chunk."""

        def nll(hidden_ND: Tensor, at: slice) -> Tensor:
            return torch.nn.functional.cross_entropy(self.head(hidden_ND), self.labels_N[at], reduction="none")

        return per_position(nll, self.hidden_ND, self.chunk)


@dataclass(frozen=True)
class RowStates:
    """Hidden states on the rows of a stream, summed over the positions that count of each row; in main memory, float64.

    Attributes:
        sums_LPD: sums of the states after each layer, the last one after the final norm.
        lengths_LP: sums of the Euclidean lengths of these states.
        counts_P: number of positions of each row.
    """

    sums_LPD: Tensor
    lengths_LP: Tensor
    counts_P: Tensor
