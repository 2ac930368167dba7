"""Regimes in which intervals are known not to hold as they should, with the numbers from simulations (COVERAGE.md).

Each caution is given only in its regime, next to the numbers that it is about.

Shape legend: C configurations, S seeds, K of a line, M objectives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from analysis.findings.arms import base_values, families, is_plain, lines_of, measure
from analysis.findings.ends import NEAR, End, unreached
from analysis.statistics.arrays import nan_mean
from analysis.statistics.compare import Difference
from analysis.statistics.curves import FEWEST
from analysis.statistics.measurements import Line
from analysis.statistics.noise import estimate_noise
from analysis.tables.scores import Objective, ScoreTable
from settings.common.text import listed

Place = Literal["task", "questions", "points", "band", "hypervolume", "selection"]
BUDGET_KNOBS = ("steps", "batch_size", "alignment_batch_size")  # they change how many rows a training reads
FEW_VALUES = 4  # of a knob
FEW_QUESTIONS, Z95 = 50, 1.96
ALIKE = 1e-9  # between means that are the same
LEAST_LEARNED = 0.02  # of the range of the task's score, above the base model
SHOWN, METHODS_SHOWN = 3, 4  # configurations, and methods, named in a line
MANY_METHODS = 5  # methods of which none is clearly behind another
# Least points of a curve; length of the chord on each side, in units of the ranges; turn between the two chords.
KINK_POINTS, KINK_CHORD, KINK_DEGREES = 5, 0.25, 45.0
P_FRONT = (
    "up to 11 points too high where configurations scatter around their curve by as much as the noise, and up to 13 too"
    " low where they lie exactly on it"
)


def cautions(
    table: ScoreTable, differences: Sequence[Difference] = (), base_scores: Mapping[str, float] | None = None
) -> Mapping[Place, Sequence[str]]:
    """Return what is known not to hold for a table of configurations with a finished trial.

    Args:
        differences: the differences between its methods.
        base_scores: score name -> mean of the untouched base model.
    """
    said: dict[Place, list[str]] = {place: [] for place in get_args(Place)}
    mean_CM = table.oriented(nan_mean(table.gains_CSM, axis=1))  # back from gains to scores
    means = {each.name: mean_CM[:, column] for column, each in enumerate(table.objectives)}
    if unlearned := nothing_learned(table.objectives, means, base_scores or {}):
        said["task"].append(unlearned)
    if alike := all_alike(table.objectives, means, base_scores or {}):
        said["task"].append(alike)
    if few_questions := _few_questions(table):
        said["questions"].append(few_questions)
    lines = [line for line in lines_of(table.configurations) if line.knobs_KD.shape[1] == 1]
    one_ended = [each.name for each in table.objectives if (each.low is None) != (each.high is None)]
    if one_ended:
        said["points"].append(
            f"The intervals of {', '.join(one_ended)} are Student's, and may leave the score's range."
        )
    if unequal := _unequal_budgets(table):
        said["points"].append(f"Not all configurations had the same budget: {unequal}.")
    if kinked := _methods(table, [line for line in lines if _has_kink(line, table)]):
        said["band"].append(
            f"Where a frontier has a kink (here, it seems: {kinked}), the band smooths it away: it contained the"
            " whole frontier in .52 to .64 of simulated cases instead of .95."
        )
    if _num_leading(table, differences) >= MANY_METHODS:
        said["band"].append(
            "Around nine equal methods the band contained the frontier in .88 to .94 of simulated cases."
        )
    said["hypervolume"] += _of_hypervolume(table, differences, base_scores or {}, lines)
    if _is_single_and_coarse(table):
        said["selection"].append(
            "With one configuration per method and few questions it reported .02 too little in simulations"
            " (20 questions)."
        )
    return said


def _of_hypervolume(
    table: ScoreTable, differences: Sequence[Difference], base_scores: Mapping[str, float], lines: Sequence[Line]
) -> Iterator[str]:
    """Yield what is known not to hold for hypervolumes."""
    if _num_leading(table, differences) >= MANY_METHODS:
        yield (
            "If many methods are nearly equal, the frontier of all of them together may owe something to luck: that of"
            " nine looked up to .008 too good in simulations."
        )
    if uncovered := _uncovered(table, _behind(differences), base_scores):
        yield uncovered
    if as_points := ", ".join(_point_methods(table)):
        yield (
            f"Fewer than three values count as points and not as a curve ({as_points}): the hypervolume leaves out what"
            " lies beyond them. Before you say that such a method loses to the controls, which are curves, try three or"
            " more values that span its range."
        )
    if outlying := _outlying(table, lines):
        yield (
            f"A trial of {outlying} lies far from the others of its configuration, whose mean therefore counts less for"
            " the curve through its neighbours."
        )
    if few := _methods(table, [line for line in lines if len(np.unique(line.knobs_KD)) <= FEW_VALUES]):
        yield (
            f"With four values of a knob or fewer ({few}) hypervolumes came out .004 to .009 too small in simulations"
            " of scores from 0 to 1."
        )
    if _is_single_and_coarse(table):
        yield (
            "With one configuration per method and few questions, the better of two equal methods looked .03 too good"
            " in simulations (20 questions)."
        )


def _few_questions(table: ScoreTable) -> str:
    """Say which shares rest on few questions, and how much others of the kind may differ; "" if none do."""
    numbers = {}
    for column, objective in enumerate(table.objectives):
        counts_CS = table.count_CSM[:, :, column]
        if objective.ends == (0.0, 1.0) and (counts_CS > 0).any():
            numbers[objective.name] = round(float(np.median(counts_CS[counts_CS > 0])))
    few = {name: number for name, number in numbers.items() if number < FEW_QUESTIONS}
    if not few:
        return ""
    listed = " and ".join(f"{number} of {name}" for name, number in few.items())
    error = Z95 * 0.5 / math.sqrt(min(few.values()) + Z95**2)  # Wilson's at one half
    return (
        f"Verdicts are about these questions ({listed}): as a sample of their kind, they tell a share near one half"
        f" to within {error:.2f}."
    )


def nothing_learned(
    objectives: Sequence[Objective], means: Mapping[str, Iterable[float]], base_scores: Mapping[str, float]
) -> str:
    """Say that no configuration is better at the task than the base model; "" if one is, or if that is not known.

    Args:
        means: objective name -> means of all configurations.
    """
    least = {}
    for objective in objectives:
        base = base_scores.get(objective.name, math.nan)
        low, high = objective.ends
        if objective.kind != "task" or not all(map(math.isfinite, (base, low, high))):
            continue
        gains = [objective.sign * (mean - base) for mean in means[objective.name] if math.isfinite(mean)]
        least[objective.name] = LEAST_LEARNED * (high - low)
        room = high - base if objective.higher_is_better else base - low
        if not gains or max(gains) > least[objective.name] or room <= 2 * least[objective.name]:
            return ""
    if not least:
        return ""
    name, number = next(iter(least.items()))
    return (
        f"In {name} no configuration is more than {number:g} better than the base model, so nothing was learned: train"
        " longer, or with a higher learning rate."
    )


def all_alike(
    objectives: Sequence[Objective], means: Mapping[str, Iterable[float]], base_scores: Mapping[str, float]
) -> str:
    """Say which objectives have the same mean for all configurations; "" if none has.

    Args:
        means: objective name -> means of all configurations.
    """
    alike = []
    for objective in objectives:
        known = [mean for mean in means[objective.name] if math.isfinite(mean)]
        if len(known) > 1 and max(known) - min(known) < ALIKE:
            is_base = abs(base_scores.get(objective.name, math.nan) - known[0]) < ALIKE
            too = " and the base model" if is_base else ""
            alike.append(f"{objective.name} is {known[0]:.3f} for all configurations{too}")
    if not alike:
        return ""
    return (
        f"{'; '.join(alike)}: such questions tell none from another. P and verdicts rest on the other scores, and allow"
        " for differences that these answers cannot exclude. Ask other questions, or take another score (`objectives`)."
    )


def _uncovered(table: ScoreTable, behind: Collection[str], base_scores: Mapping[str, float]) -> str:
    """Name the methods behind others that do not reach an end of the controls' curves; "" if there are none."""
    base_M = base_values(table, base_scores)
    if base_M is None:
        return ""
    ends_of: dict[tuple[str, ...], list[str]] = {}
    for end in get_args(End):
        if missing := tuple(method for method in unreached(end, table, base_M) if method in behind):
            ends_of.setdefault(missing, []).append(end)
    if not ends_of:
        return ""
    parts = [
        f"no value of {listed(methods, METHODS_SHOWN)} goes as far as {' or '.join(ends)}"
        for methods, ends in ends_of.items()
    ]
    return (
        f"N{' and '.join(parts)[1:]} (to {NEAR:.0%}): beyond the nearest value only the controls have points, so that"
        ' "worse" or "behind" may mean "not tried".'
    )


