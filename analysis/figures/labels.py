"""Labels next to the points of a figure, placed so that they cover neither markers nor each other.

Shape legend: N positions in pixels or data units, K obstacles (columns: centre x, centre y, half width, half height).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from analysis.statistics.arrays import Floats

FORBIDDEN = 1e3  # cost of covering a marker or another label, or of leaving the axes
ON_LINE, ON_DOT, FARTHER = 1.0, 0.4, 0.5  # cost of covering a piece of a line, or a dot; of the next larger distance
ANGLES = np.radians([45, 135, 90, 0, -45, 180, -90, -135])  # in order of preference
DISTANCES = (6.0, 11.0, 18.0, 27.0, 40.0, 60.0)  # points, from the marker's centre to the label's edge
PIECE, LEADER = 4.0, 4.0  # points: between the obstacles along a line; from a point to the start of its leader


@dataclass(frozen=True)
class Label:
    """A text and the point, in data units, that it belongs to; `short` replaces the text if there is no room."""

    text: str
    x: float
    y: float
    colour: str
    short: str = ""


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[Label], markers: Sequence[tuple[float, float, float]], size: float
) -> None:
    """Write each label at the best free place around its point; a hairline connects a label that is farther away.

    The search is greedy, in the order of the labels, over eight directions and six distances. Markers and other labels
    are never covered: a label without a free place is replaced by its short form, or left out. Lines and dots are
    avoided if possible.

    Args:
        figure, axes: complete except for the labels; the limits must not change afterwards.
        labels: texts and their points.
        markers: x and y in data units, radius in points.
        size: font size in points.
    """
    figure.draw_without_rendering()  # computes the layout, so that pixel positions are known
    pixel = figure.dpi / 72
    boxes_K4, cost_K = _obstacles(axes, markers, pixel)
    inside = axes.get_window_extent()
    queue = list(labels)
    while queue:
        label = queue.pop(0)
        text = _write(axes, label, size)
        box = text.get_window_extent()
        half = np.array([box.width, box.height]) / 2
        offset_N2 = np.array(
            [
                [math.cos(angle) * (distance * pixel + half[0]), math.sin(angle) * (distance * pixel + half[1])]
                for distance in DISTANCES
                for angle in ANGLES
            ]
        )
        centre_N2 = axes.transData.transform((label.x, label.y)) + offset_N2
        cost_N = _cost(centre_N2, half, boxes_K4, cost_K)
        cost_N += FARTHER * (np.arange(len(offset_N2)) // len(ANGLES))
        leaves_N2 = (centre_N2 - half < inside.min) | (centre_N2 + half > inside.max)
        cost_N[leaves_N2.any(axis=1)] += FORBIDDEN
        best = int(np.argmin(cost_N))
        if cost_N[best] >= FORBIDDEN:
            text.remove()
            if label.short:
                queue.insert(0, replace(label, text=label.short, short=""))
            continue
        text.set_position(tuple((offset_N2[best] / pixel).tolist()))
        boxes_K4 = np.vstack([boxes_K4, [*centre_N2[best], *half]])
        cost_K = np.append(cost_K, FORBIDDEN)
        if best >= len(ANGLES):
            _draw_leader(axes, label, offset_N2[best], half, pixel)


def _write(axes: Axes, label: Label, size: float) -> Annotation:
    """Write the text, provisionally centred on its point."""
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=size,
        color=label.colour,
        ha="center",
        va="center",
        zorder=7,
        annotation_clip=False,
    )
    text.set_in_layout(False)
    text.set_path_effects([withStroke(linewidth=2.2, foreground="#FFFFFF", alpha=0.85)])
    return text


def _obstacles(axes: Axes, markers: Sequence[tuple[float, float, float]], pixel: float) -> tuple[Floats, Floats]:
    """Return markers, dots and pieces of lines as boxes_K4 in pixels, and the cost_K of covering them."""
    boxes, costs = [], []
    for x, y, radius in markers:
        boxes.append([*axes.transData.transform((x, y)), radius * pixel, radius * pixel])
        costs.append(FORBIDDEN)
    for line in axes.get_lines():
        path_N2 = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        path_N2 = path_N2[np.isfinite(path_N2).all(axis=1)]
        dots = line.get_linestyle() == "None"
        spots_N2 = path_N2 if dots else _pieces(path_N2, PIECE * pixel)
        half = 1.5 * pixel if dots else 0.5 * pixel
        boxes += [[x, y, half, half] for x, y in spots_N2]
        costs += [ON_DOT if dots else ON_LINE] * len(spots_N2)
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(costs, dtype=np.float64)


def _pieces(path_N2: Floats, length: float) -> Floats:
    """Return positions along a line, at most `length` apart."""
    spots = [np.empty((0, 2))]
    for start, end in itertools.pairwise(path_N2):
        number = 2 + int(np.hypot(*(end - start)) / length)
        spots.append(start + np.linspace(0, 1, number)[:, None] * (end - start))
    return np.concatenate(spots)


def _cost(centre_N2: Floats, half: Floats, boxes_K4: Floats, cost_K: Floats) -> Floats:
    """Return cost_N of what boxes with these centres and this half size would cover."""
    distance_NK2 = np.abs(centre_N2[:, None, :] - boxes_K4[None, :, :2])
    covers_NK = (distance_NK2 < half + boxes_K4[None, :, 2:]).all(axis=2)
    return np.asarray(covers_NK @ cost_K, dtype=np.float64)


def _draw_leader(axes: Axes, label: Label, offset: Floats, half: Floats, pixel: float) -> None:
    """Draw a hairline between the edges of a point and of its label, whose centre is `offset` pixels away."""
    start = axes.transData.transform((label.x, label.y))
    steep = np.abs(offset) / half
    ends = LEADER * pixel / np.hypot(*offset), 1 - 1 / steep.max()
    ends_N2 = axes.transData.inverted().transform([start + end * offset for end in ends])
    axes.plot(ends_N2[:, 0], ends_N2[:, 1], color=label.colour, linewidth=0.5, zorder=6)
