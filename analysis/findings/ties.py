"""Configurations with equal means: they share one row of a table and one label of a figure, however many there are.

Shape legend: N points, M objectives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from analysis.findings.frontier import Estimate, FrontierPoint
from analysis.statistics.arrays import round_means

BASES = ("seeds", "questions", "none")  # of an interval, the most reliable first


@dataclass(frozen=True)
class Entry:
    """A configuration, or several that tie.

    Attributes:
        members: configurations with equal means, in the order of the table; only one if nothing ties.
    """

    members: tuple[FrontierPoint, ...]

    @property
    def title(self) -> str:
        """Method and label; for a tie, each method once, with the number of its configurations."""
        names = list(_by_method(self.members).items())
        if len(names) == 1 and len(self.members) > 1:
            first = min(self.members, key=lambda point: len(point.label))
            return f"{point_title(first)} and {len(self.members) - 1} more that equal it"
        return " = ".join(
            point_title(points[0]) if len(points) == 1 else f"{method} ({len(points)})" for method, points in names
        )

    @property
    def point(self) -> FrontierPoint:
        """The entry's numbers: for a tie, the widest interval, the highest P and the lowest cost of its members."""
        first = self.members[0]
        if len(self.members) == 1:
            return first
        excluded: Counter[str] = Counter()
        for member in self.members:
            excluded.update(member.excluded)
        return replace(
            first,
            seeds=min(member.seeds for member in self.members),
            excluded={status: excluded[status] for status in first.excluded},
            scores={name: _widest([member.scores[name] for member in self.members]) for name in first.scores},
            tokens=_ignoring_nan(min, [member.tokens for member in self.members]),
            seconds=_ignoring_nan(min, [member.seconds for member in self.members]),
            p_front=_ignoring_nan(max, [member.p_front for member in self.members]),
        )


def point_title(point: FrontierPoint) -> str:
    """Return method and label, e.g. "kl_penalty beta=0.3"."""
    return f"{point.method} {point.label}".strip()


def entries(points: Sequence[FrontierPoint], names: Collection[str] | None = None) -> list[Entry]:
    """Group points with equal means, each group in the place of its first; a point without a result stays alone.

    Args:
        names: names of the objectives to compare; None means all.
    """
    compared = [name for name in (points[0].scores if points else ()) if names is None or name in names]
    mean_NM = round_means([[point.scores[name].mean for name in compared] for point in points])
    groups: dict[object, list[FrontierPoint]] = {}
    for point, means in zip(points, mean_NM.tolist(), strict=True):
        alone = not means or any(map(math.isnan, means))
        groups.setdefault(point.configuration if alone else tuple(means), []).append(point)
    return [Entry(tuple(members)) for members in groups.values()]


def _by_method(points: Sequence[FrontierPoint]) -> dict[str, list[FrontierPoint]]:
    methods: dict[str, list[FrontierPoint]] = {}
    for point in points:
        methods.setdefault(point.method, []).append(point)
    return methods


def _widest(estimates: Sequence[Estimate]) -> Estimate:
    basis = max((estimate.basis for estimate in estimates), key=BASES.index)
    low = _ignoring_nan(min, [estimate.low for estimate in estimates])
    high = _ignoring_nan(max, [estimate.high for estimate in estimates])
    return Estimate(estimates[0].mean, low, high, "none" if math.isnan(low) else "seeds" if basis == "none" else basis)


def _ignoring_nan(choose: Callable[[list[float]], float], values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return choose(known) if known else math.nan
