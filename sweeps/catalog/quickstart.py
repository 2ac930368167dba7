"""Four methods on the nano bad-medical-advice setting: minutes on a laptop, with the shape of the full result.

selgen sweep run quickstart
"""

from sweeps.space import between, vary
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="quickstart",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(
        "plain",
        vary("mixed", share=between(0.1, 0.75)),
        vary("upweighted", weight=between(0.2, 10)),
        vary("kl_penalty", beta=between(0.1, 10)),
    ),
    configurations=6,
    seeds=3,
)
