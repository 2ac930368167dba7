"""Where a setting's rows come from: a file, or a split of a data set on the Hub, with its columns.

    task="rows.csv"
    task={"file": "rows.parquet", "columns": {"prompt": "question", "completion": "best_answer"}}
    task={"dataset": "owner/name", "split": "train[:1000]", "config": "main", "revision": "a1b2c3"}

`columns` maps names that `settings.rows.shapes` knows to the file's own: known name -> column of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from settings.common import checks
from settings.common.errors import UserError, did_you_mean
from settings.common.files import absolute_path
from settings.example import Example
from settings.options import Absolute
from settings.rows.columns import check_columns
from settings.rows.shapes import FIELDS, chat_row
from settings.rows.tables import rows_of
from settings.sources import example_of, read_hub_table

RowSource = Annotated[str | Mapping[str, Any], Absolute(lambda path: str(absolute_path(path)))]
"""A file of rows, or a mapping as in this module's examples."""

MAY_BE_LEFT_OUT = ("system", "input")  # fields that single rows may lack
KEYS = {"file": ("file", "columns"), "dataset": ("dataset", "split", "config", "revision", "columns")}


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source.

    Attributes:
        examples: the rows, in order, each with its place. Replies that are not preferred are alternatives.
        name: name of the source, e.g. "/data/rows.csv" or "owner/name, split train".
        read_from: fields that rows were read from -> number of rows; chats are not counted.
    """

    examples: tuple[Example, ...]
    name: str
    read_from: Mapping[str, int]

    @property
    def good(self) -> tuple[Example, ...]:
        """The rows with only their preferred replies."""
        return tuple(replace(row, alternatives=()) for row in self.examples)

    @property
    def remark(self) -> str:
        """One line on what was converted; "" if all rows were chats."""
        counts = [f"{number} row{'s' * (number != 1)} from {fields}" for fields, number in self.read_from.items()]
        return f"{Path(self.name).name}: read {', '.join(counts)}" if counts else ""


def read_source(option: str, source: Any) -> SourceRows:
    """Read the rows of an option.

    Raises:
        UserError: an invalid source, a file that cannot be read, or a row without an obvious reading. The message names
            the option, or the file and the line.
    """
    rows, name = raw_rows(option, source, FIELDS)
    examples, read_from = [], Counter[str]()
    for row, where in rows:
        chat = chat_row(row, where)
        example = example_of(chat.fields, where)
        examples.append(replace(example, alternatives=chat.alternatives) if chat.alternatives else example)
        if chat.read_from:
            read_from[chat.read_from] += 1
    return SourceRows(tuple(examples), name, dict(read_from))


def raw_rows(option: str, source: Any, fields: Sequence[str]) -> tuple[Iterable[tuple[Any, str]], str]:
    """Return the rows of a source, each with its place, with columns renamed to known fields, and the source's name.

    Args:
        fields: what `columns` may map.

    Raises:
        UserError: an invalid source, or a file that cannot be read. The rows raise it for columns that they lack.
    """
    if isinstance(source, str | Path) and str(source):
        return rows_of(source), str(absolute_path(source))
    if not isinstance(source, Mapping) or not source:
        raise UserError(f"option {option!r} must be the path of a file of rows, or {_FORM}, got {source!r}")
    kind = next((key for key in KEYS if key in source), None)
    if kind is None:
        raise UserError(f"option {option!r} must be {_FORM}, got {dict(source)!r}")
    for key in source:
        if key not in KEYS[kind]:
            hint = did_you_mean(str(key), KEYS[kind])
            raise UserError(f"option {option!r}: unknown key {key!r}{hint}; it must be {_FORM}")
    for key in source.keys() - {"columns"}:
        checks.text(f"option {option!r}: {key!r}", source[key])
    columns = check_columns(option, source.get("columns") or {}, fields)
    if kind == "file":
        return _renamed(rows_of(source["file"]), columns), str(absolute_path(source["file"]))
    if "split" not in source:
        raise UserError(f'option {option!r}: a data set needs \'split\', e.g. "train" or "train[:1000]"')
    name, split = source["dataset"], source["split"]
    table = read_hub_table(name, split, config=source.get("config"), revision=source.get("revision"))
    return _renamed(table, columns), f"{name}, split {split}"


_FORM = (
    'like {"file": ..., "columns": {"prompt": "question", ...}} or'
    ' {"dataset": "owner/name", "split": "train", "config": ..., "revision": ..., "columns": ...}'
)


def _renamed(rows: Iterable[tuple[Any, str]], columns: Mapping[str, str]) -> Iterator[tuple[Any, str]]:
    """Rename columns to the known names.

    Raise UserError if a row lacks one of the columns, or if all rows lack a column that single rows may lack.
    """
    known = {theirs: name for name, theirs in columns.items()}
    if len(known) < len(columns):
        twice = next(theirs for theirs in known if list(columns.values()).count(theirs) > 1)
        raise UserError(f"'columns' gives {twice!r} two names")
    unseen, place = {theirs for theirs, name in known.items() if name in MAY_BE_LEFT_OUT}, ""
    for row, where in rows:
        place = where
        if known and isinstance(row, Mapping):
            unseen -= row.keys()
            lacking = (theirs for theirs, name in known.items() if theirs not in row and name not in MAY_BE_LEFT_OUT)
            missing = next(lacking, None)
            if missing is not None:
                raise UserError(f"{where}: no column {missing!r} (found {', '.join(map(str, row)) or 'none'})")
            taken = next((name for name in columns if name in row and name not in known), None)
            if taken is not None:
                raise UserError(f"{where}: 'columns' gives {columns[taken]!r} the name {taken!r} of another column")
            row = {known.get(name, name): value for name, value in row.items()}
        yield row, where
    if unseen and place:
        raise UserError(f"{place}: no row up to here has the column {min(unseen)!r}, which 'columns' names")
