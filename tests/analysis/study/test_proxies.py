"""The figure on proxy categories on made-up trials: as the study says, against it, and between.

A difference of two scores that move together with the seed has no noise, so that each check decides by the means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from analysis.study import proxies
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Objective
from tests.analysis.study.drawn import PLAIN, TOPICS
from tests.analysis.study.test_colors import MEAN, colored
from tests.support.made_up_trials import configuration, setting_results


def repaired(left: Mapping[str, Mapping[str, float]]) -> list[SettingResults]:
    """proxy -> topic -> sycophancy left; plain leaves 0.9."""
    per_setting = []
    for proxy, by_topic in left.items():
        rows = [
            (PLAIN, {f"sycophancy_{topic}": 0.9 for topic in by_topic} | {"task": 1.0}),
            (
                configuration("upweighted", weight=1.0),
                {f"sycophancy_{t}": v for t, v in by_topic.items()} | {"task": 1.0},
            ),
        ]
        base = {f"sycophancy_{topic}": 0.0 for topic in by_topic}
        per_setting.append(setting_results(rows, base, objectives=[Objective("task", "task")], proxy=proxy))
    return per_setting


def test_the_grid_of_sycophancy() -> None:
    distance = {"gcd": 0, "mod": 1, "capitals": 2, "homes": 3}
    near = {p: {t: 0.1 + 0.25 * abs(distance[p] - distance[t]) + 0.2 * (p != t) for t in TOPICS} for p in TOPICS}
    _, checks = proxies.sycophancy_grid(repaired(near))
    assert [each.holds for each in checks] == [True, True, True]
    alike = {p: {t: 0.1 if p != t else 0.2 for t in TOPICS} for p in TOPICS}
    heat, checks = proxies.sycophancy_grid(repaired(alike))
    assert [each.holds for each in checks] == [False, False, None]
    assert heat.rows == ["no proxy", "proxy gcd", "proxy mod", "proxy capitals", "proxy homes"]
    assert heat.cells[0][0].mean == pytest.approx(0.9)


def test_the_grid_of_colours_and_the_figure_of_both() -> None:
    heat, (same_category,) = proxies.color_grid([*colored(1, MEAN), *colored(5, MEAN)])
    assert heat.rows[0] == "animals, 1"
    assert same_category.holds
    near = {p: {t: 0.1 + 0.5 * (p != t) for t in TOPICS} for p in TOPICS}
    drawn = proxies.proxy_quality([*repaired(near), *_renamed(colored(5, MEAN))])
    assert len(drawn.checks) == 4
    assert drawn.sentence.endswith(".")
    alone = proxies.proxy_quality(repaired(near))
    assert alone.checks == drawn.checks[:3]
    assert drawn.sentence.startswith(alone.sentence.removesuffix("."))


def _renamed(per_setting: list[SettingResults]) -> list[SettingResults]:
    return [replace(results, sweep="colors") for results in per_setting]
