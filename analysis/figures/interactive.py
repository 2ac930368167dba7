"""The figures of the report page, drawn by Plotly in the browser.

Colours and markers are those of `analysis.figures.style`. Better is always up and right: an axis is inverted if smaller
values of its objective are better.

Shape legend: N points of a curve, C configurations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import to_rgb
from plotly.subplots import make_subplots

from analysis.figures.style import BLACK, LINE, Style, bar_alpha, method_styles, tied_sizes
from analysis.findings.arms import KNOBS, Control, control_of, definition_of, is_plain, plain_title
from analysis.findings.controls import CONTROLS
from analysis.findings.findings import Findings
from analysis.findings.frontier import Estimate, FrontierPoint, knob_of
from analysis.findings.frontier_table import folded
from analysis.findings.named_points import NamedPoint
from analysis.findings.ties import Entry, entries, point_title
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import Statistic
from analysis.statistics.compare import relative_to
from analysis.statistics.pareto import staircase

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "<": "triangle-left",
    ">": "triangle-right",
    "h": "hexagon",
    "d": "diamond-tall",
    "p": "pentagon",
    "X": "x",
}
PANEL_TITLE = 26  # characters
DASHES, FILLS = ("solid", "dash", "dot"), ("", "-open", "")  # of objectives
LAYOUT = {"template": "plotly_white", "margin": {"l": 70, "r": 20, "t": 60, "b": 60}}
OPEN_LINK = """
document.getElementById("{plot_id}").on("plotly_click", event => {
  const link = event.points[0].customdata;
  if (link) window.open(link, "_blank", "noopener");
});
"""


def frontier_plot(
    findings: Findings,
    x: int = 0,
    y: int = 1,
    links: Mapping[str, str] | None = None,
    named: Sequence[NamedPoint] = (),
) -> go.Figure:
    """Draw two objectives (columns of the table), with band, controls, fronts of honest selection and scored models.

    `links` (configuration id -> address) become the points' custom data, which `OPEN_LINK` opens on a click.
    """
    figure = go.Figure()
    styles = method_styles(findings.table.drawn_methods)
    points = [point for point in findings.points if point.seeds]
    ties = entries(points, [findings.table.objectives[axis].name for axis in (x, y)])
    if len(findings.table.objectives) == 2:
        _fronts(figure, findings, x, y)
    for plain in filter(is_plain, findings.table.methods):
        for control, name in CONTROLS.items():
            _control(figure, findings, plain, control, f"{name}{definition_of(plain)}", x, y)
    curves = [
        _along_knob([point for point in points if point.method == method and control_of(point) is None])
        for method in sorted(styles, key=lambda name: (not is_plain(name), name))
    ]
    curves = [curve for curve in curves if curve]
    for curve in curves:  # all bars below all means
        _intervals(figure, findings, curve, styles[curve[0].method], (x, y))
    for curve in curves:
        _method(figure, findings, curve, styles[curve[0].method], (x, y), links or {}, ties)
    _name_ties(figure, findings, ties, x, y)
    if findings.base_M is not None:
        figure.add_scatter(
            x=[findings.base_M[x]],
            y=[findings.base_M[y]],
            mode="markers",
            name="base model",
            marker={"symbol": "star", "size": 16, "color": "white", "line": {"color": "black", "width": 1.5}},
            hovertemplate="base model<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        )
    _scored(figure, findings, named, x, y)
    _axes(figure, findings, x, y)
    figure.update_layout(height=620, hovermode="closest", legend={"itemsizing": "constant"}, **LAYOUT)
    return figure


def _fronts(figure: go.Figure, findings: Findings, x: int, y: int) -> None:
    """Add the band, the front of the means, the median attainment surface, and the two fronts of honest selection."""
    table = findings.table
    sign_2 = table.oriented(np.ones(len(table.objectives)))[[x, y]]
    mean_C2 = np.array(
        [
            [point.scores[table.objectives[axis].name].mean for axis in (x, y)]
            for point in findings.points
            if point.seeds
        ]
    )
    gain_C2 = mean_C2 * sign_2
    corner_2 = findings.worst_corner_M[[x, y]] * sign_2
    left, bottom = np.minimum(corner_2, gain_C2.min(axis=0)).tolist()

    def stairs(points_N2: Floats) -> Floats:
        return staircase(points_N2, left, bottom) * sign_2

    if findings.band is not None:
        outline = np.concatenate(
            [stairs(findings.band.high_RM[:, [x, y]]), stairs(findings.band.low_RM[:, [x, y]])[::-1]]
        )
        figure.add_scatter(
            x=outline[:, 0],
            y=outline[:, 1],
            fill="toself",
            fillcolor="rgba(0,0,0,0.08)",
            line={"width": 0},
            name="95 % band of the true frontier",
            hoverinfo="skip",
        )
    lines: list[tuple[str, Floats, str, bool]] = [("frontier of the means", gain_C2, "dash", True)]
    if findings.surface_K2 is not None:
        lines.append(("50 % attainment surface of single seeds", findings.surface_K2[:, [x, y]], "dot", False))
    for halved, chosen in findings.selections.items():
        same, rest = chosen.optimistic_K2[:, [x, y]], chosen.pessimistic_K2[:, [x, y]]
        lines.append((f"chosen and reported on the same half of the {halved}", same, "longdash", False))
        lines.append((f"chosen on one half of the {halved}, reported on the other", rest, "dashdot", False))
    for name, points_N2, dash, shown in lines:
        corners = stairs(points_N2)
        figure.add_scatter(
            x=corners[:, 0],
            y=corners[:, 1],
            mode="lines",
            name=name,
            line={"dash": dash, "color": LINE, "width": 1.5},
            visible=True if shown else "legendonly",
            hoverinfo="skip",
        )


def _control(figure: go.Figure, findings: Findings, plain: str, control: Control, name: str, x: int, y: int) -> None:
    """Add a control as a curve from the base model to plain fine-tuning."""
    table = findings.table
    trained = [point for point in findings.points if point.seeds and point.method == plain]
    points = [point for point in trained if control_of(point) == control]
    if not points:
        return
    key = KNOBS[control]
    points = sorted(points, key=lambda point: float(point.coefficients.get(key, math.nan)))
    names = [table.objectives[axis].name for axis in (x, y)]
    ends = [point for point in trained if not point.label]
    rows = [[point.scores[axis].mean for axis in names] for point in (*points, *ends[:1])]
    texts = [f"{key} = {point.coefficients.get(key)}" for point in points] + ["plain"] * len(ends[:1])
    if findings.base_M is not None:
        rows, texts = [[float(findings.base_M[x]), float(findings.base_M[y])], *rows], ["base model", *texts]
    figure.add_scatter(
        x=[row[0] for row in rows],
        y=[row[1] for row in rows],
        mode="lines+markers",
        name=f"control: {name}",
        text=texts,
        line={"color": "black", "width": 1.2, "dash": "dot" if control == "checkpoint" else "dashdot"},
        marker={"symbol": "x-thin" if control == "checkpoint" else "line-ew", "size": 7, "line": {"width": 1.5}},
        hovertemplate=f"{name}<br>%{{text}}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    )


def _intervals(
    figure: go.Figure, findings: Findings, points: Sequence[FrontierPoint], style: Style, axes: tuple[int, int]
) -> None:
    """Add the interval bars of a method, lighter than its means, and lighter still for points not on the front."""
    names = [findings.table.objectives[axis].name for axis in axes]
    for on_front in (False, True):
        part = [point for point in points if point.on_front == on_front]
        if not part:
            continue
        estimates = [[point.scores[name] for point in part] for name in names]
        colour = translucent(style.colour, bar_alpha(on_front))
        figure.add_scatter(
            x=[estimate.mean for estimate in estimates[0]],
            y=[estimate.mean for estimate in estimates[1]],
            error_x=_bars(estimates[0], colour),
            error_y=_bars(estimates[1], colour),
            mode="markers",
            marker={"size": 1, "opacity": 0.0, "color": style.colour},
            legendgroup=points[0].method,
            showlegend=False,
            hoverinfo="skip",
        )


def translucent(colour: str, alpha: float) -> str:
    """Return a translucent version of a colour."""
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return f"rgba({red},{green},{blue},{alpha})"


def _method(
    figure: go.Figure,
    findings: Findings,
    points: Sequence[FrontierPoint],
    style: Style,
    axes: tuple[int, int],
    links: Mapping[str, str],
    ties: Sequence[Entry],
) -> None:
    method = points[0].method
    names = [findings.table.objectives[axis].name for axis in axes]
    entry_of = {member.configuration: entry for entry in ties for member in entry.members}
    own = [entry_of[point.configuration] for point in points]
    estimates = [[point.scores[name] for point in points] for name in names]
    figure.add_scatter(
        x=[estimate.mean for estimate in estimates[0]],
        y=[estimate.mean for estimate in estimates[1]],
        mode="lines+markers" if knob_of(points) else "markers",
        name=plain_title(method) if is_plain(method) else method,
        legendgroup=method,
        line={"color": style.colour, "width": 1},
        marker={
            "symbol": [SYMBOLS[style.marker] + ("" if point.on_front else "-open") for point in points],
            "size": [9 + _more(entry, method) for entry in own],
            "color": style.colour,
        },
        text=[_hover(point) + _tied(point, entry) for point, entry in zip(points, own, strict=True)],
        customdata=[links.get(point.configuration, "") for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _more(entry: Entry, method: str) -> float:
    """Return how much to enlarge a method's marker if others are at its place; the smallest of them is drawn last."""
    methods = sorted({member.method for member in entry.members}, key=lambda name: (not is_plain(name), name))
    return tied_sizes(len(methods))[methods.index(method)]


