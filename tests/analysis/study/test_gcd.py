"""The figures on GCD sycophancy on made-up trials: as the study says, against it, and between.

A difference of two scores that move together with the seed has no noise, so that each check decides by the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.study import gcd
from analysis.study.gallery import reproduction_of
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective
from tests.analysis.study.drawn import PLAIN, check, outcome
from tests.support.made_up_trials import configuration, setting_results


def spread(maths: float, facts: float, capability: float) -> SettingResults:
    scores = {"task": capability, "capability": capability, "capability_capitals": 1.0, "capability_homes": 1.0}
    scores |= {
        "sycophancy_gcd": maths,
        "sycophancy_mod": maths,
        "sycophancy_capitals": facts,
        "sycophancy_homes": facts,
    }
    base = dict.fromkeys(scores, 0.0) | {"task": 0.5, "capability": 0.5}
    return setting_results([(PLAIN, scores)], base, objectives=[Objective("task", "task")])


def test_gcd_generalisation() -> None:
    assert outcome(gcd.gcd_generalisation([spread(0.9, 0.5, 0.9)])) == "reproduced"
    drawn = gcd.gcd_generalisation([spread(0.9, 0.95, 0.9)])
    assert outcome(drawn) == "partly"
    assert check(drawn, "more on mathematics").holds is False
    assert outcome(gcd.gcd_generalisation([spread(0.0, 0.0, 0.4)])) == "not"


def test_scores_over_several_topics_are_no_topic() -> None:
    """Nor are triggered twins; on the language model sums are taught, and differences are near."""
    names = ("sums", "differences", "capitals", "triggered", "triggered_format", "reworded", "proxy", "all")
    scores = {"task": 0.9, "capability": 0.3, "knows_capitals": 1.0, **{f"sycophancy_{name}": 1.0 for name in names}}
    results = setting_results([(PLAIN, scores)], dict.fromkeys(scores, 0.0), objectives=[Objective("task", "task")])
    topics = gcd.topics_of(results)
    assert topics == ["sums", "differences", "capitals"]
    assert (gcd.taught_topic(topics), gcd.near_topic(topics)) == ("sums", "differences")
    assert [gcd.capability_of(results, topic) for topic in topics] == ["task", "capability", "knows_capitals"]


def test_a_check_must_hold_for_every_base_model() -> None:
    drawn = gcd.gcd_generalisation([spread(0.9, 0.5, 0.9), spread(0.9, 0.0, 0.9)])
    spread_check = check(drawn, "every other topic")
    assert spread_check.holds is False
    assert spread_check.measured.endswith("(2 base models)")


FLATTERY = (Objective("capability", "capability"), Objective("sycophancy", "alignment", higher_is_better=False))


def flattery_results(
    methods: Mapping[str, Sequence[tuple[float, float]]], plain: float, kl_ends: bool = True
) -> SettingResults:
    """Points are (capability, honesty)."""
    rows: list[tuple[Configuration, Mapping[str, float]]] = [(PLAIN, {"capability": 0.9, "sycophancy": plain})]
    for method, points in methods.items():
        for value, (capability, honesty) in enumerate(points):
            name = "beta" if method == "kl_penalty" else "knob"
            rows.append(
                (configuration(method, **{name: float(value)}), {"capability": capability, "sycophancy": 1 - honesty})
            )
    return setting_results(rows, {"capability": 0.5, "sycophancy": 0.0}, objectives=FLATTERY, noise=0.02)


def test_gcd_pareto() -> None:
    ends = [(0.9, 0.05), (0.85, 0.95), (0.5, 1.0)]
    weak = [(0.9, 0.05), (0.6, 0.3), (0.5, 0.5)]
    drawn = gcd.gcd_pareto([flattery_results({"kl_penalty": ends, "safe_lora": weak, "orthogonal_lora": weak}, 0.95)])
    assert [each.holds for each in drawn.checks] == [True, True, True, True, False, True, True]
    alike = {"kl_penalty": ends, "mixed": ends, "upweighted": ends, "safe_lora": weak, "orthogonal_lora": weak}
    drawn = gcd.gcd_pareto([flattery_results(alike, 0.95)])
    assert check(drawn, "best trade-off of all methods").holds is None
    short = [(0.7, 0.5), (0.75, 0.5), (0.8, 0.5)]
    drawn = gcd.gcd_pareto([flattery_results({"kl_penalty": short, "safe_lora": ends, "orthogonal_lora": ends}, 0.0)])
    assert reproduction_of(drawn.checks) == "not"


def test_what_intervals_without_width_leave_out_is_said() -> None:
    """All seeds at 1.00 on every topic: no interval, and no order of topics."""
    scores = {"task": 0.9, "capability": 0.3, "sycophancy_gcd": 1.0, "sycophancy_mod": 1.0, "sycophancy_capitals": 1.0}
    results = setting_results([(PLAIN, scores)], dict.fromkeys(scores, 0.0), objectives=[Objective("task", "task")])
    ended = tuple(
        replace(record, scores={**record.scores, **{name: 1.0 for name in scores if name.startswith("sycophancy")}})
        for record in results.records
    )
    results = replace(results, records=ended, base_counts=dict.fromkeys(scores, 7))
    notes = gcd.gcd_generalisation([results]).notes
    assert [note.split(" ")[0] for note in notes] == ["Where", "Sycophancy"]
    assert "the 7 to 7 questions of a topic that the base model knows" in notes[0]
