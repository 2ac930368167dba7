"""How much memory the GPUs of a cluster have. The driver's own machine may have no GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.planning.gpus import memory_of_gpus

SECONDS = 120.0  # for all answers; a node whose GPUs are busy with other jobs may give none
LOOK_SECONDS = 0.2


def smallest_gpu(
    nodes: Sequence[Mapping[str, Any]], need: Mapping[str, float], stopped: Callable[[], bool] = lambda: False
) -> float | None:
    """Return the bytes of the smallest GPU that a worker may get; None if it gets none, or no node answers.

    Args:
        nodes: the live nodes, as `ray.nodes()` describes them.
        need: resources of a worker. The question to a node reserves as many GPUs, so that it sees what a worker will.
        stopped: returns whether to stop waiting.
    """
    gpus = need.get("GPU", 0.0)
    if not gpus:
        return None
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
