"""The look of every figure: colours, markers, fonts and sizes, and functions that create and write a figure.

Matplotlib's object interface on Agg: no window, no global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from analysis.findings.arms import PLAIN, is_plain
from settings.common.errors import UserError
from settings.common.files import output_file

# Okabe and Ito 2008, "Color Universal Design", without yellow, which is pale on white. Then four more that the
# colour-blind can tell from these. Black stands for plain fine-tuning.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#5C3A1E", "#332288", "#882255", "#8C564B"),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "<", ">", "h", "d", "p")
BLACK, TEXT, LINE, FRAME, GRID = "#000000", "#333333", "#777777", "#999999", "#E6E6E6"
BARS = 2.5  # drawing order of intervals: below all means
TIED_STEP, TIED_MOST = 3.5, 14.0  # points by which markers at one place grow from each to the next, and at most
HEAT = "cividis"  # uniform in lightness, and the same to the colour-blind (Nunez, Anderton and Renslow 2018)
FORMATS = ("png", "pdf", "svg")
DPI = 240
FONT = {"small": 8.0, "normal": 9.0, "title": 10.5}


@dataclass(frozen=True)
class Style:
    """How a method is drawn."""

    colour: str
    marker: str
    size: float = 6.5


def method_styles(methods: Collection[str]) -> dict[str, Style]:
    """Give each method of a sweep a colour and a marker, in alphabetical order; plain fine-tuning is a dark cross.

    Every figure and page calls this with the methods of the whole sweep (`ScoreTable.drawn_methods`), so that a method
    looks the same even if others are missing.
    """
    others = sorted({name for name in methods if not is_plain(name)})
    styles = {name: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    plain = sorted({name for name in methods if is_plain(name)})
    return styles | {name: Style(BLACK if name == PLAIN else TEXT, "X", 8.0) for name in plain}


def tied_sizes(number: int) -> list[float]:
    """Return how much to enlarge the markers of methods at one place, in points; the first is the outermost."""
    step = min(TIED_STEP, TIED_MOST / max(number - 1, 1))
    return [step * (number - 1 - place) for place in range(number)]


def bar_alpha(on_front: bool) -> float:
    """Return the opacity of an interval's bar: low, so that bars hide neither means nor each other."""
    return 0.45 if on_front else 0.22


def marker_outline(marker: str) -> list[tuple[float, float]]:
    """Return the corners of a marker, scaled to between -1 and 1, with y upwards."""
    style = MarkerStyle(marker)
    outline = style.get_path().transformed(style.get_transform()).to_polygons()[0]
    return [(float(x), float(y)) for x, y in outline / np.abs(outline).max()]


def darkened(colour: str) -> str:
    """Darken a colour so that it is legible as small text on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with a canvas; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def thin_frame(axes: Axes) -> None:
    """Set small tick labels, and draw only grey left and bottom lines."""
    axes.tick_params(labelsize=FONT["small"], color=FRAME)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FRAME)


def add_caption(figure: Figure, text: str, width: int, linespacing: float | None = None) -> None:
    """Write a caption below a figure, wrapped to `width` characters."""
    wrapped = "\n".join(textwrap.wrap(text, width))
    options = {} if linespacing is None else {"linespacing": linespacing}
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=FONT["small"], color=TEXT, **options)


def check_format(path: Path) -> str:
    """Return the suffix of a file's name. Raises UserError if figures cannot be written in that format."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UserError(f"cannot draw {path}: the name must end in .{', .'.join(FORMATS)}")
    return ending


def save_figure(path: Path, figure: Figure, dpi: int = DPI) -> None:
    """Write a figure atomically, without dates and, in a PNG, without the name of the program. Raises UserError."""
    ending = check_format(path)
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[ending]
    with output_file(path) as temporary:
        figure.savefig(temporary, format=ending, metadata=metadata, dpi=dpi)