def _outlying(table: ScoreTable, lines: Sequence[Line]) -> str:
    """Name the configurations on curves with a trial far from the others, such as one that collapsed."""
    if not (table.num_seeds_C > 1).any():
        return ""
    outlying_C = estimate_noise(measure(table)).outlying_CM.any(axis=1)
    on_curves = {row for line in lines if len(line.rows_K) >= FEWEST for row in line.rows_K.tolist()}
    names = [table.configurations[row].title for row in np.flatnonzero(outlying_C) if row in on_curves]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _point_methods(table: ScoreTable) -> list[str]:
    """Return the methods with too few numbers for a curve, if one has several; plain fine-tuning is none of them."""
    family_C = families(table.configurations).tolist()
    on_curves = {family_C[row] for line in lines_of(table.configurations) for row in line.rows_K.tolist()}
    number = Counter(
        family
        for family, each in zip(family_C, table.configurations, strict=True)
        if any(_is_number(value) for value in each.coefficients.values())
    )
    as_points = [each for each in number if each not in on_curves and not is_plain(each)]
    return as_points if any(number[each] > 1 for each in as_points) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _methods(table: ScoreTable, lines: Sequence[Line]) -> str:
    """Return the names of the methods that have one of these lines, each once."""
    family_C = families(table.configurations).tolist()
    return ", ".join(dict.fromkeys(family_C[line.rows_K[0]] for line in lines))


