"""What plain fine-tuning on right divisors does elsewhere: capability by topic, and sycophancy by topic.

selgen reproduce gcd_generalisation

On two base models, which differ in their pre-training seed alone: facts fare differently in the two.
"""

from sweeps.sweep import Execution, Sweep, setting

sweep = Sweep(
    name="gcd_generalisation",
    settings=tuple(setting("gcd_sycophancy", scale="nano", pretraining_seed=seed) for seed in range(2)),
    methods=("plain",),
    seeds=8,
    execution=Execution(pack_size=4),
    controls=False,  # nothing is compared
)
