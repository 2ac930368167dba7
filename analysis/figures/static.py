"""Figures for print, drawn with Matplotlib: the frontier, the hypervolumes, and every method along its knob."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.answers import SIDE, wrapped
from analysis.figures.frontier import frontier_figure
from analysis.figures.style import (
    BARS,
    FONT,
    FRAME,
    GRID,
    LINE,
    Style,
    add_caption,
    bar_alpha,
    darkened,
    method_styles,
    new_figure,
    thin_frame,
)
from analysis.findings.arms import control_of
from analysis.findings.findings import Findings
from analysis.findings.frontier import FrontierPoint, knob_of
from analysis.findings.frontier_table import folded
from analysis.findings.named_points import NamedPoint
from analysis.findings.reading import read_findings
from analysis.statistics.bootstrap import Statistic
from analysis.statistics.compare import relative_to
from analysis.tables.scores import Objective

PANEL, COLUMNS = (2.5, 2.1), 3  # inches
LEGEND = 1.6  # inches, beside the panels
PANEL_TITLE, LEGEND_NAME = 26, 17  # characters
LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")  # one for each objective
FILLED = (True, False, True)  # whether an objective's markers are filled


def paper_figures(
    findings: Findings, base_scores: Mapping[str, float], title: str = "", named: Sequence[NamedPoint] = ()
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) for every figure that the findings allow; three objectives give three frontiers."""
    names = [objective.name for objective in findings.table.objectives]
    pairs = {2: [(0, 1)], 3: [(0, 1), (0, 2), (1, 2)]}.get(len(names), [])
    reading = read_findings(findings)
    for first, second in pairs:
        name = "frontier" if len(names) == 2 else f"frontier_{names[first]}_{names[second]}"
        pair = findings.table.select([names[first], names[second]])
        yield name, frontier_figure(pair, base_scores, title, named=named, reading=reading)
    if len(findings.hypervolumes) > 2:
        yield "hypervolume", hypervolume_figure(findings, title)
    if _knobs(findings):
        yield "knobs", knob_figure(findings, title)


