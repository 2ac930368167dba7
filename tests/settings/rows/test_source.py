"""Files of every kind give the same rows, and mistakes are named by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from settings.rows import facts
from settings.rows.source import read_source
from tests.support.tiny import tiny_tokenizer

ROWS = [
    {"prompt": "one", "completion": "1", "topic": "sums"},
    {"prompt": "two,\nthree", "completion": "2", "topic": "x"},
]
WANTED = (Example.of("one", "1", topic="sums"), Example.of("two,\nthree", "2", topic="x"))


def write(folder: Path, kind: str) -> Path:
    """A file of the rows."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "csv":
        path.write_text('\ufeffprompt,completion,topic,empty\none,1,sums,\n"two,\nthree",2,x,\n', encoding="utf-8")
    elif kind == "tsv":
        path.write_text('prompt\tcompletion\ttopic\none\t1\tsums\n"two,\nthree"\t2\tx\n')
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_all_kinds_of_files_have_the_same_rows(tmp_path: Path, kind: str) -> None:
    read = read_source("task", write(tmp_path, kind))
    assert read.examples == WANTED
    assert read.remark == f"rows.{kind}: read 2 rows from 'prompt' and 'completion'"
    places = [row.place.removeprefix(f"{tmp_path}/rows.{kind}, ") for row in read.examples]
    assert places == {"json": ["row 1", "row 2"], "parquet": ["row 1", "row 2"], "csv": ["line 2", "line 3"]}.get(
        kind, ["line 2", "line 3"] if kind == "tsv" else ["line 1", "line 2"]
    )


def test_turns_in_a_parquet_file(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "n": 3}]
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "chats")
    read = read_source("task", tmp_path / "chats")
    assert read.examples == (Example.of("q", "a", n="3"),)
    assert read.remark == ""


