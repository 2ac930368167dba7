"""A figure of the study: what the study reports, and a function that draws our trials and checks its statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.study.setting_results import SettingResults
from analysis.tables.judged_answers import JudgedFolder


@dataclass(frozen=True)
class Check:
    """A statement of the study, expressed as a rule on our numbers.

    Attributes:
        statement: what the study says, in one line.
        measured: what we measured, in one line.
        holds: whether the statement holds; None if our interval leaves it open.
    """

    statement: str
    measured: str
    holds: bool | None

    @property
    def word(self) -> str:
        """The result in one word."""
        return {True: "holds", False: "fails", None: "undecided"}[self.holds]


@dataclass(frozen=True, eq=False)
class DrawnFigure:
    """A figure drawn from our trials.

    Attributes:
        figure: the drawing.
        checks: at least one.
        sentence: what the data show.
        notes: remarks that the figure needs, such as which end of the frontier a method does not reach.
    """

    figure: Figure
    checks: Sequence[Check]
    sentence: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class StudyFigure:
    """A figure or claim of the study.

    Attributes:
        name: its name in the gallery, and the argument of `selgen reproduce`.
        title: title of its section in the gallery.
        claim: what the study reports.
        differs: possible reasons for a disagreement between scales, in sentences; printed if there is one.
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
        small: the names of those on the real language model; empty if there are none.
        draw: draws the figure from the results of every setting of these sweeps. Raises UserError.
    """

    sweeps: tuple[str, ...]
    small: tuple[str, ...] = ()
    draw: Callable[[Sequence[SettingResults]], DrawnFigure]


@dataclass(frozen=True, kw_only=True)
class AnswersFigure(StudyFigure):
    """A figure that is drawn from judged answers that the study published.

    Attributes:
        draw: draws the figure from the folder of answers. Raises UserError.
    """

    draw: Callable[[JudgedFolder], DrawnFigure]
