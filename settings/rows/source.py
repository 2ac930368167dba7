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
from settings.rows.columns import FormError, as_the_file_names_them, check_columns, check_used, place_of
from settings.rows.shapes import FIELDS, FORMS, chat_row, prompt_row
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


def read_source(option: str, source: Any, only_prompts: bool = False) -> SourceRows:
    """Read the rows of an option.

    Args:
        option: its name, for messages.
        source: a file, or a mapping as in this module's examples.
        only_prompts: read no replies; those of the rows returned have no meaning.

    Raises:
        UserError: an invalid source, a file that cannot be read, or a row without an obvious reading. The message names
            the option, or the file and the line.
    """
    rows, name = raw_rows(option, source, FIELDS)
    columns = columns_of(source)
    examples, read_from = [], Counter[str]()
    with as_the_file_names_them(columns):
        for row, where in rows:
            chat = prompt_row(row, where, columns) if only_prompts else chat_row(row, where, columns)
            example = example_of(chat.fields, where)
            check_used(option, where, columns, example.tags, FORMS)
            examples.append(replace(example, alternatives=chat.alternatives) if chat.alternatives else example)
            if chat.read_from:
                read_from[chat.read_from] += 1
    return SourceRows(tuple(examples), name, dict(read_from))


def columns_of(source: Any) -> Mapping[str, str]:
    """Return the columns that a source maps, known field -> column."""
    return (source.get("columns") or {}) if isinstance(source, Mapping) else {}


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
    file = Path(source[kind]).name if kind == "file" else source[kind]
    columns = check_columns(place_of(option), source.get("columns") or {}, fields, file)
    if kind == "file":
        return _renamed(rows_of(source["file"]), columns, place_of(option)), str(absolute_path(source["file"]))
    if "split" not in source:
        raise UserError(f'option {option!r}: a data set needs \'split\', e.g. "train" or "train[:1000]"')
    name, split = source["dataset"], source["split"]
    table = read_hub_table(name, split, config=source.get("config"), revision=source.get("revision"))
    return _renamed(table, columns, place_of(option)), f"{name}, split {split}"


_FORM = (
    'like {"file": ..., "columns": {"prompt": "question", ...}} or'
    ' {"dataset": "owner/name", "split": "train", "config": ..., "revision": ..., "columns": ...}'
)


def _renamed(rows: Iterable[tuple[Any, str]], columns: Mapping[str, str], place: str) -> Iterator[tuple[Any, str]]:
    """Rename columns to the known names.

    Raise FormError if a row lacks one of the columns, or if all rows lack a column that single rows may lack.
    """
    known = {theirs: name for name, theirs in columns.items()}
    if len(known) < len(columns):
        twice = next(theirs for theirs in known if list(columns.values()).count(theirs) > 1)
        raise FormError(f"{twice!r} gets two names", {}, place)
    unseen, last = {theirs for theirs, name in known.items() if name in MAY_BE_LEFT_OUT}, ""
    for row, where in rows:
        last = where
        if known and isinstance(row, Mapping):
            unseen -= row.keys()
            lacking = (theirs for theirs, name in known.items() if theirs not in row and name not in MAY_BE_LEFT_OUT)
            missing = next(lacking, None)
            if missing is not None:
                listed = f"{did_you_mean(missing, map(str, row))}; it has {', '.join(map(str, row)) or 'none'}"
                if len(row) == 1 and ";" in str(next(iter(row))):
                    listed += " (is the file separated by semicolons? separate it by commas)"
                raise FormError(f"{where} has no column {missing!r}{listed}", {}, place)
            taken = next((name for name in columns if name in row and name not in known), None)
            if taken is not None:
                raise FormError(f"{where}: {columns[taken]!r} gets the name {taken!r} of another column", {}, place)
            row = {known.get(name, name): value for name, value in row.items()}
        yield row, where
    if unseen and last:
        raise FormError(f"{last}: no row up to here has the column {min(unseen)!r}", {}, place)
