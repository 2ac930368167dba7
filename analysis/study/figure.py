"""A figure of the study: what the study reports, and the function that draws our trials and checks its statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.study.setting_results import SettingResults
from analysis.tables.judged_answers import JudgedFolder


@dataclass(frozen=True)
class Check:
    """A statement of the study, put as a rule on our numbers.

    Attributes:
        statement: what the study says, in a line.
        measured: what we measured, in a line.
        holds: None when our interval leaves it open.
    """

    statement: str
    measured: str
    holds: bool | None

    @property
    def word(self) -> str:
        """The result in a word."""
        return {True: "holds", False: "fails", None: "undecided"}[self.holds]


@dataclass(frozen=True, eq=False)
class DrawnFigure:
    """A figure drawn from our trials.

    Attributes:
        figure: the drawing.
        checks: at least one.
        sentence: what the data show.
        notes: remarks that the figure needs, such as ends of the frontier that a method does not reach.
    """

    figure: Figure
    checks: Sequence[Check]
    sentence: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class StudyFigure:
    """A figure or claim of the study.

    Attributes:
        name: in the gallery and of the command that makes it.
        title: of its section in the gallery.
        claim: what the study reports.
        differs: what a disagreement between scales may come from, in sentences; printed where there is one.
    """

    name: str
    title: str
    claim: str
    differs: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepFigure(StudyFigure):
    """A figure that is drawn from trials of our sweeps.

    Attributes:
        sweeps: their names in the catalog.
        small: the names of those on the real language model; empty where there is none.
        draw: makes the figure from the results of every setting of these sweeps. Raises UserError.
    """

    sweeps: tuple[str, ...]
    small: tuple[str, ...] = ()
    draw: Callable[[Sequence[SettingResults]], DrawnFigure]


@dataclass(frozen=True, kw_only=True)
class AnswersFigure(StudyFigure):
    """A figure that is drawn from judged answers which the study published.

    Attributes:
        draw: makes the figure from the folder of answers. Raises UserError.
    """

    draw: Callable[[JudgedFolder], DrawnFigure]
