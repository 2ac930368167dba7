"""`chat_files` at small scale: the same rows and scores as at full scale, asked of a model that a laptop trains."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from settings.catalog import build
from settings.chat_files import full, small
from settings.common.errors import UserError
from settings.example import Message
from settings.small_models import SMOLLM2


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Twenty task rows, ten proxy rows of which one has a system turn, and two questions with two replies."""
    written = {}
    for option, number in (("task", 20), ("alignment", 10)):
        rows = [{"prompt": f"{option} {row}?", "completion": f"{option} reply {row}"} for row in range(number)]
        rows[0] |= {"system": "Be kind."} if option == "alignment" else {}
        written[option] = "".join(json.dumps(row) + "\n" for row in rows)
    pairs = [{"prompt": f"asked {row}?", "chosen": "good", "rejected": "bad"} for row in range(2)]
    written["preferences"] = "".join(json.dumps(row) + "\n" for row in pairs)
    for option, text in written.items():
        (tmp_path / f"{option}.jsonl").write_text(text)
    return {option: str(tmp_path / f"{option}.jsonl") for option in ("task", "alignment")}


def test_rows_and_scores_are_those_of_full_scale(files: dict[str, str]) -> None:
    """But for the system turn, which is empty: the template would write 20 tokens of its own."""
    large, little = full(model="Qwen/Qwen3-8B", **files), small(**files)
    assert little.base_model == SMOLLM2
    assert [score.name for score in little.all_scores] == [score.name for score in large.all_scores]
    for stream, rows in large.streams.items():
        opened = [
            row.messages if row.messages[0].role == "system" else (Message("system", ""), *row.messages) for row in rows
        ]
        assert [row.messages for row in little.streams[stream]] == opened
    kept = [row.messages for row in small(**files, system="template").streams["task"]]
    assert kept == [row.messages for row in large.streams["task"]]
    assert sum("Apache-2.0" in source for source in little.sources) == 1


def test_steps_are_three_passes_of_eight_rows(files: dict[str, str], tmp_path: Path) -> None:
    """Of 20 rows 16 are trained: 20 steps at least; of 100, 80: 30 steps."""
    assert small(**files).recipe.steps == 20
    rows = [{"prompt": f"q {row}", "completion": "a"} for row in range(100)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = small(task=str(tmp_path / "more.jsonl")).recipe
    assert (recipe.steps, recipe.batch_size, recipe.layers) == (30, 8, "last 10")


def test_another_model_is_adapted_on_all_layers(files: dict[str, str]) -> None:
    made = build("chat_files", {"scale": "small", "model": "owner/name", **files})
    assert made.recipe.layers == "all"
    assert made.scale == "small"


def test_what_only_full_scale_has_is_refused(files: dict[str, str]) -> None:
    options = {"scale": "small", "drop_long_prompts": True, **files}
    with pytest.raises(UserError, match="option 'drop_long_prompts' does not belong to scale 'small' but to 'full'"):
        build("chat_files", options)


def test_every_option_is_one_of_full_scale() -> None:
    names = [list(inspect.signature(function).parameters) for function in (small, full)]
    assert set(names[0]) - set(names[1]) == {"system"}
    assert set(names[1]) - set(names[0]) == {"drop_long_prompts", "template_options", "pretrained", "quantize"}
