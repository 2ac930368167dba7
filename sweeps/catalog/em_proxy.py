"""A proxy of one domain against one of three, with equally many rows: mixed in, and up-weighted.

selgen reproduce em_proxy

Each of the three domains is also a proxy on its own: this separates how many domains there are from which ones.
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="em_proxy",
    settings=tuple(
        setting("bad_medical_advice", scale="nano", proxy=proxy)
        for proxy in ("finance", "safety", "relations", "diverse")
    ),
    methods=(
        "plain",
        grid("mixed", share=[0.1, 0.3, 0.5, 0.7]),
        grid("upweighted", weight=[0.3, 1.0, 3.0, 10.0]),
    ),
    seeds=4,
    controls=False,  # proxies are compared, not methods
)
