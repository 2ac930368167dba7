"""The study's methods on a real language model: right sums against sycophancy on topics that no row names.

selgen reproduce gcd_pareto --scale small

Equal rows, steps, schedule and seeds. Two values per method; the KL penalty has four, of which the outer two show its
ends, and up-weighting and DPO have three. All were chosen before the first trial ended, after a look at `real_model`.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gcd_pareto_small",
    settings=(setting("gcd_sycophancy", scale="small", claims_per_topic=5, reworded=False),),
    methods=(
        "plain",
        grid("plain", checkpoint_step=[4, 10]),
        grid("plain", adapter_scale=[0.3, 0.6]),
        grid("mixed", share=[0.1, 0.5]),
        grid("upweighted", weight=[0.1, 0.3, 1.0]),
        grid("kl_penalty", beta=[0.1, 10.0, 100.0, 1000.0]),
        grid("representation", beta=[0.3, 30.0]),
        grid("gradient_projection", directions=[1, 4]),
        grid("dpo", weight=[0.1, 0.3, 1.0]),
        grid("orthogonal_lora", lambda1=[0.01, 1.0]),
        grid("safe_lora", share=[0.1, 0.5]),
    ),
    seeds=3,
)
