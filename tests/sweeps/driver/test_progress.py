"""What the terminal, and `status` in another one, say while a sweep runs. The clock is a test's own."""

from __future__ import annotations

import errno
import fcntl
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from settings.common.files import write_json
from settings.setting import Measurement
from sweeps.driver.frontier_so_far import FrontierSoFar
from sweeps.driver.progress import Display
from sweeps.driver.time_left import EndedTime, RunningPack, pace_of_all, pack_seconds_left, sweep_seconds_left
from sweeps.planning.forecast import TrialSeconds
from sweeps.results.running import PackStatus, RunningSweep, is_driven
from tests.support.fakes import finished, toy_sweep
from trainables.folder import SweepFolder
from trainables.messages import Activity, ActivityFile
from trainables.outcome import Outcome
from trainables.trial import TrialConfig, base_id, pack_id

SECONDS = TrialSeconds(training=30.0, scoring={"first": 10.0, "second": 5.0})


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Forecast:
    """Two trials of 45 s each in every pack; six trials in all, on two workers."""

    total, workers = 6 * 45.0, 2

    def trial(self, trial: TrialConfig) -> TrialSeconds:
        return SECONDS

    def pack(self, trials: Sequence[TrialConfig]) -> TrialSeconds:
        return TrialSeconds(30.0 * len(trials), {name: each * len(trials) for name, each in SECONDS.scoring.items()})


def activity(phase: Any, done: float, total: float, seconds: float, what: str = "", begun: float = 0) -> Activity:
    return Activity(trials=("a",), phase=phase, what=what, done=done, total=total, seconds=seconds, begun=begun)


def display_of(folder: Path, clock: Clock) -> tuple[Display, io.StringIO, list[TrialConfig]]:
    sweep, out = toy_sweep(folder), io.StringIO()
    console = Console(file=out, width=200)
    display = Display(console, sweep.name, 6, sweep.cases[0].objectives, folder, sweep.title_of, clock=clock)
    return display, out, list(sweep.trials_of(sweep.arms[0], {}))


def test_what_waits_for_the_judge_is_shown(tmp_path: Path) -> None:
    display, out, _ = display_of(tmp_path, Clock())
    display.set_message("training")
    display.judging = lambda: "2 with the judge (310 calls)"
    display.set_message("training")
    first, second = out.getvalue().splitlines()
    assert "judge" not in first
    assert "2 with the judge (310 calls) · training" in second


def test_a_pack_is_shown_from_its_first_minute(tmp_path: Path) -> None:
    """12 s a step of 6, and scoring that is forecast as 30 s of 90 in all: the machine is 1.2 times as slow."""
    clock = Clock()
    display, out, trials = display_of(tmp_path, clock)
    display.forecast = Forecast()  # type: ignore[assignment]
    display.pack_started(trials)
    worker = ActivityFile(
        SweepFolder(tmp_path).activity(pack_id(trials)), [trial.trial_id for trial in trials], clock=clock
    )
    display.refresh()
    worker.tell("loading")
    clock.now += 11
    display.refresh()
    worker.tell("training", 0, 6)
    clock.now += 24
    worker.tell("training", 2, 6)
    display.refresh()
    worker.tell("scoring", 0, 8, "first")
    clock.now += 40
    worker.tell("scoring", 2.5, 8, "first")
    display.refresh()
    first, loading, training, scoring = out.getvalue().splitlines()
    assert "toy-sweep: 0/6 trials · 0:00 elapsed · about 2:15 left · plain, 2 trials waiting for its worker" in first
    assert "loading the base model for plain, 2 trials: about 1:30 left" in loading
    assert "training plain, 2 trials: step 2/6, 12 s per step, about 1:24 left" in training, "4 x 12 + 1.2 x 30"
    assert "scoring plain, 2 trials: first 2/8 rows" in scoring

    shown = RunningSweep.read(tmp_path)
    assert shown is not None and (shown.done, shown.total, shown.elapsed) == (0, 6, 75.0)
    assert shown.packs[0].line in scoring
    with display:
        pass
    assert RunningSweep.read(tmp_path) is None, "nothing runs any more"


def test_the_base_model_that_is_scored_is_shown(tmp_path: Path) -> None:
    display, out, _ = display_of(tmp_path, clock := Clock())
    setting = toy_sweep(tmp_path).cases[0].setting
    ActivityFile(SweepFolder(tmp_path).activity(base_id(setting)), (), clock=clock).tell("scoring", 1, 2, "all")
    display.set_message("starting 2 workers")
    assert out.getvalue() == "toy-sweep: 0/6 trials · 0:00 elapsed · scoring the base model: all 1/2 rows\n"


