"""What a frontier says, as answers to a reader's five questions: computed, never written by hand.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.findings.arms import base_values, families, is_plain, plain_title
from analysis.findings.cautions import Place, cautions
from analysis.findings.controls import CONTROLS, ControlVerdict, compare_with_controls
from analysis.findings.findings import ALL_METHODS, Findings, comparable, method_fronts, worst_corner_of
from analysis.findings.frontier import FrontierPoint, excluded_text
from analysis.statistics.bootstrap import VERDICT_SEEDS, Bootstrap, Statistic
from analysis.statistics.compare import Difference, compare_fronts, estimate_hypervolume, relative_to
from analysis.tables.scores import ScoreTable
from settings.common.text import listed

MOST_NAMES = 4  # in one answer
AREA = "hypervolume (the area between a method's own frontier and the worst corner)"
ALONE = "each bar is about one mean; whether methods differ is answered above, not by overlapping bars"
WEIGHT: tuple[Place, ...] = (
    "task",
    "questions",
    "band",
    "hypervolume",
    "points",
    "selection",
)  # the first with a caution


@dataclass(frozen=True)
class Reading:
    """The answers, a sentence or two each.

    Attributes:
        which: the method with the best trade-off, or the candidates that remain.
        sure: how large its lead is, with interval and p-value.
        against: what the methods were compared with, and which beat it.
        seeds: how many there are, and what is left out.
        caution: the most important caution.
    """

    which: str
    sure: str
    against: str
    seeds: str
    caution: str

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """Each question with its answer."""
        return (
            ("Which method?", self.which),
            ("How sure?", self.sure),
            ("Against what?", self.against),
            ("How many seeds?", self.seeds),
            ("What caution?", self.caution),
        )


def read_findings(findings: Findings) -> Reading:
    """Answer the questions from a report's findings."""
    return _read(
        findings.table,
        findings.method_hypervolumes,
        findings.differences,
        findings.control_verdicts,
        findings.cautions,
        _front_methods(findings.points),
    )


def read_table(
    table: ScoreTable, points: Sequence[FrontierPoint], base_scores: Mapping[str, float], bootstrap: Bootstrap | None
) -> Reading:
    """Answer the questions for a table with two or three objectives.

    Args:
        points: the table's points.
        bootstrap: of the configurations with a finished trial; None if each has one seed.
    """
    chosen = table.rows(table.num_seeds_C > 0)
    if bootstrap is None:
        return _read(table, {}, (), (), cautions(chosen, (), base_scores), _front_methods(points))
    base_M = base_values(chosen, base_scores)
    corner_M = chosen.oriented(worst_corner_of(chosen, [base_scores]))
    fronts = {name: front for name, front in method_fronts(chosen).items() if name != ALL_METHODS}
    differences = compare_fronts(bootstrap, fronts, corner_M, comparable(fronts))
    verdicts = compare_with_controls(
        bootstrap, chosen.configurations, None if base_M is None else chosen.oriented(base_M), corner_M
    )
    sizes = {name: estimate_hypervolume(bootstrap, front, corner_M) for name, front in fronts.items()}
    return _read(
        table, sizes, differences, verdicts, cautions(chosen, differences, base_scores), _front_methods(points)
    )


def _front_methods(points: Sequence[FrontierPoint]) -> list[str]:
    """Return the methods that are on the frontier, those with most points on it first."""
    family_C = families(points).tolist()
    number = Counter(family for family, point in zip(family_C, points, strict=True) if point.on_front)
    return [method for method, _ in number.most_common()]


def _read(
    table: ScoreTable,
    sizes: Mapping[str, Statistic],
    differences: Sequence[Difference],
    verdicts: Sequence[ControlVerdict],
    said: Mapping[Place, Sequence[str]],
    front: Sequence[str],
) -> Reading:
    which, sure = _which(sizes, differences, front)
    most = int(table.num_seeds_C.max())
    has_losers = any(pair.clear for pair in differences) or any(verdict.loses for verdict in verdicts)
    weight = sorted(WEIGHT, key=lambda place: place == "band") if has_losers else WEIGHT  # no answer is about the band
    text = next((texts[0] for place in weight if (texts := said.get(place, ()))), ALONE)
    if most < VERDICT_SEEDS and not said["task"]:
        text = "too few seeds for a verdict: a third tells much more than the first two"
    return Reading(which, sure, _against(verdicts, most), _seeds(table), text)


