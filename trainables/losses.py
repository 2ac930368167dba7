"""Losses as pure functions of a trial's outputs. No model, no device, no batch layout.

Shape legend: N response tokens, V vocabulary. All are computed in float32 or wider. An empty or fully masked batch
(N = 0) gives exactly 0 with a zero gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Forward


def cross_entropy(*forwards: Forward) -> Tensor:
    """Mean negative log-likelihood per response token, in nats, over all tokens of the given batches.

        CE = - (1/N) sum_n log p(y_n)

    Several batches are pooled before the mean: each token weighs the same, so a long row weighs more than a short one.
    """
    total = torch.stack([token_nll(forward).sum() for forward in forwards]).sum()
    return total / max(1, sum(len(forward.labels_N) for forward in forwards))


def token_nll(forward: Forward) -> Tensor:
    """Negative log-likelihood of each response token, `[N]`, in nats."""
    return torch.nn.functional.cross_entropy(forward.logits_NV, forward.labels_N, reduction="none")


def kl_to_reference(policy: Forward, reference: Forward) -> Tensor:
    """KL(policy || reference) per response token, in nats: the expectation is under the trained model.

        KL = (1/N) sum_n sum_v p_nv (log p_nv - log r_nv)

    This is the direction of RLHF's penalty (Ziegler et al. 2019, arXiv:1909.08593, eq. 2), taken over the full
    vocabulary at the positions of given responses. Exactly 0 when both distributions are the same numbers.
    """
    log_p_NV = torch.log_softmax(policy.logits_NV, dim=-1)
    log_r_NV = torch.log_softmax(reference.logits_NV, dim=-1)
    kl_N = (log_p_NV.exp() * (log_p_NV - log_r_NV)).sum(dim=-1)
    return kl_N.sum() / max(1, len(kl_N))
