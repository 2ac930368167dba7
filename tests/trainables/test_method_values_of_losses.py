"""Losses and gradient rules of newer methods against values derived by hand, and against published formulas.

As in `test_method_values`: two tokens, the head is the identity. A published formula is written out again on random
logits, in its own authors' way (the repository is named), and never by a function of the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from settings.common.errors import UserError
from tests.trainables.test_method_values import (
    CE_TASK,
    HALF,
    LOG2,
    LOG3,
    LOG4,
    LOG43,
    QUARTER,
    TASK,
    forward,
    near,
    tensor,
    values,
)
from trainables import methods
from trainables.interface.outputs import Forward
from trainables.method import Step, Trained
from trainables.projections import Factors, conflict_averse, min_norm, remove, remove_conflict


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows_of(seed: int, lengths: Sequence[int], vocabulary: int = 7) -> Forward:
    """Rows of random logits and labels."""
    positions = sum(lengths)
    labels = torch.randint(vocabulary, (positions,), generator=torch.Generator().manual_seed(seed + 1000))
    row_N = torch.repeat_interleave(torch.tensor(lengths))
    return Forward(random(seed, positions, vocabulary), labels, row_N, len(lengths), lambda hidden: hidden, chunk=2)


def on_labels(task: Forward, seed: int) -> Forward:
    """Other logits on the same tokens."""
    logits_NV = random(seed, *task.hidden_ND.shape)
    return Forward(logits_NV, task.labels_N, task.row_N, task.num_rows, task.head, chunk=2)


# --- KL constraint ---


def test_kl_constraint() -> None:
    """p = (1/4, 3/4), r = (1/2, 1/2): KL(p || r) = 3/4 log 3 - log 2 = 0.1308 (see `test_kl_penalty`).

    With beta = 2: CE + 2 KL. epsilon = 0.03 and eta = 10: beta <- 2 + 10 (0.1308 - 0.03) = 3.008. With epsilon = 0.5
    it is 2 + 10 (0.1308 - 0.5) < 0: the smallest value. KL(r || p) = log 2 - 1/2 log 3 in the other direction.
    """
    kl = 0.75 * LOG3 - LOG2
    for epsilon, beta in ((0.03, 2 + 10 * (kl - 0.03)), (0.5, 1e-8)):
        step = kl_step()
        method = methods.make("kl_constraint", {"epsilon": epsilon, "eta": 10.0})
        assert float(method.losses(step)[0]) == pytest.approx(CE_TASK + 2 * kl, abs=1e-12)
        assert float(step.kept["beta"]) == pytest.approx(beta, abs=1e-12)
        assert (float(step.recorded["kl"]), float(step.recorded["beta"])) == (pytest.approx(kl, abs=1e-12), 2.0)
    other = methods.make("kl_constraint", {"direction": "forward"})
    assert float(other.losses(kl_step())[0]) == pytest.approx(CE_TASK + 2 * (LOG2 - 0.5 * LOG3), abs=1e-12)


def kl_step(rows: int = 1) -> Step:
    """A step with beta = 2, and one row or none."""
    policy, reference = forward([QUARTER], [0]), forward([HALF], [1])
    if not rows:
        none = torch.zeros(0, dtype=torch.long)
        policy, reference = (Forward(side.hidden_ND[:0], none, none, 0, side.head) for side in (policy, reference))
    state = {"beta": tensor(2.0)}
    return Step({"task": forward(*TASK), "alignment": policy}, {"alignment": reference}, state=state)


def test_a_step_without_proxy_rows_keeps_the_multiplier() -> None:
    step = kl_step(rows=0)
    assert float(methods.make("kl_constraint").losses(step)[0]) == pytest.approx(CE_TASK, abs=1e-12)
    assert not step.kept


# --- moving average ---


def test_moving_average() -> None:
    """The loss is plain: log(16/3) / 2. rate = 1/4, from A = [[4, 0]], B = [[0]] to A = [[8, 4]], B = [[2]]:

    A <- (4, 0) + 1/4 (4, 4) = (5, 1), B <- 1/2; the next time (23/4, 7/4) and 7/8.
    """
    assert values("moving_average", task=forward(*TASK)) == near(0.5 * math.log(16 / 3))
    method = methods.make("moving_average", {"rate": 0.25})
    start = [Factors(tensor([[4, 0]]), tensor([[0]]), 2.0)]
    later = [Factors(tensor([[8, 4]]), tensor([[2]]), 2.0)]
    state = dict(method.initial_state(start))
    for A, B in (([5, 1], 0.5), ([5.75, 1.75], 0.875)):
        state = dict(method.after_update(state, later))
        (mean,) = method.finalize(Trained(later, state=state))
        assert mean.A_RI.tolist() == [near(*A)]
        assert mean.B_OR.tolist() == [near(B)]
        assert mean.scale == 2.0


# --- dark experience replay ---


def test_dark_experience() -> None:
    """Logits (0, log 3) and (0, 0) against (0, 0) and (2, 0): squares 0, log^2 3, 4, 0: a mean of (log^2 3 + 4) / 4.

    alpha = 8: 2 log^2 3 + 8. CE(A) = (log 4 + log 2) / 2 = 1.5 log 2 on tokens 0, 0; beta = 2/3: log 2.
    """
    policy, reference = forward([QUARTER, HALF], [0, 0]), {"alignment": forward([HALF, (2.0, 0.0)], [0, 0])}
    for beta, more in ((0.0, 0.0), (2 / 3, LOG2)):
        chosen = {"alpha": 8.0, "beta": beta}
        found = values("dark_experience", chosen, reference, task=forward(*TASK), alignment=policy)  # type: ignore[arg-type]
        assert found == near(CE_TASK + 2 * LOG3**2 + 8 + more)


def test_dark_experience_is_the_published_loss() -> None:
    """aimagelab/mammoth, models/derpp.py: alpha * mse_loss(outputs, logits) + beta * loss(outputs, labels)."""
    policy, task = rows_of(0, (3, 1, 4)), rows_of(1, (2, 2))
    reference = on_labels(policy, 2)
    functional = torch.nn.functional
    expected = functional.cross_entropy(task.hidden_ND, task.labels_N)
    expected += 0.3 * functional.mse_loss(policy.hidden_ND, reference.hidden_ND)
    expected += 0.5 * functional.cross_entropy(policy.hidden_ND, policy.labels_N)
    chosen = {"alpha": 0.3, "beta": 0.5}
    assert values("dark_experience", chosen, {"alignment": reference}, task=task, alignment=policy) == near(
        float(expected)
    )


# --- ORPO ---


def test_orpo() -> None:
    """One pair. Chosen: tokens 1, 1 at 3/4: P = 3/4, odds 3. Rejected: tokens 0, 1 at 1/4 and 3/4: log P is the mean,
    P = sqrt(3)/4, odds sqrt(3) / (4 - sqrt(3)). Ratio 3 (4 - sqrt 3) / sqrt 3 = 4 sqrt 3 - 3 = 3.928; sigmoid of its
    log is ratio / (1 + ratio). CE(A) = log 4/3. weight = 2, odds = 1/2.
    """
    policy = {"alignment": forward([QUARTER, QUARTER], [1, 1]), "misaligned": forward([QUARTER, QUARTER], [0, 1])}
    ratio = 4 * math.sqrt(3) - 3
    found = values("orpo", {"weight": 2.0, "odds": 0.5}, task=forward(*TASK), **policy)
    assert found == near(CE_TASK + 2 * (LOG43 + 0.5 * math.log((1 + ratio) / ratio)))


def test_orpo_is_the_published_loss() -> None:
    """huggingface/trl, ORPOTrainer.odds_ratio_loss, on log-probabilities averaged over a row's tokens."""
    chosen, rejected, task = rows_of(0, (3, 1, 4)), rows_of(1, (2, 2, 5)), rows_of(2, (2, 2))

    def log_probs(rows: Forward) -> Tensor:
        all_NV = torch.log_softmax(rows.hidden_ND, dim=-1)
        picked_N = all_NV[torch.arange(len(rows.labels_N)), rows.labels_N]
        return torch.stack([picked_N[rows.row_N == row].mean() for row in range(rows.num_rows)])

    one, other = log_probs(chosen), log_probs(rejected)
    log_odds = (one - other) - (torch.log1p(-torch.exp(one)) - torch.log1p(-torch.exp(other)))
    preference = -torch.nn.functional.logsigmoid(log_odds).mean()
    functional = torch.nn.functional
    nll = functional.cross_entropy(chosen.hidden_ND, chosen.labels_N)
    expected = functional.cross_entropy(task.hidden_ND, task.labels_N) + 0.7 * (nll + 0.2 * preference)
    found = values("orpo", {"weight": 0.7, "odds": 0.2}, task=task, alignment=chosen, misaligned=rejected)
    assert found == near(float(expected))


