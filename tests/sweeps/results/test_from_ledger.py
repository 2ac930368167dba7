"""A sweep read from its ledger has the numbers that MLflow has, without the training code."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.tables import mlflow_runs
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.description import SweepDescription, describe
from sweeps.ledger import read
from sweeps.ledger_lines import configuration_id, read_raw
from sweeps.names import default_uri
from sweeps.results.from_ledger import LedgerReader, is_readable
from sweeps.results.frontier_files import of_case, records_of
from sweeps.space import between, vary
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker
from tests.support.fakes import Rig, finished, toy, toy_sweep
from tests.support.mlflow_store import copy_store
from trainables.outcome import Cost, Outcome
from trainables.trial import TrialConfig


def eventful(trial: TrialConfig) -> Outcome:
    """End every third trial of a penalty without a result, in one way or another.

    By what the trial is but for its id, which has the folder of the test in it.
    """
    what = f"{trial.coefficients['beta']:g} {trial.seed}" if trial.method.name == "kl_penalty" else ""
    fate = zlib.crc32(what.encode()) % 7 if what else None
    if fate in (0, 1, 2):
        return finished(trial, ("invalid", "failed", "stopped")[fate])
    cost = Cost(tokens=100, inherited_tokens=7, inherited_seconds=0.1, seconds=0.1 * (trial.seed + 1))
    outcome = replace(finished(trial), cost=cost)
    if fate == 3:
        return replace(outcome, scores={**outcome.scores, "alignment": Measurement(math.nan, 0, 4)})
    return outcome


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Sweep, Path]:
    """A sweep over two settings, interrupted while trials run, and its output folder."""
    folder = tmp_path_factory.mktemp("swept")
    output = copy_store(empty_store, folder / "runs")
    sweep = toy_sweep(folder, settings=(toy(folder, rows=2), toy(folder, rows=3)), configurations=8, controls=True)
    rig = Rig(sweep, output / sweep.name)
    assert not rig.run(random.Random(0), eventful, packs=30)
    describe(sweep).write(output / sweep.name)
    state = rig.ledger.state
    tracker = Tracker(default_uri(output), sweep, output / "artifacts")
    tracker.start(record=state)
    dispatched = {trial.trial_id: trial for pack in rig.dispatched for trial in pack}
    asked = [trial for trial in dispatched.values() if trial.configuration_id in state.configurations]
    tracker.pack_started([trial for trial in asked if trial.trial_id not in state.outcomes])
    tracker.close()
    assert tracker.problems == []
    rig.kill()
    return sweep, output


def by_identity(records: tuple[TrialRecord, ...]) -> list[TrialRecord]:
    return sorted(records, key=lambda record: (record.configuration.id, record.seed))


def test_ledger_and_mlflow_have_the_same_numbers(swept: tuple[Sweep, Path]) -> None:
    sweep, output = swept
    uri, reader = default_uri(output), LedgerReader.open(output / sweep.name)
    assert reader.labels == mlflow_runs.settings_of(sweep.name, uri) == [case.label for case in sweep.cases]
    statuses = set()
    for label in reader.labels:
        ours, theirs = reader.load(label), mlflow_runs.load(sweep.name, uri, label)
        assert_same_table(ours, theirs)
        assert (ours.name, ours.setting, ours.objectives) == (theirs.name, theirs.setting, theirs.objectives)
        assert (ours.counts, ours.base_scores) == (theirs.counts, theirs.base_scores)
        assert by_identity(ours.records) == by_identity(theirs.records)
        statuses |= {status for status, number in ours.counts.items() if number}
        names = ["other", "task"]
        assert_same_table(reader.load(label, names), mlflow_runs.load(sweep.name, uri, label, names))
    assert statuses == {"finished", "invalid", "failed", "stopped", "running"}
    ours_by_setting, theirs_by_setting = reader.load_records(), mlflow_runs.load_records(sweep.name, uri)
    assert list(ours_by_setting) == list(theirs_by_setting)
    for label, records in ours_by_setting.items():
        assert by_identity(tuple(records)) == by_identity(tuple(theirs_by_setting[label]))


def assert_same_table(ours: LoadedSweep, theirs: LoadedSweep) -> None:
    assert ours.table.configurations == theirs.table.configurations
    assert ours.table.excluded == theirs.table.excluded
    for array in ("values_CSM", "cost_C2", "count_CSM"):
        assert getattr(ours.table, array).tobytes() == getattr(theirs.table, array).tobytes()


def test_it_is_what_the_driver_shows(swept: tuple[Sweep, Path]) -> None:
    """The driver has the training code's objects, and a reader has JSON."""
    sweep, output = swept
    state, reader = read(output / sweep.name), LedgerReader.open(output / sweep.name)
    for case in sweep.cases:
        loaded = reader.load(case.label)
        assert by_identity(loaded.records) == by_identity(tuple(records_of(sweep, state, case)))
        assert loaded.table.cost_C2.tobytes() == of_case(sweep, state, case).table.cost_C2.tobytes()


