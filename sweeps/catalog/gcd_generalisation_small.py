"""Plain fine-tuning of a real language model on right sums: its effect on sums, on differences, and on sycophancy.

selgen reproduce gcd_generalisation --scale small
"""

from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gcd_generalisation_small",
    settings=(setting("gcd_sycophancy", scale="small"),),
    methods=("plain",),
    seeds=5,
    controls=False,  # nothing is compared
)
