"""Each loss against a value derived by hand (in the docstring), and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.interface.outputs import Forward
from trainables.losses import cross_entropy, kl_to_reference, token_nll


def forward(logits_NV: Tensor, labels: list[int]) -> Forward:
    """A forward whose head is the identity."""
    labels_N = torch.tensor(labels, dtype=torch.long)
    return Forward(logits_NV, labels_N, torch.zeros_like(labels_N), 1, head=lambda hidden: hidden)


def logits(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_cross_entropy_by_hand() -> None:
    """-(log 1/2 + log 1/4) / 2 = (3/2) log 2."""
    given = forward(logits([0.5, 0.5, 1e-9], [0.25, 0.5, 0.25]), [0, 2])
    assert float(cross_entropy(given)) == pytest.approx(1.5 * math.log(2), abs=1e-8)


def test_cross_entropy_pools_tokens_not_batches() -> None:
    """Three tokens at log 2 and one at log 4: (3 + 2)/4 log 2, not (1 + 2)/2 log 2."""
    three = forward(logits(*[[0.5, 0.5]] * 3), [0, 1, 0])
    one = forward(logits([0.25, 0.75]), [0])
    assert float(cross_entropy(three, one)) == pytest.approx(1.25 * math.log(2), abs=1e-12)


def test_token_nll_by_hand() -> None:
    """[log 2, log 4]."""
    given = forward(logits([0.5, 0.5], [0.25, 0.75]), [0, 0])
    assert token_nll(given).tolist() == pytest.approx([math.log(2), math.log(4)], abs=1e-12)


def test_kl_by_hand() -> None:
    """p = (3/4, 1/4), r = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2 = 3/4 log 3 - log 2; a token with p = r halves it."""
    policy = forward(logits([0.75, 0.25], [0.5, 0.5]), [0, 0])
    reference = forward(logits([0.5, 0.5], [0.5, 0.5]), [0, 0])
    expected = (0.75 * math.log(3) - math.log(2)) / 2
    assert float(kl_to_reference(policy, reference)) == pytest.approx(expected, abs=1e-12)


def test_kl_direction() -> None:
    """KL(p || r) with p = (9/10, 1/10), r uniform is log 2 - H(p) = 0.3681; the other direction is 0.5108."""
    policy, reference = forward(logits([0.9, 0.1]), [0]), forward(logits([0.5, 0.5]), [0])
    assert float(kl_to_reference(policy, reference)) == pytest.approx(0.3680642, abs=1e-7)
    assert float(kl_to_reference(reference, policy)) == pytest.approx(0.5108256, abs=1e-7)


def test_kl_of_equal_numbers_is_exactly_zero() -> None:
    numbers = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert float(kl_to_reference(forward(numbers, [0] * 5), forward(numbers.clone(), [0] * 5))) == 0.0


@pytest.mark.parametrize("loss", [cross_entropy, lambda given: kl_to_reference(given, given)])
def test_no_tokens_give_zero_and_no_nan(loss: Callable[[Forward], Tensor]) -> None:
    """A fully masked batch: value 0, gradient 0, no NaN."""
    nothing = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    value = loss(forward(nothing, []))
    value.backward()
    assert float(value) == 0.0
    assert nothing.grad is not None
    assert nothing.grad.shape == (0, 4)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    reference = forward(torch.randn(3, 4, dtype=torch.float64, generator=generator), [0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(forward(x, [0, 1, 2])), numbers)
    assert torch.autograd.gradcheck(lambda x: kl_to_reference(forward(x, [0, 1, 2]), reference), numbers)
