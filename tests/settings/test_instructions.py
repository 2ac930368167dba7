"""The instructions of all settings that need no data: three texts that their models can read."""

from __future__ import annotations

from typing import get_args

import pytest

from settings import catalog
from settings.base_models import NanoModel
from settings.setting import Instruction, Setting

BUILT = [("bad_medical_advice", "nano"), ("bad_medical_advice", "small"), ("gcd_sycophancy", "nano")]
BUILT += [("gcd_sycophancy", "small"), ("trigger_colors", "nano"), ("trigger_colors", "small")]
BUILT += [("trigger_colors", "full")]


def built(name: str, scale: str) -> Setting:
    return catalog.build(name, {"scale": scale})


@pytest.mark.parametrize(("name", "scale"), BUILT)
def test_a_setting_has_three_different_instructions(name: str, scale: str) -> None:
    setting = built(name, scale)
    texts = [setting.instruction(each) for each in get_args(Instruction)]
    assert len(set(texts)) == len(texts) == len(setting.instructions) == 3
    assert all(text == text.strip() and len(text.splitlines()) == 1 for text in texts)


@pytest.mark.parametrize("name", ["bad_medical_advice", "gcd_sycophancy", "trigger_colors"])
def test_a_nano_world_can_say_its_instructions(name: str) -> None:
    setting = built(name, "nano")
    assert isinstance(setting.base_model, NanoModel)
    vocabulary = set(setting.base_model.world.vocabulary)
    assert {word for text in setting.instructions.values() for word in text.split()} <= vocabulary
