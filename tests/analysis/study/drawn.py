"""What the tests of the study's figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.study.figure import Check, DrawnFigure
from analysis.study.gallery import reproduction_of
from analysis.tables.scores import Configuration
from tests.support.made_up_trials import configuration

Means = Sequence[tuple[Configuration, Mapping[str, float]]]
PLAIN = configuration("plain")
TOPICS = ("gcd", "mod", "capitals", "homes")


def outcome(drawn: DrawnFigure) -> str:
    """Say whether a figure is reproduced, after a look at its drawing and its sentence."""
    assert drawn.figure.axes
    assert drawn.sentence.endswith(".")
    return reproduction_of(drawn.checks)


def check(drawn: DrawnFigure, words: str) -> Check:
    """Return the check whose statement contains these words."""
    (match,) = [each for each in drawn.checks if words in each.statement]
    return match