def hypervolume_figure(findings: Findings, title: str = "") -> Figure:
    """Draw a forest plot: each method's hypervolume, and next to it the paired difference from the largest."""
    methods = findings.method_hypervolumes
    order = sorted(methods, key=lambda name: methods[name].estimate)
    best, styles = order[-1], method_styles(findings.table.drawn_methods)
    against = relative_to(best, findings.differences)
    figure = new_figure(7.5, 1.6 + 0.3 * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, rows, label in (
        (left, methods, "hypervolume (better\u00a0→)"),
        (right, against, f"minus that of {best}, paired"),
    ):
        for place, name in enumerate(order):
            if name in rows:
                _bar(axes, rows[name], place, styles[name])
        _frame(axes)
        axes.set_xlabel(label, fontsize=FONT["normal"])
    right.axvline(0, color=LINE, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    left.set_yticks(range(len(order)), order)
    left.set_ylim(-0.6, len(order) - 0.4)
    corner = ", ".join(
        f"{objective.name} {worst:.3g}"
        for objective, worst in zip(findings.table.objectives, findings.worst_corner_M.tolist(), strict=True)
    )
    text = (
        f"Hypervolume above the worst corner ({corner}), bias-corrected. Bars: 95 % intervals of a parametric"
        " bootstrap of seed and residual effects; differences are paired over common seeds, not adjusted for their"
        " number."
    )
    _title_and_caption(figure, title, text)
    return figure


def knob_figure(findings: Findings, title: str = "") -> Figure:
    """Draw a panel for each method with one numeric coefficient: the objectives along it, with intervals.

    Objectives of another range than the first, such as a share beside a loss, have the axis at the right.
    """
    methods = _knobs(findings)
    columns = min(COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = new_figure(PANEL[0] * max(columns, 2) + LEGEND, PANEL[1] * rows + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    at_left = [each for each in findings.table.objectives if not _is_at_right(each, findings.table.objectives)]
    right: Axes | None = None
    for place, (axes, (method, points)) in enumerate(zip(panels, methods.items(), strict=False)):
        first = right
        right = _panel(axes, findings, method, points)
        if place % columns == 0:
            names = [f"{folded(each.name, LEGEND_NAME)} {each.arrow}" for each in at_left]
            axes.set_ylabel("\n".join(names), fontsize=FONT["small"])
        if right is not None:
            if first is not None:
                right.sharey(first)
            right.tick_params(labelright=place % columns == columns - 1 or place == len(methods) - 1)
    for axes in panels[len(methods) :]:
        axes.set_visible(False)
    figure.legend(
        handles=_objective_handles(findings.table.objectives),
        loc="outside right upper",
        fontsize=FONT["small"],
        frameon=False,
    )
    text = "Means over seeds with 95 % intervals, with the variance shrunk within each method."
    _title_and_caption(figure, title, text, beside=LEGEND)
    return figure


def _knobs(findings: Findings) -> dict[str, list[FrontierPoint]]:
    """Map each method that has a knob to its points in the order of the knob."""
    points = [point for point in findings.points if point.seeds and control_of(point) is None]
    methods: dict[str, list[FrontierPoint]] = {}
    for method in findings.table.methods:
        method_points = [point for point in points if point.method == method]
        knob = knob_of(method_points)
        if knob:
            methods[method] = sorted(method_points, key=lambda point: float(point.coefficients[knob]))
    return methods


def _panel(axes: Axes, findings: Findings, method: str, points: Sequence[FrontierPoint]) -> Axes | None:
    """Draw a method's panel. Return its axes at the right, which share the knob; None if it needs none."""
    knob = str(knob_of(points))
    values = [float(point.coefficients[knob]) for point in points]
    style = method_styles(findings.table.drawn_methods)[method]
    objectives = findings.table.objectives
    right = axes.twinx() if any(_is_at_right(each, objectives) for each in objectives) else None
    for objective, line, filled in zip(objectives, LINES, FILLED, strict=False):
        panel = right if right is not None and _is_at_right(objective, objectives) else axes
        estimates = [point.scores[objective.name] for point in points]
        means = [estimate.mean for estimate in estimates]
        panel.plot(
            values,
            means,
            line,
            color=style.colour,
            marker=style.marker,
            markersize=4.0,
            markerfacecolor=style.colour if filled else "#FFFFFF",
            linewidth=1.2,
            zorder=4,
        )
        for value, estimate in zip(values, estimates, strict=True):
            if not math.isnan(estimate.low):
                ends = [estimate.low, estimate.high]
                panel.plot([value, value], ends, color=style.colour, linewidth=0.9, alpha=bar_alpha(True), zorder=BARS)
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_xscale("log")
    _frame(axes)
    axes.set_xlabel(knob, fontsize=FONT["small"])
    axes.set_title(folded(method, PANEL_TITLE), fontsize=FONT["normal"], color=darkened(style.colour))
    if right is not None:
        thin_frame(right)
        right.spines["right"].set(visible=True, color=FRAME)
    return right


def _is_at_right(objective: Objective, objectives: Sequence[Objective]) -> bool:
    return objective.ends != objectives[0].ends


def _objective_handles(objectives: Sequence[Objective]) -> list[Line2D]:
    """Return the legend of the lines, in grey because colours and shapes stand for methods."""
    return [
        Line2D(
            [],
            [],
            linestyle=line,
            color=LINE,
            marker="o",
            markersize=4.0,
            markerfacecolor=LINE if filled else "#FFFFFF",
            linewidth=1.2,
            label=f"{folded(objective.name, LEGEND_NAME)} {objective.arrow}"
            + "\n(right axis)" * _is_at_right(objective, objectives),
        )
        for objective, line, filled in zip(objectives, LINES, FILLED, strict=False)
    ]


def _bar(axes: Axes, statistic: Statistic, place: int, style: Style) -> None:
    ends, alpha = [statistic.low, statistic.high], bar_alpha(True)
    axes.plot(ends, [place, place], color=style.colour, linewidth=1.6, alpha=alpha, zorder=BARS, solid_capstyle="butt")
    axes.plot(statistic.estimate, place, marker=style.marker, markersize=style.size, color=style.colour, zorder=4)


def _frame(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    thin_frame(axes)


def _title_and_caption(figure: Figure, title: str, text: str, beside: float = 0.0) -> None:
    """Write the title, which leaves `beside` inches at the right, and the caption."""
    if title:
        lines = wrapped(title, figure.get_figwidth() - 2 * SIDE - beside, FONT["title"])
        figure.suptitle("\n".join(lines), fontsize=FONT["title"], x=0.01, ha="left")
    add_caption(figure, text, int(16 * figure.get_figwidth()))
