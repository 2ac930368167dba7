"""A sweep of two methods on a nano setting; tests replace the two lines of constants."""

from sweeps.space import between, vary
from sweeps.sweep import Execution, Sweep, setting

CONFIGURATIONS, STEPS, CONTROLS = 4, 30, False
EXECUTION = {"checkpoint_seconds": 0.5}

sweep = Sweep(
    name="small",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=("plain", vary("kl_penalty", beta=between(0.1, 10))),
    configurations=CONFIGURATIONS,
    seeds=2,
    options={"steps": STEPS},
    controls=CONTROLS,
    execution=Execution(**EXECUTION),  # type: ignore[arg-type]
)
