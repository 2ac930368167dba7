"""A base model in four bits: what adapters on it compute, by bitsandbytes where it is installed, else by its interface.

The quantised weights of the real package are those of transformers and PEFT, which are the oracle.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from settings.base_models import PackagedModel, PretrainedModel, Recipe, TunedModel
from settings.common.errors import UserError
from settings.example import Example
from settings.model_files import check_model
from settings.options import pretrained_model
from tests.support.tiny import SIZES, tiny_model, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase
from trainables.engine.memory import FLOAT, ModelShape
from trainables.engine.packed_linear import Route
from trainables.engine.targets import adapted_share, target_names
from trainables.evaluation.generate import generate
from trainables.folder import SweepFolder
from trainables.pack import Pack
from trainables.trial import AdapterConfig

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
real = pytest.mark.skipif(not INSTALLED, reason='bitsandbytes is not installed: pip install -e ".[4bit]"')
IDS = torch.tensor([[2, 5, 6, 3, 7, 9], [2, 9, 3, 11, 4, 8], [2, 30, 12, 3, 6, 5], [2, 8, 7, 3, 13, 1]])
ADAPTER = AdapterConfig(rank=3, alpha=6.0)
TOLERANCE = 1e-5  # of float32 products in another order; the values are of the order of 1


# --- by its interface -------------------------------------------------------------------------------------------------


class FourBitWeight(nn.Parameter):
    """A weight as bitsandbytes has it: packed numbers that no product takes, and a state that makes them wide."""

    def __new__(cls, wide_OI: Tensor) -> FourBitWeight:
        packed = torch.zeros(math.ceil(wide_OI.numel() / 2), 1, dtype=torch.uint8)
        weight = nn.Parameter.__new__(cls, packed, requires_grad=False)
        weight.quant_state = SimpleNamespace(dtype=wide_OI.dtype, shape=wide_OI.shape, wide_OI=wide_OI)
        return weight


class FourBitLinear(nn.Linear):
    """A linear layer as bitsandbytes has it, whose own products nothing here may call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight = FourBitWeight(layer.weight.detach())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("an adapted layer makes its weight wide itself")


@pytest.fixture
def four_bits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model whose layers are in four bits, and the dense model that they stand for."""
    functional = ModuleType("bitsandbytes.functional")
    functional.dequantize_4bit = lambda data, state: state.wide_OI.clone()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)
    dense, model = tiny_model("llama"), tiny_model("llama")
    for name in target_names(model, ADAPTER):
        model.set_submodule(name, FourBitLinear(model.get_submodule(name)))
    model.is_quantized = True
    return SimpleNamespace(dense=dense, model=model)


def gradients(model: Any, adapters: PackedAdapters, members: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits of two rows per member, and the gradients of a loss on them by all factors."""
    with adapters.routed(Route(tuple(members), (2,) * len(members))):
        logits = model(input_ids=IDS[: 2 * len(members)]).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[: 2 * len(members), 1:].flatten())
    return logits.detach(), list(torch.autograd.grad(loss, adapters.factors))


def filled(model: Any, dtype: torch.dtype) -> PackedAdapters:
    """Two members with B as if they had been trained."""
    adapters = PackedAdapters(model, [ADAPTER, ADAPTER], [0, 1], dtype=dtype)
    draw = torch.Generator().manual_seed(3)
    for layer in adapters.layers.values():
        with torch.no_grad():
            layer.B_KOR.copy_(torch.randn(layer.B_KOR.shape, generator=draw, dtype=torch.float64) * 0.1)
    return adapters


def test_adapters_see_the_wide_weights(four_bits: Any) -> None:
    """Logits, gradients, the null adapter and the share of parameters are those of the dense model, to the bit."""
    results = []
    for model in (four_bits.dense, four_bits.model):
        share = adapted_share(model, target_names(model, ADAPTER))
        adapters = filled(model, torch.float64)
        base = model(input_ids=IDS).logits
        results.append([share, base, *gradients(model, adapters, [0, 1])])
        adapters.detach()
    (share, base, logits, grads), (share_4, base_4, logits_4, grads_4) = results
    assert share == share_4 == 1.0
    assert torch.equal(base, base_4) and torch.equal(logits, logits_4) and not torch.equal(base, logits)
    assert all(torch.equal(*pair) for pair in zip(grads, grads_4, strict=True))


def test_no_wide_weight_is_kept_for_the_backward_pass(four_bits: Any) -> None:
    adapters = filled(four_bits.model, torch.float64)
    wide = {layer.weight_OI.shape for layer in adapters.layers.values()}
    saved: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gradients(four_bits.model, adapters, [0, 1])
    assert saved and not wide & set(saved)


