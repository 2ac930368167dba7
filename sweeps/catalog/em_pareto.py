"""The study's methods on nano bad medical advice, each from near plain to near base: task against alignment elsewhere.

selgen reproduce em_pareto

Equal rows, steps, schedule and seeds, six configurations per method. The grids are wider than the ranges of
`methods_nano`, to show both ends of each method that has both.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="em_pareto",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(
        "plain",
        grid("mixed", share=[0.1, 0.3, 0.5, 0.7, 0.85, 0.95]),
        grid("upweighted", weight=[0.1, 0.3, 1.0, 3.0, 10.0, 100.0]),
        grid("kl_penalty", beta=[0.1, 0.3, 1.0, 30.0, 300.0, 3000.0]),
        grid("representation", beta=[0.3, 3.0, 10.0, 30.0, 300.0, 3000.0]),
        grid("gradient_projection", directions=[1, 8, 32], stage=["gradient"]),
        grid("gradient_projection", directions=[32], stage=["update"], strength=[0.1, 0.3, 1.0]),
        grid("dpo", weight=[0.03, 0.3, 1.0, 3.0, 10.0, 30.0]),
        grid("orthogonal_lora", lambda1=[0.0001, 0.01, 0.1, 1.0, 10.0, 100.0]),
        grid("safe_lora", share=[0.05, 0.1, 0.25, 0.5, 0.75, 1.0]),
    ),
    seeds=3,
    options={"alignment_batch_size": 32},  # gradient projection needs that many, and all methods get the same
)
