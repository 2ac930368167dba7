"""What a pack occupies on a cluster, how many packs run at a time, and what workers need to know."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from settings.base_models import NanoModel
from settings.common.errors import UserError
from sweeps.ledger import Fit
from sweeps.sweep import Sweep
from trainables.messages import WorkerConfig

GIGABYTE = 1e9
UNITS = {"CPU": (1.0, "CPUs"), "GPU": (1.0, "GPUs"), "memory": (GIGABYTE, "GB of memory")}
ROUNDING = 1e-9  # ten times 0.1 of a GPU is one GPU


def resources_of_worker(sweep: Sweep) -> dict[str, float]:
    """Return what each worker of a pack needs, by Ray's names (memory in bytes), without zeros."""
    execution = sweep.execution
    pack = {
        "CPU": execution.cpus_per_pack,
        "GPU": execution.gpus_per_pack,
        "memory": (execution.memory_per_pack or 0) * GIGABYTE,
    }
    return {kind: need / execution.num_workers for kind, need in pack.items() if need}


def this_machine(sweep: Sweep) -> dict[str, float]:
    """Return what this machine has, by Ray's names. A pack on GPUs is planned for a machine that has room for one."""
    execution, cpus = sweep.execution, float(os.cpu_count() or 1)
    if execution.gpus_per_pack:
        return {"CPU": max(cpus, execution.cpus_per_pack), "GPU": execution.gpus_per_pack, "memory": math.inf}
    return {"CPU": cpus, "memory": float(psutil.virtual_memory().total)}


def unused_gpus(sweep: Sweep, number: float) -> str:
    """Say that a sweep leaves GPUs idle, since it does not ask for any; "" if it does, or needs none.

    Args:
        number: of GPUs that there are.
    """
    is_nano = all(isinstance(case.setting.base_model, NanoModel) for case in sweep.cases)
    if not number or sweep.on_gpu or is_nano:
        return ""
    gpus = f"{number:g} GPU{'s' if number != 1 else ''}"
    return f"{gpus} here, none used: execution=Execution(gpus_per_pack=1) gives each pack one"


def gpus_of_this_machine() -> int:
    """Return how many NVIDIA GPUs this machine shows, without asking any of them."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))


def memory_of_worker(sweep: Sweep, nodes: Sequence[Mapping[str, float]], shared: float = 0.0) -> float | None:
    """Return the bytes of main memory that each worker of a pack may use.

    That is what it reserves, or else an equal part of the smallest node; None if Ray does not know its nodes' memory.

    Args:
        shared: bytes of a node that its workers map from the same files.
    """
    need = resources_of_worker(sweep)
    if "memory" in need:
        return need["memory"]
    shares = [
        (node["memory"] - shared) / places for node in nodes if "memory" in node and (places := _places(need, node))
    ]
    return min(shares, default=None)


def packs_at_a_time(sweep: Sweep, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many packs run at a time on nodes with these resources. Raise UserError if not even one does."""
    need = resources_of_worker(sweep)
    places = sum(_places(need, node) for node in nodes)
    num_workers = sweep.execution.num_workers
    if places >= num_workers:
        return places // num_workers
    who = "a pack" if num_workers == 1 else f"each of {num_workers} workers of a pack"
    wants = _listed(need)
    have = " and ".join(_listed({kind: node.get(kind, 0.0) for kind in need}) for node in nodes)
    nodes_have = f"the node{'s have' if len(nodes) > 1 else ' has'} {have}" if nodes else "there is no node"
    raise UserError(f"{who} of sweep {sweep.name!r} needs {wants} on one node, but {nodes_have}")


def worker_config(
    sweep: Sweep, folder: Path, nodes: Sequence[Mapping[str, float]] = (), fit: Fit | None = None, shared: float = 0.0
) -> WorkerConfig:
    """Return what a worker needs to know besides its job.

    Args:
        folder: the sweep's folder.
        nodes: resources of Ray's nodes, by its names.
        fit: the sweep's micro-batches; None means all rows at a time.
        shared: see `memory_of_worker`.
    """
    execution = sweep.execution
    return WorkerConfig(
        folder=folder,
        threads=sweep.execution.threads,
        memory=memory_of_worker(sweep, nodes, shared),
        checkpoint_seconds=execution.checkpoint_seconds,
        rows_per_forward=fit.rows_per_forward if fit else None,
        gradient_checkpointing=execution.gradient_checkpointing,
        cache_references=execution.cache_references,
        num_workers=execution.num_workers,
        sharded=execution.shard_base,
        resources=resources_of_worker(sweep),
    )


def _places(need: Mapping[str, float], node: Mapping[str, float]) -> int:
    """Return how many workers a node has room for."""
    return int(min(node.get(kind, 0.0) / amount for kind, amount in need.items()) + ROUNDING)


def _listed(resources: Mapping[str, float]) -> str:
    amounts = {kind: f"{amount / UNITS[kind][0]:,.2f}".rstrip("0").rstrip(".") for kind, amount in resources.items()}
    return ", ".join(f"{amount} {UNITS[kind][1]}" for kind, amount in amounts.items())