def test_a_checkpoint_of_an_adapter_on_four_bits_is_not_transposed(four_bits: Any, tmp_path: Path) -> None:
    filled(four_bits.model, torch.float64).save_member(0, tmp_path, "tiny")
    assert '"fan_in_fan_out": false' in (tmp_path / "adapter_config.json").read_text()


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_the_option_is_part_of_identities_where_it_is_used() -> None:
    dense, four = pretrained_model("org/model", None), pretrained_model("org/model", None, quantize="nf4")
    assert four.to_json() == {**dense.to_json(), "quantize": "nf4"} and "quantize" not in dense.to_json()
    with pytest.raises(UserError, match="option 'quantize' must be"):
        pretrained_model("org/model", None, quantize="int8")


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_the_package_a_line_says_what_to_install(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    spec = PretrainedModel(str(tmp_path), quantize="nf4")
    for ask in (lambda: check_model(spec), lambda: load_base(spec)):
        with pytest.raises(
            UserError, match=r'^quantize="nf4" needs the package bitsandbytes: pip install -e ".\[4bit\]"'
        ):
            ask()


def test_what_is_taught_here_first_is_not_quantised() -> None:
    start = PretrainedModel("org/model", quantize="nf4")
    recipe = Recipe(steps=1, batch_size=1, alignment_batch_size=1, learning_rate=1e-3, rank=1)
    with pytest.raises(UserError, match="org/model is tuned here first and then merged"):
        check_model(TunedModel(start, (Example.of("a", "b"),), recipe))
    assert TunedModel(start, (), recipe).quantize is None and PackagedModel.quantize.fget(None) is None  # type: ignore[attr-defined]


def test_a_plan_counts_four_bits() -> None:
    """Of 4096 x 4096 projections and 4096 x 12288 MLPs in 36 layers: 4.5 bits each, and one wide at a time."""
    shape = ModelShape.assumed()
    linear = 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    ends = 2 * 4096 * 151_936
    assert shape.weight_bytes(2) == 2 * (linear + ends)
    assert shape.weight_bytes(2, "nf4") == linear * 4.5 / 8 + 2 * (ends + 4096 * 12288)
    assert shape.weight_bytes(FLOAT, "nf4") < 0.35 * shape.weight_bytes(FLOAT)


# --- by bitsandbytes itself -------------------------------------------------------------------------------------------


def tiny_llama(directory: Path) -> Path:
    """A tiny Llama whose layers have whole blocks of 64 weights, with its tokenizer."""
    torch.manual_seed(1)
    sizes = {**SIZES, "hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "initializer_range": 0.15}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


def loaded(directory: Path) -> LoadedBase:
    return load_base(PretrainedModel(str(directory), quantize="nf4"))


@real
def test_a_quantised_model_is_another_one(directory: Path) -> None:
    base, dense = loaded(directory), load_base(PretrainedModel(str(directory)))
    assert base.content_id != dense.content_id
    layer = base.model.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit" and layer.weight.dtype == torch.uint8
    with torch.no_grad():
        away = (base.model(input_ids=IDS).logits - dense.model(input_ids=IDS).logits).abs().mean()
    assert 0.01 < away < 1
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@real
def test_a_packed_step_is_that_of_peft_on_the_same_model(directory: Path) -> None:
    """Logits and gradients of both members equal those of PEFT's model, one at a time."""
    base = loaded(directory)
    adapters = filled(base.model, torch.float32)
    logits, grads = gradients(base.model, adapters, [0, 1])
    states = [adapters.member(member) for member in (0, 1)]
    adapters.detach()
    for member, state in enumerate(states):
        peft: Any = get_peft_model(
            loaded(directory).model, LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        named = {name.replace(".default", ""): parameter for name, parameter in peft.named_parameters()}
        with torch.no_grad():
            for name, value in state.items():
                named[name].copy_(value)
        rows = IDS[2 * member : 2 * member + 2]
        expected = peft(input_ids=rows).logits
        torch.testing.assert_close(
            logits[2 * member : 2 * member + 2], expected.detach(), atol=TOLERANCE, rtol=TOLERANCE
        )
        # The packed loss is the mean over both members' rows: half of each member's own.
        loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), rows[:, 1:].flatten()) / 2
        of_peft = torch.autograd.grad(loss, [named[name] for name in state])
        for gradient, wanted in zip(grads, of_peft, strict=True):
            torch.testing.assert_close(gradient[member], wanted, atol=TOLERANCE, rtol=TOLERANCE)
        assert max(float(each.abs().max()) for each in of_peft) > 100 * TOLERANCE


@real
def test_a_pack_trains_and_its_checkpoints_are_peft_models(directory: Path, tmp_path: Path) -> None:
    """Two trials side by side: the loss falls, and greedy replies are those of each checkpoint in PEFT."""
    trials = [tiny_trial(methods.make(name), seed=seed) for seed, name in enumerate(("plain", "kl_penalty"))]
    pack = Pack(loaded(directory), tiny_setting(), trials)
    pack.advance(trials[0].updates)
    prompts = [(2, 5, 6, 3), (2, 9, 3), (2, 30, 3)]
    replies = generate(
        pack.base.model,
        prompts,
        adapters=pack.adapters,
        members=[0, 1],
        max_new_tokens=6,
        stop_ids=frozenset({1}),
        pad_id=0,
    )
    end = pack.finish(SweepFolder(tmp_path))
    pack.detach()
    assert [outcome.status for outcome in end.outcomes] == ["finished", "finished"]
    for member, outcome in enumerate(end.outcomes):
        curve = outcome.curves["task"]
        assert curve[-1][1] < curve[0][1]
        peft: Any = PeftModel.from_pretrained(
            loaded(directory).model, SweepFolder(tmp_path).adapter(trials[member].trial_id)
        )
        for prompt, reply in zip(prompts, replies[member], strict=True):
            out = peft.generate(
                input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0
            )[0, len(prompt) :].tolist()
            assert reply == tuple(out[: out.index(1)] if 1 in out else out)


@real
def test_layers_in_four_bits_are_not_sharded(directory: Path) -> None:
    with pytest.raises(UserError, match="a base model in four bits cannot be sharded"):
        load_base(PretrainedModel(str(directory), quantize="nf4"), sharded=True)
