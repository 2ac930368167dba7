"""Every method on the nano bad-medical-advice setting: equal rows, steps and schedule.

selgen sweep run methods_nano

The scaled-down adapter is also evaluated at 0.5, besides the usual points of the controls.
"""

from sweeps.space import between, grid, vary
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="methods_nano",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(
        "plain",
        grid("plain", adapter_scale=[0.2, 0.4, 0.5, 0.6, 0.8]),
        vary("mixed", share=between(0.1, 0.75)),
        vary("upweighted", weight=between(0.2, 10)),
        vary("kl_penalty", beta=between(0.1, 10)),
        vary("representation", beta=between(1, 100)),
        "gradient_projection",
        vary("dpo", weight=between(0.1, 10)),
        vary("orthogonal_lora", lambda1=between(0.001, 1)),
        grid("safe_lora", share=[0.1, 0.25, 0.5, 0.75, 1.0]),
    ),
    configurations=6,
    seeds=3,
    options={"alignment_batch_size": 32},  # gradient projection needs that many, and all methods get the same
)
