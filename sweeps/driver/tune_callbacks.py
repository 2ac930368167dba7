"""What Ray Tune calls besides the searcher: a callback for results, and a stopper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper


class Reporter(Callback):
    """Pass every worker's result to a function of the driver, and remember why a worker failed."""

    def __init__(self, receive: Callable[[Mapping[str, Any]], None]) -> None:
        self._receive = receive
        self._trials: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._trials[trial.trial_id] = trial

    def reason(self, trial_id: str) -> str:
        """Return the error of a failed Tune trial, with its traceback if there is one."""
        trial = self._trials.get(trial_id)
        file = trial.error_file if trial is not None else None
        text = Path(file).read_text(encoding="utf-8").strip() if file and Path(file).is_file() else ""
        return text or "the worker died"

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._receive(result)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration; functions of the driver stay here


class StopOnProblem(Stopper):
    """Stop everything when a function of the driver says so."""

    def __init__(self, problem: Callable[[], bool]) -> None:
        self._problem = problem

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._problem()

    def stop_all(self) -> bool:
        return self._problem()

    def __getstate__(self) -> dict[str, Any]:
        return {}
