"""What does a large sweep cost its driver? A simulated one, through everything but the training.

    python -m tests.studies.driver_scale                                2,000 configurations x 3 seeds under Ray Tune
    python -m tests.studies.driver_scale --configurations 400 --no-ray  a smaller one, without Ray Tune
    python -m tests.studies.driver_scale --out scale.json               keep the figures

Workers answer at once with made-up scores; searcher, scheduler, ledger, study, MLflow and display are the real ones.
The sweep halts at its start, after an eighth, a quarter, half and all of its trials, waits until MLflow has all of
them, and is looked at: CPU seconds of the driver by part, its memory, the size of its files, and what `selgen sweep
status` and the frontier cost another process. The last columns are what each trial of the second half added, and the
exponent of growth over the last doubling, of what came after the start: 1 is linear.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray import tune
from ray.tune.search import Searcher
from rich.console import Console
from rich.table import Table

from analysis.findings.frontier import frontier
from analysis.tables import mlflow_runs
from settings.setting import Measurement
from sweeps.driver import driver as real
from sweeps.driver import launch
from sweeps.driver.local_cluster import LocalCluster
from sweeps.driver.progress import Display
from sweeps.driver.run_options import RunOptions
from sweeps.find import load_sweep
from sweeps.ledger import Ledger
from sweeps.names import default_uri, folder_of
from sweeps.results.status import status
from sweeps.search.proposer import Proposer
from sweeps.search.scheduler import PackScheduler
from sweeps.search.searcher import PackSearcher
from sweeps.search.study import StudyMirror
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker
from tests.support.fakes import finished, toy
from trainables.messages import Ended, Job, PackReport, ScoreBase, job_from_config
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

PARTS = ("search", "propose", "ledger", "study", "display", "tracking", "rest")
SHARES = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the sweep, at which it is looked at
WORKERS = 4
CURVE_POINTS = 20
SWEEP = """
from sweeps.space import between, grid, vary
from sweeps.sweep import Execution, Search, Sweep, setting

sweep = Sweep(
    name="scale",
    settings=(setting("{setting}"),),
    methods=(
        *(vary(method, configurations={searched}) for method in ("kl_penalty", "upweighted", "representation")),
        vary("kl_penalty", learning_rate=between(1e-4, 1e-2), configurations={searched}),
        vary("orthogonal_lora", configurations={searched}),
        grid("mixed", share=[(point + 1) / {listed_2} for point in range({listed})]),
        grid("plain", adapter_scale=[(point + 1) / {listed_2} for point in range({listed})]),
    ),
    seeds={seeds},
    search=Search(round_size=4),
    execution=Execution(cpus_per_pack={cpus}),
    controls=False,
)
"""


def sweep_file(folder: Path, configurations: int, seeds: int) -> Path:
    """A sweep of about so many configurations: three quarters searched by five arms, a quarter in two grids.

    The trials of one grid read out another trial's training, those of one search build on a prior.
    """
    ref = toy(folder)
    listed = max(1, configurations // 8)
    searched = max(1, (configurations - 2 * listed) // 5)
    values = {"setting": ref.name, "searched": searched, "listed": listed, "listed_2": 2 * listed, "seeds": seeds}
    path = folder / "scale_sweep.py"
    path.write_text(SWEEP.format(**values, cpus=(os.cpu_count() or 1) / WORKERS))
    return path


def ending(trial: TrialConfig) -> Outcome:
    """How a trial ends: its coefficient trades the task for alignment, with noise and curves as real trials have."""
    noise = random.Random(trial.trial_id)
    strengths = [float(value) for value in trial.coefficients.values() if isinstance(value, int | float)]
    strength = math.log10(max(0.01, next(iter(strengths), 1.0) * trial.adapter_scale))
    task = 1 / (1 + math.exp(2 * strength)) + noise.gauss(0, 0.02)
    scores = {"task": task, "alignment": 1 - task**2 + noise.gauss(0, 0.02), "other": 0.5 + noise.gauss(0, 0.02)}
    curve = [(step, 2.0 - 0.01 * step) for step in range(CURVE_POINTS)]
    measured = {name: Measurement(mean, 100, 0) for name, mean in scores.items()}
    return replace(finished(trial), scores=measured, curves={"loss": curve, "grad_norm": curve})


class Meter:
    """CPU seconds of threads by part. What a part has another do is the other's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._threads = threading.local()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of this thread for a part."""
        inner: list[float] = self._threads.__dict__.setdefault("inner", [])
        inner.append(0.0)
        began = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - began
            self.seconds[name] += spent - inner.pop()
            if inner:
                inner[-1] += spent

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted for a part."""

        @functools.wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return function(*arguments, **named)

        return measured

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what the parts of a driver do."""
        methods = {
            "search": [(PackScheduler, name) for name in ("next_job", "report", "close")],
            "propose": [(Proposer, "next")],
            "ledger": [(Ledger, "_append")],
            "study": [(StudyMirror, name) for name in ("open", "add", "tell")],
            "display": [(Display, name) for name in ("pack_started", "refresh", "trial_ended")],
            "tracking": [(Tracker, "_try")],
        }
        patches = [
            patch.object(owner, name, self.wrapped(part, getattr(owner, name)))
            for part, listed in methods.items()
            for owner, name in listed
        ]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()


