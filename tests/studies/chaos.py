"""A sweep that is killed at random moments ends as the undisturbed one: same ledger, frontier, studies and MLflow.

    python -m tests.studies.chaos --kills 20 --seed 0             Ray as `selgen sweep run` starts it (half an hour)
    python -m tests.studies.chaos --kills 20 --seed 0 --cluster   two Ray nodes beside it; a killed one is replaced

A nano sweep runs undisturbed once, and then in other folders, where something is killed again and again: a worker, the
driver, a Ray node, Ray's head, the MLflow server. What ends the driver is followed by `selgen sweep resume`. A sweep
that has ended is compared, and the next one is begun until all kills are done. Exit code 1 and a list of differences
if any sweep ends otherwise. The short form, at chosen moments, is tests/test_end_to_end.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from settings.bad_medical_advice import nano as bad_medical_advice
from sweeps.driver.driver import MAX_FAILURES
from sweeps.find import load_sweep
from sweeps.sweep import Sweep
from tests.support.mlflow_server import MlflowServer
from tests.support.search import study_of
from tests.sweeps.driver.test_cluster import ENVIRONMENT, Nodes
from tests.sweeps.tracking.test_writer import dump
from tests.test_end_to_end import alive, command_of, num_outcomes, session_of, start, workers, write_sweep
from trainables.bases.load_base import load_base
from trainables.folder import SweepFolder

LONGEST_CALM = 60.0  # seconds between two kills, at most; about what a start and half of the sweep take
TO_END = 400.0  # seconds that an undisturbed start may take
TO_DIE = 150.0  # seconds; a driver waits a minute for Ray's head to come back
VARYING_TAGS = ("mlflow.note.content", "mlflow.source.name", "mlflow.user")  # of a run, with ids of MLflow or machine
TIMES = ("seconds", "core_hours", "gpu_hours")  # metrics that differ from run to run
Facts = Mapping[str, Any]


def facts(sweep: Sweep, output: Path) -> Facts:
    """What a sweep left behind, without times: two runs of one sweep must agree on all of it."""
    folder = output / sweep.name
    events = [json.loads(line) for line in SweepFolder(folder).ledger.read_text().splitlines()]
    momentary = ("dispatched", "spent")  # when, and how much of it, depends on the moment
    named = [(_name(event), _fact(event)) for event in events if event["event"] not in momentary]
    frontier = json.loads((folder / "frontier.json").read_text())
    for point in frontier["points"]:
        del point["seconds"]
    studies = {arm.key: study_of(folder, f"{sweep.name}/{arm.key}").get_trials() for arm in sweep.arms}
    return dict(named) | {
        "events": sorted(name for name, _ in named),
        "frontier.json": frontier,
        "studies": {key: [(t.state, t.values, t.params, t.user_attrs) for t in some] for key, some in studies.items()},
        "adapters": digests(folder / "adapters", "adapter_model.safetensors"),
        "observations": digests(folder / "observations", "*.json"),
        "mlflow": [_timeless(row) for row in dump(output, sweep)],
    }


def _name(event: Mapping[str, Any]) -> str:
    """What an event is about: a ledger has one of each."""
    if event["event"] == "outcome":
        return f"outcome {json.dumps(event['outcome']['trial'], sort_keys=True)}"
    return " ".join(str(event[key]) for key in ("event", "arm", "number", "setting") if key in event)


def _fact(event: Mapping[str, Any]) -> Any:
    """What an event says."""
    if event["event"] == "outcome":
        cost = {key: value for key, value in event["outcome"]["cost"].items() if not key.endswith("seconds")}
        return event["outcome"] | {"cost": cost}
    return event


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Files below a folder -> hash of their bytes."""
    files = sorted(folder.rglob(pattern))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _timeless(row: Any) -> Any:
    name, status, tags, params, points = row
    kept = [(key, value) for key, value in tags if key not in VARYING_TAGS]
    return name, status, kept, params, sorted(point for point in points if point[0] not in TIMES)


