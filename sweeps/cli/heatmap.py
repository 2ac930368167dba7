"""Scores of a sweep side by side: printed, and drawn as a heat map."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.figures.heatmap import build_grid, save_heatmap
from analysis.statistics.arrays import number_text
from sweeps.cli.say import Say
from sweeps.find import name_of
from sweeps.results.readers import open_sweep

NUMBER = len("0.00")  # a narrow terminal folds names, and no number


def draw(
    sweep: str,
    scores: str,
    figure: Path | None,
    method: str | None,
    output: Path,
    tracking_uri: str | None,
    console: Console,
) -> None:
    """Print the grid of a sweep, and draw it where a figure is wanted. Raise UserError.

    Args:
        sweep: its name or file.
        scores, method: see `analysis.figures.heatmap.build_grid`.
        figure: file to draw to.
        output, tracking_uri: where the sweep is, see `open_sweep`.
    """
    name = name_of(sweep)
    reader = open_sweep(name, output, tracking_uri)
    records = reader.load_records()
    base_scores = reader.load().base_scores if len(records) == 1 else None
    grid = build_grid(records, scores, method, base_scores)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in grid.columns:
        table.add_column(column, min_width=NUMBER, overflow="fold", justify="right")
    for row, means in zip(grid.rows, grid.mean_RC, strict=True):
        table.add_row(row, *(number_text(mean, 2) for mean in means))
    console.print(table)
    if figure:
        save_heatmap(figure, grid, name)
        Say(console).wrote(figure)