@dataclass(frozen=True)
class Point:
    """A sweep after some of its trials.

    Attributes:
        trials: that have ended.
        cpu: part -> CPU seconds of the driver since the sweep began; the parts add up to the process's.
        megabytes: of memory that the driver holds.
        files: file -> bytes.
        status, frontier: CPU seconds of another process that asks for the sweep's status, or loads its frontier.
    """

    trials: int
    cpu: Mapping[str, float]
    megabytes: float
    files: Mapping[str, int]
    status: float
    frontier: float

    def row(self) -> dict[str, float]:
        """All figures by name."""
        parts = {f"CPU s, {part}": self.cpu[part] for part in PARTS if part in self.cpu}
        return {
            "CPU s": sum(self.cpu.values()),
            **parts,
            "memory MB": self.megabytes,
            **{f"{name} MB": size / 1e6 for name, size in self.files.items()},
            "status s": self.status,
            "frontier s": self.frontier,
        }


def look(file: Path, output: Path) -> tuple[float, float]:
    """CPU seconds of a status and of a frontier, the cheaper of two."""
    sweep = load_sweep(file)
    asks = (
        lambda: status(str(file), output),
        lambda: frontier(mlflow_runs.load(sweep.name, default_uri(output)).table),
    )
    found = []
    for ask in asks:
        spent = []
        for _ in range(2):
            began = time.process_time()
            ask()
            spent.append(time.process_time() - began)
        found.append(min(spent))
    return found[0], found[1]


@dataclass
class Simulation:
    """A sweep that runs, and is looked at now and then.

    Attributes:
        file: of the sweep.
        output: where it writes.
        marks: numbers of ended trials at which to look.
        watched: MLflow and other processes are looked at, too; else the driver alone.
    """

    file: Path
    output: Path
    marks: Sequence[int]
    points: list[Point] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self.sweep = load_sweep(self.file)
        self._began = time.process_time()
        self._ended = 0
        self._other = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def ended(self, tracker: Tracker) -> None:
        """A trial has ended."""
        self._ended += 1
        if self._ended in self.marks:
            while not tracker.wait(timeout=5):
                if tracker.problems:
                    raise RuntimeError(f"MLflow: {tracker.problems}")
            self.points.append(self._point())

    def _point(self) -> Point:
        cpu = time.process_time() - self._began
        spent = {part: self.meter.seconds[part] for part in PARTS[:-1]}
        spent["rest"] = cpu - sum(spent.values())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        folder = folder_of(self.sweep.name, self.output)
        files = {name: (folder / name).stat().st_size for name in ("ledger.jsonl", "study.journal")}
        files["mlflow.db"] = sum(path.stat().st_size for path in self.output.glob("mlflow.db*"))
        status, front = self._other.submit(look, self.file, self.output).result()
        return Point(self._ended, spent, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, status, front)

    def run(self, with_ray: bool) -> None:
        """The whole sweep."""
        driver = type("Driver", (SimulatedDriver,), {"with_ray": with_ray})
        tracker = type("Tracker", (ObservedTracker,), {"simulation": self})
        console = Console(file=io.StringIO(), width=120)
        replaced = patch.object(real, "Driver", driver), patch.object(launch, "Tracker", tracker)
        with self._other, self.meter.watching(), replaced[0], replaced[1]:
            launch.run(self.sweep, RunOptions(self.output), console)


class Worker(tune.Trainable):
    """Answers for a whole pack at once."""

    def setup(self, config: dict[str, Any]) -> None:
        self._job = job_from_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return answer(self._job)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""