def differences(expected: Facts, found: Facts) -> list[str]:
    """What two sweeps do not agree on, one line each."""
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        one, other = expected.get(key), found.get(key)
        if isinstance(one, list) and isinstance(other, list) and one != other:
            lines += [f"{key}: missing {item}" for item in one if item not in other]
            lines += [f"{key}: too much {item}" for item in other if item not in one]
            lines += [f"{key}: {len(other)} instead of {len(one)}"] if len(one) != len(other) else []
        elif one != other:
            lines.append(f"{key}: {other} instead of {one}")
    return [line if len(line) < 600 else f"{line[:600]}..." for line in lines]


def leftovers(folder: Path) -> list[str]:
    """Files that a finished sweep must not leave."""
    checkpoints = list((folder / "checkpoints").glob("*"))
    return [f"left over: {path.relative_to(folder)}" for path in [*folder.rglob("*.partial"), *checkpoints]]


@dataclass
class Chaos:
    """A sweep's driver, and everything around it that can be killed.

    Attributes:
        sweep_file, output: what is run, and where to.
        server: of MLflow.
        dice: chooses what is killed and when.
        nodes: Ray nodes beside the driver; None lets the driver start Ray.
        kills: kind -> how many.
        resumed: packs that continued from a checkpoint.
        problems: what should not have happened.
    """

    sweep_file: Path
    output: Path
    server: MlflowServer
    dice: random.Random
    nodes: Callable[[], Nodes] | None = None
    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen: list[psutil.Process] = []

    def run(self, kills: int) -> int:
        """Run the sweep to its end, with at most so many kills on the way; how many there were."""
        done = 0
        with self._cluster():
            while True:
                driver = self._start()
                hits = self._disturb(driver, kills - done)
                code = self._end(driver)
                done += len(hits)
                if code == 0 or not hits:
                    self.problems += [f"exit code {code} without a kill"] if code else []
                    self._check_gone()
                    return kills if code else done

    def _disturb(self, driver: subprocess.Popen[str], kills: int) -> list[str]:
        """Kill until the driver ends, or so many times; what was killed."""
        hits: list[str] = []
        while len(hits) < kills and self._calm(driver):
            restarts = sum(kind in ("worker", "node") for kind in hits)
            hits += filter(None, [self._kill(driver, patience=restarts < MAX_FAILURES)])
        return hits

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        self._ray = self.nodes() if self.nodes else None
        self._joined = 0
        try:
            if self._ray:
                self._join()
            yield
        finally:
            if self._ray:
                self._ray.kill("")

    def _join(self) -> None:
        assert self._ray
        self._joined += 1
        self._ray.add(f"node{self._joined}")

    def _start(self) -> subprocess.Popen[str]:
        command = "resume" if SweepFolder(self.output / self.sweep_file.stem).ledger.exists() else "run"
        options = ["--tracking-uri", self.server.uri]
        if self._ray:
            options += ["--address", f"127.0.0.1:{self._ray.port}"]
        return start(self.sweep_file, self.output, command, *options, **ENVIRONMENT)

    def _calm(self, driver: subprocess.Popen[str]) -> bool:
        """Wait for a random time; False when the driver has ended."""
        try:
            driver.wait(self.dice.uniform(0, LONGEST_CALM))
        except subprocess.TimeoutExpired:
            return True
        return False

    def _kill(self, driver: subprocess.Popen[str], patience: bool) -> str:
        """Kill something; what, or "" when it is not there (yet). Without `patience` no pack may be hit again."""
        kinds = ["driver", "head", "mlflow", *(["worker", "node"] if patience else [])]
        kind = self.dice.choice(kinds)
        if kind == "driver":
            driver.kill()
        elif kind == "mlflow":
            self.server.kill()
            time.sleep(self.dice.uniform(0, 10))
            self.server.start()
        elif self._ray and kind == "node":
            self._ray.kill(f"node{self._joined}")
            self._join()
        elif self._ray and kind == "head":
            self._ray.kill("")
            driver.wait(TO_DIE)
            assert self.nodes
            self._ray = self.nodes()
            self._join()
        else:
            victims = self._victims(driver, kind)
            if not victims:
                return ""
            self.dice.choice(victims).kill()
        self.kills[kind] += 1
        say(f"  {time.strftime('%T')} killed {kind}, {num_outcomes(self.output)} outcomes")
        return kind

    def _victims(self, driver: subprocess.Popen[str], kind: str) -> list[psutil.Process]:
        """Processes of a kind: workers of this sweep, or Ray's processes that the driver has started."""
        if kind == "worker":
            return workers(self._below_nodes() if self._ray else session_of(driver))
        program = {"node": "/raylet/raylet", "head": "/gcs/gcs_server"}[kind]
        return [one for one in session_of(driver) if command_of(one).partition(" ")[0].endswith(program)]

    def _below_nodes(self) -> Iterator[psutil.Process]:
        """The processes that the Ray nodes have started."""
        assert self._ray
        raylets = {one.pid for one in psutil.process_iter() if str(self._ray.folder) in command_of(one)}
        return (one for one in psutil.process_iter(["ppid"]) if one.info["ppid"] in raylets)

    def _end(self, driver: subprocess.Popen[str]) -> int:
        """Wait for the driver's end; its exit code. The next one may meet processes that are still dying."""
        self._seen += session_of(driver)
        try:
            shown = "".join(driver.communicate(timeout=TO_END))
            self.resumed += shown.count("continued after")
            if "Traceback" in shown:
                self.problems.append(f"a traceback: {shown}")
        except subprocess.TimeoutExpired:
            self.problems.append(f"the driver was still there after {TO_END:.0f} seconds")
            driver.kill()
            driver.communicate()
        self._seen += session_of(driver)
        return driver.returncode

    def _check_gone(self) -> None:
        """No process of any driver is left; Ray's agents talk to a dead head for a minute."""
        left = alive(self._seen, seconds=90)
        self.problems += [f"still runs: {command_of(one)}" for one in left]
        for one in left:
            one.kill()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def settled(chaos: Chaos, expected: Facts | None) -> Facts:
    """The facts of a sweep that has ended; what is wrong with them becomes a problem."""
    sweep = load_sweep(chaos.sweep_file)
    found = facts(sweep, chaos.output)
    chaos.problems += leftovers(chaos.output / sweep.name)
    if expected is not None:
        chaos.problems += differences(expected, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweeps, say what happened; 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="run Ray nodes beside the driver")
    given = parser.parse_args(arguments)
    load_base(bad_medical_advice().base_model)  # so that no time limit includes pre-training
    root = Path(tempfile.mkdtemp(prefix="selgen-chaos-"))
    file, dice = write_sweep(root, steps=100, controls=True), random.Random(given.seed)
    expected: Facts | None = None
    left, wrong, number, total, resumed = given.kills, 0, 0, Counter[str](), 0
    while expected is None or left > 0:
        (output := root / f"output{number}").mkdir()
        nodes = (lambda n=number: Nodes(root / f"r{n}{time.monotonic_ns() % 10**6}")) if given.cluster else None
        with MlflowServer(output) as server:
            chaos = Chaos(file, output, server, dice, nodes if expected is not None else None)
            began = time.monotonic()
            left -= chaos.run(left if expected is not None else 0)
            found = settled(chaos, expected)
        what = ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.kills.items())) or "nothing"
        say(f"sweep {number}: {num_outcomes(output)} outcomes, {time.monotonic() - began:.0f} s, killed {what}")
        for problem in chaos.problems:
            say(f"  WRONG: {problem}")
        wrong, resumed, total = wrong + len(chaos.problems), resumed + chaos.resumed, total + chaos.kills
        expected, number = expected or found, number + 1
    say(
        f"{sum(total.values())} kills in {number - 1} sweeps, {resumed} packs continued from checkpoints, {wrong} wrong"
    )
    return 1 if wrong or (given.kills >= 20 and not resumed) else 0


if __name__ == "__main__":
    sys.exit(main())
