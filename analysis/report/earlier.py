"""The files of an earlier report in the same folder, which a new one leaves out."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

PAGE = "report.html"


def files_of_earlier_report(folder: Path, scores: Collection[str]) -> list[Path]:
    """List the files beside an earlier page whose names only a report writes; none if there is no page.

    Args:
        scores: all scores of the sweep. Figures of three objectives are named after them.
    """
    if not (folder / PAGE).is_file():
        return []
    score, number = "|".join(map(re.escape, sorted(scores))), r"(_\d+)?"
    figure = rf"(frontier(_({score})_({score}))?|hypervolume|knobs)(_triggered)?{number}\.(png|pdf)"
    name = re.compile(rf"findings{number}\.json|frontier{number}\.csv|{figure}")
    return [path for path in sorted(folder.iterdir()) if name.fullmatch(path.name) and path.is_file()]
