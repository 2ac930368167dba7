"""A real language model of 135 M parameters on a laptop: what narrow confirmations do to it, and what prevents it.

selgen sweep run real_model

Two seeds give intervals but no verdicts. The controls are two checkpoints and two scales of plain fine-tuning.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="real_model",
    settings=(setting("gcd_sycophancy", scale="small", claims_per_topic=5, reworded=False),),
    methods=(
        "plain",
        grid("plain", checkpoint_step=[4, 10]),
        grid("plain", adapter_scale=[0.3, 0.6]),
        grid("upweighted", weight=[0.1, 0.3]),
        grid("kl_penalty", beta=[10.0, 100.0]),
        grid("dpo", weight=[0.3, 1.0]),
    ),
    seeds=2,
)
