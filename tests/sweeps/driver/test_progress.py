"""What the terminal says of a judge while a sweep runs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sweeps.driver.progress import Display
from tests.support.fakes import toy_sweep


def test_what_waits_for_the_judge_is_shown(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    out = io.StringIO()
    console = Console(file=out, width=120)
    display = Display(console, sweep.name, 4, sweep.cases[0].objectives, title=sweep.title_of)
    display.set_message("training")
    display.judging = lambda: "2 with the judge (310 calls)"
    display.set_message("training")
    first, second = out.getvalue().splitlines()
    assert "judge" not in first
    assert "2 with the judge (310 calls) · training" in second
