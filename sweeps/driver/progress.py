"""What a running sweep shows in the terminal: which trials train, their progress, the time left, the frontier.

All but the frontier is also written to a file, for `selgen sweep status` in another terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from settings.common.files import remove, write_json
from settings.setting import Measurement, Score
from sweeps.driver.frontier_so_far import FrontierSoFar, Point
from sweeps.driver.time_left import EndedTime, RunningPack, pace_of_all, pack_seconds_left, sweep_seconds_left
from sweeps.ledger import LedgerState
from sweeps.planning.forecast import SweepForecast
from sweeps.results.running import PackStatus, RunningSweep
from sweeps.sweep import Sweep
from trainables.folder import SweepFolder
from trainables.messages import ACTIVITY_SECONDS, Activity
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

STARTING = "starting"  # starts messages that hold until a worker does something
BAD = ("invalid", "failed")
MAX_POINTS = 8
PLAIN_SECONDS = 10.0  # between lines if the output is not a terminal, at first
RARER = 0.05  # later: the interval between lines, as a share of the elapsed time
RAREST_SECONDS = 60.0


@dataclass
class Display:
    """Live progress of a sweep. A context manager; without a terminal it prints a line from time to time.

    Attributes:
        console: where it prints.
        name: name of the sweep.
        total: the number of trials of the whole sweep.
        objectives: objectives of the frontier so far, task first.
        folder: the sweep's folder, where workers write what they do and other terminals look.
        title: names a trial's configuration.
        message: what is happening while no trial runs.
        judging: returns in a few words what a judge is doing; "" if it has nothing to do.
        outcomes: outcomes of the trials that have ended, in this start or before.
        forecast: forecast of the time that trials take; None before workers are started.
        clock: returns the time in seconds.
    """

    console: Console
    name: str
    total: int
    objectives: Sequence[Score]
    folder: Path
    title: Callable[[TrialConfig], str]
    message: str = STARTING
    judging: Callable[[], str] = lambda: ""
    outcomes: list[Outcome] = field(default_factory=list)
    forecast: SweepForecast | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._printed_at = self._looked_at = -math.inf
        self._running: dict[str, Sequence[TrialConfig]] = {}  # first trial of a pack -> all
        self._shown = RunningSweep(time.time(), self.done, self.total, 0.0)  # as last seen
        self._all_ended = list(self.outcomes)  # including those that others build on
        self._ended_time: EndedTime | None = None  # of these
        self._frontier = FrontierSoFar(self.objectives, self.title)
        self._frontier.add(self.outcomes)
        self._num_bad = sum(outcome.status in BAD for outcome in self.outcomes)
        self._ended: set[str] = set()
        self._cautioned: set[str] = set()
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)

    @staticmethod
    def of_sweep(
        console: Console, sweep: Sweep, state: LedgerState, folder: Path, judging: Callable[[], str]
    ) -> Display:
        """Build the display of a sweep that continues from a ledger."""
        total = sum(arm.budget for arm in sweep.arms) * len(sweep.seed_values)
        asked = state.configurations
        outcomes = [outcome for outcome in state.outcomes.values() if outcome.trial.configuration_id in asked]
        objectives = sweep.cases[0].objectives
        return Display(
            console, sweep.name, total, objectives, folder, sweep.title_of, judging=judging, outcomes=outcomes
        )

    @property
    def done(self) -> int:
        """The number of trials that have ended."""
        return len(self.outcomes)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        remove(SweepFolder(self.folder).running)

    def set_message(self, message: str) -> None:
        """Show what is happening before the first trial runs, or between trials."""
        self.message = message
        self.refresh(force=True)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def caution(self, *lines: str) -> None:
        """Print cautions, each once: every pack of every worker repeats them."""
        for line in lines:
            if line not in self._cautioned:
                self._cautioned.add(line)
                self.note(f"caution: {line}")

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        """Show a pack that went to a worker."""
        self._running[trials[0].trial_id] = trials
        self.message = ""

    def refresh(self, force: bool = False) -> None:
        """Read what workers are doing and show it: in the file for other terminals, and as a line without a terminal.

        Call it at any time: it reads at most once a second.

        Args:
            force: read now, and print a line.
        """
        if not force and self.clock() - self._looked_at < ACTIVITY_SECONDS:
            return
        self._looked_at = self.clock()
        packs = self._look()
        if self.message.startswith(STARTING) and any(pack.activity for pack in packs):
            self.message = ""
        self._shown = self._state(packs)
        with suppress(OSError):  # a full disk ends the sweep where it matters: at the ledger, or at a worker
            write_json(SweepFolder(self.folder).running, self._shown.to_json(), durable=False)
        self._line(force)

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Show nothing: the base model is not on the frontier."""

    def trial_ended(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Count a trial that ended. An auxiliary one, which only others build on, does not count."""
        self._ended.add(outcome.trial.trial_id)
        self._all_ended.append(outcome)
        if not auxiliary:
            self.outcomes.append(outcome)
            self._frontier.add([outcome])
            self._num_bad += outcome.status in BAD
        if outcome.reason:
            title = f"{self.title(outcome.trial)} seed={outcome.trial.seed}"
            line = f"{outcome.status}: {title}: {outcome.reason}"
            self.console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        self._running = {
            key: trials
            for key, trials in self._running.items()
            if any(trial.trial_id not in self._ended for trial in trials)
        }
        self.refresh()

    def _look(self) -> list[RunningPack]:
        """Return the packs at workers and the base models being scored, with what is being done for them."""
        files = sorted(SweepFolder(self.folder).activities.glob("*.json"))
        activities = [activity for path in files if (activity := Activity.read(path))]
        of_trial = {trial_id: activity for activity in activities for trial_id in activity.trials}
        packs = [RunningPack(trials, of_trial.get(first)) for first, trials in self._running.items()]
        return [RunningPack((), activity) for activity in activities if not activity.trials] + packs

    def _state(self, packs: Sequence[RunningPack]) -> RunningSweep:
        """Return the progress of the sweep."""
        pace, left = 1.0, None
        if self.forecast:
            if self._ended_time is None or self._ended_time.forecast is not self.forecast:
                self._ended_time = EndedTime(self.forecast)
            ended = self._ended_time.count(self._all_ended)
            pace = pace_of_all(self.forecast, ended, packs)
            left = sweep_seconds_left(self.forecast, ended, packs)
        return RunningSweep(
            at=time.time(),
            done=self.done,
            total=self.total,
            elapsed=self.clock() - self._began,
            seconds_left=left,
            message=self.message,
            packs=tuple(self._pack_status(pack, pace) for pack in packs),
        )

    def _pack_status(self, pack: RunningPack, pace: float) -> PackStatus:
        activity, left = pack.activity, None
        if activity and pack.trials and self.forecast:
            left = pack_seconds_left(activity, self.forecast.pack(pack.trials), pace)
        what = self._describe(pack.trials) if pack.trials else ""
        return PackStatus.of(what, activity, left)

    def _head(self) -> str:
        now = replace(self._shown, done=self.done, elapsed=self.clock() - self._began)
        parts = [now.head(self.name)]
        parts += [f"{self._num_bad} invalid or failed"] if self._num_bad else []
        return " · ".join(filter(None, [*parts, self.judging()]))

    def _line(self, force: bool = False) -> None:
        """Print a line of progress if there is no terminal, ever more rarely."""
        between = min(max(PLAIN_SECONDS, RARER * (self.clock() - self._began)), RAREST_SECONDS)
        if self.console.is_terminal or not (force or self.clock() - self._printed_at > between):
            return
        self._printed_at = self.clock()
        packs = [pack.line for pack in self._shown.packs]
        line = " · ".join(filter(None, [self._head(), self.message, *packs]))
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._head(), style="bold")]
        if self.message:
            parts.append(Text(f"  {self.message}", style="dim"))
        parts += [Text(f"  {pack.line}") for pack in self._shown.packs]
        points = self._frontier.points()
        if points:
            parts.append(self._table(points))
        return Group(*parts)

    def _table(self, points: Sequence[Point]) -> Table:
        table = Table(title="frontier so far", title_justify="left", box=None, padding=(0, 2))
        table.add_column("configuration")
        for score in self.objectives:
            table.add_column(f"{score.name} {'↑' if score.higher_is_better else '↓'}", justify="right")
        for label, means in points[:MAX_POINTS]:
            table.add_row(label, *(f"{value:.3f}" for value in means))
        if len(points) > MAX_POINTS:
            table.add_row(f"... and {len(points) - MAX_POINTS} more", *("" for _ in self.objectives))
        return table

    def _describe(self, trials: Sequence[TrialConfig]) -> str:
        """Return a pack as short text, e.g. "kl_penalty beta=0.3, 3 trials"."""
        configurations = {trial.configuration_id: self.title(trial) for trial in trials}
        first = next(iter(configurations.values()))
        others = f" and {len(configurations) - 1} more" if len(configurations) > 1 else ""
        return f"{first}{others}, {len(trials)} trial{'s' if len(trials) > 1 else ''}"
