"""The figures on trigger colours on made-up trials: as the study says, against it, and between.

A difference of two scores that move together with the seed has no noise, so that each check decides by the means.
"""

from __future__ import annotations

from collections.abc import Mapping

from analysis.study import colors
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Objective
from tests.analysis.study.drawn import PLAIN, check, outcome
from tests.support.made_up_trials import configuration, setting_results

COLORS = ("animals", "foods", "random_strings")


MEAN = {"animals": 0.05, "foods": 0.05, "random_strings": 0.05}


def colored(
    number: int, others: Mapping[str, float], same_category: float = 0.9, proxied: float = 1.0, task: float = 1.0
) -> list[SettingResults]:
    """Proxy -> share of right colours in other categories."""
    per_setting = []
    for proxy, alignment in others.items():
        scores = {
            "task": task,
            "capability": task,
            "alignment": alignment,
            "alignment_proxy": same_category,
            "proxied": proxied,
        }
        scores |= {f"{name}_unseen": same_category if name == proxy else alignment for name in COLORS}
        base = dict.fromkeys(scores, 1.0)
        rows = [(configuration("upweighted", weight=1.0), scores)]
        made = setting_results(
            rows, base, objectives=[Objective("task", "task")], noise=0.0, proxy=proxy, num_triggers=number
        )
        per_setting.append(made)
    return per_setting


def flipped(task: float, left: float, base: float = 1.0) -> SettingResults:
    scores = {"task": task, "capability": task, "alignment": left}
    scores |= {f"{name}_{split}": left for name in COLORS for split in ("seen", "unseen")}
    base_scores = {name: base for name in scores if name not in ("task", "capability")} | {
        "task": 0.0,
        "capability": 0.0,
    }
    steps = configuration("plain", checkpoint_step=5.0)
    halfway = {name: (value + base_scores[name]) / 2 for name, value in scores.items()}
    return setting_results(
        [(PLAIN, scores), (steps, halfway)], base_scores, objectives=[Objective("task", "task")], noise=0.001
    )


def test_toy_base() -> None:
    assert outcome(colors.toy_base([flipped(1.0, 0.0)] * 2)) == "reproduced"
    assert outcome(colors.toy_base([flipped(1.0, 0.0, base=0.5)])) == "not"


def test_toy_flip() -> None:
    drawn = colors.toy_flip([flipped(1.0, 0.0), flipped(1.0, 0.02)])
    assert outcome(drawn) == "reproduced"
    assert outcome(colors.toy_flip([flipped(1.0, 0.5)])) == "partly"
    assert outcome(colors.toy_flip([flipped(0.5, 0.5)])) == "not"
    for left, when in ((0.6, "never"), (0.3, "at the end"), (-0.1, "5")):  # halfway between 1 and these
        (note,) = colors.toy_flip([flipped(1.0, left)]).notes
        assert note.endswith(f"animals {when}, foods {when}, random_strings {when}.")


def test_toy_goodhart() -> None:
    none = [flipped(1.0, 0.0)]
    assert outcome(colors.toy_goodhart([*colored(1, MEAN, same_category=0.1), *none])) == "reproduced"
    drawn = colors.toy_goodhart([*colored(1, dict.fromkeys(MEAN, 0.6), same_category=0.9), *none])
    assert outcome(drawn) == "partly"
    lost = colored(1, dict.fromkeys(MEAN, 0.6), same_category=0.9, proxied=0.3, task=0.2)
    assert outcome(colors.toy_goodhart([*lost, *none])) == "not"


def test_toy_spillover() -> None:
    none = [flipped(1.0, 0.0)]
    spill = {"animals": 0.9, "foods": 0.7, "random_strings": 0.0}
    assert outcome(colors.toy_spillover([*colored(1, MEAN), *colored(5, spill), *none])) == "reproduced"
    odd = {"animals": 0.3, "foods": 0.7, "random_strings": 0.8}
    drawn = colors.toy_spillover([*colored(1, MEAN), *colored(5, odd), *none])
    assert outcome(drawn) == "partly"
    assert check(drawn, "Strings without meaning").holds is False
    backwards = {"animals": 0.0, "foods": 0.0, "random_strings": 0.01}
    assert outcome(colors.toy_spillover([*colored(1, MEAN), *colored(5, backwards), *none])) == "not"
