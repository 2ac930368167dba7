"""Choose a configuration: the best in one score among those that keep limits on scores, as numbers and a table.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from analysis.findings.arms import base_values, control_of, is_plain, measure
from analysis.findings.frontier import Estimate, FrontierPoint, frontier
from analysis.findings.frontier_table import (
    BASE,
    WIDE,
    Layout,
    cell_text,
    choose_layout,
    empty_table,
    percent_text,
    room,
)
from analysis.statistics.arrays import Floats, finite_or_none
from analysis.statistics.bootstrap import VERDICT_SEEDS, Bootstrap
from analysis.statistics.choice import Bound, Choice, choose
from analysis.tables.scores import Objective, ScoreTable
from settings.common.errors import UserError

SHOWN = 12  # rows of the table, besides plain fine-tuning and the base model
UNLIKELY = 0.02  # configurations less likely to keep the limits are listed by their distance from them
TOLD = 0.001  # luck of the choice that is worth a sentence
LEAST_CONFIDENCE = 0.5
MOST_DIGITS = 6  # of per cents
MARKS = {"*": "the one to take", ".": "others that keep the limits with this confidence"}  # in front of rows
NOT_CHOSEN = "no configuration is chosen with two seeds: raise `seeds` to 3 and run again"


@dataclass(frozen=True)
class Limit:
    """A limit on a score: at least, or at most, `value`."""

    score: str
    value: float
    at_least: bool = True

    @property
    def text(self) -> str:
        """The limit in a few characters, e.g. "alignment ≥ 0.9"."""
        return f"{self.score} {'≥' if self.at_least else '≤'} {self.value:g}"

    def is_kept_by(self, mean: float) -> bool:
        """Return whether a mean is within the limit."""
        return mean >= self.value if self.at_least else mean <= self.value


@dataclass(frozen=True)
class Candidate:
    """A configuration, and how it stands.

    Attributes:
        probability: that its true means keep all limits; None if no verdict is given.
        fitted: its score to optimise on its method's curve, by which those that clear the bar are ranked; nan without.
    """

    point: FrontierPoint
    probability: float | None
    fitted: float = math.nan

    @property
    def title(self) -> str:
        """Method and label, as tables write them."""
        return f"{self.point.method} {self.point.label}".strip()

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as JSON data."""
        fitted = self.fitted if math.isfinite(self.fitted) else None
        return self.point.to_json() | {"probability": self.probability, "fitted": fitted}


