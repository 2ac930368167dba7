"""Why gradient projection as published stays close to plain fine-tuning, and which variant does not.

selgen sweep run gradient_projection_nano

Projected before or after Adam; along the mean gradient of 8 or 32 proxy rows, or along the gradients of several
parts of them; always, or only in conflict; per factor, or for the whole adapter.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gradient_projection_nano",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(
        "plain",
        grid("gradient_projection", stage=["gradient", "update"], directions=[1], alignment_batch_size=[8]),
        grid("gradient_projection", stage=["gradient", "update"], directions=[1], sign=["conflict"]),
        grid("gradient_projection", stage=["gradient", "update"], directions=[1], scope=["global"]),
        grid("gradient_projection", stage=["gradient", "update"], directions=[1], alignment_batch_size=[32]),
        grid("gradient_projection", stage=["gradient", "update"], directions=[8, 32], alignment_batch_size=[32]),
    ),
    seeds=3,
)
