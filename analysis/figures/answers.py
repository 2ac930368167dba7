"""The head of a figure: its title, and below it a reader's five questions with their answers."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures.style import FONT, TEXT
from analysis.findings.reading import Reading

TITLE_WIDTH, ANSWER_WIDTH = 76, 106  # characters
TITLE_LINE, LINE, MARGIN, GAP = 0.22, 0.155, 0.07, 0.14  # inches
QUESTIONS = 1.2  # inches, width of the questions


def head_lines(title: str, reading: Reading | None) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the lines of the title, and each question with the lines of its answer."""
    answers = [] if reading is None else [(what, textwrap.wrap(text, ANSWER_WIDTH)) for what, text in reading.answers]
    return textwrap.wrap(title, TITLE_WIDTH), answers


def head_height(title: str, reading: Reading | None) -> float:
    """Return how high the head is, in inches."""
    lines, answers = head_lines(title, reading)
    number = sum(len(text) for _, text in answers)
    return MARGIN + TITLE_LINE * len(lines) + LINE * number + GAP * bool(lines or number)


def draw_head(figure: Figure, title: str, reading: Reading | None) -> None:
    """Write title and answers at the top of a figure, and keep its axes below."""
    lines, answers = head_lines(title, reading)
    width, height = figure.get_size_inches().tolist()
    top = height - MARGIN
    for line in lines:
        figure.text(0.1 / width, top / height, line, fontsize=FONT["title"], va="top")
        top -= TITLE_LINE
    for question, text in answers:
        _write(figure, 0.1, top, question, "question", "bold")
        for line in text:
            _write(figure, 0.1 + QUESTIONS, top, line, "answer", "normal")
            top -= LINE
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 1 - head_height(title, reading) / height))


def _write(figure: Figure, x: float, y: float, text: str, gid: str, weight: str) -> None:
    """Write small text with its upper left corner at (x, y) in inches."""
    width, height = figure.get_size_inches().tolist()
    small = FONT["small"]
    figure.text(x / width, y / height, text, fontsize=small, va="top", color=TEXT, fontweight=weight, gid=gid)
