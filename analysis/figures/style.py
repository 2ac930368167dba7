"""How every figure looks: colours, markers, fonts and sizes, and how a drawing is made and written.

Matplotlib's object interface on Agg: no window, no global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.findings.arms import PLAIN
from settings.common.errors import UserError
from settings.common.files import output_file

# Okabe and Ito 2008, "Color Universal Design", with yellow darkened and three more; black is plain fine-tuning's.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800"),
    *("#7B3FA0", "#8C564B", "#6E6E6E"),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "<", ">", "h", "d", "p")
BLACK, TEXT, LINE, FRAME, GRID = "#000000", "#333333", "#777777", "#999999", "#E6E6E6"
OBJECTIVE_COLOURS = ("#D55E00", "#0072B2", "#009E73")  # where one axis has all objectives
HEAT = "cividis"  # even in lightness, and the same to the colour-blind (Nunez, Anderton and Renslow 2018)
FORMATS = ("png", "pdf", "svg")
DPI = 240
FONT = {"small": 8.0, "normal": 9.0, "title": 10.5}


@dataclass(frozen=True)
class Style:
    """How a method is drawn."""

    colour: str
    marker: str
    size: float = 6.5


def method_styles(methods: Sequence[str]) -> dict[str, Style]:
    """Give each method a colour and a marker, in alphabetical order; plain fine-tuning is a black cross."""
    others = sorted(set(methods) - {PLAIN})
    styles = {name: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    return styles | ({PLAIN: Style(BLACK, "X", 8.0)} if PLAIN in methods else {})


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with a canvas; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def thin_frame(axes: Axes) -> None:
    """Draw small tick labels and grey lines to the left and below only."""
    axes.tick_params(labelsize=FONT["small"], color=FRAME)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FRAME)


def add_caption(figure: Figure, text: str, width: int, linespacing: float | None = None) -> None:
    """Write a caption of at most `width` characters a line below a figure."""
    wrapped = "\n".join(textwrap.wrap(text, width))
    options = {} if linespacing is None else {"linespacing": linespacing}
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=FONT["small"], color=TEXT, **options)


def check_format(path: Path) -> str:
    """Return the ending of a file's name. Raises UserError when nothing can be drawn to such a file."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UserError(f"cannot draw {path}: the name must end in .{', .'.join(FORMATS)}")
    return ending


def save_figure(path: Path, figure: Figure, dpi: int = DPI) -> None:
    """Write a figure in one move, without the time and the program that wrote it. Raises UserError."""
    ending = check_format(path)
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[ending]
    with output_file(path) as temporary:
        figure.savefig(temporary, format=ending, metadata=metadata, dpi=dpi)
