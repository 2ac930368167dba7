"""Which layers to adapt: plain fine-tuning and a KL penalty on all 30 layers, on the last 10, and on one.

selgen sweep run layers_small

The layers below the lowest adapted one are computed once for all trials, so the three differ in cost: see the seconds
in `selgen frontier`. The single layer is the one that `settings.gcd_sycophancy.small` examined before any method had
been run on it.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

LAYERS = ["all", "last 10", "24"]

sweep = Sweep(
    name="layers_small",
    settings=(setting("gcd_sycophancy", scale="small", claims_per_topic=5, reworded=False),),
    methods=(
        grid("plain", layers=LAYERS),
        grid("kl_penalty", beta=[10.0, 100.0, 1000.0], layers=LAYERS),
    ),
    seeds=3,
    controls=False,  # layers are compared, not methods
)
