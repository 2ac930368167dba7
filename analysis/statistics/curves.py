"""A smooth curve over a method's knob, so that results do not depend on how densely the knob was searched.

Between any two values of a continuous knob there are others, and close values give similar scores. For each objective,
the means along a knob are modelled as a straight line, plus bends (a cubic spline), plus kinks (a linear spline), plus
the noise that `analysis.statistics.noise` estimates. The strengths of bends and kinks are unknown: the fit is averaged
over a grid of strengths, each weighted by its likelihood. The position of a knob value on the curve follows from the
order of the values and the distances between fitted neighbours, as in a chord-length spline, so that a steep window of
the knob does little harm.

A configuration may lie off its method's curve by an offset of its own (the nugget of kriging), which has a grid of
strengths, too. Only the probability of being on the front uses it; for the curve itself such offsets are noise.

Source: Wahba 1983, "Bayesian confidence intervals for the cross-validated smoothing spline" (splines as posterior
means); Cressie 1993, Statistics for Spatial Data, section 5.4 (generalised covariances |r| and |r|^3, restricted
likelihood); Gelman 2006, "Prior distributions for variance parameters in hierarchical models" (half-t priors);
Lee 1989, "Choosing nodes in parametric curve interpolation" (chord length).

Shape legend: K places where the curve was measured, T points of the curve, M objectives, D knobs, H pairs of strengths,
N = K + 1 + D rows of the kriging system, R contrasts, A and B two sets of places; C configurations and B replicates of
their errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.arrays import Bools, Floats, Integers
from analysis.statistics.measurements import Line
from analysis.statistics.noise import Noise, root

POINTS = 61  # of a curve over one knob, besides its places
KINKS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)  # sd of the linear spline from end to end, in ranges of the means
BENDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # sd of the cubic spline in the middle
USUAL_KINK, USUAL_BEND = 0.1, 0.3  # strengths beyond these are less and less expected
TAIL = 7  # degrees of freedom of the half-t prior over bends
OFFSETS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)  # sd of a configuration's own offset, in ranges of the means
USUAL_OFFSET = 0.03
LEAST_WEIGHT = 0.01  # strengths with less weight are left out
FEWEST = 3  # places that a curve needs
STRAIGHT = 0.1  # part of a curve's length that follows the knob instead of the distances
JITTER = 1e-9  # of the squared range, added to the diagonal for places that coincide
TENFOLD = 10.0  # if several knobs are searched together, positive ones that span more are taken as logarithms


@dataclass(frozen=True, eq=False)
class Curve:
    """What is known about a line's curve, as a function of its means.

    Attributes:
        rows_K: the configurations at its places; -1 for the start, which has no noise.
        places_K: the index of each place among the points.
        joined_T: whether a point and the next one are neighbours, with a straight line between them.
        mean_KM: the means, preceded by the start if there is one.
        weights_MTK: the curve is weights @ mean.
        gaps_MTT: a root of the covariance of the curve's deviations from that, in the gaps between places.
        x_KD: where the places lie, for the kriging.
        covariance_MKK: of the means.
    """

    rows_K: Integers
    places_K: Integers
    joined_T: Bools
    mean_KM: Floats
    weights_MTK: Floats
    gaps_MTT: Floats
    x_KD: Floats
    covariance_MKK: Floats

    def of(self, errors_BCM: Floats) -> Floats:
        """Return curve_BTM through means with these errors."""
        return self._through(errors_BCM, self.weights_MTK)

    def draw_gaps(self, random: np.random.Generator, replicates: int) -> Floats:
        """Draw gaps_BTM: what the curve may do between its places."""
        return _draw(self.gaps_MTT, random, replicates)

    def draw_own(self, errors_BCM: Floats, random: np.random.Generator) -> Floats:
        """Draw own_BKM: where the configurations at its places may lie, on the curve or off it."""
        columns = zip(self.mean_KM.T, self.covariance_MKK, strict=True)
        weights_MKK, gaps_MKK = _stacked(_krige(self.x_KD, self.x_KD, *column, OFFSETS) for column in columns)
        return self._through(errors_BCM, weights_MKK) + _draw(root(gaps_MKK), random, len(errors_BCM))

    def _through(self, errors_BCM: Floats, weights_MTK: Floats) -> Floats:
        errors_BKM = np.where((self.rows_K >= 0)[:, None], errors_BCM[:, self.rows_K], 0.0)
        return np.einsum("mtk,bkm->btm", weights_MTK, self.mean_KM + errors_BKM, optimize=True)


def _draw(root_MTT: Floats, random: np.random.Generator, replicates: int) -> Floats:
    """Draw normal numbers_BTM with the covariances that have these roots."""
    unit_MBT = random.standard_normal((len(root_MTT), replicates, root_MTT.shape[1]))
    return np.moveaxis(unit_MBT @ np.swapaxes(root_MTT, 1, 2), 0, 2)


def fit_curve(line: Line, noise: Noise, start_M: Floats | None) -> Curve | None:
    """Fit the curve of a line; None if it has fewer than three places, or too few for its knobs.

    Args:
        start_M: the line's start on the scale of the noise.
    """
    rows_K, knobs_KD = line.rows_K, line.knobs_KD
    mean_KM, covariance_MKK = noise.mean_CM[rows_K], noise.covariance(rows_K, alike=True)
    if start_M is not None:
        rows_K = np.append(-1, rows_K)
        knobs_KD = np.concatenate([np.zeros((1, knobs_KD.shape[1])), knobs_KD])
        mean_KM = np.concatenate([start_M[None], mean_KM])
        covariance_MKK = np.pad(covariance_MKK, ((0, 0), (1, 0), (1, 0)))
    if len(np.unique(knobs_KD, axis=0)) < FEWEST + knobs_KD.shape[1] - 1:
        return None
    if knobs_KD.shape[1] == 1:
        x_K = _chord_length(_scaled(knobs_KD[:, 0], mean_KM, covariance_MKK), mean_KM, covariance_MKK)
        t_T, places_K = np.unique(np.append(x_K, np.linspace(0, 1, POINTS)), return_inverse=True)
        places_K = places_K.ravel()[: len(x_K)]
        x_KD, t_TD, joined_T = x_K[:, None], t_T[:, None], np.arange(len(t_T)) < len(t_T) - 1
    else:
        x_KD = np.column_stack([_unit(_usual_scale(knob_K)) for knob_K in knobs_KD.T])
        t_TD = np.concatenate([x_KD, _midpoints(x_KD)])
        places_K, joined_T = np.arange(len(x_KD)), np.zeros(len(t_TD), dtype=bool)
    columns = zip(mean_KM.T, covariance_MKK, strict=True)
    weights_MTK, gaps_MTT = _stacked(_krige(x_KD, t_TD, *column) for column in columns)
    return Curve(rows_K, places_K, joined_T, mean_KM, weights_MTK, root(gaps_MTT), x_KD, covariance_MKK)


def _stacked(fits: Iterable[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    weights, covariances = zip(*fits, strict=True)
    return np.stack(weights), np.stack(covariances)


def _unit(x_K: Floats) -> Floats:
    return np.asarray((x_K - x_K.min()) / (float(np.ptp(x_K)) or 1.0))


def _usual_scale(knob_K: Floats) -> Floats:
    wide = knob_K.min() > 0 and knob_K.max() > TENFOLD * knob_K.min()
    return np.asarray(np.log(knob_K) if wide else knob_K)


def _scaled(knob_K: Floats, mean_KM: Floats, covariance_MKK: Floats) -> Floats:
    """Return the knob or its logarithm, scaled to [0, 1]: whichever has the higher likelihood."""
    plain_K = _unit(knob_K)
    if knob_K.min() <= 0:
        return plain_K
    logarithm_K = _unit(np.log(knob_K))
    likelihoods = [
        sum(
            _restricted_likelihood(x_K[:, None], mean_KM[:, column], covariance_MKK[column])[1]
            for column in range(mean_KM.shape[1])
        )
        for x_K in (plain_K, logarithm_K)
    ]
    return plain_K if likelihoods[0] >= likelihoods[1] else logarithm_K


def _chord_length(x_K: Floats, mean_KM: Floats, covariance_MKK: Floats) -> Floats:
    """Return each place's distance along the curve, on [0, 1], from a first fit over the knob."""
    fitted_KM = np.column_stack(
        [
            _krige(x_K[:, None], x_K[:, None], mean_KM[:, column], covariance_MKK[column])[0] @ mean_KM[:, column]
            for column in range(mean_KM.shape[1])
        ]
    )
    order_K = np.argsort(x_K, kind="stable")
    range_M = np.ptp(mean_KM, axis=0)
    steps_KM = np.diff(fitted_KM[order_K], axis=0) / np.where(range_M > 0, range_M, 1.0)
    length_K, knob_K = np.linalg.norm(steps_KM, axis=1), np.diff(x_K[order_K])
    step_K = length_K / (length_K.sum() or 1.0) + STRAIGHT * knob_K / (knob_K.sum() or 1.0)
    along_K = np.zeros_like(x_K)
    along_K[order_K[1:]] = np.cumsum(step_K)
    return _unit(along_K)


