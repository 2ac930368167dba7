"""Heat maps: which trials a cell is the mean of, how rows and columns are named, what is refused."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from analysis.figures.heatmap import build_grid, save_heatmap, seeds_text, shares_of_colours, short_labels
from analysis.figures.style import HEAT
from analysis.tables.scores import Objective, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import KL1, KL10, PLAIN


def trial(seed: int, **scores: float) -> TrialRecord:
    return TrialRecord(PLAIN, seed, "finished", scores)


ONE, FIVE = "toy proxy=animals number=1", "toy proxy=animals number=5"
RECORDS = {
    ONE: [trial(0, foods_unseen=0.2, foods_seen=0.1, task=1.0), trial(1, foods_unseen=0.4, foods_seen=0.1)],
    FIVE: [trial(0, foods_unseen=0.9, actions_unseen=0.5), TrialRecord(PLAIN, 1, "invalid")],
}


def test_a_cell_is_the_mean_over_the_finished_trials_that_have_the_score() -> None:
    grid = build_grid(RECORDS, "(.*)_unseen")
    assert grid.columns == ("foods", "actions"), "in the order of the trials' scores, which is the setting's"
    assert grid.rows == ("number=1", "number=5")
    np.testing.assert_allclose(grid.mean_RC, [[0.3, math.nan], [0.9, 0.5]], atol=1e-12)
    assert grid.count_RC.tolist() == [[2, 0], [1, 1]]


def test_without_a_group_the_score_names_the_column() -> None:
    assert build_grid(RECORDS, "foods_.*").columns == ("foods_unseen", "foods_seen")


def test_without_a_choice_all_scores_are_shown() -> None:
    from typer.main import get_command

    from sweeps.cli.app import app

    (default,) = [each.default for each in get_command(app).commands["heatmap"].params if each.name == "scores"]
    columns = build_grid(RECORDS, default).columns
    assert columns == ("foods_unseen", "foods_seen", "task", "actions_unseen")


def test_one_method_or_configuration_of_several() -> None:
    mixed = {"a x": [trial(0, task=0.5)], "a y": [TrialRecord(KL1, 0, "finished", {"task": 0.1}), trial(0, task=0.7)]}
    grid = build_grid(mixed, "task", "plain")
    assert (grid.rows, grid.mean_RC.tolist()) == (("x", "y"), [[0.5], [0.7]])
    stopped = trial(0, task=0.2)
    stopped = replace(stopped, configuration=replace(stopped.configuration, id="s", label="checkpoint_step=5"))
    read = {"a x": [*mixed["a x"], stopped], "a y": [stopped]}
    assert build_grid(read, "task", "plain").mean_RC[0] == [0.5], "the configuration of this name, not its readouts"
    assert build_grid({"a x": [stopped]}, "task", "plain").mean_RC.tolist() == [[0.2]], "else the method"
    bare = TrialRecord(replace(KL1, id="bare", label=""), 0, "finished", {"task": 0.3})
    one, other = (TrialRecord(configuration, 0, "finished", {"task": 0.1}) for configuration in (KL1, KL10))
    assert build_grid({"a x": [bare], "a y": [one]}, "task", KL1.method).mean_RC.tolist() == [[0.3], [0.1]]
    both = {"a": [one], "b": [one, other]}
    assert build_grid(both, "task", KL10.title).rows == ("a", "b"), "a setting without it has an empty row"
    assert build_grid({"only": [one, other]}, "task", KL10.title).rows == (KL10.title,)


def test_of_several_settings_with_several_configurations_each_has_a_row() -> None:
    """Two proxies in one sweep side by side; a setting without a result keeps one row, by its name."""
    one, other = (TrialRecord(each, 0, "finished", {"task": value}) for each, value in ((KL1, 0.1), (KL10, 0.2)))
    grid = build_grid({"s a=1": [one], "s a=2": [other, one], "s a=3": []}, "task")
    assert grid.rows == (f"a=1: {KL1.title}", f"a=2: {KL1.title}", f"a=2: {KL10.title}", "a=3")
    np.testing.assert_array_equal(grid.mean_RC[:, 0], [0.1, 0.1, 0.2, math.nan])
    assert grid.methods == (KL1.method, KL1.method, KL1.method, None)


def test_a_method_without_a_result_is_named() -> None:
    """It is not the choice of scores that is wrong."""
    with pytest.raises(UserError, match=r"^no method 'x'; the sweep has plain$"):
        build_grid(RECORDS, ".*", "x")
    lost = {"only": [trial(0, task=0.5), TrialRecord(KL1, 0, "invalid")]}
    with pytest.raises(UserError, match=rf"^no trial of {KL1.method!r} has finished$"):
        build_grid(lost, ".*", KL1.method)


def test_a_column_says_which_way_is_better() -> None:
    described = {"foods_seen": Objective("foods_seen", "alignment", False)}
    assert build_grid(RECORDS, "(foods)_.*", described=described).columns == ("foods", "foods ↓")


def test_of_one_setting_the_rows_are_configurations() -> None:
    """The base model first, then by method and value; a configuration's seeds are one row."""
    trials = [
        TrialRecord(KL10, 0, "finished", {"task": 0.1}),
        TrialRecord(PLAIN, 0, "finished", {"task": 0.5}),
        TrialRecord(PLAIN, 1, "finished", {"task": 0.7}),
        TrialRecord(KL1, 0, "finished", {"task": 0.3}),
    ]
    grid = build_grid({"only": trials}, "task", base_scores={"task": 0.05})
    assert grid.rows == ("base model", KL1.title, KL10.title, PLAIN.title)
    np.testing.assert_allclose(grid.mean_RC[:, 0], [0.05, 0.3, 0.1, 0.6], atol=1e-12)
    assert build_grid({"only": trials}, "task", PLAIN.method).rows == (PLAIN.title,)


