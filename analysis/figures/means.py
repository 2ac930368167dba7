"""The means of a frontier figure, with their intervals, their seeds and the lines along knobs.

Bars lie below all means and are lighter. Means at the same place are drawn inside each other, and share a label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.figures.labels import Label
from analysis.figures.style import BARS, TEXT, Style, bar_alpha, darkened, tied_sizes
from analysis.findings.arms import MIX, control_of, is_plain
from analysis.findings.frontier import FrontierPoint, knob_of, varying_coefficients
from analysis.findings.ties import Entry, entries
from analysis.tables.scores import Objective, ScoreTable

CONTROL_LINES = (("checkpoint", (0, (1, 1.5))), ("scale", (0, (5, 1.5, 1, 1.5))), ("mix", (0, (6, 2))))
LINES, SEEDS, MEANS, FRONT = 2.0, 3.0, 5.0, 5.5  # drawing order
MOST_LINES = 4  # in the label of a tie


def place(point: FrontierPoint, objectives: Sequence[Objective]) -> tuple[float, float]:
    """Return where a mean lies in two objectives."""
    return point.scores[objectives[0].name].mean, point.scores[objectives[1].name].mean


def draw_means(axes: Axes, table: ScoreTable, points: Sequence[FrontierPoint], styles: Mapping[str, Style]) -> None:
    """Draw all points of a table of two objectives. A filled marker is on the front."""
    ids = {configuration.id: row for row, configuration in enumerate(table.configurations)}
    points = sorted(points, key=lambda point: ids[point.configuration])
    for method, style in styles.items():
        for curve, dashes in _curves([point for point in points if point.method == method]):
            line = np.array([place(point, table.objectives) for point in curve])
            axes.plot(
                line[:, 0],
                line[:, 1],
                color=style.colour,
                linestyle=dashes,
                linewidth=1.1,
                alpha=0.55,
                zorder=LINES,
            )
    for point in points:
        seeds = table.values_CSM[ids[point.configuration]]
        axes.plot(
            seeds[:, 0],
            seeds[:, 1],
            linestyle="none",
            marker="o",
            markersize=3,
            color=styles[point.method].colour,
            alpha=0.35,
            markeredgewidth=0,
            zorder=SEEDS,
        )
    for entry in entries(points):
        methods = list(dict.fromkeys(point.method for point in entry.members))
        _draw_bars(axes, entry, table.objectives, styles[methods[0]].colour if len(methods) == 1 else TEXT)
        _draw_markers(axes, entry, table.objectives, [styles[method] for method in methods])


def _draw_bars(axes: Axes, entry: Entry, objectives: Sequence[Objective], colour: str) -> None:
    x, y = place(entry.point, objectives)
    for axis, objective in enumerate(objectives):
        estimate = entry.point.scores[objective.name]
        if not math.isnan(estimate.low):
            ends = [estimate.low, estimate.high]
            where = (ends, [y, y]) if axis == 0 else ([x, x], ends)
            alpha = bar_alpha(entry.point.on_front)
            axes.plot(*where, color=colour, linewidth=1.0, alpha=alpha, zorder=BARS, solid_capstyle="butt", gid="bar")


def _draw_markers(axes: Axes, entry: Entry, objectives: Sequence[Objective], styles: Sequence[Style]) -> None:
    """Draw a marker for each method at the entry's place, the first one outermost."""
    x, y = place(entry.point, objectives)
    for number, (style, more) in enumerate(zip(styles, tied_sizes(len(styles)), strict=True)):
        axes.plot(
            x,
            y,
            marker=style.marker,
            markersize=style.size + more,
            color=style.colour if entry.point.on_front else "#FFFFFF",
            markeredgecolor="#FFFFFF" if entry.point.on_front and len(styles) > 1 else style.colour,
            markeredgewidth=0.6 if entry.point.on_front and len(styles) > 1 else 1.3,
            zorder=(FRONT if entry.point.on_front else MEANS) + 0.01 * number,
            gid="mean",
        )


def _curves(points: Sequence[FrontierPoint]) -> list[tuple[list[FrontierPoint], Any]]:
    """Return the lines through a method's points, each with its dash pattern.

    A method has one line, along its knob. Plain fine-tuning has one for each control, which ends at its full training.
    """
    if points and is_plain(points[0].method):
        full = [point for point in points if not point.label]
        lines = [
            (_in_order([point for point in points if control_of(point) == control], full, control), dashes)
            for control, dashes in CONTROL_LINES
        ]
        return [(line, dashes) for line, dashes in lines if len(line) > 1]
    return [(list(points), "-")] if knob_of(points) else []


def _in_order(points: list[FrontierPoint], full: list[FrontierPoint], control: str) -> list[FrontierPoint]:
    """Return a control's points with the full training at the end; a mix may go beyond that."""
    line = points + full
    return sorted(line, key=lambda point: float(point.coefficients.get(MIX, 1.0))) if control == "mix" else line


def labels_of(
    points: Sequence[FrontierPoint], objectives: Sequence[Objective], styles: Mapping[str, Style]
) -> list[Label]:
    """Return the labels of the points on the front: the knob's value, or one label that lists all that tie."""
    labels = []
    for entry in entries([point for point in points if point.on_front], [each.name for each in objectives]):
        methods = list(dict.fromkeys(point.method for point in entry.members))
        lines = [_line(entry, method, points, named=len(methods) > 1) for method in methods]
        text = "\n".join(lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            text += f"\nand {len(lines) - MOST_LINES} more methods"
        if len(methods) > 1:
            text = f"tie of {len(entry.members)}:\n{text}"
        colour = darkened(styles[methods[0]].colour) if len(methods) == 1 else TEXT
        short = f"{len(entry.members)} tie" if len(methods) > 1 else ""
        if text:
            labels.append(Label(text, *place(entry.point, objectives), colour, short))
    return labels


def _line(entry: Entry, method: str, points: Sequence[FrontierPoint], named: bool) -> str:
    """Return a method's line in an entry: its knob's values, or, if methods tie, its name and number of points."""
    members = [point for point in entry.members if point.method == method]
    texts = [text for text in (_short_label(point, points) for point in members) if text]
    if named or (len(members) > 1 and is_plain(method)):
        return f"{method} ({len(members)})" if len(members) > 1 else " ".join([method, *texts])
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}" if texts else ""


def _short_label(point: FrontierPoint, points: Sequence[FrontierPoint]) -> str:
    """Return the value of the varying coefficient, whose name is in the legend, e.g. "0.3".

    If several vary, name those that differ from their value in most of the method's points.
    """
    if is_plain(point.method):
        return point.label
    siblings = [sibling for sibling in points if sibling.method == point.method]
    knobs = varying_coefficients(siblings)
    if len(knobs) == 1:
        return _brief(point.coefficients.get(knobs[0], ""))
    usual = {name: Counter(str(each.coefficients.get(name)) for each in siblings).most_common(1)[0] for name in knobs}
    unusual = {
        name: point.coefficients[name]
        for name in knobs
        if name in point.coefficients
        and not (str(point.coefficients[name]) == usual[name][0] and 2 * usual[name][1] > len(siblings))
    }
    return ", ".join(f"{name}={_brief(value)}" for name, value in unusual.items())


def _brief(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
