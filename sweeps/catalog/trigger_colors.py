"""What one proxy trigger keeps, and what five keep: every category as proxy, with the same number of rows.

selgen sweep run trigger_colors
selgen heatmap trigger_colors --scores "(.*)_unseen" --figure trigger_colors.png
"""

from settings.trigger_colors.full import PROXIES
from sweeps.space import grid
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="trigger_colors",
    settings=tuple(
        setting("trigger_colors", scale="nano", proxy=proxy, num_triggers=number)
        for proxy in PROXIES
        for number in (1, 5)
    ),
    methods=(grid("upweighted", weight=[1.0]),),
    seeds=4,
    controls=False,  # proxies are compared, not methods
)
