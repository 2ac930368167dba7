"""PackedAdamW against torch.optim.AdamW with clip_grad_norm_, member by member."""

from __future__ import annotations

import itertools

import pytest
import torch

from trainables.engine import optimizer
from trainables.engine.optimizer import PackedAdamW
from trainables.trial import OptimizerConfig

CONFIGS = [
    OptimizerConfig(learning_rate=1e-2),
    OptimizerConfig(learning_rate=3e-3, weight_decay=0.3, max_grad_norm=0.5),
    OptimizerConfig(learning_rate=1e-1, beta1=0.5, beta2=0.9, eps=1e-3, schedule="cosine", max_grad_norm=None),
    OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0),
]
STEPS = 12


@pytest.fixture(params=[1, 50, optimizer.CACHED_ELEMENTS], ids="elements={}".format, autouse=True)
def cached_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters one by one, in uneven parts, and all together."""
    monkeypatch.setattr(optimizer, "CACHED_ELEMENTS", request.param)


def test_equal_to_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(CONFIGS), 30, dtype=torch.float64, generator=generator)
    gradients = torch.randn(STEPS, len(CONFIGS), 30, dtype=torch.float64, generator=generator)
    theta = start.clone()
    packed = PackedAdamW(theta, CONFIGS, [STEPS] * len(CONFIGS))
    for gradient in gradients:
        packed.step(gradient, [True] * len(CONFIGS))

    for index, config in enumerate(CONFIGS):
        solo = start[index].clone().requires_grad_()
        adam = torch.optim.AdamW(
            [solo], betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=config.weight_decay
        )
        for step, gradient in enumerate(gradients):
            solo.grad = gradient[index].clone()
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_([solo], config.max_grad_norm)
            adam.param_groups[0]["lr"] = config.rate(step, STEPS)
            adam.step()
        torch.testing.assert_close(theta[index], solo.detach(), rtol=0, atol=1e-12)


def test_inactive_members_keep_every_bit() -> None:
    theta = torch.randn(2, 70, generator=torch.Generator().manual_seed(0))
    start = theta.clone()
    packed = PackedAdamW(theta, CONFIGS[:2], [3, 3])
    packed.step(torch.full((2, 70), float("nan")), [True, False])
    assert torch.isnan(theta[0]).all()
    assert torch.equal(theta[1], start[1])
    assert packed.updates == [1, 0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_schedule_ends_at_zero(schedule: str) -> None:
    """Peak at the last warm-up step, positive at the last update, exactly 0 one after it."""
    config = OptimizerConfig(learning_rate=2.0, schedule=schedule, warmup_steps=4)  # type: ignore[arg-type]
    rates = [config.rate(step, 20) for step in range(21)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert max(rates) == rates[3]
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[3:]))
    assert rates[19] > 0
    assert rates[20] == pytest.approx(0.0, abs=1e-15)


def test_warmup_by_hand() -> None:
    """Linear from step 5 of 8 with 5 warm-up steps: 3/4, 2/4, 1/4 of the peak."""
    config = OptimizerConfig(learning_rate=1.0)
    assert [config.rate(step, 8) for step in (5, 6, 7, 8)] == [0.75, 0.5, 0.25, 0.0]
