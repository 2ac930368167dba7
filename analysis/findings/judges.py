"""Did the judge decide this? Several judges' verdicts on the same replies, and each one's front and method verdicts.

The other judges are compared with the first. Intervals of agreement and bias are over questions: replies to one
question form a cluster, whatever the model and the seed.

Shape legend: C configurations, S seeds, M objectives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings.frontier import Estimate, FrontierPoint, frontier
from analysis.findings.named_points import SHARE, estimate_over_questions
from analysis.findings.triggered import verdicts_of
from analysis.statistics.arrays import finite_or_none
from analysis.statistics.judge_agreement import Pair, kappa_over_questions, measure_agreement, other_scale
from analysis.tables.scores import ScoreTable
from settings.common.errors import UserError
from settings.common.files import write_text

BASE = "base model"


@dataclass(frozen=True)
class GradedReply:
    """A reply and the judges' verdicts on it.

    Attributes:
        question: id of the question; replies to one question form a cluster.
        rubric: what the judges were asked about the reply, with its evaluation.
        threshold: grades from here on are on the same side.
        method: of the model that replied; BASE is the untouched base model.
        verdicts: judge -> 0 to 100; nan if it gave no number.
    """

    question: str
    rubric: str
    threshold: float
    method: str
    verdicts: Mapping[str, float]


@dataclass(frozen=True)
class JudgeAgreement:
    """How far a judge agrees with the first on one rubric.

    Attributes:
        judge, rubric, threshold: what the agreement is about.
        replies, questions: number of replies with a number from both judges, and of their questions.
        missing, missing_first: number of replies without a number from the judge, and from the first judge.
        bias: the judge's number minus the first's.
        same_side: share of replies on the same side of the threshold.
        kappa: agreement on the side, beyond chance (Cohen 1960).
        correlation: Pearson's; nan if one of them does not vary.
        bias_of: method -> the bias on the replies of its models.
        scales: judge or first judge -> the scale that its numbers seem to be on, if it is not 0 to 100.
    """

    judge: str
    rubric: str
    threshold: float
    replies: int
    questions: int
    missing: int
    missing_first: int
    bias: Estimate
    same_side: Estimate
    kappa: Estimate
    correlation: float
    bias_of: Mapping[str, Estimate]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgedPoint:
    """A configuration as the judges see it: judge -> its scores, whether it is on the front, and P(front)."""

    configuration: str
    method: str
    title: str
    scores: Mapping[str, Mapping[str, Estimate]]
    on_front: Mapping[str, bool]
    p_front: Mapping[str, float]


@dataclass(frozen=True)
class JudgeComparison:
    """The results of several judges on one setting of a sweep.

    Attributes:
        setting: label.
        judges: the first is the one that the others are compared with.
        objectives: names, task first.
        higher_is_better: objective -> whether higher is better.
        agreements: of each other judge with the first, by rubric.
        points: configurations in the first judge's order, over the seeds that every judge could score.
        pushes: method -> judge -> whether the method pushes the frontier; empty if there are no verdicts.
        left_out: what could not be compared, a line each.
        num_trials: number of trials whose replies were graded.
    """

    setting: str
    judges: tuple[str, ...]
    objectives: tuple[str, ...]
    higher_is_better: Mapping[str, bool]
    agreements: tuple[JudgeAgreement, ...]
    points: tuple[JudgedPoint, ...]
    pushes: Mapping[str, Mapping[str, bool]]
    left_out: tuple[str, ...] = ()
    num_trials: int = 0

    def sign(self, objective: str) -> float:
        """Return 1, or -1 if lower is better, as `Objective.sign`."""
        return 1.0 if self.higher_is_better[objective] else -1.0

    @property
    def members(self) -> tuple[JudgedPoint, ...]:
        """The configurations that are on the front under any judge."""
        return tuple(point for point in self.points if any(point.on_front.values()))

    @property
    def surviving(self) -> tuple[JudgedPoint, ...]:
        """Those that are on the front under every judge."""
        return tuple(point for point in self.points if all(point.on_front.values()))

    @property
    def lines(self) -> list[str]:
        """What survives and what does not, one sentence each."""
        if not self.points:
            return ["no trial was scored by every judge, so nothing can be said about the front"]
        lines = [f"{len(self.surviving)} of {len(self.members)} members of the front are on it under every judge"]
        for point in self.members:
            if point not in self.surviving:
                under = " and ".join(judge for judge in self.judges if point.on_front[judge])
                lines.append(f"{point.title} is on the front under {under} only")
        for method, pushes in self.pushes.items():
            pushing = [judge for judge in self.judges if pushes[judge]]
            if len(pushing) == len(self.judges):
                lines.append(f"{method} pushes the frontier under every judge")
            elif pushing:
                lines.append(f"{method} pushes the frontier under {' and '.join(pushing)} only")
        silent = [method for method, pushes in self.pushes.items() if not any(pushes.values())]
        lines += [f"not shown to push the frontier under any judge: {', '.join(silent)}"] if silent else []
        return lines

    @property
    def cautions(self) -> list[str]:
        """A line for each judge whose numbers look like grades on another scale."""
        lines = [
            f"{judge}: its numbers on {each.rubric} look like grades on a scale from {low:g} to {high:g}, not from 0 to"
            " 100"
            for each in self.agreements
            for judge, (low, high) in each.scales.items()
        ]
        return list(dict.fromkeys(lines))

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `from_json` is its inverse."""
        return {
            "setting": self.setting,
            "judges": list(self.judges),
            "objectives": {name: self.higher_is_better[name] for name in self.objectives},
            "agreements": [_agreement_json(each) for each in self.agreements],
            "points": [_point_json(each) for each in self.points],
            "pushes": {method: dict(pushes) for method, pushes in self.pushes.items()},
            "left_out": list(self.left_out),
            "num_trials": self.num_trials,
            "lines": self.lines,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> JudgeComparison:
        """Return the comparison that `to_json` wrote. Raise KeyError, TypeError, ValueError."""
        return JudgeComparison(
            data["setting"],
            tuple(data["judges"]),
            tuple(data["objectives"]),
            data["objectives"],
            tuple(_agreement_from(each) for each in data["agreements"]),
            tuple(_point_from(each) for each in data["points"]),
            data["pushes"],
            tuple(data["left_out"]),
            int(data["num_trials"]),
        )


def compare_judges(
    setting: str,
    replies: Sequence[GradedReply],
    tables: Mapping[str, tuple[ScoreTable, Mapping[str, float]]],
    left_out: Sequence[str] = (),
    num_trials: int = 0,
) -> JudgeComparison:
    """Compare judges. Fronts and verdicts use only trials that every judge scored, so that only the judgement differs.

    Args:
        setting: label.
        replies: replies graded by all judges.
        tables: judge -> the scores by its verdicts, and those of the base model; the others are compared with the
            first.
        left_out: what could not be compared.
        num_trials: number of trials whose replies were graded.
    """
    judges = tuple(tables)
    objectives = tables[judges[0]][0].objectives
    same, lacking = _scored_by_all({judge: table for judge, (table, _) in tables.items()})
    with_base = all(base for _, base in tables.values())
    bases = {judge: base if with_base else {} for judge, (_, base) in tables.items()}
    any_left = bool(same[judges[0]].configurations)
    points = {judge: frontier(table, base_scores=bases[judge]) if any_left else [] for judge, table in same.items()}
    verdicts = {judge: verdicts_of(table, bases[judge]) if any_left else [] for judge, table in same.items()}
    pushing = {judge: {each.method for each in of_judge if each.pushes} for judge, of_judge in verdicts.items()}
    methods = [each.method for each in verdicts[judges[0]] if each.against]
    rubrics = dict.fromkeys(reply.rubric for reply in replies)
    return JudgeComparison(
        setting,
        judges,
        tuple(objective.name for objective in objectives),
        {objective.name: objective.higher_is_better for objective in objectives},
        tuple(
            _agreement(judge, judges[0], [reply for reply in replies if reply.rubric == rubric])
            for rubric in rubrics
            for judge in judges[1:]
        ),
        _judged_points(points),
        {method: {judge: method in pushing[judge] for judge in judges} for method in methods},
        (*left_out, *lacking),
        num_trials,
    )


def _scored_by_all(tables: Mapping[str, ScoreTable]) -> tuple[dict[str, ScoreTable], list[str]]:
    """Return the tables with the trials that every judge scored, and a line for each configuration that loses some."""
    scored = {judge: _scored(table) for judge, table in tables.items()}
    common = set.intersection(*scored.values())
    titles = {row.id: row.title for table in tables.values() for row in table.configurations}
    lines = []
    for identity, title in titles.items():
        seeds = {judge: sum(key == identity for key, _ in trials) for judge, trials in scored.items()}
        most, left = max(seeds.values()), sum(key == identity for key, _ in common)
        if left < most:
            fewest = " and ".join(judge for judge, number in seeds.items() if number < most) or "different ones each"
            lines.append(f"{most - left} of {most} seeds of {title}, for lack of verdicts: {fewest}")
    return {judge: _only(table, common) for judge, table in tables.items()}, lines


def _scored(table: ScoreTable) -> set[tuple[str, int]]:
    """Return the trials that have scores, as (configuration, seed)."""
    rows, columns = np.nonzero(~np.isnan(table.values_CSM).any(axis=2))
    return {(table.configurations[row].id, table.seeds[column]) for row, column in zip(rows, columns, strict=True)}


def _only(table: ScoreTable, trials: set[tuple[str, int]]) -> ScoreTable:
    """Return the table with only these trials, and without configurations that have none of them."""
    keep_CS = np.zeros((len(table.configurations), len(table.seeds)), dtype=bool)
    for row, configuration in enumerate(table.configurations):
        keep_CS[row] = [(configuration.id, seed) in trials for seed in table.seeds]
    values_CSM, count_CSM = (
        np.where(keep_CS[:, :, None], each, np.nan) for each in (table.values_CSM, table.count_CSM)
    )
    return replace(table, values_CSM=values_CSM, count_CSM=count_CSM).rows(np.any(keep_CS, axis=1))


def _agreement(judge: str, first: str, replies: Sequence[GradedReply]) -> JudgeAgreement:
    pairs = [Pair(reply.question, reply.verdicts[judge], reply.verdicts[first]) for reply in replies]
    threshold = replies[0].threshold
    plain = measure_agreement(pairs, threshold)
    both = [pair for pair in pairs if not math.isnan(pair.judge - pair.rater)]
    same = [float((pair.judge >= threshold) == (pair.rater >= threshold)) for pair in both]
    kappa = kappa_over_questions(pairs, threshold)
    methods = dict.fromkeys(reply.method for reply in replies)
    ours, firsts = [pair.judge for pair in pairs], [pair.rater for pair in pairs]
    sides = ((judge, ours, firsts), (first, firsts, ours))
    return JudgeAgreement(
        judge,
        replies[0].rubric,
        threshold,
        plain.n,
        len({pair.question for pair in both}),
        plain.missing_judge + plain.missing_both,
        plain.missing_rater + plain.missing_both,
        _bias(pairs),
        estimate_over_questions(same, [pair.question for pair in both], SHARE),
        Estimate(*kappa, basis="none" if math.isnan(kappa[1]) else "questions"),
        plain.correlation,
        {name: _bias([pair for pair, of in zip(pairs, replies, strict=True) if of.method == name]) for name in methods},
        {name: scale for name, of, other in sides if (scale := other_scale(of, other))},
    )


def _bias(pairs: Sequence[Pair]) -> Estimate:
    """Estimate the mean of judge - first over the pairs with both verdicts."""
    differences = [None if math.isnan(pair.judge - pair.rater) else pair.judge - pair.rater for pair in pairs]
    return estimate_over_questions(differences, [pair.question for pair in pairs], (None, None))


def _judged_points(points: Mapping[str, Sequence[FrontierPoint]]) -> tuple[JudgedPoint, ...]:
    """Return the configurations that every judge could score."""
    by_judge = {
        judge: {point.configuration: point for point in of_judge if point.seeds} for judge, of_judge in points.items()
    }
    first, *others = by_judge.values()
    return tuple(
        JudgedPoint(
            key,
            point.method,
            f"{point.method} {point.label}".strip(),
            {judge: of_judge[key].scores for judge, of_judge in by_judge.items()},
            {judge: of_judge[key].on_front for judge, of_judge in by_judge.items()},
            {judge: of_judge[key].p_front for judge, of_judge in by_judge.items()},
        )
        for key, point in first.items()
        if all(key in of_judge for of_judge in others)
    )


def read_comparison(folder: Path, setting: str | None) -> JudgeComparison | None:
    """Read the comparison of a setting from a sweep's folder of comparisons; None if there is none.

    Raises UserError for a file that is not a comparison.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            comparison = JudgeComparison.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            advice = "compare the judges again, or delete it"
            raise UserError(f"{path} cannot be read as a comparison of judges: {error}; {advice}") from error
        if comparison.setting == setting:
            return comparison
    return None


def write_comparison(path: Path, comparison: JudgeComparison) -> None:
    """Write a comparison atomically. Raises UserError."""
    write_text(path, json.dumps(comparison.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _agreement_json(each: JudgeAgreement) -> dict[str, Any]:
    estimates = {name: getattr(each, name).to_json() for name in ("bias", "same_side", "kappa")}
    numbers = ("judge", "rubric", "threshold", "replies", "questions", "missing", "missing_first")
    facts = {name: getattr(each, name) for name in numbers}
    of_methods = {method: bias.to_json() for method, bias in each.bias_of.items()}
    return (
        facts
        | estimates
        | {"correlation": finite_or_none(each.correlation), "bias_of": of_methods}
        | {"scales": {judge: list(scale) for judge, scale in each.scales.items()}}
    )


def _agreement_from(data: Mapping[str, Any]) -> JudgeAgreement:
    estimates = {name: _estimate(data[name]) for name in ("bias", "same_side", "kappa")}
    correlation = math.nan if data["correlation"] is None else data["correlation"]
    scales = {judge: (low, high) for judge, (low, high) in data["scales"].items()}
    changed = {"correlation": correlation, "scales": scales, **estimates}
    bias_of = {method: _estimate(bias) for method, bias in data["bias_of"].items()}
    return JudgeAgreement(**{**data, **changed, "bias_of": bias_of})


def _point_json(point: JudgedPoint) -> dict[str, Any]:
    return {
        "configuration": point.configuration,
        "method": point.method,
        "title": point.title,
        "on_front": dict(point.on_front),
        "p_front": {judge: finite_or_none(value) for judge, value in point.p_front.items()},
        "scores": {
            judge: {name: estimate.to_json() for name, estimate in scores.items()}
            for judge, scores in point.scores.items()
        },
    }


def _point_from(data: Mapping[str, Any]) -> JudgedPoint:
    return JudgedPoint(
        data["configuration"],
        data["method"],
        data["title"],
        {judge: {name: _estimate(each) for name, each in scores.items()} for judge, scores in data["scores"].items()},
        data["on_front"],
        {judge: math.nan if value is None else value for judge, value in data["p_front"].items()},
    )


def _estimate(data: Mapping[str, float | None]) -> Estimate:
    mean, low, high = (math.nan if (value := data[end]) is None else value for end in ("mean", "low", "high"))
    return Estimate(mean, low, high, "none" if math.isnan(low) else "questions")
