"""From a ledger to MLflow to a report: with the sweep's folder, from the store alone, and while the sweep runs."""

from __future__ import annotations

import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from analysis.findings.arms import control_of
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.mlflow_runs import SweepRuns, load, runs_of
from analysis.tables.questions import Grade
from analysis.tables.scores import Configuration, Objective, TrialRecord
from settings.common.errors import UserError
from settings.common.files import write_json
from sweeps.cli.compare import compare
from sweeps.cli.report import WrittenReport, _chapter, report, show_report
from sweeps.cli.say import Say
from sweeps.controls import control_spaces
from sweeps.description import describe
from sweeps.names import default_uri
from sweeps.results import same_questions
from sweeps.results.from_ledger import LedgerReader
from sweeps.results.frontier_files import publish
from sweeps.results.same_questions import are_apart
from sweeps.search.snapshots import checkpoints_read, snapshots_of
from sweeps.space import MethodSpace, between, grid, vary
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker
from tests.support.fakes import Rig, toy, toy_sweep
from tests.support.mlflow_store import copy_store
from tests.sweeps.cli.test_app import selgen


def swept(folder: Path, output: Path, packs: int = 10**6, **changes: object) -> Sweep:
    """A sweep with controls, run by the fake searcher, and published."""
    sweep = toy_sweep(folder, **({"controls": True, "configurations": 3} | changes))
    rig = Rig(sweep, output / sweep.name)
    describe(sweep).write(output / sweep.name)
    rig.run(random.Random(0), packs=packs)
    for outcome in rig.ledger.state.outcomes.values():
        path = output / sweep.name / "observations" / f"{outcome.trial.trial_id}.json"
        write_json(path, {"all": ["yes", "no"]})
    tracker = Tracker(default_uri(output), sweep, output / "artifacts")
    tracker.start(record=rig.ledger.state)
    publish(sweep, rig.ledger.state, output / sweep.name, tracker)
    tracker.close()
    assert tracker.problems == []
    rig.ledger.close()
    return sweep


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    out = copy_store(empty_store, folder / "runs")
    swept(folder, out)
    swept(folder, out, name="other-sweep", seeds=(1, 2, 3))
    return out


def test_every_sweep_has_both_controls_by_default(tmp_path: Path) -> None:
    """The toy takes 5 steps: an eighth, a quarter, ... of them are 1, 2 and 4 updates; the end is no checkpoint."""
    sweep = toy_sweep(tmp_path, controls=True)
    added = [dict(point) for arm in sweep.arms[2:] for point in arm.space.points or ()]
    assert added == [{"adapter_scale": scale} for scale in (0.2, 0.4, 0.6, 0.8)] + [
        {"checkpoint_step": step} for step in (1, 2, 4)
    ]
    plain, kl_penalty = (sweep.trials_of(arm, arm.space.every_option()[0]) for arm in sweep.arms[:2])
    read = checkpoints_read(sweep)
    assert snapshots_of(plain, read) == (1, 2, 4)
    assert snapshots_of(kl_penalty, read) == (), "no configuration reads them, so nothing would ever delete them"
    assert [arm.space.title for arm in sweep.arms[2:]] == ["plain (adapter_scale)", "plain (checkpoint_step)"]
    assert sweep.identity() == toy_sweep(tmp_path, controls=False).identity()


def test_controls_that_a_sweep_lists_are_not_added() -> None:
    own = grid("plain", adapter_scale=[0.5])
    assert [space.title for space in control_spaces(48, [own])] == ["plain (checkpoint_step)"]
    points = control_spaces(48, [own])[0].points
    assert points is not None
    assert [point["checkpoint_step"] for point in points] == [6, 12, 18, 24, 36]
    assert [space.title for space in control_spaces(1, [])] == ["plain (adapter_scale)"]


