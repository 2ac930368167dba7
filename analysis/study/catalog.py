"""All figures of the study, in the order of the gallery."""

from __future__ import annotations

from analysis.study import colors, gcd, judged, medical, proxies
from analysis.study.figure import StudyFigure

FIGURES: tuple[StudyFigure, ...] = (
    medical.EM_PARETO,
    medical.EM_EPOCHS,
    medical.EM_PROXY,
    gcd.GCD_GENERALISATION,
    gcd.GCD_PARETO,
    proxies.PROXY_QUALITY,
    colors.TOY_BASE,
    colors.TOY_FLIP,
    colors.TOY_GOODHART,
    colors.TOY_SPILLOVER,
    judged.EM_JUDGED,
)
