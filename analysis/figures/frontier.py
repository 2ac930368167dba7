"""The frontier figure: two objectives of a sweep plotted against each other.

Better is always up and right: an axis is inverted if smaller values of its objective are better.

Shape legend: M objectives.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import named_points
from analysis.figures.answers import draw_head, head_height
from analysis.figures.labels import place_labels
from analysis.figures.means import CONTROL_LINES, draw_means, labels_of, place
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
from analysis.findings.arms import base_values, control_of, is_plain, measure, plain_title
from analysis.findings.frontier import FrontierPoint, excluded_text, frontier, varying_coefficients
from analysis.findings.named_points import NamedPoint
from analysis.findings.reading import Reading, read_table
from analysis.findings.ties import entries
from analysis.statistics.bootstrap import TWO_SEEDS, Bootstrap
from analysis.statistics.pareto import staircase
from analysis.tables.scores import Objective, ScoreTable
from settings.common.errors import UserError

SIZE = (7.5, 5.6)  # inches; 1800 pixels wide, twice what a README shows
CONTROL_NAMES = {"checkpoint": "checkpoints", "scale": "adapter scaled", "mix": "mixed with the base model"}
FRONT_LINE = (0, (4, 2))
LEGEND_WIDTH, CAPTION_WIDTH = 30, 120  # characters
LEGEND_LINE, CAPTION_HEIGHT = 0.19, 0.9  # inches


def axes_of(objectives: Sequence[Objective], x: str | None = None, y: str | None = None) -> tuple[str, str]:
    """Name the objectives of the axes. By default x is the first alignment objective and y the first other one.

    Raises UserError: fewer than two objectives; an axis that is none of them; the same objective on both axes.
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
    """Draw `frontier_figure` and write it atomically; the file's suffix decides the format. Raises UserError."""
    check_format(path)
    save_figure(path, frontier_figure(table, base_scores, title, x, y, named))


def frontier_figure(
    table: ScoreTable,
    base_scores: Mapping[str, float] | None = None,
    title: str = "",
    x: str | None = None,
    y: str | None = None,
    named: Sequence[NamedPoint] = (),
    reading: Reading | None = None,
) -> Figure:
    """Draw two objectives of a table against each other.

    Args:
        table: the sweep's scores.
        base_scores: score name -> mean of the untouched base model, drawn as a star.
        title: title above the axes.
        x, y: names of objectives; None means the first alignment objective, and the first other one.
        named: scored models that are not trials; those that lack an objective are left out.
        reading: the answers above the axes; None computes them for these two objectives.

    Raises UserError: no finished trial; fewer than two objectives; no such objective.
    """
    shown = table.select(axes_of(table.objectives, x, y))
    finished = shown.rows(shown.num_seeds_C > 0)
    bootstrap = None
    if (finished.num_seeds_C > 1).any():
        bootstrap = Bootstrap(measure(finished, base_values(shown, base_scores or {})))
    points = frontier(shown, base_scores=base_scores, bootstrap=bootstrap)
    drawn = [point for point in points if point.seeds]
    all_styles = method_styles(table.drawn_methods)
    styles = {method: all_styles[method] for method in table.methods}
    base = _base_position(shown, base_scores or {})
    reading = reading or _read(table.select(_names_in_order(table, shown)), points, base_scores or {})
    scored = [point for point in named if point.has(shown.objectives)]
    handles = _legend(drawn, styles, base is not None, bootstrap is not None) + named_points.legend(scored)
    head = head_height(title, reading, SIZE[0])
    figure = new_figure(SIZE[0], head + max(SIZE[1], _height_of(handles)))
    axes = figure.add_subplot()
    cut = _limit(axes, shown, drawn, base)
    named_points.widen(axes, scored, shown.objectives)
    _draw_front(axes, shown, [point for point in drawn if point.on_front])
    if bootstrap is not None:
        _draw_band(axes, finished, bootstrap)
    draw_means(axes, shown, drawn, styles)
    if base is not None:
        axes.plot(*base, marker="*", markersize=15, color="#FFFFFF", markeredgecolor=BLACK, zorder=6)
    labels = named_points.draw_named(axes, scored, shown.objectives)
    _describe_axes(axes, shown.objectives)
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        fontsize=FONT["small"],
        frameon=False,
    )
    draw_head(figure, title, reading)
    add_caption(figure, _caption(shown, points, cut, bootstrap is not None), CAPTION_WIDTH, linespacing=1.35)
    labels += labels_of(drawn, shown.objectives, all_styles)
    markers = [(*place(point, shown.objectives), 4.5) for point in drawn] + ([(*base, 8.0)] if base else [])
    markers += [(*named_points.place(point, shown.objectives), 5.0) for point in scored]
    place_labels(figure, axes, labels, markers, FONT["small"])
    return figure


