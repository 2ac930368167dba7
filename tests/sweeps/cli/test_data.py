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


def test_rows_are_encoded_as_at_a_scale(
    rows: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scale small opens rows with an empty system turn and cuts earlier; without it, it is named for its own model."""
    named = "  chat_files at scale small reads rows differently: see it with --scale small\n"
    monkeypatch.setattr(data, "_encoder", lambda model, length, options: Encoder(tiny_tokenizer(), options, length))
    prompts = []
    for arguments, is_named, length in (
        ((), True, 1024),
        (("--model", tiny_qwen3_dir), False, 1024),
        (("--scale", "small"), False, 256),
        (("--scale", "small", "--max-length", "9"), False, 9),
    ):
        assert selgen("data", rows, *NAMES, *arguments, monkeypatch=monkeypatch) == 0
        shown = capsys.readouterr().out
        assert (named in shown) == is_named
        assert f"at most {length} a row:" in shown
        prompts.append(next(line for line in shown.splitlines() if "line 2: " in line and " -> " in line))
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert selgen("data", rows, "--scale", "nano", monkeypatch=monkeypatch) == 2
    assert "--scale must be one of full, small, got 'nano'" in capsys.readouterr().err


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
        ((), "rows.csv, line 2 has the columns asked, best, topic; say which is which, e.g."),
        (("--columns", "prompt"), "--columns must be like prompt=question, got 'prompt'"),
        (
            ("--columns", "prompt=nowhere"),
            "--columns: {rows}, line 2 has no column 'nowhere'; it has asked, best, topic",
        ),
        ((), "e.g. `--columns prompt=asked --columns completion=best`\n"),
        (("--columns", "asked=prompt"), "if 'asked' is a column of rows.csv, write `--columns prompt=asked`"),
        (("--columns", "choices=best"), "; for questions with several replies add --questions"),
        (("--questions",), "e.g. `--columns prompt=asked --columns chosen=best --columns rejected=topic`\n"),
        ((*NAMES, "--against-columns", "prompt=x"), "--against-columns is for the files of --against"),
        ((*NAMES, "--against", "{rows}", "--against-columns", "prompt"), "--against-columns must be like"),
        ((*NAMES, "--against", "{rows}"), "e.g. `--against-columns prompt=asked`\n"),
        ((*NAMES, "--columns", "rejected=topic"), "--columns: {rows}, line 2: 'rejected' is not used beside 'prompt'"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    rows: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(rows=rows) for argument in arguments]
    assert selgen("data", rows, *given, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message.format(rows=rows) in error and error.count("\n") == 1


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
    assert selgen(*arguments[:2], "--columns", "answer=key", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.endswith("; for questions with several replies add --questions\n")


def test_rejected_replies_are_shown(
    tmp_path: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{at}", "chosen": "w5", "rejected": "w6"}) + "\n" for at in (1, 2)))
    assert selgen("data", path, "--model", tiny_qwen3_dir, "--rows", 1, monkeypatch=monkeypatch) == 0
    good, bad = capsys.readouterr().out.splitlines()[-2:]
    assert good.endswith(" -> w|5|<|im_end|>") and bad == "  rejected -> w|6|<|im_end|>"


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ('{"question": "W1 w2", "choices": ["a", "b"], "answer": 1}', ()),
        ('{"input": "w1 w2", "targets": {"a": 1, "b": 0}}', ()),
        ('{"q": "w1 w2", "options": ["a", "b"], "key": 0}', ("question=q", "choices=options", "answer=key")),
        ('{"asked of": "w1 w2", "said": "b"}', ("prompt=asked of", "completion=said")),
        ('{"asked of": "w1 w2", "said": "b"}', ("prompt=asked of",)),
        ('{"instruction": "W1", "input": "w2"}', ()),
    ],
)
def test_the_other_file_may_have_questions_and_names_of_its_own(
    written: str,
    names: tuple[str, ...],
    rows: Path,
    tiny_qwen3_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = rows.with_name("other.jsonl")
    other.write_text(f"{written}\n")
    mapped = [argument for name in names for argument in ("--against-columns", name)]
    arguments = ("data", rows, *NAMES, "--model", tiny_qwen3_dir, "--rows", 0, "--against", other, *mapped)
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    assert "prompts that are also in other.jsonl: 2, e.g." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "'answer' must be the place of the good choice"),
        ('{"prompt": "q", "completion": 3}', "'content' must be text, got a number"),
        ("{", "line 1, column 2: not valid JSON"),
    ],
)
def test_a_mistake_in_the_other_file_is_that_of_its_form(
    written: str, message: str, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rows.with_name("other.jsonl")
    other.write_text(f"{written}\n")
    assert selgen("data", rows, *NAMES, "--against", other, monkeypatch=monkeypatch) == 2
    assert f"{other}, line 1" in (error := capsys.readouterr().err) and message in error
