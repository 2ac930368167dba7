"""The frontier of the means so far, which a terminal shows several times a second. It reads each trial once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import numpy as np

from analysis.statistics.arrays import round_means
from analysis.statistics.pareto import non_dominated
from settings.setting import Score
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

Point = tuple[str, list[float]]  # a configuration's title and its means


class FrontierSoFar:
    """Keeps the scores of configurations, and which of them are non-dominated.

    Args:
        objectives: task first.
        title: names a trial's configuration.
    """

    def __init__(self, objectives: Sequence[Score], title: Callable[[TrialConfig], str]) -> None:
        self._objectives, self._title = objectives, title
        self._scores: dict[str, list[list[float]]] = {}  # configuration id -> scores of each seed
        self._points: dict[str, Point] = {}
        self._front: list[Point] | None = []

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take in trials that have ended. Only finished ones count."""
        for outcome in outcomes:
            if outcome.status == "finished":
                self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        key = outcome.trial.configuration_id
        scores = self._scores.setdefault(key, [])
        scores.append([outcome.scores[score.name].mean for score in self._objectives])
        means = [fmean(column) for column in zip(*scores, strict=True)]
        title = self._points[key][0] if key in self._points else self._title(outcome.trial)
        self._points[key] = (title, means)
        self._front = None

    def points(self) -> list[Point]:
        """Return the non-dominated configurations, the best in the task first."""
        if self._front is None:
            known = [point for point in self._points.values() if all(map(math.isfinite, point[1]))]
            signs = np.array([score.sign for score in self._objectives])
            gains = np.array([means for _, means in known]).reshape(len(known), len(signs)) * signs
            keep = non_dominated(round_means(gains))
            front = [point for point, on in zip(known, keep, strict=True) if on]
            self._front = sorted(front, key=lambda point: -point[1][0])
        return self._front
