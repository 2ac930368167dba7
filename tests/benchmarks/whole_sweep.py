"""A whole sweep against what a user would write: wall time, time to the first step, what the driver costs.

Both sides are subprocesses, started in turns, with the base model in the cache. Their trials are the same: the scores
are compared trial by trial.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sweeps.find import load_sweep
from sweeps.ledger import read
from sweeps.names import folder_of
from sweeps.sweep import Sweep
from tests.benchmarks.measure import Result, Spread
from tests.benchmarks.processes import PROBE, ROOT, Watched, watch
from trainables.bases.pretraining import ensure_pretrained
from trainables.folder import SweepFolder
from trainables.outcome import Outcome

GRIDS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "mixed": ("share", (0.1, 0.24, 0.39, 0.6, 0.74)),
    "upweighted": ("weight", (0.1, 0.3, 0.6, 1.0, 3.0, 10.0)),
    "kl_penalty": ("beta", (0.1, 0.2, 0.3, 0.5, 1.0, 5.0)),
    "representation": ("beta", (0.1, 0.5, 1.0, 3.0, 10.0, 50.0)),
}
"""Method -> coefficient and values; with plain fine-tuning, 24 configurations."""

SWEEP = """from sweeps.space import grid
from sweeps.sweep import Execution, Sweep, setting

sweep = Sweep(
    name="benchmark",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=({methods}),
    seeds={seeds},
    options={options!r},
    controls=False,
    execution=Execution(cpus_per_pack={cpus}),
)
"""

CLOSE_CALL = 1e-3
"""Gap of two logits that rounding may turn round: float32 rounds differently in a pack, and greedy decoding goes on
from the other token. A reply that differs without such a call is another reply."""
REPLIES_EQUAL = 0.99  # of all replies, close calls included
SCORES_WITHIN = 0.01  # mean over all trials and scores
LOSSES_WITHIN = 1e-3  # of the largest gap between loss curves, relative


@dataclass(frozen=True)
class Plan:
    """What is run, and how often.

    Attributes:
        share: of the configurations of each method, at least one; 0 is plain fine-tuning alone.
        seeds: of each configuration.
        options: of the recipe, e.g. steps.
        cpus: of a pack.
        ours: repetitions of our side.
        theirs: repetitions of each baseline; 0 leaves them out.
        reusing: whether baseline (b) runs, too.
        starts: sweeps that are only started, for the time to the first step.
    """

    share: float = 1.0
    seeds: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1
    ours: int = 3
    theirs: int = 1
    reusing: bool = True
    starts: int = 3


def sweep_text(plan: Plan) -> str:
    """The sweep file: a fixed list of configurations, so that both sides have the same."""
    methods = ['"plain"']
    for method, (coefficient, values) in GRIDS.items():
        kept = list(values[:: max(1, round(1 / plan.share))]) if plan.share else []
        methods += [f'grid("{method}", {coefficient}={kept})'] if kept else []
    return SWEEP.format(
        methods="".join(f"{each}, " for each in methods), seeds=plan.seeds, options=dict(plan.options), cpus=plan.cpus
    )


class Contest:
    """One sweep file in a folder, run by either side as often as wanted."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self._count = plan, folder, 0
        self.file = folder / "benchmark.py"
        self.file.write_text(sweep_text(plan))
        self.sweep: Sweep = load_sweep(str(self.file))
        self.setting = self.sweep.cases[0].setting
        self.model = ensure_pretrained(self.setting.base_model)  # type: ignore[arg-type]
        trials = [
            trial
            for arm in self.sweep.arms
            for point in arm.space.points or ({},)
            for trial in self.sweep.trials_of(arm, point)
        ]
        self.trials = {trial.trial_id: trial for trial in trials}
        (folder / "trials.json").write_text(json.dumps([trial.to_json() for trial in trials]))

    def _place(self, name: str) -> Path:
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def ours(self, only_start: bool = False) -> OurRun:
        """`selgen sweep run`, to its end or to its first step."""
        output = self._place("ours")
        steps = output.with_suffix(".steps")
        watched = watch(
            ["sweeps.cli", "sweep", "run", str(self.file), "--output", str(output)],
            output.with_suffix(".log"),
            until=(lambda: bool(_lines(steps))) if only_start else None,
            PYTHONPATH=f"{PROBE}:{ROOT}",
            SELGEN_BENCHMARK_STEPS=str(steps),
        )
        began, ended, _ = min(tuple(map(float, line.split())) for line in _lines(steps))
        return OurRun(watched, folder_of(self.sweep.name, output), began - watched.began, ended - watched.began)

    def theirs(self, reuse_actors: bool) -> TheirRun:
        """The baseline."""
        output = self._place("theirs")
        reuse = ["--reuse-actors"] if reuse_actors else []
        watched = watch(
            ["tests.benchmarks.tuned", str(self.folder / "trials.json"), str(self.model), str(output), *reuse],
            output.with_suffix(".log"),
        )
        found = {path.stem: json.loads(path.read_text()) for path in output.glob("*.json")}
        if found.keys() != self.trials.keys():
            raise RuntimeError(f"{len(found)} of {len(self.trials)} trials ended")
        return TheirRun(watched, found)


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may not be there yet."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []


