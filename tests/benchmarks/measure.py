"""Times, ratios and tables: how the benchmark measures, and the form in which it says what it found.

What is compared runs in turns (A B A B ...), so that a machine that slows down slows all of it. Ratios are taken within
a round, and of all rounds the median is reported, with the smallest and the largest.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Seconds = dict[str, list[float]]
"""What was timed -> seconds, a value per round."""


@dataclass(frozen=True)
class Spread:
    """The median of some repetitions, the smallest and the largest."""

    value: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of at least one value."""
        some = list(values)
        return Spread(median(some), min(some), max(some), len(some))

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})" if self.count > 1 else f"{self.value:.3g}"


@dataclass(frozen=True)
class Result:
    """A goal and what was found.

    Attributes:
        name: the key in the JSON file.
        what: the number in words, with its unit.
        spread: what was found.
        goal: where it should be.
        at_least: whether it should be above the goal; else below.
        details: what else was measured for it, JSON values.
    """

    name: str
    what: str
    spread: Spread
    goal: float
    at_least: bool
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal."""
        return self.spread.value >= self.goal if self.at_least else self.spread.value <= self.goal

    def to_json(self) -> dict[str, Any]:
        """The entry in the JSON file."""
        return {
            "value": self.spread.value,
            "min": self.spread.low,
            "max": self.spread.high,
            "repetitions": self.spread.count,
            "goal": self.goal,
            "at_least": self.at_least,
            "met": self.met,
            "what": self.what,
            "details": dict(self.details),
        }

    def row(self) -> list[str]:
        """Cells of the goals' table."""
        sign = ">=" if self.at_least else "<="
        return [self.name, str(self.spread), f"{sign} {self.goal:g}", "yes" if self.met else "no", self.what]


GOAL_COLUMNS = ("goal", "median (min to max)", "wanted", "met", "what")


@dataclass(frozen=True)
class Sheet:
    """A table that can be shown, written to a page and kept as JSON.

    Attributes:
        title: what it is about; may say whether times are absolute.
        columns: the first one names the rows.
        rows: cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def rich(self) -> RichTable:
        """For the terminal."""
        from rich.table import Table as RichTable  # where only torch, transformers and peft are, nothing is shown so

        table = RichTable(title=self.title, title_justify="left", box=None, padding=(0, 2))
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*map(cell, row))
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *(_line(map(cell, row)) for row in self.rows)])

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def goals(results: Sequence[Result]) -> Sheet:
    """All goals in one table."""
    return Sheet("goals", GOAL_COLUMNS, tuple(tuple(result.row()) for result in results))


def cell(value: Any) -> str:
    """A value as short text; None is what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 1
) -> Seconds:
    """Time actions in turns.

    CPU seconds of this process on a CPU, which neighbours disturb less than they disturb the clock on the wall, and
    which are the same on a quiet machine and one thread; wall seconds on a GPU.

    Args:
        warmup: rounds that do not count.
    """
    found: Seconds = {name: [] for name in actions}
    for number in range(warmup + rounds):
        for name, action in actions.items():
            seconds = timed(action, device)
            if number >= warmup:
                found[name].append(seconds)
    return found


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of one action; see `interleaved`."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _wait(device)
    began = clock()
    action()
    _wait(device)
    return clock() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(one: Sequence[float], other: Sequence[float]) -> Spread:
    """`one / other`, round by round."""
    return Spread.of(a / b for a, b in zip(one, other, strict=True))


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on; nothing that names the machine."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        **_versions(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_memory_gb"] = round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)
    return found


def _versions() -> dict[str, str]:
    """Of the packages that decide the figures, as far as they are installed."""
    found = {}
    for name in ("torch", "transformers", "peft", "ray", "optuna", "mlflow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
