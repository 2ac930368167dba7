"""A value per position, chunk by chunk: the same values and gradients as all at once, and never more logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainables.chunked import per_position
from trainables.interface.outputs import Forward
from trainables.losses import cross_entropy, kl_to_reference

N, D, V = 7, 3, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def forward(hidden_ND: Tensor, chunk: int | None) -> Forward:
    head_VD, labels_N = drawn(V, D, seed=1), torch.arange(len(hidden_ND)) % V
    row_N = torch.zeros_like(labels_N)
    return Forward(hidden_ND, labels_N, row_N, 1, lambda hidden: hidden @ head_VD.T, chunk=chunk)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100, None])
def test_losses_do_not_depend_on_the_chunk(chunk: int | None) -> None:
    """Against the losses written out on the logits of all positions."""
    hidden_ND = drawn(N, D, seed=2).requires_grad_()
    policy, reference = forward(hidden_ND, chunk), forward(drawn(N, D, seed=3), chunk)
    log_p, log_r = policy.logits_NV.log_softmax(-1), reference.logits_NV.log_softmax(-1)
    expected = {
        "ce": -log_p[torch.arange(N), policy.labels_N].mean(),
        "reverse": (log_p.exp() * (log_p - log_r)).sum(-1).mean(),
        "forward": (log_r.exp() * (log_r - log_p)).sum(-1).mean(),
    }
    found = {
        "ce": cross_entropy(policy),
        "reverse": kl_to_reference(policy, reference),
        "forward": kl_to_reference(policy, reference, "forward"),
    }
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=0, atol=1e-12)
        (wanted,), (got,) = (torch.autograd.grad(x, hidden_ND, retain_graph=True) for x in (loss, found[name]))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_the_gradient_of_a_token_by_hand() -> None:
    """Two tokens, logits (0, ln 3), label 0: p = (1/4, 3/4), loss ln 4, gradient p - (1, 0) at the logits."""
    hidden_ND = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(Forward(hidden_ND, torch.tensor([0]), torch.tensor([0]), 1, lambda hidden: hidden))
    assert loss.item() == pytest.approx(math.log(4.0), abs=1e-15)
    (gradient,) = torch.autograd.grad(loss, hidden_ND)
    torch.testing.assert_close(gradient, torch.tensor([[-0.75, 0.75]], dtype=torch.float64), rtol=0, atol=1e-15)


def test_no_more_logits_than_a_chunk() -> None:
    seen: list[int] = []

    def values(hidden_ND: Tensor, at: slice) -> Tensor:
        seen.append(len(hidden_ND))
        return hidden_ND.square().sum(-1)

    hidden_ND = drawn(N, D).requires_grad_()
    (gradient,) = torch.autograd.grad(per_position(values, hidden_ND, 3).sum(), hidden_ND)
    assert seen == [3, 3, 1]
    torch.testing.assert_close(gradient, 2 * hidden_ND)


def test_many_losses_read_the_head_once() -> None:
    """A second gradient through the same values costs no second pass through the head."""
    calls: list[int] = []
    hidden_ND = drawn(N, D).requires_grad_()

    def head(hidden: Tensor) -> Tensor:
        calls.append(len(hidden))
        return hidden

    labels_N = torch.arange(N) % D
    nll_N = Forward(hidden_ND, labels_N, torch.zeros_like(labels_N), 1, head).nll_N
    for index in range(N):
        (gradient,) = torch.autograd.grad(nll_N[index], hidden_ND, retain_graph=True)
        assert gradient[index].any() and not gradient[torch.arange(N) != index].any()
    assert calls == [N]


@pytest.mark.parametrize("chunk", [2, None])
def test_nothing_at_all(chunk: int | None) -> None:
    hidden_ND = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(forward(hidden_ND, chunk))
    assert float(loss) == 0.0
    assert torch.autograd.grad(loss, hidden_ND)[0].shape == (0, D)
