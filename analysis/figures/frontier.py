"""The frontier figure: two objectives of a sweep against each other.

Larger is better; an axis whose objective is better when small is inverted, so that better is always up and right.

Shape legend: M objectives.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import named_points
from analysis.figures.labels import Label, place_labels
from analysis.figures.style import (
    BLACK,
    FONT,
    GRID,
    LINE,
    Style,
    add_caption,
    check_format,
    method_styles,
    new_figure,
    save_figure,
    thin_frame,
)
from analysis.findings.arms import MIX, control_of, is_plain, measure, plain_title
from analysis.findings.frontier import FrontierPoint, excluded_text, frontier, knob_of, varying_coefficients
from analysis.findings.named_points import NamedPoint
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import TWO_SEEDS, Bootstrap
from analysis.statistics.pareto import staircase
from analysis.tables.scores import Objective, ScoreTable
from settings.common.errors import UserError

SIZE = (7.5, 5.6)  # inches; 1800 pixels wide, twice what a README shows
CONTROL_LINES = (("checkpoint", (0, (1, 1.5))), ("scale", (0, (5, 1.5, 1, 1.5))), ("mix", (0, (6, 2))))
CONTROL_NAMES = {"checkpoint": "checkpoints", "scale": "adapter scaled", "mix": "mixed with the base model"}
FRONT_LINE = (0, (4, 2))
LEGEND_WIDTH, TITLE_WIDTH, CAPTION_WIDTH = 30, 56, 120  # characters
LEGEND_LINE, CAPTION_HEIGHT = 0.19, 0.9  # inches


def axes_of(objectives: Sequence[Objective], x: str | None = None, y: str | None = None) -> tuple[str, str]:
    """Name the objectives of the axes. By default x is the first alignment objective and y the first other one.

    Raises UserError: fewer than two objectives; an axis that is none of them; twice the same.
    """
    kinds = {objective.name: objective.kind for objective in objectives}
    if len(kinds) < 2:
        raise UserError("the frontier figure needs two objectives")
    for name in (x, y):
        if name is not None and name not in kinds:
            raise UserError(f"no objective {name!r}; there are {', '.join(kinds)}")
    free = [name for name in kinds if name not in (x, y)]
    x = x or next((name for name in free if kinds[name] == "alignment"), free[-1])
    y = y or next(name for name in kinds if name != x)
    if x == y:
        raise UserError(f"both axes of the frontier figure are {x!r}")
    return x, y


def save_frontier(
    path: Path,
    table: ScoreTable,
    base_scores: Mapping[str, float] | None = None,
    title: str = "",
    x: str | None = None,
    y: str | None = None,
    named: Sequence[NamedPoint] = (),
) -> None:
    """Draw `frontier_figure` and write it in one move; the file's ending decides the format. Raises UserError."""
    check_format(path)
    save_figure(path, frontier_figure(table, base_scores, title, x, y, named))


def frontier_figure(
    table: ScoreTable,
    base_scores: Mapping[str, float] | None = None,
    title: str = "",
    x: str | None = None,
    y: str | None = None,
    named: Sequence[NamedPoint] = (),
) -> Figure:
    """Draw two objectives of a table against each other.

    Args:
        table: the sweep's scores.
        base_scores: score name -> mean of the untouched base model, drawn as a star.
        title: above the axes.
        x, y: names of objectives; None means the first alignment objective, and the first other one.
        named: scored models that are no trials; those that lack an objective are left out.

    Raises UserError: no finished trial; fewer than two objectives; no such objective.
    """
    shown = table.select(axes_of(table.objectives, x, y))
    points = frontier(shown)
    drawn = [point for point in points if point.seeds]
    styles = method_styles(table.methods)
    base = _base_position(shown, base_scores or {})
    figure = new_figure(SIZE[0], max(SIZE[1], _height_of(_legend(drawn, styles, base is not None, True))))
    axes = figure.add_subplot()
    cut = _limit(axes, shown, drawn, base)
    scored = [point for point in named if point.has(shown.objectives)]
    named_points.widen(axes, scored, shown.objectives)
    _draw_front(axes, shown, [point for point in drawn if point.on_front])
    banded = _draw_band(axes, shown, None if base is None else np.array(base))
    for method, style in styles.items():
        _draw_method(axes, shown, [point for point in drawn if point.method == method], style)
    if base is not None:
        axes.plot(*base, marker="*", markersize=15, color="#FFFFFF", markeredgecolor=BLACK, zorder=6)
    labels = named_points.draw_named(axes, scored, shown.objectives)
    _describe_axes(axes, shown.objectives)
    if title:
        axes.set_title("\n".join(textwrap.wrap(title, TITLE_WIDTH)), fontsize=FONT["title"], loc="left")
    figure.legend(
        handles=_legend(drawn, styles, base is not None, banded) + named_points.legend(scored),
        loc="outside right upper",
        fontsize=FONT["small"],
        frameon=False,
    )
    add_caption(figure, _caption(shown, points, cut, banded), CAPTION_WIDTH, linespacing=1.35)
    labels += [
        Label(_short_label(point, drawn), *_xy(point, shown.objectives), _darkened(styles[point.method].colour))
        for point in drawn
        if point.on_front and _short_label(point, drawn)
    ]
    markers = [(*_xy(point, shown.objectives), 4.5) for point in drawn] + ([(*base, 8.0)] if base else [])
    markers += [(*named_points.place(point, shown.objectives), 5.0) for point in scored]
    place_labels(figure, axes, labels, markers, FONT["small"])
    return figure


