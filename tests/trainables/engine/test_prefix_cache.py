"""What lies below the lowest adapted layer is computed once, and changes no result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from settings.common.errors import UserError
from settings.encoding import EncodedRow
from tests.support.architectures import ARCHITECTURES, architecture, architecture_base
from tests.support.tiny import SIZES, prepare, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.base import LoadedBase
from trainables.engine.frozen import prefix_cache
from trainables.engine.frozen.known import cache_bytes
from trainables.engine.frozen.prefix_cache import PackPrefixes, PrefixCache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.packed_linear import Route
from trainables.engine.process_group import layers_of
from trainables.evaluation.generate import generate
from trainables.evaluation.likelihood import log_likelihoods, token_losses
from trainables.folder import SweepFolder
from trainables.interface.configured import Definition
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.training import ASKED_STEPS
from trainables.trial import AdapterConfig, TrialConfig

ROWS = [
    EncodedRow((2, *prompt, 3, *reply, 1), 2 + len(prompt))
    for prompt, reply in [((5, 6), (7,)), ((5, 6), (8, 9, 10)), ((30,), (4, 4)), ((11, 12, 13, 14), (40,))]
]
CORE = ("gpt2", "gemma3", "bloom", "falcon")  # other names of layers, windows, positions as a bias, tuples of blocks
NAMES = [pytest.param(name, marks=() if name in CORE else pytest.mark.study) for name in ARCHITECTURES]
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


def ran(model: Any, block: int, of: Any) -> int:
    """Return how often a block of the model computes anything while `of()` runs."""
    calls: list[int] = []
    inner = next(layers_of(model)[block].children())
    hook = inner.register_forward_hook(lambda *_: calls.append(1))
    of()
    hook.remove()
    return len(calls)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    """What the methods' trials are built on."""
    trials = [trial_of(name, kind, number % 3) for number, (name, kind) in enumerate(BOTH)]
    return prepare([each for trial in trials for each in trial.requires], tmp_path_factory.mktemp("store"), deep_base())


@pytest.mark.parametrize("rows_per_forward", [None, 3])
@pytest.mark.parametrize("definition", ["principled", "published"])
def test_begun_above_equals_the_whole_pass(
    definition: Definition, rows_per_forward: int | None, store: AdapterStore, tmp_path: Path
) -> None:
    """All methods in one pack, parameters after six steps, in float64."""
    trials = [
        trial_of(name, kind, number % 3)
        for number, (name, kind) in enumerate(BOTH)
        if kind == definition and (name, kind) != ("representation", "published")
    ]
    options: dict[str, Any] = {"store": store, "rows_per_forward": rows_per_forward}
    whole = trained(trials, None, **options)
    begun = trained(trials, tmp_path, **options)
    torch.testing.assert_close(begun, whole, rtol=0, atol=1e-10)
    assert min(float(values.abs().max()) for values in begun) > 1e-3


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    trials = [trial_of("plain"), trial_of("kl_penalty", seed=1)]
    whole = trained(trials, None)
    begun = trained(trials, tmp_path, gradient_checkpointing=True)
    torch.testing.assert_close(begun, whole, rtol=0, atol=1e-10)


def test_in_single_precision(tmp_path: Path) -> None:
    """The losses of all steps."""
    trials = [trial_of("plain"), trial_of("kl_penalty", seed=1), trial_of("representation", seed=2)]
    packs = [pack_of(trials, folder, torch.float32) for folder in (None, tmp_path)]
    for pack in packs:
        pack.advance(STEPS)
    for whole, begun in zip(*(pack.members for pack in packs), strict=True):
        for name in ("loss", "task"):
            assert [v for _, v in begun.curves[name]] == pytest.approx([v for _, v in whole.curves[name]], rel=1e-5)


def test_nothing_below_is_computed_after_the_first_step(tmp_path: Path) -> None:
    """But where a method sees all layers and its reference is still asked for: those two steps are whole ones."""
    pack = pack_of([trial_of("plain"), trial_of("kl_penalty", seed=1)], tmp_path)
    pack.advance(ASKED_STEPS + 1)
    for block in range(4):
        assert bool(ran(pack.base.model, block, lambda: pack.advance(1))) == (block >= 2), block
    deep = pack_of([trial_of("representation")], tmp_path)
    assert ran(deep.base.model, 0, lambda: deep.advance(1)) > 0
    deep.advance(ASKED_STEPS)
    assert ran(deep.base.model, 0, lambda: deep.advance(1)) == 0


