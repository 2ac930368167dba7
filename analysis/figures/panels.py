"""Figures of panels, with 95 % intervals: bars, curves between two scores, and heat maps.

Shape legend: R rows and C columns of a grid of cells.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.labels import Label, place_labels
from analysis.figures.style import BLACK, COLOURS, FONT, FRAME, GRID, HEAT, MARKERS, add_caption, new_figure, thin_frame
from analysis.findings.frontier import Estimate

BAR_WIDTH, LABEL_SIZE, CAPTION_WIDTH = 0.8, 6.5, 108
WIDE = (7.5, 3.4)  # inches, of one panel of bars


@dataclass(frozen=True)
class Bars:
    """A panel of grouped bars.

    Attributes:
        title: title above the panel.
        groups: labels along the axis.
        series: name -> an estimate for each group; nan draws nothing.
    """

    title: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[Estimate]]


@dataclass(frozen=True)
class Curve:
    """Points joined by a line.

    Attributes:
        name: name in the legend.
        x, y: estimates of each point.
        labels: labels next to the points.
        colour: None means the next colour of the palette.
    """

    name: str
    x: Sequence[Estimate]
    y: Sequence[Estimate]
    labels: Sequence[str] = ()
    colour: str | None = None


@dataclass(frozen=True)
class Heat:
    """A panel of cells from 0 to 1.

    Attributes:
        title: title above the panel.
        rows, columns: their labels.
        cells: for each row, an estimate for each column.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Estimate]]


def _title_and_frame(axes: Axes, title: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=FONT["normal"], loc="left")
    thin_frame(axes)


def bars_figure(panels: Sequence[Bars], text: str = "") -> Figure:
    """Draw panels of bars, one below the other, from 0 to 1. The first series, and those of base models, are grey."""
    figure = new_figure(WIDE[0], WIDE[1] * len(panels) * (0.85 if len(panels) > 1 else 1))
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        width = BAR_WIDTH / len(panel.series)
        for place, (name, estimates) in enumerate(panel.series.items()):
            x = np.arange(len(panel.groups)) + (place - (len(panel.series) - 1) / 2) * width
            grey = place == 0 or name.startswith("base")
            colour = FRAME if grey else COLOURS[(place - 1) % len(COLOURS)]
            axes.bar(x, [estimate.mean for estimate in estimates], width * 0.92, label=name, color=colour, zorder=2)
            for at, estimate in zip(x.tolist(), estimates, strict=True):
                if not math.isnan(estimate.low):
                    ends = [max(estimate.low, 0.0), min(estimate.high, 1.0)]
                    axes.plot([at, at], ends, color=BLACK, linewidth=1.0, zorder=3, solid_capstyle="butt")
        axes.set_xticks(range(len(panel.groups)), [group.replace("_", "\n") for group in panel.groups])
        axes.set_ylim(0, 1.03)
        axes.grid(axis="y", color=GRID, linewidth=0.6, zorder=0)
        _title_and_frame(axes, panel.title)
        axes.legend(fontsize=FONT["small"], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if text:
        add_caption(figure, text, CAPTION_WIDTH)
    return figure


def curves_figure(
    panels: Mapping[str, Sequence[Curve]], x_label: str, y_label: str, base: tuple[float, float] | None, text: str
) -> Figure:
    """Draw panels side by side, each plotting two scores from 0 to 1; the base model is a star."""
    figure = new_figure(4.2 * len(panels) + (1.6 if len(panels) == 1 else 0.4), 4.6)
    labels: dict[Axes, list[Label]] = {}
    for number, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        labels[axes] = []
        for place, curve in enumerate(curves):
            colour = curve.colour or COLOURS[place % len(COLOURS)]
            _draw_curve(axes, curve, colour, MARKERS[place % len(MARKERS)])
            labels[axes] += _labels(curve, colour)
        if base is not None:
            star = {"marker": "*", "markersize": 13.0, "color": "#FFFFFF", "markeredgecolor": BLACK}
            axes.plot(*base, linestyle="none", label="base model", zorder=6, **star)  # type: ignore[arg-type]
        axes.set_xlim(-0.05, 1.07)
        axes.set_ylim(-0.05, 1.07)
        axes.set_xlabel(x_label, fontsize=FONT["small"])
        axes.set_ylabel(y_label if number == 0 else "", fontsize=FONT["small"])
        axes.grid(color=GRID, linewidth=0.6)
        _title_and_frame(axes, title)
        if number == len(panels) - 1:
            axes.legend(fontsize=FONT["small"], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    add_caption(figure, text, CAPTION_WIDTH)
    for axes, panel_labels in labels.items():
        markers = [(label.x, label.y, 3.5) for label in panel_labels] + ([(*base, 7.0)] if base else [])
        place_labels(figure, axes, [label for label in panel_labels if label.text], markers, LABEL_SIZE)
    return figure


def _labels(curve: Curve, colour: str) -> list[Label]:
    """Return a label for each place of a curve; points at the same place share one, e.g. "3 to 10"."""
    texts = list(curve.labels) or [""] * len(curve.x)
    texts_at: dict[tuple[float, float], list[str]] = {}
    for text, x, y in zip(texts, curve.x, curve.y, strict=True):
        texts_at.setdefault((round(x.mean, 2), round(y.mean, 2)), []).append(text)
    return [
        Label(texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}", *place, colour)
        for place, texts in texts_at.items()
    ]


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str) -> None:
    means = [[estimate.mean for estimate in estimates] for estimates in (curve.x, curve.y)]
    axes.plot(*means, color=colour, marker=marker, markersize=5.5, linewidth=1.1, label=curve.name, zorder=4)
    for x, y in zip(curve.x, curve.y, strict=True):
        for ends, vertical in (((x.low, x.high), False), ((y.low, y.high), True)):
            if not math.isnan(ends[0]):
                where = ([x.mean, x.mean], ends) if vertical else (ends, [y.mean, y.mean])
                axes.plot(*where, color=colour, linewidth=0.9, alpha=0.6, zorder=3, solid_capstyle="butt")


def heat_figure(panels: Sequence[Heat], text: str) -> Figure:
    """Draw heat maps one below the other; each cell shows the mean and half the width of its interval."""
    heights = [0.42 * len(panel.rows) + 1.1 for panel in panels]
    figure = new_figure(max(1.1 * len(panel.columns) for panel in panels) + 2.2, sum(heights) + 0.4)
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number, 0])
        mean_RC = np.array([[estimate.mean for estimate in row] for row in panel.cells])
        axes.imshow(mean_RC, cmap=HEAT, vmin=0.0, vmax=1.0, aspect="auto")
        axes.set_xticks(range(len(panel.columns)), [name.replace("_", "\n") for name in panel.columns])
        axes.set_yticks(range(len(panel.rows)), panel.rows)
        for row, cells in enumerate(panel.cells):
            for column, estimate in enumerate(cells):
                colour = "black" if estimate.mean > 0.55 else "white"
                axes.text(column, row, _cell(estimate), ha="center", va="center", fontsize=FONT["small"], color=colour)
        _title_and_frame(axes, panel.title)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    add_caption(figure, text, CAPTION_WIDTH)
    return figure


def _cell(estimate: Estimate) -> str:
    if math.isnan(estimate.mean):
        return "-"
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.mean:.2f}" + ("" if math.isnan(half) else f" ±{half:.2f}")
