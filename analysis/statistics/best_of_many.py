"""The luck in the best of many: the volume below several curves and points that may be tied.

Where several fronts are nearly equal, the best measured one leads by luck. A bootstrap removes only part of that luck,
because its own ties are already broken. Here the union of fronts is seen from the worst corner. Along each ray, the
fronts that may be tied for the lead are shrunk towards their mean, as far as noise explains their differences. The
volume is that of the shrunk fronts.

    volume = integral over directions of r(direction)^M / M,    r = max over fronts of r_front

Source: James and Stein 1961 for the shrinkage, with the variance between fronts by moments as in DerSimonian and Laird
1986; Deng et al. 2019, arXiv:1905.02661, for hypervolumes along rays.

Shape legend: B replicates, P points, M objectives, J rays, G groups (curves, or points on none), N points of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.statistics.arrays import Bools, Floats, Integers

RAYS = 36  # in two objectives; in three, RAYS_3 squared
RAYS_3 = 8
DIFFERENT = 1.5  # contenders are certainly not tied if their variance exceeds the noise's by this multiple of it
MOST_TIED = 0.9  # probability of a tie where noise explains everything: small differences look like none
GOLDEN = (math.sqrt(5) - 1) / 2  # spreads the replicates of tied contenders evenly over all
CONTENDER = 3.0  # standard deviations behind the lead, within which a front may be tied with it


def shrunk_volumes(
    mean_PM: Floats, noisy_BPM: Floats, draws_BPM: Floats, groups: Sequence[Integers], corner_M: Floats
) -> tuple[float, Floats]:
    """Return by how much shrinkage changes the union's volume, and replicates volume_B of the volume.

    Args:
        mean_PM: the points as measured.
        noisy_BPM: the points with new noise added, which shows each front's own bias.
        draws_BPM: replicates of the points.
        groups: the points of each curve; a point on no curve is a group of its own.
    """
    scale_M = np.maximum((mean_PM - corner_M).max(axis=0), 1e-12)
    rays_JM, weight = _rays(len(scale_M))
    plain_JG = _radii(mean_PM[None], groups, corner_M, scale_M, rays_JM)[0]
    bias_JG = _radii(noisy_BPM, groups, corner_M, scale_M, rays_JM).mean(axis=0) - plain_JG
    noise_BJG = _radii(draws_BPM, groups, corner_M, scale_M, rays_JM)
    noise_BJG -= noise_BJG.mean(axis=0)
    centre_JG = plain_JG - bias_JG
    radius_BJ = _posterior(centre_JG, noise_BJG)
    factor = weight * float(np.prod(scale_M))
    power = len(scale_M)
    volume_B = factor * (np.maximum(radius_BJ, 0.0) ** power).sum(axis=1)
    plain = factor * float((plain_JG.max(axis=1) ** power).sum())
    return float(volume_B.mean()) - plain, volume_B


def _rays(objectives: int) -> tuple[Floats, float]:
    """Return rays_JM, unit vectors spread evenly over the directions, and the weight of each ray's r^M."""
    if objectives == 2:
        angle_J = (np.arange(RAYS) + 0.5) * math.pi / (2 * RAYS)
        return np.column_stack([np.cos(angle_J), np.sin(angle_J)]), math.pi / (4 * RAYS)
    around, height = (grid.ravel() for grid in np.meshgrid(*(2 * [(np.arange(RAYS_3) + 0.5) / RAYS_3])))
    flat = np.sqrt(1 - height**2)
    angle = around * math.pi / 2
    return np.column_stack([flat * np.cos(angle), flat * np.sin(angle), height]), math.pi / (6 * RAYS_3**2)


def _radii(
    points_BPM: Floats, groups: Sequence[Integers], corner_M: Floats, scale_M: Floats, rays_JM: Floats
) -> Floats:
    """Return radius_BJG: how far each ray runs through what a group dominates."""
    order = np.concatenate(groups)
    unit_MBP = np.ascontiguousarray(np.moveaxis(np.maximum((points_BPM[:, order] - corner_M) / scale_M, 0.0), 2, 0))
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    radius_BJG = np.empty((len(points_BPM), len(rays_JM), len(groups)))
    for ray, ray_M in enumerate(rays_JM):
        reach_BP = unit_MBP[0] / ray_M[0]
        for unit_BP, part in zip(unit_MBP[1:], ray_M[1:], strict=True):
            np.minimum(reach_BP, unit_BP / part, out=reach_BP)
        radius_BJG[:, ray] = np.maximum.reduceat(reach_BP, starts, axis=1)
    return radius_BJG


def _posterior(centre_JG: Floats, noise_BJG: Floats) -> Floats:
    """Return radius_BJ of the union: in some replicates all contenders are tied, in others they differ as measured."""
    lead_J = centre_JG.argmax(axis=1)
    rows_J = np.arange(len(centre_JG))
    behind_JG = centre_JG[rows_J, lead_J][:, None] - centre_JG
    apart_JG = (noise_BJG - np.take_along_axis(noise_BJG, lead_J[None, :, None], axis=2)).std(axis=0)
    contends_JG: Bools = behind_JG <= CONTENDER * np.maximum(apart_JG, 0.0)
    number_J = contends_JG.sum(axis=1)
    mean_J = np.where(contends_JG, centre_JG, 0.0).sum(axis=1) / number_J
    common_BJ = np.where(contends_JG, noise_BJG, 0.0).sum(axis=2) / number_J
    deviation_BJG = noise_BJG - common_BJ[:, :, None]
    variance_JG = deviation_BJG.var(axis=0)
    seen = float(np.where(contends_JG, (centre_JG - mean_J[:, None]) ** 2, 0.0).sum())
    expected = float(np.where(contends_JG, variance_JG, 0.0).sum())
    apart = min(max((seen / expected - 1) / DIFFERENT, 0.0), 1.0) if expected > 0 else 1.0
    tied_JG = contends_JG & (number_J > 1)[:, None]
    tied_B = (np.arange(len(noise_BJG)) * GOLDEN) % 1 < MOST_TIED * (1 - apart)
    equal_BJ = mean_J + common_BJ
    apart_BJG = centre_JG + noise_BJG
    radius_BJG = np.where(tied_B[:, None, None] & tied_JG, equal_BJ[:, :, None], apart_BJG)
    return np.asarray(np.where(contends_JG, radius_BJG, -np.inf).max(axis=2))
