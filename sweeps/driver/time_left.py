"""How much time packs and a sweep still take: what the forecast says, corrected by the pace that is seen."""

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
        activity: what the worker does; None before it has said so.
    """

    trials: Sequence[TrialConfig]
    activity: Activity | None


def pace_of(activity: Activity, forecast: TrialSeconds) -> float | None:
    """Return how many times as long as forecast a phase takes; None where nothing is known yet."""
    expected = forecast.training if activity.phase == "training" else forecast.scoring.get(activity.what, 0.0)
    if activity.phase not in ("training", "scoring") or not activity.total or not expected or activity.pace is None:
        return None
    return activity.pace * activity.total / expected


def pack_seconds_left(activity: Activity | None, forecast: TrialSeconds, pace: float = 1.0) -> float:
    """Return how long a pack still takes.

    Args:
        forecast: of the whole pack.
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


def pace_of_all(forecast: SweepForecast, ended: Iterable[Outcome], running: Iterable[RunningPack]) -> float:
    """Return how many times as long as forecast the trials of a sweep take: those that have ended, else those that run.

    1 before anything is known.
    """
    took = [(end.cost.seconds, forecast.trial(end.trial).total) for end in ended if end.cost.seconds > 0]
    if took:
        return sum(seconds for seconds, _ in took) / sum(expected for _, expected in took)
    packs = [(pack.activity, forecast.pack(pack.trials)) for pack in running if pack.trials]
    paces = [pace for activity, expected in packs if activity and (pace := pace_of(activity, expected))]
    return sum(paces) / len(paces) if paces else 1.0


def sweep_seconds_left(forecast: SweepForecast, ended: Sequence[Outcome], running: Sequence[RunningPack]) -> float:
    """Return how long a sweep still takes with all workers busy.

    Args:
        ended: outcomes of all trials that have ended.
        running: the packs at workers.
    """
    pace = pace_of_all(forecast, ended, running)
    packs = [pack for pack in running if pack.trials]
    of_running = sum(pack_seconds_left(pack.activity, forecast.pack(pack.trials), pace) for pack in packs)
    known = sum(forecast.trial(end.trial).total for end in ended)
    known += sum(forecast.pack(pack.trials).total for pack in packs)
    return (of_running + pace * max(0.0, forecast.total - known)) / forecast.workers
