"""The best methods of both nano worlds on a real language model that learns careless medical advice.

selgen sweep run methods_small

The methods of `methods_small_gcd`, two values each, by plain and triggered alignment. Adapters on the last 10 of 30
layers.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="methods_small",
    settings=(setting("bad_medical_advice", scale="small"),),
    methods=(
        "plain",
        grid("plain", checkpoint_step=[5, 10]),
        grid("plain", adapter_scale=[0.3, 0.6]),
        grid("gradient_projection", directions=[1, 4]),
        grid("kl_penalty", beta=[1.0, 10.0]),
        grid("two_gradients", weight=[0.3, 3.0]),
        grid("orpo", weight=[0.3, 3.0]),
        grid("dark_experience", alpha=[1.0, 10.0]),
        grid("kl_constraint", epsilon=[0.1, 0.6], eta=[0.1]),
    ),
    seeds=3,
    options={"layers": "last 10"},
)
