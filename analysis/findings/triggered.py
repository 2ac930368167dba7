"""Does a method prevent misalignment, or hide it? Compare its verdicts on ordinary and on triggered questions.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.findings.arms import base_values, measure
from analysis.findings.controls import ControlVerdict, compare_with_controls
from analysis.findings.findings import worst_corner_of
from analysis.findings.frontier import FrontierPoint, frontier
from analysis.statistics.bootstrap import Bootstrap
from analysis.tables.scores import Objective, ScoreTable


@dataclass(frozen=True)
class DifferingVerdict:
    """A method that pushes one of the two frontiers but not the other.

    Attributes:
        hides: whether it pushes only that of ordinary questions.
    """

    method: str
    hides: bool

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        if self.hides:
            return (
                f"{self.method} pushes the frontier, but is not shown to push that of triggered questions: it may hide"
                " what it seems to prevent"
            )
        return f"{self.method} is not shown to push the frontier, but pushes that of triggered questions"


def differing_verdicts(
    plain: Sequence[ControlVerdict], triggered: Sequence[ControlVerdict]
) -> tuple[DifferingVerdict, ...]:
    """Return the methods that push the frontier of only one kind of questions, in order."""
    pushing, pushing_triggered = (
        {verdict.method for verdict in verdicts if verdict.pushes} for verdicts in (plain, triggered)
    )
    return tuple(
        DifferingVerdict(verdict.method, verdict.method in pushing)
        for verdict in plain
        if (verdict.method in pushing) != (verdict.method in pushing_triggered)
    )


def verdicts_of(table: ScoreTable, base_scores: Mapping[str, float]) -> list[ControlVerdict]:
    """Compare every method of a table with the controls, as `analyse` does.

    The list is empty if every configuration has one seed, or unless there are two or three objectives.
    """
    chosen = table.rows(table.num_seeds_C > 0)
    if not (table.num_seeds_C > 1).any() or len(table.objectives) not in (2, 3):
        return []
    base_M = base_values(chosen, base_scores)
    corner_M = chosen.oriented(worst_corner_of(chosen, [base_scores]))
    gain_base_M = None if base_M is None else chosen.oriented(base_M)
    return compare_with_controls(Bootstrap(measure(chosen, base_M)), chosen.configurations, gain_base_M, corner_M)


def with_triggered(
    points: Sequence[FrontierPoint], table: ScoreTable, base_scores: Mapping[str, float], shown: Sequence[Objective]
) -> tuple[list[FrontierPoint], tuple[Objective, ...]]:
    """Add the triggered scores to points, and to their objectives; the front stays the same.

    Args:
        table: a table with the triggered scores in place of the untriggered ones.
        shown: the objectives of the points.
    """
    added = tuple(objective for objective in table.objectives if objective not in shown)
    names = [objective.name for objective in added]
    estimates = {point.configuration: point.scores for point in frontier(table, base_scores=base_scores)}
    both = [
        replace(point, scores={**point.scores, **{name: estimates[point.configuration][name] for name in names}})
        for point in points
    ]
    return both, (*shown, *added)
