"""The head of a figure: its title, and below it a reader's five questions with their answers."""

from __future__ import annotations

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures.style import DPI, FONT, TEXT
from analysis.findings.reading import Reading

TITLE_LINE, LINE, MARGIN, GAP = 0.22, 0.155, 0.07, 0.14  # inches
SIDE, QUESTIONS = 0.1, 1.2  # inches, width of the margins and of the questions


def head_lines(title: str, reading: Reading | None, width: float) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the lines of the title, and each question with those of its answer, for a figure `width` inches wide."""
    room = width - 2 * SIDE
    answers = [] if reading is None else reading.answers
    return wrapped(title, room, FONT["title"]), [
        (what, wrapped(text, room - QUESTIONS, FONT["small"])) for what, text in answers
    ]


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Break text between words into lines of at most `width` inches in the figures' font; a longer word stays whole."""
    renderer, font, lines = RendererAgg(1, 1, DPI), FontProperties(size=size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and renderer.get_text_width_height_descent(longer, font, ismath=False)[0] > width * DPI:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if text.strip() else []


def head_height(title: str, reading: Reading | None, width: float) -> float:
    """Return how high the head of a figure `width` inches wide is, in inches."""
    lines, answers = head_lines(title, reading, width)
    number = sum(len(text) for _, text in answers)
    return MARGIN + TITLE_LINE * len(lines) + LINE * number + GAP * bool(lines or number)


def draw_head(figure: Figure, title: str, reading: Reading | None) -> None:
    """Write title and answers at the top of a figure, and keep its axes below."""
    width, height = figure.get_size_inches().tolist()
    lines, answers = head_lines(title, reading, width)
    top = height - MARGIN
    for line in lines:
        figure.text(SIDE / width, top / height, line, fontsize=FONT["title"], va="top")
        top -= TITLE_LINE
    for question, text in answers:
        _write(figure, SIDE, top, question, "question", "bold")
        for line in text:
            _write(figure, SIDE + QUESTIONS, top, line, "answer", "normal")
            top -= LINE
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 1 - head_height(title, reading, width) / height))


def _write(figure: Figure, x: float, y: float, text: str, gid: str, weight: str) -> None:
    """Write small text with its upper left corner at (x, y) in inches."""
    width, height = figure.get_size_inches().tolist()
    small = FONT["small"]
    figure.text(x / width, y / height, text, fontsize=small, va="top", color=TEXT, fontweight=weight, gid=gid)