@dataclass(frozen=True)
class Chosen:
    """The configuration to take, and why.

    Attributes:
        best: the score to optimise.
        limits, confidence: what was asked for.
        bar: the probability that a candidate needs, so that the one chosen among all keeps the limits with this
            confidence; None if no verdict is given.
        candidates: all configurations: those that clear the bar, best first, then the others, most probable first, then
            the hopeless ones, nearest to the limits first.
        taken: the first candidate; None if none clears the bar.
        expected: its `best` score, without the luck of the choice.
        optimism: the mean on its curve minus `expected`: the luck of the choice, in the sign of the score.
        note: why no verdict is given; "" if one is.
    """

    best: Objective
    limits: tuple[Limit, ...]
    confidence: float
    bar: float | None
    candidates: tuple[Candidate, ...]
    taken: Candidate | None = None
    expected: Estimate | None = None
    optimism: float = 0.0
    note: str = ""

    @property
    def asked(self) -> str:
        """The limits in words."""
        return " and ".join(limit.text for limit in self.limits)

    def mark(self, candidate: Candidate) -> str:
        """Return the sign in front of a candidate, one of `MARKS`; "" if it does not clear the bar."""
        if candidate is self.taken:
            return "*"
        cleared = self.bar is not None and candidate.probability is not None and candidate.probability >= self.bar
        return "." if cleared else ""

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two."""
        if self.note:
            return self.note
        if self.taken is None:
            return self._missed(self.candidates[0])
        assert self.expected is not None
        return (
            f"take {self.taken.title}: {self.asked} with {percent_text(self.confidence)} confidence, and an expected"
            f" {self.best.name} of {self.expected.mean:z.3f} [{self.expected.low:z.3f}, {self.expected.high:z.3f}]"
        )

    def _missed(self, closest: Candidate) -> str:
        """Say that no configuration keeps the limits, and how near the closest one is."""
        probability = closest.probability or 0.0
        if probability <= UNLIKELY:
            cells = [(limit.score, cell_text(closest.point.scores[limit.score])) for limit in self.limits]
            if len(cells) > 1:
                near = f"{closest.title} comes closest: {', '.join(' '.join(cell) for cell in cells)}"
            else:
                end = "highest" if self.limits[0].at_least else "lowest"
                near = f"the {end} is {closest.title}, {cells[0][1]}"
                if self.limits[0].is_kept_by(closest.point.scores[self.limits[0].score].mean):
                    near += ", and no number of answers shows a limit at the end of the range"
            return f"no configuration keeps {self.asked}; {near}"
        confidence = percent_text(self.confidence)
        how = "misses narrowly" if probability >= self.confidence else "comes closest"
        has = _share(probability, self.digits)
        text = f"no configuration keeps {self.asked} with {confidence} confidence; {closest.title} {how}"
        if not self.is_raised:
            return f"{text}, with {has}"
        needed = f"each of {len(self.candidates)} needs {_share(self.bar, self.digits)} for {confidence} overall"
        return f"{text}: {needed}, and it has {has}"

    @property
    def digits(self) -> int:
        """How many digits of per cents tell every probability below the bar from the bar."""
        below = [each.probability for each in self.candidates if not self.mark(each)]
        for digits in range(1, MOST_DIGITS):
            if self.bar is None or _share(self.bar, digits) not in (
                _share(probability, digits) for probability in below
            ):
                return digits
        return MOST_DIGITS

    @property
    def is_raised(self) -> bool:
        """Whether a candidate needs more than the confidence asked for, because one of several is taken."""
        return self.bar is not None and _share(self.bar) != _share(self.confidence)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the verdict should know."""
        if self.bar is None:
            return ("two seeds say little about the variance, so the intervals are wide; a choice needs a third seed",)
        number, name = len(self.candidates), self.best.name
        remarks = [f"P: the probability, over seeds and for these questions, that the true means keep {self.asked}"]
        if self.is_raised:
            remarks[0] += (
                f"; each of {number} configurations needs {_share(self.bar, self.digits)} for"
                f" {percent_text(self.confidence)} overall, because some look better than they are"
            )
        if self.taken is None:
            remarks.append(
                "P also rests on the other configurations; the table's intervals rest on the trials of one method, so"
                " they may cross a limit although P is high"
            )
        else:
            remarks.append(
                f"the expected {name}, its interval and P also rest on the other configurations; the table's intervals"
                f" rest on the trials of {self.taken.point.method} alone, so they may cross a limit although P is high"
            )
        if name in {limit.score for limit in self.limits}:
            remarks.append(f"{name} is both limit and goal; --best SCORE sets another goal")
        remarks += filter(None, (self._measured_better(), self._nearly_kept()))
        if abs(self.optimism) >= TOLD:
            does = "flatters" if self.best.sign * self.optimism > 0 else "understates"
            remarks.append(
                f"choosing the best of {number} {does} its {name} by about {abs(self.optimism):.3f}; the expected"
                f" {name} corrects for that"
            )
        return tuple(remarks)

    def _measured_better(self) -> str:
        """Say why a configuration with a better mean in the table is not taken; "" if there is none."""
        if self.taken is None:
            return ""
        name = self.best.name
        cleared = [candidate for candidate in self.candidates if self.mark(candidate)]
        leader = max(cleared, key=lambda candidate: self.best.sign * candidate.point.scores[name].mean)
        means = [candidate.point.scores[name].mean for candidate in (leader, self.taken)]
        if self.best.sign * (means[0] - means[1]) < TOLD:
            return ""
        return (
            f"{leader.title} measured a better {name}, {means[0]:z.3f}; the choice is by the curve through all values"
            f" of a knob, on which it has {leader.fitted:z.3f}, and {self.taken.title} {self.taken.fitted:z.3f}"
        )

    def _nearly_kept(self) -> str:
        """Name the best of those whose means keep the limits, but not surely enough; "" if none is better."""
        if self.taken is None or self.bar is None:
            return ""
        name, scores = self.best.name, self.taken.point.scores
        doubted = [
            candidate
            for candidate in self.candidates
            if not self.mark(candidate)
            and all(limit.is_kept_by(candidate.point.scores[limit.score].mean) for limit in self.limits)
            and self.best.sign * (candidate.point.scores[name].mean - scores[name].mean) >= TOLD
        ]
        if not doubted:
            return ""
        best = max(doubted, key=lambda candidate: self.best.sign * candidate.point.scores[name].mean)
        return (
            f"{best.title} measured a better {name}, {best.point.scores[name].mean:z.3f}, but keeps {self.asked} with"
            f" {_share(best.probability, self.digits)} only"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON data."""
        taken = None
        if self.taken is not None and self.expected is not None:
            taken = self.taken.to_json() | {"expected": self.expected.to_json(), "optimism": self.optimism}
        return {
            "best": self.best.name,
            "limits": [
                {"score": limit.score, "at_least" if limit.at_least else "at_most": limit.value}
                for limit in self.limits
            ],
            "confidence": self.confidence,
            "needed_probability": self.bar,
            "chosen": taken,
            "verdict": self.verdict,
            "configurations": [candidate.to_json() for candidate in self.candidates],
        }


def choose_configuration(
    table: ScoreTable,
    best: str,
    limits: Sequence[Limit],
    confidence: float = 0.95,
    base_scores: Mapping[str, float] | None = None,
) -> Chosen:
    """Choose the configuration that is best in one score among those that keep limits (`analysis.statistics.choice`).

    Args:
        table: with `best` and the scores of the limits as its objectives.
        base_scores: score name -> mean of the untouched base model, where the controls' curves start.

    Raises UserError: no limit, or one outside its score's range; an invalid confidence; no finished trial; only one
    seed.
    """
    _check(table, limits, confidence, base_scores or {})
    points = frontier_points(table, base_scores or {})
    if table.num_seeds_C.max() < 2:
        raise UserError("every configuration has only one seed, so the noise of its scores is unknown; run more seeds")
    column, chosen_limits = table.index(best), tuple(limits)
    if table.num_seeds_C.max() < VERDICT_SEEDS:
        order = sorted(points, key=lambda point: -table.objectives[column].sign * point.scores[best].mean)
        shown = tuple(Candidate(point, None) for point in order)
        return Chosen(table.objectives[column], chosen_limits, confidence, None, shown, note=NOT_CHOSEN)
    finished = table.rows(table.num_seeds_C > 0)
    bootstrap = Bootstrap(measure(finished, base_values(finished, base_scores or {})))
    bounds = [_bound(table, limit) for limit in limits]
    choice = choose(bootstrap, bounds, column, confidence)
    sign, gain_C = table.objectives[column].sign, bootstrap.mean_CM[:, column]
    by_id = {point.configuration: point for point in points}
    candidates = [
        Candidate(by_id[configuration.id], float(probability), sign * float(gain))
        for configuration, probability, gain in zip(finished.configurations, choice.probability_C, gain_C, strict=True)
    ]
    distance_C = _distances(bootstrap, bounds)
    order_C = sorted(range(len(candidates)), key=lambda row: _rank(choice, gain_C, distance_C, row))
    ordered = tuple(candidates[row] for row in order_C)
    if choice.row is None:
        return Chosen(table.objectives[column], chosen_limits, confidence, choice.bar, ordered)
    low, high = sorted((sign * choice.low, sign * choice.high))
    return Chosen(
        table.objectives[column],
        chosen_limits,
        confidence,
        choice.bar,
        ordered,
        candidates[choice.row],
        Estimate(sign * choice.gain, low, high),
        sign * choice.optimism,
    )


def frontier_points(table: ScoreTable, base_scores: Mapping[str, float]) -> list[FrontierPoint]:
    """Return the points of the configurations that have a finished trial. Raise UserError if there are none."""
    return [point for point in frontier(table, base_scores=base_scores) if point.seeds]


def _rank(choice: Choice, gain_C: Floats, distance_C: Floats, row: int) -> tuple[int, float]:
    """Return a sort key: those that clear the bar by gain, then others by probability, the hopeless by distance."""
    probability = float(choice.probability_C[row])
    if probability >= choice.bar:
        return 0, -float(gain_C[row])
    return (1, -probability) if probability > UNLIKELY else (2, float(distance_C[row]))


def _distances(bootstrap: Bootstrap, bounds: Sequence[Bound]) -> Floats:
    """Return distance_C of the means from the bounds: in standard errors of a typical mean, added up over bounds.

    All configurations share that error, so that a noisy one does not count as nearer.
    """
    noise = bootstrap.noise
    error_M = np.median(bootstrap.z_errors_BCM.std(axis=0, ddof=1), axis=0)
    distance_C = np.zeros(len(noise.mean_CM))
    for bound in bounds:
        value_M = np.array(bootstrap.mean_CM[0])
        value_M[bound.column] = bound.value
        gap_C = noise.ranges.exact(value_M)[bound.column] - noise.mean_CM[:, bound.column]
        missing_C = np.maximum(gap_C if bound.at_least else -gap_C, 0.0)
        distance_C += missing_C / (error_M[bound.column] or 1.0)
    return distance_C


def _check(table: ScoreTable, limits: Sequence[Limit], confidence: float, base_scores: Mapping[str, float]) -> None:
    if not limits:
        known = [
            f"{each.name} {each.arrow} {base_scores[each.name]:z.3f}"
            for each in table.objectives
            if each.name in base_scores
        ]
        base = f"; the base model has {', '.join(known)}" if known else ""
        raise UserError(f"a choice needs a limit: --min SCORE=NUMBER or --max SCORE=NUMBER{base}")
    if not LEAST_CONFIDENCE <= confidence < 1:
        raise UserError(f"--confidence must be at least {LEAST_CONFIDENCE} and less than 1, got {confidence:g}")
    for limit in limits:
        low, high = table.objectives[table.index(limit.score)].ends
        if not low <= limit.value <= high:
            raise UserError(f"{limit.text} is outside the range of {limit.score}, [{low:g}, {high:g}]")


def _bound(table: ScoreTable, limit: Limit) -> Bound:
    column = table.index(limit.score)
    objective = table.objectives[column]
    return Bound(column, objective.sign * limit.value, limit.at_least == objective.higher_is_better)


def _share(probability: float | None, digits: int = 1) -> str:
    """Format a probability as per cents, by default to a tenth, since the bar may be 99.6 %."""
    if probability is None or finite_or_none(probability) is None:
        return "-"
    text = f"{probability:.{digits}%}"
    return f">{1 - 10.0 ** (-digits - 2):.{digits}%}" if probability < 1 and text == f"{1:.{digits}%}" else text


def choice_table(
    chosen: Chosen, title: str = "", shown: int = SHOWN, width: int = WIDE, base: Mapping[str, float] | None = None
) -> Table:
    """Build a table of the candidates for the terminal, with a caption that explains its marks.

    A star marks the taken one, a dot others that clear the bar. The last row says how many are left out.

    Args:
        shown: maximal number of rows, besides those of plain fine-tuning and the base model.
        width: of the terminal in characters; a narrow one stacks the intervals, or leaves out those of the limits.
        base: score name -> score of the untouched base model.
    """
    names = list(dict.fromkeys([chosen.best.name, *(limit.score for limit in chosen.limits)]))
    candidates = _shown(chosen.candidates, shown)
    points = [candidate.point for candidate in candidates]
    limits = {name: " and ".join(each.text for each in chosen.limits if each.score == name) for name in names}
    heads = {name: limits[name] or f"{name} {chosen.best.arrow}" for name in names}
    shares = [_share(candidate.probability, chosen.digits) for candidate in candidates]
    beside = [max(map(len, ["P", *shares])), max(len(str(point.seeds)) for point in points) if points else 1]
    layouts = [Layout(()), Layout((), stacked=True), Layout((), stacked=True, brief=frozenset(names[1:]))]
    titles = [candidate.title for candidate in candidates]
    layout = choose_layout(layouts, points, heads, lambda _: beside, titles, width)
    table = empty_table(title, layout, points, heads, room(layout, points, heads, beside, width))
    for name, number in zip(("P", "n"), beside, strict=True):
        table.add_column(name, justify="right", min_width=number)
    marks = [chosen.mark(candidate) for candidate in candidates]
    table.caption = Text("\n".join(f"{mark} {what}" for mark, what in MARKS.items() if mark in marks))
    for candidate, share, mark in zip(candidates, shares, marks, strict=True):
        cells = [layout.cell(candidate.point.scores[name], name) for name in names]
        row = [mark, candidate.title, *cells, share, str(candidate.point.seeds)]
        table.add_row(*map(Text, row), style="" if mark or chosen.bar is None else "dim")
    if base and any(name in base for name in names):
        cells = [f"{base[name]:z.3f}" if name in base else "" for name in names]
        table.add_row(*map(Text, ["", BASE, *cells]), style="dim")
    if left_out := len(chosen.candidates) - len(candidates):
        table.add_row("", Text(f"{left_out} more: --json lists all"), style="dim")
    return table


def _shown(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """Return the first candidates, and full plain fine-tuning if it is not among them."""
    shown, rest = list(candidates[:number]), candidates[number:]

    def is_full_plain(candidate: Candidate) -> bool:
        return is_plain(candidate.point.method) and control_of(candidate.point) is None

    return shown if any(map(is_full_plain, shown)) else [*shown, *list(filter(is_full_plain, rest))[:1]]
