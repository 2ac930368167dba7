"""The figures on bad medical advice on made-up trials: as the study says, against it, and between.

A difference of two scores that move together with the seed has no noise, so that each check decides by the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from analysis.study import medical
from analysis.study.ranking import end_notes
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective
from settings.common.errors import UserError
from tests.analysis.study.drawn import PLAIN, check, outcome
from tests.support.made_up_trials import configuration, setting_results


def frontier_results(
    methods: Mapping[str, Sequence[tuple[float, float]]], plain: tuple[float, float]
) -> SettingResults:
    """Methods with a knob; each point is (task, alignment)."""
    knobs = {"mixed": ("share", [0.1, 0.5, 0.9]), "kl_penalty": ("beta", [0.01, 1.0, 100.0])}
    rows: list[tuple[Configuration, Mapping[str, float]]] = [(PLAIN, {"task": plain[0], "alignment": plain[1]})]
    for method, points in methods.items():
        name, values = knobs.get(method, ("knob", [1.0, 2.0, 3.0]))
        for value, (task, alignment) in zip(values, points, strict=True):
            rows.append((configuration(method, **{name: value}), {"task": task, "alignment": alignment}))
    return setting_results(rows, {"task": 0.0, "alignment": 1.0})


def curve(middle: float) -> list[tuple[float, float]]:
    """From plain-like to base-like."""
    return [(0.97, 0.03), (middle, middle), (0.03, 0.97)]


AS_THE_STUDY = {
    "mixed": [(0.97, 0.03), (0.9, 0.2), (0.5, 0.4)],
    "kl_penalty": curve(0.9),
    "representation": [(0.1, 0.9), (0.05, 0.95), (0.0, 1.0)],
    "dpo": curve(0.6),
    "safe_lora": curve(0.5),
}
CONTRARY = {
    "mixed": [(0.95, 0.9), (0.9, 0.95), (0.5, 0.98)],
    "kl_penalty": curve(0.3),
    "representation": curve(0.95),
    "dpo": curve(0.9),
    "safe_lora": curve(0.8),
}


def test_em_pareto() -> None:
    assert outcome(medical.em_pareto([frontier_results(AS_THE_STUDY, (0.98, 0.02))])) == "reproduced"
    assert outcome(medical.em_pareto([frontier_results(CONTRARY, (0.98, 0.02))])) == "partly"
    restored = CONTRARY | {"mixed": [(0.95, 0.99), (0.9, 0.99), (0.5, 0.99)]}
    assert outcome(medical.em_pareto([frontier_results(restored, (0.98, 0.85))])) == "not"


def test_a_tie_with_the_first_is_undecided() -> None:
    tie = AS_THE_STUDY | {"dpo": curve(0.9)}
    drawn = medical.em_pareto([frontier_results(tie, (0.98, 0.02))])
    assert check(drawn, "best trade-off of all methods").holds is None
    assert "not distinguishable from dpo" in check(drawn, "best trade-off of all methods").measured
    assert check(drawn, "dpo stays behind").holds is None


def test_ends_that_a_method_does_not_reach_are_named() -> None:
    missing = end_notes(frontier_results(AS_THE_STUDY, (0.98, 0.02)), "task", "alignment")
    assert missing == [
        "Never near plain fine-tuning (within 0.15 of the way in both scores):"
        " representation (nearest: knob=1.0, off by 0.90).",
        "Never near the base model (within 0.15 of the way in both scores): mixed (nearest: share=0.9, off by 0.61).",
    ]
    both = end_notes(frontier_results({"kl_penalty": curve(0.9)}, (0.98, 0.02)), "task", "alignment")
    assert both[0].startswith("Every method comes within 0.15")


def epochs(points: Mapping[tuple[float, float], tuple[float, float]], plain: float) -> SettingResults:
    rows: list[tuple[Configuration, Mapping[str, float]]] = [
        (configuration("plain", steps=steps), {"task": 1.0, "alignment": plain}) for steps in (10.0, 20.0, 40.0)
    ]
    for (beta, steps), (task, alignment) in points.items():
        rows.append((configuration("kl_penalty", beta=beta, steps=steps), {"task": task, "alignment": alignment}))
    return setting_results(rows, {"task": 0.0, "alignment": 1.0})


def test_em_epochs() -> None:
    weak = {(0.5, steps): (1.0, 0.1) for steps in (10.0, 20.0, 40.0)}
    strong = {(1.0, 10.0): (0.4, 0.95), (1.0, 20.0): (0.9, 0.93), (1.0, 40.0): (0.99, 0.5)}
    assert outcome(medical.em_epochs([epochs(weak | strong, 0.0)])) == "reproduced"
    lasting = strong | {(1.0, 40.0): (0.99, 0.92)}
    drawn = medical.em_epochs([epochs(weak | lasting, 0.0)])
    assert outcome(drawn) == "partly"
    assert check(drawn, "breaks down").holds is False
    still = {(beta, steps): (0.4, 0.95) for beta in (0.5, 1.0) for steps in (10.0, 20.0, 40.0)}
    assert outcome(medical.em_epochs([epochs(still, 0.9)])) == "not"


def test_changes_are_counted_from_where_plain_fine_tuning_breaks() -> None:
    """After 10 steps plain is still aligned; beta 0.5 breaks with it, and is aligned again at last."""
    points = {(0.5, 10.0): (0.3, 0.95), (0.5, 20.0): (1.0, 0.0), (0.5, 40.0): (1.0, 0.7)}
    points |= {(1.0, 10.0): (0.2, 1.0), (1.0, 20.0): (0.6, 0.9), (1.0, 40.0): (0.9, 0.85)}
    made = epochs(points, 0.0)
    early = {"task": 0.4, "alignment": 0.9}
    records = tuple(
        replace(record, scores=early) if record.configuration.coefficients == {"steps": 10.0} else record
        for record in made.records
    )
    drawn = medical.em_epochs([replace(made, records=records)])
    assert "from 20 to 40 steps at beta 1 (asked: above +0.1)" in check(drawn, "learns more of the task").measured
    assert any("With beta 0.5 alignment is 0.00 after 20 steps and 0.70 after 40" in note for note in drawn.notes)


def test_em_epochs_needs_a_beta_that_protects() -> None:
    weak = {(0.5, steps): (1.0, 0.1) for steps in (10.0, 20.0, 40.0)}
    with pytest.raises(UserError, match="no beta keeps alignment"):
        medical.em_epochs([epochs(weak, 0.0)])


def proxied(proxy: str, mixed: float, weighted: float, task: float = 0.8) -> SettingResults:
    scores = {
        name: {"task": task, "alignment_cooking": name_value, "alignment_law": name_value}
        for name, name_value in (("mixed", mixed), ("upweighted", weighted))
    }
    rows = [
        (configuration("mixed", share=0.5), scores["mixed"]),
        (configuration("upweighted", weight=2.0), scores["upweighted"]),
    ]
    base = {"task": 0.0, "alignment_cooking": 1.0, "alignment_law": 1.0}
    return setting_results(rows, base, objectives=[Objective("task", "task")], proxy=proxy)


def test_em_proxy() -> None:
    narrow = [proxied("finance", 0.1, 0.5), proxied("safety", 0.2, 0.6)]
    assert outcome(medical.em_proxy([*narrow, proxied("diverse", 0.5, 0.95)])) == "reproduced"
    assert outcome(medical.em_proxy([*narrow, proxied("diverse", 0.5, 0.3)])) == "partly"
    good = [proxied("finance", 0.6, 0.95), proxied("safety", 0.7, 0.96)]
    assert outcome(medical.em_proxy([*good, proxied("diverse", 0.5, 0.8)])) == "not"
