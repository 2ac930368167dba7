"""Longer training with and without a KL penalty: steps x beta on nano bad medical advice.

selgen reproduce em_epochs

An epoch has 15 steps. Every point is a training of its own, whose learning rate decays to zero at its end.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

STEPS = [24, 48, 96, 192, 384]

sweep = Sweep(
    name="em_epochs",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=(grid("plain", steps=STEPS), grid("kl_penalty", beta=[0.1, 0.3, 1.0, 3.0], steps=STEPS)),
    seeds=3,
    controls=False,  # trainings of several lengths are compared, not methods
)
