"""The memory model against what a step keeps, and what it makes of packs that would not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from settings.base_models import PretrainedModel
from settings.setting import Setting
from tests.support.architectures import architecture
from tests.support.tiny import tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.base import LoadedBase
from trainables.engine.memory import FLOAT, LOGIT_COPIES, LOGITS, ModelShape, memory_left, training_bytes
from trainables.pack import Pack
from trainables.trial import TrialConfig

SHAPE = ModelShape(parameters=1e6, layers=2, width=8, adapted=100, vocabulary=50)


def trial(name: str = "plain", seed: int = 0) -> TrialConfig:
    return tiny_trial(methods.make(name), seed, batch_size=4, alignment_batch_size=2)


def test_a_pack_by_hand() -> None:
    """Two members of rank 4 with 4 task rows of 10 tokens each, so 80 tokens, and logits of 40 at a time."""
    need = training_bytes(SHAPE, [trial(), trial(seed=1)], {"task": 10})
    assert need == FLOAT * (2 * 4 * 100 * 4 + 80 * 2 * 8 * 24 + 40 * 50 * LOGIT_COPIES)


def test_what_makes_it_smaller() -> None:
    members = [trial("kl_penalty", seed) for seed in range(3)]
    lengths: dict[Any, float] = {"task": 10, "alignment": 20}
    adapters = 3 * 4 * 100 * 4 * FLOAT
    logits = (4 * 10 + 2 * 20) * 50 * LOGIT_COPIES * FLOAT
    assert training_bytes(SHAPE, members, lengths) == adapters + logits + (12 * 10 + 6 * 20) * 2 * 8 * 24 * FLOAT
    assert training_bytes(SHAPE, members, lengths, 4) == adapters + logits + 4 * 20 * 2 * 8 * 24 * FLOAT
    assert training_bytes(SHAPE, members, lengths, 100) == adapters + logits + 12 * 10 * 2 * 8 * 24 * FLOAT
    assert training_bytes(SHAPE, members, lengths, None, True) == adapters + logits + 240 * 2 * 8 * FLOAT
    assert training_bytes(SHAPE, members, lengths, num_workers=2) == adapters + logits + 120 * 2 * 8 * 24 * FLOAT
    wide = replace(SHAPE, vocabulary=10**7)
    assert training_bytes(wide, members, lengths) - training_bytes(SHAPE, members, lengths) == (
        LOGITS * LOGIT_COPIES * FLOAT - logits
    ), "logits are held in chunks"


def medium_base() -> LoadedBase:
    config = Qwen3Config(
        vocab_size=44,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
    )
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return LoadedBase(model, tiny_tokenizer(), "medium", "medium")


def test_activations_are_what_a_step_keeps() -> None:
    """Distinct storages that autograd saves in a step, without the weights: within a third (measured: 0.95)."""
    base, members = medium_base(), [trial(seed=seed) for seed in range(3)]
    pack = Pack(base, tiny_setting(), members)
    kept: dict[int, int] = {}

    def pack_tensor(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*base.model.state_dict().values(), pack.adapters.theta_KP)
    }
    longest = max(len(row.ids) for row in base.encoded(tiny_setting(), 512).rows("task"))
    shape = ModelShape.of_config(base.model.config.to_dict())
    stated = training_bytes(shape, members, {"task": longest})
    stated -= training_bytes(replace(shape, layers=0), members, {"task": longest})
    with torch.autograd.graph.saved_tensors_hooks(pack_tensor, lambda tensor: tensor):
        pack.advance(1)
    found = sum(size for address, size in kept.items() if address not in own)
    assert 0.67 < found / stated < 1.5, (found, stated)


def test_what_is_left_of_main_memory() -> None:
    device = torch.device("cpu")
    assert memory_left(device, 0, None) is None
    left = memory_left(device, 0, 100e9)
    assert left is not None and 90e9 < left < 100e9, "less what the process has"


def test_the_shape_is_that_of_the_model() -> None:
    base = medium_base()
    shape = ModelShape.of_config(base.model.config.to_dict())
    linear = [module for module in base.model.model.modules() if isinstance(module, torch.nn.Linear)]
    assert shape.adapted == sum(module.in_features + module.out_features for module in linear)
    assert shape.parameters == sum(module.weight.numel() for module in linear) + 44 * 64


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "falcon", "gpt_neox", "mixtral", "qwen3_moe", "gemma3"])
def test_other_architectures_have_a_shape(name: str) -> None:
    """Whatever their configurations call its sizes: the parameters of all matrices within a factor of 2."""
    model = architecture(name)
    shape = ModelShape.of_config(model.config.to_dict())
    assert (shape.layers, shape.width, shape.vocabulary) == (2, 32, 44)
    matrices = sum(value.numel() for value in model.base_model.parameters() if value.ndim > 1)
    assert 0.5 < shape.parameters / matrices < 2


def test_a_size_left_to_its_default_gives_no_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text", "hidden_size": 32}')
    assert ModelShape.of(PretrainedModel(str(tmp_path))) is None


def test_a_setting_is_encoded_once() -> None:
    base, setting = medium_base(), tiny_setting()
    assert base.encoded(setting, 64) is base.encoded(setting, 64)
    assert base.encoded(setting, 32) is not base.encoded(setting, 64)
    other: Setting = tiny_setting()
    assert base.encoded(other, 64) is not base.encoded(setting, 64)
    assert base.encoded(setting, 64).questions(setting.evaluations[0]) is base.encoded(setting, 64).questions(
        setting.evaluations[0]
    )
