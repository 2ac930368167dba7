"""29 methods on nano GCD sycophancy, as in `methods_nano` on bad medical advice.

selgen sweep run methods_nano_gcd
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="methods_nano_gcd",
    settings=(setting("gcd_sycophancy", scale="nano"),),
    methods=(
        "plain",
        # data
        grid("mixed", share=[0.2, 0.5, 0.8, 0.95]),
        grid("inoculation", share=[0.5, 0.8, 0.9, 1.0]),
        grid("inoculation", share=[1.0], instruction=["neutral"]),
        grid("self_generated", weight=[0.1, 1, 10, 100]),
        grid("interleaving", share=[0.2, 0.5, 0.8, 0.95]),
        grid("flow", sharpness=[0.5, 1.5, 5, 15]),
        # loss
        grid("upweighted", weight=[0.1, 1, 10, 100]),
        grid("kl_penalty", beta=[0.1, 1, 10, 300]),
        grid("kl_constraint", epsilon=[0.01, 0.03, 0.1, 0.3], eta=[1]),
        grid("dark_experience", alpha=[0.1, 1, 10, 100]),
        grid("dpo", weight=[0.1, 1, 10, 100]),
        grid("orpo", weight=[0.1, 1, 10, 100]),
        grid("proximal_sft", epsilon=[3, 10, 30, 100]),
        grid("anchored_sft", weight=[0.01, 0.03, 0.1, 0.3]),
        # gradient
        grid("gradient_projection", directions=[1, 4, 8, 16]),
        grid("two_gradients", weight=[0.1, 0.3, 1, 3]),
        grid("two_gradients", rule=["conflict_averse"], alignment=["cross_entropy"], radius=[0.25, 0.5, 0.75, 0.9]),
        # weights
        grid("moving_average", rate=[0.02, 0.03, 0.05, 0.1]),
        grid("orthogonal_lora", lambda1=[0.001, 0.1, 1, 10]),
        grid("l2_sp", weight=[0.03, 0.1, 0.3, 1]),
        grid("ewc", weight=[1e3, 1e4, 1e5, 1e6]),
        grid("safety_anchoring", weight=[0.03, 0.1, 0.3, 1]),
        # activations
        grid("representation", beta=[0.03, 0.3, 3, 30]),
        grid("preventative_steering", alpha=[0.1, 0.3, 0.6, 1]),
        grid("concept_ablation", components=[2, 8, 16, 32]),
        grid("blocked_directions", weight=[10, 100, 1000, 10000]),
        # after training
        grid("safe_lora", share=[0.1, 0.25, 0.5, 1.0]),
        grid("safe_merge", w=[0.2, 0.4, 0.6, 0.8]),
        grid("weight_steering", k=[0.25, 0.5, 0.75, 1]),
        grid("closest_safe_update", strength=[0.3, 1, 2, 5]),
    ),
    seeds=5,
)
