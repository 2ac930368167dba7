"""Directions in hidden states between two sets of rows, such as proxy rows and their misaligned twins.

Blocks are named by their number, from 0. The last one is never among them: its states are known after the final norm
only, and not as the block returns them.

Shape legend: N positions that count, D hidden width, B blocks, P pairs of rows, Q directions, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from settings.common.errors import UserError
from settings.setting import Stream
from trainables.interface.outputs import Forward
from trainables.interface.preparation import Preparation

Blocks = Literal["quarters", "middle", "all"]
TINY = 1e-16  # keeps 0 / 0 from being nan
RANK_TOLERANCE = 1e-6  # directions along which the differences are shorter than this part of the longest are none


@dataclass(frozen=True)
class States:
    """The base model's hidden states after some blocks, at the positions that count of a stream's rows.

    Attributes:
        states_BND: in float64.
        row_N: the row of each position.
        num_rows: how many there are.
    """

    states_BND: Tensor
    row_N: Tensor
    num_rows: int

    @property
    def row_means(self) -> Tensor:
        """The mean over each row, `[B, P, D]`."""
        shape = len(self.states_BND), self.num_rows, self.states_BND.shape[2]
        sums = self.states_BND.new_zeros(shape).index_add(1, self.row_N, self.states_BND)
        counts = torch.bincount(self.row_N, minlength=self.num_rows).clamp(min=1)
        return sums / counts[:, None]


def block_at(depth: float, num_layers: int) -> int:
    """Return the block above which the rest of the model lies, of which `depth` is the share at or below it.

    Raise UserError for a model of a single layer.
    """
    if num_layers < 2:
        raise UserError(f"methods that need hidden states between two layers cannot train a model of {num_layers}")
    return min(max(round(depth * num_layers), 1), num_layers - 1) - 1


def blocks_at(blocks: Blocks, num_layers: int) -> list[int]:
    """Return the blocks at quarters of the depth, in the middle, or all but the last. Raise UserError for one layer."""
    if blocks == "all":
        return list(range(block_at(1.0, num_layers) + 1))
    depths = (0.25, 0.5, 0.75) if blocks == "quarters" else (0.5,)
    return sorted({block_at(depth, num_layers) for depth in depths})


def states_on(preparation: Preparation, stream: Stream, blocks: Sequence[int]) -> States:
    """Return the base model's hidden states after blocks on all rows of a stream."""
    outputs = preparation.outputs(stream, layers=True)
    return States(_layers(outputs)[list(blocks)].double(), outputs.row_N, outputs.num_rows)


def difference(towards: States, away: States) -> Tensor:
    """Return the mean hidden state of one set of rows minus that of another, `[B, D]`; each position weighs the same.

    Raise UserError where they are the same.
    """
    difference_BD = towards.states_BND.mean(dim=1) - away.states_BND.mean(dim=1)
    if not difference_BD.any(dim=1).all():
        raise UserError(
            "the misaligned rows give the same hidden states as the alignment rows: no direction leads there"
        )
    return difference_BD


def mean_norms(states: States) -> Tensor:
    """Return the mean length of hidden states, `[B]`."""
    return states.states_BND.norm(dim=-1).mean(dim=1)


def principal_directions(towards: States, away: States, number: int) -> list[Tensor]:
    """Return, for each block, orthonormal directions `[Q, D]` in which paired rows differ most, not centred.

    Those of the largest singular values of the differences between row means; fewer where the differences span less.
    """
    subspaces = []
    for differences_PD in towards.row_means - away.row_means:
        _, lengths_Q, directions_QD = torch.linalg.svd(differences_PD.cpu(), full_matrices=False)
        spanned = int((lengths_Q > RANK_TOLERANCE * lengths_Q[0].clamp_min(TINY)).sum())
        subspaces.append(directions_QD[: min(number, spanned)])
    return subspaces


def projected(forward: Forward, directions_BD: Tensor, blocks: Tensor) -> Tensor:
    """Return the coordinates of hidden states after blocks along one direction each, in units of its length, `[B, N]`.

    z = <h, v> / |v|^2, in float32 or wider.
    """
    layers_LND = _layers(forward)
    states_BND = layers_LND[blocks].to(torch.promote_types(layers_LND.dtype, torch.float32))
    directions_BD = directions_BD.to(states_BND)
    return (states_BND * directions_BD[:, None]).sum(dim=-1) / directions_BD.square().sum(dim=-1, keepdim=True)


def _layers(forward: Forward) -> Tensor:
    if forward.layers_LND is None:
        raise ValueError("the method does not declare the hidden states of all layers (Method.layers)")
    return forward.layers_LND
