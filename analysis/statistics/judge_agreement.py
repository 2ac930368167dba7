"""How far a judge agrees with the verdicts of another rater: two columns in, numbers out.

Shape legend: N answers that both have judged, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from analysis.statistics.arrays import Bools, Floats, nan_mean
from analysis.statistics.proportions import wilson
from settings.setting import ALIGNED_FROM

LEVEL = 0.95
OTHER_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.0, 10.0))  # the narrowest first
FEWEST = 5  # verdicts needed to suspect another scale if there are none to compare with


@dataclass(frozen=True)
class Pair:
    """Two verdicts on one answer, 0 to 100; nan where one is missing.

    Attributes:
        question: the answer's question.
        judge: the verdict of the judge under test.
        rater: the verdict to compare it with, e.g. a person's.
    """

    question: str
    judge: float
    rater: float


@dataclass(frozen=True)
class Agreement:
    """How far judge and rater agree, over the pairs with both verdicts.

    Attributes:
        n: number of such pairs.
        missing_judge, missing_rater, missing_both: pairs that lack only the judge's verdict, only the rater's, or both.
        bias: mean of judge - rater; low and high are its 95 % t-interval, nan below two pairs.
        absolute: mean absolute difference.
        correlation: Pearson's; nan if one of them does not vary.
        same_side: share of pairs on the same side of the threshold.
        kappa: agreement on the side, beyond chance (Cohen 1960); nan if chance agreement is already complete.
    """

    n: int
    missing_judge: int
    missing_rater: int
    missing_both: int
    bias: float
    low: float
    high: float
    absolute: float
    correlation: float
    same_side: float
    kappa: float


def measure_agreement(pairs: Sequence[Pair], threshold: float = ALIGNED_FROM) -> Agreement:
    """Measure the agreement over pairs of verdicts."""
    judge_N = np.array([pair.judge for pair in pairs], dtype=float)
    rater_N = np.array([pair.rater for pair in pairs], dtype=float)
    no_judge_N, no_rater_N = np.isnan(judge_N), np.isnan(rater_N)
    both_N = ~no_judge_N & ~no_rater_N
    judge_N, rater_N = judge_N[both_N], rater_N[both_N]
    difference_N = judge_N - rater_N
    low, high = _interval(difference_N)
    return Agreement(
        n=int(both_N.sum()),
        missing_judge=int((no_judge_N & ~no_rater_N).sum()),
        missing_rater=int((no_rater_N & ~no_judge_N).sum()),
        missing_both=int((no_judge_N & no_rater_N).sum()),
        bias=float(nan_mean(difference_N)),
        low=low,
        high=high,
        absolute=float(nan_mean(np.abs(difference_N))),
        correlation=_correlation(judge_N, rater_N),
        same_side=float(nan_mean((judge_N >= threshold) == (rater_N >= threshold))),
        kappa=_kappa(judge_N >= threshold, rater_N >= threshold),
    )


def agreement_by_question(pairs: Sequence[Pair], threshold: float = ALIGNED_FROM) -> dict[str, Agreement]:
    """Measure the agreement on each question, in the order in which the questions first appear."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.question, []).append(pair)
    return {question: measure_agreement(group, threshold) for question, group in groups.items()}


def kappa_over_questions(pairs: Sequence[Pair], threshold: float = ALIGNED_FROM) -> tuple[float, float, float]:
    """Return Cohen's kappa with its 95 % interval if the questions are a sample of others like them.

    The interval is Student's with Q - 1 degrees of freedom, and the standard error is the jackknife's, which leaves out
    each question in turn:

        V = (Q - 1) / Q sum_q (kappa_without_q - mean)^2

    It is clipped at 1. It is nan below two questions, or if leaving one out makes chance agreement complete. Judges
    that agree on all replies leave no variance: then the low end is Wilson's for Q of Q agreeing questions, beyond
    chance.

    Source: Efron and Stein 1981, "The jackknife estimate of variance"; over clusters as Cameron and Miller 2015, "A
    practitioner's guide to cluster-robust inference", section VI.B.
    """
    both = [pair for pair in pairs if not (math.isnan(pair.judge) or math.isnan(pair.rater))]
    names = list(dict.fromkeys(pair.question for pair in both))
    number_of = {name: number for number, name in enumerate(names)}
    question_N = np.array([number_of[pair.question] for pair in both], dtype=int)
    judge_N = np.array([pair.judge for pair in both]) >= threshold
    rater_N = np.array([pair.rater for pair in both]) >= threshold
    kappa, count = _kappa(judge_N, rater_N), len(names)
    if count < 2:
        return kappa, math.nan, math.nan
    without_Q = [_kappa(judge_N[keep_N], rater_N[keep_N]) for at in range(count) if (keep_N := question_N != at).any()]
    if kappa == 1.0:
        chance = float(judge_N.mean() ** 2 + (1 - judge_N.mean()) ** 2)  # both judges have the same margins
        return kappa, (wilson(count, count)[0] - chance) / (1 - chance), 1.0
    variance = (count - 1) * float(np.var(without_Q))
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return kappa, kappa - half, min(kappa + half, 1.0)


def other_scale(verdicts: Sequence[float], compared: Sequence[float]) -> tuple[float, float] | None:
    """Return the scale that verdicts seem to be on, if it is not 0 to 100; None otherwise.

    Another scale is suspected if all verdicts fit into it and those of the other rater on the same answers exceed 10;
    without another rater, if there are at least `FEWEST` verdicts.

    Args:
        verdicts: verdicts of the rater in question; nan is left out.
        compared: the other rater's.
    """
    ours = [value for value in verdicts if not math.isnan(value)]
    theirs = [value for value in compared if not math.isnan(value)]
    for low, high in OTHER_SCALES:
        if ours and low <= min(ours) and max(ours) <= high:
            wider = max(theirs) > OTHER_SCALES[-1][1] if theirs else len(ours) >= FEWEST
            return (low, high) if wider else None
    return None


def _interval(values_N: Floats) -> tuple[float, float]:
    """Compute the t-interval of the mean."""
    n = len(values_N)
    if n < 2:
        return math.nan, math.nan
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * values_N.std(ddof=1) / math.sqrt(n))
    mean = float(nan_mean(values_N))
    return mean - half, mean + half


def _correlation(first_N: Floats, second_N: Floats) -> float:
    if len(first_N) < 2 or not first_N.std() or not second_N.std():
        return math.nan
    return float(np.corrcoef(first_N, second_N)[0, 1])


def _kappa(first_N: Bools, second_N: Bools) -> float:
    if not len(first_N):
        return math.nan
    first, second = float(first_N.mean()), float(second_N.mean())
    by_chance = first * second + (1 - first) * (1 - second)
    return math.nan if by_chance == 1 else (float(nan_mean(first_N == second_N)) - by_chance) / (1 - by_chance)
