"""All numbers that a report gives on one setting of a sweep: computed once, shown as page, figure and JSON.

Shape legend: C configurations with a trial, S seeds, M objectives, Q questions, K corners, N values of one score.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.findings.arms import base_values, definition_of, families, measure
from analysis.findings.cautions import Place, cautions
from analysis.findings.controls import ControlVerdict, compare_with_controls
from analysis.findings.frontier import FrontierPoint, frontier
from analysis.statistics import selection
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import TWO_SEEDS, VERDICT_SEEDS, Band, Bootstrap, Statistic
from analysis.statistics.compare import Advice, Difference, Front, advise_seeds, compare_fronts, estimate_hypervolume
from analysis.statistics.intervals import TwoWay, shrunk_spread, two_way_interval
from analysis.statistics.pareto import attainment_surface
from analysis.tables.questions import Grade, QuestionTable, question_table
from analysis.tables.scores import Objective, ScoreTable
from settings.common.errors import UserError

ALL_METHODS = "all methods"
MARGIN = 0.1  # part of the range by which the worst corner of an unbounded objective lies below the worst score


@dataclass(frozen=True, eq=False)
class Findings:
    """The results of a table.

    Attributes:
        table: the configurations with a finished trial, in the analysed objectives.
        points: all configurations, those on the front first.
        base_M: scores of the untouched base model; None if one is missing.
        worst_corner_M: the corner from which the hypervolume is measured, as scores.
        band: where the frontier of the true curves lies, in gains; None if no configuration has two seeds, or unless
            there are two or three objectives.
        surface_K2: the median attainment surface, in gains; None without two seeds, or unless there are two objectives.
        hypervolumes: method (and "all methods") -> its hypervolume; empty where `band` is None.
        differences: between methods, adjusted together.
        control_verdicts: each method compared with the controls.
        selections: what is halved ("seeds" or "questions") -> the honest selection.
        advice: where more seeds would settle the frontier.
        questions: configuration id -> objective -> interval over seeds and questions.
        cautions: what is known not to hold for such a table, by the place where it is shown.
        gaps: what could not be computed, and why.
    """

    table: ScoreTable
    points: list[FrontierPoint]
    base_M: Floats | None
    worst_corner_M: Floats
    band: Band | None
    surface_K2: Floats | None
    hypervolumes: Mapping[str, Statistic]
    differences: Sequence[Difference]
    control_verdicts: Sequence[ControlVerdict]
    selections: Mapping[str, selection.Selection]
    advice: Sequence[Advice]
    questions: Mapping[str, Mapping[str, TwoWay]]
    cautions: Mapping[Place, Sequence[str]]
    gaps: Sequence[str]

    @property
    def method_hypervolumes(self) -> Mapping[str, Statistic]:
        """The hypervolumes of single methods."""
        return {name: size for name, size in self.hypervolumes.items() if name != ALL_METHODS}

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON data; nan and infinity become None."""
        return {
            "objectives": [
                {"name": objective.name, "kind": objective.kind, "higher_is_better": objective.higher_is_better}
                for objective in self.table.objectives
            ],
            "worst_corner": self.worst_corner_M.tolist(),
            "base": None if self.base_M is None else self.base_M.tolist(),
            "points": [self._point(point) for point in self.points],
            "hypervolumes": {name: volume.to_json() for name, volume in self.hypervolumes.items()},
            "differences": [difference.to_json() for difference in self.differences],
            "control_verdicts": [
                {
                    "method": verdict.method,
                    "beats": list(verdict.beats),
                    "loses_to": list(verdict.loses),
                    "text": verdict.text,
                    "against": {name: difference.to_json() for name, difference in verdict.against.items()},
                }
                for verdict in self.control_verdicts
            ],
            "honest_selection": {
                halved: {
                    "optimistic": chosen.optimistic,
                    "pessimistic": chosen.pessimistic,
                    "halvings": chosen.num_halvings,
                }
                for halved, chosen in self.selections.items()
            },
            "more_seeds": [
                {
                    "configuration": self.table.configurations[advice.row].id,
                    "p_front": advice.probability,
                    "add": advice.add,
                    "rival": self.table.configurations[advice.rival].id,
                }
                for advice in self.advice
            ],
            "cautions": [text for texts in self.cautions.values() for text in texts],
            "gaps": list(self.gaps),
        }

    def _point(self, point: FrontierPoint) -> dict[str, Any]:
        facts = point.to_json() | {"on_front": point.on_front, "excluded": dict(point.excluded)}
        for name, interval in self.questions.get(point.configuration, {}).items():
            facts[name] = facts[name] | {"low_over_questions": interval.low, "high_over_questions": interval.high}
        return facts


