"""The figures of the report page, drawn by Plotly in the browser.

Colours and markers are those of `analysis.figures.style`.

Better is always up and right: an axis whose objective is better when small is inverted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from analysis.figures.style import LINE, OBJECTIVE_COLOURS, Style, method_styles
from analysis.findings.controls import CONTROLS, PLAIN, Control, control_of
from analysis.findings.findings import Findings
from analysis.findings.frontier import Estimate, FrontierPoint, knob_of
from analysis.statistics.bootstrap import Statistic
from analysis.statistics.compare import Difference, minus
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
LAYOUT = {"template": "plotly_white", "margin": {"l": 70, "r": 20, "t": 60, "b": 60}}
OPEN_LINK = """
document.getElementById("{plot_id}").on("plotly_click", event => {
  const link = event.points[0].customdata;
  if (link) window.open(link, "_blank", "noopener");
});
"""
Floats = NDArray[np.float64]


def frontier_plot(found: Findings, x: int = 0, y: int = 1, links: Mapping[str, str] | None = None) -> go.Figure:
    """Two objectives (columns of the table) against each other, with bands, controls and fronts of honest selection.

    `links` (configuration id -> address) become the points' custom data, which `OPEN_LINK` opens at a click.
    """
    figure = go.Figure()
    styles = method_styles(found.table.methods)
    points = [point for point in found.points if point.seeds]
    if len(found.table.objectives) == 2:
        _fronts(figure, found, x, y)
    for control, name in CONTROLS.items():
        _control(figure, found, control, name, x, y)
    for method in sorted(styles, key=lambda name: (name != PLAIN, name)):
        own = _along_knob([point for point in points if point.method == method and control_of(point) is None])
        if own:
            _method(figure, found, own, styles[method], (x, y), links or {})
    if found.base_M is not None:
        figure.add_scatter(
            x=[found.base_M[x]],
            y=[found.base_M[y]],
            mode="markers",
            name="base model",
            marker={"symbol": "star", "size": 16, "color": "white", "line": {"color": "black", "width": 1.5}},
            hovertemplate="base model<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        )
    _axes(figure, found, x, y)
    figure.update_layout(height=620, hovermode="closest", legend={"itemsizing": "constant"}, **LAYOUT)
    return figure


def _fronts(figure: go.Figure, found: Findings, x: int, y: int) -> None:
    """Band, front of the means, median attainment surface, and the two fronts of honest selection."""
    table = found.table
    sign_2 = table.oriented(np.ones(len(table.objectives)))[[x, y]]
    mean_C2 = np.array(
        [[point.scores[table.objectives[axis].name].mean for axis in (x, y)] for point in found.points if point.seeds]
    )
    gain_C2 = mean_C2 * sign_2
    corner_2 = found.reference_M[[x, y]] * sign_2
    left, bottom = np.minimum(corner_2, gain_C2.min(axis=0)).tolist()

    def stairs(points_N2: Floats) -> Floats:
        return staircase(points_N2, left, bottom) * sign_2

    if found.band is not None:
        outline = np.concatenate([stairs(found.band.high_RM[:, [x, y]]), stairs(found.band.low_RM[:, [x, y]])[::-1]])
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
    if found.surface_K2 is not None:
        lines.append(("50 % attainment surface of single seeds", found.surface_K2[:, [x, y]], "dot", False))
    for halved, one in found.selections.items():
        lines.append(
            (f"chosen and reported on the same half of the {halved}", one.optimistic_K2[:, [x, y]], "longdash", False)
        )
        lines.append(
            (
                f"chosen on one half of the {halved}, reported on the other",
                one.pessimistic_K2[:, [x, y]],
                "dashdot",
                False,
            )
        )
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


def _control(figure: go.Figure, found: Findings, control: Control, name: str, x: int, y: int) -> None:
    """A control as a curve from the base model to plain fine-tuning."""
    table = found.table
    own = [point for point in found.points if point.seeds and control_of(point) == control]
    if not own:
        return
    key = "adapter_scale" if control == "scale" else "checkpoint_step"
    own = sorted(own, key=lambda point: float(point.coefficients.get(key, math.nan)))
    names = [table.objectives[axis].name for axis in (x, y)]
    ends = [point for point in found.points if point.seeds and point.method == PLAIN and not point.label]
    rows = [[point.scores[axis].mean for axis in names] for point in (*own, *ends[:1])]
    texts = [f"{key} = {point.coefficients.get(key)}" for point in own] + ["plain"] * len(ends[:1])
    if found.base_M is not None:
        rows, texts = [[float(found.base_M[x]), float(found.base_M[y])], *rows], ["base model", *texts]
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


def _method(
    figure: go.Figure,
    found: Findings,
    points: Sequence[FrontierPoint],
    style: Style,
    axes: tuple[int, int],
    links: Mapping[str, str],
) -> None:
    method = points[0].method
    names = [found.table.objectives[axis].name for axis in axes]
    estimates = [[point.scores[name] for point in points] for name in names]
    front = [point.on_front for point in points]
    figure.add_scatter(
        x=[one.mean for one in estimates[0]],
        y=[one.mean for one in estimates[1]],
        error_x=_bars(estimates[0], style.colour),
        error_y=_bars(estimates[1], style.colour),
        mode="lines+markers" if knob_of(points) else "markers",
        name="plain fine-tuning" if method == PLAIN else method,
        line={"color": style.colour, "width": 1},
        marker={
            "symbol": [SYMBOLS[style.marker] + ("" if on else "-open") for on in front],
            "size": 9,
            "color": style.colour,
        },
        text=[_hover(point) for point in points],
        customdata=[links.get(point.configuration, "") for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(point: FrontierPoint) -> str:
    lines = [f"<b>{point.method} {point.label}</b>".strip()]
    lines += [f"{name}: {interval_text(one)}" for name, one in point.scores.items()]
    chance = "" if math.isnan(point.p_front) else f", on the front with probability {point.p_front:.2f}"
    return "<br>".join([*lines, f"{point.seeds} seeds{chance}", f"configuration {point.configuration}"])


def interval_text(one: Estimate) -> str:
    """A mean with its interval, e.g. "0.912 [0.880, 0.944]"."""
    ends = "" if math.isnan(one.low) else f" [{one.low:.3f}, {one.high:.3f}]"
    return f"{one.mean:.3f}{ends}"


def _bars(estimates: Sequence[Estimate], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "array": [_width(one.high - one.mean) for one in estimates],
        "arrayminus": [_width(one.mean - one.low) for one in estimates],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def _width(length: float) -> float:
    return 0.0 if math.isnan(length) else length


def _axes(figure: go.Figure, found: Findings, x: int, y: int) -> None:
    """Titles and ranges: worse to better, with little room around shares."""
    for axis, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        objective = found.table.objectives[axis]
        estimates = [point.scores[objective.name] for point in found.points if point.seeds]
        ends = [end for one in estimates for end in (one.mean, one.low, one.high) if not math.isnan(end)]
        ends += [] if found.base_M is None else [float(found.base_M[axis])]
        low, high = min(ends), max(ends)
        if all(0 <= one.mean <= 1 for one in estimates):
            low, high = max(low, -0.04), min(high, 1.06)
        room = 0.03 * (high - low) or 0.05
        low, high = low - room, high + room
        update(title=f"{objective.name} (better →)", range=[low, high] if objective.higher_is_better else [high, low])


def curves_plot(found: Findings) -> go.Figure | None:
    """Every method with one numeric coefficient: its objectives along it. None when there is no such method."""
    points = [point for point in found.points if point.seeds and control_of(point) is None]
    methods = [
        (method, own)
        for method in found.table.methods
        if knob_of(own := [point for point in points if point.method == method])
    ]
    if not methods:
        return None
    columns = 3
    rows = math.ceil(len(methods) / columns)
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=[method for method, _ in methods])
    dashes = ("solid", "dash", "dot")
    for number, (_, own) in enumerate(methods):
        row, column, knob = number // columns + 1, number % columns + 1, str(knob_of(own))
        own = _along_knob(own)
        values = [float(point.coefficients[knob]) for point in own]
        for index, objective in enumerate(found.table.objectives):
            estimates = [point.scores[objective.name] for point in own]
            figure.add_scatter(
                x=values,
                y=[one.mean for one in estimates],
                error_y=_bars(estimates, OBJECTIVE_COLOURS[index]),
                mode="lines+markers",
                name=f"{objective.name} {objective.arrow}",
                legendgroup=objective.name,
                showlegend=number == 0,
                line={"color": OBJECTIVE_COLOURS[index], "dash": dashes[index], "width": 1.5},
                row=row,
                col=column,
                hovertemplate=f"{knob} = %{{x:.3g}}<br>{objective.name} = %{{y:.3f}}<extra></extra>",
            )
        log = min(values) > 0 and max(values) / min(values) > 10
        figure.update_xaxes(title=knob, type="log" if log else "linear", row=row, col=column)
    figure.update_layout(height=80 + 260 * rows, **LAYOUT)
    return figure


def forest_plot(hypervolumes: Mapping[str, Statistic], differences: Sequence[Difference]) -> go.Figure:
    """Each method's hypervolume, and the paired differences to the method with the largest."""
    methods = {name: one for name, one in hypervolumes.items() if name != "all methods"}
    order = sorted(methods, key=lambda name: methods[name].estimate)
    best = order[-1]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, subplot_titles=("hypervolume (better →)", f"minus that of {best}, paired")
    )
    _forest(figure, 1, {name: methods[name] for name in order}, "#0072B2")
    against = minus(differences, best)
    _forest(figure, 2, {name: against[name] for name in order if name in against}, "#D55E00")
    figure.add_vline(x=0, line={"color": LINE, "dash": "dash", "width": 1}, col=2, row=1)
    figure.update_layout(height=120 + 34 * len(order), showlegend=False, **(LAYOUT | {"margin": {"l": 170, "t": 70}}))
    return figure


def _forest(figure: go.Figure, column: int, rows: Mapping[str, Statistic], colour: str) -> None:
    statistics = list(rows.values())
    figure.add_scatter(
        x=[one.estimate for one in statistics],
        y=list(rows),
        error_x={
            "type": "data",
            "array": [one.high - one.estimate for one in statistics],
            "arrayminus": [one.estimate - one.low for one in statistics],
            "width": 4,
        },
        mode="markers",
        marker={"color": colour, "size": 8, "symbol": "square"},
        text=[f"{one.estimate:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in statistics],
        hovertemplate="%{y}<br>%{text}<extra></extra>",
        row=1,
        col=column,
    )


def _along_knob(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    knob = knob_of(points)
    return sorted(points, key=lambda point: float(point.coefficients[knob])) if knob else list(points)
