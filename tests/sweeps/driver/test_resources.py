"""What a pack occupies: whole nodes, shares of a GPU, several workers, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from settings.base_models import TunedModel
from settings.common.errors import UserError
from sweeps.driver import resources
from sweeps.driver.resources import memory_of_worker, packs_at_a_time, resources_of_worker, this_machine, unused_gpus
from sweeps.sweep import Execution
from tests.support.fakes import toy_sweep

GPUS = {"CPU": 32.0, "GPU": 8.0, "memory": 256e9}
CPUS = {"CPU": 2.0, "memory": 24e9}


@pytest.mark.parametrize(
    ("options", "nodes", "packs"),
    [
        ({}, [CPUS], 2),
        ({}, [CPUS, CPUS], 4),
        ({"cpus_per_pack": 1.5}, [CPUS, CPUS], 2),  # half a CPU is left on each node, which is no room for a third
        ({"cpus_per_pack": 0, "gpus_per_pack": 0.1}, [GPUS], 80),
        ({"gpus_per_pack": 2}, [GPUS, CPUS], 4),
        ({"gpus_per_pack": 2, "memory_per_pack": 100}, [GPUS], 2),
        ({"gpus_per_pack": 12, "num_workers": 12, "cpus_per_pack": 12}, [GPUS, GPUS], 1),
        ({"gpus_per_pack": 8, "num_workers": 4}, [GPUS], 1),
        ({"cpus_per_pack": 2, "num_workers": 2}, [CPUS], 1),
    ],
)
def test_packs_at_a_time(tmp_path: Path, options: dict[str, Any], nodes: list[dict[str, float]], packs: int) -> None:
    assert packs_at_a_time(toy_sweep(tmp_path, execution=Execution(**options)), nodes) == packs


@pytest.mark.parametrize(
    ("options", "nodes", "says"),
    [
        (
            {"gpus_per_pack": 1},
            [CPUS],
            "a pack of sweep 'toy-sweep' needs 1 CPUs, 1 GPUs on one node, but the node",
        ),
        ({"cpus_per_pack": 3}, [CPUS, CPUS], "needs 3 CPUs on one node, but the nodes have 2 CPUs and 2 CPUs"),
        ({"memory_per_pack": 30}, [CPUS], "30 GB of memory on one node, but the node has 2 CPUs, 24 GB of memory"),
        ({"cpus_per_pack": 6, "num_workers": 3}, [CPUS, CPUS], "each of 3 workers of a pack"),
        ({}, [], "but there is no node"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, options: dict[str, Any], nodes: list[dict[str, float]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        packs_at_a_time(toy_sweep(tmp_path, execution=Execution(**options)), nodes)


@pytest.mark.parametrize(
    ("options", "nodes", "memory"),
    [
        ({}, [CPUS], 12e9),  # two packs share a node
        ({}, [GPUS, CPUS], 8e9),  # 32 packs on the other
        ({"memory_per_pack": 6}, [CPUS], 6e9),
        ({"memory_per_pack": 6, "num_workers": 2}, [CPUS], 3e9),
        ({"gpus_per_pack": 1}, [GPUS, CPUS], 32e9),  # the node without a GPU has no room for any
        ({}, [{"CPU": 2.0}], None),
        ({}, [], None),
    ],
)
def test_memory_of_a_worker(
    tmp_path: Path, options: dict[str, Any], nodes: list[dict[str, float]], memory: float | None
) -> None:
    assert memory_of_worker(toy_sweep(tmp_path, execution=Execution(**options)), nodes) == memory


def test_threads_fit_the_cores() -> None:
    """A worker has as many threads as CPUs, and one if it only drives a GPU."""
    for options, threads in (
        ({}, 1),
        ({"cpus_per_pack": 8}, 8),
        ({"cpus_per_pack": 8, "num_workers": 4}, 2),
        ({"cpus_per_pack": 0.5, "gpus_per_pack": 0.25}, 1),
    ):
        assert Execution(**options).threads == threads


def test_a_worker_has_its_part(tmp_path: Path) -> None:
    sweep = toy_sweep(
        tmp_path, execution=Execution(cpus_per_pack=8, gpus_per_pack=4, memory_per_pack=64, num_workers=4)
    )
    assert resources_of_worker(sweep) == {"CPU": 2, "GPU": 1, "memory": 16e9}
    assert resources_of_worker(toy_sweep(tmp_path)) == {"CPU": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpus_per_pack": 3, "num_workers": 2}, "gpus_per_pack must be a multiple of num_workers=2"),
        ({"num_workers": 0}, "num_workers must be an integer of at least 1"),
        ({"shard_base": True}, "shard_base distributes the base model over workers, but num_workers is 1"),
        ({"memory_per_pack": -1}, "memory_per_pack must be a number of at least 0"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing must be true or false"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        toy_sweep(tmp_path, execution=Execution(**options))


def test_a_plan_is_for_this_machine_but_for_its_gpus(tmp_path: Path) -> None:
    """Reserved memory counts; a pack on GPUs is planned for a machine that has one, and the memory beside it."""
    reserving = toy_sweep(tmp_path, execution=Execution(memory_per_pack=1e6))
    with pytest.raises(UserError, match=r"needs 1 CPUs, 1,000,000 GB of memory on one node, but the node has"):
        packs_at_a_time(reserving, [this_machine(reserving)])
    on_gpu = toy_sweep(tmp_path, execution=Execution(memory_per_pack=1e6, gpus_per_pack=1, cpus_per_pack=1000))
    assert packs_at_a_time(on_gpu, [this_machine(on_gpu)]) == 1


def test_gpus_that_nothing_uses_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of nano models, which train on the CPU, nor of a sweep that asks for GPUs."""
    sweep, asking = toy_sweep(tmp_path), toy_sweep(tmp_path, execution=Execution(gpus_per_pack=1))
    assert unused_gpus(sweep, 2) == ""
    monkeypatch.setattr(resources, "NanoModel", TunedModel)  # the toy's is none of these
    assert unused_gpus(sweep, 2) == "2 GPUs here, none used: execution=Execution(gpus_per_pack=1) gives each pack one"
    assert unused_gpus(sweep, 1).startswith("1 GPU here,")
    assert (unused_gpus(sweep, 0), unused_gpus(asking, 2)) == ("", "")
