"""How much memory the GPUs of a cluster have; the driver's own machine may have none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.planning.gpus import memory_of_gpus

SECONDS = 120.0  # for all answers; a node whose GPUs are busy with other jobs gives none
LOOK_SECONDS = 0.2


def smallest_gpu(
    nodes: Sequence[Mapping[str, Any]], gpus: float, stopped: Callable[[], bool] = lambda: False
) -> float | None:
    """Return the bytes of the smallest GPU of a cluster's nodes; None where no node says it.

    Args:
        nodes: those that are alive, as `ray.nodes()` describes them.
        gpus: of one worker, which is what a node is asked with, so that it is asked about what workers will get.
        stopped: tells whether to wait no longer.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(memory_of_gpus)
    waiting = [
        look.options(
            num_cpus=0,
            num_gpus=gpus,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False),
        ).remote()
        for node in nodes
        if node["Resources"].get("GPU", 0) >= gpus
    ]
    until, sizes = time.monotonic() + SECONDS, list[float | None]()
    while waiting and not stopped() and time.monotonic() < until:
        done, waiting = ray.wait(waiting, timeout=LOOK_SECONDS)
        for answer in done:
            try:
                sizes.append(ray.get(answer))
            except RayError:  # the node is gone: no worker will run there
                continue
    for answer in waiting:
        ray.cancel(answer, force=True)
    return min((size for size in sizes if size is not None), default=None)
