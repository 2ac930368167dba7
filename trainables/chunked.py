"""Compute a value for each position from its hidden state, a chunk of positions at a time.

Shape legend: N positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def per_position(function: Callable[[Tensor, slice], Tensor], hidden_ND: Tensor, size: int | None = None) -> Tensor:
    """Return `function` of each position's hidden state, `[N]`, without the logits of all positions in memory.

    Since a position's value depends only on its own hidden state, its gradient is one row of width D. The rows are
    computed while a chunk's logits are in memory, and kept instead of the logits: V / D times less memory (a fused
    linear cross-entropy, as in Hsu et al. 2024, arXiv:2410.10989), and every further loss over the same values is
    differentiated without the head.

    Args:
        function: maps hidden states `[n, D]` and their slice of the N positions to values `[n]`. Only the hidden states
            are differentiated.
        size: positions per chunk; None means all.
    """
    values: Tensor = _PerPosition.apply(hidden_ND, function, size or max(1, len(hidden_ND)))
    return values


class _PerPosition(torch.autograd.Function):
    """See `per_position`. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, function: Callable[[Tensor, slice], Tensor], size: int) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for start in range(0, max(1, len(hidden_ND)), size):
            at = slice(start, start + size)
            chunk = hidden_ND[at].detach().requires_grad_(ctx.needs_input_grad[0])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                of_chunk = function(chunk, at)
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(of_chunk.sum(), chunk)
            values.append(of_chunk.detach())
        ctx.save_for_backward(*([torch.cat(gradients)] if gradients else []))
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None]:
        (each_ND,) = ctx.saved_tensors
        return (gradient_N[:, None] * each_ND).to(each_ND.dtype), None, None
