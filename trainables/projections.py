"""Projections of gradients and of LoRA weights, as pure functions. No model, no optimizer.

Shape legend: R rank of an adapter, I and O in- and output features of a linear layer, X any number of columns, M
directions or singular vectors, P entries of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-16  # keeps 0 / 0 from being nan
RANK_TOLERANCE = 1e-12  # squared lengths below this share of the longest count as zero


@dataclass(frozen=True)
class Factors:
    """A LoRA adapter of one linear layer: its weight change is `scale * B_OR @ A_RI`."""

    A_RI: Tensor
    B_OR: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The inner dimension of the product."""
        return len(self.A_RI)

    def to(self, like: Tensor) -> Factors:
        """Return these factors with the type and device of `like`."""
        return replace(self, A_RI=self.A_RI.to(like), B_OR=self.B_OR.to(like))

    def copy(self) -> Factors:
        """Return a copy in its own memory."""
        return replace(self, A_RI=self.A_RI.clone(), B_OR=self.B_OR.clone())

    def times(self, share: float) -> Factors:
        """Return the adapter whose weight change is `share` times as large."""
        return replace(self, scale=share * self.scale)

    def padded(self, rank: int) -> Factors:
        """Return the same weight change at a higher rank, padded with zeros."""
        more = rank - self.rank
        pad = torch.nn.functional.pad
        return replace(self, A_RI=pad(self.A_RI, (0, 0, 0, more)), B_OR=pad(self.B_OR, (0, more)))


def joined(*adapters: Factors) -> Factors:
    """Return the exact sum of a layer's adapters as one adapter, whose rank is the sum of theirs.

    dW_1 + dW_2 = [scale_1 B_1, scale_2 B_2] [A_1; A_2]
    """
    A_RI = torch.cat([factors.A_RI for factors in adapters])
    return Factors(A_RI, torch.cat([factors.scale * factors.B_OR for factors in adapters], dim=1), 1.0)


class InvalidAdapterError(Exception):
    """An adapter says nothing about its method. The text says why, and becomes the reason of the invalid trial."""


class Direction(Protocol):
    """A change V `[O, I]` of one layer's weights, used only through products."""

    def project(self, B_OX: Tensor) -> Tensor:
        """Return C B with C = V V^T / ||V||_F, `[O, X]`; zeros for V = 0.

        C is symmetric and positive semi-definite, but not a projector: applying it twice differs from applying it once
        (Hsu et al. 2024, arXiv:2405.16833, eq. 3, which prefers it to V (V^T V)^-1 V^T for its speed).
        """
        ...

    def bases(self, energy: float) -> tuple[Tensor, Tensor]:
        """Return the leading left and right singular vectors of V, `[O, M]` and `[I, M]`.

        The fewest that hold a share `energy` of ||V||_F^2; none for V = 0, and none for singular values of 0.
        """
        ...


@dataclass(frozen=True)
class WeightDirection:
    """V = tuned weights minus the weights they were tuned from; computed when needed, a layer at a time."""

    tuned_OI: Tensor
    pretrained_OI: Tensor

    def project(self, B_OX: Tensor) -> Tensor:
        """See `Direction`. Two products with V; no O x O matrix."""
        V_OI = self.tuned_OI.to(B_OX) - self.pretrained_OI.to(B_OX)
        return V_OI @ (V_OI.T @ B_OX) / V_OI.norm().clamp_min(TINY)

    def bases(self, energy: float) -> tuple[Tensor, Tensor]:
        """See `Direction`."""
        if energy not in self._bases:
            # All singular vectors of a layer of an 8B model take 270 MB: only the leading ones are kept.
            found = _leading(*_svd(self.tuned_OI.float() - self.pretrained_OI.float()), energy)
            self._bases[energy] = found[0].clone(), found[1].clone()
        return self._bases[energy]

    @cached_property
    def _bases(self) -> dict[float, tuple[Tensor, Tensor]]:
        return {}


