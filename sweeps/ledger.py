"""The ledger: one append-only file, the truth about what a sweep asked for and what finished.

`ledger.jsonl` in the sweep's folder has one JSON value per line. The first line is the header; events follow:

    {"event": "header", "format": 2, "sweep": name, "identity": id}
    {"event": "asked", "arm": key, "number": n, "values": {...}, "configuration": id,
     "described": {...}}                                    see `sweeps.description.describe_configuration`
    {"event": "dispatched", "trials": [id, ...], "pause_after": [updates or null, ...]}  a pack went to a worker
    {"event": "rung", "outcome": Outcome.to_json()}         a trial so far, as one of fewer updates; it may be stopped
    {"event": "base", "setting": label, "scores": {score: measurement}}
    {"event": "generated", "outcome": Outcome.to_json()}    the trial waits on the driver for replies or a judge
    {"event": "outcome", "outcome": Outcome.to_json(), "trial": id, "configuration": id}
    {"event": "retried", "trials": [id, ...]}               their outcomes no longer count: they are trained again, and
                                                            those whose replies are stored only judged again
    {"event": "fit", "rows_per_forward": n or null, "pack_size": n or null}     what the first start chose, see `Fit`
    {"event": "code", "of": {what: content id, ...}}        the source of methods and settings, from here on
    {"event": "spent", "of": {"gpu_hours": h, "core_hours": h, "judge_dollars": d}}     since the last such event
    {"event": "stopped", "because": text}                   the search has come to the end of its budget

An event is one write of one whole line, flushed to disk before anything else learns of it. A driver killed in the
middle leaves at most a torn last line, which the next driver drops. `ledger.lock` allows one driver at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.budget import Spending
from sweeps.ledger_lines import FORMAT, Account, RawLedger, contents_of, parse, read_as
from trainables.folder import SweepFolder
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

READERS_SECONDS = 0.1  # a reader has long let go of the lock
Dispatch = tuple[tuple[str, ...], tuple[int | None, ...]]  # trial ids of a pack, and after how many updates each pauses


@dataclass(frozen=True)
class Asked:
    """A configuration that the search asked for: its number in the arm, searched coefficients and content id."""

    number: int
    values: Mapping[str, Any]
    configuration: str


@dataclass(frozen=True)
class Fit:
    """How a sweep fits into the memory of the machine that it first ran on.

    Attributes:
        rows_per_forward: micro-batches, see `train_step`.
        pack_size: the most trials in a pack; None means as many as the sweep says.
    """

    rows_per_forward: int | None = None
    pack_size: int | None = None

    def members(self, most: int) -> int:
        """Return the number of trials in a full pack, if the sweep says `most`."""
        return most if self.pack_size is None else min(self.pack_size, most)


@dataclass
class LedgerState:
    """What a ledger says.

    Attributes:
        sweep, identity: name and content id of the sweep that wrote it.
        asked: arm -> number -> configuration.
        dispatched: the packs that went to a worker, in order. A pack that did not end is dispatched again with the same
            members: they share its checkpoint, and the last bits of a result depend on the other members.
        bases: setting label -> scores of the untouched base model.
        outcomes: trial id -> how the trial ended, in the order of ending.
        generated: trial id -> outcome of a trained trial, still without a judge's scores.
        rungs: trial id -> updates -> outcome of the training so far, for early stopping.
        fit: micro-batches and pack size, as the first start chose them; None before that.
        code: name ("method kl_penalty") -> content id of its latest source.
        made_with: trial id -> `code` at the time when the trial ended.
        account: what was spent.
    """

    sweep: str
    identity: str
    asked: dict[str, dict[int, Asked]] = field(default_factory=dict)
    dispatched: dict[Dispatch, None] = field(default_factory=dict)
    bases: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    generated: dict[str, Outcome] = field(default_factory=dict)
    rungs: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    fit: Fit | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    made_with: dict[str, Mapping[str, str]] = field(default_factory=dict)
    account: Account = field(default_factory=Account)

    @property
    def failed(self) -> list[str]:
        """Ids of the trials that failed."""
        return [trial_id for trial_id, outcome in self.outcomes.items() if outcome.status == "failed"]

    def unjudged(self, has_replies: Callable[[str], bool]) -> list[str]:
        """Return the ids of trials that are invalid only because their replies, which are still kept, were not judged.

        These include trials that are invalid because they build on one of them.

        Args:
            has_replies: returns whether a trial's replies, by its id, are still kept.
        """
        ended = {key: end.trial for key, end in self.outcomes.items() if end.status == "invalid"}
        unjudged = {key for key in ended if key in self.generated and has_replies(key)}
        while built_on := {
            key
            for key in ended.keys() - unjudged
            if any(required.trial_id in unjudged for required in ended[key].requires)
        }:
            unjudged |= built_on
        return [key for key in ended if key in unjudged]

    @property
    def trials(self) -> list[TrialConfig]:
        """The trials that have an outcome, replies or a rung."""
        at_rungs = [outcome for by_updates in self.rungs.values() for outcome in by_updates.values()]
        return [outcome.trial for outcome in (*self.outcomes.values(), *self.generated.values(), *at_rungs)]

    @property
    def configurations(self) -> set[str]:
        """Ids of the configurations that the search asked for. All other trials are there for these to build on."""
        return {asked.configuration for arm in self.asked.values() for asked in arm.values()}

    def outcomes_of(self, arm: str) -> list[Outcome]:
        """Return the outcomes of the trials that an arm, given by its key, has asked for."""
        configurations = {asked.configuration for asked in self.asked.get(arm, {}).values()}
        return [outcome for outcome in self.outcomes.values() if outcome.trial.configuration_id in configurations]

    def apply(self, event: Mapping[str, Any], outcome: Outcome | None = None) -> None:
        """Apply one event; the first of two about the same thing counts. Raise KeyError, TypeError, ValueError.

        Args:
            outcome: the event's outcome, if the writer still has it; None parses the event.
        """
        kind = event["event"]
        if kind not in ("outcome", "generated"):
            self.account.apply(event, generated=self.generated)
        if kind == "asked":
            asked = Asked(int(event["number"]), dict(event["values"]), event["configuration"])
            self.asked.setdefault(event["arm"], {}).setdefault(asked.number, asked)
        elif kind == "dispatched":
            self.dispatched.setdefault((tuple(event["trials"]), tuple(event["pause_after"])))
        elif kind == "base":
            scores = {name: Measurement(**value) for name, value in event["scores"].items()}
            self.bases.setdefault(event["setting"], scores)
        elif kind == "rung":
            outcome = outcome or Outcome.from_json(event["outcome"])
            self.rungs.setdefault(outcome.trial.full_training.trial_id, {}).setdefault(outcome.trial.updates, outcome)
        elif kind in ("outcome", "generated"):
            outcome = outcome or Outcome.from_json(event["outcome"])
            self.account.apply(event, outcome.trial.trial_id)
            outcomes = self.outcomes if kind == "outcome" else self.generated
            outcomes.setdefault(outcome.trial.trial_id, outcome)
            self.made_with.setdefault(outcome.trial.trial_id, self.code)
        elif kind == "retried":
            for trial_id in event["trials"]:
                self.outcomes.pop(trial_id, None)
                if trial_id not in self.generated:  # otherwise it is judged again, not trained
                    self.rungs.pop(trial_id, None)
                    self.made_with.pop(trial_id, None)
        elif kind == "fit":
            self.fit = self.fit or Fit(event["rows_per_forward"], event["pack_size"])
        elif kind == "code":
            self.code = {**self.code, **event["of"]}
        elif kind not in ("spent", "stopped"):
            raise ValueError(f"unknown event {kind!r}")


def read(folder: Path) -> LedgerState:
    """Read the ledger in a sweep's folder, without a lock: the sweep may be running. Raise UserError."""
    return read_as(LedgerState, folder)


