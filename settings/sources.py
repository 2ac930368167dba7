"""Chat rows from files and from the Hub, checked one by one.

A row is an object with `messages`, a list of `{"role": ..., "content": ...}`:

    {"messages": [{"role": "user", "content": "GCD of 6, 9?"}, {"role": "assistant", "content": "3"}], "label": "gcd"}

Roles go [system,] user, assistant, user, ..., assistant; the last message is the response to learn. Every other field
becomes a tag, as text: a string unchanged, anything else as its JSON (`3`, `true`, `[1,2]`). A field or message key
that is null counts as absent. Every mistake raises a one-line UserError that names the row.
"""

from __future__ import annotations

import gzip
import json
import textwrap
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from settings.common.errors import MissingFileError, UserError
from settings.example import Example, Message
from settings.model_files import LFS_POINTER

ROLES = ("system", "user", "assistant")
MESSAGE_KEYS = ("role", "content")
ORDER = "roles go [system,] user, assistant, user, ..., assistant"
ROW_FORMAT = 'each line must be one object like {"messages": [{"role": "user", "content": "..."}, ...]}'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
_UNPACK, _TO_JSON = "unpack it", "save its rows as JSON lines (`datasets` and pandas do that with `to_json`)"
BINARY: Mapping[bytes, tuple[str, str]] = {  # how a file starts -> what it is, and what to do
    b"PAR1": ("a Parquet file", _TO_JSON),
    b"ARROW1": ("an Arrow file", _TO_JSON),
    b"\xff\xff\xff\xff": ("an Arrow stream", _TO_JSON),
    b"Obj\x01": ("an Avro file", _TO_JSON),
    b"SQLite format 3": ("an SQLite database", _TO_JSON),
    b"PK\x03\x04": ("a zip archive or an Excel file", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", _UNPACK),
    b"BZh": ("compressed with bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed with xz", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"%PDF": ("a PDF", _TO_JSON),
    b"\x80\x04": ("a Python pickle", _TO_JSON),
    b"\xff\xfe": ("UTF-16", "save the file as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save the file as UTF-8"),
    LFS_POINTER: ("a git-lfs pointer", "run `git lfs pull` in its repository"),
}


def read_chat_jsonl(path: str | Path) -> tuple[Example, ...]:
    """Read the rows of a chat JSONL file, in order; each records its line.

    Raises:
        UserError: see `read_json_lines`, or a line that is not a chat row. The message names the file and the line.
    """
    return tuple(example_of(value, where) for value, where in read_json_lines(path))


def read_json_lines(path: str | Path) -> Iterator[tuple[Any, str]]:
    """Yield the values of a JSONL file, in order, each with its place ("data/task.jsonl, line 3").

    Blank lines are skipped, but count in line numbers, as in editors. A line ends with a line feed, with or without a
    carriage return before it; other Unicode line separators belong to the text.

    Raises:
        UserError: no such file, a directory, not UTF-8, a byte order mark, no rows, or a line that is not JSON. The
            message names the file and the line, numbered from 1.
    """
    content = _read_bytes(path)
    if content.startswith(BYTE_ORDER_MARK):
        raise UserError(f"{path}, line 1: starts with a byte order mark; save the file as UTF-8 without BOM")
    has_rows = False
    for number, line in enumerate(content.split(b"\n"), start=1):
        where = f"{path}, line {number}"
        text = _decode(line, where)
        if text.strip():
            has_rows = True
            yield _parse(text, where), where
    if not has_rows:
        raise UserError(f"{path}: the file has no rows; {ROW_FORMAT}")


def read_json(path: str | Path) -> Any:
    """Read the value of a JSON file. Raise UserError, naming the file."""
    return _parse(read_text(path), str(path), "the file must be one JSON value")


def read_text(path: str | Path) -> str:
    """Read a text file. Raise UserError, naming the file: no such file, a directory, or not UTF-8."""
    return _decode(_read_bytes(path), str(path))


def read_hub_rows(
    dataset_id: str, split: str, *, config: str | None = None, revision: str | None = None
) -> tuple[Example, ...]:
    """Read the rows of a split of a dataset on the Hub, in order; each records its row number.

    Args:
        dataset_id: "owner/name", or a directory with a copy of the dataset.
        split: e.g. "train", or "train[:1000]".
        config: name of the configuration, for a dataset that has several.
        revision: branch, tag or commit.

    Raises:
        UserError: the dataset cannot be reached or read, or has no such split, or a row is not a chat row. The message
            names the dataset and the row, numbered from 1.
    """
    table = read_hub_table(dataset_id, split, config=config, revision=revision)
    return tuple(example_of(row, where) for row, where in table)


def read_hub_table(
    dataset_id: str,
    split: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    folder: str | None = None,
) -> tuple[tuple[Mapping[str, Any], str], ...]:
    """Read a split of any dataset on the Hub, in order, each row with its place ("owner/name, split test, row 3").

    Args:
        dataset_id, split, config, revision: see `read_hub_rows`.
        folder: read only the files in this folder of the dataset's repository.

    Raises:
        UserError: the dataset cannot be reached or read, has no such split, or no rows.
    """
    import datasets

    if not dataset_id:
        raise UserError("the name of the dataset is empty; give owner/name, or a directory")
    try:
        table = datasets.load_dataset(dataset_id, config, data_dir=folder, split=split, revision=revision)
    except ConnectionError as error:
        raise UserError(_unreachable(dataset_id, revision, datasets.config.HF_CACHE_HOME)) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"dataset {dataset_id!r}, split {split!r}: {_one_line(error)}") from error
    name = "/".join(filter(None, (dataset_id, folder)))
    if not len(table):
        raise UserError(f"{name}, split {split}: no rows")
    return tuple((row, f"{name}, split {split}, row {number}") for number, row in enumerate(table, start=1))


def example_of(row: Any, where: str) -> Example:
    """Check one row and turn it into an Example with that place. Raise a UserError that starts with `where`."""
    if not isinstance(row, Mapping):
        _refuse(where, f"expected an object, got {_kind(row)}; {ROW_FORMAT}")
    messages = row.get("messages")
    if messages is None:
        fields = ", ".join(map(str, row)) or "no fields"
        _refuse(where, f"the field 'messages' is missing (found {fields}); {ROW_FORMAT}")
    if not isinstance(messages, list | tuple):
        _refuse(where, f"'messages' must be a list, got {_kind(messages)}")
    if not messages:
        _refuse(where, f"'messages' is empty; {ORDER}")
    checked = tuple(_message(message, f"{where}, message {index}") for index, message in enumerate(messages, start=1))
    _check_order(checked, where)
    tags = {str(name): _tag(value) for name, value in row.items() if name != "messages" and value is not None}
    return Example(checked, tags, where)


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        _refuse(where, f"expected an object with 'role' and 'content', got {_kind(message)}")
    present = {key: value for key, value in message.items() if value is not None}
    for key in MESSAGE_KEYS:
        if key not in present:
            _refuse(where, f"{key!r} is missing")
    for key in present:
        if key not in MESSAGE_KEYS:
            _refuse(where, f"unknown key {key!r}; a message has 'role' and 'content'")
    role, content = present["role"], present["content"]
    if role not in ROLES:
        _refuse(where, f"unknown role {role!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(content, str):
        _refuse(where, f"'content' must be text, got {_kind(content)}")
    if not content.strip():
        _refuse(where, "'content' is empty")
    return Message(role, content)


def _check_order(messages: tuple[Message, ...], where: str) -> None:
    start = 1 if messages[0].role == "system" else 0
    for index, message in enumerate(messages[start:]):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            _refuse(f"{where}, message {start + index + 1}", f"role {message.role!r} instead of {expected!r}; {ORDER}")
    if messages[-1].role != "assistant":
        _refuse(where, f"the last message has role {messages[-1].role!r}, it must be the assistant's; {ORDER}")


def _tag(value: Any) -> str:
    """Return the value of a row's field as text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _read_bytes(path: str | Path) -> bytes:
    """Return a file's bytes, decompressed if gzipped. Raise UserError for a file that is not text."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(path) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a directory; name a chat JSONL file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: is a gzip file that cannot be decompressed: {error}") from error
    for start, (kind, remedy) in BINARY.items():
        if content.startswith(start):
            raise UserError(f"{path}: is {kind}, not text; {remedy}")
    return content


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, column = line[error.start], error.start + 1
        raise UserError(f"{where}: byte {column} (0x{byte:02x}) is not UTF-8; save the file as UTF-8") from error


def _parse(text: str, where: str, form: str = ROW_FORMAT) -> Any:
    """Parse JSON more strictly than `json` does: no NaN, no repeated key, no half of a surrogate pair."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, {_place(error)}: not valid JSON: {error.msg}; {form}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: not valid JSON: half of a surrogate pair is not a character") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply; {form}") from error
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    return value


def _place(error: json.JSONDecodeError) -> str:
    return f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unreachable(dataset_id: str, revision: str | None, cache: Any) -> str:
    version = f" --revision {revision}" if revision else ""
    return (
        f"dataset {dataset_id!r} is neither in the cache ({cache}) nor reachable; on a machine with a network, run"
        f" `hf download {dataset_id} --repo-type dataset{version} --local-dir DIRECTORY`, copy DIRECTORY here and give"
        " its path in place of the name"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(error: BaseException) -> str:
    """Return the message of an error's innermost cause, where `datasets` puts the reason, on one line."""
    innermost = list(_causes(error))[-1]
    return textwrap.shorten(str(innermost) or type(innermost).__name__, width=300, placeholder=" ...")


def _refuse(where: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")


def _kind(value: Any) -> str:
    """Return a JSON value's type in words."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
