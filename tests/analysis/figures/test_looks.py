"""One look for each method in every figure and page of a sweep; bars that hide nothing; ties that are one entry."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import interactive
from analysis.figures.answers import wrapped
from analysis.figures.frontier import frontier_figure
from analysis.figures.heatmap import build_grid, save_heatmap
from analysis.figures.static import hypervolume_figure, knob_figure
from analysis.figures.style import COLOURS, marker_outline, method_styles, new_figure, tied_sizes
from analysis.findings.findings import Findings, analyse
from analysis.findings.reading import Reading
from analysis.report.page import Chapter, alike, page
from analysis.tables.scores import ScoreTable, TrialRecord
from tests.support.made_up_trials import OBJECTIVES, configuration, record

METHODS = ("alpha", "beta", "gamma", "plain")
BASE = {"task": 0.05, "alignment": 0.95}
SEEDS = 3
ANSWERS = Reading("one", "so", "another", "3", "none")  # saves working them out


def trials(methods: tuple[str, ...] = METHODS) -> list[TrialRecord]:
    """Arcs that lie apart, and at strength 0 one place that all but plain share."""
    rows = []
    for number, method in enumerate(methods):
        if method == "plain":
            rows += [record(configuration("plain"), seed, 0.9, 0.1 + 0.01 * seed) for seed in range(SEEDS)]
            continue
        for strength in range(4):
            radius = 0.9 - 0.05 * number * bool(strength)
            task, alignment = radius * np.cos(0.4 * strength), 0.1 + radius * np.sin(0.4 * strength)
            which = configuration(method, k=float(strength))
            for seed in range(SEEDS):
                wobble = 0.01 * (seed - 1)
                rows.append(record(which, seed, float(task + wobble), float(min(alignment + wobble, 1.0))))
    return rows


@cache
def findings(methods: tuple[str, ...] = METHODS) -> Findings:
    return analyse(ScoreTable.from_records(trials(methods), OBJECTIVES, METHODS), BASE)


@pytest.fixture(scope="module")
def found() -> Findings:
    return findings()


def look(line: Line2D) -> tuple[str, str]:
    return to_hex(line.get_color()).upper(), str(line.get_marker())


def looks_of(figure: Figure) -> set[tuple[str, str]]:
    """Return colour and marker of everything in colour that has a marker, but seeds and greys."""
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() not in ("None", "*", "")]
    edges = [
        (to_hex(line.get_color() if line.get_color() != "#FFFFFF" else line.get_markeredgecolor()).upper(), line)
        for line in lines
        if line.get_markersize() > 3
    ]
    return {(colour, str(line.get_marker())) for colour, line in edges}


def test_a_share_beside_a_loss_has_an_axis_of_its_own() -> None:
    """Alignment from .1 to 1 and a task loss from 2.1 to 3: each panel has two axes, all alike on either side."""
    rows = [replace(each, scores={**each.scores, "task": 3 - each.scores["task"]}) for each in trials(METHODS[:2])]
    objectives = (replace(OBJECTIVES[0], higher_is_better=False), replace(OBJECTIVES[1], low=0.0, high=1.0))
    figure = knob_figure(analyse(ScoreTable.from_records(rows, objectives), {"task": 3.0, "alignment": 0.95}))
    left, right = figure.axes[:2], figure.axes[2:]
    assert [len(axes.get_lines()) for axes in figure.axes] == [5, 5, 5, 5], "a curve and four intervals each"
    assert left[0].get_ylim() == left[1].get_ylim() and left[0].get_ylim()[0] > 2
    assert right[0].get_ylim() == right[1].get_ylim() and right[0].get_ylim()[1] < 1.1
    assert [text.get_text() for text in figure.legends[0].texts] == ["task ↓", "alignment ↑\n(right axis)"]
    assert [axes.get_ylabel() for axes in left] == ["task ↓", ""]
    assert len(knob_figure(findings(METHODS[:2])).axes) == 2


def trace_looks(figure: object) -> set[tuple[str, str]]:
    symbols = {symbol: marker for marker, symbol in interactive.SYMBOLS.items()}
    found = set()
    for trace in figure.data:  # type: ignore[attr-defined]
        first = trace.marker.symbol[0] if isinstance(trace.marker.symbol, tuple) else trace.marker.symbol
        if trace.marker.color in (*COLOURS, "#000000") and first:
            found.add((trace.marker.color, symbols[first.removesuffix("-open")]))
    return found


def expected(methods: tuple[str, ...]) -> set[tuple[str, str]]:
    styles = method_styles(METHODS)
    return {(styles[name].colour, styles[name].marker) for name in methods}


@pytest.mark.parametrize("methods", [METHODS, ("beta", "gamma", "plain")])
def test_a_method_looks_the_same_wherever_it_is_drawn(methods: tuple[str, ...]) -> None:
    """Also where others are missing: the sweep's methods decide. Knob panels show what has a knob, so not plain."""
    results = findings(methods)
    knobbed = tuple(name for name in methods if name != "plain")
    assert looks_of(frontier_figure(results.table, BASE, reading=ANSWERS)) == expected(methods)
    assert looks_of(hypervolume_figure(results)) == expected(methods)
    assert looks_of(knob_figure(results)) == expected(knobbed)
    assert trace_looks(interactive.frontier_plot(results)) == expected(methods)
    assert trace_looks(interactive.forest_plot(results)) == expected(methods)
    plot = interactive.curves_plot(results)
    assert plot is not None
    assert trace_looks(plot) == expected(knobbed)