def _names_in_order(table: ScoreTable, shown: ScoreTable) -> list[str]:
    names = {objective.name for objective in shown.objectives}
    return [objective.name for objective in table.objectives if objective.name in names]


def _read(table: ScoreTable, points: Sequence[FrontierPoint], base_scores: Mapping[str, float]) -> Reading:
    """Answer with the objectives in the sweep's order, so that the replicates are those of its report."""
    bootstrap = Bootstrap(measure(table, base_values(table, base_scores))) if (table.num_seeds_C > 1).any() else None
    return read_table(table, points, base_scores, bootstrap)


def _base_position(table: ScoreTable, base_scores: Mapping[str, float]) -> tuple[float, float] | None:
    values = [base_scores.get(objective.name, math.nan) for objective in table.objectives]
    return (values[0], values[1]) if all(map(math.isfinite, values)) else None


def _limit(axes: Axes, table: ScoreTable, points: Sequence[FrontierPoint], base: tuple[float, float] | None) -> bool:
    """Set the axes' limits so that points, seeds and intervals fit.

    If all scores look like shares, intervals are cut slightly outside [0, 1]. Returns whether one was cut.
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
    corners = sorted(
        {place(point, table.objectives) for point in front}, key=lambda xy: axes.transData.transform(xy)[0]
    )
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    xs = [left, *(x for x, _ in corners)]
    ys = [y for _, y in corners]
    steps_x = [value for x in xs for value in (x, x)][1:]
    steps_y = [value for y in ys for value in (y, y)] + [bottom]
    axes.plot(steps_x, steps_y, color=LINE, linewidth=1.1, linestyle=FRONT_LINE, zorder=1)


def _draw_band(axes: Axes, table: ScoreTable, bootstrap: Bootstrap) -> None:
    """Shade where the whole frontier of the true curves lies."""
    band = bootstrap.band()
    worst = table.oriented(np.array([axes.get_xlim()[0], axes.get_ylim()[0]]))
    edges = [table.oriented(staircase(points, *worst.tolist())) for points in (band.high_RM, band.low_RM)]
    outline = np.concatenate([edges[0], edges[1][::-1]])
    axes.fill(outline[:, 0], outline[:, 1], color="#000000", alpha=0.07, linewidth=0, zorder=0)


def _describe_axes(axes: Axes, objectives: Sequence[Objective]) -> None:
    x, y = (_axis_title(objective) for objective in objectives)
    axes.set_xlabel(x, fontsize=FONT["normal"])
    axes.set_ylabel(y, fontsize=FONT["normal"])
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    thin_frame(axes)


def _axis_title(objective: Objective) -> str:
    """Join name, description and an arrow along the axis; it points upwards if the text is rotated."""
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
    """Return the height that a figure needs for a legend and the caption below it, in inches."""
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
    text = [f"Markers: mean over {number} seed{plural}, labelled with the coefficient if on the frontier."]
    single = {point.method for point in points if point.seeds and math.isnan(next(iter(point.scores.values())).low)}
    if single != {point.method for point in points if point.seeds}:
        text.append(
            "Bars: 95 % interval of the mean in each objective, with the variance between seeds shrunk within each"
            f" method{' (cut at the edge)' if cut else ''}."
        )
    if single:
        text.append(f"No interval for {', '.join(sorted(single))}: one seed.")
    lies = "; shaded: where the whole frontier of the true curves lies, with 95 % confidence unless it has a kink"
    band = lies if banded else ""
    text.append(f"Dashed: the frontier of the means{band}.")
    if any(len({each.method for each in entry.members}) > 1 for entry in entries([p for p in points if p.seeds])):
        text.append("Markers inside each other: equal means.")
    if banded and seeds[-1] == 2:
        text.append(f"{TWO_SEEDS[0].upper()}{TWO_SEEDS[1:]}.")
    ended = excluded_text(table.num_excluded())
    if ended:
        text.append(f"Left out: {ended} trial{'' if sum(table.num_excluded().values()) == 1 else 's'}.")
    return " ".join(text)
