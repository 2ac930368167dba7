"""What a search and a status cost grows as the sweep does: calls of this project's functions are counted, not seconds.

Three sizes, each twice the one before, tell a linear cost from a quadratic one whatever does not grow: the second
doubling adds twice as much as the first, or four times as much.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import sweeps
from sweeps.description import describe, describe_configuration
from sweeps.driver.progress import Display
from sweeps.ledger import Ledger
from sweeps.names import folder_of
from sweeps.planning.forecast import TrialSeconds
from sweeps.results.status import status
from sweeps.space import grid
from sweeps.sweep import Sweep
from tests.support.fakes import finished, toy_sweep
from tests.support.search import proposer_of
from trainables.trial import TrialConfig

SIZES = (10, 20, 40)
LINEAR = 2.4  # times as much, between what the two doublings add; a quadratic cost adds four times as much
SOURCE = str(Path(sweeps.__path__[0]).parent)


def calls_of(action: Callable[[], object]) -> int:
    """Return how many calls of functions in this project an action takes; a generator that goes on is one, too."""
    count = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(SOURCE) and "site-packages" not in file:
            count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def growth(counts: Sequence[int]) -> float:
    """Return what the second doubling added over what the first did."""
    small, middle, large = counts
    return (large - middle) / (middle - small)


def explored(sweep: Sweep) -> None:
    """Ask an arm for all of its configurations, and tell each one at once."""
    proposer = proposer_of(sweep)
    while proposal := proposer.next():
        proposer.tell(proposal.number, [finished(trial) for trial in sweep.trials_of(proposer.arm, proposal.values)])


def test_growth_tells_linear_from_quadratic() -> None:
    assert growth([100 + 3 * size for size in SIZES]) == 2
    assert growth([100 + 3 * size + size**2 for size in SIZES]) > 3


def test_proposals_cost_as_much_late_as_early(tmp_path: Path) -> None:
    """TPE itself, which is not counted, reads all results. What is computed once in a process is computed before."""
    explored(toy_sweep(tmp_path, configurations=SIZES[0]))
    counts = []
    for size in SIZES:
        sweep = toy_sweep(tmp_path, configurations=size)
        counts.append(calls_of(lambda sweep=sweep: explored(sweep)))  # type: ignore[misc]
    assert growth(counts) < LINEAR, counts


def test_a_status_costs_as_much_for_each_trial(tmp_path: Path) -> None:
    counts = []
    for size in SIZES:
        values = [0.1 * (number + 1) for number in range(size)]
        sweep = toy_sweep(tmp_path, name=f"status-{size}", methods=(grid("kl_penalty", beta=values),), seeds=1)
        folder = folder_of(sweep.name, tmp_path)
        (arm,) = sweep.arms
        with Ledger(folder, sweep.name, sweep.identity()) as ledger:
            describe(sweep).write(folder)
            for number, point in enumerate(arm.space.points or ()):
                (trial,) = sweep.trials_of(arm, point)
                described = describe_configuration(sweep, trial)
                ledger.record_configuration(arm.key, number, point, trial.configuration_id, described)
                ledger.record_dispatch([trial.trial_id], [None])
                ledger.record_outcome(finished(trial))
        (found,) = status(sweep.name, tmp_path)["arms"]
        assert found["finished"] == size
        counts.append(calls_of(lambda name=sweep.name: status(name, tmp_path)))  # type: ignore[misc]
    assert growth(counts) < LINEAR, counts


class Forecast:
    """Trials and packs of three seconds, on two workers."""

    total, workers = 1e6, 2

    def trial(self, trial: TrialConfig) -> TrialSeconds:
        return TrialSeconds(2.0, {"all": 1.0})

    def pack(self, trials: Sequence[TrialConfig]) -> TrialSeconds:
        return TrialSeconds(2.0 * len(trials), {"all": 1.0 * len(trials)})


def test_a_look_at_a_running_sweep_costs_the_same_late_as_early(tmp_path: Path) -> None:
    """A line and a frame of the terminal, as they come four times a second, and a trial that ends."""
    values = [0.1 * (number + 1) for number in range(80)]
    sweep = toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=values),), seeds=1)
    (arm,) = sweep.arms
    trials = [trial for point in arm.space.points or () for trial in sweep.trials_of(arm, point)]
    display = Display(
        Console(file=io.StringIO(), width=100), "growth", 80, sweep.cases[0].objectives, tmp_path, sweep.title_of
    )
    display.forecast = Forecast()  # type: ignore[assignment]
    looks, ends = [], []
    for number, trial in enumerate(trials, start=1):
        outcome = finished(trial)
        ends.append(calls_of(lambda outcome=outcome: display.trial_ended(outcome)))  # type: ignore[misc]
        display.refresh(force=True)
        if number in (20, 80):
            display._render()
            looks.append(calls_of(lambda: (display.refresh(force=True), display._render())))
    assert looks[0] == looks[1] < 200, looks
    assert max(ends[40:]) <= max(ends[:40]), "those of the first forty"
