"""The gallery: outcomes follow from checks, and the page from the entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from analysis.figures.panels import Bars, bars_figure
from analysis.figures.style import COLOURS
from analysis.findings.frontier import Estimate
from analysis.study.figure import Check
from analysis.study.gallery import Entry, page, read_entries, reproduction_of, save_png, write
from settings.common.errors import UserError
from tests.conftest import ROOT

HOLDS, FAILS, OPEN = (
    Check(f"It {word}", "0.50", held) for word, held in (("rises", True), ("falls", False), ("stays", None))
)
FIGURE = bars_figure([Bars("bars", ["a", "b"], {"base": [Estimate(0.2, 0.1, 0.3)] * 2})])
ENTRY = Entry(
    figure="em_pareto",
    title="All methods",
    claim="It rises, falls and stays.",
    evidence="3 trials",
    checks=(HOLDS,),
    sentence="It is 0.50.",
)


@pytest.mark.parametrize(
    ("checks", "outcome"),
    [
        ([HOLDS, HOLDS], "reproduced"),
        ([HOLDS, FAILS], "partly"),
        ([HOLDS, OPEN], "partly"),
        ([FAILS], "not"),
        ([OPEN, FAILS], "not"),
    ],
)
def test_the_outcome_follows_from_the_checks(checks: list[Check], outcome: str) -> None:
    assert reproduction_of(checks) == outcome


def test_there_is_no_outcome_without_a_check() -> None:
    with pytest.raises(ValueError, match="without checks"):
        reproduction_of([])


def test_the_second_sentence_says_what_contradicts_the_study() -> None:
    assert ENTRY.against == "Nothing here contradicts the study."
    assert replace(ENTRY, checks=(HOLDS, OPEN)).against.endswith("it remains open whether it stays.")
    assert replace(ENTRY, checks=(FAILS, OPEN, FAILS)).against == (
        "Against the study, it does not hold that it falls; or that it falls."
    )


def test_an_abbreviation_keeps_its_capitals() -> None:
    assert "hold that KL is first" in replace(ENTRY, checks=(Check("KL is first", "", False),)).against


def test_the_page_has_a_row_and_a_section_for_each_figure() -> None:
    entry = replace(ENTRY, checks=(HOLDS, FAILS), notes=("Mind the gap.",))
    text = page([entry, replace(ENTRY, figure="toy_base", checks=(FAILS,))])
    assert "| figure | nano |\n|---|---|\n" in text
    assert "| [`em_pareto`](#em_pareto) All methods | partly reproduced, 1 of 2 |" in text
    assert "| [`toy_base`](#toy_base) All methods | not reproduced, 0 of 1 |" in text
    assert "| It falls | *fails:* 0.50 |" in text
    assert "- Mind the gap." in text
    assert "`selgen reproduce em_pareto`: 3 trials." in text


def test_scales_stand_side_by_side_and_their_disagreements_in_a_sentence() -> None:
    small = replace(
        ENTRY,
        scale="small",
        needs="--scale small",
        checks=(replace(HOLDS, holds=False), OPEN),
        sentence="It is 0.10.",
        differs="It is small.",
    )
    text = page([replace(ENTRY, checks=(HOLDS, FAILS, OPEN)), small, replace(ENTRY, figure="toy_base")])
    assert "| figure | nano | small |" in text
    assert "| [`em_pareto`](#em_pareto) All methods | partly reproduced, 1 of 3 | not reproduced, 0 of 2 |" in text
    assert "| [`toy_base`](#toy_base) All methods | reproduced, 1 of 1 |  |" in text
    assert "| It rises | *holds:* 0.50 | *fails:* 0.50 |" in text
    assert "| It falls | *fails:* 0.50 |  |" in text
    assert "The scales disagree: at nano but not at small, it rises. It is small." in text
    assert text.count("The scales disagree") == 1
    assert "![All methods](em_pareto_small.png)" in text
    assert "`selgen reproduce em_pareto --scale small`: 3 trials." in text


def test_scales_that_agree_need_no_explanation() -> None:
    text = page([replace(ENTRY, checks=(HOLDS, OPEN)), replace(ENTRY, scale="small", checks=(OPEN,), differs="No.")])
    assert "disagree" not in text
    assert "No." not in text


def test_entries_are_kept_replaced_and_ordered(tmp_path: Path) -> None:
    order = ["toy_base", "em_pareto"]
    write(tmp_path, ENTRY, FIGURE, order)
    write(tmp_path, replace(ENTRY, scale="small"), FIGURE, order)
    write(tmp_path, replace(ENTRY, figure="toy_base"), FIGURE, order)
    files = write(tmp_path, replace(ENTRY, checks=(FAILS,)), FIGURE, order)
    assert files == [tmp_path / "README.md", tmp_path / "em_pareto.png"]
    entries = read_entries(tmp_path)
    assert list(entries) == [*order, "em_pareto_small"]
    assert entries["em_pareto"] == replace(ENTRY, checks=(FAILS,))
    assert (tmp_path / "README.md").read_text() == page(list(entries.values()))
    assert imread(tmp_path / "toy_base.png").shape[1] > 600
    assert (tmp_path / "toy_base.png").stat().st_size < 120_000


def test_every_colour_of_a_small_file_is_still_itself(tmp_path: Path) -> None:
    """Ten series as bars: the legend's colours, which few pixels have, are off by at most a few of 255."""
    series = {f"series {number}": [Estimate(0.1 * number, 0.1, 0.9)] * 3 for number in range(10)}
    figure = bars_figure([Bars("bars", ["a", "b", "c"], series)])
    save_png(tmp_path / "small.png", figure)
    drawn = (imread(tmp_path / "small.png")[:, :, :3] * 255).reshape(-1, 3)
    for colour in COLOURS[:9]:
        wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
        assert np.abs(drawn - wanted).max(axis=1).min() <= 6, colour


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, ENTRY, FIGURE, [])
    assert (tmp_path / "one/em_pareto.png").read_bytes() == (tmp_path / "two/em_pareto.png").read_bytes()


def test_no_gallery_has_no_entries(tmp_path: Path) -> None:
    assert read_entries(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"name": "a"}}', '{"a": 1}'])
def test_a_broken_list_of_entries_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "gallery.json").write_text(text)
    with pytest.raises(UserError, match=r"gallery.json is not a list of gallery entries"):
        read_entries(tmp_path)


def test_the_committed_gallery_is_what_its_entries_say() -> None:
    folder = ROOT / "analysis" / "gallery"
    entries = read_entries(folder)
    assert (folder / "README.md").read_text() == page(list(entries.values()))
    for entry in entries.values():
        assert (folder / entry.image).stat().st_size < 120_000
