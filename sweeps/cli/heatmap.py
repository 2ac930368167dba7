"""Scores of a sweep side by side: printed, and drawn as a heat map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.figures.heatmap import Grid, build_grid, save_heatmap, seeds_text
from analysis.findings.frontier_table import folded
from analysis.statistics.arrays import number_text
from sweeps.cli.say import Say
from sweeps.find import name_of
from sweeps.results.readers import open_sweep

COLUMN, NAMES, NAMES_SHARE = 11, 16, 0.4  # width of a score; least of a row's name; its most, of the line


def draw(
    sweep: str,
    scores: str,
    figure: Path | None,
    method: str | None,
    output: Path,
    tracking_uri: str | None,
    console: Console,
) -> None:
    """Print the grid of a sweep, and draw it if `figure` is given. Raise UserError.

    Args:
        sweep: its name or file.
        scores, method: see `analysis.figures.heatmap.build_grid`.
        figure: file to draw to.
        output, tracking_uri: where the sweep is, see `open_sweep`.
    """
    name = name_of(sweep)
    reader = open_sweep(name, output, tracking_uri)
    records = reader.load_records()
    loaded = reader.load(next(iter(records))) if records else None
    base_scores = loaded.base_scores if loaded and len(records) == 1 else None
    described = {each.name: each for each in loaded.objectives} | dict(loaded.scores) if loaded else {}
    grid = build_grid(records, scores, method, base_scores, loaded.table.drawn_methods if loaded else (), described)
    for number, table in enumerate(grid_tables(grid, console.width)):
        if number:
            console.print()
        console.print(table)
    Say(console).note(f"means over {seeds_text(grid)}")
    if figure:
        save_heatmap(figure, grid, name)
        Say(console).wrote(figure)


def grid_tables(grid: Grid, width: int) -> Iterator[Table]:
    """Yield the grid as stacked tables, each with as many columns as fit into `width` characters."""
    names = min(max(map(len, grid.rows)), max(NAMES, int(NAMES_SHARE * width)))
    each = max((width - names - 1) // (COLUMN + 1), 1)
    for start in range(0, len(grid.columns), each):
        columns = grid.columns[start : start + each]
        table = Table(box=None, padding=(0, 1, 0, 0))
        table.add_column("", width=names, overflow="fold")
        for column in columns:
            table.add_column(Text(folded(column, COLUMN)), width=COLUMN, justify="right", vertical="bottom")
        for row, means in zip(grid.rows, grid.mean_RC[:, start : start + each], strict=True):
            table.add_row(Text(row), *(number_text(mean, 2) for mean in means))
        yield table