def _midpoints(x_KD: Floats) -> Floats:
    """Return the midpoint of each pair of places unless a third place is nearer to it (edges of the Gabriel graph)."""
    middles = []
    for first, second in itertools.combinations(range(len(x_KD)), 2):
        middle_D = (x_KD[first] + x_KD[second]) / 2
        distance_K = np.linalg.norm(x_KD - middle_D, axis=1)
        if (distance_K >= distance_K[first] * (1 - 1e-9)).all():
            middles.append(middle_D)
    return np.array(middles).reshape(-1, x_KD.shape[1])


@dataclass(frozen=True, eq=False)
class _Strengths:
    """H choices of strengths of a curve's bends, kinks and offsets.

    A linear spline with the generalised covariance -k |r| has the variance 2 k between the ends of a unit length; a
    cubic spline with k |r|^3 has the variance k / 4 in the middle if its ends are held.

    Attributes:
        kinks_H, bends_H: the factors of -|r| and |r|^3.
        offsets_H: the variance of a place's own offset.
        prior_H: the logarithms of their prior weights.
    """

    kinks_H: Floats
    bends_H: Floats
    offsets_H: Floats
    prior_H: Floats

    @classmethod
    def of(cls, y_K: Floats, offsets: Sequence[float]) -> _Strengths:
        size = float(np.ptp(y_K)) or 1.0
        kinks_H, bends_H, offsets_H = np.array(list(itertools.product(KINKS, BENDS, offsets))).T
        prior_H = -np.log1p((kinks_H / USUAL_KINK) ** 2) - np.log1p((offsets_H / USUAL_OFFSET) ** 2)
        prior_H -= (TAIL + 1) / 2 * np.log1p((bends_H / USUAL_BEND) ** 2 / TAIL)
        prior_H += np.log(bends_H)  # the width of a step of their grid, which is even in logarithms
        return cls((kinks_H * size) ** 2 / 2, 4 * (bends_H * size) ** 2, (offsets_H * size) ** 2, prior_H)

    def chosen(self, rows_H: Bools) -> _Strengths:
        return _Strengths(*(each[rows_H] for each in (self.kinks_H, self.bends_H, self.offsets_H, self.prior_H)))

    def covariance(self, x_AD: Floats, x_BD: Floats) -> Floats:
        """Return the generalised covariance_HAB between places; the same array twice has its places' own offsets."""
        distance_AB = np.linalg.norm(x_AD[:, None, :] - x_BD[None, :, :], axis=2)
        kinks_H11, bends_H11 = self.kinks_H[:, None, None], self.bends_H[:, None, None]
        covariance_HAB = bends_H11 * distance_AB**3 - kinks_H11 * distance_AB
        if x_AD is x_BD:
            covariance_HAB = covariance_HAB + self.offsets_H[:, None, None] * np.eye(len(x_AD))
        return np.asarray(covariance_HAB)