def analyse(
    table: ScoreTable,
    base_scores: Mapping[str, float] | None = None,
    grades: Sequence[Grade] = (),
    objectives: Sequence[str] | None = None,
    worst_corner: Mapping[str, float] | None = None,
) -> Findings:
    """Analyse a table.

    Args:
        table: the scores of one setting.
        base_scores: score name -> mean of the untouched base model.
        grades: grades of single questions, if there are any.
        objectives: two or three names; None means the table's first three.
        worst_corner: objective -> the score from which the hypervolume is measured. The default is 0 (1 where less is
            better) if all scores lie in [0, 1], and otherwise a tenth of the range below the worst score.

    Raises UserError: no finished trial; no such objective; a worst corner for an objective that is not analysed.
    """
    names = [objective.name for objective in table.objectives][:3] if objectives is None else list(objectives)
    chosen = table.select(names)
    base_M = base_values(chosen, base_scores or {})
    bootstrap = Bootstrap(measure(chosen, base_M)) if (chosen.num_seeds_C > 1).any() else None
    points = frontier(chosen, base_scores=base_scores, bootstrap=bootstrap)
    chosen = chosen.rows(chosen.num_seeds_C > 0)
    worst_corner_M = worst_corner_of(chosen, [base_scores or {}], worst_corner or {})
    questions = question_table(chosen, grades)
    gaps = []
    left_out = [objective.name for objective in table.objectives if objective.name not in names]
    if objectives is None and left_out:
        gaps.append(f"at most three objectives are analysed together; choose others to see {', '.join(left_out)}")
    if len(names) not in (2, 3):
        bootstrap = None
        gaps.append(f"no hypervolume, and nothing based on it: it needs two or three objectives, not {len(names)}")
    elif bootstrap is None:
        gaps.append("no band, no hypervolume and no comparison of methods: every configuration has one seed")
    elif chosen.num_seeds_C.max() < VERDICT_SEEDS:
        gaps.append(TWO_SEEDS)
    unknown = [objective.name for objective in chosen.objectives if objective.low is None and objective.high is None]
    if unknown:
        gaps.append(f"the range of {', '.join(unknown)} is not recorded, so its intervals may leave it")
    gaps += _without_questions(chosen, grades)
    gain_base_M = None if base_M is None else chosen.oriented(base_M)
    gain_corner_M = chosen.oriented(worst_corner_M)
    fronts = method_fronts(chosen)
    p_front = {point.configuration: point.p_front for point in points}
    differences = compare_fronts(bootstrap, fronts, gain_corner_M, comparable(fronts)) if bootstrap else []
    p_front_C = np.array([p_front[configuration.id] for configuration in chosen.configurations])
    return Findings(
        table=chosen,
        points=points,
        base_M=base_M,
        worst_corner_M=worst_corner_M,
        band=bootstrap.band() if bootstrap else None,
        surface_K2=_surface(chosen) if bootstrap and len(names) == 2 else None,
        hypervolumes={name: estimate_hypervolume(bootstrap, front, gain_corner_M) for name, front in fronts.items()}
        if bootstrap
        else {},
        differences=differences,
        control_verdicts=compare_with_controls(bootstrap, chosen.configurations, gain_base_M, gain_corner_M)
        if bootstrap
        else [],
        selections=_selections(bootstrap, chosen, questions, gain_corner_M) if bootstrap else {},
        advice=advise_seeds(bootstrap, p_front_C) if bootstrap else [],
        questions=_two_way(chosen, questions),
        cautions=cautions(chosen, differences, base_scores),
        gaps=gaps,
    )


