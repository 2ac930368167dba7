"""What a running sweep shows in the terminal: which trials train, how far they are, how long it takes, the frontier."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.statistics.pareto import non_dominated
from settings.setting import Measurement, Score
from sweeps.ledger import LedgerState
from sweeps.sweep import Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

MAX_POINTS = 8
PLAIN_SECONDS = 10.0  # between lines when the output is not a terminal


@dataclass
class _Running:
    trials: Sequence[TrialConfig]
    steps: tuple[int, int] = (0, 0)
    loss: float = math.nan


@dataclass
class Display:
    """Live progress of a sweep. A context manager; without a terminal it prints a line now and then.

    Attributes:
        console: where it is printed.
        name: of the sweep.
        total: the number of trials of the whole sweep.
        objectives: of the frontier so far, task first.
        title: names a trial's configuration.
        message: what happens while no trial runs.
        judging: says in a few words what a judge does; "" when it has nothing to do.
        outcomes: of the trials that have ended, before this start and in it.
    """

    console: Console
    name: str
    total: int
    objectives: Sequence[Score]
    title: Callable[[TrialConfig], str]
    message: str = "starting"
    judging: Callable[[], str] = lambda: ""
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._at_start = len(self.outcomes)
        self._began = time.monotonic()
        self._first_pack_at: float | None = None
        self._printed_at = -math.inf
        self._running: dict[str, _Running] = {}
        self._ended: set[str] = set()
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)

    @staticmethod
    def of_sweep(console: Console, sweep: Sweep, state: LedgerState, judging: Callable[[], str]) -> Display:
        """Build the display of a sweep that continues from a ledger."""
        total = sum(arm.budget for arm in sweep.arms) * len(sweep.seed_values)
        asked = state.configurations
        outcomes = [outcome for outcome in state.outcomes.values() if outcome.trial.configuration_id in asked]
        objectives = sweep.cases[0].objectives
        return Display(console, sweep.name, total, objectives, title=sweep.title_of, judging=judging, outcomes=outcomes)

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

    def set_message(self, message: str) -> None:
        """Show what happens before the first trial runs, or between trials."""
        self.message = message
        self._line(force=True)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        """Show a pack that went to a worker."""
        self._first_pack_at = self._first_pack_at or time.monotonic()
        self._running[trials[0].trial_id] = _Running(trials)
        self.message = ""

    def progress(self, values: Mapping[str, Mapping[str, float]], steps: tuple[int, int]) -> None:
        """Show the newest values of a pack's trials."""
        for pack in self._running.values():
            if pack.trials[0].trial_id in values:
                pack.steps = steps
                pack.loss = fmean(values[trial.trial_id]["loss"] for trial in pack.trials if trial.trial_id in values)
        self._line()

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Show nothing: the base model is not on the frontier."""

    def trial_ended(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Count a trial that ended. An auxiliary one does not count: it is only there for others to build on."""
        self._ended.add(outcome.trial.trial_id)
        if not auxiliary:
            self.outcomes.append(outcome)
        if outcome.reason:
            title = f"{self.title(outcome.trial)} seed={outcome.trial.seed}"
            line = f"{outcome.status}: {title}: {outcome.reason}"
            self.console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        self._running = {
            key: pack
            for key, pack in self._running.items()
            if any(trial.trial_id not in self._ended for trial in pack.trials)
        }
        self._line()

    def frontier(self) -> list[tuple[str, list[float]]]:
        """Return the non-dominated configurations by their means so far: (title, objective values)."""
        configurations: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            if outcome.status == "finished":
                configurations.setdefault(outcome.trial.configuration_id, []).append(outcome)
        names = [score.name for score in self.objectives]
        points = []
        for outcomes in configurations.values():
            means = [fmean(outcome.scores[name].mean for outcome in outcomes) for name in names]
            if all(map(math.isfinite, means)):
                points.append((self.title(outcomes[0].trial), means))
        if not points:
            return []
        signs = np.array([1.0 if score.higher_is_better else -1.0 for score in self.objectives])
        keep = non_dominated(np.array([means for _, means in points]) * signs)
        return sorted((point for point, on in zip(points, keep, strict=True) if on), key=lambda point: -point[1][0])

    def time_left(self) -> float | None:
        """Return the seconds that are left, by the pace of this start's trials; None before the first has ended."""
        ended = self.done - self._at_start
        if not ended or self._first_pack_at is None:
            return None
        return (time.monotonic() - self._first_pack_at) / ended * (self.total - self.done)

    def _head(self) -> str:
        left = self.time_left()
        parts = [f"{self.name}: {self.done}/{self.total} trials", f"{clock(time.monotonic() - self._began)} elapsed"]
        parts += [f"about {clock(left)} left"] if left is not None else []
        bad = sum(outcome.status in ("invalid", "failed") for outcome in self.outcomes)
        parts += [f"{bad} invalid or failed"] if bad else []
        return " · ".join(filter(None, [*parts, self.judging()]))

    def _line(self, force: bool = False) -> None:
        """Print a line of progress where there is no terminal, not too often."""
        if self.console.is_terminal or not (force or time.monotonic() - self._printed_at > PLAIN_SECONDS):
            return
        self._printed_at = time.monotonic()
        self.console.print(f"{self._head()}{' · ' + self.message if self.message else ''}", highlight=False)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._head(), style="bold")]
        if self.message:
            parts.append(Text(f"  {self.message}", style="dim"))
        for pack in self._running.values():
            parts.append(
                Text(f"  training  {self._describe(pack.trials)}  step {pack.steps[0]}/{pack.steps[1] or '?'}")
            )
        points = self.frontier()
        if points:
            parts.append(self._table(points))
        return Group(*parts)

    def _table(self, points: Sequence[tuple[str, list[float]]]) -> Table:
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


def clock(seconds: float) -> str:
    """Format seconds as 3:07 or 1:02:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
