"""The rows of a file: JSON lines, a JSON list, CSV, TSV or Parquet; and of a data set on the Hub.

Each row is an object with its place ("rows.csv, line 3"), as `settings.rows.shapes` reads it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from settings.common.errors import UserError
from settings.common.files import absolute_path
from settings.sources import read_json, read_json_lines, read_text

PARQUET = b"PAR1"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
BATCH = 1024


def rows_of(path: str | Path) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a file, in order, each with its place. Gzipped text is decompressed.

    Raises:
        UserError: a file that cannot be read, or has no rows. The message names the file, and the line or row.
    """
    suffixes = [suffix.casefold() for suffix in Path(path).suffixes if suffix.casefold() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if _starts_with(path, PARQUET):
        yield from _parquet_rows(path)
    elif suffix in DELIMITERS:
        yield from _table_rows(path, DELIMITERS[suffix])
    elif suffix == ".json" and read_text(path).lstrip()[:1] == "[":
        yield from _listed_rows(path)
    else:
        yield from read_json_lines(path)


def _starts_with(path: str | Path, start: bytes) -> bool:
    try:
        with absolute_path(path).open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False  # reading it will say what is wrong


def _listed_rows(path: str | Path) -> Iterator[tuple[Any, str]]:
    rows = read_json(path)
    if not rows:
        _refuse(path, "the list has no rows")
    yield from ((row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))


def _table_rows(path: str | Path, delimiter: str) -> Iterator[tuple[Mapping[str, str | None], str]]:
    """Yield the rows of a table with a header. An empty cell becomes None, so the field counts as absent."""
    reader = csv.reader(
        io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True
    )
    try:
        header = next(reader, [])
        repeated = next((name for name in header if header.count(name) > 1), None)
        if repeated is not None:
            _refuse(path, f"two columns are called {repeated!r}")
        number, line = 0, reader.line_num + 1
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                _refuse(where, f"{len(cells)} cells, but the header has {len(header)}")
            number += 1
            yield {name: cell or None for name, cell in zip(header, cells, strict=True)}, where
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    if not number:
        _refuse(path, "the table has no rows")


def _parquet_rows(path: str | Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(absolute_path(path)) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}, row {number}"
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: a Parquet file that cannot be read: {str(error).splitlines()[0]}") from error
    if not number:
        _refuse(path, "the table has no rows")


def _refuse(where: str | Path, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")
