"""Capability against sycophancy on GCD sycophancy.

selgen sweep run gcd_sycophancy
"""

from sweeps.space import between, vary
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gcd_sycophancy",
    settings=(setting("gcd_sycophancy", scale="nano"),),
    methods=(
        "plain",
        vary("mixed", share=between(0.1, 0.75)),
        vary("upweighted", weight=between(0.1, 30)),
        vary("kl_penalty", beta=between(0.03, 300)),
        vary("representation", beta=between(0.03, 30)),
    ),
    configurations=6,
    seeds=5,
)
