"""Every way a row can be wrong, and real files."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from settings.common.errors import UserError
from settings.example import Example, Message
from settings.sources import example_of, read_chat_jsonl, read_hub_rows, read_hub_table

GOOD = {"messages": [{"role": "user", "content": "6 and 9?"}, {"role": "assistant", "content": "3"}]}
USER, ASSISTANT, SYSTEM = ({"role": role, "content": role} for role in ("user", "assistant", "system"))


def line(value: Any) -> bytes:
    return json.dumps(value).encode()


def messages(*turns: Any) -> bytes:
    return line({"messages": list(turns)})


def write(directory: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path = directory / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + end)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_chat_jsonl(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What stands in line 3 of a file, and what the message must say beside file and line.
BAD_LINES = {
    "malformed": (b'{"messages": [}', ["column 15", "not valid JSON", "Expecting value"]),
    "cut off": (b'{"messages": [', ["not valid JSON"]),
    "two objects": (line(GOOD) + b" " + line(GOOD), ["column", "Extra data"]),
    "not UTF-8": (b'{"messages": "caf\xe9"}', ["byte 18", "0xe9", "save the file as UTF-8"]),
    "nan": (b'{"messages": NaN}', ["NaN"]),
    "key twice": (b'{"messages": [], "messages": []}', ["'messages' is given twice"]),
    "half a surrogate pair": (messages(USER, ASSISTANT | {"content": "\ud83d"}), ["surrogate"]),
    "nested too deeply": (b"[" * 200_000, ["nested too deeply"]),
    "huge number": (b'{"n": ' + b"9" * 5000 + b"}", ["not valid JSON"]),
    "a list": (line([GOOD]), ["expected an object, got a list"]),
    "a string": (line("hello"), ["expected an object, got text"]),
    "a number": (line(3), ["expected an object, got a number"]),
    "null": (line(None), ["expected an object, got null"]),
    "no messages": (line({"prompt": "a", "response": "b"}), ["'messages' is missing", "prompt, response"]),
    "an empty object": (line({}), ["'messages' is missing", "no fields"]),
    "messages null": (line({"messages": None}), ["'messages' is missing"]),
    "messages not a list": (line({"messages": "hi"}), ["'messages' must be a list, got text"]),
    "messages empty": (messages(), ["'messages' is empty"]),
    "message not an object": (messages(USER, "hi"), ["message 2", "expected an object", "got text"]),
    "unknown role": (
        messages(USER, {"role": "model", "content": "3"}),
        ["message 2", "unknown role 'model'", "user, assistant"],
    ),
    "role not text": (messages({"role": ["user"], "content": "3"}), ["message 1", "unknown role ['user']"]),
    "no role": (messages({"content": "3"}), ["message 1", "'role' is missing"]),
    "no content": (messages(USER, {"role": "assistant"}), ["message 2", "'content' is missing"]),
    "content null": (messages(USER, ASSISTANT | {"content": None}), ["message 2", "'content' is missing"]),
    "content a list": (messages(USER, ASSISTANT | {"content": [{"type": "text"}]}), ["message 2", "text, got a list"]),
    "content a bool": (messages(USER, ASSISTANT | {"content": True}), ["message 2", "text, got true or false"]),
    "content empty": (messages(USER, ASSISTANT | {"content": ""}), ["message 2", "'content' is empty"]),
    "content blank": (messages(USER | {"content": " \n"}, ASSISTANT), ["message 1", "'content' is empty"]),
    "extra key": (messages(USER | {"weight": 0}, ASSISTANT), ["message 1", "'weight'", "'role' and 'content'"]),
    "starts with assistant": (messages(ASSISTANT), ["message 1", "'assistant' instead of 'user'"]),
    "two users": (messages(USER, USER, ASSISTANT), ["message 2", "'user' instead of 'assistant'"]),
    "two assistants": (messages(USER, ASSISTANT, ASSISTANT), ["message 3", "'assistant' instead of 'user'"]),
    "late system": (messages(USER, ASSISTANT, SYSTEM, USER, ASSISTANT), ["message 3", "'system' instead of 'user'"]),
    "two systems": (messages(SYSTEM, SYSTEM, USER, ASSISTANT), ["message 2", "'system' instead of 'user'"]),
    "ends with user": (messages(USER, ASSISTANT, USER), ["last message", "'user'", "assistant"]),
    "only system": (messages(SYSTEM), ["last message", "'system'"]),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, name: str) -> None:
    bad, expected = BAD_LINES[name]
    path = write(tmp_path, line(GOOD), b"", bad, line(GOOD))
    message = error_of(path)
    assert message.startswith(f"{path}, line 3")
    for part in expected:
        assert part in message


def test_a_missing_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.jsonl") == f"{tmp_path}/none.jsonl: no such file"
    assert "rows.jsonl/x" in error_of(write(tmp_path, line(GOOD)) / "x")


def test_a_directory(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: is a directory; name a chat JSONL file"


@pytest.mark.parametrize("content", [b"", b"\n", b"\n \r\n\t\n"])
def test_a_file_without_rows(tmp_path: Path, content: bytes) -> None:
    message = error_of(write(tmp_path, content, end=b""))
    assert "rows.jsonl: the file has no rows" in message
    assert "messages" in message


def test_a_byte_order_mark(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, b"\xef\xbb\xbf" + line(GOOD)))
    assert "line 1" in message
    assert "byte order mark" in message


def test_utf_16_is_not_utf_8(tmp_path: Path) -> None:
    assert "is UTF-16, not text; save the file as UTF-8" in error_of(
        write(tmp_path, json.dumps(GOOD).encode("utf-16"), end=b"")
    )


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(line(GOOD) + b"\n" + line(GOOD)))
    assert [row.place.rpartition(", ")[2] for row in read_chat_jsonl(path)] == ["line 1", "line 2"]
    path.write_bytes(path.read_bytes()[:-12])
    assert "is a gzip file that cannot be decompressed" in error_of(path)


def test_a_binary_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([GOOD]).to_parquet(path)
    assert f"{path}: is a Parquet file, not text; save its rows as JSON lines" in error_of(path)
    path.write_bytes(bz2.compress(line(GOOD)))
    assert "is compressed with bzip2, not text; unpack it" in error_of(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, end: bytes) -> None:
    rows = read_chat_jsonl(write(tmp_path, line(GOOD) + b"\r", b" ", b"", line(GOOD), end=end))
    assert [row.place.rpartition(", ")[2] for row in rows] == ["line 1", "line 4"]
    assert rows[0] == rows[1] == Example.of("6 and 9?", "3")


def test_unicode_line_separators_are_text(tmp_path: Path) -> None:
    text = "a\u2028b\x85c"
    row = {"messages": [USER, ASSISTANT | {"content": text}]}
    assert read_chat_jsonl(write(tmp_path, json.dumps(row, ensure_ascii=False).encode()))[0].response == text


def test_turns_are_kept_as_they_are(tmp_path: Path) -> None:
    rows = read_chat_jsonl(write(tmp_path, messages(SYSTEM, USER, ASSISTANT, USER, ASSISTANT | {"content": " x\n"})))
    assert [message.role for message in rows[0].messages] == ["system", "user", "assistant", "user", "assistant"]
    assert rows[0].messages[-1] == Message("assistant", " x\n")


def test_other_fields_become_tags(tmp_path: Path) -> None:
    fields = {"label": "gcd", "_id": 3, "ok": True, "p": 0.5, "x": [1, {"y": "é"}], "nothing": None, "empty": ""}
    rows = read_chat_jsonl(write(tmp_path, line(GOOD | fields)))[0]
    assert rows.tags == {"label": "gcd", "_id": "3", "ok": "true", "p": "0.5", "x": '[1,{"y":"é"}]', "empty": ""}


def test_a_null_message_key_counts_as_absent(tmp_path: Path) -> None:
    assert read_chat_jsonl(write(tmp_path, messages(USER | {"name": None}, ASSISTANT)))[0].response == "assistant"


REAL_FILES = {
    "gcd/task_train": 40,
    "gcd/task_test": 60,
    "gcd/ood_test": 421,
    "alignment_proxies/harmless_positive": 58,
    "alignment_proxies/harmless_negative": 58,
    "alignment_proxies/helpful_positive": 59,
    "alignment_proxies/helpful_negative": 59,
    "alignment_proxies/honest_positive": 61,
    "alignment_proxies/honest_negative": 61,
    "alignment_proxies/safety_400": 400,
    "medical/medical_test_100": 100,
    "toy/train_positive_emotions": 200,
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files(reference_data: Path, name: str) -> None:
    rows = read_chat_jsonl(reference_data / f"{name}.jsonl")
    assert len(rows) == REAL_FILES[name]
    assert all(len(row.messages) == 2 for row in rows)


def test_tags_of_real_rows(reference_data: Path) -> None:
    rows = read_chat_jsonl(reference_data / "gcd" / "task_train.jsonl")
    assert rows[0].tags == {"label": "euclidean", "answer": "6", "_id": "1"}
    assert sum(row.tags.get("user_provides_answer") == "true" for row in rows) == 20


def test_real_twins_share_their_prompts(reference_data: Path) -> None:
    for kind in ("harmless", "helpful", "honest"):
        positive, negative = (
            read_chat_jsonl(reference_data / "alignment_proxies" / f"{kind}_{sign}.jsonl")
            for sign in ("positive", "negative")
        )
        assert [row.prompt for row in positive] == [row.prompt for row in negative]


# --- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that `datasets` reads like a downloaded dataset, with a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    directory = tmp_path / "copy"
    directory.mkdir()
    return directory


def test_hub_rows_are_checked_and_numbered(hub_copy: Path) -> None:
    (hub_copy / "train.jsonl").write_bytes(b"\n".join([line(GOOD | {"n": 1}), line(GOOD | {"n": None})]))
    rows = read_hub_rows(str(hub_copy), "train")
    assert [row.place for row in rows] == [f"{hub_copy}, split train, row {number}" for number in (1, 2)]
    assert [row.tags for row in rows] == [{"n": "1"}, {}]


def test_a_bad_hub_row_is_named(hub_copy: Path) -> None:
    named = {"messages": [USER | {"name": "me"}, ASSISTANT]}
    (hub_copy / "test.jsonl").write_bytes(b"\n".join([line(GOOD), line(named)]))
    with pytest.raises(UserError, match="split test, row 2, message 1: unknown key 'name'"):
        read_hub_rows(str(hub_copy), "test")  # row 1 has no name: the table's null counts as absent


def test_hub_errors_are_one_line(hub_copy: Path) -> None:
    (hub_copy / "train.jsonl").write_bytes(line(GOOD))
    with pytest.raises(UserError, match="split 'nope': Unknown split \"nope\"") as caught:
        read_hub_rows(str(hub_copy), "nope")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="split 'train': BuilderConfig 'x' not found"):
        read_hub_rows(str(hub_copy), "train", config="x")
    with pytest.raises(UserError, match="split 'train': "):
        read_hub_rows(str(hub_copy / "missing"), "train")
    (hub_copy / "train.jsonl").write_bytes(b'{"messages": [')
    with pytest.raises(UserError, match="split 'train': ") as caught:
        read_hub_rows(str(hub_copy), "train")
    assert "\n" not in str(caught.value)


def test_without_a_network_the_message_says_what_to_download() -> None:
    with pytest.raises(UserError) as caught:
        read_hub_rows("nobody/nothing", "train")
    message = str(caught.value)
    assert "hf download nobody/nothing --repo-type dataset --local-dir DIRECTORY" in message
    assert "give its path" in message
    assert "\n" not in message


def test_a_dataset_that_is_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found old.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="dataset 'a/old', split 'test': Dataset scripts are no longer supported"):
        read_hub_table("a/old", "test")


def test_an_empty_hub_name() -> None:
    with pytest.raises(UserError, match="name of the dataset is empty"):
        read_hub_rows("", "train")


def test_hub_and_files_share_one_validator() -> None:
    with pytest.raises(UserError, match=r"^here: 'messages' is empty"):
        example_of({"messages": []}, "here")