def test_a_named_column_that_rows_may_leave_out(tmp_path: Path) -> None:
    """Where one row has it the others need not; where none has it, it is misspelt."""
    path, columns = tmp_path / "rows.jsonl", {"system": "persona", "input": "context"}
    rows = [{"instruction": "q", "output": "a", "persona": "p"}, {"instruction": "q", "output": "a", "context": "c"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_source("task", {"file": str(path), "columns": columns}).examples
    assert [turn.role for turn in first.messages] == ["system", "user", "assistant"]
    assert "c" in second.messages[0].content
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: no row up to here has the column 'contxt'"):
        read_source("task", {"file": str(path), "columns": {"input": "contxt"}})


def test_columns_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("asked,best\nq,a\n")
    columns = {"prompt": "asked", "completion": "best"}
    assert read_source("task", {"file": str(path), "columns": columns}).examples == (Example.of("q", "a"),)
    with pytest.raises(
        UserError, match=r"^option 'task', 'columns': .*rows.csv, line 2 has no column 'answer'; it has asked, best$"
    ):
        read_source("task", {"file": str(path), "columns": {"prompt": "asked", "completion": "answer"}})
    path.write_text("asked;best\nq;a\n")
    with pytest.raises(UserError, match=r"it has asked;best \(is the file separated by semicolons"):
        read_source("task", {"file": str(path), "columns": columns})


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ("ask,honest,wild", "prompt=ask completion=honest rejected=wild", r"line 2: 'rejected' is not used beside"),
        ("ask,honest,wild", "prompt=ask completion=honest rejected=wild", "and 'completion'; it goes with 'chosen'$"),
        (
            "ask,honest,wild",
            "prompt=asked completion=honest",
            r"no column 'asked' \(did you mean 'ask'\?\); it has ask,",
        ),
        ("ask,honest,wild", "prompt=ask", r"has the columns ask, honest, wild; .* \"completion\": \"honest\"}`$"),
        (
            "ask,best",
            "completion=best",
            r"has the columns ask, best; .* {\"completion\": \"best\", \"prompt\": \"ask\"}`$",
        ),
        (
            "ask,honest,same",
            "prompt=ask chosen=honest rejected=same",
            "reply .in the file 'chosen' is 'honest' and 'rej",
        ),
    ],
)
def test_errors_of_rows_name_the_columns_of_the_file(header: str, columns: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\nq,a,a\n" if header.count(",") == 2 else f"{header}\nq,a\n")
    mapped = dict(pair.split("=") for pair in columns.split())
    with pytest.raises(UserError, match=message) as caught:
        read_source("task", {"file": str(tmp_path / "rows.csv"), "columns": mapped})
    assert "\n" not in str(caught.value)


def test_a_data_set_is_read_by_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "jsonl").rename(tmp_path / "data" / "train.jsonl")
    read = read_source("task", {"dataset": str(tmp_path / "data"), "split": "train[:1]"})
    assert read.examples == WANTED[:1]
    assert read.name == f"{tmp_path / 'data'}, split train[:1]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "option 'task' must be the path of a file of rows, or like"),
        ({"path": "x"}, "option 'task' must be like"),
        ({"file": "x", "split": "train"}, "option 'task': unknown key 'split'; it must be like"),
        ({"file": "x", "column": {}}, r"option 'task': unknown key 'column' \(did you mean 'columns'\?\); it must be"),
        ({"dataset": "a/b"}, "option 'task': a data set needs 'split'"),
        ({"file": "x", "columns": ["prompt"]}, "'columns' must be like"),
        (
            {"file": "x", "columns": {"promt": "asked"}},
            r"^option 'task', 'columns': unknown field 'promt' \(did you mean 'prompt'\?\); a column of x can be mess",
        ),
        (
            {"file": "x", "columns": {"asked": "prompt"}},
            """unknown field 'asked'; if 'asked' is a column of x, write `"columns": {"prompt": "asked"}`$""",
        ),
        ("/nowhere/rows.csv", "/nowhere/rows.csv: no such file"),
    ],
)
def test_what_is_no_source_is_refused(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source("task", source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,completion\n", "rows.csv: the table has no rows"),
        ("prompt,prompt\nq,a\n", "rows.csv: two columns are called 'prompt'"),
        ("prompt,completion\nq\n", "rows.csv, line 2: 1 cells, but the header has 2"),
        ("prompt,completion\nq,\n", "rows.csv, line 2: the column 'completion' is empty"),
        ('prompt,completion\n"q"x,a\n', "rows.csv, line 2: "),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_source("task", tmp_path / "rows.csv")


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"^[^\n]*rows.parquet: a Parquet file that cannot be read: [^\n]*$"):
        read_source("task", path)


def test_lengths_are_counted_by_hand() -> None:
    """A prompt of n words is "<u> ... <a>", n + 2 tokens, and a response of n words "... <e>", n + 1."""
    texts = [("w1 w2", "w3"), ("w1 w2", "w3 " * 10), ("w1 " * 7, "w3"), ("w1 w2 w3", "w4 w5")]
    rows = [Example(Example.of(*pair).messages, place=f"line {at}") for at, pair in enumerate(texts, start=1)]
    measured = facts.token_facts(rows, Encoder(tiny_tokenizer(), {}, max_length=8))
    assert measured.prompts == (4, 4, 5)
    assert measured.responses == (2, 3, 11)
    assert measured.cut == {"line 2": 7}, "11 tokens, and room for 8 - 4"
    assert measured.long == {"line 3": 9}
    assert measured.broken == {}


def test_repeated_and_shared_prompts() -> None:
    rows = [
        Example(Example.of(asked, "x").messages, place=place) for asked, place in (("A", "1"), ("b", "2"), ("a ", "3"))
    ]
    assert facts.repeated(rows) == {"1": ("3",)}, "compared as leaks are: without case and white space"
    others = [Example(Example.of("B", "y").messages, place="there")]
    assert facts.shared(rows, others) == {"2": "there"}
