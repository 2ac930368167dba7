"""What plain fine-tuning on right divisors does elsewhere: capability by topic, and sycophancy by topic.

selgen reproduce gcd_generalisation
"""

from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="gcd_generalisation",
    settings=(setting("gcd_sycophancy", scale="nano"),),
    methods=("plain",),
    seeds=8,
    pack_size=4,
)
