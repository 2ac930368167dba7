"""Rows that a model cannot read are named before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from settings.common.errors import UserError
from settings.example import Example
from settings.reference import setting
from sweeps.row_check import check_rows
from sweeps.sweep import Sweep


def sweep(model: str, tmp_path: Path, long: tuple[int, ...] = ()) -> Sweep:
    """A sweep on twelve rows of its own, of which those in these lines are too long."""
    rows = [f"question {number} " + "word " * (400 if number in long else 1) for number in range(1, 13)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(Example.of(row, "Yes.").to_json()) + "\n" for row in rows))
    return Sweep(
        "rows", settings=(setting("chat_files", model=model, task=str(path), max_length=128),), methods=("plain",)
    )


def test_rows_that_fit_say_nothing(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    assert check_rows(sweep(str(tiny_qwen3_dir), tmp_path).cases[0]) == ()


def test_long_prompts_are_named_whether_trained_or_held_out(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    case = sweep(str(tiny_qwen3_dir), tmp_path, long=tuple(range(3, 13))).cases[0]
    with pytest.raises(UserError) as caught:
        check_rows(case)
    message = str(caught.value)
    assert "\n" not in message
    named = {number for number in range(1, 13) if any(number in span for span in spans(message))}
    assert named == set(range(3, 13))


def spans(message: str) -> list[range]:
    """Return the lines that a message names, as ranges."""
    words = [word.strip(",:;s") for part in message.split("line")[1:] for word in part.partition(":")[0].split()]
    numbers = [[int(end) for end in word.split("-")] for word in words if word.replace("-", "").isdigit()]
    return [range(ends[0], ends[-1] + 1) for ends in numbers]


def test_what_is_not_on_this_machine_is_not_looked_at(tmp_path: Path) -> None:
    assert check_rows(sweep("someone/no-such-model", tmp_path).cases[0]) == ()


def test_a_nano_model_reads_its_rows() -> None:
    case = Sweep("nano", settings=(setting("trigger_colors", scale="nano"),), methods=("plain",)).cases[0]
    assert check_rows(case) == ()


def test_compared_replies_that_do_not_fit_are_named(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    """The response fits, and one of the alternatives does not."""
    questions = tmp_path / "questions.jsonl"
    rows = [Example.of(f"question {number}?", "No.").to_json()["messages"] for number in (1, 2)]
    others = (["Yes.", "Maybe."], ["Yes.", "word " * 200])
    lines = [{"messages": row, "alternatives": texts} for row, texts in zip(rows, others, strict=True)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    declared = sweep(str(tiny_qwen3_dir), tmp_path)
    options = declared.settings[0].options | {"preferences": str(questions)}
    case = replace(declared, settings=(setting("chat_files", **options),)).cases[0]
    with pytest.raises(
        UserError, match=r"questions\.jsonl, line 2: the reply 'word .* beyond max_length=128"
    ) as caught:
        check_rows(case)
    assert "line 1" not in str(caught.value)
