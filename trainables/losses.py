"""Losses as pure functions of a trial's outputs. No model, no device, no batch layout.

Shape legend: N positions of the rows of a stream (see `trainables.method.Positions`), V vocabulary, D hidden width, L
layers, R rank, I input features. All are computed in float32 or wider. An empty or fully masked batch (N = 0) gives
exactly 0 with a zero gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.chunked import per_position
from trainables.method import Forward
from trainables.projections import Factors


def cross_entropy(*forwards: Forward) -> Tensor:
    """Mean negative log-likelihood per token, in nats, over all tokens of the given batches.

        CE = - (1/N) sum_n log p(y_n)

    Several batches are pooled before the mean: each token weighs the same, so a long row weighs more than a short one.
    """
    total = torch.stack([token_nll(forward).sum() for forward in forwards]).sum()
    return total / max(1, sum(len(forward.labels_N) for forward in forwards))


def part_of(row: Any, num_rows: int, count: int) -> Any:
    """Which of `count` parts of a batch the row (a number, or a tensor of numbers) is in: parts are contiguous."""
    return row * count // max(1, num_rows)


def cross_entropy_of_parts(forward: Forward, count: int) -> tuple[Tensor, ...]:
    """The cross-entropy of each of `count` parts of a batch of rows (`part_of`); 0 for an empty part."""
    nll_N, part_N = token_nll(forward), part_of(forward.row_N, forward.num_rows, count)
    sums = nll_N.new_zeros(count).index_add(0, part_N, nll_N)
    return tuple((sums / _counts(part_N, count, nll_N)).unbind())


def token_nll(forward: Forward) -> Tensor:
    """Negative log-likelihood of each token, `[N]`, in nats."""
    return forward.nll_N


def kl_to_reference(
    policy: Forward, reference: Forward, direction: Literal["reverse", "forward"] = "reverse"
) -> Tensor:
    """Divergence between the trained model p and the reference r per position, in nats, over the full vocabulary.

        reverse: KL(p || r) = (1/N) sum_n sum_v p_nv (log p_nv - log r_nv)
        forward: KL(r || p) = (1/N) sum_n sum_v r_nv (log r_nv - log p_nv)

    Reverse is the penalty of RLHF (Ziegler et al. 2019, arXiv:1909.08593, eq. 2), forward is distillation from the
    reference. Exactly 0 when both distributions are the same numbers.
    """

    def divergence(hidden_ND: Tensor, at: slice) -> Tensor:
        log_p_NV = torch.log_softmax(policy.head(hidden_ND), dim=-1)
        log_r_NV = torch.log_softmax(reference.head(reference.hidden_ND[at]), dim=-1)
        one_NV, other_NV = (log_p_NV, log_r_NV) if direction == "reverse" else (log_r_NV, log_p_NV)
        return (one_NV.exp() * (one_NV - other_NV)).sum(dim=-1)

    kl_N = per_position(divergence, policy.hidden_ND, policy.chunk)
    return kl_N.sum() / max(1, len(kl_N))


def hidden_mse(policy: Forward, reference: Forward, over_layers: Literal["mean", "sum"] = "mean") -> Tensor:
    """Squared distance of hidden states after each layer, averaged over positions and width.

    MSE_l = (1/(N D)) sum_n ||h_ln - r_ln||^2, then the mean or the sum over layers l
    """
    if policy.layers_LND is None or reference.layers_LND is None:
        raise ValueError("the hidden states of all layers were not asked for (Method.layers)")
    wide = torch.promote_types(policy.layers_LND.dtype, torch.float32)
    gap_LND = policy.layers_LND.to(wide) - reference.layers_LND.to(wide)
    layers, positions, width = gap_LND.shape
    total = gap_LND.square().sum() / max(1, positions * width)
    return total if over_layers == "sum" else total / layers


def sequence_log_prob(forward: Forward, over_tokens: Literal["sum", "mean"] = "sum") -> Tensor:
    """Log-probability of each row's tokens, `[num_rows]`, in nats: their sum, or the mean per token."""
    nll_N = token_nll(forward)
    sums = nll_N.new_zeros(forward.num_rows).index_add(0, forward.row_N, nll_N)
    if over_tokens == "sum":
        return -sums
    return -sums / _counts(forward.row_N, forward.num_rows, nll_N)


def _counts(group_N: Tensor, count: int, like: Tensor) -> Tensor:
    """How many positions each of `count` groups has, at least 1; `torch.bincount` would wait for the device."""
    ones = torch.ones(len(group_N), dtype=like.dtype, device=like.device)
    return ones.new_zeros(count).index_add(0, group_N, ones).clamp(min=1)


def preference_margin(
    chosen: Forward,
    rejected: Forward,
    chosen_reference: Forward,
    rejected_reference: Forward,
    over_tokens: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """How much more than the reference the policy prefers each chosen row to its rejected twin, `[num_rows]`, in nats.

        m_i = (c_i - c_i^ref) - (r_i - r_i^ref)

    with c_i and r_i the log-probabilities of chosen and rejected row i (`sequence_log_prob`).
    """
    gain_R = sequence_log_prob(chosen, over_tokens) - sequence_log_prob(chosen_reference, over_tokens)
    return gain_R - (sequence_log_prob(rejected, over_tokens) - sequence_log_prob(rejected_reference, over_tokens))


def dpo(margin_R: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), mean over pairs.

        DPO = mean_i - log sigmoid(beta m_i)

    log 2 where policy and reference agree.
    """
    return -torch.nn.functional.logsigmoid(beta * margin_R).sum() / max(1, len(margin_R))


def subspace_overlap(adapter: Sequence[Factors], prior: Sequence[Factors]) -> Tensor:
    """How much the row spaces of two adapters' A share: sum over layers of sum_ij |(A_prior A^T)_ij|.

    O-LoRA's orthogonality loss (Wang et al. 2023, arXiv:2310.14152, eq. 8). 0 exactly when they are orthogonal.
    """
    layers = zip(adapter, prior, strict=True)
    return torch.stack([(before.A_RI @ own.A_RI.T).abs().sum() for own, before in layers]).sum()


def factor_norms(adapter: Sequence[Factors]) -> Tensor:
    """Sum of the Euclidean norms of all factors A and B of an adapter."""
    return torch.stack([factor.norm() for own in adapter for factor in (own.A_RI, own.B_OR)]).sum()
