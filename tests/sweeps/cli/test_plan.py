"""`selgen sweep plan`: what a sweep trains on and asks, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweeps.cli.test_app import ROW, chat_files, selgen, sweep_file


def pairs(number: int) -> bytes:
    """Lines of questions with two replies."""
    rows = ({"prompt": f"p{row}", "chosen": "good", "rejected": "bad"} for row in range(number))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def planned(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the plan of a sweep prints, in one line."""
    assert selgen("sweep", "plan", file, "-o", file.parent / "runs", monkeypatch=monkeypatch) == 0
    return " ".join(capsys.readouterr().out.split())


def test_rows_and_questions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fifth of 20 task rows and of 6 alignment rows is held out."""
    alignment = "".join(ROW % n for n in range(100, 106)).encode()
    given = chat_files(tmp_path, "org/not-here", alignment=alignment, preferences=pairs(16))
    shown = planned(sweep_file(tmp_path, given), monkeypatch, capsys)
    assert (
        "chat_files: trains on 16 task rows and 5 alignment rows;"
        " asks 4 (task_loss), 1 (alignment_loss), 16 (preferences)" in shown
    )


def test_one_stream_is_counted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = planned(sweep_file(tmp_path, chat_files(tmp_path, "org/not-here")), monkeypatch, capsys)
    assert "chat_files: trains on 16 task rows; asks 4 (task_loss)" in shown