OF_FOUR_STEPS = grid("plain", steps=[4], checkpoint_step=[2])


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ((grid("kl_penalty", beta=[1.0]),), [{}]),
        ((grid("kl_penalty", beta=[1.0], definition="published"),), [{"definition": "published"}]),
        (("plain",), []),
        ((grid("plain", adapter_scale=[0.5, 1.0]),), []),
        ((grid("plain", checkpoint_step=[2, 5]),), []),
        ((grid("plain", checkpoint_step=[2]),), [{}]),
        ((grid("plain", decoding_mix=[0.5]),), [{}]),
        ((grid("plain", learning_rate=[0.1]),), [{}]),
        (
            (grid("plain", steps=[4], adapter_scale=[0.5]), grid("plain", steps=[4], checkpoint_step=[2])),
            [{"steps": 4}],
        ),
        ((vary("plain", learning_rate=between(1e-4, 1e-3)),), [{}]),
    ],
)
def test_the_training_that_readouts_are_of_is_a_configuration(
    own: tuple[MethodSpace | str, ...], added: list[dict[str, Any]], tmp_path: Path
) -> None:
    """It is trained anyway, and without it their curves have no end. The toy takes 5 steps, so checkpoint 5 is it."""
    sweep = toy_sweep(tmp_path, methods=own, controls=True)
    readouts = {"adapter_scale", "checkpoint_step"}
    whole = [arm for arm in sweep.arms if arm.control and readouts.isdisjoint(arm.space.knob_names)]
    assert [dict(point) for arm in whole for point in arm.space.points or ()] == added
    trials = [
        trial.trial_id
        for arm in sweep.arms
        for values in arm.space.points or arm.space.every_option()
        for trial in sweep.trials_of(arm, values)
    ]
    assert len(set(trials)) == len(trials), "no trial twice"
    read = {trial.full_training.trial_id for arm in whole for trial in sweep.trials_of(arm, added[0])}
    assert read <= set(trials)


def test_the_frontier_of_triggered_questions_is_given_the_grades() -> None:
    scores = {name: Objective(name, "alignment") for name in ("task", "alignment", "alignment_triggered")}
    rows = [
        TrialRecord(Configuration("c", "plain", "", {}), seed, "finished", dict.fromkeys(scores, 0.5 + seed / 10))
        for seed in range(2)
    ]
    grades = [Grade("c", seed, "task", question, float(question)) for seed in range(2) for question in range(2)]
    usual = [scores["task"], scores["alignment"]]
    loaded = LoadedSweep.of_trials("mini", None, usual, rows, grades=grades, scores=scores)
    triggered = _chapter(loaded, SweepRuns("", ""), "").triggered
    assert triggered is not None
    assert list(triggered.questions["c"]) == ["task"]


def test_published_methods_have_published_controls() -> None:
    spaces = [grid("plain"), grid("kl_penalty", beta=[1.0], definition="published")]
    assert [space.title for space in control_spaces(48, spaces)] == [
        "plain (adapter_scale)",
        "plain (checkpoint_step)",
        "plain (published, adapter_scale)",
        "plain (published, checkpoint_step)",
    ]


def test_controls_must_be_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="controls must be true or false, got 'no'"):
        toy_sweep(tmp_path, controls="no")


def test_controls_and_grades_reach_mlflow(output: Path) -> None:
    loaded = load("toy-sweep", default_uri(output))
    kinds = [control_of(one) for one in loaded.table.configurations]
    assert (kinds.count("scale"), kinds.count("checkpoint"), kinds.count(None)) == (4, 3, 4)
    assert {grade.score for grade in loaded.grades} == {"task", "alignment"}
    assert len(loaded.grades) == 11 * 2 * 2 * 2  # configurations, seeds, objectives, questions
    assert set(runs_of("toy-sweep", default_uri(output)).configurations) == {
        one.id for one in loaded.table.configurations
    }


def test_report_is_written_and_logged(output: Path) -> None:
    files = report("toy-sweep", output, None).files
    assert files[0] == output / "toy-sweep" / "report" / "report.html"
    client = MlflowClient(default_uri(output))
    runs = runs_of("toy-sweep", default_uri(output))
    logged = {item.path.removeprefix("report/") for item in client.list_artifacts(runs.run_id, "report")}
    assert logged == {path.name for path in files}
    data = json.loads((files[0].parent / "findings.json").read_text())
    assert data["sweep"] == "toy-sweep"
    assert set(data["control_verdicts"][0]["against"]) == {"checkpoint", "scale"}
    assert "low_over_questions" in data["points"][0]["task"]
    assert runs.configurations[data["points"][0]["configuration"]] in files[0].read_text()