@dataclass(frozen=True)
class OurRun:
    """A run of ours: its processes, its folder, seconds from its launch to the begin and end of its first step."""

    watched: Watched
    folder: Path
    step_began: float
    step_ended: float

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """Trial id -> how it ended."""
        return read(self.folder).outcomes

    def replies(self, trial_id: str) -> dict[str, list[str]]:
        """Evaluation -> replies of a trial."""
        found: dict[str, list[str]] = json.loads((self.folder / "observations" / f"{trial_id}.json").read_text())
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds by kind; the driver's by phase: up to the first step, up to the last outcome, after that."""
        watched = self.watched
        start = watched.driver_at(watched.began + self.step_began)
        trained = watched.driver_at(SweepFolder(self.folder).ledger.stat().st_mtime)
        driver = watched.cpu["driver"]
        phases = {"driver, start": start, "driver, trials": trained - start, "driver, end": driver - trained}
        return watched.cpu | phases


@dataclass(frozen=True)
class TheirRun:
    """A run of a baseline: its processes, and trial id -> results."""

    watched: Watched
    results: Mapping[str, Mapping[str, Any]]

    @property
    def step_began(self) -> float:
        """Seconds from the launch to the first training step."""
        return min(float(result["first_step_began"]) for result in self.results.values()) - self.watched.began


def compare(ours: OurRun, theirs: TheirRun) -> dict[str, float]:
    """How far the scores, replies and losses of the same trials are apart."""
    gaps, replies, calls, losses, same = [], [], [], [], 0
    for trial_id, outcome in ours.outcomes.items():
        other = theirs.results[trial_id]
        own = {name: score.mean for name, score in outcome.scores.items()}
        apart = [abs(mean - other["scores"][name]["mean"]) for name, mean in own.items()]
        gaps += apart
        same += max(apart) == 0
        for name, said in ours.replies(trial_id).items():
            equal = [one == two for one, two in zip(said, other["replies"][name], strict=True)]
            replies += equal
            calls += differing(equal, other["closest_calls"][name])
        losses.append(curve_gap(outcome.curves["loss"], other["losses"]))
    return {
        "max_score_difference": max(gaps),
        "mean_score_difference": fmean(gaps),
        "equal_trials": same / len(ours.outcomes),
        "equal_replies": fmean(replies),
        "widest_call_of_others": max(calls, default=0.0),
        "max_relative_loss_difference": max(losses),
    }


def differing(equal: Sequence[bool], closest_calls: Sequence[float]) -> list[float]:
    """The closest calls of the replies that are not equal."""
    return [call for same, call in zip(equal, closest_calls, strict=True) if not same]


def curve_gap(curve: Sequence[tuple[int, float]], losses: Sequence[float]) -> float:
    """The largest relative gap between a thinned curve, whose points are means since the last one, and all losses."""
    gaps, before = [], 0
    for step, value in curve:
        mean = fmean(losses[before:step])
        gaps.append(abs(value - mean) / max(abs(mean), 1e-3))
        before = step
    return max(gaps)


