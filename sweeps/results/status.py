"""The progress of a sweep, read from its folder without disturbing the driver. Needs no torch once a sweep has run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings.common.errors import UserError
from sweeps.budget import spending_text
from sweeps.description import SweepDescription, describe
from sweeps.find import continuation, find, is_file
from sweeps.ledger_lines import RawLedger, read_raw
from sweeps.names import folder_of
from sweeps.results import provenance
from sweeps.results.from_ledger import is_readable
from sweeps.results.running import RunningSweep, is_driven
from trainables.folder import SweepFolder

if TYPE_CHECKING:
    from sweeps.sweep import Sweep

ENDS = ("finished", "invalid", "failed", "stopped")


def status(name_or_file: str, output: Path) -> dict[str, Any]:
    """Return a sweep's progress by arm, what it is doing now, and what the user should know. Raise UserError.

    A sweep given by name is read as its last start declared it, one given by file as the file is now. Trials
    of a file that was changed so that it cannot continue do not count.
    """
    if not is_file(name_or_file) and is_readable(folder_of(name_or_file, output)):
        description = SweepDescription.read(folder_of(name_or_file, output))
        problem = ""
    else:
        sweep = find(name_or_file, output)
        description, problem = describe(sweep), _refusal(sweep, folder_of(sweep.name, output))
    folder = folder_of(description.name, output)
    ledger = read_raw(folder)
    cautions = provenance.changes(ledger, description.built_on, provenance.current_code(ledger.code))
    arms = _arms(description, RawLedger(ledger.sweep, ledger.identity) if problem else ledger)
    is_running = is_driven(folder)
    running = RunningSweep.read(folder) if is_running else None
    state = "running" if is_running else "finished" if _is_finished(description, folder, ledger, arms) else "stopped"
    lines = running.lines(description.name) if running else [f"{description.name} {_standing(state, arms)}"]
    if state == "stopped" and problem:
        lines = [f"{description.name} cannot continue as it is declared now: see the caution"]
    elif state == "stopped":
        lines[0] += f"; {continuation(name_or_file, output)}"
    return {
        "sweep": description.name,
        "state": state,
        "folder": str(folder),
        "arms": arms,
        "cautions": [*([problem] if problem else []), *cautions],
        "spent": asdict(ledger.account.spent),
        "budget": asdict(description.budget) if description.budget else None,
        "stopped": ledger.account.stopped,
        "running": running.to_json() if running else None,
        "lines": [*lines, _spending(description, ledger)],
    }


def unfinished(folder: Path) -> str:
    """Say how much of a sweep has ended, and how it goes on; "" if it is finished. Raise UserError."""
    description, ledger = SweepDescription.read(folder), read_raw(folder)
    arms = _arms(description, ledger)
    if _is_finished(description, folder, ledger, arms):
        return ""
    total = sum(arm["trials"] for arm in arms)
    ended = f"{total - _num_left(arms)} of {total} trials have ended"
    if is_driven(folder):
        return f"{description.name} is still running: {ended}"
    return f"{description.name} is not finished: {ended}; {continuation(description.name, folder.parent)}"


def _is_finished(
    description: SweepDescription, folder: Path, ledger: RawLedger, arms: Sequence[Mapping[str, Any]]
) -> bool:
    """Return whether nothing is left to run. The search for a cheap front may need fewer trials than were allowed."""
    if ledger.account.stopped or _num_left(arms) == 0:
        return True
    files = SweepFolder(folder)
    try:
        _, length = json.loads(files.published.read_text(encoding="utf-8"))["of"]  # see `sweeps.driver.launch`
        declared_as_then = SweepDescription.read(folder).arms == description.arms
    except (OSError, ValueError, UserError):
        return False
    return bool(length == files.ledger.stat().st_size) and declared_as_then


def _standing(state: str, arms: Sequence[Mapping[str, Any]]) -> str:
    """Say how many trials of a sweep in this state have ended, e.g. "is finished: 4/4 trials"."""
    total = sum(arm["trials"] for arm in arms)
    ended = f"{total - _num_left(arms)}/{total} trials"
    return f"stopped at {ended}" if state == "stopped" else f"is {state}: {ended}"


def _num_left(arms: Sequence[Mapping[str, Any]]) -> int:
    return sum(arm["left"] for arm in arms)


def _refusal(sweep: Sweep, folder: Path) -> str:
    """Say why a sweep, as it is declared now, cannot continue its ledger; "" if it can. Raise UserError."""
    from sweeps.ledger import refusal
    from sweeps.results.redeclared import differences

    ledger = read_raw(folder)
    path = SweepFolder(folder).ledger
    return refusal(path, ledger, sweep.name, sweep.identity(), lambda: differences(sweep, folder))


def _spending(description: SweepDescription, ledger: RawLedger) -> str:
    """Say what was spent, and why the search stopped if it did."""
    account = ledger.account
    return account.stopped or f"spent: {spending_text(account.spent, description.budget, description.on_gpu)}"


def _arms(description: SweepDescription, ledger: RawLedger) -> list[dict[str, Any]]:
    statuses: dict[str, Counter[str]] = {}  # configuration id -> how its trials ended
    for trial_id, outcome in ledger.outcomes.items():
        if outcome["trial"]["seed"] in description.seeds:  # not one that the sweep no longer has
            statuses.setdefault(ledger.configuration_of[trial_id], Counter())[outcome["status"]] += 1
    arms = []
    for arm in description.arms:
        ends: Counter[str] = Counter()
        for configuration in {event["configuration"] for event in ledger.asked.get(arm.key, {}).values()}:
            ends += statuses.get(configuration, Counter())
        arms.append(
            {
                "method": arm.method,
                "title": arm.title,
                "setting": arm.setting,
                "trials": arm.num_trials,
                **{status: ends[status] for status in ENDS},
                "left": max(0, arm.num_trials - sum(ends.values())),
            }
        )
    return arms
