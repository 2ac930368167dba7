"""How much of a model the adapters reach."""

from __future__ import annotations

import pytest

from tests.support.architectures import architecture_base
from tests.support.tiny import tiny_base, tiny_model
from trainables.engine.targets import adapted_share, target_names
from trainables.run import WorkerCache
from trainables.trial import AdapterConfig


def test_the_share_by_hand() -> None:
    """Width 16, two heads of 8, one of keys, 24 inside: q and o 256 each, k and v 128, three of 384 in the MLP."""
    model = tiny_model()
    assert adapted_share(model, target_names(model, AdapterConfig())) == 1.0
    queries = target_names(model, AdapterConfig(targets=("q_proj",)))
    assert adapted_share(model, queries) == pytest.approx(256 / (2 * 256 + 2 * 128 + 3 * 384))


def test_few_adapted_parameters_are_said() -> None:
    """The experts of a mixture are one tensor, on which no adapter sits."""
    cache, mixture = WorkerCache(), architecture_base("mixtral")
    share = adapted_share(mixture.model, target_names(mixture.model, AdapterConfig()))
    assert 0 < share < 0.5
    assert f"adapters sit on {share:.0%} of the parameters" in cache.caution(mixture, AdapterConfig())
    assert WorkerCache().caution(mixture, AdapterConfig(targets=("q_proj",))) == ""
    assert WorkerCache().caution(tiny_base(), AdapterConfig()) == ""