def test_it_looks_once_a_second_and_prints_more_rarely(tmp_path: Path) -> None:
    display, out, _ = display_of(tmp_path, clock := Clock())
    written = []
    for _ in range(600):  # a minute
        display.refresh()
        written.append(json.loads(SweepFolder(tmp_path).running.read_text())["elapsed"])
        clock.now += 0.1
    assert 55 <= len(set(written)) <= 61
    assert 5 <= len(out.getvalue().splitlines()) <= 7
    clock.now += 10_000
    for _ in range(600):
        display.refresh()
        clock.now += 0.1
    assert len(out.getvalue().splitlines()) <= 9


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        (None, 45),
        (activity("loading", 0, 0, 3), 45),
        (activity("training", 0, 10, 1), 45),
        (activity("training", 4, 10, 12), 18 + 15),
        (activity("training", 4, 10, 24), 2 * (18 + 15)),
        (activity("training", 7, 10, 9, begun=4), 9 + 15),  # resumed: 3 updates took 9 s
        (activity("scoring", 2, 8, 5, "first"), 2 * (7.5 + 5)),
        (activity("scoring", 0, 8, 5, "second"), 5),
        (activity("scoring", 1, 8, 5, "unknown"), 0),
    ],
)
def test_time_left_of_a_pack(seen: Activity | None, left: float) -> None:
    assert pack_seconds_left(seen, SECONDS) == pytest.approx(left)


def test_time_left_of_a_sweep(tmp_path: Path) -> None:
    """Six trials of 45 s: one took 90 s, two are half way in their training, three wait; two workers."""
    sweep = toy_sweep(tmp_path)
    trials = [
        trial for arm in sweep.arms for trial in sweep.trials_of(arm, {} if arm is sweep.arms[0] else {"beta": 1})
    ]
    running = [RunningPack(trials[1:3], activity("training", 5, 10, 60.0))]
    forecast: Any = Forecast()
    none = EndedTime(forecast)
    assert sweep_seconds_left(forecast, none, []) == 6 * 45 / 2
    assert pace_of_all(forecast, none, running) == 2.0, "12 s instead of 6 s per update"
    outcome = finished(trials[0])
    ended = none.count([type(outcome)(**{**vars(outcome), "cost": type(outcome.cost)(seconds=90.0)})])
    assert pace_of_all(forecast, ended, running) == 2.0
    of_running = 2 * (0.5 * 60 + 30)
    assert sweep_seconds_left(forecast, ended, running) == pytest.approx((of_running + 2 * 3 * 45) / 2)
    nearly: Any = Forecast()
    nearly.total = 3 * 45.0  # nothing waits
    assert sweep_seconds_left(nearly, ended, running) == pytest.approx(of_running), "not shared with an idle worker"


def test_a_driver_that_is_silent_may_be_gone() -> None:
    pack = PackStatus("plain, 2 trials", "training", "", 3, 20, 12.5, 200.0)
    lines = RunningSweep(at=0.0, done=1, total=4, elapsed=61, seconds_left=3700, packs=(pack,)).lines("s")
    assert lines[:2] == [
        "s is running: 1/4 trials · 1:01 elapsed · about 1:01:40 left",
        "training plain, 2 trials: step 3/20, 12.5 s per step, about 3:20 left",
    ]
    assert "ago: the driver has been killed" in lines[2]


def test_a_file_of_another_version_is_as_none(tmp_path: Path) -> None:
    write_json(SweepFolder(tmp_path).running, {"at": 1, "packs": [{"news": 2}]})
    write_json(tmp_path / "activity.json", {"trials": ["a"], "phase": "resting", "mood": 1})
    assert RunningSweep.read(tmp_path) is None
    assert Activity.read(tmp_path / "activity.json") is None
    assert Activity.read(tmp_path / "absent.json") is None


def test_the_frontier_so_far_is_that_of_the_means(tmp_path: Path) -> None:
    """By comparing all pairs, after each trial; more of a knob gains alignment, and one configuration is dominated."""
    sweep = toy_sweep(tmp_path)
    knobs: list[dict[str, float]] = [{"beta": beta} for beta in (0.1, 1.0, 10.0)]
    trials = [trial for seed in (0, 1) for knob in knobs for trial in sweep.trials_of(sweep.arms[1], knob)[seed:][:1]]
    so_far = FrontierSoFar(sweep.cases[0].objectives, sweep.title_of)
    scores: dict[str, list[tuple[float, float]]] = {}
    for number, trial in enumerate(trials):
        worse = trial.coefficients["beta"] == 1.0 and trial.seed == 1
        outcome = finished(trial)
        values = (-1.0, -1.0) if worse else (outcome.scores["task"].mean, outcome.scores["alignment"].mean)
        ended = {"task": Measurement(values[0], 4, 0), "alignment": Measurement(values[1], 4, 0)}
        so_far.add([Outcome(trial=trial, status="finished", scores=ended), finished(trial, "invalid")])
        scores.setdefault(sweep.title_of(trial), []).append(values)
        means = {title: tuple(fmean(column) for column in zip(*rows, strict=True)) for title, rows in scores.items()}
        front = {
            title
            for title, (task, aligned) in means.items()
            if not any(other[0] >= task and other[1] >= aligned for name, other in means.items() if name != title)
        }
        shown = so_far.points()
        assert {title for title, _ in shown} == front
        assert all(point == pytest.approx(list(means[title])) for title, point in shown)
        assert [point[0] for _, point in shown] == sorted((point[0] for _, point in shown), reverse=True)
        assert number != 2 or len(front) == 3, "one seed each"
    assert len(so_far.points()) == 2, "the middle one has lost by its second seed"


def test_a_folder_without_locks_is_driven_while_its_driver_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    files = SweepFolder(tmp_path)
    assert not is_driven(tmp_path), "no driver was ever here"
    files.lock.touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not is_driven(tmp_path)
    files.running.write_text(json.dumps(RunningSweep(at=0.0, done=1, total=4, elapsed=61).to_json()))
    assert is_driven(tmp_path)
