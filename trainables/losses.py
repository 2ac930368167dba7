"""Losses as pure functions of a trial's outputs. No model, no device, no batch layout.

Shape legend: N positions of the rows of a stream (see `trainables.method.Positions`), V vocabulary, D hidden width, L
layers, R rank, I input features. All losses are computed in float32 or wider. A batch without positions that
count (N = 0) gives exactly 0 with a zero gradient; `dpo` and `odds_ratio` of rows without such positions give log 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.chunked import per_position
from trainables.interface.outputs import Forward
from trainables.projections import Factors

LIKELIEST = -1e-6  # log-probability per token, in nats, above which ORPO's odds stop growing


def cross_entropy(*forwards: Forward) -> Tensor:
    """Return the mean negative log-likelihood per token, in nats, over all tokens of the batches.

        CE = - (1/N) sum_n log p(y_n)

    Batches are pooled before the mean: each token has the same weight, so a long row weighs more than a short one.
    """
    total = torch.stack([token_nll(forward).sum() for forward in forwards]).sum()
    return total / max(1, sum(len(forward.labels_N) for forward in forwards))


def group_of(row: Any, num_rows: int, num_groups: int) -> Any:
    """Return the group of a row (a number, or a tensor of numbers): groups are contiguous and nearly equal in size."""
    return row * num_groups // max(1, num_rows)


def cross_entropy_by_group(forward: Forward) -> tuple[Tensor, ...]:
    """Return the cross-entropy of each group of rows (`Method.num_row_groups`), in nats; 0 for an empty group."""
    nll_N, group_N = token_nll(forward), group_of(forward.row_N, forward.num_rows, forward.num_groups)
    sums = nll_N.new_zeros(forward.num_groups).index_add(0, group_N, nll_N)
    return tuple((sums / _counts(group_N, forward.num_groups, nll_N)).unbind())


def token_nll(forward: Forward) -> Tensor:
    """Return the negative log-likelihood of each token, `[N]`, in nats."""
    return forward.nll_N


def kl_to_reference(
    policy: Forward, reference: Forward, direction: Literal["reverse", "forward"] = "reverse"
) -> Tensor:
    """Return the divergence of the trained model p and the reference r, in nats per position, over the full vocabulary.

        reverse: KL(p || r) = (1/N) sum_n sum_v p_nv (log p_nv - log r_nv)
        forward: KL(r || p) = (1/N) sum_n sum_v r_nv (log r_nv - log p_nv)

    Reverse is the penalty of RLHF (Ziegler et al. 2019, arXiv:1909.08593, eq. 2), forward is distillation from the
    reference. Exactly 0 if both distributions are the same numbers.
    """

    def divergence(hidden_ND: Tensor, at: slice) -> Tensor:
        log_p_NV = torch.log_softmax(policy.head(hidden_ND), dim=-1)
        log_r_NV = torch.log_softmax(reference.head(reference.hidden_ND[at]), dim=-1)
        from_NV, to_NV = (log_p_NV, log_r_NV) if direction == "reverse" else (log_r_NV, log_p_NV)
        return (from_NV.exp() * (from_NV - to_NV)).sum(dim=-1)

    kl_N = per_position(divergence, policy.hidden_ND, policy.chunk)
    return kl_N.sum() / max(1, len(kl_N))


def alignment_loss(kind: Literal["kl", "cross_entropy"], policy: Forward, reference: Forward) -> Tensor:
    """Return the loss that a method chose for alignment rows: the divergence from the base model, or cross-entropy."""
    return kl_to_reference(policy, reference) if kind == "kl" else cross_entropy(policy)


def logit_mse(policy: Forward, reference: Forward) -> Tensor:
    """Return the squared distance of the trained model's logits z from the reference's, averaged over all of them.

        MSE = (1/(N V)) sum_nv (z_nv - z^ref_nv)^2

    Dark Experience Replay's term (Buzzega et al. 2020, arXiv:2004.07211), which is a mean over logits in its code.
    """

    def distance(hidden_ND: Tensor, at: slice) -> Tensor:
        return (policy.head(hidden_ND) - reference.head(reference.hidden_ND[at])).square().mean(dim=-1)

    distance_N = per_position(distance, policy.hidden_ND, policy.chunk)
    return distance_N.sum() / max(1, len(distance_N))


def hidden_mse(policy: Forward, reference: Forward, over_layers: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the squared distance of hidden states after each layer, averaged over positions and width.

    MSE_l = (1/(N D)) sum_n ||h_ln - r_ln||^2, then the mean or the sum over layers l
    """
    if policy.layers_LND is None or reference.layers_LND is None:
        raise ValueError("the method does not declare the hidden states of all layers (Method.layers)")
    wide = torch.promote_types(policy.layers_LND.dtype, torch.float32)
    gap_LND = policy.layers_LND.to(wide) - reference.layers_LND.to(wide)
    layers, positions, width = gap_LND.shape
    total = gap_LND.square().sum() / max(1, positions * width)
    return total if over_layers == "sum" else total / layers