@dataclass(frozen=True)
class LowRankDirection:
    """V = scale B A of another adapter; only products of rank R are computed."""

    factors: Factors

    def project(self, B_OX: Tensor) -> Tensor:
        """See `Direction`."""
        B_OR, scale = self.factors.B_OR, self.factors.scale
        return scale**2 * (B_OR @ (self._gram_RR @ (B_OR.T @ B_OX))) / self._norm.clamp_min(TINY)

    def bases(self, energy: float) -> tuple[Tensor, Tensor]:
        """See `Direction`."""
        if energy not in self._bases:  # their number must be read from the device
            self._bases[energy] = _leading(*self._svd, energy)
        return self._bases[energy]

    @cached_property
    def _bases(self) -> dict[float, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """The singular value decomposition of V from its factors; nothing larger than these is computed."""
        left_OR, right_IR = torch.linalg.qr(self.factors.B_OR), torch.linalg.qr(self.factors.A_RI.T)
        U_RM, s_M, W_RM = _svd(self.factors.scale * left_OR.R @ right_IR.R.T)
        return left_OR.Q @ U_RM, s_M, right_IR.Q @ W_RM

    @cached_property
    def _gram_RR(self) -> Tensor:
        return self.factors.A_RI @ self.factors.A_RI.T

    @cached_property
    def _norm(self) -> Tensor:
        """||V||_F from the factors' Gram matrices."""
        B_OR = self.factors.B_OR
        return abs(self.factors.scale) * ((B_OR.T @ B_OR) * self._gram_RR).sum().clamp_min(0).sqrt()


def _svd(V_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return left singular vectors `[O, M]`, singular values and right singular vectors `[I, M]`."""
    U_OM, s_M, W_MI = torch.linalg.svd(V_OI, full_matrices=False)
    return U_OM, s_M, W_MI.T


def _leading(U_OM: Tensor, s_M: Tensor, W_IM: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    squares_M = s_M.square()
    enough = 1 + int((squares_M.cumsum(0) < energy * squares_M.sum()).sum())
    number = min(enough, int((squares_M > RANK_TOLERANCE * squares_M[:1]).sum()))
    return U_OM[:, :number], W_IM[:, :number]


def cosine(factors: Factors, B_OR: Tensor) -> float:
    """Return the cosine between the weight changes `B_OR A` and `factors.B_OR A`; 0 if one of them is zero."""
    gram_RR = factors.A_RI @ factors.A_RI.T

    def inner(left_OR: Tensor, right_OR: Tensor) -> Tensor:
        return ((left_OR @ gram_RR) * right_OR).sum()

    length = (inner(B_OR, B_OR) * inner(factors.B_OR, factors.B_OR)).clamp_min(0).sqrt()
    return float(inner(B_OR, factors.B_OR) / length.clamp_min(TINY))


def project_weights(adapter: Sequence[Factors], directions: Sequence[Direction]) -> list[Factors]:
    """Return an adapter with B replaced by C B in each layer (see `Direction`).

    Raise InvalidAdapterError if that leaves nothing in any of them, e.g. because the directions are zero.
    """
    pairs = zip(adapter, directions, strict=True)
    projected = [replace(factors, B_OR=direction.project(factors.B_OR)) for factors, direction in pairs]
    if not any(factors.B_OR.any() for factors in projected):
        raise InvalidAdapterError("the projection leaves nothing of the adapter in any layer")
    return projected


def remove_conflict(vector: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor]:
    """Return a vector without its component against another one: g - min(0, <g, a>) / ||a||^2 a.

    Like `remove` with one direction and `only_conflict`, but without waiting for the device. A vector is a list of
    tensors.
    """
    g_P, a_P = _flat(vector).double(), _flat(along).double()
    part = (g_P @ a_P).clamp(max=0) / a_P.square().sum().clamp_min(TINY)
    return [g - part.to(g) * a for g, a in zip(vector, along, strict=True)]


def min_norm(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """Return the shortest vector between two vectors; it conflicts with neither.

        d = w x + (1 - w) y with w = clip(<y - x, y> / ||y - x||^2, 0, 1)

    MGDA for two tasks (Sener & Koltun 2018, arXiv:1810.04650, section 3.2). A vector is a list of tensors.
    """
    x_P, y_P = _flat(one).double(), _flat(other).double()
    weight = ((y_P - x_P) @ y_P / (y_P - x_P).square().sum().clamp_min(TINY)).clamp(0, 1)
    return [torch.lerp(y, x, weight.to(x)) for x, y in zip(one, other, strict=True)]


def conflict_averse(one: Sequence[Tensor], other: Sequence[Tensor], radius: float) -> list[Tensor]:
    """Return the vector near the mean of two that maximises the smaller of its products with them.

        d = m + radius ||m|| g / ||g||,  m = (x + y) / 2,  g = w x + (1 - w) y,
        w in [0, 1] minimises <g, m> + radius ||m|| ||g||

    CAGrad for two tasks (Liu et al. 2021, arXiv:2110.14048, algorithm 1). With u = ||x - y||^2 w + <y, x - y>, the
    derivative is zero at u = -p sqrt(D / (||x - y||^2 s^2 - p^2)), where s = radius ||m||, p = <x - y, m> and D is the
    Gram determinant; without a root the minimum is at an end. A vector is a list of tensors, taken as one.
    """
    x_P, y_P = _flat(one).double(), _flat(other).double()
    gap_P, mean_P = x_P - y_P, (x_P + y_P) / 2
    length, reach, slope = gap_P.square().sum(), radius * mean_P.norm(), gap_P @ mean_P
    inner = y_P @ gap_P
    determinant = (length * y_P.square().sum() - inner**2).clamp_min(0)
    room = length * reach**2 - slope**2
    root = (-slope * (determinant / room.clamp_min(TINY)).sqrt() - inner) / length.clamp_min(TINY)
    weight = torch.where(room > 0, root, (slope < 0).double()).clamp(0, 1)
    worst_P = torch.lerp(y_P, x_P, weight)
    return _like(mean_P + reach * worst_P / worst_P.norm().clamp_min(TINY), one)


def remove(
    vector: Sequence[Tensor], along: Sequence[Sequence[Tensor]], *, share: float = 1.0, only_conflict: bool = False
) -> list[Tensor]:
    """Return a vector without its part in the span of other vectors.

        g' = g - share * A (A^T A)^+ A^T g

    With one direction a, this is g - share * <g, a> / ||a||^2 a. A vector is a list of tensors, taken as one.

    Args:
        vector: g.
        along: the columns of A, each a list of tensors of the shapes of g. Zero columns change nothing.
        share: how much of the part is removed; 1 makes g' orthogonal to all columns.
        only_conflict: remove just enough that no column has <g', a> < 0, and nothing if none has to begin with. With a
            share of 1, g' is the vector nearest to g that conflicts with no column (Lopez-Paz & Ranzato 2017,
            arXiv:1706.08840). Columns that do not contribute are left out of A. It would not be enough to leave out
            those with <g, a> >= 0: orthogonality to the others may turn g' against them.
    """
    columns_MP = torch.stack([_flat(column) for column in along]).double()
    inner_M = columns_MP @ _flat(vector).double()
    if only_conflict:
        binding_M = _binding(columns_MP @ columns_MP.T, inner_M)
        columns_MP, inner_M = columns_MP[binding_M], inner_M[binding_M]
    weights_M = torch.linalg.pinv(columns_MP @ columns_MP.T, rtol=RANK_TOLERANCE, hermitian=True) @ inner_M
    part = _like(weights_M @ columns_MP, vector)
    return [tensor - share * piece for tensor, piece in zip(vector, part, strict=True)]


def _binding(gram_MM: Tensor, inner_M: Tensor) -> Tensor:
    """Return the columns of A to which g', the vector nearest to g with A^T g' >= 0, is made orthogonal.

    By duality, g' = g + A w with the w >= 0 that minimises ||g + A w||, which depends only on A^T A and A^T g.
    """
    from scipy.optimize import nnls

    squares_M, directions_MM = torch.linalg.eigh(gram_MM)
    kept = squares_M > RANK_TOLERANCE * squares_M[-1].clamp_min(TINY)
    roots_M = squares_M[kept].sqrt()
    matrix = roots_M[:, None] * directions_MM[:, kept].T
    target_M = directions_MM[:, kept].T @ -inner_M / roots_M
    weights, _ = nnls(matrix.cpu().numpy(), target_M.cpu().numpy())
    return torch.from_numpy(weights > 0).to(inner_M.device)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _like(vector_P: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Split a vector into tensors with the shapes and the type of others."""
    pieces = vector_P.to(tensors[0]).split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
