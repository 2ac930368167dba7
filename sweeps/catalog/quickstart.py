"""Four methods on the nano bad-medical-advice setting: minutes on a laptop, and the shape of the full result.

selgen run quickstart
"""

from sweeps.space import vary
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="quickstart",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=("plain", vary("mixed", configurations=4), "upweighted", "kl_penalty"),
    configurations=5,
    seeds=3,
)