def refusal(
    path: Path,
    state: LedgerState | RawLedger,
    sweep: str,
    identity: str,
    differences: Callable[[], Sequence[str]] = tuple,
) -> str:
    """Say why a sweep cannot continue a ledger: it is another sweep's; "" if it can. See `Ledger`."""
    if (state.sweep, state.identity) == (sweep, identity):
        return ""
    what = f"the sweep {state.sweep!r}"
    if state.sweep == sweep:
        named = "; ".join(differences()) or "only `seeds` and `configurations` may be raised"
        what = f"a sweep {sweep!r} that was declared differently: {named}"
    return f"{path.parent} holds {what}; rename the sweep or choose another output folder (--output)"


class Ledger:
    """The ledger of a sweep, open for writing by only this process. A context manager.

    A refused ledger is left as it is, byte for byte.

    Args:
        folder: the sweep's folder; created if it does not exist.
        sweep, identity: name and content id of the sweep; another sweep's ledger is refused.
        differences: names what differs from the sweep that the folder was begun with, if it is refused for that.

    Attributes:
        path: path of the file.
        state: what the ledger says.

    Raises:
        UserError: another driver holds it, it belongs to another sweep or format, it is damaged, or the disk fails.
    """

    def __init__(
        self, folder: Path, sweep: str, identity: str, differences: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self.path = SweepFolder(folder).ledger
        self._lock = _lock_of(folder)
        try:
            self.state = self._open(sweep, identity, differences)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, sweep: str, identity: str, differences: Callable[[], Sequence[str]]) -> LedgerState:
        contents = contents_of(self.path) if self.path.exists() else b""
        state, good = parse(LedgerState, self.path, contents)
        if state and (problem := refusal(self.path, state, sweep, identity, differences)):
            raise UserError(problem)
        try:
            if contents[good:]:
                with SweepFolder(self.path.parent).torn.open("ab") as torn:
                    torn.write(contents[good:] + b"\n")
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, good)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._size = good
        if state is None:
            self._write({"event": "header", "format": FORMAT, "sweep": sweep, "identity": identity})
            state = LedgerState(sweep, identity)
        return state

    def record_configuration(
        self,
        arm: str,
        number: int,
        values: Mapping[str, Any],
        configuration: str,
        described: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Record that the search asked for a configuration. Repeating a number changes nothing.

        Args:
            arm, number: the arm's key, and the number of the configuration in it.
            values: searched coefficients.
            configuration: content id.
            described: the configuration, for readers; see `sweeps.description.describe_configuration`.
        """
        if number not in self.state.asked.get(arm, {}):
            event = {"arm": arm, "number": number, "values": dict(values), "configuration": configuration}
            self._append({"event": "asked", **event, "described": dict(described)})

    def record_dispatch(self, trials: Sequence[str], pause_after: Sequence[int | None]) -> None:
        """Record that trials, by id, go to a worker as one pack. Repeating a pack changes nothing."""
        if (tuple(trials), tuple(pause_after)) not in self.state.dispatched:
            self._append({"event": "dispatched", "trials": list(trials), "pause_after": list(pause_after)})

    def record_base_scores(self, setting: str, scores: Mapping[str, Measurement]) -> bool:
        """Record the scores of an untouched base model. Return False if the ledger already has scores."""
        if setting in self.state.bases:
            return False
        self._append(
            {"event": "base", "setting": setting, "scores": {name: asdict(score) for name, score in scores.items()}}
        )
        return True

    def record_rung(self, outcome: Outcome) -> None:
        """Record the outcome of a training so far. Repeating a number of updates changes nothing."""
        if outcome.trial.updates not in self.state.rungs.get(outcome.trial.full_training.trial_id, {}):
            self._append({"event": "rung", "outcome": outcome.to_json()}, outcome)

    def record_generated(self, outcome: Outcome) -> bool:
        """Record that a trial is trained and its replies are stored. Return False if the ledger has it already."""
        trial_id = outcome.trial.trial_id
        if trial_id in self.state.generated or trial_id in self.state.outcomes:
            return False
        self._append({"event": "generated", "outcome": outcome.to_json()}, outcome)
        return True

    def record_outcome(self, outcome: Outcome) -> bool:
        """Record how a trial ended. Return False if the ledger has an outcome already: the first one counts."""
        if outcome.trial.trial_id in self.state.outcomes:
            return False
        trial = outcome.trial
        ids = {"trial": trial.trial_id, "configuration": trial.configuration_id}
        self._append({"event": "outcome", "outcome": outcome.to_json()} | ids, outcome)
        return True

    def record_fit(self, fit: Fit) -> None:
        """Record the micro-batches and the pack size of the first start. Later calls change nothing."""
        if self.state.fit is None:
            self._append({"event": "fit", "rows_per_forward": fit.rows_per_forward, "pack_size": fit.pack_size})

    def record_spending(self, spending: Spending) -> None:
        """Record what was spent since the last call, if anything. Tokens are left out: outcomes have them."""
        spent = {name: value for name, value in asdict(spending).items() if value and name != "tokens"}
        if spent:
            self._append({"event": "spent", "of": spent})

    def record_stop(self, because: str) -> None:
        """Record why the search stopped before its end. Repeating the reason changes nothing."""
        if because != self.state.account.stopped:
            self._append({"event": "stopped", "because": because})

    def retry(self, trials: Sequence[str]) -> None:
        """Record that trials, by id, are to be trained again, or judged again if their replies are stored."""
        if trials:
            self._append({"event": "retried", "trials": list(trials)})

    def record_code(self, sources: Mapping[str, str]) -> None:
        """Record the content ids of the source of methods and settings that have changed."""
        changed = {what: source for what, source in sources.items() if self.state.code.get(what) != source}
        if changed:
            self._append({"event": "code", "of": changed})

    def _append(self, event: Mapping[str, Any], outcome: Outcome | None = None) -> None:
        self._write(event)
        self.state.apply(event, outcome)

    def _write(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):  # the disk is full: a second write raises the reason
                os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise _disk_error(self.path, error) from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock_of(folder: Path) -> int:
    """Lock the folder's ledger for only this process, until the returned file is closed or the process ends."""
    path = SweepFolder(folder).lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _disk_error(path, error) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a reader holds it for a moment, see `sweeps.results.running.is_driven`
            time.sleep(READERS_SECONDS)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise UserError(
            f"another process is running this sweep in {folder}; wait for it or choose another output folder"
        ) from error
    except OSError as error:
        os.close(file)
        raise _disk_error(path, error) from error
    return file


def _disk_error(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror or error}")