def test_the_odds_of_a_certain_answer_are_finite() -> None:
    """P rounds to 1, and a row without tokens has P = 1; neither gives an infinite odds."""
    certain = forward([(0.0, 99.0)], [1])
    (loss,) = values("orpo", task=forward(*TASK), alignment=certain, misaligned=certain)
    assert loss == pytest.approx(CE_TASK + LOG2, abs=1e-12)


# --- without proxy rows ---


def test_flow() -> None:
    """Two rows of one token, labels 0 and 1. The reference has (1/4, 3/4) and (1/2, 1/2): losses log 4 and log 2.

    sharpness = 2: weights 1/16 and 1/4. The policy has 1/2 and 3/4: (1/16 log 2 + 1/4 log 4/3) / 2.
    """
    policy, reference = forward([HALF, QUARTER], [0, 1], [0, 1]), {"task": forward([QUARTER, HALF], [0, 1], [0, 1])}
    found = values("flow", {"sharpness": 2.0}, reference, task=policy)  # type: ignore[arg-type]
    assert found == near((LOG2 / 16 + LOG43 / 4) / 2)


def test_flow_is_the_published_loss() -> None:
    """sanyalsunny111/FLOW_finetuning, language, loss type "sequence": sum_i nll_i w_i / tokens, w_i from row means."""
    task = rows_of(0, (3, 1, 4))
    reference = on_labels(task, 5)
    token = [torch.nn.functional.cross_entropy(x.hidden_ND, x.labels_N, reduction="none") for x in (task, reference)]
    rows = [task.row_N == row for row in range(3)]
    expected = sum(token[0][row].sum() * torch.exp(-token[1][row].mean() / 0.4) for row in rows) / 8
    assert values("flow", {"sharpness": 1 / 0.4}, {"task": reference}, task=task) == near(float(expected))


