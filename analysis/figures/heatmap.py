"""Heat map of a sweep: one score per column, and one row per setting, or per configuration where there are several.

It shows which scores each choice of proxy, or each method, changes.

Shape legend: R rows, C columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from analysis.figures.style import HEAT, check_format, method_styles, new_figure, save_figure
from analysis.findings.arms import is_plain
from analysis.statistics.arrays import Floats, Integers, mean, number_text, round_means
from analysis.tables.scores import Objective, TrialRecord, order_of
from settings.common.errors import UserError

CELL, MARGINS, DPI = (0.82, 0.34), (3.2, 1.5), 140  # inches
BASE = "base model"
LIGHT = 0.55  # share of the span of colours above which a cell is light
CHIP_PAD = 15.0  # points between the cells of a row and its name
FONT = {"small": 8.0, "title": 10.0}


@dataclass(frozen=True, eq=False)
class Grid:
    """Means over trials.

    Attributes:
        rows, columns: their labels. Columns are in the order in which trials list their scores, which is the
            setting's; a score that the first trial lacks comes last.
        mean_RC: nan where nothing was measured.
        count_RC: number of finished trials with the score.
        methods: method of each row; None if a row has several, or is the base model.
        sweep_methods: methods of the whole sweep, which decide how each is drawn.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    mean_RC: Floats
    count_RC: Integers
    methods: tuple[str | None, ...] = ()
    sweep_methods: tuple[str, ...] = ()


def build_grid(
    records: Mapping[str, Sequence[TrialRecord]],
    scores: str,
    method: str | None = None,
    base_scores: Mapping[str, float] | None = None,
    sweep_methods: Collection[str] = (),
    described: Mapping[str, Objective] | None = None,
) -> Grid:
    """Build the grid of a sweep: a row for each setting, or for each of its configurations.

    Rows are configurations if there is only one setting, or if one of several settings has several configurations.

    Args:
        records: setting label -> its trials.
        scores: regular expression that must match a score's whole name; its first group, if any, names the column.
        method: use only the trials of the configuration with this title, or else of this method; None means all.
        base_scores: scores of the untouched base model, shown as the first row if there is a single setting.
        sweep_methods: methods of the whole sweep, if it has more than `records`.
        described: score name -> score, whose better direction the column shows.

    Raises:
        UserError: no score matches; the expression is invalid; no such method; no trial has finished.
    """
    try:
        pattern = re.compile(scores)
    except re.error as error:
        raise UserError(f"option --scores: {scores!r} is not a regular expression: {error.msg}") from error
    chosen, described = _rows(_finished(records, method), base_scores or {}), described or {}
    if method and not any(chosen.values()):
        raise UserError(_lacking(records, method))
    names = list(dict.fromkeys(name for trials in chosen.values() for trial in trials for name in trial.scores))
    matches = {name: match for name in names if (match := pattern.fullmatch(name))}
    if not matches:
        raise UserError(f"option --scores: no score matches {scores!r}; there are {', '.join(names) or 'none'}")
    values = [
        [[trial.scores.get(name, math.nan) for trial in trials] for name in matches] for trials in chosen.values()
    ]
    return Grid(
        rows=tuple(chosen),
        columns=tuple(
            " ".join([match.group(1 if pattern.groups else 0), *([described[name].arrow] if name in described else [])])
            for name, match in matches.items()
        ),
        mean_RC=np.array([[mean([value for value in cell if math.isfinite(value)]) for cell in row] for row in values]),
        count_RC=np.array([[sum(map(math.isfinite, cell)) for cell in row] for row in values]),
        methods=tuple(_method_of(label, trials) for label, trials in chosen.items()),
        sweep_methods=tuple(
            sorted({*sweep_methods, *(trial.configuration.method for of_one in records.values() for trial in of_one)})
        ),
    )


def _finished(records: Mapping[str, Sequence[TrialRecord]], method: str | None) -> dict[str, list[TrialRecord]]:
    """Return the finished trials of each setting, of the configuration titled `method` or else of that method."""

    def of_title(trials: Iterable[TrialRecord]) -> bool:
        return any(trial.configuration.title == method for trial in trials)

    everywhere = of_title(trial for trials in records.values() for trial in trials)
    chosen = {}
    for label, trials in records.items():
        titled = of_title(trials) or (everywhere and is_plain(str(method)))  # "plain" is none of its readouts
        place = 1 if titled else 0
        chosen[label] = [each for each in trials if each.status == "finished" and method in (None, _names(each)[place])]
    return chosen


def _names(trial: TrialRecord) -> tuple[str, str]:
    """Return what a user may call a trial: its method, or the title of its configuration."""
    return trial.configuration.method, trial.configuration.title


def _lacking(records: Mapping[str, Sequence[TrialRecord]], method: str) -> str:
    """Say why there is no finished trial of a method."""
    trials = [trial for of_one in records.values() for trial in of_one]
    if any(method in _names(trial) for trial in trials):
        return f"no trial of {method!r} has finished"
    return f"no method {method!r}; the sweep has {', '.join(sorted({trial.configuration.method for trial in trials}))}"


