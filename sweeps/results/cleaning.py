"""Decide which files of a sweep may be deleted: mainly adapters, which grow in number.

Adapters are kept if their configuration is on the frontier, if their trial is among the newest or has not ended, or if
other trials build on them. The rest can be trained again. Replies and grades are small and stay, because reports are
made from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from settings.common.files import remove
from sweeps.find import find
from sweeps.ledger import Ledger, LedgerState, read
from sweeps.names import folder_of
from sweeps.results.disk import is_leftover, size_of
from sweeps.results.frontier_files import of_case
from sweeps.results.redeclared import differences
from sweeps.sweep import Sweep
from trainables.folder import SweepFolder
from trainables.trial import pack_name


@dataclass(frozen=True)
class Removable:
    """A file or folder that may be deleted, its size in bytes, and why."""

    path: Path
    size: int
    reason: str


def clean(name_or_file: str, output: Path, newest: int, dry_run: bool) -> list[Removable]:
    """Delete what may be deleted of a sweep that is not running, or with `dry_run` only return it.

    Raise UserError if there is no such sweep, a driver runs it, or its ledger is damaged or belongs to another sweep.
    """
    sweep = find(name_or_file, output)
    folder = folder_of(sweep.name, output)
    read(folder)  # raises if there is no ledger; opening would create one
    with Ledger(folder, sweep.name, sweep.identity(), lambda: differences(sweep, folder)) as ledger:
        sweep.check_settings(ledger.state.trials)
        items = removable(sweep, ledger.state, folder, newest)
        if not dry_run:
            prune(items)
    return items


def removable(sweep: Sweep, record: LedgerState, folder: Path, newest: int) -> list[Removable]:
    """Return what may be deleted while no driver runs: adapters, checkpoints of ended packs, half-written files.

    Args:
        newest: how many of the trials that ended last keep their adapters regardless.
    """
    return [*prunable(sweep, record, folder, newest), *_stale_checkpoints(record, folder), *_leftovers(folder)]


def prunable(sweep: Sweep, record: LedgerState, folder: Path, newest: int) -> list[Removable]:
    """Return the adapters that may be deleted, even while the sweep runs.

    Their trials have ended, are neither on the frontier nor new, and no trial builds on them.
    """
    files = SweepFolder(folder)
    ended = [outcome.trial for outcome in record.outcomes.values()]
    stored = [trial for trial in ended[: max(0, len(ended) - newest)] if files.adapter(trial.trial_id).is_dir()]
    if not stored:
        return []
    kept = _on_front(sweep, record) | _built_on(sweep, record)
    paths = [files.adapter(trial.trial_id) for trial in stored if trial.trial_id not in kept]
    reason = "its trial has ended and is not on the frontier"
    return [Removable(path, size_of(path), reason) for path in paths]


def prune(items: Iterable[Removable]) -> int:
    """Delete files and folders. Return their bytes."""
    freed = 0
    for item in items:
        remove(item.path)
        freed += item.size
    return freed


def _on_front(sweep: Sweep, record: LedgerState) -> set[str]:
    """Return the ids of the trials of all configurations on the frontier of their setting."""
    front = set()
    for case in sweep.cases:
        results = of_case(sweep, record, case)
        if results.table.num_seeds_C.any():
            front |= {point.configuration for point in results.points if point.on_front}
    return {key for key, outcome in record.outcomes.items() if outcome.trial.configuration_id in front}


def _built_on(sweep: Sweep, record: LedgerState) -> set[str]:
    """Return the ids of all trials that configurations build on, ended or not: later trials share them."""
    trials = (
        trial
        for arm in sweep.arms
        for asked in record.asked.get(arm.key, {}).values()
        for trial in sweep.trials_of(arm, asked.values)
    )
    return {needed.trial_id for trial in trials for needed in trial.built_on}


def _stale_checkpoints(record: LedgerState, folder: Path) -> list[Removable]:
    """Return the checkpoints of packs whose trials have all ended or are unknown."""
    ended = record.outcomes.keys() | record.generated.keys()
    waiting = {trial_id for pack, _ in record.dispatched for trial_id in pack} - ended
    under_way = {pack_name(pack) for pack, _ in record.dispatched if waiting.intersection(pack)} | waiting
    directory = SweepFolder(folder).checkpoints
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    stale = [path for path in files if path.stem not in under_way and not is_leftover(path)]
    return [Removable(path, size_of(path), "its trials have ended") for path in stale]


def _leftovers(folder: Path) -> list[Removable]:
    """Return what killed writers left behind. Adapters are skipped: they are whole or absent."""
    places = [folder, *(path for path in folder.iterdir() if path.is_dir() and not is_leftover(path))]
    paths = [path for place in places for path in sorted(place.iterdir()) if is_leftover(path)]
    return [Removable(path, size_of(path), "a killed process left it") for path in paths]
