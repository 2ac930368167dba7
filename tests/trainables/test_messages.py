"""What driver and worker say to each other comes through JSON as it was, every kind and every field."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.utils import flatten_dict

from settings.common.errors import UserError
from settings.reference import SettingRef
from settings.setting import Measurement
from trainables import methods
from trainables.messages import (
    Activity,
    ActivityFile,
    Ended,
    Failed,
    Job,
    OutOfMemory,
    PackEnd,
    PackReport,
    ScoreBase,
    TrainPack,
    UserProblem,
    WorkerConfig,
    job_from_config,
    to_config,
    worker_from_config,
)
from trainables.outcome import Cost, Outcome
from trainables.trial import AdapterConfig, OptimizerConfig, TrialConfig

NUMBERS = st.floats(allow_nan=False)  # nan is not equal to itself; see below
TEXTS = st.text(max_size=20)
COUNTS = st.integers(min_value=0, max_value=10**12)
NAMES = st.text("abc/_", min_size=1, max_size=5)

REFS = st.builds(SettingRef, TEXTS, st.dictionaries(NAMES, st.none() | st.booleans() | COUNTS | TEXTS, max_size=3))
METHODS = st.sampled_from(
    [methods.make("plain"), methods.make("kl_penalty", {"beta": 0.3}), methods.make("kl_penalty", {"beta": 2.0})]
)
ADAPTERS = st.builds(
    AdapterConfig,
    rank=st.integers(1, 64),
    alpha=st.floats(1e-3, 1e3),
    rslora=st.booleans(),
    targets=st.just("all-linear") | st.tuples(NAMES, NAMES),
    layers=st.sampled_from(["all", "last 3", (1, 4)]),
)
OPTIMIZERS = st.builds(OptimizerConfig, learning_rate=st.floats(1e-6, 1.0), max_grad_norm=st.none() | st.floats(0.1, 9))
TRIALS = st.builds(
    TrialConfig,
    setting=REFS,
    data=TEXTS,
    method=METHODS,
    adapter=ADAPTERS,
    optimizer=OPTIMIZERS,
    steps=st.integers(10, 99),
    checkpoint_step=st.none() | st.integers(1, 9),
    adapter_scale=st.floats(0, 1),
    batch_size=st.integers(1, 9),
    alignment_batch_size=st.integers(1, 9),
    seed=COUNTS,
)
MEASUREMENTS = st.builds(Measurement, NUMBERS, COUNTS, COUNTS)
COSTS = st.builds(
    Cost, tokens=COUNTS, tokens_cut=COUNTS, seconds=NUMBERS, inherited_tokens=COUNTS, inherited_seconds=NUMBERS
)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    trial = draw(TRIALS)
    return Outcome(
        trial=trial,
        status=draw(st.sampled_from(["finished", "invalid", "failed", "stopped"])),
        reason=draw(st.none() | TEXTS),
        scores=draw(st.dictionaries(NAMES, MEASUREMENTS, max_size=2)),
        curves=draw(st.dictionaries(NAMES, st.lists(st.tuples(COUNTS, NUMBERS), max_size=2), max_size=2)),
        cost=draw(COSTS),
        adapter=draw(st.sampled_from([None, trial.trial_id])),
    )


OUTCOMES = st.lists(outcomes(), max_size=2).map(tuple)
ENDS: dict[type, st.SearchStrategy[Any]] = {
    Ended: st.builds(Ended, OUTCOMES, OUTCOMES, st.dictionaries(NAMES, MEASUREMENTS, max_size=2)),
    UserProblem: st.builds(UserProblem, TEXTS),
    OutOfMemory: st.builds(OutOfMemory, TEXTS),
    Failed: st.builds(Failed, TEXTS),
}
JOBS: dict[type, st.SearchStrategy[Any]] = {
    TrainPack: st.builds(
        TrainPack,
        st.lists(TRIALS, min_size=1, max_size=2).map(tuple),
        st.lists(COUNTS, max_size=2).map(tuple),
        st.lists(st.none() | COUNTS, max_size=2).map(tuple),
    ),
    ScoreBase: st.builds(ScoreBase, REFS, st.lists(ADAPTERS, max_size=2).map(tuple)),
}
WORKERS = st.builds(
    WorkerConfig,
    folder=st.just(Path("/a sweep/here")),
    threads=COUNTS,
    memory=st.none() | NUMBERS,
    checkpoint_seconds=NUMBERS,
    rows_per_forward=st.none() | COUNTS,
    gradient_checkpointing=st.booleans(),
    cache_references=st.booleans(),
    num_workers=COUNTS,
    sharded=st.booleans(),
    resources=st.dictionaries(st.sampled_from(["CPU", "GPU"]), NUMBERS),
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_every_kind_is_tried() -> None:
    assert set(get_args(PackEnd)) == set(ENDS)
    assert set(get_args(Job)) == set(JOBS)


@given(WORKERS)
def test_a_configuration_comes_through(worker: WorkerConfig) -> None:
    assert worker_from_config(through_json(to_config(worker))) == worker


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_comes_through(kind: type) -> None:
    @settings(max_examples=20)
    @given(JOBS[kind], WORKERS)
    def comes_through(job: Job, worker: WorkerConfig) -> None:
        config = through_json(to_config(worker) | to_config(job))  # the driver's part and the searcher's
        assert (job_from_config(config), worker_from_config(config)) == (job, worker)

    comes_through()


@pytest.mark.parametrize("kind", [None, *ENDS])
def test_a_report_comes_through_tune(kind: type | None) -> None:
    """Tune flattens dictionaries in the last result of a trial, and has entries of its own there."""

    @settings(max_examples=20)
    @given(
        st.dictionaries(NAMES, st.dictionaries(NAMES, NUMBERS, max_size=2), max_size=2),
        COUNTS,
        COUNTS,
        TEXTS,
        st.lists(TEXTS, max_size=2).map(tuple),
        ENDS[kind] if kind else st.none(),
    )
    def comes_through(
        progress: Any, done: int, steps: int, note: str, cautions: tuple[str, ...], end: PackEnd | None
    ) -> None:
        report = PackReport(progress=progress, steps_done=done, num_steps=steps, note=note, cautions=cautions, end=end)
        assert PackReport.from_json(through_json(report.to_json())) == report
        result = report.to_result() | {"training_iteration": 3, "config": {"a": {"b": 1}}}
        assert result["done"] == (end is not None)
        assert PackReport.from_result(result) == PackReport.from_result(flatten_dict(result)) == report

    comes_through()


def test_all_fields_are_drawn() -> None:
    """A field that is added to a message without a strategy here would keep its default."""
    assert {field.name for field in fields(WorkerConfig)} == {
        *("folder", "threads", "memory", "checkpoint_seconds", "rows_per_forward", "gradient_checkpointing"),
        *("cache_references", "num_workers", "sharded", "resources"),
    }
    assert {field.name for field in fields(PackReport)} == {
        *("progress", "steps_done", "num_steps", "note", "cautions", "end"),
    }
    assert {field.name for field in fields(Ended)} == {"outcomes", "rungs", "base"}
    assert {field.name for field in fields(TrainPack)} == {"trials", "snapshots", "pause_after"}
    assert {field.name for field in fields(Cost)} == {
        *("tokens", "tokens_cut", "seconds", "inherited_tokens", "inherited_seconds"),
    }


def test_numbers_that_are_none_come_through_as_well() -> None:
    report = PackReport(end=Ended(base={"task": Measurement(float("nan"), 0, 4)}))
    received = PackReport.from_result(report.to_result())
    assert received is not None and isinstance(received.end, Ended)
    assert repr(received.end.base["task"]) == repr(Measurement(float("nan"), 0, 4))


def test_a_result_without_a_report_has_none() -> None:
    assert PackReport.from_result({"training_iteration": 1, "done": True}) is None


def test_a_message_of_other_training_code_is_refused() -> None:
    trial = TrialConfig(
        setting=SettingRef("s"),
        data="d",
        method=methods.make("plain"),
        steps=5,
        batch_size=1,
        alignment_batch_size=1,
        seed=0,
    )
    config = to_config(TrainPack((trial,)))
    config["job"]["trials"][0]["numerics"] = 0
    with pytest.raises(UserError, match="numerics version 0"):
        job_from_config(config)


def test_what_a_worker_does_is_written_once_a_second_and_when_it_changes(tmp_path: Path) -> None:
    now = 50.0
    path = tmp_path / "activities" / "pack.json"
    file = ActivityFile(path, ["a", "b"], clock=lambda: now)
    file.tell("training", 4, 10)
    assert Activity.read(path) == Activity(trials=("a", "b"), phase="training", done=4, total=10, begun=4)
    now = 50.9
    file.tell("training", 5, 10)
    assert Activity.read(path).done == 4, "not at every step"  # type: ignore[union-attr]
    now = 53.0
    file.tell("training", 6, 10)
    training = Activity.read(path)
    assert training is not None and (training.done, training.seconds, training.pace) == (6, 3.0, 1.5)
    file.tell("scoring", 0, 8, "questions")
    scoring = Activity.read(path)
    assert scoring is not None and (scoring.phase, scoring.what, scoring.pace) == ("scoring", "questions", None)
    file.close()
    assert not path.exists()
