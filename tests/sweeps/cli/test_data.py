"""`selgen data`: what a person, and a script, are told of a file of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from settings.encoding import Encoder
from sweeps.cli.looking import data
from tests.support.tiny import tiny_tokenizer
from tests.sweeps.cli.test_app import selgen


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table whose columns have names of their own, with a prompt that is there twice."""
    path = tmp_path / "rows.csv"
    path.write_text("asked,best,topic\nw1 w2,w3,a\nW1  w2,w4,b\nw5,w6 w7,a\n")
    return path


NAMES = ("--columns", "prompt=asked", "--columns", "completion=best")


def test_a_person_sees_forms_lengths_and_rows(
    rows: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = rows.with_name("held_out.jsonl")
    held_out.write_text('{"prompt": "w5", "completion": "x"}\n')
    arguments = ("data", rows, *NAMES, "--against", held_out, "--model", tiny_qwen3_dir, "--rows", 1)
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "rows.csv: 3 rows, 3 from 'prompt' and 'completion'" in shown
    assert "3 x user assistant tag topic: a (2), b (1)" in shown
    assert "prompts that repeat an earlier row: 1, e.g." in shown and "line 3" in shown
    assert "prompts that are also in held_out.jsonl: 1, e.g." in shown
    assert "at most 1024 a row:" in shown and " -> " in shown


def test_what_scale_small_does_otherwise_is_said(
    rows: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of its own model alone, in whose place stands a small tokenizer here."""
    said = (
        "with the chat template's own system turn; chat_files at scale small opens rows with an empty one and cuts at"
        " 256 tokens\n"
    )
    monkeypatch.setattr(data, "_encoder", lambda model, max_length: Encoder(tiny_tokenizer(), {}, max_length))
    for model, is_said in (((), True), (("--model", tiny_qwen3_dir), False)):
        assert selgen("data", rows, *NAMES, *model, monkeypatch=monkeypatch) == 0
        assert (said in capsys.readouterr().out) == is_said


def test_a_script_gets_json(
    rows: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen("data", rows, *NAMES, "--model", tiny_qwen3_dir, "--json", monkeypatch=monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 3
    assert told["read_from"] == {"'prompt' and 'completion'": 3}
    assert told["repeated_prompts"] == {f"{rows}, line 2": [f"{rows}, line 3"]}
    assert told["tokens"]["cut"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "found the fields asked, best, topic; a row has 'messages'"),
        (("--columns", "prompt"), "--columns must be like prompt=question, got 'prompt'"),
        (("--columns", "prompt=nowhere"), "no column 'nowhere' (found asked, best, topic)"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    rows: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert selgen("data", rows, *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_questions_with_several_replies(
    tmp_path: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = ({"question": f"w{at}", "choices": ["w5", "w6", "w7"][: 2 + at % 2], "key": 0} for at in range(4))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("data", path, "--questions", "--columns", "answer=key", "--model", tiny_qwen3_dir, "--rows", 0)
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "quiz.jsonl: 4 questions, 4 from 'question' and 'choices' and 'answer'" in shown
    assert "2 with a rejected reply 2 with 2 rejected replies" in shown
