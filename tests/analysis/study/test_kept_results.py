"""Results that a gallery keeps: what is written is read back, and every figure of our gallery follows from them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from analysis.study.catalog import FIGURES
from analysis.study.figure import SweepFigure
from analysis.study.gallery import read_entries
from analysis.study.kept_results import KeptSweep, keep, path_of, read_kept
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective, TrialRecord
from settings.common.errors import UserError
from sweeps.cli.reproduce import redraw

GALLERY = Path(__file__).parents[3] / "analysis" / "gallery"
DRAWN = {figure.name: figure for figure in FIGURES if isinstance(figure, SweepFigure)}
OURS = sorted(name for name, entry in read_entries(GALLERY).items() if entry.figure in DRAWN)


def results() -> SettingResults:
    """Return results with everything that a record may hold."""
    beta = Configuration("a1", "kl_penalty", "beta=0.1", {"beta": 0.1, "stage": "update"}, "t1")
    records = (
        TrialRecord(beta, 0, "finished", {"task": 1 / 3, "odd": math.nan}, 12.0, 0.25, counts={"task": 30}),
        TrialRecord(beta, 1, "failed", reason='out of memory:\n"no room"'),
        TrialRecord(Configuration("b2", "plain"), 0, "finished", {"task": 0.5}),
    )
    task = Objective("task", "task", True, "right answers", 0.0, 1.0)
    base, described = {"task": 0.1, "odd": math.nan}, {"task": task, "odd": Objective("odd", "alignment", False)}
    options = {"seed": 1, "proxy": ["a"]}
    return SettingResults("mine", "toy seed=1", options, (task,), records, base, {"task": 9}, described)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    wrote = KeptSweep("mine", 12.5, [results(), results()])
    assert keep(tmp_path, wrote) == tmp_path / "results" / "mine.json"
    read = read_kept(tmp_path, "mine")
    assert (read.name, read.seconds, len(read.settings)) == ("mine", 12.5, 2)
    assert [repr(each) for each in read.settings] == [repr(each) for each in wrote.settings]  # repr: nan equals nan


def test_each_trial_has_a_line(tmp_path: Path) -> None:
    lines = keep(tmp_path, KeptSweep("mine", 1.0, [results()])).read_text().splitlines()
    assert sum('"seed"' in line and '"status"' in line for line in lines) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"sweep": "mine", "seconds": 1, "settings": [{}]}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, "mine")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.json does not hold the results of a sweep"):
        read_kept(tmp_path, "mine")


def test_a_sweep_that_is_not_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the gallery keeps no results of sweep 'mine'"):
        read_kept(tmp_path, "mine")


@pytest.mark.parametrize("name", OURS)
def test_the_page_follows_from_what_the_gallery_keeps(name: str, tmp_path: Path) -> None:
    entry = read_entries(GALLERY)[name]
    shutil.copytree(GALLERY, tmp_path / "gallery")
    again, _ = redraw(entry.figure, entry.scale, tmp_path / "gallery")
    assert again == entry
    assert (tmp_path / "gallery" / "README.md").read_text() == (GALLERY / "README.md").read_text()