def test_proximal_sft() -> None:
    """Ratios of policy to reference: token 1 at 3/4 over 1/2 is 3/2; token 0 at 1/4 over 1/2 is 1/2.

    epsilon = 1/4: min(3/2, 5/4) = 5/4 and 1/2, so that the loss is (0 + 3/4) / 2; the first has no gradient, and that
    of the second is -1/2 r grad log p = -1/4 grad log p. epsilon = 1: (1/2 + 3/2) / 2 = 1.
    """
    policy, reference = forward([QUARTER, QUARTER], [1, 0]), {"task": forward([HALF, HALF], [1, 0])}
    for epsilon, loss in ((0.25, 0.375), (1.0, 1.0)):
        assert values("proximal_sft", {"epsilon": epsilon}, reference, task=policy) == near(loss)  # type: ignore[arg-type]
    policy = forward([QUARTER, QUARTER], [1, 0])  # another: this one has computed its losses
    policy.hidden_ND.requires_grad_()
    step = Step({"task": policy}, reference)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(methods.make("proximal_sft", {"epsilon": 0.25}).losses(step)[0], policy.hidden_ND)
    assert gradient[0].tolist() == [0.0, 0.0]
    assert gradient[1].tolist() == near(-0.25 * 0.75, 0.25 * 0.75)  # grad log p_0 = (1, 0) - p
    assert float(step.recorded["at_bound"]) == 0.5