def test_the_page_has_the_same_look_as_the_figures(found: Findings) -> None:
    """Each method's symbol has its colour and its outline; every row of a method refers to it."""
    text = page("demo", [Chapter("setting", found, trials(), BASE, {})])
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    symbols = re.findall(r'<symbol id="method-(\d)"[^>]*><polygon fill="([^"]*)" points="([^"]*)"', text)
    styles = method_styles(METHODS)
    assert [(colour, len(points.split())) for _, colour, points in symbols] == [
        (style.colour, len(marker_outline(style.marker))) for style in styles.values()
    ]
    assert len({points for _, _, points in symbols}) == len(METHODS)
    for number, method in enumerate(styles):
        assert re.search(rf'href="#method-{number}"/></svg>{method}', text), method


def test_chapters_of_one_report_give_a_method_one_look(found: Findings) -> None:
    """The second lacks alpha, and knows of no methods but its own: gamma stays third."""
    lacking = analyse(ScoreTable.from_records(trials(("gamma", "plain")), OBJECTIVES), BASE)
    chapters = alike([Chapter("first", found, trials(), BASE, {}), Chapter("second", lacking, trials(), BASE, {})])
    assert trace_looks(interactive.frontier_plot(chapters[1].findings)) == expected(("gamma", "plain"))
    assert trace_looks(interactive.frontier_plot(lacking)) != expected(("gamma", "plain"))


def test_the_heat_map_marks_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("analysis.figures.heatmap.save_figure", lambda path, figure, dpi: drawn.append(figure))
    for method in (None, "beta"):
        save_heatmap(tmp_path / "map.png", build_grid({"setting": trials()}, ".*", method, BASE), "demo")
    marks = [{(line.get_gid(), *look(line)) for line in figure.axes[0].get_lines()} for figure in drawn]
    styles = method_styles(METHODS)
    assert marks[0] == {(name, style.colour, style.marker) for name, style in styles.items()}
    assert marks[1] == {("beta", styles["beta"].colour, styles["beta"].marker)}


def test_bars_are_lighter_than_means_and_lie_below_all_of_them(found: Findings) -> None:
    figure = frontier_figure(found.table, BASE, reading=ANSWERS)
    lines = figure.axes[0].get_lines()
    bars, means = ([line for line in lines if line.get_gid() == gid] for gid in ("bar", "mean"))
    assert len(bars) >= 2 * 10
    assert len(means) == len(found.points)
    assert max(line.get_alpha() for line in bars) < 0.5
    assert all(line.get_alpha() is None for line in means)
    assert max(line.get_zorder() for line in bars) < min(line.get_zorder() for line in means)
    off, on = sorted({line.get_alpha() for line in bars})
    assert off < on
    for other in (hypervolume_figure(found), knob_figure(found)):
        marked = [line for axes in other.axes for line in axes.get_lines() if line.get_marker() != "None"]
        plain = [line for axes in other.axes for line in axes.get_lines() if line.get_alpha() is not None]
        assert plain
        assert max(line.get_zorder() for line in plain) < min(line.get_zorder() for line in marked)