def worst_corner_of(
    table: ScoreTable, bases: Sequence[Mapping[str, float]] = (), chosen: Mapping[str, float] | None = None
) -> Floats:
    """Return worst_corner_M, the corner from which the hypervolume is measured, as scores (see `analyse`).

    Args:
        bases: scores of base models; the corner lies below these, too.
        chosen: objective -> its score in the corner.

    Raises UserError: `chosen` names an unknown objective.
    """
    chosen = chosen or {}
    unknown = sorted(set(chosen) - {objective.name for objective in table.objectives})
    if unknown:
        names = ", ".join(objective.name for objective in table.objectives)
        raise UserError(f"the hypervolume's worst corner names {unknown[0]!r}; the objectives are {names}")
    worst = []
    for column, objective in enumerate(table.objectives):
        seen_N = np.array(
            [*table.values_CSM[:, :, column].ravel(), *(base.get(objective.name, np.nan) for base in bases)]
        )
        worst.append(chosen.get(objective.name, _worst(objective, seen_N[np.isfinite(seen_N)])))
    return np.array(worst)


def _worst(objective: Objective, seen_N: Floats) -> float:
    low, high = float(seen_N.min()), float(seen_N.max())
    if low >= 0 and high <= 1:
        return 0.0 if objective.higher_is_better else 1.0
    margin = MARGIN * (high - low) or 1.0
    return low - margin if objective.higher_is_better else high + margin


def method_fronts(table: ScoreTable) -> dict[str, Front]:
    """Return the front of all configurations and of each method, which includes readouts of its trainings.

    Those are the controls of plain fine-tuning, and the blends of two trainings of one method.
    """
    nothing = np.empty((0, len(table.objectives)))
    fronts = {ALL_METHODS: Front(np.ones(len(table.configurations), dtype=bool), nothing)}
    family_C = families(table.configurations)
    return fronts | {method: Front(family_C == method, nothing) for method in sorted(set(family_C.tolist()))}


def comparable(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of methods that have the same definition."""
    methods = [name for name in names if name != ALL_METHODS]
    return [pair for pair in itertools.combinations(methods, 2) if definition_of(pair[0]) == definition_of(pair[1])]


def _surface(table: ScoreTable) -> Floats:
    """Compute the median attainment surface; each seed contributes the configurations that finished it."""
    gains_CSM = table.gains_CSM
    sets = [gains_CSM[~np.isnan(gains_CSM[:, seed]).any(axis=1), seed] for seed in range(len(table.seeds))]
    return attainment_surface([points for points in sets if len(points)])


def _selections(
    bootstrap: Bootstrap, table: ScoreTable, questions: QuestionTable | None, worst_corner_M: Floats
) -> dict[str, selection.Selection]:
    by_half = {"seeds": selection.select_by_seeds(bootstrap, worst_corner_M)}
    if questions is not None:
        gains_CQM = table.oriented(questions.seed_means())
        by_half["questions"] = selection.select_by_questions(bootstrap, gains_CQM, worst_corner_M)
    return {halved: chosen for halved, chosen in by_half.items() if chosen is not None}


def _without_questions(table: ScoreTable, grades: Sequence[Grade]) -> Iterator[str]:
    """Yield which scores have no interval over questions, such as one that is the worst of several scores."""
    graded = {grade.score for grade in grades}
    lacking = [objective.name for objective in table.objectives if objective.name not in graded]
    if not graded:
        yield "no interval over questions: the sweep has not published the grades of single questions (yet)"
    elif lacking:
        yield (
            f"no interval over questions for {', '.join(lacking)}: grades of single questions are kept for the sweep's"
            " own objectives, but not for the worst of several scores"
        )


def _two_way(table: ScoreTable, questions: QuestionTable | None) -> dict[str, dict[str, TwoWay]]:
    if questions is None:
        return {}
    intervals: dict[str, dict[str, TwoWay]] = {}
    for method in table.methods:
        rows = np.flatnonzero(table.method_C == method)
        spread = shrunk_spread(table.values_CSM[rows])
        for place, row in enumerate(rows):
            for column, objective in enumerate(table.objectives):
                values_SQ = questions.of(column, int(row))
                if np.isnan(values_SQ).all():
                    continue
                variance, freedom = spread.variance_CM[place, column], spread.freedom_CM[place, column]
                lent = not math.isnan(variance)
                interval = two_way_interval(
                    values_SQ,
                    float(variance) if lent else None,
                    float(freedom) if lent else None,
                    ends=objective.ends,
                )
                intervals.setdefault(table.configurations[row].id, {})[objective.name] = interval
    return intervals
