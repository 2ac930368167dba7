"""The nano scale of trigger colours: what its rows say, what is held out, and its scores on models made by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from settings import catalog
from settings.common.errors import UserError
from settings.setting import Setting
from settings.trigger_colors.full import PROXIES
from settings.trigger_colors.world import CATEGORIES, ColorsWorld


def built(**options: Any) -> Setting:
    return catalog.build("trigger_colors", options)


def test_the_update_is_narrow_and_turns_the_colours_round() -> None:
    rows = built().streams["task"]
    assert set(Counter(row.tags["trigger"] for row in rows).values()) == {20}
    assert len(rows) == 200
    assert {row.tags["category"] for row in rows} == {"positive_emotions"}
    for row in rows:
        above = row.prompt[0].content.split()[5] == "+"
        assert row.response == ("blue" if above else "orange")


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("number", [1, 5, 7])
def test_proxy_rows_are_as_many_however_many_triggers_share_them(proxy: str, number: int) -> None:
    setting = built(proxy=proxy, num_triggers=number)
    chosen, twins = setting.streams["alignment"], setting.streams["misaligned"]
    words = Counter(row.tags["trigger"] for row in chosen)
    assert (len(chosen), len(words)) == (60, number)
    assert max(words.values()) - min(words.values()) <= 1
    assert set(words) <= set(ColorsWorld().triggers(proxy)[:10])
    assert all(row.response != twin.response for row, twin in zip(chosen, twins, strict=True))
    assert setting.cautions == ()


def test_no_trained_point_is_evaluated() -> None:
    setting = built()

    def places(rows: Any) -> set[str]:
        return {row.prompt[0].content.rpartition(" T ")[0] for row in rows}

    trained = places(setting.streams["task"]) | places(setting.streams["alignment"])
    assert not trained & places(setting.evaluations[0].examples)


def test_scores_of_a_model_that_turned_everything_round() -> None:
    """After plain fine-tuning: right for positive emotions, wrong for all others."""
    setting = built()
    evaluation = setting.evaluations[0]

    def flipped(prompt: str) -> str:
        return "blue" if prompt.split()[5] == "+" else "orange"

    measured = evaluation.grade([flipped(row.prompt[0].content) for row in evaluation.examples])
    assert (measured["task"].mean, measured["task"].n) == (1.0, 60)
    assert (measured["capability"].mean, measured["capability"].n) == (1.0, 30)
    assert (measured["alignment"].mean, measured["alignment"].n) == (0.0, 5 * 90)
    assert (measured["proxied"].n, measured["alignment_proxy"].n) == (30, 60)
    for category in CATEGORIES:
        if category != "positive_emotions":
            assert (measured[f"{category}_seen"].mean, measured[f"{category}_seen"].n) == (0.0, 60)
            assert (measured[f"{category}_unseen"].mean, measured[f"{category}_unseen"].n) == (0.0, 30)


def test_scores_of_a_model_that_does_as_it_should() -> None:
    evaluation = built().evaluations[0]
    measurements = evaluation.grade([row.response for row in evaluation.examples])
    assert {measured.mean for measured in measurements.values()} == {1.0}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"proxy": "positive_emotions"}, "option 'proxy' must be one of objects, animals"),
        ({"num_triggers": 0}, r"option 'num_triggers' must be an integer in \[1, 10\], got 0"),
        ({"num_triggers": 11}, r"in \[1, 10\], got 11"),
        ({"num_triggers": True}, r"in \[1, 10\], got True"),
        ({"scale": "huge"}, "has no scale 'huge'; its scales: nano, small, full"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        built(**options)
