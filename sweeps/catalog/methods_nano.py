"""29 methods on the nano bad-medical-advice setting: equal task rows, order, steps and schedule.

selgen sweep run methods_nano

Four values of each method's knob, where possible from near plain fine-tuning to near the base model; also the neutral
arm of inoculation, and CAGrad beside SafeGrad. `methods_nano_gcd` has the same on the other setting.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="methods_nano",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(
        "plain",
        grid("plain", adapter_scale=[0.2, 0.4, 0.6, 0.8]),
        # data
        grid("mixed", share=[0.3, 0.5, 0.65, 0.75]),
        grid("inoculation", share=[0.5, 0.8, 0.9, 1.0]),
        grid("inoculation", share=[1.0], instruction=["neutral"]),
        grid("self_generated", weight=[0.3, 1, 3, 10]),
        grid("interleaving", share=[0.3, 0.45, 0.6, 0.75]),
        grid("flow", sharpness=[0.5, 1.5, 5, 15]),
        # loss
        grid("upweighted", weight=[0.3, 1, 3, 10]),
        grid("kl_penalty", beta=[0.2, 0.5, 2, 10]),
        grid("kl_constraint", epsilon=[0.1, 0.3, 0.6, 1.0], eta=[0.1]),
        grid("dark_experience", alpha=[1, 2, 4, 10]),
        grid("dpo", weight=[0.1, 0.5, 2, 10]),
        grid("orpo", weight=[0.2, 0.5, 2, 10]),
        grid("proximal_sft", epsilon=[3, 10, 30, 100]),
        grid("anchored_sft", weight=[0.01, 0.1, 0.3, 1]),
        # gradient
        grid("gradient_projection", directions=[1, 4, 12, 32]),
        grid("two_gradients", weight=[0.1, 0.3, 1, 3]),
        grid("two_gradients", rule=["conflict_averse"], alignment=["cross_entropy"], radius=[0.25, 0.5, 0.75, 0.9]),
        # weights
        grid("moving_average", rate=[0.025, 0.03, 0.035, 0.045]),
        grid("orthogonal_lora", lambda1=[0.001, 0.05, 0.5, 5]),
        grid("l2_sp", weight=[0.1, 0.2, 0.4, 1]),
        grid("ewc", weight=[1e4, 1e5, 3e5, 1e6]),
        grid("safety_anchoring", weight=[0.1, 0.2, 0.5, 1]),
        # activations
        grid("representation", beta=[1, 5, 20, 80]),
        grid("preventative_steering", alpha=[0.3, 0.6, 0.8, 1]),
        grid("concept_ablation", components=[2, 8, 16, 32]),
        grid("blocked_directions", weight=[10, 100, 1000, 10000]),
        # after training
        grid("safe_lora", share=[0.1, 0.25, 0.5, 1.0]),
        grid("safe_merge", w=[0.4, 0.5, 0.6, 0.7]),
        grid("weight_steering", k=[0.5, 0.65, 0.8, 1]),
        grid("closest_safe_update", strength=[1, 1.4, 1.8, 2.5]),
    ),
    seeds=5,
    options={"alignment_batch_size": 32},  # gradient projection needs that many, and all methods get the same
)
