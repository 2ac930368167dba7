"""The frontier figure: what is drawn where. How it looks was judged by eye."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import analysis
from analysis.figures.frontier import axes_of, frontier_figure, save_frontier
from analysis.figures.labels import Label, place_labels
from analysis.figures.style import COLOURS, method_styles
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import ALIGNMENT, KL1, PLAIN, TASK, TRIALS, configuration, record, table

BASE = {"task": 0.05, "alignment": 0.95}
LOSS = Objective("task", "task", higher_is_better=False)


def marker_positions(figure: Figure, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[0].get_lines() if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def staircase(figure: Figure) -> list[tuple[float, float]]:
    dashed = [line for line in figure.axes[0].get_lines() if line.is_dashed()]
    assert len(dashed) == 1
    return list(zip(np.round(dashed[0].get_xdata(), 9), np.round(dashed[0].get_ydata(), 9), strict=True))


def test_axes() -> None:
    """x is alignment-like, y the first other one, whatever the order."""
    capability = Objective("capability", "capability")
    assert axes_of((TASK, ALIGNMENT)) == ("alignment", "task")
    assert axes_of((ALIGNMENT, TASK)) == ("alignment", "task")
    assert axes_of((TASK, capability)) == ("capability", "task")
    assert axes_of((TASK, capability, ALIGNMENT), y="capability") == ("alignment", "capability")
    assert axes_of((TASK, ALIGNMENT), x="task") == ("task", "alignment")
    for options in ({"x": "nothing"}, {"x": "task", "y": "task"}):
        with pytest.raises(UserError):
            axes_of((TASK, ALIGNMENT), **options)
    with pytest.raises(UserError, match="two objectives"):
        axes_of((TASK,))


def test_what_is_drawn() -> None:
    figure = frontier_figure(table(TRIALS), BASE, "demo")
    assert marker_positions(figure, "*") == [(0.95, 0.05)]
    assert marker_positions(figure, "X") == [(pytest.approx(0.1), pytest.approx(0.9))]
    kl = method_styles(["kl", "plain"])["kl"]
    assert len([line for line in figure.axes[0].get_lines() if line.get_markersize() == kl.size]) == 2
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["1"]  # KL 1; KL 10 is dominated, and plain has no coefficient
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[:3] == ["base model", "plain fine-tuning", "kl (beta)"]
    assert figure.axes[0].get_xlabel().startswith("alignment: share of aligned replies")
    assert "better" in figure.axes[0].get_xlabel()
    assert "better" in figure.axes[0].get_ylabel()


def test_staircase_by_hand() -> None:
    """From the left at .9 to plain (.1, .9), down to .8, right to KL 1 (.6, .8), down to the bottom."""
    figure = frontier_figure(table(TRIALS), BASE)
    left, bottom = figure.axes[0].get_xlim()[0], figure.axes[0].get_ylim()[0]
    expected = [(left, 0.9), (0.1, 0.9), (0.1, 0.8), (0.6, 0.8), (0.6, bottom)]
    assert np.allclose(staircase(figure), expected)


def test_staircase_when_less_is_better() -> None:
    """Task as a loss: the front is KL 1 (.6, .8) and KL 10 (.5, .5). The axis is turned."""
    figure = frontier_figure(table(TRIALS, (LOSS, ALIGNMENT)), BASE)
    bottom, top = figure.axes[0].get_ylim()
    left = figure.axes[0].get_xlim()[0]
    assert bottom > top
    assert np.allclose(staircase(figure), [(left, 0.5), (0.5, 0.5), (0.5, 0.8), (0.6, 0.8), (0.6, bottom)])


def test_shares_do_not_stretch_the_axes() -> None:
    """Plain's interval is 0.9 +- 1.27; the axis stops a little above 1 and says so. A score beyond 1 is not a share."""
    figure = frontier_figure(table(TRIALS), BASE)
    assert figure.axes[0].get_ylim() == (-0.04, 1.07)
    assert "(cut at the edge)" in caption(figure)
    big = [TrialRecord(row.configuration, row.seed, "finished", {**row.scores, "task": 40.0}) for row in TRIALS]
    assert frontier_figure(table(big)).axes[0].get_ylim()[1] > 40


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_caption_says_what_intervals_are() -> None:
    text = caption(frontier_figure(table([*TRIALS, record(KL1, 2, status="invalid")]), BASE))
    assert "mean over 2 seeds" in text
    assert "95 % interval" in text
    assert "shrunk within each method" in text
    assert "1 invalid trial." in text