def check(found: Mapping[str, float]) -> None:
    """Refuse to speak of speed where the results differ. Raise AssertionError."""
    assert found["widest_call_of_others"] <= CLOSE_CALL, found
    assert found["equal_replies"] >= REPLIES_EQUAL, found
    assert found["mean_score_difference"] <= SCORES_WITHIN, found
    assert found["max_relative_loss_difference"] <= LOSSES_WITHIN, found


def measure(plan: Plan) -> list[Result]:
    """All goals that speak of a whole sweep; those that need a baseline only if there is one."""
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        contest = Contest(plan, Path(folder))
        rounds = max(plan.ours, plan.theirs)
        ours: list[OurRun] = []
        theirs: dict[bool, list[TheirRun]] = {False: [], True: []}
        starts: list[OurRun] = []
        for number in range(max(rounds, plan.starts)):
            ours += [contest.ours()] if number < plan.ours else []
            if number < plan.theirs:
                theirs[False].append(contest.theirs(reuse_actors=False))
                theirs[True] += [contest.theirs(reuse_actors=True)] if plan.reusing else []
            starts += [contest.ours(only_start=True)] if number < plan.starts else []
        results = [_first_step(ours + starts, theirs)] if ours or starts else []
        if ours:
            results.append(_overhead(ours))
        for reusing, name in ((False, "sweep_speedup"), (True, "sweep_speedup_b")):
            if ours and theirs[reusing]:
                results.append(_speedup(name, contest, ours, theirs[reusing]))
        return results


def _speedup(name: str, contest: Contest, ours: Sequence[OurRun], theirs: Sequence[TheirRun]) -> Result:
    equality = compare(ours[0], theirs[0])
    check(equality)
    ratios = [their.watched.seconds / own.watched.seconds for their in theirs for own in ours]
    details = {
        "trials": len(contest.trials),
        "our_wall_s": [own.watched.seconds for own in ours],
        "their_wall_s": [their.watched.seconds for their in theirs],
        "our_cpu_s": [own.watched.cpu for own in ours],
        "their_cpu_s": [their.watched.cpu for their in theirs],
        "equality": equality,
    }
    which = "(b), the same with reuse_actors" if name.endswith("_b") else "(a), a Tune function per trial"
    return Result(name, f"wall time of {which}, over ours", Spread.of(ratios), 5.0, True, details)


def _first_step(ours: Sequence[OurRun], theirs: Mapping[bool, Sequence[TheirRun]]) -> Result:
    details = {
        "to_its_begin_s": [own.step_began for own in ours],
        "their_s": {("b" if reusing else "a"): [run.step_began for run in runs] for reusing, runs in theirs.items()},
    }
    spread = Spread.of(own.step_ended for own in ours)
    what = "seconds from `selgen sweep run` to the end of the first step, warm cache"
    return Result("first_step_s", what, spread, 8.0, False, details)


def _overhead(ours: Sequence[OurRun]) -> Result:
    """The driver's process holds the searcher, the ledger, the study, MLflow and the display."""
    cpu = [own.cpu() for own in ours]
    total = [sum(own.watched.cpu.values()) for own in ours]
    share = Spread.of(each["driver"] / whole for each, whole in zip(cpu, total, strict=True))
    steady = Spread.of(each["driver, trials"] / whole for each, whole in zip(cpu, total, strict=True))
    trials = [len(own.outcomes) for own in ours]
    each_trial = Spread.of(1000 * each["driver, trials"] / count for each, count in zip(cpu, trials, strict=True))
    details = {
        "cpu_s": cpu,
        "total_cpu_s": total,
        "share_while_training": steady.value,
        "driver_ms_per_trial": each_trial.value,
        "trials": trials,
    }
    what = "CPU time of the driver (imports, search, ledger, MLflow, files) over that of all processes"
    return Result("overhead_share", what, share, 0.02, False, details)