def _rows(chosen: Mapping[str, list[TrialRecord]], base_scores: Mapping[str, float]) -> dict[str, list[TrialRecord]]:
    """Return label -> trials of each row."""
    if len(chosen) == 1:
        (trials,) = chosen.values()
        return _by_configuration(trials, base_scores)
    settings = dict(zip(short_labels(list(chosen)), chosen.values(), strict=True))
    if all(len({trial.configuration.title for trial in trials}) <= 1 for trials in settings.values()):
        return settings
    rows: dict[str, list[TrialRecord]] = {}
    for setting, trials in settings.items():
        of_one = {f"{setting}: {title}": of_title for title, of_title in _by_configuration(trials, {}).items()}
        rows |= of_one or {setting: trials}
    return rows


def _by_configuration(trials: Sequence[TrialRecord], base_scores: Mapping[str, float]) -> dict[str, list[TrialRecord]]:
    """Return title -> trials, in the usual order of methods and values, with the base model first."""
    rows: dict[str, list[TrialRecord]] = {}
    if base_scores and trials:
        rows[BASE] = [TrialRecord(trials[0].configuration, 0, "finished", base_scores)]
    ordered = sorted(trials, key=lambda trial: order_of(trial.configuration))
    for trial in ordered:
        rows.setdefault(trial.configuration.title, []).append(trial)
    return rows


def _method_of(label: str, trials: Sequence[TrialRecord]) -> str | None:
    methods = {trial.configuration.method for trial in trials}
    return methods.pop() if len(methods) == 1 and label != BASE else None


def short_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Drop the words that all labels share; keep the labels as they are if one of them would be left empty."""
    words_of = [label.split() for label in labels]
    common = set.intersection(*map(set, words_of)) if words_of else set()
    short = tuple(" ".join(word for word in words if word not in common) for words in words_of)
    return short if all(short) else tuple(labels)


def save_heatmap(path: Path, grid: Grid, title: str) -> None:
    """Draw the grid to a PNG, PDF or SVG file, with the number in each cell. Raise UserError.

    Colours span [0, 1]; those of a column with numbers beyond it, from its lowest to its highest.
    """
    check_format(path)
    figure = new_figure(CELL[0] * len(grid.columns) + MARGINS[0], CELL[1] * len(grid.rows) + MARGINS[1])
    axes = figure.add_subplot()
    colour_RC = shares_of_colours(grid.mean_RC)
    image = axes.imshow(colour_RC, cmap=HEAT, vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=30, ha="right", fontsize=FONT["small"])
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=FONT["small"])
    axes.tick_params(length=0)
    axes.tick_params(axis="y", pad=CHIP_PAD)
    axes.spines[:].set_visible(False)
    _mark_methods(axes, grid)
    for (row, column), value in np.ndenumerate(grid.mean_RC):
        colour = "black" if colour_RC[row, column] > LIGHT else "white"
        text = number_text(value, 2)
        axes.text(column, row, text, ha="center", va="center", fontsize=FONT["small"], color=colour)
    axes.set_title(f"{title} (means over {seeds_text(grid)})", fontsize=FONT["title"])
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.ax.tick_params(labelsize=FONT["small"])
    if not np.allclose(colour_RC, grid.mean_RC, equal_nan=True):
        bar.set_label("value; a column beyond [0, 1] runs from its lowest to its highest", fontsize=FONT["small"])
    save_figure(path, figure, DPI)


def shares_of_colours(mean_RC: Floats) -> Floats:
    """Return where in the span of colours each cell lies, in [0, 1]."""
    colour_RC = round_means(mean_RC)
    for column_R in colour_RC.T:
        measured = column_R[np.isfinite(column_R)]
        if len(measured) and not 0 <= measured.min() <= measured.max() <= 1:
            width = float(np.ptp(measured))
            column_R[:] = (column_R - measured.min()) / width if width else np.where(np.isfinite(column_R), 0.5, np.nan)
    return colour_RC


def seeds_text(grid: Grid) -> str:
    """Say how many seeds the means are of, e.g. "3 seeds" or "2 to 5 seeds"."""
    counts_RC = grid.count_RC[[row != BASE for row in grid.rows]]
    counts = np.unique(counts_RC[counts_RC > 0]).tolist() or [0]
    trials = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{trials} seed{'s' if trials != '1' else ''}"


def _mark_methods(axes: Axes, grid: Grid) -> None:
    """Draw the marker of each row's method, as in other figures, between the row and its name."""
    styles = method_styles(grid.sweep_methods)
    beside = offset_copy(axes.get_yaxis_transform(), axes.get_figure(root=True), x=-CHIP_PAD / 2 - 1, units="points")
    for row, method in enumerate(grid.methods):
        if method is not None:
            style = styles[method]
            axes.plot(
                0.0,
                row,
                marker=style.marker,
                markersize=style.size,
                color=style.colour,
                transform=beside,
                clip_on=False,
                gid=method,
            )
