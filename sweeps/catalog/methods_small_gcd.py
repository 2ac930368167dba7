"""The best methods of both nano worlds on a real language model: sums against sycophancy, plain and triggered.

selgen sweep run methods_small_gcd

Chosen within each group by rank in the two tables of `trainables/README.md`, summed over both worlds, by the product
that these tables use: gradient_projection and kl_penalty (which ties with upweighted) of the study's methods;
two_gradients (SafeGrad), orpo, dark_experience and kl_constraint of the others. Two values each, fixed before the first
trial ended.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="methods_small_gcd",
    settings=(setting("gcd_sycophancy", scale="small", claims_per_topic=5, reworded=False),),
    methods=(
        "plain",
        grid("plain", checkpoint_step=[4, 10]),
        grid("plain", adapter_scale=[0.3, 0.6]),
        grid("gradient_projection", directions=[1, 4]),
        grid("kl_penalty", beta=[10.0, 100.0]),
        grid("two_gradients", weight=[0.1, 1.0]),
        grid("orpo", weight=[0.1, 1.0]),
        grid("dark_experience", alpha=[1.0, 10.0]),
        grid("kl_constraint", epsilon=[0.03, 0.3], eta=[1.0]),
    ),
    seeds=3,
)
