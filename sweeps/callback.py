"""The two things that Ray Tune calls besides the searcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback, Stopper


class Reporter(Callback):
    """Hands every worker's result to a function of the driver."""

    def __init__(self, receive: Callable[[Mapping[str, Any]], None]) -> None:
        self._receive = receive

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._receive(result)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration; functions of the driver stay here


class StopOnProblem(Stopper):
    """Stops everything when a function of the driver says so."""

    def __init__(self, problem: Callable[[], bool]) -> None:
        self._problem = problem

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._problem()

    def stop_all(self) -> bool:
        return self._problem()

    def __getstate__(self) -> dict[str, Any]:
        return {}
