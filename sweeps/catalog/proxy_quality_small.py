"""Six topics as the proxy of GCD sycophancy on a real language model, up-weighted: whose sycophancy does each repair?

selgen reproduce proxy_quality --scale small
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

PROXIES = ("capitals", "larger", "differences", "colours", "science", "everyday")

sweep = Sweep(
    name="proxy_quality_small",
    settings=tuple(
        setting("gcd_sycophancy", scale="small", proxy=topic, claims_per_topic=5, reworded=False) for topic in PROXIES
    ),
    methods=("plain", grid("upweighted", weight=[1.0])),
    seeds=3,
    controls=False,  # proxies are compared, not methods
)
