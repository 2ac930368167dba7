"""What a sweep keeps on the disk, and what of it nobody needs any more.

Adapters are what grows. Kept are those of the configurations on the frontier, of the newest trials, of trials that have
not ended, and those that other trials build on; the rest may go, and can be trained again. Replies and grades are small
and stay, because reports are made of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from settings.common.files import PARTIAL, remove
from sweeps import find
from sweeps.ledger import Ledger, LedgerState, read
from sweeps.results.frontier_files import of_case
from sweeps.sweep import Sweep
from trainables.folder import SweepFolder
from trainables.trial import pack_name

LEFTOVERS, RESULTS = "leftovers", "results"


@dataclass(frozen=True)
class Item:
    """Something that may go: a file or folder, its size in bytes, and why."""

    path: Path
    size: int
    reason: str


def usage(folder: Path) -> dict[str, int]:
    """Bytes of a sweep's folder by kind: adapters, checkpoints, ... ; kinds without any are left out."""
    files, sizes = SweepFolder(folder), dict[str, int]()
    kinds = {
        files.adapters: "adapters",
        files.checkpoints: "checkpoints",
        files.observed: "replies and grades",
        files.graded: "replies and grades",
        files.ledger: "ledger and study",
        files.lock: "ledger and study",
        files.study: "ledger and study",
    }
    for entry in folder.iterdir():
        kind = LEFTOVERS if _is_leftover(entry) else kinds.get(entry, RESULTS)
        size = size_of(entry)
        if size:
            sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder. What vanishes meanwhile, because the sweep runs, counts nothing."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def clean(name_or_file: str, output: Path, newest: int, dry_run: bool) -> list[Item]:
    """Delete what may go of a sweep that does not run, or only say what it is.

    Raises UserError: no such sweep, another driver runs it, its ledger is damaged or of another sweep.
    """
    sweep = find.find(name_or_file, output)
    folder = output / sweep.name
    read(folder)  # else the ledger would be made
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        sweep.check_settings(ledger.state.trials)
        items = removable(sweep, ledger.state, folder, newest)
        if not dry_run:
            prune(items)
    return items


def removable(sweep: Sweep, record: LedgerState, folder: Path, newest: int) -> list[Item]:
    """What may go when no driver runs: adapters by the rule, checkpoints of ended packs, leftovers of killed writers.

    Args:
        newest: how many of the trials that ended last keep their adapters whatever they are.
    """
    return [*prunable(sweep, record, folder, newest), *_stale_checkpoints(record, folder), *_leftovers(folder)]


def prunable(sweep: Sweep, record: LedgerState, folder: Path, newest: int) -> list[Item]:
    """Adapters that may go, also while the sweep runs: of trials that ended, are not on the frontier, not new, and that
    no trial builds on.
    """
    files = SweepFolder(folder)
    ended = [outcome.trial for outcome in record.outcomes.values()]
    there = [trial for trial in ended[: max(0, len(ended) - newest)] if files.adapter(trial.trial_id).is_dir()]
    if not there:
        return []
    kept = _on_front(sweep, record) | _built_on(sweep, record)
    gone = [trial for trial in there if trial.trial_id not in kept]
    reason = "its trial has ended and is not on the frontier"
    return [Item(path, size_of(path), reason) for path in (files.adapter(trial.trial_id) for trial in gone)]


def prune(items: Iterable[Item]) -> int:
    """Delete them. Returns the bytes."""
    freed = 0
    for item in items:
        remove(item.path)
        freed += item.size
    return freed


def _on_front(sweep: Sweep, record: LedgerState) -> set[str]:
    """Ids of the trials of all configurations on the frontier of their setting."""
    front = set()
    for case in sweep.cases:
        found = of_case(sweep, record, case)
        if found.table.num_seeds_C.any():
            front |= {point.configuration for point in found.points if point.on_front}
    return {key for key, outcome in record.outcomes.items() if outcome.trial.configuration_id in front}


def _built_on(sweep: Sweep, record: LedgerState) -> set[str]:
    """Ids of what the trials of all configurations require, ended or not: those that are asked for later share it."""
    known = (
        trial
        for arm in sweep.arms
        for asked in record.asked.get(arm.key, {}).values()
        for trial in sweep.trials_of(arm, asked.values)
    )
    return {needed.trial_id for trial in known for needed in trial.built_on}


def _stale_checkpoints(record: LedgerState, folder: Path) -> list[Item]:
    """Checkpoints of packs of which every trial has ended, and of which nobody knows the trials."""
    ended = record.outcomes.keys() | record.generated.keys()
    waiting = {trial_id for pack, _ in record.dispatched for trial_id in pack} - ended
    under_way = {pack_name(pack) for pack, _ in record.dispatched if waiting.intersection(pack)} | waiting
    directory = SweepFolder(folder).checkpoints
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    stale = [path for path in files if path.stem not in under_way and not _is_leftover(path)]
    return [Item(path, size_of(path), "its trials have ended") for path in stale]


def _leftovers(folder: Path) -> list[Item]:
    """What killed writers left, not looked for inside of adapters, which are whole or absent."""
    places = [folder, *(path for path in folder.iterdir() if path.is_dir() and not _is_leftover(path))]
    found = [path for place in places for path in sorted(place.iterdir()) if _is_leftover(path)]
    return [Item(path, size_of(path), "a killed process left it") for path in found]


def _is_leftover(path: Path) -> bool:
    return path.name.endswith(PARTIAL) or path == SweepFolder(path.parent).torn or path.name.endswith(".torn")
