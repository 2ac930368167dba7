"""The study's methods on nano GCD sycophancy, each from near plain to near base: capability against sycophancy.

selgen reproduce gcd_pareto

Equal rows, steps, schedule and seeds, six configurations per method.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gcd_pareto",
    settings=(setting("gcd_sycophancy", scale="nano"),),
    methods=(
        "plain",
        grid("mixed", share=[0.05, 0.2, 0.4, 0.6, 0.8, 0.95]),
        grid("upweighted", weight=[0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]),
        grid("kl_penalty", beta=[0.01, 0.1, 1.0, 10.0, 300.0, 3000.0]),
        grid("representation", beta=[0.003, 0.03, 0.3, 3.0, 30.0, 1000.0]),
        grid("gradient_projection", directions=[1, 4, 16], stage=["gradient"]),
        grid("gradient_projection", directions=[16], stage=["update"], strength=[0.1, 0.3, 1.0]),
        grid("dpo", weight=[0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]),
        grid("orthogonal_lora", lambda1=[0.0001, 0.01, 0.1, 1.0, 10.0, 100.0]),
        grid("safe_lora", share=[0.05, 0.1, 0.25, 0.5, 0.75, 1.0]),
    ),
    seeds=5,
)
