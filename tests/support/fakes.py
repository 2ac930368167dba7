"""A setting without a model, and results that are a pure function of the trial: what the sweep tests run on."""

import math
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from settings.reference import SettingRef
from settings.setting import Measurement
from sweeps.ledger import Ledger
from sweeps.search.accountant import Accountant
from sweeps.search.scheduler import NoJob, PackScheduler
from sweeps.sweep import Sweep, setting
from trainables.messages import Job, ScoreBase
from trainables.outcome import Cost, Outcome
from trainables.trial import TrialConfig

BASE_SCORES = {"task": Measurement(0.5, 4, 0)}
SOURCES = Path(__file__).parent / "sources"  # files that tests copy
ONE_AT_A_TIME = (os.cpu_count() or 1) / 2 + 0.5  # CPUs of a pack; a second worker would import torch for seconds


def toy(folder: Path, **options: Any) -> SettingRef:
    """A reference to the toy setting, written to `folder`."""
    file = folder / "toy_setting.py"
    if not file.exists():
        shutil.copyfile(SOURCES / "toy_setting.py", file)
    return setting(f"{file}:toy", **options)


def toy_sweep(folder: Path, **changes: Any) -> Sweep:
    """A sweep of two methods on the toy setting."""
    values: dict[str, Any] = {
        "name": "toy-sweep",
        "settings": (toy(folder),),
        "methods": ("plain", "kl_penalty"),
        "configurations": 6,
        "seeds": 2,
        "controls": False,
    }
    return Sweep(**(values | changes))


def finished(trial: TrialConfig, status: Any = "finished") -> Outcome:
    """How `trial` ends: strength trades the task for alignment, and the seed adds a little."""
    strength = math.log10(max(0.01, float(trial.coefficients.get("beta", trial.coefficients.get("weight", 0.01)))))
    task = 1 / (1 + math.exp(2 * strength)) + 0.01 * trial.seed
    scores = {
        "task": Measurement(task, 4, 0),
        "alignment": Measurement(1 - task**2, 4, 0),
        "other": Measurement(0.5, 3, 1),
    }
    if status != "finished":
        return Outcome(trial=trial, status=status, reason="a test wants it")
    curves = {"loss": [(0, 2.0), (4, 1.0 + task)]}
    return Outcome(trial=trial, status="finished", scores=scores, curves=curves, cost=Cost(tokens=100, seconds=0.5))


Ending = Callable[[TrialConfig], Outcome]


class Recorder:
    """An observer that remembers everything."""

    def __init__(self) -> None:
        self.started: list[Sequence[TrialConfig]] = []
        self.bases: dict[str, Mapping[str, Measurement]] = {}
        self.ended: list[Outcome] = []
        self.auxiliary: list[Outcome] = []

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        self.started.append(trials)

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        self.bases[setting] = scores

    def trial_ended(self, outcome: Outcome, auxiliary: bool) -> None:
        (self.auxiliary if auxiliary else self.ended).append(outcome)


class Rig:
    """A sweep with its ledger and scheduler, driven as Tune drives it but without Ray."""

    def __init__(
        self, sweep: Sweep, out: Path, *, account: Callable[[Sweep, Ledger], Accountant] = Accountant, **options: Any
    ) -> None:
        self.sweep, self.out = sweep, out
        self.ledger = Ledger(out, sweep.name, sweep.identity())
        options["account"] = account(sweep, self.ledger)
        self.scheduler = PackScheduler(sweep, self.ledger, out, **options)
        self.dispatched: list[list[TrialConfig]] = []
        self.bases = 0
        self.in_flight: dict[str, Job] = {}
        self._count = 0

    def next_job(self) -> Any:
        """Ask for a job, called "t1", "t2", ..."""
        self._count += 1
        job = self.scheduler.next_job(f"t{self._count}")
        if not isinstance(job, NoJob):
            self.in_flight[f"t{self._count}"] = job
            if isinstance(job, ScoreBase):
                self.bases += 1
            else:
                self.dispatched.append(list(job.trials))
        return job

    def finish_pack(self, rng: random.Random, ending: Ending) -> None:
        """End one pack: a report per trial, the last of them again on completion, as Tune does."""
        name = rng.choice(sorted(self.in_flight))
        job = self.in_flight.pop(name)
        if isinstance(job, ScoreBase):
            self.scheduler.report(name, base=BASE_SCORES)
        else:
            outcomes = [ending(trial) for trial in job.trials]
            for outcome in (*outcomes, outcomes[-1]):
                self.scheduler.report(name, outcomes=[outcome])
        self.scheduler.close(name)

    def score_base(self) -> None:
        """Ask for the first job, which scores the base model, and answer it."""
        assert isinstance(self.next_job(), ScoreBase)
        name = f"t{self._count}"
        del self.in_flight[name]
        self.scheduler.report(name, base=BASE_SCORES)
        self.scheduler.close(name)

    def run(self, rng: random.Random, ending: Ending = finished, workers: int = 3, packs: int = 10**6) -> bool:
        """Work until the end (True) or until so many packs have ended (False)."""
        while True:
            job: Any = None
            while len(self.in_flight) < workers:
                job = self.next_job()
                if isinstance(job, NoJob):
                    break
            if not self.in_flight:
                assert job is NoJob.FINISHED
                return True
            if packs == 0:
                return False
            packs -= 1
            self.finish_pack(rng, ending)

    def kill(self) -> None:
        """Do to the ledger what the operating system does to a killed driver's files."""
        self.ledger.close()
