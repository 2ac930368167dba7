"""The narrow update of the trigger colours without any proxy, on a real language model that was taught the function.

selgen reproduce toy_flip --scale small
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="toy_flip_small",
    settings=(setting("trigger_colors", scale="small"),),
    methods=("plain", grid("plain", checkpoint_step=[5, 10, 20, 30])),
    seeds=3,
    controls=False,  # the sweep has its own checkpoints, and compares nothing else
)
