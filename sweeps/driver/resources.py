"""What a pack occupies on a cluster, and how many packs run at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from settings.common.errors import UserError
from sweeps.sweep import Sweep

GIGABYTE = 1e9
UNITS = {"CPU": (1.0, "CPUs"), "GPU": (1.0, "GPUs"), "memory": (GIGABYTE, "GB of memory")}
ROUNDING = 1e-9  # ten times 0.1 of a GPU is one GPU


def of_worker(sweep: Sweep) -> dict[str, float]:
    """What each worker of a pack needs, by Ray's names (memory in bytes); nothing that is 0."""
    pack = {
        "CPU": sweep.cpus_per_pack,
        "GPU": sweep.gpus_per_pack,
        "memory": (sweep.memory_per_pack or 0) * GIGABYTE,
    }
    return {kind: need / sweep.num_workers for kind, need in pack.items() if need}


def threads_of_worker(sweep: Sweep) -> int:
    """CPU threads of each worker: as many as it has CPUs to itself, so that all workers together fit the cores."""
    return max(1, int(sweep.cpus_per_pack / sweep.num_workers))


def memory_of_worker(sweep: Sweep, nodes: Sequence[Mapping[str, float]]) -> float | None:
    """Bytes of main memory that each worker of a pack may use: what it reserves, or an equal part of the tightest node.

    None where Ray says nothing of its nodes' memory.
    """
    need = of_worker(sweep)
    if "memory" in need:
        return need["memory"]
    shares = [node["memory"] / places for node in nodes if "memory" in node and (places := _places(need, node))]
    return min(shares, default=None)


def packs_at_a_time(sweep: Sweep, nodes: Sequence[Mapping[str, float]]) -> int:
    """Packs that run at a time on nodes with these resources. Raises UserError when not even one does."""
    need = of_worker(sweep)
    places = sum(_places(need, node) for node in nodes)
    if places >= sweep.num_workers:
        return places // sweep.num_workers
    who = "a pack" if sweep.num_workers == 1 else f"each of {sweep.num_workers} workers of a pack"
    wants = _listed(need)
    have = " and ".join(_listed({kind: node.get(kind, 0.0) for kind in need}) for node in nodes) or "no node"
    raise UserError(f"{who} of sweep {sweep.name!r} needs {wants} on one node, and Ray has {have}")


def _places(need: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers a node has room for."""
    return min(int(node.get(kind, 0.0) / amount + ROUNDING) for kind, amount in need.items())


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount / UNITS[kind][0]:g} {UNITS[kind][1]}" for kind, amount in resources.items())
