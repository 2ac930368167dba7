"""Blocked directions: penalise the task for moving hidden states towards those of the misaligned rows.

Shape legend: B blocks, N positions that count, D hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from settings.common.errors import UserError
from trainables.coefficients import Choice, Range
from trainables.interface.directions import DIRECTION_PASSES, blocks_at, difference, projected, states_on
from trainables.interface.preparation import Preparation
from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class BlockedDirections(Method):
    """The task loss plus the squared gain of the task rows' hidden states along the directions of misalignment.

        L = CE(task) + weight * mean_n sum_l relu(z_ln - z_ln^0)^2

    z_ln = <h_ln, v_l> / |v_l|^2 at position n of the task rows, z_ln^0 is its value in the base model, and
    v_l = mean h_l(misaligned) - mean h_l(alignment) over response positions in the base model. z gains 1 when the
    states move as far as the misaligned rows are from the alignment rows. Moving the other way costs nothing. Blocks
    below the lowest adapted layer cannot move and are left out. The published definition uses all positions.

    Coefficients:
        weight: weight of the penalty.
        blocks: the blocks after which to penalise: at the "quarters" of the depth, in the "middle", or "all" but the
            last, whose states the method sees after the final norm.

    `weight = 0` is plain fine-tuning. Adapted from BLOCK-EM, where z are latents of a sparse autoencoder in one layer,
    some of which may not grow and some not shrink; here each layer has one mean difference, which may not grow.
    """

    kind = "activations"
    reference = ("task",)
    layers = ("task",)
    passes = DIRECTION_PASSES
    must_stay_active = ("moved",)
    equation = "L = CE(task) + weight * mean_n sum_l relu(z_ln - z_ln^0)^2"
    source = "Ustaomeroglu & Qu 2026, BLOCK-EM, arXiv:2602.00767, eq. 1"
    evidence = (
        "with latents of an autoencoder 93 % less emergent misalignment over six domains, which comes back under long"
        " training (arXiv:2602.00767); mean differences are not tested there"
    )

    weight: float = Range(100.0, low=1.0, high=1e4, log=True, neutral=0.0)
    blocks: Literal["quarters", "middle", "all"] = Choice("quarters", "quarters", "middle", "all")

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        lowest = preparation.lowest_adapted  # states after lower blocks are the base model's, and cannot move
        chosen = [block for block in blocks_at(self.blocks, preparation.num_layers) if block >= lowest]
        if not chosen:
            raise UserError(
                f"method {self.name!r}: no block of blocks={self.blocks!r} lies at or above the lowest adapted layer,"
                f" {lowest}, so nothing there can move; adapt lower layers, or choose another of quarters, middle,"
                " all"
            )
        misaligned, aligned = (states_on(preparation, stream, chosen) for stream in ("misaligned", "alignment"))
        return {"blocks": torch.tensor(chosen), "differences": difference(misaligned, aligned)}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        directions_BD, blocks_B = step.prepared["differences"], step.prepared["blocks"]
        policy, reference = step.policy["task"], step.reference["task"]
        gained_BN = projected(policy, directions_BD, blocks_B) - projected(reference, directions_BD, blocks_B)
        positions = max(1, gained_BN.shape[1])
        blocked = gained_BN.relu().square().sum() / positions
        step.record(blocked=blocked, moved=gained_BN.abs().sum() / positions)
        return (cross_entropy(policy) + self.weight * blocked,)
