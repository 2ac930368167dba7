"""What both frontiers of the gallery ask: which method is first, which reach which end, which beat the controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from analysis.findings.findings import Findings
from analysis.statistics.compare import Difference
from analysis.study.gallery import Check
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration

NEAR = 0.15  # of the way between base and plain: so near is an end
PLAIN = "plain"


def against(found: Findings, method: str, other: str) -> Difference | None:
    """The hypervolume of a method minus that of another; None when they were not compared."""
    for one in found.differences:
        if {one.first, one.second} == {method, other}:
            return one if one.first == method else _turned(one)
    return None


def _turned(one: Difference) -> Difference:
    return replace(
        one,
        first=one.second,
        second=one.first,
        statistic=-one.statistic,
        dominates=one.dominated,
        dominated=one.dominates,
    )


def ranked_first(found: Findings, method: str) -> Check:
    """Is the method's frontier clearly larger than every other's? Fails when one is clearly larger than its."""
    statement = f"{method} trades best of all methods"
    others = [name for name in found.table.methods if name not in (PLAIN, method)]
    compared = {name: one for name in others if (one := against(found, method, name)) is not None}
    if not compared:
        return Check(statement, "no comparison: it needs seeds", None)
    better = [name for name, one in compared.items() if one.clear and one.statistic.estimate < 0]
    worse = [name for name, one in compared.items() if one.clear and one.statistic.estimate > 0]
    alike = [name for name in compared if name not in (*better, *worse)]
    parts = [
        f"{words} {', '.join(names)}"
        for words, names in (("worse than", better), ("not told apart from", alike), ("better than", worse))
        if names
    ]
    return Check(statement, "; ".join(parts), False if better else None if alike else True)


def ineffective(found: Findings, method: str, best: str) -> Check:
    """Does the method stay clearly behind the best?"""
    statement = f"{method} stays behind {best}"
    one = against(found, best, method)
    if one is None:
        return Check(statement, "no comparison: it needs seeds", None)
    size = one.statistic
    found_text = f"hypervolume {-size.estimate:+.2f} [{-size.high:+.2f}, {-size.low:+.2f}] against {best}"
    return Check(statement, found_text, (size.estimate > 0) if one.clear else None)


def pushes(found: Findings) -> list[str]:
    """A note on the controls; none where the sweep has none."""
    if not any(one.against for one in found.verdicts):
        return []
    push = [one.method for one in found.verdicts if len(one.beats) == len(one.against) and one.against]
    rest = [one.method for one in found.verdicts if one.method not in push]
    text = f"Beat stopping early and scaling the adapter down, both: {', '.join(push) or 'none'}"
    return [f"{text}; not shown to: {', '.join(rest)}." if rest else f"{text}."]


def ends_note(part: SettingResults, task: str, alignment: str) -> list[str]:
    """Which methods never come near plain fine-tuning, and which never near the base, in both objectives."""
    plain = part.only(PLAIN)
    ends = {"plain fine-tuning": (0.0, 1.0), "the base model": (1.0, 0.0)}
    notes = []
    for name, corner in ends.items():
        missing = list(_missing(part, plain, (task, alignment), corner))
        if missing:
            notes.append(f"Never near {name} (within {NEAR:g} of the way in both scores): {'; '.join(missing)}.")
    return notes or [
        f"Every method comes within {NEAR:g} of the way of both ends, plain fine-tuning and the base model."
    ]


def _missing(
    part: SettingResults, plain: Configuration, names: tuple[str, str], corner: tuple[float, float]
) -> Iterator[str]:
    """Methods without a configuration near a corner, given as (kept alignment, learned task) from 0 to 1."""
    task, alignment = (part.estimates(name) for name in names)
    base = [part.base[name] for name in names]
    span = [task[plain.id].mean - base[0], alignment[plain.id].mean - base[1]]
    if 0.0 in span:
        return
    for method in part.table.methods:
        if method == PLAIN:
            continue
        near = {
            one.label: max(
                abs(1 - (alignment[one.id].mean - base[1]) / span[1] - corner[0]),
                abs((task[one.id].mean - base[0]) / span[0] - corner[1]),
            )
            for one in part.configurations(method)
        }
        if near and min(near.values()) > NEAR:
            label = min(near, key=lambda name: near[name])
            yield f"{method} (nearest: {label or 'its only configuration'}, off by {near[label]:.2f})"
