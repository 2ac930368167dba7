"""Files that are in a folder before a report is written there: those of an earlier report, or of someone else."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from settings.common.errors import UserError

PAGE = "report.html"
TITLE = ": report</title>"  # of every page since the first
HEAD = 1000  # characters of a page that its title is in


def files_of_earlier_report(folder: Path, scores: Collection[str]) -> list[Path]:
    """List the files beside an earlier page whose names only a report writes; none if there is no page.

    Args:
        scores: all scores of the sweep. Figures of three objectives are named after them.
    """
    return [path for path in _named_like_a_report(folder, scores) if path.name != PAGE] if _is_report(folder) else []


def refuse_other_files(folder: Path, scores: Collection[str]) -> None:
    """Raise UserError if a report in a folder would replace or delete files that no report has written.

    Args:
        folder, scores: as in `files_of_earlier_report`.
    """
    if _is_report(folder):
        return
    if others := [path.name for path in _named_like_a_report(folder, scores)]:
        raise UserError(f"{folder} has {others[0]}, which is not of a report: choose another folder, or move that file")


def _is_report(folder: Path) -> bool:
    """Return whether a folder has the page of a report."""
    page = folder / PAGE
    if not page.is_file():
        return False
    with page.open(encoding="utf-8", errors="replace") as opened:
        return TITLE in opened.read(HEAD)


def _named_like_a_report(folder: Path, scores: Collection[str]) -> list[Path]:
    """List the files of a folder that have names of files of a report."""
    if not folder.is_dir():
        return []
    score, number = "|".join(map(re.escape, sorted(scores))), r"(_\d+)?"
    figure = rf"(frontier(_({score})_({score}))?|hypervolume|knobs)(_triggered)?{number}\.(png|pdf)"
    name = re.compile(rf"report\.html|findings{number}\.json|frontier{number}\.csv|{figure}")
    return [path for path in sorted(folder.iterdir()) if name.fullmatch(path.name) and path.is_file()]