def test_other_objectives_have_a_report_of_their_own(output: Path) -> None:
    """Here and in MLflow; the sweep's own objectives, named or not, have the usual one."""
    usual = report("toy-sweep", output, None, objectives=["task", "alignment"]).files
    before = {path: path.read_bytes() for path in usual}
    other = report("toy-sweep", output, None, objectives=["task", "other"]).files
    assert {path.parent.name for path in usual} == {"report"}
    assert {path.parent.name for path in other} == {"report-task-other"}
    assert {path: path.read_bytes() for path in usual} == before
    client, run = MlflowClient(default_uri(output)), runs_of("toy-sweep", default_uri(output)).run_id
    assert {"report", "report-task-other"} <= {item.path for item in client.list_artifacts(run)}


def test_what_a_report_says_is_printed(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The five answers, the files in one line, and the page last."""
    assert selgen("report", "toy-sweep", "-o", output, "--to", tmp_path / "r", monkeypatch=monkeypatch) == 0
    *said, files, page = capsys.readouterr().out.splitlines()
    questions = ("Which method?", "How sure?", "Against what?", "How many seeds?", "What caution?")
    assert [line.split("? ")[0] + "?" for line in said if line.startswith(questions)] == list(questions)
    assert page == f"wrote {tmp_path / 'r' / 'report.html'}"
    names = sorted(path.name for path in (tmp_path / "r").iterdir() if path.name != "report.html")
    assert files.startswith(f"wrote {len(names)} figures and tables to {tmp_path / 'r'}: ")
    assert sorted(files.rpartition(": ")[2].split(", ")) == names


def test_the_store_alone_is_enough(output: Path, tmp_path: Path) -> None:
    """Only MLflow's database and artifacts are left of the sweep."""
    shutil.copytree(output, tmp_path / "copy")
    (tmp_path / "copy" / "toy-sweep").rename(tmp_path / "gone")
    files = report(
        "toy-sweep", tmp_path / "copy", None, objectives=["task", "other", "alignment"], folder=tmp_path / "r"
    ).files
    assert files[0].is_file()
    assert (tmp_path / "r" / "frontier_task_other.png").is_file()


def test_the_folder_alone_is_enough(output: Path, tmp_path: Path) -> None:
    """MLflow is gone, or is elsewhere: the same findings, without links."""
    shutil.copytree(output / "toy-sweep", tmp_path / "copy" / "toy-sweep")
    written = report("toy-sweep", tmp_path / "copy", None, folder=tmp_path / "ledger")
    assert "the report is not in MLflow: there is no MLflow store" in written.note
    from_mlflow = report("toy-sweep", output, default_uri(output), folder=tmp_path / "mlflow")
    assert from_mlflow.note == ""
    texts = [(files[0].parent / "findings.json").read_text() for files in (written.files, from_mlflow.files)]
    assert texts[0] == texts[1]
    assert not list((tmp_path / "copy").glob("*.db"))


def test_a_running_sweep_has_a_report(tmp_path: Path, empty_store: Path) -> None:
    swept(tmp_path, copy_store(empty_store, tmp_path / "runs"), packs=4)
    assert report("toy-sweep", tmp_path / "runs", None).files[0].is_file()


def test_refusals(output: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no score 'nope'; it has alignment, other, task"):
        report("toy-sweep", output, None, objectives=["task", "nope"])
    with pytest.raises(UserError, match="option --objectives: a report needs two or three scores, got task"):
        report("toy-sweep", output, None, objectives=["task"])
    with pytest.raises(UserError, match="has no setting 'nope'"):
        report("toy-sweep", output, None, setting="nope")
    with pytest.raises(UserError, match="is not a sweep's name"):
        report("../toy-sweep", output, None)
    advice = "run this where you ran the sweep, or give --output DIR"
    with pytest.raises(UserError, match=f"^no sweep 'toy-sweep' under {tmp_path}; {advice}"):
        report("toy-sweep", tmp_path, None)
    shutil.copytree(output / "toy-sweep", tmp_path / "toy-sweep")
    hint = r" \(did you mean 'toy-sweep'\?\); there: toy-sweep; "
    with pytest.raises(UserError, match=f"^no sweep 'toy-swep' under {tmp_path}{hint}{advice}"):
        report("toy-swep", tmp_path, None)


def test_settings_that_differ_in_their_rows_alone_are_compared(tmp_path: Path, empty_store: Path) -> None:
    """The third sweep has other questions, too."""
    output = copy_store(empty_store, tmp_path / "runs")
    for name, options in (("few", {}), ("more", {"more": 2}), ("asked", {"asked": "other"})):
        swept(tmp_path, output, name=name, settings=(toy(tmp_path, **options),))
    console = Console(file=io.StringIO(), width=140)
    compare(("few", "more"), output, None, None, None, False, console)
    alone = Console(file=(said := io.StringIO()), width=140)
    compare(("few", "few"), output, None, None, None, False, alone)
    assert "both are the same sweep: all differences are 0" in said.getvalue()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trained on the rows of toy and of toy more=2; base model and questions are the same" in shown
    with pytest.raises(UserError, match=r"different settings.*, and task and alignment: not comparable"):
        compare(("few", "asked"), output, None, None, None, False, console)
    for name in ("foods", "animals"):
        swept(tmp_path, output, name=name, settings=(toy(tmp_path, proxy=name),))
    instead = "compare them on scores that do not depend on the proxy, e.g. --objectives task,other, or give both"
    instead += " the same questions;"
    with pytest.raises(UserError, match=f"and alignment: not comparable, as their questions differ; {instead}"):
        compare(("foods", "animals"), output, None, None, None, False, console)
    compare(("foods", "animals"), output, None, None, ["task", "other"], False, console)
    assert "above (task" in console.file.getvalue()  # type: ignore[attr-defined]
    rows = [{"setting": {"name": "chat_files"}}] * 2
    assert same_questions._by_option(rows, ["alignment"]) == " (`alignment_eval`)", "not the rows to train on"
    assert same_questions._by_option(rows, ["preferred"]) == " (`preferences`)"
    readers = [LedgerReader.open(output / name) for name in ("few", "more")]
    few, more = (reader.load() for reader in readers)
    assert are_apart(readers, (few, more))
    assert not are_apart(readers, (few, replace(more, setting=None))), "a sweep that has just started"
    (output / "more" / "sweep.json").unlink()
    with pytest.raises(UserError, match="only known from the folders of both sweeps"):
        compare(("few", "more"), output, default_uri(output), None, None, False, console)


def test_the_frontier_in_other_scores(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a comparison: both commands read the names as `report` does."""
    chosen = ("-o", output, "--objectives", "task, other", "--json")
    assert selgen("frontier", "toy-sweep", *chosen, monkeypatch=monkeypatch) == 0
    (point, *_) = json.loads(capsys.readouterr().out)["points"]
    assert "other" in point
    assert "alignment" not in point
    assert selgen("compare", "toy-sweep", "toy-sweep", *chosen, monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["objectives"] == ["task", "other"]


def test_two_sweeps_are_compared_on_common_seeds(output: Path) -> None:
    """Seeds 0, 1 and 1, 2, 3 have one in common: too few. The sweep does not differ from itself."""
    console = Console(file=io.StringIO(), width=140)
    with pytest.raises(UserError, match="two seeds that both sweeps have"):
        compare(("toy-sweep", "other-sweep"), output, None, None, None, False, console)
    compare(("toy-sweep", "toy-sweep"), output, None, None, None, True, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert json.loads(text)["seeds"] == [0, 1]
    compare(("toy-sweep", "toy-sweep"), output, None, None, None, False, console)
    assert "paired over 2 seeds" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_plain_fine_tuning_counts_is_said_where_it_is_named(tmp_path: Path) -> None:
    for which, is_said in (("open between plain fine-tuning 0.7 and kl_penalty 0.8", True), ("kl_penalty 0.8", False)):
        written = WrittenReport((tmp_path / "report.html",), {"s": (("Which method?", which), ("How sure?", "sure"))})
        show_report(written, Say(Console(file=(shown := io.StringIO()), width=200)))
        assert ("(plain fine-tuning counts with its readouts" in shown.getvalue()) == is_said