def _restricted_likelihood(
    x_KD: Floats, y_K: Floats, covariance_KK: Floats, offsets: Sequence[float] = (0.0,)
) -> tuple[Floats, float]:
    """Return the weight of each choice of strengths, and the logarithm of the likelihood averaged over all of them.

    The likelihood is that of contrasts, which do not change if a straight line is added.
    """
    strengths = _Strengths.of(y_K, offsets)
    number, trend_KN = len(x_KD), np.column_stack([np.ones(len(x_KD)), x_KD])
    contrast_KR = np.linalg.qr(trend_KN, mode="complete")[0][:, trend_KN.shape[1] :]
    jitter_KK = JITTER * (float(np.ptp(y_K)) or 1.0) ** 2 * np.eye(number)
    signal_HKK = strengths.covariance(x_KD, x_KD)
    variance_HRR = contrast_KR.T @ (signal_HKK + covariance_KK + jitter_KK) @ contrast_KR
    root_HRR = np.linalg.cholesky(variance_HRR)
    contrasts_HR1 = np.broadcast_to((contrast_KR.T @ y_K)[:, None], (*root_HRR.shape[:2], 1))
    unit_HR = np.linalg.solve(root_HRR, contrasts_HR1)[..., 0]
    logarithm_H = (
        strengths.prior_H - np.log(np.diagonal(root_HRR, axis1=1, axis2=2)).sum(axis=1) - (unit_HR**2).sum(axis=1) / 2
    )
    best = float(logarithm_H.max())
    weight_H = np.exp(logarithm_H - best)
    return weight_H / weight_H.sum(), best + math.log(weight_H.mean())