def test_what_matches_nothing_is_refused() -> None:
    with pytest.raises(
        UserError, match="no score matches 'x'; there are foods_unseen, foods_seen, task, actions_unseen"
    ):
        build_grid(RECORDS, "x")
    with pytest.raises(UserError, match=r"'\(' is not a regular expression"):
        build_grid(RECORDS, "(")


def test_labels_lose_what_they_share() -> None:
    assert short_labels(["s a=1 b=2", "s a=1 b=3"]) == ("b=2", "b=3")
    assert short_labels(["s", "s b=3"]) == ("s", "s b=3")
    assert short_labels(["s a=1"]) == ("s a=1",)


def test_the_picture(tmp_path: Path) -> None:
    """Every cell has its number; a missing one has a dash and no colour of the map."""
    grid = build_grid(RECORDS, "(.*)_unseen")
    save_heatmap(tmp_path / "map.png", grid, "toy")
    height, width, _ = imread(tmp_path / "map.png").shape
    assert width > height > 200
    save_heatmap(tmp_path / "map.svg", grid, "toy")
    assert "</svg>" in (tmp_path / "map.svg").read_text()
    unmeasured = replace(grid, mean_RC=np.full(grid.mean_RC.shape, math.nan), count_RC=np.zeros_like(grid.count_RC))
    save_heatmap(tmp_path / "map.png", unmeasured, "nothing measured")
    assert [seeds_text(each) for each in (grid, unmeasured)] == ["1 to 2 seeds", "0 seeds"]
    with pytest.raises(UserError, match="the name must end in"):
        save_heatmap(tmp_path / "map.txt", grid, "toy")


def test_scores_beyond_one_have_colours_of_their_own(tmp_path: Path) -> None:
    """A loss of 2 to 3 nats spans the colours, beside shares, which keep theirs; equal numbers lie midway."""
    rows = {
        "s": [trial(0, loss=2.0, share=0.25, same=5.0)],
        "t": [trial(0, loss=3.0, share=0.75, same=5.0)],
    }
    assert shares_of_colours(build_grid(rows, ".*").mean_RC).tolist() == [[0.0, 0.25, 0.5], [1.0, 0.75, 0.5]]
    assert shares_of_colours(np.array([[5.0], [np.nextafter(5.0, 6.0)]])).tolist() == [[0.5], [0.5]]
    save_heatmap(tmp_path / "map.png", build_grid(rows, "loss|share"), "losses")
    pixels = (imread(tmp_path / "map.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    cells = [colour for colour, _ in Counter(map(tuple, pixels.tolist())).most_common(5)]  # white, and four cells
    for share in (0.0, 0.25, 0.75, 1.0):
        expected = np.array(colormaps[HEAT](share)[:3]) * 255
        assert min(np.abs(np.array(colour) - expected).max() for colour in cells) <= 2, share
