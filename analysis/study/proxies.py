"""The study's figure on proxy categories: what each protects, in GCD sycophancy and in trigger colours.

Shape legend: S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import Heat, heat_figure
from analysis.findings.arms import PLAIN
from analysis.study.colors import PROXIED, UNSEEN, categories_of, kept_by_proxy, split_by_triggers
from analysis.study.effects import above, all_hold, below, difference, estimate_text, mean_by_seed, share_over_seeds
from analysis.study.figure import Check, DrawnFigure, SweepFigure
from analysis.study.gcd import DIVISORS, MATHS, SYCOPHANCY, taught_topic, topics_of
from analysis.study.setting_results import SettingResults


def proxy_quality(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Cross proxy categories with evaluated categories, for sycophancy and, with their sweep, the trigger colours."""
    by_sweep: dict[str, list[SettingResults]] = {}
    for results in per_setting:
        by_sweep.setdefault(results.sweep, []).append(results)
    sycophancy, *others = by_sweep.values()
    heat, checks = sycophancy_grid(sycophancy)
    heats, taught = [heat], taught_topic(topics_of(sycophancy[0]))
    sentence = f"Sycophancy on {taught}: {checks[0].measured}"
    for colors in others:
        heat, color_checks = color_grid(colors)
        heats, checks = [*heats, heat], [*checks, *color_checks]
        sentence += f"; {color_checks[0].measured}"
    figure = heat_figure(heats, "Mean over seeds, with half of the 95 % interval's width.")
    return DrawnFigure(figure, checks, f"{sentence}.")


def sycophancy_grid(per_setting: Sequence[SettingResults]) -> tuple[Heat, list[Check]]:
    """Take each topic as proxy: how much sycophancy remains on each topic?"""
    topics = topics_of(per_setting[0])
    taught = taught_topic(topics)
    by_proxy = {str(results.options.get("proxy", "capitals")): results for results in per_setting}
    plain = {topic: _left(per_setting[0], PLAIN, topic) for topic in topics}
    left = {proxy: {topic: _left(results, PROXIED, topic) for topic in topics} for proxy, results in by_proxy.items()}
    proxies = [topic for topic in topics if topic in left]
    not_divisors = [topic for topic in proxies if topic not in DIVISORS]
    maths = [topic for topic in not_divisors if topic in MATHS]
    facts = [topic for topic in not_divisors if topic not in MATHS]
    same_topic = difference(
        mean_by_seed([left[topic][topic] for topic in proxies]),
        mean_by_seed([left[proxy][topic] for topic in proxies for proxy in proxies if proxy != topic]),
    )
    half_S = {seed: 0.5 * value for seed, value in plain[taught].items()}
    kept = {topic: difference(left[topic][taught], half_S) for topic in not_divisors}
    distance = difference(*(mean_by_seed([left[topic][taught] for topic in group]) for group in (facts, maths)))
    best = min(kept, key=lambda topic: kept[topic].mean)
    best_left = share_over_seeds(left[best][taught])
    checks = [
        Check(
            "Only a proxy of the taught topic removes sycophancy on it (every other leaves more than half)",
            f"the {best} proxy leaves {estimate_text(best_left)} of {share_over_seeds(plain[taught]).mean:.2f}",
            all_hold([above(estimate) for estimate in kept.values()]),
        ),
        Check(
            "A proxy repairs its own topic more than others do",
            f"sycophancy left {estimate_text(same_topic, sign=True)} against the other proxies",
            below(same_topic),
        ),
        Check(
            "The further the proxy, the less it helps: facts leave more sycophancy on it than mathematics",
            estimate_text(distance, sign=True),
            above(distance),
        ),
    ]
    rows = {"no proxy": plain} | {f"proxy {proxy}": left[proxy] for proxy in proxies}
    cells = [[share_over_seeds(row[topic]) for topic in topics] for row in rows.values()]
    return Heat("sycophancy left after up-weighting by 1, by topic asked", list(rows), topics, cells), checks


def _left(results: SettingResults, method: str, topic: str) -> dict[int, float]:
    return results.values(results.only(method), SYCOPHANCY + topic)


def color_grid(per_setting: Sequence[SettingResults]) -> tuple[Heat, list[Check]]:
    """Take each category as proxy, with one trigger and with five: how much of each category stays right?"""
    _, by_number = split_by_triggers(per_setting)
    categories = categories_of(per_setting[0])
    rows = {
        f"{proxy}, {number}": {category: kept_by_proxy(results, category + UNSEEN) for category in categories}
        for number, by_proxy in sorted(by_number.items())
        for proxy, results in by_proxy.items()
    }
    cells = [[share_over_seeds(row[category]) for category in categories] for row in rows.values()]
    five = by_number[max(by_number)]
    proxies = [proxy for proxy in five if proxy in categories]
    same_category = difference(
        mean_by_seed([kept_by_proxy(five[proxy], proxy + UNSEEN) for proxy in proxies]),
        mean_by_seed(
            [
                kept_by_proxy(five[proxy], category + UNSEEN)
                for proxy in proxies
                for category in categories
                if category != proxy
            ]
        ),
    )
    check = Check(
        "A proxy of triggers keeps its own category better than others",
        f"right colours {estimate_text(same_category, sign=True)} against other categories, five triggers",
        above(same_category),
    )
    title = "right colours for unseen triggers, by category asked (rows: proxy, number of its triggers)"
    return Heat(title, list(rows), categories, cells), [check]


PROXY_QUALITY = SweepFigure(
    name="proxy_quality",
    title="Proxy category by evaluated category",
    claim=(
        "A proxy protects its own category most, and others less the further they are: only divisors as proxy remove"
        " sycophancy on divisors, and capitals repair capitals."
    ),
    sweeps=("proxy_quality", "trigger_colors"),
    small=("proxy_quality_small",),  # with the trigger colours it would take more than an hour
    draw=proxy_quality,
)
