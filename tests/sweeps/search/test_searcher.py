"""The searcher under a real Tuner: every trial ends once, whatever its worker does, and runs agree."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.search import Searcher

from settings.setting import Measurement
from sweeps.driver.local_cluster import QUIET
from sweeps.ledger import Ledger, LedgerState, read
from sweeps.search.scheduler import PackScheduler
from sweeps.search.searcher import PackSearcher
from sweeps.space import grid, vary
from sweeps.sweep import Sweep
from tests.conftest import ROOT
from tests.support.fakes import Rig, finished, toy_sweep
from trainables.messages import (
    Ended,
    Failed,
    OutOfMemory,
    PackEnd,
    PackReport,
    ScoreBase,
    TrainPack,
    UserProblem,
    job_from_config,
    to_config,
)

DEADLY, UNSTABLE = 13.0, 7.0  # weights at which the fake worker dies, or one seed diverges


def result_of(end: PackEnd) -> dict[str, Any]:
    """What Tune passes on when a job ended."""
    return PackReport(end=end).to_result()


class Worker(tune.Trainable):
    """A worker that reports one trial per step, after a nap of random length."""

    def setup(self, config: dict[str, Any]) -> None:
        self._job = job_from_config(config)
        self._done = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(random.Random(os.urandom(4)).uniform(0, 0.1))
        if isinstance(self._job, ScoreBase):
            return PackReport(end=Ended(base={"task": Measurement(0.5, 4, 0)})).to_result()
        trials = self._job.trials
        trial = trials[self._done]
        self._done += 1
        if trial.coefficients.get("weight") == DEADLY and self._done == 2:
            os._exit(1)
        unstable = trial.coefficients.get("weight") == UNSTABLE and trial.seed == 1
        outcome = finished(trial, "invalid" if unstable else "finished")
        return result_of(Ended((outcome,))) | {"done": self._done == len(trials)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster with the environment of a local one of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (QUIET | {"PYTHONPATH": str(ROOT)}).items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def run(sweep: Sweep, out: Path) -> LedgerState:
    with Ledger(out, sweep.name, sweep.identity()) as ledger:
        scheduler = PackScheduler(sweep, ledger, out)
        tuner = tune.Tuner(
            tune.with_resources(Worker, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=PackSearcher(scheduler),
                num_samples=-1,
                max_concurrent_trials=2,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="ray", storage_path=str(out), verbose=0),
        )
        tuner.fit()
        assert scheduler.problem is None
    return read(out)


@pytest.mark.slow
def test_a_sweep_under_tune(tmp_path: Path, cluster: None) -> None:
    methods = ("plain", vary("kl_penalty", configurations=5), grid("upweighted", weight=[1, UNSTABLE, DEADLY]))
    sweep = toy_sweep(tmp_path, methods=methods)
    record, again = run(sweep, tmp_path / "one"), run(sweep, tmp_path / "two")
    assert len(record.outcomes) == (1 + 5 + 3) * 2
    assert record.outcomes.keys() == again.outcomes.keys(), "two runs of one sweep must agree on their trials"
    assert record.bases == {"toy": {"task": Measurement(0.5, 4, 0)}}
    statuses = {
        (outcome.trial.coefficients.get("weight"), outcome.trial.seed): outcome.status
        for outcome in record.outcomes.values()
    }
    odd = {(UNSTABLE, 1): "invalid", (DEADLY, 0): "finished", (DEADLY, 1): "failed"}
    assert statuses == {key: odd.get(key, "finished") for key in statuses}
    lines = (tmp_path / "one" / "ledger.jsonl").read_text().splitlines()
    lasting = [line for line in lines if '"event":"spent"' not in line]
    assert len(lasting) == 1 + 9 + 9 + 1 + 18, "header, asked, dispatched, base, outcomes: each once"
    assert (
        record.account.spent.core_hours > 0 and record.account.spent.tokens == 100 * 16
    )  # two have ended without a cost
    assert run(sweep, tmp_path / "one").outcomes == record.outcomes, "a finished sweep has nothing to do"


@ray.remote
def visible_gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.slow
def test_a_worker_sees_the_gpus_that_it_has_asked_for(cluster: None) -> None:
    """A worker without a GPU sees none: CUDA alone would take half a gigabyte of a GPU that others fill."""
    shares = (0, 0.5, 1, 2)
    visible = [ray.get(visible_gpus.options(num_cpus=0, num_gpus=share).remote()) for share in shares]
    assert visible[0] == ""
    assert visible[1] in ("0", "1") and visible[2] in ("0", "1")
    assert visible[3] in ("0,1", "1,0")


# --- what Tune's results become, without Tune ---


@pytest.fixture()
def rig(tmp_path: Path) -> Rig:
    """Put a base model and a pack of two trials in flight, as "t1" and "t2"."""
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.next_job(), rig.next_job()
    return rig


def test_base_scores_reach_the_ledger(rig: Rig) -> None:
    result = result_of(Ended(base={"task": Measurement(0.25, 4, 0)}))
    PackSearcher(rig.scheduler).on_trial_complete("t1", result=result)
    assert rig.ledger.state.bases == {"toy": {"task": Measurement(0.25, 4, 0)}}


def test_a_report_of_progress_ends_nothing(rig: Rig) -> None:
    searcher = PackSearcher(rig.scheduler)
    searcher.on_trial_result("t2", PackReport(steps_done=1, num_steps=5, note="continued").to_result())
    searcher.on_trial_result("t2", {"training_iteration": 1})
    assert not rig.ledger.state.outcomes and not rig.scheduler.problem


def test_what_a_worker_reports_reaches_the_ledger(rig: Rig) -> None:
    """Tune passes the last result on twice."""
    searcher = PackSearcher(rig.scheduler, reason=lambda trial_id: f"{trial_id} had a bad day")
    first, second = rig.dispatched[0]
    searcher.on_trial_result("t2", result_of(Ended((finished(first),))))
    searcher.on_trial_complete("t2", result=result_of(Ended((finished(first),))), error=True)
    ends = rig.ledger.state.outcomes
    assert [(end.status, end.reason) for end in ends.values()] == [("finished", None), ("failed", "t2 had a bad day")]
    assert list(ends) == [first.trial_id, second.trial_id]


def test_a_pack_that_is_out_of_memory_comes_back_in_halves(rig: Rig) -> None:
    searcher = PackSearcher(rig.scheduler)
    assert searcher.suggest("t3") is None
    searcher.on_trial_complete("t2", result=result_of(OutOfMemory("CUDA out of memory")))
    halves = [searcher.suggest(name) for name in ("t4", "t5")]
    assert halves == [to_config(TrainPack((trial,), pause_after=(None,))) for trial in rig.dispatched[0]]


def test_a_pack_whose_code_raised_has_failed(rig: Rig) -> None:
    PackSearcher(rig.scheduler).on_trial_complete("t2", result=result_of(Failed("ValueError: no")))
    assert {end.reason for end in rig.ledger.state.outcomes.values()} == {"ValueError: no"}


def test_what_only_the_user_can_put_right_ends_the_search(rig: Rig) -> None:
    searcher = PackSearcher(rig.scheduler)
    searcher.on_trial_result("t2", result_of(UserProblem("no such model")))
    assert str(rig.scheduler.problem) == "no such model"
    assert searcher.suggest("t3") == Searcher.FINISHED


def test_an_outcome_of_other_training_code_ends_the_search(rig: Rig) -> None:
    report = PackReport(end=Ended((finished(rig.dispatched[0][0]),))).to_json()
    report["end"]["outcomes"][0]["trial"]["numerics"] = 0
    PackSearcher(rig.scheduler).on_trial_result("t2", {"report": json.dumps(report)})
    assert "numerics version 0" in str(rig.scheduler.problem)
    assert not rig.ledger.state.outcomes
