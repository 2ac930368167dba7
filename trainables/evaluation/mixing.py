"""Mix members with the base model token by token, and route the rows that the base model reads for them.

Shape legend: R rows or positions of all members, member after member; B those that the base model reads for them; V
vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.engine.adapters import PackedAdapters
from trainables.engine.packed_linear import Route


@dataclass(frozen=True)
class Readers:
    """The readers of rows in one pass: members of a pack, and the base model if some are mixed with it.

        z = (1 - lambda) z_base + lambda z_member

    at each token (DeRa, Liu et al. 2024, arXiv:2402.02992). The probabilities are those of the geometric mean
    p_base^(1 - lambda) p_member^lambda, normalised at each token.

    Attributes:
        adapters, members: those of the pack; without adapters, only the base model reads.
        mixes: lambda of each member; empty means 1 for all.
    """

    adapters: PackedAdapters | None = None
    members: tuple[int, ...] = ()
    mixes: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """Number of results: one per member, or one for only the base model."""
        return len(self.members) if self.adapters else 1

    @property
    def mixed(self) -> list[int]:
        """Places, among the members, of those mixed with the base model."""
        return [place for place, share in enumerate(self.mixes) if share != 1.0] if self.adapters else []

    @property
    def blocks(self) -> int:
        """Number of readers per row in a pass over rows that all share: the base model reads once for all members."""
        return self.count + bool(self.mixed)

    def routed(self, rows: int, unadapted: int) -> AbstractContextManager[None]:
        """Route `rows` rows to each member, one member after the other, then `unadapted` rows to the base model."""
        if self.adapters is None:
            return nullcontext()
        counts = (rows,) * len(self.members)
        return self.adapters.routed(Route(self.members, counts, evaluating=True, unadapted=unadapted))

    def routed_evenly(self, rows: int) -> AbstractContextManager[None]:
        """Route `rows` rows to each block."""
        return self.routed(rows, rows if self.mixed else 0)

    def mix(self, logits_RV: Tensor, base_BV: Tensor) -> Tensor:
        """Return the mixed logits of all members.

        Args:
            base_BV: the base model's logits on each mixed member's rows, one member after the other.
        """
        if not self.mixed:
            return logits_RV
        of_members, of_base = list(logits_RV.chunk(self.count)), base_BV.chunk(len(self.mixed))
        for place, base in zip(self.mixed, of_base, strict=True):
            of_members[place] = mixed_logits(of_members[place], base, self.mixes[place])
        return torch.cat(of_members)


def mixed_logits(member_RV: Tensor, base_RV: Tensor, share: float) -> Tensor:
    """Return (1 - share) base + share member."""
    return (1 - share) * base_RV + share * member_RV