def _tied(point: FrontierPoint, entry: Entry) -> str:
    others = [point_title(member) for member in entry.members if member is not point]
    return f"<br>equal: {'<br>equal: '.join(others)}" if others else ""


def _name_ties(figure: go.Figure, findings: Findings, ties: Sequence[Entry], x: int, y: int) -> None:
    """Name the methods that tie on the front, once for each place that several methods share."""
    names = [findings.table.objectives[axis].name for axis in (x, y)]
    for entry in ties:
        methods = dict.fromkeys(member.method for member in entry.members)
        if len(methods) > 1 and entry.point.on_front:
            figure.add_annotation(
                x=entry.point.scores[names[0]].mean,
                y=entry.point.scores[names[1]].mean,
                text=f"tie of {len(entry.members)}:<br>" + "<br>".join(methods),
                showarrow=True,
                arrowwidth=0.6,
                arrowhead=0,
                standoff=6,
                ax=70,
                ay=60,
                align="left",
                font={"size": 11},
                bgcolor="rgba(255,255,255,0.6)",
            )


def _scored(figure: go.Figure, findings: Findings, named: Sequence[NamedPoint], x: int, y: int) -> None:
    """Draw scored models that are not trials of the sweep."""
    objectives = (findings.table.objectives[x], findings.table.objectives[y])
    shown = [point for point in named if point.has(objectives)]
    if not shown:
        return
    columns = [[point.scores[objective.name] for point in shown] for objective in objectives]
    figure.add_scatter(
        x=[estimate.mean for estimate in columns[0]],
        y=[estimate.mean for estimate in columns[1]],
        error_x=_bars(columns[0], translucent(BLACK, bar_alpha(True))),
        error_y=_bars(columns[1], translucent(BLACK, bar_alpha(True))),
        mode="markers+text",
        text=[point.name for point in shown],
        textposition="top center",
        name="scored models",
        marker={"symbol": "x", "size": 11, "color": "black"},
        hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
    )


