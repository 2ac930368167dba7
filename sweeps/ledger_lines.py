"""The lines of a ledger as JSON, shared by its writer and by commands that only read. Needs no torch."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from settings.common.content import content_id
from settings.common.errors import UserError
from sweeps.budget import Spending
from trainables.folder import SweepFolder

# The format of the whole folder, in the ledger's first line. Raise it whenever an event, `Outcome.to_json` or a file
# beside the ledger becomes unreadable for older code: folders of other formats are refused and left as they are.
FORMAT = 2


_ID = re.compile(r"[0-9a-f]{12}")


class State(Protocol):
    """What events add up to."""

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event. Raise KeyError, TypeError, ValueError, UserError."""
        ...


S = TypeVar("S", bound=State)


@dataclass
class Account:
    """What all starts of a sweep have taken together, summed over the events of its ledger.

    Attributes:
        spent: in total; what was trained twice counts twice.
        stopped: why the search stopped before its end; "" if it did not, or has continued since.
    """

    spent: Spending = field(default_factory=Spending)
    stopped: str = ""
    _trained: set[str] = field(default_factory=set)  # ids of the trials whose tokens count

    def apply(self, event: Mapping[str, Any], trial_id: str = "", generated: Container[str] = ()) -> None:
        """Take in one event. Raise KeyError, TypeError.

        Args:
            trial_id: id of the trial of the event's outcome.
            generated: ids of the trials whose replies are stored: a retry does not train them again.
        """
        kind = event["event"]
        if kind == "spent":
            self.spent += Spending(**event["of"])
        elif kind == "stopped":
            self.stopped = event["because"]
        elif kind in ("asked", "dispatched"):
            self.stopped = ""
        elif kind in ("outcome", "generated") and trial_id not in self._trained:
            self._trained.add(trial_id)
            self.spent += Spending(tokens=float(event["outcome"]["cost"]["tokens"]))
        elif kind == "retried":
            self._trained.difference_update(each for each in event["trials"] if each not in generated)


@dataclass
class RawLedger:
    """What a ledger says about trials, as JSON. `sweeps.ledger.LedgerState` has it as objects of the training code.

    Attributes:
        sweep, identity: name and content id of the sweep that wrote it.
        asked: arm -> number -> event of the configuration that the search asked for.
        dispatched: ids of the trials that went to a worker.
        bases: setting label -> score name -> measurement of the untouched base model.
        outcomes: trial id -> outcome, in the order of ending.
        configuration_of: trial id -> id of its configuration, for the trials in `outcomes`.
        generated: ids of the trials whose replies are stored for a judge.
        code: name ("method kl_penalty") -> content id of its latest source.
        made_with: trial id -> `code` at the time when it ended.
        account: what was spent.
    """

    sweep: str
    identity: str
    asked: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    dispatched: dict[str, None] = field(default_factory=dict)
    bases: dict[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    configuration_of: dict[str, str] = field(default_factory=dict)
    generated: set[str] = field(default_factory=set)
    code: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, Mapping[str, str]] = field(default_factory=dict)
    account: Account = field(default_factory=Account)

    @property
    def configurations(self) -> dict[str, Mapping[str, Any]]:
        """Id of each configuration that the search asked for -> its description."""
        return {event["configuration"]: event["described"] for arm in self.asked.values() for event in arm.values()}

    def made_with_other_code(self, what: str, now: str) -> list[Mapping[str, Any]]:
        """Return the outcomes of trials that did not fail and ended when the code of `what` differed from `now`."""
        return [
            outcome
            for trial_id, outcome in self.outcomes.items()
            if outcome["status"] != "failed" and self.made_with.get(trial_id, {}).get(what, now) != now
        ]

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event; the first of two about the same thing counts. Raise KeyError, TypeError, ValueError."""
        kind = event["event"]
        trial_id = ""
        if kind in ("outcome", "generated"):
            missing = [name for name in ("status", "scores", "cost") if name not in event["outcome"]]
            if missing:
                raise ValueError(f"an outcome without {missing[0]!r}, of another version")
            trial_id = _kept_id(event, "trial") or content_id(event["outcome"]["trial"])
        self.account.apply(event, trial_id, self.generated)
        if kind == "asked":
            self.asked.setdefault(event["arm"], {}).setdefault(int(event["number"]), event)
        elif kind == "dispatched":
            self.dispatched.update(dict.fromkeys(event["trials"]))
        elif kind == "base":
            self.bases.setdefault(event["setting"], event["scores"])
        elif kind in ("outcome", "generated"):
            self.made_with.setdefault(trial_id, self.code)
            if kind == "outcome":
                self.outcomes.setdefault(trial_id, event["outcome"])
                configuration = _kept_id(event, "configuration") or configuration_id(event["outcome"]["trial"])
                self.configuration_of[trial_id] = configuration
            else:
                self.generated.add(trial_id)
        elif kind == "retried":
            for trial_id in event["trials"]:
                self.outcomes.pop(trial_id, None)
                if trial_id not in self.generated:
                    self.made_with.pop(trial_id, None)
        elif kind == "code":
            self.code = {**self.code, **event["of"]}


def _kept_id(event: Mapping[str, Any], key: str) -> str | None:
    """Return the id under an event's key if it is well-formed: ids become paths, and older events lack some."""
    value = event.get(key)
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def configuration_id(trial: Mapping[str, Any]) -> str:
    """Return the content id of a trial, in JSON, without its seed."""
    return content_id({key: value for key, value in trial.items() if key != "seed"})


def read_raw(folder: Path) -> RawLedger:
    """Read the ledger in a sweep's folder, without a lock: the sweep may be running. Raise UserError."""
    return read_as(RawLedger, folder)


def read_as(make: Callable[[str, str], S], folder: Path) -> S:
    """Read the ledger in a sweep's folder into a state made from the sweep's name and identity. Raise UserError."""
    path = SweepFolder(folder).ledger
    state, _ = parse(make, path, contents_of(path))
    if state is None:
        raise UserError(f"{path} is empty: the sweep has not started")
    return state


def parse(make: Callable[[str, str], S], path: Path, contents: bytes) -> tuple[S | None, int]:
    """Return the state that the lines add up to (None without a header), and how many of the bytes are good.

    Only the last line may be torn, i.e. lack its end or not be JSON. Anything else that cannot be read is damage.
    Raise UserError that names the line.
    """
    state: S | None = None
    good = 0
    lines = io.BytesIO(contents).readlines()
    for number, line in enumerate(lines, start=1):
        event = _event(line)
        if event is None:
            if number == len(lines):
                break
            raise UserError(
                f"{path}: line {number} is damaged; restore the file from a copy or choose another output folder"
            )
        try:
            if state is None:
                _check_header(event)
                state = make(event["sweep"], event["identity"])
            else:
                state.apply(event)
        except UserError as error:
            raise UserError(f"{path}: line {number}: {error}; choose another output folder") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: line {number} is not an event of this ledger: {error}") from error
        good += len(line)
    return state, good


def contents_of(path: Path) -> bytes:
    """Return the bytes of a ledger. Raise UserError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no ledger in {path.parent}: no sweep ran there") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a whole line, or None."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _check_header(event: Mapping[str, Any]) -> None:
    number = event.get("format")
    if event.get("event") != "header" or not isinstance(number, int):
        raise UserError("no header with a ledger format")
    if number != FORMAT:
        age = "an older" if number < FORMAT else "a newer"
        raise UserError(f"{age} version wrote it (ledger format {number}; this one has format {FORMAT})")
