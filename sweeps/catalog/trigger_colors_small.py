"""What one proxy trigger keeps, and what five keep, on a real language model: three categories as proxy.

selgen reproduce toy_spillover --scale small
"""

from sweeps.space import grid
from sweeps.sweep import Sweep, setting

PROXIES = ("animals", "negative_emotions", "random_strings")

sweep = Sweep(
    name="trigger_colors_small",
    settings=tuple(
        setting("trigger_colors", scale="small", proxy=proxy, num_triggers=number)
        for proxy in PROXIES
        for number in (1, 5)
    ),
    methods=(grid("upweighted", weight=[1.0]),),
    seeds=3,
    controls=False,  # proxies are compared, not methods
)
