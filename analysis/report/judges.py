"""The report's section on several judges of the same replies: how far they agree, and what survives every judge.

Shape legend: C configurations, M objectives that are drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.interactive import LAYOUT, SYMBOLS
from analysis.figures.style import COLOURS, MARKERS
from analysis.findings.frontier import Estimate
from analysis.findings.judges import JudgeComparison, JudgedPoint
from analysis.statistics.arrays import number_text
from analysis.statistics.pareto import staircase


def judges_section(comparison: JudgeComparison, num_finished: int) -> dict[str, Any]:
    """Return the template's data on a comparison, except its figure, for a sweep with this many finished trials."""
    covered = [f"it covers {comparison.num_trials} of {num_finished} finished trials"]
    return {
        "judges": comparison.judges,
        "lines": comparison.lines,
        "cautions": [
            *comparison.cautions,
            *(covered if comparison.num_trials != num_finished else []),
            *(f"left out: {line}" for line in comparison.left_out),
        ],
        "agreements": [
            {
                "judge": each.judge,
                "rubric": f"{each.rubric} ({each.threshold:g})",
                "replies": each.replies,
                "questions": each.questions,
                "missing": f"{each.missing} / {each.missing_first}",
                "bias": _cell(each.bias, 1),
                "same_side": _cell(each.same_side, 2),
                "kappa": _cell(each.kappa, 2),
            }
            for each in comparison.agreements
        ],
        "members": [
            {
                "title": point.title,
                "survives": point in comparison.surviving,
                "cells": [_seen_by(judge, point, comparison) for judge in comparison.judges],
            }
            for point in comparison.members
        ],
    }


def judges_plot(comparison: JudgeComparison) -> go.Figure:
    """Draw the configurations and the front by each judge, and next to them the bias on each method's replies."""
    y, x = comparison.objectives[:2] if len(comparison.objectives) > 1 else comparison.objectives * 2
    figure = make_subplots(
        cols=2,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.06,
        subplot_titles=("the front by each judge", f"bias against {comparison.judges[0]}, of 100"),
    )
    for number, judge in enumerate(comparison.judges):
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[MARKERS[number % len(MARKERS)]]
        _front(figure, comparison, judge, (x, y), colour)
        _points(figure, comparison, judge, (x, y), {"color": colour, "symbol": symbol})
        _biases(figure, comparison, judge, {"color": colour, "symbol": symbol})
    figure.add_vline(x=0, line={"color": "grey", "width": 1}, col=2)
    for axis, name in (("x", x), ("y", y)):
        better = comparison.higher_is_better[name]
        arrow = "\u2191" if better else "\u2193"
        update = figure.update_xaxes if axis == "x" else figure.update_yaxes
        update(title=f"{name} {arrow}", autorange=True if better else "reversed", col=1)
    figure.update_yaxes(autorange="reversed", side="right", automargin=True, col=2)
    legend = {"orientation": "h", "y": -0.16}
    height = max(460, 120 + 26 * _rows(comparison))
    figure.update_layout(height=height, hovermode="closest", legend=legend, **LAYOUT)
    return figure


def _front(figure: go.Figure, comparison: JudgeComparison, judge: str, axes: tuple[str, str], colour: str) -> None:
    """Add the staircase of the means by a judge's verdicts."""
    sign_M = np.array([comparison.sign(name) for name in axes])
    means_CM = np.array([[point.scores[judge][name].mean for name in axes] for point in comparison.points])
    gains_CM = means_CM * sign_M
    corners = staircase(gains_CM, *gains_CM.min(axis=0).tolist()) * sign_M
    figure.add_scatter(
        x=corners[:, 0],
        y=corners[:, 1],
        mode="lines",
        line={"color": colour, "dash": "dash", "width": 1.5},
        legendgroup=judge,
        showlegend=False,
        hoverinfo="skip",
        col=1,
        row=1,
    )


def _points(
    figure: go.Figure, comparison: JudgeComparison, judge: str, axes: tuple[str, str], style: dict[str, Any]
) -> None:
    """Add the configurations' means by a judge's verdicts; those on its front are filled."""
    symbols = [style["symbol"] if point.on_front[judge] else f"{style['symbol']}-open" for point in comparison.points]
    x, y = ([point.scores[judge][name] for point in comparison.points] for name in axes)
    figure.add_scatter(
        x=[each.mean for each in x],
        y=[each.mean for each in y],
        mode="markers",
        name=judge,
        legendgroup=judge,
        marker={"color": style["color"], "symbol": symbols, "size": 9},
        text=[point.title for point in comparison.points],
        hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}",
        col=1,
        row=1,
    )


def _biases(figure: go.Figure, comparison: JudgeComparison, judge: str, style: dict[str, Any]) -> None:
    """Add a judge's bias on each rubric and method, with its interval over questions."""
    rows = [
        (f"{each.rubric}: {method}", bias)
        for each in comparison.agreements
        if each.judge == judge
        for method, bias in {"all": each.bias, **each.bias_of}.items()
    ]
    if not rows:
        return
    figure.add_scatter(
        x=[bias.mean for _, bias in rows],
        y=[name for name, _ in rows],
        mode="markers",
        name=judge,
        legendgroup=judge,
        showlegend=False,
        marker={**style, "size": 8},
        error_x={
            "type": "data",
            "array": [bias.high - bias.mean for _, bias in rows],
            "arrayminus": [bias.mean - bias.low for _, bias in rows],
            "thickness": 1.2,
            "width": 3,
        },
        hovertemplate="%{y}<br>%{x:.1f}",
        col=2,
        row=1,
    )


def _rows(comparison: JudgeComparison) -> int:
    return sum(1 + len(each.bias_of) for each in comparison.agreements)


def _seen_by(judge: str, point: JudgedPoint, comparison: JudgeComparison) -> str:
    """Format a judge's results for a configuration, e.g. "yes, P 0.97: 0.812, 0.934"."""
    means = ", ".join(number_text(point.scores[judge][name].mean) for name in comparison.objectives)
    sign = "yes" if point.on_front[judge] else "no"
    return f"{sign}, P {number_text(point.p_front[judge], 2)}: {means}"


def _cell(estimate: Estimate, digits: int) -> str:
    low, high = number_text(estimate.low, digits), number_text(estimate.high, digits)
    return f"{number_text(estimate.mean, digits)} [{low}, {high}]"