def test_proximal_sft_has_the_gradient_of_the_clipped_objective() -> None:
    """-min(r, clip(r, 1 - epsilon, 1 + epsilon)), as in zwhong714/PSFT with an advantage of one."""
    task = rows_of(0, (3, 1, 4))
    reference = on_labels(task, 5)
    logits_NV = task.hidden_ND.requires_grad_()
    picked = [torch.log_softmax(x.hidden_ND, dim=-1).gather(1, x.labels_N[:, None])[:, 0] for x in (task, reference)]
    ratio_N = (picked[0] - picked[1].detach()).exp()
    assert (ratio_N > 1.3).any() and (ratio_N < 0.7).any()
    clipped = -torch.minimum(ratio_N, ratio_N.clamp(0.7, 1.3)).mean()
    (expected,) = torch.autograd.grad(clipped, logits_NV)
    loss = methods.make("proximal_sft", {"epsilon": 0.3}).losses(Step({"task": task}, {"task": reference}))[0]
    (found,) = torch.autograd.grad(loss, logits_NV)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert float(loss) == pytest.approx(float(clipped) + 1.3, abs=1e-12)


def test_anchored_sft() -> None:
    """Tokens 0 and 1 at 1/4 and 3/4: (3/4 + 1/4) / 2 = 1/2. KL(r || p) = log 2 - 1/2 log 3 at both.

    power = 2: ((1 - 1/16) / 2 + (1 - 9/16) / 2) / 2 = 11/32. power = 0 is the cross-entropy, which a power of 1e-9 is
    near. weight = 3.
    """
    policy, reference = forward(*TASK), {"task": forward([HALF, HALF], [0, 1])}
    for power, loss in ((1.0, 0.5), (2.0, 11 / 32), (0.0, CE_TASK)):
        found = values("anchored_sft", {"weight": 3.0, "power": power}, reference, task=policy)  # type: ignore[arg-type]
        assert found == near(loss + 3 * (LOG2 - 0.5 * LOG3))
    (close,) = values("anchored_sft", {"weight": 0.0, "power": 1e-9}, reference, task=policy)  # type: ignore[arg-type]
    assert close == pytest.approx(CE_TASK, abs=1e-8)


def test_anchored_sft_has_the_gradient_of_the_published_loss() -> None:
    """zhuchichi56/ASFT, train_v2.py, mode "asft", in which the weight of a token is held fixed."""
    task = rows_of(0, (3, 1, 4))
    reference = on_labels(task, 5)
    logits_NV = task.hidden_ND.requires_grad_()
    functional = torch.nn.functional
    losses_N = functional.cross_entropy(logits_NV, task.labels_N, reduction="none")
    weight_N = torch.softmax(logits_NV, dim=-1).gather(1, task.labels_N[:, None])[:, 0].detach()
    kl_NV = functional.kl_div(
        torch.log_softmax(logits_NV, dim=-1), torch.softmax(reference.hidden_ND, dim=-1), reduction="none"
    )
    published = (losses_N * weight_N + 0.03 * kl_NV.sum(dim=-1)).mean()
    loss = methods.make("anchored_sft", {"weight": 0.03}).losses(Step({"task": task}, {"task": reference}))[0]
    one, other = (torch.autograd.grad(some, logits_NV)[0] for some in (loss, published))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# --- two gradients ---


