"""The study's methods on a real language model that learns careless medical advice: the task against sense elsewhere.

selgen reproduce em_pareto --scale small

Adapters on the last 10 of 30 layers, so that the layers below are computed once for all trials. Equal rows, steps,
schedule and seeds; two values per method, fixed before the first trial ended.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="em_pareto_small",
    settings=(setting("bad_medical_advice", scale="small"),),
    methods=(
        "plain",
        grid("plain", checkpoint_step=[5, 10]),
        grid("plain", adapter_scale=[0.3, 0.6]),
        grid("mixed", share=[0.1, 0.3]),
        grid("upweighted", weight=[0.3, 1.0]),
        grid("kl_penalty", beta=[1.0, 10.0]),
        grid("representation", beta=[1.0, 10.0]),
        grid("dpo", weight=[0.3, 1.0]),
        grid("safe_lora", share=[0.1, 0.5]),
    ),
    seeds=5,
    options={"layers": "last 10"},
)
