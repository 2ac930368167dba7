"""Adapters as PEFT knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from settings.common.errors import UserError
from tests.support.tiny import tiny_base, tiny_model, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.adapters import PackedAdapters
from trainables.engine.packed_linear import Route
from trainables.engine.peft_format import load_peft
from trainables.engine.targets import target_names
from trainables.pack import Pack
from trainables.trial import AdapterConfig

IDS = torch.tensor([[2, 5, 6, 3, 9, 10, 1]])


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma", "gemma2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_checkpoint_reproduces_the_packed_logits_in_peft(architecture: str, rslora: bool, tmp_path: Path) -> None:
    """To 1e-5 in float32 storage, for every member of a pack of different ranks."""
    adapters = [AdapterConfig(rank=rank, alpha=8.0, rslora=rslora) for rank in (1, 3, 4)]
    trials = [tiny_trial(methods.make("plain"), seed=i, adapter=adapter) for i, adapter in enumerate(adapters)]
    pack = Pack(tiny_base(architecture), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(10)
    base_logits = tiny_model(architecture)(input_ids=IDS).logits
    for index in range(len(trials)):
        pack.adapters.save_member(index, tmp_path / str(index), "tiny")
        with pack.adapters.routed(Route((index,), (1,))):
            packed = pack.base.model(input_ids=IDS).logits
        loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path / str(index))(input_ids=IDS).logits
        torch.testing.assert_close(packed, loaded, rtol=0, atol=1e-5)
        assert float((packed - base_logits).abs().max()) > 1e-2


def test_round_trip(tmp_path: Path) -> None:
    model = tiny_model()
    pack = PackedAdapters(model, [AdapterConfig(rank=2), AdapterConfig(rank=4)], [0, 1], torch.float64)
    pack.theta_KP.copy_(
        torch.randn(pack.theta_KP.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    saved = pack.member(0)
    pack.save_member(0, tmp_path / "a", "tiny")
    config, factors = load_peft(tmp_path / "a")
    assert (config.rank, config.alpha, config.rslora) == (2, 16.0, False)
    pack.theta_KP[0] = 0
    pack.load_member(0, factors)
    for name, tensor in pack.member(0).items():
        torch.testing.assert_close(tensor, saved[name], rtol=0, atol=1e-6)


def test_padded_ranks_stay_zero() -> None:
    trials = [tiny_trial(methods.make("plain"), rank=1), tiny_trial(methods.make("plain"), rank=4)]
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(10)
    for layer in pack.adapters.layers.values():
        assert float(layer.A_KRI[0, 1:].abs().max()) == 0.0
        assert float(layer.B_KOR[0, :, 1:].abs().max()) == 0.0


def test_all_linear_leaves_the_head_out() -> None:
    names = target_names(tiny_model(), AdapterConfig())
    assert len(names) == 2 * 7
    assert not any("lm_head" in name for name in names)


def test_unknown_target() -> None:
    with pytest.raises(UserError, match="adapter option 'targets' names 'c_attn', which is not a linear layer"):
        target_names(tiny_model(), AdapterConfig(targets=("q_proj", "c_attn")))


def test_foreign_adapters_are_refused(tmp_path: Path) -> None:
    pack = PackedAdapters(tiny_model(), [AdapterConfig(rank=2)], [0])
    with pytest.raises(UserError, match=r"not a PEFT checkpoint: .*adapter_model.safetensors is missing"):
        load_peft(tmp_path)
    factors = pack.member(0)
    name = next(iter(factors))
    with pytest.raises(UserError, match="layers differ at"):
        pack.load_member(0, {key: value for key, value in factors.items() if key != name})
    with pytest.raises(UserError, match=r"is \(3, 16\), not \(2, 16\)"):
        pack.load_member(0, {**factors, name: torch.zeros(3, 16)})


def test_the_config_names_what_was_adapted(tmp_path: Path) -> None:
    pack = PackedAdapters(tiny_model(), [AdapterConfig(rank=2, targets=("q_proj", "v_proj"))], [0])
    pack.save_member(0, tmp_path, "some/model")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == "some/model"


def test_two_packs_do_not_share_a_model() -> None:
    model = tiny_model()
    first = PackedAdapters(model, [AdapterConfig(rank=2)], [0])
    with pytest.raises(RuntimeError, match="another pack is attached"):
        PackedAdapters(model, [AdapterConfig(rank=2)], [0])
    first.detach()
    PackedAdapters(model, [AdapterConfig(rank=2)], [0])