def test_bars_of_the_page_come_before_all_means(found: Findings) -> None:
    figure = interactive.frontier_plot(found)
    bars = [number for number, trace in enumerate(figure.data) if trace.error_x.array is not None]
    means = [number for number, trace in enumerate(figure.data) if trace.name in METHODS]
    assert bars
    assert max(bars) < min(means)
    for number in bars:
        alpha = re.fullmatch(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", figure.data[number].error_x.color)
        assert alpha is not None
        assert float(alpha.group(1)) < 0.5


def test_a_tie_is_one_label_and_markers_inside_each_other() -> None:
    """Three methods at (.9, .1) in both figures; their sizes shrink, so that each is seen."""
    results = findings(("alpha", "beta", "gamma"))
    figure = frontier_figure(results.table, BASE, reading=ANSWERS)
    here = [
        line
        for line in figure.axes[0].get_lines()
        if line.get_gid() == "mean" and (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx((0.1, 0.9))
    ]
    sizes = [line.get_markersize() for line in sorted(here, key=lambda line: line.get_zorder())]
    assert len(sizes) == 3
    assert all(outer - inner >= 3 for outer, inner in itertools.pairwise(sizes))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum("tie" in text for text in texts) == 1
    assert "Markers inside each other: equal means." in " ".join(figure.get_supxlabel().split())
    notes = [note.text for note in interactive.frontier_plot(results).layout.annotations]
    assert notes == ["tie of 3:<br>alpha<br>beta<br>gamma"]


def test_nothing_ties_where_means_differ(found: Findings) -> None:
    moved = replace(found.table, values_CSM=found.table.values_CSM + 0.001 * np.arange(13)[:, None, None])
    figure = frontier_figure(moved, BASE, reading=ANSWERS)
    assert not any("tie" in text.get_text() for text in figure.axes[0].texts)
    assert "inside each other" not in figure.get_supxlabel()


def test_the_five_answers_stand_above_the_axes(found: Findings) -> None:
    figure = frontier_figure(found.table, BASE, "demo: setting")
    figure.draw_without_rendering()
    questions = [text for text in figure.texts if text.get_gid() == "question"]
    assert [text.get_text()[-1] for text in questions] == ["?"] * 5
    axes = figure.axes[0].get_window_extent()
    head = [text.get_window_extent() for text in figure.texts if text.get_gid() or text.get_text() == "demo: setting"]
    assert len(head) >= 11
    assert min(box.y0 for box in head) > axes.y1
    assert max(box.x1 for box in head) < figure.bbox.x1
    assert not any(first.overlaps(second) for first, second in itertools.combinations(head, 2))


def test_lines_of_the_head_end_before_the_edge() -> None:
    """However wide their letters are: a figure shows the text in these lines, as wide as the renderer says."""
    for text in ("WWWW MMMM " * 40, "iiii llll " * 40, "0.957 [0.884, 0.995], by hypervolume (the area) " * 6):
        lines = wrapped(text, 5.0, 8.0)
        figure = new_figure(6.0, 6.0)
        drawn = [figure.text(0, 0, line, fontsize=8.0).get_window_extent().width / figure.dpi for line in lines]
        assert " ".join(lines) == text.strip()
        assert max(drawn) <= 5.0 and min(drawn[:-1]) > 4.0, "full lines, none too long"
    assert wrapped("", 5.0, 8.0) == [] and wrapped("W" * 200, 1.0, 8.0) == ["W" * 200]


def test_the_first_methods_differ_for_the_colour_blind() -> None:
    """Machado, Oliveira and Fernandes 2009, full protanopia, deuteranopia and tritanopia; distances in CIELAB."""
    visions = (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        np.eye(3),
    )
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for vision in visions:
        places = []
        for colour in (*COLOURS, "#000000"):
            srgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
            linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
            xyz = to_xyz @ np.clip(np.array(vision) @ linear, 0, 1) / [0.9505, 1.0, 1.089]
            root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
            places.append([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])
        distances = [np.linalg.norm(np.subtract(*pair)) for pair in itertools.combinations(places, 2)]
        assert min(distances) > 14


def test_sizes_of_a_tie_stay_bounded() -> None:
    assert tied_sizes(1) == [0.0]
    assert tied_sizes(3) == [7.0, 3.5, 0.0]
    assert max(tied_sizes(20)) == pytest.approx(14.0)