def _unequal_budgets(table: ScoreTable) -> str:
    """Say in which knobs that change the number of training rows a method's configurations differ."""
    differing = []
    for method in dict.fromkeys(table.methods):
        values = [each.coefficients for each in table.configurations if each.method == method]
        names = [name for name in BUDGET_KNOBS if len({each.get(name) for each in values}) > 1]
        differing += [f"those of {method} differ in {' and '.join(names)}"] if names else []
    return "; ".join(differing)


def _has_kink(line: Line, table: ScoreTable) -> bool:
    """Return whether the means along a knob turn sharply somewhere, seen over chords long enough to outweigh noise."""
    rows_K = line.rows_K[np.argsort(line.knobs_KD[:, 0])]
    mean_KM = nan_mean(table.gains_CSM[rows_K], axis=1)
    span_M = np.ptp(mean_KM, axis=0)
    if len(rows_K) < KINK_POINTS or not (span_M > 0).all():
        return False
    place_KM = mean_KM / span_M
    for index, place_M in enumerate(place_KM):
        far_K = np.linalg.norm(place_KM - place_M, axis=1) >= KINK_CHORD
        before, after = np.flatnonzero(far_K[:index]), np.flatnonzero(far_K[index:])
        if len(before) and len(after):
            chords = place_M - place_KM[before[-1]], place_KM[index + after[0]] - place_M
            cosine = np.dot(*chords) / math.prod(np.linalg.norm(chord) for chord in chords)
            if cosine <= math.cos(math.radians(KINK_DEGREES)):
                return True
    return False


def _behind(differences: Sequence[Difference]) -> set[str]:
    """Return the methods that are clearly behind another one."""
    return {pair.second if pair.statistic.estimate > 0 else pair.first for pair in differences if pair.clear}


def _num_leading(table: ScoreTable, differences: Sequence[Difference]) -> int:
    """Return how many methods are not clearly behind another one."""
    return len(set(families(table.configurations).tolist()) - _behind(differences)) if differences else 0


def _is_single_and_coarse(table: ScoreTable) -> bool:
    """Return whether each method has one configuration, and some score rests on few questions."""
    number = Counter(table.method_C)
    asked = table.count_CSM[np.isfinite(table.count_CSM)]
    return max(number.values()) == 1 and len(asked) > 0 and float(asked.min()) <= FEW_QUESTIONS