def _xy(point: FrontierPoint, objectives: Sequence[Objective]) -> tuple[float, float]:
    return point.scores[objectives[0].name].mean, point.scores[objectives[1].name].mean


def _base_position(table: ScoreTable, base_scores: Mapping[str, float]) -> tuple[float, float] | None:
    values = [base_scores.get(objective.name, math.nan) for objective in table.objectives]
    return (values[0], values[1]) if all(map(math.isfinite, values)) else None


def _limit(axes: Axes, table: ScoreTable, points: Sequence[FrontierPoint], base: tuple[float, float] | None) -> bool:
    """Set the axes' limits so that points, seeds and intervals fit.

    If all scores look like shares, an interval is cut a little outside [0, 1]. Returns whether one was cut.
    """
    cut = False
    for axis, objective in enumerate(table.objectives):
        seeds = table.values_CSM[:, :, axis].ravel()
        measured = [*seeds[~np.isnan(seeds)].tolist(), *([base[axis]] if base else [])]
        estimates = [point.scores[objective.name] for point in points]
        ends = [end for estimate in estimates for end in (estimate.low, estimate.high) if not math.isnan(end)]
        low, high = min(measured + ends), max(measured + ends)
        margin = 0.06 * (high - low) or 0.05
        low, high = low - margin, high + margin
        if min(measured) >= 0 and max(measured) <= 1:
            low, high = max(low, -0.04), min(high, 1.07)
        cut |= any(not low <= end <= high for end in ends)
        setter = axes.set_xlim if axis == 0 else axes.set_ylim
        setter((low, high) if objective.higher_is_better else (high, low))
    return cut


def _draw_front(axes: Axes, table: ScoreTable, front: Sequence[FrontierPoint]) -> None:
    """Draw the boundary of the region that the means dominate: a staircase."""
    corners = sorted({_xy(point, table.objectives) for point in front}, key=lambda xy: axes.transData.transform(xy)[0])
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    xs = [left, *(x for x, _ in corners)]
    ys = [y for _, y in corners]
    steps_x = [value for x in xs for value in (x, x)][1:]
    steps_y = [value for y in ys for value in (y, y)] + [bottom]
    axes.plot(steps_x, steps_y, color=LINE, linewidth=1.1, linestyle=FRONT_LINE, zorder=1)


def _draw_band(axes: Axes, table: ScoreTable, base_M: Floats | None) -> bool:
    """Shade where the whole frontier of the true means lies. Returns whether that is known."""
    table = table.rows(table.num_seeds_C > 0)
    if not (table.num_seeds_C > 1).any():
        return False
    band = Bootstrap(measure(table, base_M)).band()
    worst = table.oriented(np.array([axes.get_xlim()[0], axes.get_ylim()[0]]))
    edges = [table.oriented(staircase(points, *worst.tolist())) for points in (band.high_RM, band.low_RM)]
    outline = np.concatenate([edges[0], edges[1][::-1]])
    axes.fill(outline[:, 0], outline[:, 1], color="#000000", alpha=0.07, linewidth=0, zorder=0)
    return True


def _draw_method(axes: Axes, table: ScoreTable, points: Sequence[FrontierPoint], style: Style) -> None:
    """Draw a method's seeds, the line along its knob, intervals and means. A filled marker is on the front."""
    ids = {configuration.id: row for row, configuration in enumerate(table.configurations)}
    points = sorted(points, key=lambda point: ids[point.configuration])
    for curve, dashes in _curves(points):
        line = np.array([_xy(point, table.objectives) for point in curve])
        axes.plot(line[:, 0], line[:, 1], color=style.colour, linestyle=dashes, linewidth=1.1, alpha=0.55, zorder=2)
    for point in points:
        seeds = table.values_CSM[ids[point.configuration]]
        axes.plot(
            seeds[:, 0],
            seeds[:, 1],
            linestyle="none",
            marker="o",
            markersize=3,
            color=style.colour,
            alpha=0.35,
            markeredgewidth=0,
            zorder=3,
        )
        x, y = _xy(point, table.objectives)
        for axis, objective in enumerate(table.objectives):
            estimate = point.scores[objective.name]
            if not math.isnan(estimate.low):
                ends = [estimate.low, estimate.high]
                where = (ends, [y, y]) if axis == 0 else ([x, x], ends)
                axes.plot(*where, color=style.colour, linewidth=1.0, alpha=0.75, zorder=4, solid_capstyle="butt")
        face = style.colour if point.on_front else "#FFFFFF"
        axes.plot(
            x,
            y,
            marker=style.marker,
            markersize=style.size,
            color=face,
            markeredgecolor=style.colour,
            markeredgewidth=1.3,
            zorder=5.5 if point.on_front else 5,
        )


