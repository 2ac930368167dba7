"""The progress of a running sweep, as its driver writes it for other terminals. Needs no torch."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from trainables.folder import SweepFolder

SILENT_SECONDS = 30.0  # without an update, after which the driver may be gone
STARTING = "waiting for its worker to start"
BASE = "scoring the base model"
PHASES = {
    "loading": "loading the base model for",
    "preparing": "training the base model for",
    "reference": "reading the base model's outputs for",
    "training": "training",
    "scoring": "scoring",
}


class Activity(Protocol):
    """What a worker is doing, as in `trainables.messages.Activity`."""

    @property
    def phase(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def done(self) -> float: ...
    @property
    def total(self) -> float: ...
    @property
    def pace(self) -> float | None: ...


@dataclass(frozen=True)
class PackStatus:
    """What is being done for a pack.

    Attributes:
        trials: the pack as short text; "" if the base model is being scored.
        phase: see `trainables.messages.Phase`; "" before a worker has begun.
        what: the evaluation being scored.
        done, total: updates or rows; 0 of 0 if not known.
        seconds_per_step: seconds per update, in training.
        seconds_left: seconds left for the pack; None if not known.
    """

    trials: str
    phase: str = ""
    what: str = ""
    done: float = 0
    total: float = 0
    seconds_per_step: float | None = None
    seconds_left: float | None = None

    @staticmethod
    def of(trials: str, activity: Activity | None, seconds_left: float | None) -> PackStatus:
        """Describe what a worker is doing.

        Args:
            activity: None before it has started. No time left is given then, since forecasts do not include the start.
        """
        if activity is None:
            return PackStatus(trials)
        pace = activity.pace if activity.phase == "training" else None
        return PackStatus(trials, activity.phase, activity.what, activity.done, activity.total, pace, seconds_left)

    @property
    def line(self) -> str:
        """One line, e.g. "training plain, 3 trials: step 3/24, 12.3 s per step, about 4:18 left"."""
        parts = []
        if self.total and self.phase in ("training", "preparing"):
            parts.append(f"step {self.done:.0f}/{self.total:.0f}")
        elif self.total:
            parts.append(f"{f'{self.what} ' if self.what else ''}{int(self.done)}/{self.total:.0f} rows")
        parts += [f"{self.seconds_per_step:.3g} s per step"] if self.seconds_per_step is not None else []
        parts += [f"about {clock(self.seconds_left)} left"] if self.seconds_left is not None else []
        if not self.trials:
            subject = BASE if self.phase == "scoring" else PHASES[self.phase].removesuffix(" for")
        else:
            subject = f"{PHASES[self.phase]} {self.trials}" if self.phase else f"{self.trials} {STARTING}"
        return f"{subject}: {', '.join(parts)}" if parts else subject


@dataclass(frozen=True)
class RunningSweep:
    """The progress of a running sweep.

    Attributes:
        at: when this was written, in seconds since 1970.
        done, total: trials.
        elapsed, seconds_left: of this start; None if not known.
        message: what is happening while no trial runs.
        packs: what is being done for each pack.
    """

    at: float
    done: int
    total: int
    elapsed: float
    seconds_left: float | None = None
    message: str = ""
    packs: tuple[PackStatus, ...] = ()

    def head(self, name: str) -> str:
        """Return one line about the sweep of this name."""
        parts = [f"{name}: {self.done}/{self.total} trials", f"{clock(self.elapsed)} elapsed"]
        parts += [f"about {clock(self.seconds_left)} left"] if self.seconds_left is not None else []
        return " · ".join(parts)

    def lines(self, name: str) -> list[str]:
        """Return a line for the sweep, one for each pack, and a warning if the driver may be gone."""
        silent = time.time() - self.at
        lines = [self.head(f"{name} is running"), *filter(None, [self.message]), *(pack.line for pack in self.packs)]
        if silent > SILENT_SECONDS:
            lines.append(f"that was {clock(silent)} ago: the driver has been killed, or its machine is busy")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `read` reads it."""
        return asdict(self)

    @staticmethod
    def read(folder: Path) -> RunningSweep | None:
        """Return what the driver of the sweep in a folder wrote last; None if none is running."""
        try:
            data: Mapping[str, Any] = json.loads(SweepFolder(folder).running.read_text(encoding="utf-8"))
            return RunningSweep(**{**data, "packs": tuple(PackStatus(**pack) for pack in data["packs"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


def is_driven(folder: Path) -> bool:
    """Return whether a driver runs the sweep in a folder: it holds the lock for as long as it lives."""
    try:
        file = os.open(SweepFolder(folder).lock, os.O_RDONLY)
    except OSError:  # no driver was ever here
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return RunningSweep.read(folder) is not None
    finally:
        os.close(file)
    return False


def clock(seconds: float) -> str:
    """Format seconds as 3:07 or 1:02:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
