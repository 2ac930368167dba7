"""What lies below the lowest adapted layer is computed once, and changes no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from tests.support.tiny import SIZES, prepare, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.base import LoadedBase
from trainables.engine.prefix_cache import PrefixCache
from trainables.engine.reference_cache import ReferenceCache
from trainables.folder import SweepFolder
from trainables.method import Definition
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.training import ASKED_STEPS
from trainables.trial import AdapterConfig, TrialConfig

STEPS = ASKED_STEPS + 4
BOTH: list[tuple[str, Definition]] = [
    (name, kind) for name in methods.names() for kind in ("principled", "published")
]


def deep_base(dtype: torch.dtype = torch.float64) -> LoadedBase:
    """Four layers, of which two lie below `upper` adapters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES | {"num_hidden_layers": 4}))
    return LoadedBase(model.to(dtype).eval().requires_grad_(False), tiny_tokenizer(), "deep", "deep")


def upper(layers: Any = "last 2", rank: int = 4) -> AdapterConfig:
    return AdapterConfig(rank=rank, alpha=2.0 * rank, targets=("q_proj", "down_proj"), layers=layers)


def trial_of(name: str, definition: Definition = "principled", seed: int = 0, **values: Any) -> TrialConfig:
    method = methods.make(name, {"definition": definition})
    return tiny_trial(method, seed, max_length=20, **{"adapter": upper()} | values)


def pack_of(trials: Sequence[TrialConfig], folder: Path | None, dtype: torch.dtype = torch.float64, **options: Any) -> Pack:
    """A pack with both caches below a folder; without one the base model is asked every time."""
    kept = {} if folder is None else {"references": ReferenceCache(folder), "prefixes": PrefixCache(folder)}
    return Pack(deep_base(dtype), tiny_setting(), trials, dtype, **kept, **options)


def trained(trials: Sequence[TrialConfig], folder: Path | None, *args: Any, **options: Any) -> list[Tensor]:
    pack = pack_of(trials, folder, *args, **options)
    pack.advance(STEPS)
    assert [member.status for member in pack.members] == ["finished"] * len(trials)
    return [pack.adapters.cut(index, pack.adapters.theta_KP[index]) for index in range(len(trials))]


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_begun_above_equals_the_whole_pass(name: str, definition: Definition, tmp_path: Path) -> None:
    trial = trial_of(name, definition)
    prepare(trial.requires, tmp_path / "store", deep_base())
    store = AdapterStore(SweepFolder(tmp_path / "store"))
    whole = trained([trial], None, store=store)
    begun = trained([trial], tmp_path / "kept", store=store)
    torch.testing.assert_close(begun, whole, rtol=0, atol=1e-10)