def _krige(
    x_KD: Floats, t_TD: Floats, y_K: Floats, covariance_KK: Floats, offsets: Sequence[float] = (0.0,)
) -> tuple[Floats, Floats]:
    """Return weights_TK of the curve at t, and covariance_TT of its deviations from them (without the noise).

    With `offsets`, t must be x, and the values are those of the places themselves.
    """
    weight_H, _ = _restricted_likelihood(x_KD, y_K, covariance_KK, offsets)
    likely_H = weight_H >= LEAST_WEIGHT / len(offsets)
    strengths = _Strengths.of(y_K, offsets).chosen(likely_H)
    weight_H = weight_H[likely_H] / weight_H[likely_H].sum()
    number, columns = len(x_KD), 1 + x_KD.shape[1]
    trend_KN, trend_TN = (np.column_stack([np.ones(len(x)), x]) for x in (x_KD, t_TD))
    jitter_KK = JITTER * (float(np.ptp(y_K)) or 1.0) ** 2 * np.eye(number)
    system_HNN = np.zeros((len(weight_H), number + columns, number + columns))
    system_HNN[:, :number, :number] = strengths.covariance(x_KD, x_KD) + covariance_KK + jitter_KK
    system_HNN[:, :number, number:], system_HNN[:, number:, :number] = trend_KN, trend_KN.T
    right_HTN = np.concatenate(
        [
            strengths.covariance(t_TD, x_KD),
            np.broadcast_to(trend_TN, (len(weight_H), *trend_TN.shape)),
        ],
        axis=2,
    )
    solved_HNT = np.linalg.solve(system_HNN, np.swapaxes(right_HTN, 1, 2))
    weights_HTK = np.swapaxes(solved_HNT[:, :number], 1, 2)
    error_HTT = strengths.covariance(t_TD, t_TD) - right_HTN @ solved_HNT
    gaps_HTT = error_HTT - weights_HTK @ (covariance_KK + jitter_KK) @ np.swapaxes(weights_HTK, 1, 2)
    mean_TK = np.einsum("h,htk->tk", weight_H, weights_HTK)
    apart_HT = (weights_HTK - mean_TK) @ y_K
    spread_TT = np.einsum("h,hts->ts", weight_H, gaps_HTT) + np.einsum("h,ht,hs->ts", weight_H, apart_HT, apart_HT)
    return mean_TK, np.asarray(spread_TT)
