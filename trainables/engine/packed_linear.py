"""A linear layer with the adapters of many trials, and the routing of rows to adapters.

Shape legend: K members of the pack, R rank (padded to the largest of the pack), I and O in- and output features of a
layer, M members that take part in a forward, m of them in a block with n positions each, F any number of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.engine.four_bit import is_four_bit, wide_dtype
from trainables.engine.targets import sizes_of, weight_of


class Routed(Protocol):
    """The pack that a layer belongs to, as far as the layer needs to know it."""

    @property
    def route(self) -> Route | None: ...

    @property
    def scale_KR(self) -> Tensor: ...


@dataclass(frozen=True)
class Route:
    """Which rows of a forward belong to which members.

    Attributes:
        members: indices into the pack, in the order of their rows. A member that occurs several times has its rows in
            parts.
        counts: number of rows of each of them, or of each part; these are contiguous.
        factors: copies of the factors for each of `members`, for differentiation, if each part is to have its own
            gradient (`PackedAdapters.split`); None uses the pack's factors.
        unadapted: number of rows after the members' that go through the base model.
        evaluating: whether this is an evaluation pass; edits may hold only there, or only in training.
    """

    members: tuple[int, ...]
    counts: tuple[int, ...]
    evaluating: bool = False
    unadapted: int = 0
    factors: Mapping[PackedLinear, tuple[Tensor, Tensor]] | None = field(default=None, compare=False)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Runs of neighbours with equal numbers of rows, as (neighbours, rows): one batched product serves each run."""
        return [(len(list(run)), count) for count, run in groupby(self.counts)]

    def adapted(self, rows: Tensor) -> Tensor:
        """Return a view of the members' rows, of `[rows, ..., F]` or of their stacked tokens."""
        if not self.unadapted:
            return rows
        return rows[: len(rows) * sum(self.counts) // (sum(self.counts) + self.unadapted)]

    def blocks(self, rows: Tensor) -> list[Tensor]:
        """Cut `[rows, ..., F]` into views `[m, n, F]` of m members with n positions each, one view per run."""
        rows = self.adapted(rows)
        if len(self.runs) == 1:
            return [rows.reshape(len(self.members), -1, rows.shape[-1])]
        per_row = len(rows) // sum(self.counts)  # 1, or the tokens per row if a layer gets them stacked
        parts = rows.split([members * count * per_row for members, count in self.runs])
        return [part.reshape(members, -1, rows.shape[-1]) for part, (members, _) in zip(parts, self.runs, strict=True)]


class PackedLinear(nn.Module):
    """A frozen linear layer plus the adapters of a pack: y = W x + B_k diag(scale_k) A_k x for the rows of member k.

    The scale is one number for all ranks of a member, `[K, 1]`, or one per rank, `[K, R]`, if ranks are gated.

    Attributes:
        frozen: A, B and scale of priors and of adapters that stand in for trained ones, stacked in the same way; None
            if no member has one.
    """

    def __init__(self, base: Any, pack: Routed, A_KRI: Tensor, B_KOR: Tensor) -> None:
        super().__init__()
        self.base = base
        self.is_four_bit = is_four_bit(base)
        self.in_features, self.out_features = sizes_of(base)
        self._pack = [pack]  # in a list, to keep the pack's tensors out of the model's state
        self.A_KRI, self.B_KOR = A_KRI, B_KOR
        self.frozen: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight, for models that read it; sharding replaces it repeatedly."""
        return self.base.weight

    @property
    def weight_OI(self) -> Tensor:
        """The frozen layer's weight, however it is stored."""
        return weight_of(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `[rows, ..., I]` to `[rows, ..., O]`."""
        pack = self._pack[0]
        route = pack.route
        if route is None and not self.is_four_bit:
            y: Tensor = self.base(x)
            return y
        x = x.to(wide_dtype(self.base) if self.is_four_bit else self.weight.dtype)
        if route is None:  # the same product as below, so that the reference equals the null adapter bit for bit
            return nn.functional.linear(x, self.weight_OI, self.bias)
        A_MRI, B_MOR, scale_MR = _of_members(route, self.A_KRI, self.B_KOR, pack.scale_KR)
        if route.factors is not None:
            A_MRI, B_MOR = route.factors[self]
        factors = [factor.to(x.dtype) for factor in (A_MRI, B_MOR, scale_MR)]
        weight_OI = None if self.is_four_bit else self.weight_OI
        y = _Adapted.apply(x, weight_OI, self.bias, *factors, route, self.base)
        if self.frozen is not None:
            added = _low_rank(x, route, *(factor.to(x.dtype) for factor in _of_members(route, *self.frozen)))
            y = y + nn.functional.pad(added, (0, 0) * (added.ndim - 1) + (0, len(y) - len(added)))
        return y


def _of_members(route: Route, A_KRI: Tensor, B_KOR: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select the factors, and the scales `[K, ...]`, of the members that take part."""
    if route.members == tuple(range(len(scales))):
        return A_KRI, B_KOR, scales
    index = torch.tensor(route.members).to(scales.device, non_blocking=True)
    return A_KRI[index], B_KOR[index], scales[index]


class _Adapted(torch.autograd.Function):
    """A frozen linear layer and the adapters on it: W x + b + B diag(s) A x, with A, B and s of each row's member.

    Autograd would build the same result from a dozen operations; here the adapters add into the outputs of the frozen
    matrix products in place, forward and backward. Tensors of the rank's width have their positions last, `[m, R, n]`:
    a tall, narrow product is two to five times slower on a CPU. Everything is in the weights' precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor | None,
        bias_O: Tensor | None,
        A_MRI: Tensor,
        B_MOR: Tensor,
        scale_MR: Tensor,
        route: Route,
        base: Any,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = torch.nn.functional.linear(x, _wide(weight_OI, base), bias_O)
            lows = []
            for x_mnI, y_mnO, (A, B, scale) in zip(
                route.blocks(x), route.blocks(y), _blocks(route, A_MRI, B_MOR, scale_MR), strict=True
            ):
                lows.append(torch.bmm(A, x_mnI.transpose(1, 2)).mul_(scale[:, :, None]))
                y_mnO.baddbmm_(lows[-1].transpose(1, 2), B.transpose(1, 2))
        ctx.save_for_backward(x, weight_OI, A_MRI, B_MOR, scale_MR, *lows)
        ctx.route, ctx.base = route, base
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None, None]:
        x, weight_OI, A_MRI, B_MOR, scale_MR, *lows = ctx.saved_tensors
        route: Route = ctx.route
        dx = dy @ _wide(weight_OI, ctx.base) if ctx.needs_input_grad[0] else None
        dxs = [None] * len(lows) if dx is None else route.blocks(dx)
        dA, dB = [], []
        for x_mnI, dy_mnO, dx_mnI, low_mRn, (A, B, scale) in zip(
            route.blocks(x), route.blocks(dy), dxs, lows, _blocks(route, A_MRI, B_MOR, scale_MR), strict=True
        ):
            dlow_mRn = torch.bmm(B.transpose(1, 2), dy_mnO.transpose(1, 2)).mul_(scale[:, :, None])
            if dx_mnI is not None:
                dx_mnI.baddbmm_(dlow_mRn.transpose(1, 2), A)
            dA.append(torch.bmm(dlow_mRn, x_mnI))
            dB.append(torch.bmm(low_mRn, dy_mnO).transpose(1, 2))
        return dx, None, None, torch.cat(dA), torch.cat(dB), None, None, None


def _wide(weight_OI: Tensor | None, base: Any) -> Tensor:
    """Return the weight, or if None, that of a four-bit layer, dequantised anew for each product."""
    return weight_of(base) if weight_OI is None else weight_OI


def _low_rank(x: Tensor, route: Route, A_MRI: Tensor, B_MOR: Tensor, scale_M: Tensor) -> Tensor:
    """Return scale B A x of frozen adapters for the members' rows."""
    parts = [
        (x_mnI @ A.transpose(1, 2)) * scale[:, None, None] @ B.transpose(1, 2)
        for x_mnI, (A, B, scale) in zip(route.blocks(x), _blocks(route, A_MRI, B_MOR, scale_M), strict=True)
    ]
    return torch.cat([part.flatten(0, 1) for part in parts]).view(*route.adapted(x).shape[:-1], B_MOR.shape[1])


def _blocks(route: Route, *of_members: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors `[M, ...]` like `Route.blocks`."""
    if len(route.runs) == 1:
        return [of_members]
    sizes = [members for members, _ in route.runs]
    return list(zip(*(tensor.split(sizes) for tensor in of_members), strict=True))