def test_raw_lines_and_the_ledger_say_the_same(swept: tuple[Sweep, Path]) -> None:
    sweep, output = swept
    state, raw = read(output / sweep.name), read_raw(output / sweep.name)
    assert list(raw.outcomes) == list(state.outcomes)
    for trial_id, outcome in state.outcomes.items():
        assert json.dumps(raw.outcomes[trial_id]) == json.dumps(outcome.to_json())
        assert configuration_id(raw.outcomes[trial_id]["trial"]) == outcome.trial.configuration_id
    assert (raw.code, raw.made_with) == (state.code, state.made_with)
    assert set(raw.configurations) == state.configurations
    trials = [
        trial
        for arm in sweep.arms
        for asked in state.asked.get(arm.key, {}).values()
        for trial in sweep.trials_of(arm, asked.values)
    ]
    configurations = LedgerReader.open(output / sweep.name).configurations
    assert [configurations[trial.configuration_id].trial_id(trial.seed) for trial in trials] == [
        trial.trial_id for trial in trials
    ]


def test_the_choice_of_a_setting_and_of_scores_is_checked(swept: tuple[Sweep, Path]) -> None:
    sweep, output = swept
    reader = LedgerReader.open(output / sweep.name)
    with pytest.raises(UserError, match="several settings; choose one with --setting, or a part of it: toy rows=2, "):
        reader.load()
    with pytest.raises(UserError, match="no setting 'rows=5'; it has toy rows=2, toy rows=3"):
        reader.load("rows=5")
    with pytest.raises(UserError, match="no score 'kindness'; it has alignment, other, task"):
        reader.load("rows=2", ["kindness"])
    assert reader.load("rows=2").setting == "toy rows=2"


def test_a_sweep_that_has_just_started(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    folder = tmp_path / sweep.name
    rig = Rig(sweep, folder)
    assert not is_readable(folder)
    describe(sweep).write(folder)
    assert is_readable(folder)
    loaded = LedgerReader.open(folder).load()
    assert (loaded.setting, loaded.table.configurations, sum(loaded.counts.values())) == (None, (), 0)
    rig.kill()


def test_the_description_survives_its_file(swept: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, _ = swept
    description = describe(sweep)
    description.write(tmp_path)
    assert SweepDescription.read(tmp_path) == description
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"sweep\.json cannot be read: .*run the sweep again"):
        SweepDescription.read(tmp_path)


def test_reading_needs_no_training_code() -> None:
    heavy = ("torch", "ray", "transformers", "mlflow", "optuna", "matplotlib")
    code = f"import sweeps.results.from_ledger, sys; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_all_settings_share_the_methods_of_the_sweep_so_that_each_looks_the_same(swept: tuple[Sweep, Path]) -> None:
    """However the numbers are read; so colours do not depend on which trials of a setting have ended."""
    sweep, output = swept
    folder = output / sweep.name
    reader = LedgerReader.open(folder)
    labels = reader.labels
    assert len(labels) == 2
    drawn = {reader.load(label).table.drawn_methods for label in labels}
    drawn |= {mlflow_runs.load(sweep.name, default_uri(output), label).table.drawn_methods for label in labels}
    drawn |= {of_case(sweep, read(folder), case).table.drawn_methods for case in sweep.cases}
    assert drawn == {tuple(sorted({arm.space.method for arm in sweep.arms}))}


def test_a_method_of_which_no_trial_has_ended_has_its_look_already(tmp_path: Path) -> None:
    """The driver's figure and whoever reads the ledger go by all methods that the sweep declares, by their titles."""
    published = {"definition": "published"}
    methods = ("plain", vary("upweighted", **published), vary("kl_penalty", beta=between(0.1, 1)))
    sweep = toy_sweep(tmp_path, methods=methods)
    rig = Rig(sweep, tmp_path / "runs" / sweep.name)
    assert not rig.run(random.Random(0), packs=1)
    describe(sweep).write(tmp_path / "runs" / sweep.name)
    state, (case,) = rig.ledger.state, sweep.cases
    ended = {outcome.trial.method.title for outcome in state.outcomes.values()}
    drawn = of_case(sweep, state, case).table.drawn_methods
    reader = LedgerReader.open(tmp_path / "runs" / sweep.name)
    rig.kill()
    assert set(drawn) == {"plain", "upweighted (published)", "kl_penalty"} > ended
    assert reader.load(case.label).table.drawn_methods == drawn
