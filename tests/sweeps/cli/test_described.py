"""A description stands beside its row if the terminal has room for it, and below its row if not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeps.cli.looking.described import show_described

COLUMNS = ("option", "default", "what")
WORDS = "how many of the rows to read, in their order, before the others are left out"


def shown(width: int, *rows: tuple[str, str, str]) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show_described(console, "options", COLUMNS, rows)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [65, 120])
def test_beside_the_row_where_forty_columns_are_left(width: int) -> None:
    lines = shown(width, ("rows", "[1]", WORDS))
    assert lines[1] == "  option    default    what"
    assert lines[2].startswith("  rows      [1]        how many of the rows to read")
    assert len(lines) == (4 if width == 65 else 3)


def test_below_the_row_otherwise() -> None:
    assert shown(60, ("rows", "[1]", WORDS), ("seed", "0", "of rows")) == [
        "options",
        "  option    default",
        "  rows      [1]",
        "      how many of the rows to read, in their order, before",
        "      the others are left out",
        "  seed      0",
        "      of rows",
    ]


def test_short_descriptions_stay_beside_their_rows() -> None:
    assert shown(40, ("seed", "0", "of rows"))[2] == "  seed      0          of rows"


def test_a_long_cell_is_wrapped_and_leaves_forty_columns_to_the_description() -> None:
    long = "a default of many words " * 3
    for width in (60, 90):
        lines = shown(width, ("rows", long, WORDS))
        assert max(map(len, lines)) <= width
        assert " ".join(" ".join(lines).split()).count("default") == 4, "with the heading"
    assert lines[2].endswith("how many of the rows to read, in their")


def test_no_rows_are_a_table_of_headings() -> None:
    assert shown(80)[1:] == ["  option    default    what"]
