"""What the driver and the workers of a sweep say to each other.

The driver gives a worker its `WorkerConfig` and one job after another, `TrainPack` or `ScoreBase`. The worker answers
with a `PackReport` about once a second; the last one says how the job ended: `Ended`, `UserProblem`, `OutOfMemory` or
`Failed`. Ray Tune carries all of this as JSON values: jobs in its configurations, reports in its results. Nothing here
imports torch or Ray.

A slice of a large model's pack takes minutes. Meanwhile, the worker writes its `Activity` to a file in the sweep's
folder, which is only shown to users.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from settings.common.files import remove, write_json
from settings.reference import SettingRef
from settings.setting import Measurement
from trainables.outcome import Outcome
from trainables.trial import AdapterConfig, TrialConfig, pack_id

# Keys of a Tune configuration, and of a Tune result.
WORKER, JOB, REPORT = "worker", "job", "report"
ACTIVITY_SECONDS = 1.0  # between two writes of what a worker is doing

Phase = Literal["loading", "preparing", "reference", "training", "scoring"]
"""What a worker is doing: loading the base model, training that first, running it on the rows that methods refer to,
training the pack, or observing it on the questions of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker needs to know besides its job.

    Attributes:
        folder: the sweep's folder, for adapters, observations and checkpoints.
        threads: CPU threads of a worker process.
        memory: main memory that a worker process may use, in bytes; None if not known.
        checkpoint_seconds: time between checkpoints of a running pack.
        rows_per_forward, gradient_checkpointing: see `Pack`.
        cache_references: cache the base model's outputs on rows that methods refer to (see `ReferenceCache`).
        num_workers: processes that train a pack together.
        sharded: distribute the base model's layers over them.
        resources: resources of each of them, by Ray's names, e.g. {"CPU": 2, "GPU": 0.5}.
    """

    folder: Path
    threads: int
    memory: float | None = None
    checkpoint_seconds: float
    rows_per_forward: int | None = None
    gradient_checkpointing: bool = False
    cache_references: bool = True
    num_workers: int = 1
    sharded: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpus(self) -> float:
        """GPUs of a worker process. A fraction limits its memory to that share of one; 0 hides all GPUs."""
        return float(self.resources.get("GPU", 0))

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `from_json` is its inverse."""
        return asdict(self) | {"folder": str(self.folder)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> WorkerConfig:
        """Return the configuration that `to_json` wrote."""
        return WorkerConfig(**{**data, "folder": Path(data["folder"])})


@dataclass(frozen=True)
class TrainPack:
    """The job to train trials side by side.

    Attributes:
        trials: the members, in order.
        snapshots: updates after which adapters in training are kept, for trials that stop there.
        pause_after: updates after which each member waits for the others' results; None means never, and an empty
            tuple never for all.
    """

    trials: tuple[TrialConfig, ...]
    snapshots: tuple[int, ...] = ()
    pause_after: tuple[int | None, ...] = ()

    @property
    def pack_id(self) -> str:
        """Content id of the members, in order."""
        return pack_id(self.trials)

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `job_from_json` is its inverse."""
        return {
            "kind": "train",
            "trials": [trial.to_json() for trial in self.trials],
            "snapshots": list(self.snapshots),
            "pause_after": list(self.pause_after),
        }


@dataclass(frozen=True)
class ScoreBase:
    """The job to score the untouched base model of a setting.

    Attributes:
        setting: the setting.
        adapters: those that the sweep's trials will have. The states below all of them are then computed and cached,
            since these trials read them, too; without adapters, make a whole pass.
        replying: whether it replies in words in the worker, and not from a server.
    """

    setting: SettingRef
    adapters: tuple[AdapterConfig, ...] = ()
    replying: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `job_from_json` is its inverse."""
        adapters = [asdict(adapter) for adapter in self.adapters]
        return {"kind": "base", "setting": asdict(self.setting), "adapters": adapters, "replying": self.replying}


Job = TrainPack | ScoreBase


def job_from_json(data: Mapping[str, Any]) -> Job:
    """Return the job that `to_json` wrote. Raise UserError if another version of the training code wrote it."""
    if data["kind"] == "base":
        adapters = tuple(AdapterConfig(**adapter) for adapter in data["adapters"])
        return ScoreBase(SettingRef(**data["setting"]), adapters, data["replying"])
    trials = tuple(TrialConfig.from_json(trial) for trial in data["trials"])
    return TrainPack(trials, tuple(data["snapshots"]), tuple(data["pause_after"]))


@dataclass(frozen=True)
class Ended:
    """A job came to its end.

    Attributes:
        outcomes: how members of a pack ended.
        rungs: results so far of members that paused, as outcomes of trials of fewer updates.
        base: score name -> measurement of the base model, after `ScoreBase`.
    """

    outcomes: tuple[Outcome, ...] = ()
    rungs: tuple[Outcome, ...] = ()
    base: Mapping[str, Measurement] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `PackReport.from_json` reads it."""
        return {
            "kind": "ended",
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "rungs": [outcome.to_json() for outcome in self.rungs],
            "base": {name: asdict(score) for name, score in self.base.items()},
        }


@dataclass(frozen=True)
class UserProblem:
    """A problem that only the user can fix ended a job; `text` is one line."""

    text: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `PackReport.from_json` reads it."""
        return {"kind": "user_problem", "text": self.text}


@dataclass(frozen=True)
class OutOfMemory:
    """A pack did not fit into memory and must be smaller; `reason` is one line."""

    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `PackReport.from_json` reads it."""
        return {"kind": "out_of_memory", "reason": self.reason}


@dataclass(frozen=True)
class Failed:
    """A method or a setting raised an error, which ended a job."""

    traceback: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `PackReport.from_json` reads it."""
        return {"kind": "failed", "traceback": self.traceback}


PackEnd = Ended | UserProblem | OutOfMemory | Failed


def _end_from_json(data: Mapping[str, Any]) -> PackEnd:
    kind, values = data["kind"], {name: value for name, value in data.items() if name != "kind"}
    if kind == "user_problem":
        return UserProblem(**values)
    if kind == "out_of_memory":
        return OutOfMemory(**values)
    if kind == "failed":
        return Failed(**values)
    return Ended(
        tuple(Outcome.from_json(outcome) for outcome in data["outcomes"]),
        tuple(Outcome.from_json(outcome) for outcome in data["rungs"]),
        {name: Measurement(**score) for name, score in data["base"].items()},
    )


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What a worker reports after a slice of work.

    Attributes:
        progress: trial id -> newest values of its curves, with their "step".
        steps_done, num_steps: updates of the longest member.
        note: a line for the user, e.g. that a pack was resumed; empty if there is none.
        cautions: lines that apply beyond this pack, to be shown once.
        end: how the job ended; None while it continues.
    """

    progress: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    steps_done: int = 0
    num_steps: int = 0
    note: str = ""
    cautions: tuple[str, ...] = ()
    end: PackEnd | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `from_json` is its inverse."""
        return {
            "progress": {trial_id: dict(values) for trial_id, values in self.progress.items()},
            "steps_done": self.steps_done,
            "num_steps": self.num_steps,
            "note": self.note,
            "cautions": list(self.cautions),
            "end": self.end.to_json() if self.end else None,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PackReport:
        """Return the report that `to_json` wrote. Raise UserError if another version of the training code did."""
        end = _end_from_json(data["end"]) if data["end"] else None
        return PackReport(**{**data, "cautions": tuple(data["cautions"]), "end": end})

    def to_result(self) -> dict[str, Any]:
        """Return a Tune result. The report is one text in it, because Tune flattens dictionaries in results."""
        return {REPORT: json.dumps(self.to_json()), "done": self.end is not None}

    @staticmethod
    def from_result(result: Mapping[str, Any]) -> PackReport | None:
        """Return the report in a Tune result; None if it has none. Raise UserError as `from_json` does."""
        return _report_of(result[REPORT]) if REPORT in result else None


@lru_cache(maxsize=8)
def _report_of(text: str) -> PackReport:
    """Read a report. Tune passes each one on three times: to the display, to the search, and when the pack closes."""
    return PackReport.from_json(json.loads(text))


def to_config(*messages: WorkerConfig | Job) -> dict[str, Any]:
    """Return these messages as a Tune configuration."""
    return {WORKER if isinstance(message, WorkerConfig) else JOB: message.to_json() for message in messages}


def worker_from_config(config: Mapping[str, Any]) -> WorkerConfig:
    """Return the worker's configuration in a Tune configuration."""
    return WorkerConfig.from_json(config[WORKER])


def job_from_config(config: Mapping[str, Any]) -> Job:
    """Return the job in a Tune configuration. Raise UserError as `job_from_json` does."""
    return job_from_json(config[JOB])


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What a worker is doing now.

    Attributes:
        trials: ids of the pack's members; none while the base model is scored.
        phase: see `Phase`.
        what: the evaluation being scored.
        done, total: progress of the phase: updates, or rows of an evaluation (a fraction of a row is a part of its
            reply). 0 of 0 while not known.
        begun: how much had been done when the phase began, as in a resumed pack.
        seconds: seconds since then.
    """

    trials: tuple[str, ...]
    phase: Phase
    what: str = ""
    done: float = 0
    total: float = 0
    begun: float = 0
    seconds: float = 0

    @property
    def pace(self) -> float | None:
        """Seconds per unit of `done`; None before the first is done."""
        return self.seconds / (self.done - self.begun) if self.done > self.begun else None

    @staticmethod
    def read(path: Path) -> Activity | None:
        """Return what a worker has written; None if no file can be read, or another version wrote it."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Activity(**{**data, "trials": tuple(data["trials"])})
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
        ):  # on network file systems, a replaced file may be stale
            return None


class ActivityFile:
    """Tells the driver what a worker is doing, through a file that is replaced at each new phase and from time to time.

    Args:
        path: path of the file.
        trials: ids of the pack's members.
        clock: returns the time in seconds.
    """

    def __init__(self, path: Path, trials: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._trials, self._clock = path, tuple(trials), clock
        self._phase: tuple[Phase, str] | None = None
        self._began = self._written = 0.0
        self._begun: float = 0

    def tell(self, phase: Phase, done: float = 0, total: float = 0, what: str = "") -> None:
        """Write what is being done, unless just written. It is cheap enough to call at every step."""
        now = self._clock()
        if (phase, what) != self._phase:
            self._phase, self._began, self._begun = (phase, what), now, done
        elif now - self._written < ACTIVITY_SECONDS:
            return
        self._written = now
        seconds = now - self._began
        activity = Activity(
            trials=self._trials, phase=phase, what=what, done=done, total=total, begun=self._begun, seconds=seconds
        )
        with suppress(OSError):  # only people read it: no pack should end because a disk is full for a moment
            write_json(self._path, asdict(activity), durable=False)

    def close(self) -> None:
        """Delete the file."""
        with suppress(OSError):
            remove(self._path)
