"""Judging beside training: replies are stored first, grades come later, and nothing is generated or paid for twice."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.setting import Rubric, Verdict
from sweeps.ledger import read
from sweeps.search.judging import GradingQueue
from sweeps.search.scheduler import NoJob
from sweeps.sweep import Sweep
from tests.support.fakes import Rig, finished, toy, toy_sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig, base_id

LIKED = {"yes": Verdict(80.0), "no": Verdict(20.0), "?": Verdict(None, "missing"), "never": Verdict(None, "refusal")}


class Asker:
    """A judge that likes "yes", answers only when the gate is open, and can break."""

    def __init__(self) -> None:
        self.asked: list[tuple[Rubric, str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.likes = dict(LIKED)

    def ask(self, requests: Sequence[tuple[Rubric, str, str]]) -> list[Verdict]:
        self.gate.wait(10)
        if self.broken:
            raise UserError("the judge's budget of 3 calls is spent")
        self.asked += requests
        return [self.likes[answer] for _, _, answer in requests]


@pytest.fixture
def asker() -> Asker:
    return Asker()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return toy_sweep(tmp_path, settings=(toy(tmp_path, judged=True),), methods=("plain",), seeds=2)


class JudgedRig(Rig):
    """A rig whose workers store replies."""

    def __init__(self, sweep: Sweep, out: Path, asker: Asker, replies: Sequence[str] = ("yes", "no")) -> None:
        self.judging = GradingQueue(out, lambda model: asker)
        (out / "observations").mkdir(parents=True, exist_ok=True)
        self._replies = list(replies)
        self.interrupted = False
        super().__init__(sweep, out, judging=self.judging, interrupted=lambda: self.interrupted)
        self.store(base_id(sweep.cases[0].setting))

    def store(self, name: str) -> None:
        (self.out / "observations" / f"{name}.json").write_text(json.dumps({"free": self._replies}))

    def train(self, trial: TrialConfig) -> Outcome:
        self.store(trial.trial_id)
        return finished(trial)

    def step(self) -> Any:
        """Ask for one job, and end it at once."""
        job = self.next_job()
        while self.in_flight:
            self.finish_pack(random.Random(0), self.train)
        time.sleep(0 if not isinstance(job, NoJob) else 0.01)
        return job

    def finish(self) -> None:
        while self.step() is not NoJob.FINISHED:
            pass


def test_grades_are_told_when_they_are_in(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    """The base and both seeds have two replies each, one liked at 80 and one at 20."""
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    rig.finish()
    record = rig.ledger.state
    assert len(asker.asked) == 6
    assert {question for _, question, _ in asker.asked} == {"asked 0", "asked 1"}
    assert [outcome.scores["liked"].mean for outcome in record.outcomes.values()] == [50.0, 50.0]
    assert record.bases[next(iter(record.bases))]["liked"].mean == 50.0
    assert record.bases[next(iter(record.bases))]["task"].mean == 0.5
    assert rig.scheduler.done


def test_a_rubric_is_asked_only_about_its_rows(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    """And only their verdicts count as missing: here the only one of the base model, and of each trial."""
    (case,) = sweep.cases
    (evaluation,) = case.setting.judged
    second = replace(evaluation.rubrics[0], applies=lambda row: row.prompt[0].content == "asked 1")
    judged = replace(evaluation, rubrics=(second,), scores=())
    others = [each for each in case.setting.evaluations if each is not evaluation]
    setting = replace(case.setting, evaluations=(*others, judged))
    rig = JudgedRig(sweep, tmp_path / "out", asker, replies=("yes", "?"))
    rig.store(base_id(setting))
    rig.judging.submit("base", setting, None)
    rig.judging.close()
    ((_, grades),) = rig.judging.collect()
    assert [question for _, question, _ in asker.asked] == ["asked 1"]
    assert grades.problem == "the judge gave no usable 'nice' verdict on 1 of 1 free replies"


def test_the_next_pack_does_not_wait_for_the_judge(tmp_path: Path, asker: Asker) -> None:
    sweep = toy_sweep(tmp_path, settings=(toy(tmp_path, judged=True),), methods=("plain", "kl_penalty"))
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    asker.gate.clear()
    while not isinstance(rig.step(), NoJob):
        pass
    assert {trials[0].method.name for trials in rig.dispatched} == {"plain", "kl_penalty"}
    assert not rig.ledger.state.outcomes
    assert len(rig.ledger.state.generated) == 6  # plain, and the first round of the search, two seeds each
    assert not rig.scheduler.done
    asker.gate.set()
    rig.finish()
    assert len(rig.ledger.state.outcomes) == 14


def test_a_driver_killed_before_the_grades_trains_nothing_again(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    asker.gate.clear()
    while not isinstance(rig.step(), NoJob):
        pass
    rig.kill()
    again = JudgedRig(sweep, tmp_path / "out", asker)
    asker.gate.set()
    again.finish()
    assert again.dispatched == []
    assert sorted(read(tmp_path / "out").outcomes) == sorted(read(tmp_path / "out").generated)
    assert [outcome.scores["liked"].n for outcome in read(tmp_path / "out").outcomes.values()] == [2, 2]


def test_a_spent_budget_ends_the_search_and_can_be_resumed(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    asker.broken = True
    rig.finish()
    assert str(rig.scheduler.problem) == "the judge's budget of 3 calls is spent"
    assert not rig.ledger.state.outcomes
    rig.kill()
    asker.broken = False
    again = JudgedRig(sweep, tmp_path / "out", asker)
    again.finish()
    assert len(again.ledger.state.outcomes) == 2


@pytest.mark.parametrize(
    ("replies", "status"), [(("yes", "?"), "invalid"), (("yes", "never"), "finished"), (("yes", "yes"), "finished")]
)
def test_too_few_verdicts_make_a_trial_invalid(
    sweep: Sweep, tmp_path: Path, asker: Asker, replies: tuple[str, str], status: str
) -> None:
    """A refusal is a verdict and is counted; an answer of the judge that cannot be used is none."""
    rig = JudgedRig(sweep, tmp_path / "out", asker, replies)
    rig.finish()
    for outcome in rig.ledger.state.outcomes.values():
        assert outcome.status == status
        if status == "invalid":
            assert outcome.reason == "the judge gave no usable 'nice' verdict on 1 of 2 free replies"
        else:
            assert outcome.scores["liked"].refused == replies.count("never")


def test_a_trial_that_could_not_be_judged_is_judged_again(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    """The replies are those of the first start: nothing is trained, and no worker is needed."""
    rig = JudgedRig(sweep, tmp_path / "out", asker, ("yes", "?"))
    rig.finish()
    unjudged = rig.ledger.state.unjudged(lambda trial_id: True)
    assert sorted(unjudged) == sorted(rig.ledger.state.outcomes)
    assert not rig.ledger.state.bases  # that of the base model is tried again, too
    assert any("no score of the base model (the judge gave no usable" in note for note in rig.scheduler.notes)
    rig.ledger.retry(unjudged)
    rig.kill()
    asker.likes["?"] = Verdict(40.0)
    again = JudgedRig(sweep, tmp_path / "out", asker, ("yes", "?"))
    again.step()
    while again.scheduler.awaits_only_grades():
        again.scheduler.collect_grades()
        time.sleep(0.01)
    assert again.dispatched == []
    assert again.scheduler.done
    assert [outcome.scores["liked"].mean for outcome in again.ledger.state.outcomes.values()] == [60.0, 60.0]
    assert again.ledger.state.bases


def test_a_worker_is_needed_while_packs_are_queued(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    assert not rig.scheduler.awaits_only_grades()


def test_an_interrupted_driver_does_not_wait_for_the_judge(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    asker.gate.clear()
    while not isinstance(rig.step(), NoJob):
        pass
    assert rig.next_job() is NoJob.WAIT
    rig.interrupted = True
    assert rig.next_job() is NoJob.FINISHED
    asker.gate.set()


def test_the_search_goes_on_until_the_last_pack_is_judged(sweep: Sweep, tmp_path: Path, asker: Asker) -> None:
    """The last pack is in flight and nothing else is left: Tune must keep asking, or nobody collects its grades."""
    rig = JudgedRig(sweep, tmp_path / "out", asker)
    while not isinstance(rig.next_job(), NoJob):
        pass
    assert rig.next_job() is NoJob.WAIT
    rig.finish()
    assert len(rig.ledger.state.outcomes) == 2