def test_two_gradients() -> None:
    """Losses: the task's, and 3 KL = 3 (3/4 log 3 - log 2); with the cross-entropy 3 log 4 on token 0.

    g = ((4, 0), (0)) and a = ((-2, 0), (2)), one vector each: <g, a> = -8, ||a||^2 = 8.
    surgery: g + a + a = (0, 0), (4): along a the alignment loss falls by 8 to first order, as it does with a alone.
    The other way round <g, a> >= 0 leaves g: (4, 0), (0) and a = (2, 0), (2) give (6, 0), (2).
    min_norm: y - x = (-6, 0), (2) with x = g: w = <y - x, y> / ||y - x||^2 = 16 / 40 = 2/5: 2/5 g + 3/5 a = (2/5, 0),
    (6/5), whose products with g and a are both 8/5.
    conflict_averse with radius 0: the mean (1, 0), (1).
    """
    policy, reference = forward([QUARTER], [0]), {"alignment": forward([HALF], [1])}
    for kind, loss in (("kl", 0.75 * LOG3 - LOG2), ("cross_entropy", LOG4)):
        chosen = {"weight": 3.0, "alignment": kind}
        found = values("two_gradients", chosen, reference, task=forward(*TASK), alignment=policy)  # type: ignore[arg-type]
        assert found == near(CE_TASK, 3 * loss)
    g, a, agreeing = ([tensor([4, 0]), tensor([0])], [tensor([-2, 0]), tensor([2])], [tensor([2, 0]), tensor([2])])
    cases: list[tuple[dict[str, Any], list[Tensor], list[float]]] = [
        ({"rule": "surgery"}, a, [0, 0, 4]),
        ({"rule": "surgery"}, agreeing, [6, 0, 2]),
        ({"rule": "min_norm", "alignment": "cross_entropy"}, a, [0.4, 0, 1.2]),
        ({"rule": "conflict_averse", "radius": 0.0}, a, [1, 0, 1]),
        ({"weight": 0.0}, a, [4, 0, 0]),
    ]
    for chosen, along, expected in cases:
        combined = methods.make("two_gradients", chosen).combine([g, along])
        assert torch.cat(list(combined)).tolist() == near(*expected)


def test_the_shortest_vector_of_two_that_agree_is_the_shorter_one() -> None:
    """x = (1, 0), y = (3, 1): y - x = (2, 1), w = <y - x, y> / 5 = 7/5, clipped to 1. Of two equal ones it is that."""
    x, y = [tensor([1, 0])], [tensor([3, 1])]
    assert min_norm(x, y)[0].tolist() == near(1, 0)
    assert min_norm(y, x)[0].tolist() == near(1, 0)
    assert min_norm(x, x)[0].tolist() == near(1, 0)


def test_surgery_is_the_projection_of_conflicts() -> None:
    """As `remove` does it for one direction by least squares; nothing is taken out along zero."""
    for seed in range(6):
        g, a = ([random(seed + 10 * k, 2, 3), random(seed + 10 * k + 50, 4)] for k in (1, 2))
        for one, other in zip(remove_conflict(g, a), remove(g, [a], only_conflict=True), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    zero = [torch.zeros_like(tensor_) for tensor_ in g]
    assert all(map(torch.equal, remove_conflict(g, zero), g))


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.5, 0.9])
def test_cagrad_is_what_its_authors_minimise(radius: float) -> None:
    """Cranial-XIX/CAGrad, toy.py, without its added 1e-4 and its division by 1 + c: a search over w in [0, 1].

    Random vectors, from agreement to conflict, of very different lengths; the worse product is the paper's maximum.
    """
    for seed in range(12):
        x, y = random(seed, 5), random(seed + 100, 5) * (0.01, 1.0, 30.0)[seed % 3] - (seed % 4) * random(seed, 5)
        mean = (x + y) / 2

        def objective(w: float, x: Tensor = x, y: Tensor = y, mean: Tensor = mean) -> float:
            mix = w * x + (1 - w) * y
            return float(mix @ mean + radius * mean.norm() * mix.norm())

        w = minimize_scalar(objective, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x
        w = min((0.0, 1.0, w), key=objective)
        mix = w * x + (1 - w) * y
        expected = mean + radius * mean.norm() * mix / mix.norm()
        (found,) = conflict_averse([x], [y], radius)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(mean.norm()))
        assert float((found - mean).norm()) == pytest.approx(radius * float(mean.norm()), rel=1e-9)


def test_a_conflict_averse_step_without_an_alignment_gradient_is_half_the_tasks() -> None:
    """At the start the KL has none: m = g / 2, and of all mixes the worst is 0, which says nothing."""
    g, zero = [tensor([3, 4])], [tensor([0, 0])]
    assert conflict_averse(g, zero, 0.5)[0].tolist() == near(1.5, 2)
    assert conflict_averse(zero, zero, 0.5)[0].tolist() == [0, 0]


def test_a_rule_that_never_starts_is_refused() -> None:
    with pytest.raises(UserError, match=r"nothing is ever learned.*take alignment='cross_entropy'"):
        methods.make("two_gradients", {"rule": "min_norm"})
