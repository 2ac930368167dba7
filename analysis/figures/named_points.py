"""Scored models that are not trials of a sweep, in its figures: a black cross with intervals over questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.labels import Label
from analysis.figures.style import BARS, BLACK, bar_alpha
from analysis.findings.named_points import NamedPoint
from analysis.tables.scores import Objective

MARKER, SIZE = "X", 8
LEGEND = "scored model\n(bars: over questions)"


def place(point: NamedPoint, objectives: Sequence[Objective]) -> tuple[float, float]:
    """Return where a model lies in two objectives."""
    return point.scores[objectives[0].name].mean, point.scores[objectives[1].name].mean


def draw_named(axes: Axes, named: Sequence[NamedPoint], objectives: Sequence[Objective]) -> list[Label]:
    """Draw models that have both objectives, and return their labels."""
    for point in named:
        x, y = place(point, objectives)
        for axis, objective in enumerate(objectives):
            estimate = point.scores[objective.name]
            if not math.isnan(estimate.low):
                ends = [estimate.low, estimate.high]
                where = (ends, [y, y]) if axis == 0 else ([x, x], ends)
                axes.plot(*where, color=BLACK, linewidth=1.0, alpha=bar_alpha(True), zorder=BARS, solid_capstyle="butt")
        axes.plot(x, y, marker=MARKER, markersize=SIZE, color=BLACK, markeredgecolor="#FFFFFF", zorder=7)
    return [Label(point.name, *place(point, objectives), BLACK) for point in named]


def widen(axes: Axes, named: Sequence[NamedPoint], objectives: Sequence[Objective]) -> None:
    """Widen the axes so that the models' means lie inside."""
    for axis, objective in enumerate(objectives):
        getter, setter = (axes.get_xlim, axes.set_xlim) if axis == 0 else (axes.get_ylim, axes.set_ylim)
        first, second = getter()
        margin = 0.06 * abs(second - first)
        for mean in (point.scores[objective.name].mean for point in named):
            low, high = min(first, second, mean - margin), max(first, second, mean + margin)
            if not min(first, second) <= mean <= max(first, second):
                first, second = (low, high) if first < second else (high, low)
        setter((first, second))


def legend(named: Sequence[NamedPoint]) -> list[Line2D | Patch]:
    """Return the entry of the legend; none if no model is drawn."""
    edge = "#FFFFFF"
    mark = Line2D(
        [], [], linestyle="none", marker=MARKER, markersize=SIZE, color=BLACK, markeredgecolor=edge, label=LEGEND
    )
    return [mark] if named else []
