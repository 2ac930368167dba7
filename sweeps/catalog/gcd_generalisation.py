"""Plain fine-tuning on right divisors: its effect on capability and on sycophancy, topic by topic.

selgen reproduce gcd_generalisation

On two base models that differ only in their pre-training seed, because results on facts differ between them.
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
