"""Gates on the ranks of an adapter: W + scale B diag(g) A, beside members without any.

The expected values come from a model whose layers are replaced by dense ones, and from autograd on these.
"""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from settings.common.errors import UserError
from tests.support.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.adapters import PackedAdapters, gated
from trainables.engine.packed_linear import Route
from trainables.pack import Pack
from trainables.trial import AdapterConfig

IDS_RT = torch.tensor([[4, 9, 12, 30], [7, 5, 21, 40], [11, 3, 8, 15]])
CONFIGS = (AdapterConfig(rank=4, alpha=6.0), AdapterConfig(rank=2, alpha=2.0))
GATES = (0.5, -1.0, 2.0, 0.0)


@pytest.fixture
def adapters() -> PackedAdapters:
    """A gated member of rank 4 and one of rank 2 without gates, both with an update behind them."""
    packed = PackedAdapters(tiny_base().model, CONFIGS, [0, 1], torch.float64)
    packed.theta_KP += 0.1 * torch.randn(packed.theta_KP.shape, generator=torch.Generator().manual_seed(0)).double()
    for layer in packed.layers.values():
        layer.A_KRI.data[1, 2:] = 0  # what pads the rank
        layer.B_KOR.data[1, :, 2:] = 0
    return packed


def logits(adapters: PackedAdapters, with_gates: bool = True) -> Tensor:
    """Two rows of the gated member and one of the other."""
    with gated(adapters, {0: GATES} if with_gates else {}), adapters.routed(Route((0, 1), (2, 1))):
        return adapters.model(IDS_RT).logits


def dense_logits(adapters: PackedAdapters, leaves: list[Tensor]) -> Tensor:
    """The same of the gated member's rows, from W + 6/4 B diag(g) A of each layer in a model without adapters."""
    base = tiny_base().model
    weights = dict(base.named_parameters())
    gates_R = torch.tensor(GATES, dtype=torch.float64)
    for at, name in enumerate(adapters.layers):
        A_RI, B_OR = leaves[2 * at : 2 * at + 2]
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + 6 / 4 * B_OR @ torch.diag(gates_R) @ A_RI
    return torch.func.functional_call(base, weights, (IDS_RT[:2],)).logits


def test_gated_ranks_are_the_dense_formula_with_its_gradients(adapters: PackedAdapters) -> None:
    leaves = adapters.leaves(0)
    expected, found = dense_logits(adapters, leaves), logits(adapters)
    torch.testing.assert_close(found[:2], expected, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    with gated(adapters, {0: GATES}):  # the pass back reads nothing of them that the pass forward has not kept
        gradients = torch.autograd.grad(found[:2].square().sum(), adapters.factors)
    for gradient_K, one in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient_K[0], one, rtol=0, atol=1e-10)
        assert not gradient_K[1].any()


def test_members_without_gates_keep_every_bit_and_gates_end_with_the_pass(adapters: PackedAdapters) -> None:
    before = logits(adapters, with_gates=False)
    assert torch.equal(logits(adapters)[2], before[2])
    assert not torch.allclose(logits(adapters)[:2], before[:2])
    assert torch.equal(logits(adapters, with_gates=False), before)


def test_without_gates_the_scale_stays_one_number_per_member(adapters: PackedAdapters) -> None:
    with gated(adapters, {}):
        assert adapters.scale_KR.shape == (2, 1)
    with gated(adapters, {0: GATES}):
        assert adapters.scale_KR.tolist() == [[0.75, -1.5, 3.0, 0.0], [1.0] * 4]


def test_the_draw_is_a_function_of_seed_and_step() -> None:
    """Of nothing else: not of the method's coefficients, the pack or the steps that were taken before."""
    some = [methods.make("pareto_adapters", {"share": share, "weight": 3.0}) for share in (0.2, 0.9)]
    trials = [tiny_trial(some[0]), tiny_trial(some[1]), tiny_trial(some[0], seed=1), tiny_trial(methods.make("plain"))]
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64)
    first = [pack.member_step(index).gates for index in range(4)]
    share = Random("0/gates/0").random()
    assert first[0] == first[1] == [2 * (1 - share)] * 2 + [2 * share] * 2
    assert first[2] != first[0]
    assert list(first[3]) == []
    pack.advance(1)
    assert pack.member_step(0).gates != first[0]


def test_an_odd_rank_is_refused() -> None:
    with pytest.raises(UserError, match=r"^adapter option 'rank' must be a multiple of 2 for method 'pareto_adapters'"):
        tiny_trial(methods.make("pareto_adapters"), rank=3)
