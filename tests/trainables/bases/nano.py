"""The smallest nano model, which the tests of base models share."""

from __future__ import annotations

import torch

from settings.bad_medical_advice.world import AdviceWorld
from settings.base_models import NanoModel, Stage

WORLD = AdviceWorld(num_problems=2, num_authors=2, specialists_per_domain=1)
NANO = NanoModel(
    world=WORLD,
    stages=(Stage("authors", 4, 3, 1e-2), Stage("assistant", 2, 3, 1e-2)),
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=24,
)
Weights = dict[str, torch.Tensor]


def same(first: Weights, second: Weights) -> bool:
    """Return whether two models have the same weights, to the bit."""
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)
