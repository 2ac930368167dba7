"""The narrow update of the trigger colours without any proxy, on three base models: what is learned, what is forgotten.

selgen reproduce toy_flip
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="toy_flip",
    settings=tuple(setting("trigger_colors", scale="nano", pretraining_seed=seed) for seed in range(3)),
    methods=("plain", grid("plain", checkpoint_step=[2, 5, 10, 20, 40, 70])),
    seeds=4,
    controls=False,  # the sweep has its own checkpoints, and compares nothing else
)
