"""What lies below the lowest adapted layer is computed once, and changes no result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from settings.encoding import EncodedRow
from tests.support.architectures import ARCHITECTURES, architecture, architecture_base
from tests.support.tiny import SIZES, prepare, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.adapters import Route
from trainables.engine.base import LoadedBase
from trainables.engine.prefix_cache import PackPrefixes, PrefixCache
from trainables.engine.process_group import layers_of
from trainables.engine.reference_cache import ReferenceCache
from trainables.evaluation.generate import generate
from trainables.evaluation.likelihood import log_likelihoods, token_losses
from trainables.folder import SweepFolder
from trainables.method import Definition
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.training import ASKED_STEPS
from trainables.trial import AdapterConfig, TrialConfig

ROWS = [
    EncodedRow((2, *prompt, 3, *reply, 1), 2 + len(prompt))
    for prompt, reply in [((5, 6), (7,)), ((5, 6), (8, 9, 10)), ((30,), (4, 4)), ((11, 12, 13, 14), (40,))]
]
STEPS = ASKED_STEPS + 4
BOTH: list[tuple[str, Definition]] = [(name, kind) for name in methods.names() for kind in ("principled", "published")]


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


def pack_of(
    trials: Sequence[TrialConfig], folder: Path | None, dtype: torch.dtype = torch.float64, **options: Any
) -> Pack:
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


def ran(model: Any, block: int, of: Any) -> int:
    """How often a block of the model computes anything while `of()` runs."""
    calls: list[int] = []
    inner = next(layers_of(model)[block].children())
    hook = inner.register_forward_hook(lambda *_: calls.append(1))
    of()
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    """Training, likelihoods and replies of two members that adapt the upper of two layers, and the same in PEFT."""
    wide = name not in ("gemma2", "bloom")  # these take their softmax in float32, to which a mask in float64 is -inf
    dtype, tolerance = (torch.float64, 1e-10) if wide else (torch.float32, 1e-5)
    trials = [
        tiny_trial(methods.make("plain"), seed, adapter=AdapterConfig(rank=3 - seed, layers=layers))
        for seed, layers in enumerate(("last 1", (1,)))
    ]
    whole, begun = (
        Pack(architecture_base(name, dtype), tiny_setting(), trials, dtype, prefixes=cache)
        for cache in (None, PrefixCache(tmp_path / "kept"))
    )
    whole.advance(3)
    assert ran(begun.base.model, 0, lambda: begun.advance(3)) == 2  # tried, and computed once
    torch.testing.assert_close(begun.adapters.theta_KP, whole.adapters.theta_KP, rtol=0, atol=tolerance)
    begun.adapters.theta_KP.copy_(whole.adapters.theta_KP)
    asked = [measured(pack, pack.prefixes) for pack in (whole, begun)]
    torch.testing.assert_close(asked[1][:2], asked[0][:2], rtol=0, atol=tolerance)
    assert asked[1][2] == asked[0][2]
    assert ran(begun.base.model, 0, lambda: measured(begun, begun.prefixes, replies=False)) == 0
    ids = torch.tensor([ROWS[1].ids])
    for index in range(2):
        begun.adapters.save_member(index, tmp_path / str(index), name)
        with begun.adapters.routed(Route((index,), (1,))):
            logits = begun.base.model(input_ids=ids).logits
        reopened: Any = PeftModel.from_pretrained(architecture(name, dtype), tmp_path / str(index)).to(dtype)
        number = sum(parameter.numel() for key, parameter in reopened.named_parameters() if "lora_" in key)
        assert number == sum(tensor.numel() for tensor in begun.adapters.member(index).values())
        torch.testing.assert_close(reopened(input_ids=ids).logits, logits, rtol=0, atol=1e-5)
        assert float((logits - architecture(name, dtype)(input_ids=ids).logits).abs().max()) > 1e-3


def measured(pack: Pack, prefixes: PackPrefixes, *, replies: bool = True) -> tuple[Any, Any, Any]:
    """Token losses, log-likelihoods and replies of all members, `[member][row]` each."""
    of: dict[str, Any] = {"adapters": pack.adapters, "members": range(len(pack.trials)), "prefixes": prefixes}
    prompts = [row.ids[: row.prompt_length] for row in ROWS]
    words: dict[str, Any] = {"max_new_tokens": 5, "stop_ids": frozenset({1}), "pad_id": 0}
    return (
        token_losses(pack.base.model, ROWS, 0, **of),
        log_likelihoods(pack.base.model, ROWS, 0, **of),
        generate(pack.base.model, prompts, **of, **words) if replies else None,
    )
