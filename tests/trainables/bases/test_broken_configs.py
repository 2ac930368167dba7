"""A config.json that describes no model is one line that names it, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from trainables.bases.config_check import model_of_config


@pytest.mark.parametrize(
    "wrong",
    [{"hidden_act": "nonesuch"}, {"hidden_size": "abc"}, {"num_attention_heads": 0}, {"quantization_config": "x"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_it_is_one_line(checkpoint: Path, wrong: dict[str, Any]) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(UserError) as problem:
        model_of_config(path, str(checkpoint))
    assert str(checkpoint) in str(problem.value)
    assert "\n" not in str(problem.value)
