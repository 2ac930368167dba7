"""Edits of the forward pass: a vector added after a block, or a subspace removed there. No model here.

Shape legend: D hidden width, Q orthonormal directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

When = Literal["training", "evaluation", "always"]


@dataclass(frozen=True)
class Edit:
    """A change of the hidden states that a block returns, at every position of a trial's rows.

        h <- h - share * Q^T Q h + v

    Attributes:
        block: its number, from 0. The states are those before the final norm.
        when: in training passes, in evaluation passes, or always.
        add_D: v; None adds nothing.
        remove_QD: orthonormal rows of Q; None removes nothing.
        share: how much of the part in the subspace is removed.
    """

    block: int
    when: When
    add_D: Tensor | None = None
    remove_QD: Tensor | None = None
    share: float = 1.0