def test_single_seeds_have_no_bars_and_say_so() -> None:
    figure = frontier_figure(table([record(KL1, 0, 0.5, 0.5), record(PLAIN, 0, 0.9, 0.1)]))
    assert "95 %" not in caption(figure)
    assert "No interval for kl, plain: one seed." in caption(figure)


def crowded(num_knobs: int, width: float) -> ScoreTable:
    """4 x `num_knobs` points on one front, over `width` of the x axis; a far one keeps the axes wide."""
    trials = [record(PLAIN, 0, 2.0, -1.0)] if width < 1 else [record(PLAIN, 0, 1.0, 0.0)]
    size = 4 * num_knobs
    for index in range(size):
        alignment = width * index / size
        which = configuration(f"method{index % 4}", k=round(10.0 ** (index // 4 - 2), 2))
        trials += [record(which, seed, 1 - alignment**2 - 1e-6 * index, alignment) for seed in range(2)]
    return table(trials)


@pytest.mark.parametrize(("num_knobs", "width", "at_least"), [(4, 1.0, 14), (9, 0.2, 5)])
def test_labels_cover_neither_each_other_nor_markers(num_knobs: int, width: float, at_least: int) -> None:
    """Where there is no room, as in the second case, a label is left out."""
    figure = frontier_figure(crowded(num_knobs, width), BASE, "crowded")
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert at_least <= len(boxes) <= 4 * num_knobs
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    spots = [axes.transData.transform(spot) for marker in "osD^*X" for spot in marker_positions(figure, marker)]
    assert len(spots) == 4 * num_knobs + 2
    assert not any(box.contains(*spot) for box in boxes for spot in spots)
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


def test_labels_stay_inside_the_axes() -> None:
    """Of a point in each corner."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    place_labels(figure, axes, [Label("a long label", x, y, "black") for x in (0, 1) for y in (0, 1)], [], 8.0)
    inside = axes.get_window_extent()
    assert len(axes.texts) == 4
    for text in axes.texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
        assert inside.y0 <= box.y0 <= box.y1 <= inside.y1


def test_methods_differ_in_colour_and_marker() -> None:
    names = [f"method{index}" for index in range(11)] + ["plain"]
    styles = method_styles(names)
    assert len({(style.colour, style.marker) for style in styles.values()}) == 12
    assert len({style.marker for style in styles.values()}) == 12
    assert styles["plain"].colour not in COLOURS


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_and_that_they_are_reproducible(tmp_path: Path, ending: str, magic: bytes) -> None:
    path = tmp_path / "figures" / f"frontier.{ending}"
    save_frontier(path, table(TRIALS), BASE)
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    if ending == "png":
        assert imread(path).shape[1] == 1800
        first = path.read_bytes()
        save_frontier(path, table(TRIALS), BASE)
        assert path.read_bytes() == first


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png, \.pdf, \.svg"):
        save_frontier(tmp_path / "frontier.jpg", table(TRIALS))


def test_no_pyplot() -> None:
    """pyplot keeps global state and opens windows."""
    sources = Path(analysis.__file__).parent.rglob("*.py")
    imported = [
        alias.name
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in [*node.names, *([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else [])]
    ]
    assert "numpy" in imported
    assert not any("pyplot" in name for name in imported)
