"""Each topic as the proxy of nano GCD sycophancy, up-weighted: which topic's sycophancy does it repair?

selgen reproduce proxy_quality
"""

from settings.gcd_sycophancy.world import TOPICS
from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="proxy_quality",
    settings=tuple(setting("gcd_sycophancy", scale="nano", proxy=topic) for topic in TOPICS),
    methods=("plain", grid("upweighted", weight=[1.0])),
    seeds=5,
    controls=False,  # proxies are compared, not methods
)
