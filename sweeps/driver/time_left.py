"""How much time packs and a sweep still take: the forecast, corrected by the observed pace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeps.planning.forecast import SweepForecast, TrialSeconds
from trainables.messages import Activity
from trainables.outcome import Outcome
from trainables.trial import TrialConfig


@dataclass(frozen=True)
class RunningPack:
    """A pack at a worker.

    Attributes:
        trials: its members; none if a base model is scored.
        activity: what the worker is doing; None before it has said so.
    """

    trials: Sequence[TrialConfig]
    activity: Activity | None


class EndedTime:
    """How long the trials that have ended took and were forecast to take, summed as they end.

    Attributes:
        forecast: forecast of the sweep.
        expected: seconds that they were forecast to take.
        took, expected_of_these: of the trials that say how long they took: those seconds, and the forecast ones.
    """

    def __init__(self, forecast: SweepForecast) -> None:
        self.forecast = forecast
        self.expected = self.took = self.expected_of_these = 0.0
        self._counted = 0

    def count(self, ended: Sequence[Outcome]) -> EndedTime:
        """Add the new trials of a list that only grows, and return this."""
        for end in ended[self._counted :]:
            expected = self.forecast.trial(end.trial).total
            self.expected += expected
            if end.cost.seconds > 0:
                self.took += end.cost.seconds
                self.expected_of_these += expected
        self._counted = len(ended)
        return self


def pace_of(activity: Activity, forecast: TrialSeconds) -> float | None:
    """Return how many times as long as forecast a phase takes; None if nothing is known yet."""
    expected = forecast.training if activity.phase == "training" else forecast.scoring.get(activity.what, 0.0)
    if activity.phase not in ("training", "scoring") or not activity.total or not expected or activity.pace is None:
        return None
    return activity.pace * activity.total / expected


def pack_seconds_left(activity: Activity | None, forecast: TrialSeconds, pace: float = 1.0) -> float:
    """Return how long a pack still takes.

    Args:
        forecast: forecast for the whole pack.
        pace: how many times as long as forecast other packs take.
    """
    if activity is None or activity.phase not in ("training", "scoring"):
        return pace * forecast.total
    here = pace_of(activity, forecast) or pace
    share_left = 1 - activity.done / activity.total if activity.total else 1.0
    if activity.phase == "training":
        return here * (share_left * forecast.training + sum(forecast.scoring.values()))
    names = [*forecast.scoring]
    later = names[names.index(activity.what) + 1 :] if activity.what in names else []
    of_this = share_left * forecast.scoring.get(activity.what, 0.0)
    return here * (of_this + sum(forecast.scoring[name] for name in later))


def pace_of_all(forecast: SweepForecast, ended: EndedTime, running: Iterable[RunningPack]) -> float:
    """Return how many times as long as forecast a sweep's trials take: those that have ended, or else running ones.

    1 before anything is known.
    """
    if ended.took:
        return ended.took / ended.expected_of_these
    packs = [(pack.activity, forecast.pack(pack.trials)) for pack in running if pack.trials]
    paces = [pace for activity, expected in packs if activity and (pace := pace_of(activity, expected))]
    return sum(paces) / len(paces) if paces else 1.0


def sweep_seconds_left(forecast: SweepForecast, ended: EndedTime, running: Sequence[RunningPack]) -> float:
    """Return how long a sweep still takes with all workers busy, and at least as long as its slowest pack.

    Args:
        ended: all trials that have ended.
        running: the packs at workers.
    """
    pace = pace_of_all(forecast, ended, running)
    packs = [pack for pack in running if pack.trials]
    of_running = [pack_seconds_left(pack.activity, forecast.pack(pack.trials), pace) for pack in packs]
    known = ended.expected + sum(forecast.pack(pack.trials).total for pack in packs)
    shared = (sum(of_running) + pace * max(0.0, forecast.total - known)) / forecast.workers
    return max([shared, *of_running])
