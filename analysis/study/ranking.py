"""Checks and notes that both frontiers of the study share: the first method, the ends reached, the controls beaten.

Shape legend: M objectives.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.frontier import frontier_figure
from analysis.findings.arms import PLAIN
from analysis.findings.ends import NEAR, End, far_from
from analysis.findings.findings import Findings
from analysis.statistics.compare import Difference
from analysis.study.figure import Check
from analysis.study.setting_results import SettingResults

ENDS: tuple[End, ...] = ("plain fine-tuning", "the base model")


def difference_between(findings: Findings, first: str, second: str) -> Difference | None:
    """Return the hypervolume of a method minus that of another; None if they were not compared."""
    for pair in findings.differences:
        if {pair.first, pair.second} == {first, second}:
            return pair if pair.first == first else -pair
    return None


def ranked_first(findings: Findings, method: str) -> Check:
    """Check that a method's frontier is clearly larger than every other's; it fails if another's is clearly larger."""
    statement = f"{method} has the best trade-off of all methods"
    rivals = [name for name in findings.table.methods if name not in (PLAIN, method)]
    compared = {name: pair for name in rivals if (pair := difference_between(findings, method, name)) is not None}
    if not compared:
        return Check(statement, "no comparison: it needs seeds", None)
    better = [name for name, pair in compared.items() if pair.clear and pair.statistic.estimate < 0]
    worse = [name for name, pair in compared.items() if pair.clear and pair.statistic.estimate > 0]
    alike = [name for name in compared if name not in (*better, *worse)]
    texts = [
        f"{words} {', '.join(names)}"
        for words, names in (("worse than", better), ("not distinguishable from", alike), ("better than", worse))
        if names
    ]
    return Check(statement, "; ".join(texts), False if better else None if alike else True)


def stays_behind(findings: Findings, method: str, best: str) -> Check:
    """Check that a method's frontier is clearly smaller than that of the best."""
    statement = f"{method} stays behind {best}"
    pair = difference_between(findings, best, method)
    if pair is None:
        return Check(statement, "no comparison: it needs seeds", None)
    size = pair.statistic
    measured = f"hypervolume {-size.estimate:+.2f} [{-size.high:+.2f}, {-size.low:+.2f}] against {best}"
    return Check(statement, measured, (size.estimate > 0) if pair.clear else None)


def frontier_of(results: SettingResults, findings: Findings, task: str, alignment: str) -> tuple[Figure, str]:
    """Draw a setting's frontier, and say what plain fine-tuning does and which method has the largest hypervolume."""
    figure = frontier_figure(findings.table.select([alignment, task]), results.base, "", alignment, task)
    methods = findings.method_hypervolumes
    best = max(methods, key=lambda name: methods[name].estimate)
    plain = results.estimates(alignment)[results.only(PLAIN).id]
    sentence = (
        f"Plain fine-tuning moves {alignment} from {results.base[alignment]:.2f} to {plain.mean:.2f}; of the methods"
        f" {best} has the largest hypervolume, {methods[best].estimate:.2f}"
        f" [{methods[best].low:.2f}, {methods[best].high:.2f}]."
    )
    return figure, sentence


def control_notes(findings: Findings) -> list[str]:
    """Note which methods beat the controls; empty if the sweep has none."""
    verdicts = findings.control_verdicts
    if not any(verdict.against for verdict in verdicts):
        return []
    beat = [verdict.method for verdict in verdicts if len(verdict.beats) == len(verdict.against) and verdict.against]
    rest = [verdict.method for verdict in verdicts if verdict.method not in beat]
    text = f"Beat stopping early and scaling the adapter down, both: {', '.join(beat) or 'none'}"
    return [f"{text}; not shown to: {', '.join(rest)}." if rest else f"{text}."]


def budget_notes(results: SettingResults) -> list[str]:
    """Note how many configurations each method has, unless all have the same number."""
    numbers = {method: len(results.configurations(method)) for method in results.table.methods if method != PLAIN}
    if len(set(numbers.values())) < 2:
        return []
    by_number = {n: [name for name, number in numbers.items() if number == n] for n in sorted(set(numbers.values()))}
    listed = "; ".join(f"{number} of {', '.join(names)}" for number, names in by_number.items())
    return [f"Methods do not all have the same number of values, and more may lie over a wider range: {listed}."]


def end_notes(results: SettingResults, task: str, alignment: str) -> list[str]:
    """Note which methods never come near plain fine-tuning, or never near the base model, in both objectives."""
    table, base_M = results.table.select([task, alignment]), np.array([results.base[task], results.base[alignment]])
    notes = []
    for end in ENDS:
        far = far_from(end, table, base_M)
        if far is None:
            return []
        missing = [
            f"{method} (nearest: {label or 'its only configuration'}, off by {distance:.2f})"
            for method, (label, distance) in far.items()
        ]
        if missing:
            notes.append(f"Never near {end} (within {NEAR:g} of the way in both scores): {'; '.join(missing)}.")
    return notes or [
        f"Every method comes within {NEAR:g} of the way of both ends, plain fine-tuning and the base model."
    ]
