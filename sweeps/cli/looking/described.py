"""Tables whose last column is a description: beside its row on a wide terminal, below it on a narrow one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweeps.cli.tables import table_of

READABLE = 40  # columns: a description with less room goes below its row
WIDEST = 30  # columns of another cell, beside which a description must have room
GAP = 2  # columns on either side of a cell
INDENT = 6  # columns before a description below its row


def show_described(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the last of which describes its row in words."""
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    taken = sum(min(width, WIDEST) + 2 * GAP for width in widths[:-1]) + 2 * GAP
    if console.width - taken < min(READABLE, widths[-1]):
        _show_below(console, title, columns, rows, widths[:-1])
        return
    table = table_of(*columns, title=title)
    for column in table.columns[1:-1]:
        column.max_width = WIDEST
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _show_below(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> None:
    """Print each row's description below the row."""
    room = console.width - sum(width + 2 * GAP for width in widths[:-1]) - 2 * GAP
    widths = (*widths[:-1], max(1, min(widths[-1], room)))
    console.print(Text(title, style="table.title"))
    console.print(_aligned([Text(column, style="table.header") for column in columns[:-1]], widths))
    for *cells, description in rows:
        console.print(_aligned([Text(cell) for cell in cells], widths))
        console.print(Padding(Text(description), (0, GAP, 0, INDENT)))


def _aligned(cells: Sequence[Text], widths: Sequence[int]) -> Table:
    """Return one row of a table with these widths."""
    table = Table(box=None, padding=(0, GAP), show_header=False)
    for width in widths:
        table.add_column(width=width, overflow="fold")
    table.add_row(*cells)
    return table
