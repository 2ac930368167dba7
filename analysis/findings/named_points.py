"""Models that were scored on a sweep's setting but are not its trials, such as an adapter from elsewhere.

Their intervals are over questions, since each has been trained once.

Shape legend: Q questions, M objectives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.findings.arms import control_of
from analysis.findings.frontier import Estimate, FrontierPoint
from analysis.findings.frontier_table import cell_text
from analysis.statistics.arrays import round_means
from analysis.statistics.pareto import dominated
from analysis.statistics.proportions import clustered_interval
from analysis.tables.scores import Objective
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.text import listed

SHARE = (0.0, 1.0)
SETTING_DIGITS = 8  # digits of a setting's content id in a file's name
NAMED = 3  # better configurations of the frontier that are named


@dataclass(frozen=True)
class NamedPoint:
    """A scored model.

    Attributes:
        name: its name in figures and tables.
        setting: label of the setting it was scored on.
        scores: score name -> mean, and interval over questions.
        facts: where it comes from, for readers.
    """

    name: str
    setting: str
    scores: Mapping[str, Estimate]
    facts: Mapping[str, Any]

    def has(self, objectives: Iterable[Objective]) -> bool:
        """Say whether the model has all of these scores."""
        return all(
            math.isfinite(self.scores[each.name].mean) if each.name in self.scores else False for each in objectives
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `from_json` is its inverse."""
        scores = {name: estimate.to_json() for name, estimate in self.scores.items()}
        return {"name": self.name, "setting": self.setting, "scores": scores, **self.facts}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> NamedPoint:
        """Return the point that `to_json` wrote."""
        scores = {}
        for name, score in data["scores"].items():
            mean, low, high = (math.nan if score[end] is None else score[end] for end in ("mean", "low", "high"))
            scores[name] = Estimate(mean, low, high, "none" if math.isnan(low) else "questions")
        facts = {key: value for key, value in data.items() if key not in ("name", "setting", "scores")}
        return NamedPoint(data["name"], data["setting"], scores, facts)


def named_file(folder: Path, name: str, setting: str) -> Path:
    """Return the path of a model's scores on a setting: each pair of model and setting has its own file."""
    return folder / f"{name}.{content_id(setting, SETTING_DIGITS)}.json"


def read_named(folder: Path, setting: str | None) -> list[NamedPoint]:
    """Read the points in a folder that were scored on a setting, sorted by name; none if there is no folder.

    Older versions wrote `<name>.json`, whatever the setting; files named by `named_file` take precedence over those.

    Raises UserError for a file that is not a scored model.
    """
    points: dict[tuple[str, str], NamedPoint] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            point = NamedPoint.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read as a scored model: {error}; score it again, or delete it"
            ) from error
        key = point.name, point.setting
        if setting in (None, point.setting) and (key not in points or path == named_file(folder, *key)):
            points[key] = point
    return [points[key] for key in sorted(points)]


def estimate_over_questions(
    grades: Sequence[float | None], questions: Sequence[Hashable], ends: tuple[float | None, float | None]
) -> Estimate:
    """Estimate a mean with its interval if the questions are a sample of others like them.

    Args:
        grades: grade of each row; None if there is none.
        questions: the question of each row; rows with the same question form a cluster.
        ends: ends of a grade's range. The interval of a share stays within [0, 1]; any other is Student's, with Q - 1
            degrees of freedom.
    """
    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    hits_Q, number_Q = np.zeros(len(numbers)), np.zeros(len(numbers))
    for grade, question in zip(grades, questions, strict=True):
        if grade is not None:
            hits_Q[numbers[question]] += grade
            number_Q[numbers[question]] += 1
    if not number_Q.any():
        return Estimate(math.nan, math.nan, math.nan, "none")
    if ends == SHARE:
        share = clustered_interval(hits_Q, number_Q)
        return Estimate(share.mean, share.low, share.high, "none" if math.isnan(share.low) else "questions")
    hits_Q, number_Q = hits_Q[number_Q > 0], number_Q[number_Q > 0]
    count, total = len(number_Q), number_Q.sum()
    mean = float(hits_Q.sum() / total)
    if count == 1:
        return Estimate(mean, math.nan, math.nan, "none")
    error = math.sqrt(count / (count - 1) * float(((hits_Q - mean * number_Q) ** 2).sum())) / total
    half = float(stdtrit(count - 1, 0.975)) * error
    return Estimate(mean, mean - half, mean + half, "questions")


def standing(point: NamedPoint, points: Sequence[FrontierPoint], objectives: Sequence[Objective]) -> str:
    """Say in one line what a model scores, and which controls and frontier points dominate it."""
    cells = ", ".join(f"{each.name} {cell_text(point.scores[each.name])}" for each in objectives)
    controls = [each for each in points if each.seeds and control_of(each) is not None]
    better = [_title(each) for each in controls if _dominates(each.scores, point.scores, objectives)]
    on_front = [_title(each) for each in points if each.on_front and _dominates(each.scores, point.scores, objectives)]
    front = f"{len(on_front) or 'no'} configuration{'s' * (len(on_front) > 1)} of the frontier"
    front += f" ({listed(on_front, NAMED)})" if on_front else ""
    dominated = "dominated: another is as good in every objective and better in at least one"
    meaning = dominated if better or on_front else ""
    parts = [f"dominated by {' and '.join(better) or 'no control'}, and by {front}", meaning]
    if not controls:
        parts = [f"dominated by {front}", meaning, "no control has been evaluated"]
    return "; ".join([f"{point.name}: {cells}", *filter(None, parts)])


def _title(point: FrontierPoint) -> str:
    return f"{point.method} {point.label}".strip()


def _dominates(first: Mapping[str, Estimate], second: Mapping[str, Estimate], objectives: Sequence[Objective]) -> bool:
    gain_2M = round_means([[each.sign * of[each.name].mean for each in objectives] for of in (first, second)])
    return bool(dominated(gain_2M[None, 1:], gain_2M[None, :1]).item())