def _which(sizes: Mapping[str, Statistic], differences: Sequence[Difference], front: Sequence[str]) -> tuple[str, str]:
    """Say which method has the largest hypervolume, and how sure that is."""
    if not sizes:
        return "open: one seed cannot tell", "not at all: there is no interval over seeds"
    order = sorted(sizes, key=lambda name: -sizes[name].estimate)
    best = order[0]
    if len(order) == 1:
        return f"{_shown(best)}, the only one; {AREA} is {_size(sizes[best])}", "nothing to compare it with"
    pairs = {pair.second if pair.first == best else pair.first: pair for pair in differences if best in _names(pair)}
    if not pairs or any(math.isnan(pair.adjusted) for pair in pairs.values()):
        return f"open; {_shown(best)} has the largest {AREA}, {_size(sizes[best])}", "no verdict with two seeds"
    leads = relative_to(best, differences)
    alike = [name for name in order[1:] if name in pairs and not pairs[name].clear]
    behind = [name for name in order[1:] if name in pairs and pairs[name].clear]
    rest = f"; clearly behind: {listed(list(map(_shown, behind)), MOST_NAMES)}" if behind else ""
    near = (alike or behind)[0]
    lead = -leads[near]
    sure = f"the lead of {_shown(best)} over {_shown(near)} is {_size(lead, '+z.3f')}, {pairs[near].p_text}"
    if alike:
        tied = listed([f"{_shown(name)} {_size(sizes[name])}" for name in (best, *alike)], MOST_NAMES)
        detectable = f"; these seeds would find a difference of {pairs[near].detectable:.2f} between these two"
        return f"open between {tied}, by {AREA}{rest}", f"not sure: {sure}{detectable}"
    others = [_shown(name) for name in front if name != best]
    has = "has" if len(others) == 1 else "have"
    parts = f"; {listed(others, MOST_NAMES)} {has} parts of the frontier, too" if others else ""
    return f"{_shown(best)}: its {AREA} is the largest, {_size(sizes[best])}{parts}", f"sure at the 5 % level: {sure}"


def _shown(method: str) -> str:
    return plain_title(method) if is_plain(method) else method


def _names(pair: Difference) -> tuple[str, str]:
    return pair.first, pair.second


def _size(statistic: Statistic, form: str = "z.3f") -> str:
    return f"{statistic.estimate:{form}} [{statistic.low:{form}}, {statistic.high:{form}}]"


def _against(verdicts: Sequence[ControlVerdict], most: int) -> str:
    """Say which methods beat the controls."""
    controls = {name: what for name, what in CONTROLS.items() if any(name in verdict.against for verdict in verdicts)}
    if not controls:
        return "against each other only: " + ("one seed" if most < 2 else "no control has been evaluated")
    what = f"{listed(list(controls.values()))}, which cost no training"
    if most < VERDICT_SEEDS:
        return f"{what}; no verdict with two seeds"
    beating = [verdict.method for verdict in verdicts if verdict.pushes]
    losers: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if verdict.loses:
            losers.setdefault(tuple(CONTROLS[name] for name in verdict.loses), []).append(verdict.method)
    rest = [verdict.method for verdict in verdicts if not verdict.loses and verdict.method not in beating]
    each = "both" if len(controls) == 2 else "all of them" if len(controls) > 2 else "them"
    parts = [
        *([f"{listed(beating, MOST_NAMES)} {'beats' if len(beating) == 1 else 'beat'} {each}"] if beating else []),
        *([f"not shown to beat {each}: {listed(rest, MOST_NAMES)}"] if rest else []),
        *(f"worse than {listed(names)}: {listed(losing, MOST_NAMES)}" for names, losing in losers.items()),
    ]
    return "; ".join([what, *parts])


def _seeds(table: ScoreTable) -> str:
    """Say how many seeds a configuration has, and what is left out."""
    number = np.unique(table.num_seeds_C[table.num_seeds_C > 0]).tolist()
    text = f"{number[0]} of each configuration" if len(number) == 1 else f"{number[0]} to {number[-1]} a configuration"
    common = ", the same for all" if number == [len(table.seeds)] and number[0] > 1 else ""
    lost = excluded_text(table.num_excluded())
    return text + common + (f"; left out: {lost}" if lost else "")