def sequence_log_prob(forward: Forward, over_tokens: Literal["sum", "mean"] = "sum") -> Tensor:
    """Return the log-probability of each row's tokens, `[num_rows]`, in nats: their sum, or the mean per token."""
    nll_N = token_nll(forward)
    sums = nll_N.new_zeros(forward.num_rows).index_add(0, forward.row_N, nll_N)
    if over_tokens == "sum":
        return -sums
    return -sums / _counts(forward.row_N, forward.num_rows, nll_N)


def _counts(group_N: Tensor, count: int, like: Tensor) -> Tensor:
    """Return each of `count` groups' number of positions, at least 1; `torch.bincount` would wait for the device."""
    ones = torch.ones(len(group_N), dtype=like.dtype, device=like.device)
    return ones.new_zeros(count).index_add(0, group_N, ones).clamp(min=1)


def preference_margin(
    chosen: Forward,
    rejected: Forward,
    chosen_reference: Forward,
    rejected_reference: Forward,
    over_tokens: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Return how much more than the reference the policy prefers each chosen row to its twin, `[num_rows]`, in nats.

        m_i = (c_i - c_i^ref) - (r_i - r_i^ref)

    with c_i and r_i the log-probabilities of chosen and rejected row i (`sequence_log_prob`).
    """
    gain_R = sequence_log_prob(chosen, over_tokens) - sequence_log_prob(chosen_reference, over_tokens)
    return gain_R - (sequence_log_prob(rejected, over_tokens) - sequence_log_prob(rejected_reference, over_tokens))


def dpo(margin_R: Tensor, beta: float) -> Tensor:
    """Return the DPO loss (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), mean over pairs.

        DPO = mean_i - log sigmoid(beta m_i)

    It is log 2 if policy and reference agree.
    """
    return -torch.nn.functional.logsigmoid(beta * margin_R).sum() / max(1, len(margin_R))


def odds_ratio(chosen: Forward, rejected: Forward) -> Tensor:
    """Return ORPO's preference loss (Hong et al. 2024, arXiv:2403.07691, eq. 7), mean over pairs.

        OR = mean_i - log sigmoid(log odds_i(chosen) - log odds_i(rejected)),  odds = P / (1 - P)

    with log P the mean log-probability of a row's tokens, capped at `LIKELIEST`, because at P = 1 the odds are
    infinite.
    """
    log_P_2R = torch.stack([sequence_log_prob(row, "mean").clamp(max=LIKELIEST) for row in (chosen, rejected)])
    log_odds_2R = log_P_2R - torch.log(-torch.expm1(log_P_2R))
    ratio_R = log_odds_2R[0] - log_odds_2R[1]
    return -torch.nn.functional.logsigmoid(ratio_R).sum() / max(1, len(ratio_R))


def subspace_overlap(adapter: Sequence[Factors], prior: Sequence[Factors]) -> Tensor:
    """Return how much the row spaces of two adapters' A overlap: sum over layers of sum_ij |(A_prior A^T)_ij|.

    O-LoRA's orthogonality loss (Wang et al. 2023, arXiv:2310.14152, eq. 8). It is 0 exactly if they are orthogonal.
    """
    layers = zip(adapter, prior, strict=True)
    return torch.stack([(before.A_RI @ after.A_RI.T).abs().sum() for after, before in layers]).sum()


def factor_norms(adapter: Sequence[Factors]) -> Tensor:
    """Return the sum of the Euclidean norms of all factors A and B of an adapter."""
    return torch.stack([factor.norm() for factors in adapter for factor in (factors.A_RI, factors.B_OR)]).sum()


def squared_change(adapter: Sequence[Factors]) -> Tensor:
    """Return the squared length of the weight change that an adapter makes, summed over its layers.

        ||dW||_F^2 = sum_l scale^2 tr(B^T B A A^T)

    Computed from Gram matrices of the factors; no matrix of the weights' size is made.
    """
    squares = [f.scale**2 * ((f.B_OR.T @ f.B_OR) * (f.A_RI @ f.A_RI.T)).sum() for f in adapter]
    return torch.stack(squares).sum()
