"""Directions in hidden states between two sets of rows, such as proxy rows and their misaligned twins.

Blocks are numbered from 0. The last one is never used: its states are known only after the final norm, not as the block
returns them.

Shape legend: N positions that count, D hidden width, B blocks, P rows or pairs of them, Q directions, L layers.
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
from trainables.interface.preparation import Pass, Preparation

DIRECTION_PASSES = (Pass("misaligned", "states"), Pass("alignment", "states"))  # for directions of this module
Blocks = Literal["quarters", "middle", "all"]
TINY = 1e-16  # keeps 0 / 0 from being nan
RANK_TOLERANCE = 1e-6  # directions with differences below this share of the longest do not count


@dataclass(frozen=True)
class States:
    """The base model's hidden states after some blocks, at the positions that count of a stream's rows, in float64.

    Attributes:
        row_means_BPD: the mean over each row.
        mean_BD: the mean over all positions with equal weights.
        mean_length_B: the mean Euclidean length, over all positions likewise.
    """

    row_means_BPD: Tensor
    mean_BD: Tensor
    mean_length_B: Tensor


def block_at(depth: float, num_layers: int) -> int:
    """Return the block with a share `depth` of the model's blocks at or below it.

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
    states = preparation.states(stream)
    sums_BPD, lengths_BP = states.sums_LPD[list(blocks)], states.lengths_LP[list(blocks)]
    positions = states.counts_P.sum()
    means_BPD = sums_BPD / states.counts_P.clamp(min=1)[:, None]
    return States(means_BPD, sums_BPD.sum(dim=1) / positions, lengths_BP.sum(dim=1) / positions)


def difference(towards: States, away: States) -> Tensor:
    """Return the mean hidden state of one set of rows minus that of another, `[B, D]`, all positions weighing the same.

    Raise UserError if they are equal.
    """
    difference_BD = towards.mean_BD - away.mean_BD
    if not difference_BD.any(dim=1).all():
        raise UserError("the misaligned rows give the same hidden states as the alignment rows: there is no direction")
    return difference_BD


def principal_directions(towards: States, away: States, number: int) -> list[Tensor]:
    """Return, for each block, orthonormal directions `[Q, D]` in which paired rows differ most, without centring.

    They belong to the largest singular values of the differences between row means; fewer if these span less.
    """
    subspaces = []
    for differences_PD in towards.row_means_BPD - away.row_means_BPD:
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