def _hover(point: FrontierPoint) -> str:
    lines = [f"<b>{point.method} {point.label}</b>".strip()]
    lines += [f"{name}: {interval_text(estimate)}" for name, estimate in point.scores.items()]
    chance = "" if math.isnan(point.p_front) else f", on the front with probability {point.p_front:.2f}"
    return "<br>".join([*lines, f"{point.seeds} seeds{chance}", f"configuration {point.configuration}"])


def interval_text(estimate: Estimate) -> str:
    """Format a mean with its interval, e.g. "0.912 [0.880, 0.944]"."""
    ends = "" if math.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.mean:.3f}{ends}"


def _bars(estimates: Sequence[Estimate], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "array": [_width(estimate.high - estimate.mean) for estimate in estimates],
        "arrayminus": [_width(estimate.mean - estimate.low) for estimate in estimates],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def _width(length: float) -> float:
    return 0.0 if math.isnan(length) else length


def _axes(figure: go.Figure, findings: Findings, x: int, y: int) -> None:
    """Set titles and ranges: from worse to better, with little margin around shares."""
    for axis, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        objective = findings.table.objectives[axis]
        estimates = [point.scores[objective.name] for point in findings.points if point.seeds]
        ends = [end for score in estimates for end in (score.mean, score.low, score.high) if not math.isnan(end)]
        ends += [] if findings.base_M is None else [float(findings.base_M[axis])]
        low, high = min(ends), max(ends)
        if all(0 <= score.mean <= 1 for score in estimates):
            low, high = max(low, -0.04), min(high, 1.06)
        room = 0.03 * (high - low) or 0.05
        low, high = low - room, high + room
        update(title=f"{objective.name} (better →)", range=[low, high] if objective.higher_is_better else [high, low])


def curves_plot(findings: Findings) -> go.Figure | None:
    """Draw the objectives along the knob of every method that has one; None if no method has one."""
    points = [point for point in findings.points if point.seeds and control_of(point) is None]
    methods = [
        (method, _along_knob(method_points))
        for method in findings.table.methods
        if knob_of(method_points := [point for point in points if point.method == method])
    ]
    if not methods:
        return None
    columns = 3
    rows = math.ceil(len(methods) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[folded(method, PANEL_TITLE).replace("\n", "<br>") for method, _ in methods],
    )
    styles = method_styles(findings.table.drawn_methods)
    for objective, dash, fill in zip(findings.table.objectives, DASHES, FILLS, strict=False):
        figure.add_scatter(  # the legend, in grey because colours and shapes stand for methods
            x=[None],
            y=[None],
            mode="lines+markers",
            name=f"{objective.name} {objective.arrow}",
            legendgroup=objective.name,
            line={"color": LINE, "dash": dash, "width": 1.5},
            marker={"symbol": f"circle{fill}", "size": 7},
        )
    for number, (method, curve) in enumerate(methods):
        row, column, knob = number // columns + 1, number % columns + 1, str(knob_of(curve))
        values = [float(point.coefficients[knob]) for point in curve]
        style = styles[method]
        for objective, dash, fill in zip(findings.table.objectives, DASHES, FILLS, strict=False):
            estimates = [point.scores[objective.name] for point in curve]
            figure.add_scatter(
                x=values,
                y=[estimate.mean for estimate in estimates],
                error_y=_bars(estimates, translucent(style.colour, bar_alpha(True))),
                mode="lines+markers",
                legendgroup=objective.name,
                showlegend=False,
                line={"color": style.colour, "dash": dash, "width": 1.5},
                marker={"symbol": SYMBOLS[style.marker] + fill, "size": 7, "color": style.colour},
                row=row,
                col=column,
                hovertemplate=f"{knob} = %{{x:.3g}}<br>{objective.name} = %{{y:.3f}}<extra></extra>",
            )
        log = min(values) > 0 and max(values) / min(values) > 10
        figure.update_xaxes(
            title=knob, type="log" if log else "linear", dtick=1 if log else None, nticks=5, row=row, col=column
        )
    figure.update_layout(height=80 + 260 * rows, **LAYOUT)
    return figure


def forest_plot(findings: Findings) -> go.Figure:
    """Draw each method's hypervolume, and its paired difference from the largest."""
    methods = findings.method_hypervolumes
    order = sorted(methods, key=lambda name: methods[name].estimate)
    best = order[-1]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, subplot_titles=("hypervolume (better →)", f"minus that of {best}, paired")
    )
    styles = method_styles(findings.table.drawn_methods)
    _forest(figure, 1, {name: methods[name] for name in order}, styles)
    against = relative_to(best, findings.differences)
    _forest(figure, 2, {name: against[name] for name in order if name in against}, styles)
    figure.add_vline(x=0, line={"color": LINE, "dash": "dash", "width": 1}, col=2, row=1)
    figure.update_layout(height=120 + 34 * len(order), showlegend=False, **(LAYOUT | {"margin": {"l": 170, "t": 70}}))
    return figure


def _forest(figure: go.Figure, column: int, rows: Mapping[str, Statistic], styles: Mapping[str, Style]) -> None:
    for name, statistic in rows.items():
        style = styles[name]
        figure.add_scatter(
            x=[statistic.estimate],
            y=[name],
            error_x={
                "type": "data",
                "array": [statistic.high - statistic.estimate],
                "arrayminus": [statistic.estimate - statistic.low],
                "width": 4,
                "color": translucent(style.colour, bar_alpha(True)),
            },
            mode="markers",
            marker={"color": style.colour, "size": 9, "symbol": SYMBOLS[style.marker]},
            text=[f"{statistic.estimate:.3f} [{statistic.low:.3f}, {statistic.high:.3f}]"],
            hovertemplate="%{y}<br>%{text}<extra></extra>",
            row=1,
            col=column,
        )


def _along_knob(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    knob = knob_of(points)
    return sorted(points, key=lambda point: float(point.coefficients[knob])) if knob else list(points)