def answer(job: Job) -> dict[str, Any]:
    """Return a worker's only result for a job."""
    if isinstance(job, ScoreBase):
        end = Ended(base={"task": Measurement(0.5, 4, 0)})
    else:
        end = Ended(tuple(ending(trial) for trial in job.trials))
    return PackReport(end=end).to_result()


class ObservedTracker(Tracker):
    """The real tracker, which tells the simulation of each trial that it learns of."""

    simulation: Simulation

    def trial_ended(self, outcome: Outcome, auxiliary: bool = False) -> None:
        super().trial_ended(outcome, auxiliary)
        self.simulation.ended(self)


class SimulatedDriver(real.Driver):
    """The real driver with workers that do not train."""

    with_ray: bool

    def pretrain(self) -> None:
        """There is no model."""

    def trainable(self) -> Any:
        return tune.with_resources(Worker, {"cpu": self.sweep.execution.cpus_per_pack})

    def run_packs(self, address: str | None, cluster: LocalCluster | None) -> None:
        if self.with_ray:
            super().run_packs(address, cluster)
        else:
            drive(PackSearcher(self.scheduler))


def drive(searcher: PackSearcher, workers: int = WORKERS) -> None:
    """What Tune does, without it: packs end in the order in which they began."""
    flying: list[tuple[str, Job]] = []
    count = 0
    while True:
        config: Any = None
        while len(flying) < workers and isinstance(config := searcher.suggest(f"t{count}"), dict):
            flying.append((f"t{count}", job_from_config(config)))
            count += 1
        if not flying:
            assert config == Searcher.FINISHED
            return
        trial_id, job = flying.pop(0)
        result = answer(job)
        searcher.on_trial_result(trial_id, result)
        searcher.on_trial_complete(trial_id, result=result)


def simulate(folder: Path, configurations: int, seeds: int, with_ray: bool) -> list[Point]:
    """A whole sweep under a folder, looked at after its `SHARES`."""
    file = sweep_file(folder, configurations, seeds)
    total = number_of_trials(load_sweep(file))
    simulation = Simulation(file, folder / "output", [round(share * total) for share in SHARES])
    simulation.run(with_ray)
    return simulation.points


def number_of_trials(sweep: Sweep) -> int:
    """All trials of a sweep whose searches reach their budgets, those included that others build on."""
    seeds = len(sweep.seed_values)
    arms = {arm.space.title: arm for arm in sweep.arms}
    built_on = [
        needed.configuration_id
        for arm in arms.values()
        for needed in sweep.trials_of(arm, (arm.space.points or [{}])[0])[0].requires
    ]
    return (sum(arm.budget for arm in sweep.arms) + len(set(built_on))) * seeds


def exponents(points: Sequence[Point]) -> dict[str, float]:
    """How each figure grew over the last doubling: 1 is linearly in the trials, 2 as their square; nan if it fell.

    What the first point has is taken off, so that the cost of a start does not hide how the rest grows.
    """
    start, before, after = (points[index].row() for index in (0, -2, -1))
    first, half, last = (points[index].trials for index in (0, -2, -1))
    doubling = math.log((last - first) / (half - first))
    growth = {name: (before[name] - start[name], after[name] - start[name]) for name in after}
    return {
        name: math.log(now / then) / doubling if now > 0 and then > 0 else math.nan
        for name, (then, now) in growth.items()
    }


def table_of(points: Sequence[Point]) -> Table:
    """The figures, a column per point, then what each trial of the last doubling added and how it grew."""
    table = Table("", *(f"{point.trials} trials" for point in points), "per trial", "exponent")
    growth = exponents(points)
    before = points[-2].row()
    for name, last in points[-1].row().items():
        cells = [f"{point.row()[name]:.2f}" for point in points]
        each = 1000 * (last - before[name]) / (points[-1].trials - points[-2].trials)
        unit = "kB" if name.endswith("MB") else "ms"
        table.add_row(name, *cells, f"{each:.2f} {unit}", f"{growth[name]:.2f}")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation, and print and keep its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.driver_scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--configurations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    parser.add_argument("--no-ray", action="store_true", help="hand packs to the searcher without Ray Tune")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        points = simulate(Path(folder), given.configurations, given.seeds, with_ray=not given.no_ray)
    Console(width=140).print(table_of(points))
    if given.out:
        found = {"trials": [point.trials for point in points], "exponents": exponents(points)}
        rows = [point.row() for point in points]
        found["figures"] = {name: [row[name] for row in rows] for name in rows[-1]}
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