def _curves(points: Sequence[FrontierPoint]) -> list[tuple[list[FrontierPoint], Any]]:
    """Return the lines through a method's points, each with its dashes.

    A method has one along its knob; plain fine-tuning has one for each control, which ends at its full training.
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
    """Return a control's points and full training, which ends it; a mix may go beyond that."""
    line = points + full
    return sorted(line, key=lambda point: float(point.coefficients.get(MIX, 1.0))) if control == "mix" else line


def _describe_axes(axes: Axes, objectives: Sequence[Objective]) -> None:
    x, y = (_axis_title(objective) for objective in objectives)
    axes.set_xlabel(x, fontsize=FONT["normal"])
    axes.set_ylabel(y, fontsize=FONT["normal"])
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    thin_frame(axes)


def _axis_title(objective: Objective) -> str:
    """Join name, description and an arrow, which points along the axis: upwards where the text is turned."""
    words = f": {objective.description}" if objective.description else ""
    return "\n".join(textwrap.wrap(f"{objective.name}{words}  (better\u00a0→)", 64))


def _legend(
    points: Sequence[FrontierPoint], styles: Mapping[str, Style], with_base: bool, banded: bool
) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if with_base:
        handles.append(_handle("base model", "*", "#FFFFFF", BLACK, 12))
    for method in sorted(styles, key=lambda name: (not is_plain(name), name)):
        method_points = [point for point in points if point.method == method]
        if method_points:
            knobs, style = "" if is_plain(method) else ", ".join(varying_coefficients(method_points)), styles[method]
            name = plain_title(method) if is_plain(method) else method
            text = "\n".join(textwrap.wrap(f"{name} ({knobs})" if knobs else name, LEGEND_WIDTH))
            handles.append(_handle(text, style.marker, style.colour, style.colour, style.size))
    kinds = {control_of(point) for point in points}
    for kind, dashes in CONTROL_LINES:
        if kind in kinds:
            label = f"control: {CONTROL_NAMES[kind]}"
            handles.append(Line2D([], [], color=BLACK, linewidth=1.1, alpha=0.55, linestyle=dashes, label=label))
    handles.append(Line2D([], [], color=LINE, linewidth=1.1, linestyle=FRONT_LINE, label="frontier"))
    if banded:
        handles.append(Patch(color="#000000", alpha=0.07, linewidth=0, label="its 95 % band"))
    handles.append(_handle("not on the frontier", "o", "#FFFFFF", LINE, 6.5))
    handles.append(_handle("one seed", "o", "#BBBBBB", "#BBBBBB", 3))
    return handles


def _height_of(handles: Sequence[Line2D | Patch]) -> float:
    """Return how high a figure has to be for a legend and the caption below it, in inches."""
    lines = sum(1 + str(handle.get_label()).count("\n") for handle in handles)
    return LEGEND_LINE * lines + CAPTION_HEIGHT


def _handle(label: str, marker: str, face: str, edge: str, size: float) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        color=face,
        markeredgecolor=edge,
        markeredgewidth=1.2,
        markersize=size,
        label=label,
    )


def _caption(table: ScoreTable, points: Sequence[FrontierPoint], cut: bool, banded: bool) -> str:
    seeds = sorted({point.seeds for point in points if point.seeds})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    plural = "" if seeds == [1] else "s"
    text = [f"Markers: mean over {number} seed{plural}, labelled with the coefficient where on the frontier."]
    single = {point.method for point in points if point.seeds and math.isnan(next(iter(point.scores.values())).low)}
    if single != {point.method for point in points if point.seeds}:
        text.append(
            "Bars: 95 % interval of the mean in each objective, the variance between seeds shrunk over the"
            f" configurations of a method{' (cut at the edge)' if cut else ''}."
        )
    if single:
        text.append(f"No interval for {', '.join(sorted(single))}: one seed.")
    band = "; shaded: where the whole frontier of the true curves lies, with 95 % confidence" if banded else ""
    text.append(f"Dashed: the frontier of the means{band}.")
    if banded and seeds[-1] == 2:
        text.append(f"{TWO_SEEDS[0].upper()}{TWO_SEEDS[1:]}.")
    ended = excluded_text(table.num_excluded())
    if ended:
        text.append(f"Left out: {ended} trial{'' if sum(table.num_excluded().values()) == 1 else 's'}.")
    return " ".join(text)


def _short_label(point: FrontierPoint, points: Sequence[FrontierPoint]) -> str:
    """Return the value of the coefficient that varies, whose name is in the legend, e.g. "0.3".

    Where several vary, name those that differ from their value in most of the method's points.
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


def _darkened(colour: str) -> str:
    """Darken a colour so that it is legible as small text on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))