def test_the_size_of_what_a_pack_will_read(tmp_path: Path) -> None:
    """It is said before anything is computed, and is what the files then hold."""
    trials = [trial_of("plain"), trial_of("kl_penalty", seed=1), trial_of("representation", seed=2)]
    base = deep_base()
    caches = ReferenceCache(tmp_path / "references"), PrefixCache(tmp_path / "prefixes")
    said = cache_bytes(base, base.encoded(tiny_setting(), 20), trials, *caches)
    assert not list(tmp_path.rglob("*.safetensors"))
    pack = Pack(base, tiny_setting(), trials, torch.float64, references=caches[0], prefixes=caches[1])
    pack.advance(ASKED_STEPS + 1)
    pack.evaluate()
    held = [
        sum(tensor.nbytes for path in (tmp_path / name).glob("*.safetensors") for tensor in load_file(path).values())
        for name in ("prefixes", "references")
    ]
    assert list(said) == held and min(held) > 0
    whole = [trial_of("plain", adapter=upper("all"))]
    assert cache_bytes(base, base.encoded(tiny_setting(), 20), whole, *caches) == (0, 0)
    assert cache_bytes(base, base.encoded(tiny_setting(), 20), trials, None, None) == (0, 0)


def test_where_padding_counts_passes_begin_at_the_bottom(tmp_path: Path) -> None:
    trial = trial_of("representation", "published")
    whole, pack = trained([trial], None), pack_of([trial], tmp_path)
    pack.advance(STEPS)
    torch.testing.assert_close([pack.adapters.theta_KP[0]], whole, rtol=0, atol=1e-10)


MIXED: list[tuple[str, Any, int, set[int]]] = [
    ("plain", "all", 4, {0, 1, 2, 3}),
    ("kl_penalty", (1,), 2, {1}),
    ("gradient_projection", "last 2", 1, {2, 3}),
    ("orthogonal_lora", (3,), 3, {3}),
]


def test_a_pack_of_different_layers_and_ranks_equals_solo_runs(tmp_path: Path) -> None:
    """A member has no adapter on a layer that only others adapt: zeros in memory, nothing in its checkpoint."""
    trials = [
        trial_of(name, seed=seed, adapter=upper(layers, rank)) for seed, (name, layers, rank, _) in enumerate(MIXED)
    ]
    prepare([each for trial in trials for each in trial.requires], tmp_path / "store", deep_base())
    store = AdapterStore(SweepFolder(tmp_path / "store"))
    for skipped in (0, 1):
        members = trials[skipped:]
        pack = pack_of(members, tmp_path, store=store)
        assert pack.adapters.first_block == skipped
        pack.advance(STEPS)
        for index, trial in enumerate(members):
            (solo,) = trained([trial], None, store=store)
            row_P = pack.adapters.theta_KP[index]
            torch.testing.assert_close(pack.adapters.cut(index, row_P), solo, rtol=0, atol=1e-10)
            assert int(row_P.count_nonzero()) == solo.numel(), "what others adapt is not exactly zero"
            pack.adapters.save_member(index, tmp_path / str(index), "deep")
            saved = load_file(tmp_path / str(index) / "adapter_model.safetensors")
            assert {int(name.split(".")[4]) for name in saved} == MIXED[skipped + index][3]


def test_layers_that_a_model_does_not_have() -> None:
    for layers in ("last 5", (4,), (0, 7)):
        with pytest.raises(UserError, match="the model has 4 layers, 0 to 3"):
            pack_of([trial_of("plain", adapter=upper(layers))], None)


def test_computed_once_and_resumed_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial_of("plain"), trial_of("kl_penalty", seed=1), trial_of("representation", seed=2)]
    whole = trained(trials, tmp_path / "kept")
    monkeypatch.setattr(prefix_cache, "compute_states", lambda *_: pytest.fail("computed again"))
    pack = pack_of(trials, tmp_path / "kept")
    pack.advance(3)
    pack.save(tmp_path / "checkpoint")
    again = pack_of(trials, tmp_path / "kept")
    assert again.resume(tmp_path / "checkpoint")
    again.advance(STEPS - 3)
    for index, values in enumerate(whole):
        assert torch.equal(again.adapters.cut(index, again.adapters.theta_KP[index]), values)
    with pytest.raises(pytest.fail.Exception):
        trained([trial_of("plain", adapter=upper("last 1"))], tmp_path / "kept")


def test_what_would_be_too_large_is_computed_and_said(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, max_bytes=1000)
    pack = Pack(deep_base(), tiny_setting(), [trial_of("plain")], torch.float64, prefixes=cache)
    pack.advance(1)
    assert ran(pack.base.model, 0, lambda: pack.advance(1)) == 1
    assert "layer 2" in cache.caution and not list(tmp_path.iterdir())


def test_layers_that_see_more_than_the_layer_below_begin_at_the_bottom(tmp_path: Path) -> None:
    """The last block reads what the first one saw: the outputs differ, and every step computes all layers."""
    base, cache = deep_base(), PrefixCache(tmp_path)
    first, *_, last = layers_of(base.model)
    seen: list[Tensor] = []
    first.mlp.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    last.register_forward_hook(lambda _module, _inputs, output: output + seen.pop() if seen else output)
    pack = Pack(base, tiny_setting(), [trial_of("plain")], torch.float64, prefixes=cache)
    pack.advance(1)
    assert "read more than the states of the layer below" in cache.caution
    assert ran(base.model, 0, lambda: pack.advance(1)) == 1


@pytest.mark.parametrize("name", NAMES)
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
