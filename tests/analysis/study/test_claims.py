"""The figures' checks on made-up trials: a world as the study says, one that contradicts it, and one between.

A difference of two scores that move together with the seed has no noise, so that each check decides by the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from analysis.study import colors, gcd, medical
from analysis.study.gallery import Check, DrawnFigure, verdict_of
from analysis.study.ranking import ends_note
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective
from settings.common.errors import UserError
from tests.support.make import configuration, part

Means = Sequence[tuple[Configuration, Mapping[str, float]]]
PLAIN = configuration("plain")


def verdict(shown: DrawnFigure) -> str:
    assert shown.figure.axes
    assert shown.sentence.endswith(".")
    return verdict_of(shown.checks)


def check(shown: DrawnFigure, words: str) -> Check:
    (found,) = [one for one in shown.checks if words in one.statement]
    return found


def frontier_part(methods: Mapping[str, Sequence[tuple[float, float]]], plain: tuple[float, float]) -> SettingResults:
    """Methods with a knob; each point is (task, alignment)."""
    knobs = {"mixed": ("share", [0.1, 0.5, 0.9]), "kl_penalty": ("beta", [0.01, 1.0, 100.0])}
    rows: list[tuple[Configuration, Mapping[str, float]]] = [(PLAIN, {"task": plain[0], "alignment": plain[1]})]
    for method, points in methods.items():
        name, values = knobs.get(method, ("knob", [1.0, 2.0, 3.0]))
        for value, (task, alignment) in zip(values, points, strict=True):
            rows.append((configuration(method, **{name: value}), {"task": task, "alignment": alignment}))
    return part(rows, {"task": 0.0, "alignment": 1.0})


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
    assert verdict(medical.em_pareto([frontier_part(AS_THE_STUDY, (0.98, 0.02))])) == "reproduced"
    assert verdict(medical.em_pareto([frontier_part(CONTRARY, (0.98, 0.02))])) == "partly"
    restored = CONTRARY | {"mixed": [(0.95, 0.99), (0.9, 0.99), (0.5, 0.99)]}
    assert verdict(medical.em_pareto([frontier_part(restored, (0.98, 0.85))])) == "not"


def test_a_tie_with_the_first_is_undecided() -> None:
    tie = AS_THE_STUDY | {"dpo": curve(0.9)}
    shown = medical.em_pareto([frontier_part(tie, (0.98, 0.02))])
    assert check(shown, "best of all methods").holds is None
    assert "not told apart from dpo" in check(shown, "best of all methods").found
    assert check(shown, "dpo stays behind").holds is None


def test_ends_that_a_method_does_not_reach_are_named() -> None:
    missing = ends_note(frontier_part(AS_THE_STUDY, (0.98, 0.02)), "task", "alignment")
    assert missing == [
        "Never near plain fine-tuning (within 0.15 of the way in both scores):"
        " representation (nearest: knob=1.0, off by 0.90).",
        "Never near the base model (within 0.15 of the way in both scores): mixed (nearest: share=0.9, off by 0.61).",
    ]
    both = ends_note(frontier_part({"kl_penalty": curve(0.9)}, (0.98, 0.02)), "task", "alignment")
    assert both[0].startswith("Every method comes within 0.15")


def epochs(points: Mapping[tuple[float, float], tuple[float, float]], plain: float) -> SettingResults:
    rows: list[tuple[Configuration, Mapping[str, float]]] = [
        (configuration("plain", steps=steps), {"task": 1.0, "alignment": plain}) for steps in (10.0, 20.0, 40.0)
    ]
    for (beta, steps), (task, alignment) in points.items():
        rows.append((configuration("kl_penalty", beta=beta, steps=steps), {"task": task, "alignment": alignment}))
    return part(rows, {"task": 0.0, "alignment": 1.0})


def test_em_epochs() -> None:
    weak = {(0.5, steps): (1.0, 0.1) for steps in (10.0, 20.0, 40.0)}
    strong = {(1.0, 10.0): (0.4, 0.95), (1.0, 20.0): (0.9, 0.93), (1.0, 40.0): (0.99, 0.5)}
    assert verdict(medical.em_epochs([epochs(weak | strong, 0.0)])) == "reproduced"
    lasting = strong | {(1.0, 40.0): (0.99, 0.92)}
    shown = medical.em_epochs([epochs(weak | lasting, 0.0)])
    assert verdict(shown) == "partly"
    assert check(shown, "breaks down").holds is False
    still = {(beta, steps): (0.4, 0.95) for beta in (0.5, 1.0) for steps in (10.0, 20.0, 40.0)}
    assert verdict(medical.em_epochs([epochs(still, 0.9)])) == "not"


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
    shown = medical.em_epochs([replace(made, records=records)])
    assert "from 20 to 40 steps (beta 1)" in check(shown, "learns more of the task").found
    assert any("With beta 0.5 alignment is 0.00 after 20 steps and 0.70 after 40" in note for note in shown.notes)


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
    return part(rows, base, objectives=[Objective("task", "task")], proxy=proxy)


def test_em_proxy() -> None:
    narrow = [proxied("finance", 0.1, 0.5), proxied("safety", 0.2, 0.6)]
    assert verdict(medical.em_proxy([*narrow, proxied("diverse", 0.5, 0.95)])) == "reproduced"
    assert verdict(medical.em_proxy([*narrow, proxied("diverse", 0.5, 0.3)])) == "partly"
    good = [proxied("finance", 0.6, 0.95), proxied("safety", 0.7, 0.96)]
    assert verdict(medical.em_proxy([*good, proxied("diverse", 0.5, 0.8)])) == "not"


TOPICS = ("gcd", "mod", "capitals", "homes")


def spread(maths: float, facts: float, capability: float) -> SettingResults:
    scores = {"task": capability, "capability": capability, "capability_capitals": 1.0, "capability_homes": 1.0}
    scores |= {
        "sycophancy_gcd": maths,
        "sycophancy_mod": maths,
        "sycophancy_capitals": facts,
        "sycophancy_homes": facts,
    }
    base = dict.fromkeys(scores, 0.0) | {"task": 0.5, "capability": 0.5}
    return part([(PLAIN, scores)], base, objectives=[Objective("task", "task")])


def test_gcd_generalisation() -> None:
    assert verdict(gcd.gcd_generalisation([spread(0.9, 0.5, 0.9)])) == "reproduced"
    shown = gcd.gcd_generalisation([spread(0.9, 0.95, 0.9)])
    assert verdict(shown) == "partly"
    assert check(shown, "more on mathematics").holds is False
    assert verdict(gcd.gcd_generalisation([spread(0.0, 0.0, 0.4)])) == "not"


def test_a_check_must_hold_for_every_base_model() -> None:
    shown = gcd.gcd_generalisation([spread(0.9, 0.5, 0.9), spread(0.9, 0.0, 0.9)])
    found = check(shown, "every other topic")
    assert found.holds is False
    assert found.found.endswith("(2 base models)")


FLATTERY = (Objective("capability", "capability"), Objective("sycophancy", "alignment", higher_is_better=False))


def flattery_part(
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
    return part(rows, {"capability": 0.5, "sycophancy": 0.0}, objectives=FLATTERY, noise=0.02)


def test_gcd_pareto() -> None:
    ends = [(0.9, 0.05), (0.85, 0.95), (0.5, 1.0)]
    weak = [(0.9, 0.05), (0.6, 0.3), (0.5, 0.5)]
    shown = gcd.gcd_pareto([flattery_part({"kl_penalty": ends, "safe_lora": weak, "orthogonal_lora": weak}, 0.95)])
    assert [one.holds for one in shown.checks] == [True, True, True, True, False, True, True]
    alike = {"kl_penalty": ends, "mixed": ends, "upweighted": ends, "safe_lora": weak, "orthogonal_lora": weak}
    shown = gcd.gcd_pareto([flattery_part(alike, 0.95)])
    assert check(shown, "best of all methods").holds is None
    short = [(0.7, 0.5), (0.75, 0.5), (0.8, 0.5)]
    shown = gcd.gcd_pareto([flattery_part({"kl_penalty": short, "safe_lora": ends, "orthogonal_lora": ends}, 0.0)])
    assert verdict_of(shown.checks) == "not"


def repaired(left: Mapping[str, Mapping[str, float]]) -> list[SettingResults]:
    """proxy -> topic -> sycophancy left; plain leaves 0.9."""
    parts = []
    for proxy, by_topic in left.items():
        rows = [
            (PLAIN, {f"sycophancy_{topic}": 0.9 for topic in by_topic} | {"task": 1.0}),
            (
                configuration("upweighted", weight=1.0),
                {f"sycophancy_{t}": v for t, v in by_topic.items()} | {"task": 1.0},
            ),
        ]
        base = {f"sycophancy_{topic}": 0.0 for topic in by_topic}
        parts.append(part(rows, base, objectives=[Objective("task", "task")], proxy=proxy))
    return parts


def test_the_grid_of_sycophancy() -> None:
    distance = {"gcd": 0, "mod": 1, "capitals": 2, "homes": 3}
    near = {p: {t: 0.1 + 0.25 * abs(distance[p] - distance[t]) + 0.2 * (p != t) for t in TOPICS} for p in TOPICS}
    _, checks = gcd.sycophancy_grid(repaired(near))
    assert [one.holds for one in checks] == [True, True, True]
    alike = {p: {t: 0.1 if p != t else 0.2 for t in TOPICS} for p in TOPICS}
    heat, checks = gcd.sycophancy_grid(repaired(alike))
    assert [one.holds for one in checks] == [False, False, None]
    assert heat.rows == ["no proxy", "proxy gcd", "proxy mod", "proxy capitals", "proxy homes"]
    assert heat.cells[0][0].mean == pytest.approx(0.9)


COLORS = ("animals", "foods", "random_strings")


def colored(
    number: int, others: Mapping[str, float], own: float = 0.9, proxied: float = 1.0, task: float = 1.0
) -> list[SettingResults]:
    """Proxy -> share of right colours in other categories."""
    parts = []
    for proxy, alignment in others.items():
        scores = {"task": task, "capability": task, "alignment": alignment, "alignment_proxy": own, "proxied": proxied}
        scores |= {f"{name}_unseen": own if name == proxy else alignment for name in COLORS}
        base = dict.fromkeys(scores, 1.0)
        rows = [(configuration("upweighted", weight=1.0), scores)]
        made = part(rows, base, objectives=[Objective("task", "task")], noise=0.0, proxy=proxy, num_triggers=number)
        parts.append(made)
    return parts


def flipped(task: float, left: float, base: float = 1.0) -> SettingResults:
    scores = {"task": task, "capability": task, "alignment": left}
    scores |= {f"{name}_{split}": left for name in COLORS for split in ("seen", "unseen")}
    known = {name: base for name in scores if name not in ("task", "capability")} | {"task": 0.0, "capability": 0.0}
    steps = configuration("plain", checkpoint_step=5.0)
    halfway = {name: (value + known[name]) / 2 for name, value in scores.items()}
    return part([(PLAIN, scores), (steps, halfway)], known, objectives=[Objective("task", "task")], noise=0.001)


def test_toy_base() -> None:
    assert verdict(colors.toy_base([flipped(1.0, 0.0)] * 2)) == "reproduced"
    assert verdict(colors.toy_base([flipped(1.0, 0.0, base=0.5)])) == "not"


def test_toy_flip() -> None:
    shown = colors.toy_flip([flipped(1.0, 0.0), flipped(1.0, 0.02)])
    assert verdict(shown) == "reproduced"
    assert verdict(colors.toy_flip([flipped(1.0, 0.5)])) == "partly"
    assert verdict(colors.toy_flip([flipped(0.5, 0.5)])) == "not"


MEAN = {"animals": 0.05, "foods": 0.05, "random_strings": 0.05}


def test_toy_goodhart() -> None:
    none = [flipped(1.0, 0.0)]
    assert verdict(colors.toy_goodhart([*colored(1, MEAN, own=0.1), *none])) == "reproduced"
    shown = colors.toy_goodhart([*colored(1, dict.fromkeys(MEAN, 0.6), own=0.9), *none])
    assert verdict(shown) == "partly"
    lost = colored(1, dict.fromkeys(MEAN, 0.6), own=0.9, proxied=0.3, task=0.2)
    assert verdict(colors.toy_goodhart([*lost, *none])) == "not"


def test_toy_spillover() -> None:
    none = [flipped(1.0, 0.0)]
    spill = {"animals": 0.9, "foods": 0.7, "random_strings": 0.0}
    assert verdict(colors.toy_spillover([*colored(1, MEAN), *colored(5, spill), *none])) == "reproduced"
    odd = {"animals": 0.3, "foods": 0.7, "random_strings": 0.8}
    shown = colors.toy_spillover([*colored(1, MEAN), *colored(5, odd), *none])
    assert verdict(shown) == "partly"
    assert check(shown, "Strings without meaning").holds is False
    backwards = {"animals": 0.0, "foods": 0.0, "random_strings": 0.01}
    assert verdict(colors.toy_spillover([*colored(1, MEAN), *colored(5, backwards), *none])) == "not"


def test_the_grid_of_colours_and_the_figure_of_both() -> None:
    heat, (own,) = colors.color_grid([*colored(1, MEAN), *colored(5, MEAN)])
    assert heat.rows[0] == "animals, 1"
    assert own.holds
    near = {p: {t: 0.1 + 0.5 * (p != t) for t in TOPICS} for p in TOPICS}
    shown = gcd.proxy_quality([*repaired(near), *_renamed(colored(5, MEAN))])
    assert len(shown.checks) == 4
    assert shown.sentence.endswith(".")


def _renamed(parts: list[SettingResults]) -> list[SettingResults]:
    return [replace(one, sweep="colors") for one in parts]
