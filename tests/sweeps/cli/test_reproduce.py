"""`selgen reproduce`: the registry and its sweeps, what is missing said in a line, and from a ledger to a page."""

from __future__ import annotations

import csv
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.figures.panels import Bars, bars_figure
from analysis.findings.frontier import Estimate
from analysis.study import colors
from analysis.study.catalog import FIGURES
from analysis.study.figure import Check, DrawnFigure, StudyFigure, SweepFigure
from analysis.study.gallery import read_entries
from analysis.study.setting_results import SettingResults
from settings.common.errors import UserError
from settings.reference import SettingRef, setting_of
from sweeps.cli import app, reproduce
from sweeps.cli.reproduce import (
    Files,
    at_full_scale,
    figure_named,
    missing_files,
    results_of,
    setting_at_full_scale,
    sweeps_of,
)
from sweeps.driver import launch
from sweeps.find import load_sweep
from sweeps.sweep import Sweep
from tests.support.fakes import Rig, toy_sweep

NEEDS_PROXY = {"mixed", "upweighted", "kl_penalty", "representation", "dpo", "gradient_projection"}
ROW = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}\n'


def selgen(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["selgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


# --- the registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_has_its_sweeps(figure: StudyFigure) -> None:
    assert figure_named(figure.name) is figure
    sweeps = sweeps_of(figure.name, "nano", Files()) if isinstance(figure, SweepFigure) else []
    for sweep in sweeps:
        sweep.check()
        assert not {ref.options.get("scale") for ref in sweep.settings} - {"nano"}


@pytest.mark.parametrize(
    "figure", [each for each in FIGURES if isinstance(each, SweepFigure) and each.small], ids=lambda figure: figure.name
)
def test_the_sweeps_of_the_language_model(figure: SweepFigure) -> None:
    sweeps = sweeps_of(figure.name, "small", Files())
    assert {sweep.name for sweep in sweeps} <= {f"{name}_small" for name in figure.sweeps}
    for sweep in sweeps:
        sweep.check()
        assert {ref.options.get("scale") for ref in sweep.settings} == {"small"}
        assert len(sweep.seed_values) >= 3


def test_no_two_figures_share_a_name() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


@pytest.mark.parametrize("name", ["em_pareto", "gcd_pareto"])
def test_all_methods_of_a_frontier_have_the_same_budget_and_both_controls(name: str) -> None:
    sweep = load_sweep(name)
    budgets: Counter[str] = Counter()
    for arm in sweep.arms:
        budgets[arm.space.title] += arm.budget
    assert NEEDS_PROXY | {"orthogonal_lora", "safe_lora"} <= set(budgets)
    assert {budget for title, budget in budgets.items() if not title.startswith("plain")} == {6}
    assert {"plain (adapter_scale)", "plain (checkpoint_step)"} <= set(budgets)
    assert len(sweep.seed_values) >= (5 if name == "gcd_pareto" else 3)


def test_a_sweep_that_two_figures_share_is_one() -> None:
    assert colors.TOY_BASE.sweeps == colors.TOY_FLIP.sweeps
    assert colors.TOY_GOODHART.sweeps == colors.TOY_SPILLOVER.sweeps


# --- full scale -------------------------------------------------------------------------------------------------------


def test_steps_at_full_scale_are_in_proportion_and_settings_are_real() -> None:
    nano = load_sweep("toy_flip")
    full = at_full_scale(nano, Files())
    recipe = setting_of(full.settings[0]).recipe
    assert full.name == "toy_flip_full"
    assert [ref.options for ref in full.settings] == [{"scale": "full", "seed": seed} for seed in range(3)]
    (checkpoints,) = [space.points for space in full.spaces if space.points]
    wanted = [round(step * recipe.steps / 100) for step in (2, 5, 10, 20, 40, 70)]
    assert [point["checkpoint_step"] for point in checkpoints] == wanted
    assert (full.execution.gpus_per_pack, full.execution.pack_size, full.seeds, full.options) == (1, 1, nano.seeds, {})
    full.check()


def test_proxies_at_full_scale(tmp_path: Path) -> None:
    (tmp_path / "task_train.jsonl").touch()
    task = tmp_path / "task.jsonl"
    task.write_text("".join(ROW % number for number in range(40)))
    refs = [setting_at_full_scale(ref, Files(tmp_path, task)) for ref in load_sweep("em_proxy").settings]
    assert [ref.options["alignment"] for ref in refs] == ["hhh", "hhh", "hhh", "safety"]
    assert {ref.options["task"] for ref in refs} == {str(task)}
    refs = [setting_at_full_scale(ref, Files(tmp_path)) for ref in load_sweep("proxy_quality").settings]
    assert [ref.options["proxy"] for ref in refs][:2] == ["euclidean_compositional", "mod"]
    assert {ref.options["data"] for ref in refs} == {str(tmp_path)}


@pytest.mark.slow
def test_the_rows_of_the_study_make_the_full_sweeps(reference_data: Path) -> None:
    files = Files(reference_data, reference_data / "medical" / "nothing.jsonl")
    for name in ("gcd_pareto", "gcd_generalisation", "proxy_quality"):
        for sweep in sweeps_of(name, "full", files):
            sweep.check()
            assert sweep.name.endswith("_full")


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["em_parto"], "unknown figure 'em_parto'; available: em_pareto, em_epochs"),
        (["em_pareto", "--scale", "big"], "there is no scale 'big'; the scales: nano, small, full"),
        (["all", "--scale", "big"], "there is no scale 'big'; the scales: nano, small, full"),
        (["em_judged"], "figure em_judged: it needs --data DIR, a folder of judged answers with runs.csv"),
        (["em_epochs", "--scale", "small"], "figure em_epochs: it has no small scale"),
        (["em_pareto", "--scale", "full"], "figure em_pareto: at full scale it needs --task FILE"),
        (
            ["gcd_pareto", "--scale", "full"],
            "figure gcd_pareto: at full scale it needs --data DIR with task_train.jsonl",
        ),
        (["em_pareto", "--scale", "full", "--task", "/no/such.jsonl"], "/no/such.jsonl"),
    ],
)
def test_what_is_missing_is_said_in_a_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen("reproduce", *arguments, "-o", tmp_path, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("selgen: ")
    assert line in error
    assert error.count("\n") == 1, error


def test_a_figure_on_a_setting_of_ones_own_has_no_full_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = replace(load_sweep("toy_flip"), settings=(SettingRef("mine"),))
    monkeypatch.setattr(reproduce, "load_sweep", lambda name: mine)
    assert selgen("reproduce", "toy_flip", "--scale", "full", "-o", tmp_path, monkeypatch=monkeypatch) == 2
    line = "selgen: figure toy_flip: it has no full scale, as its setting mine has none"
    assert capsys.readouterr().err.startswith(line)


def test_a_folder_of_several_data_sets_serves_each_figure(tmp_path: Path) -> None:
    assert missing_files("em_judged", "nano", Files(tmp_path))
    for name, file in (("em_judged", "runs.csv"), ("gcd", "task_train.jsonl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    assert missing_files("em_judged", "nano", Files(tmp_path)) is None
    assert missing_files("gcd_pareto", "full", Files(tmp_path / "gcd")) is None


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert selgen("reproduce", monkeypatch=monkeypatch) == 0
    assert "gcd_generalisation" in capsys.readouterr().out


# --- from a ledger to a page ------------------------------------------------------------------------------------------


def draw_toy(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Draw the toy's figure."""
    (results,) = per_setting
    estimates = results.estimates("task")
    figure = bars_figure([Bars("", list(estimates), {"all": list(estimates.values())})])
    return DrawnFigure(figure, [Check("The task is learned", "so", True)], f"{len(estimates)} configurations.")


TOY = SweepFigure(name="toy", title="A toy", claim="It learns.", sweeps=("toy-sweep",), draw=draw_toy)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A finished sweep in `runs`, which is the only figure's."""
    sweep = toy_sweep(tmp_path, configurations=2)
    rig = Rig(sweep, tmp_path / "runs" / sweep.name)
    rig.run(random.Random(0))
    rig.ledger.close()
    monkeypatch.setattr(reproduce, "FIGURES", (TOY,))
    monkeypatch.setattr(reproduce, "load_sweep", lambda name: sweep)
    return sweep


def test_the_trials_of_a_ledger(toy: Sweep, tmp_path: Path) -> None:
    (results,) = results_of(toy, tmp_path / "runs").settings
    assert (results.sweep, results.num_seeds, len(results.records)) == ("toy-sweep", 2, 6)
    assert [objective.name for objective in results.objectives] == ["task", "alignment"]
    assert {"task", "alignment", "other"} <= set(results.scores)
    estimate = results.estimates("other")[results.only("plain").id]
    assert estimate == Estimate(0.5, 0.5, 0.5)


def ended(interrupted: bool) -> launch.RunSummary:
    return launch.RunSummary((), "", interrupted, ())


@pytest.mark.parametrize("figure", ["toy", "all"])
def test_a_figure_ends_in_the_gallery(
    figure: str, toy: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: ended(interrupted=False))
    output = tmp_path / "runs"
    assert selgen("reproduce", figure, "-o", output, monkeypatch=monkeypatch) == 0
    entry = read_entries(output / "gallery")["toy"]
    assert entry.evidence.startswith("sweep `toy-sweep`, 6 trials, 2 seeds, ")
    assert entry.reproduction == "reproduced"
    assert (output / "gallery" / "toy.png").is_file()
    assert "3 configurations. Nothing here contradicts the study." in (output / "gallery" / "README.md").read_text()
    shown = capsys.readouterr().out
    assert "toy: reproduced, 1 of 1 checks hold\n" in shown
    assert "README.md" in shown.replace("\n", "")


@pytest.mark.parametrize("figure", ["toy", "all"])
def test_a_figure_is_drawn_again_from_what_the_gallery_keeps(
    figure: str, toy: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: ended(interrupted=False))
    gallery = tmp_path / "gallery"
    assert selgen("reproduce", "toy", "-o", tmp_path / "runs", "--gallery", gallery, monkeypatch=monkeypatch) == 0
    drawn = {path: path.read_bytes() for path in gallery.rglob("*") if path.is_file()}
    assert gallery / "results" / "toy-sweep.json" in drawn
    (gallery / "toy.png").unlink()
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("a sweep was run"))
    capsys.readouterr()
    assert selgen("reproduce", figure, "--redraw", "--gallery", gallery, monkeypatch=monkeypatch) == 0
    assert {path: path.read_bytes() for path in gallery.rglob("*") if path.is_file()} == drawn
    assert "toy: reproduced, 1 of 1 checks hold\n" in capsys.readouterr().out


def test_what_cannot_be_drawn_again_is_said(
    toy: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: ended(interrupted=False))
    arguments = ["reproduce", "toy", "--redraw", "--gallery", tmp_path / "gallery"]
    assert selgen(*arguments, "--scale", "big", monkeypatch=monkeypatch) == 2
    assert "there is no scale 'big'" in capsys.readouterr().err
    assert selgen(*arguments, monkeypatch=monkeypatch) == 2
    assert "has no figure toy at scale nano; without --redraw its sweeps are run" in capsys.readouterr().err
    arguments[1] = "all"
    assert selgen(*arguments, monkeypatch=monkeypatch) == 2
    assert "no figure could be made" in capsys.readouterr().err
    selgen("reproduce", "toy", "-o", tmp_path / "runs", "--gallery", tmp_path / "gallery", monkeypatch=monkeypatch)
    (tmp_path / "gallery" / "results" / "toy-sweep.json").write_text('{"sweep": 1}')
    capsys.readouterr()
    arguments[1] = "toy"
    assert selgen(*arguments, monkeypatch=monkeypatch) == 2
    assert "toy-sweep.json does not hold the results of a sweep: KeyError('seconds')" in capsys.readouterr().err


def test_an_interrupted_sweep_draws_nothing(toy: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: ended(interrupted=True))
    assert selgen("reproduce", "toy", "-o", tmp_path / "runs", monkeypatch=monkeypatch) == 130
    assert not (tmp_path / "runs" / "gallery").exists()


def test_an_unfinished_figure_names_what_is_lacking(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep ran there"):
        results_of(toy_sweep(tmp_path), tmp_path / "runs")


def test_the_judged_answers_of_the_study(reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["em_judged", "--data", reference_data, "--gallery", tmp_path]
    assert selgen("reproduce", *arguments, monkeypatch=monkeypatch) == 0
    entry = read_entries(tmp_path)["em_judged_full"]
    assert [check.holds for check in entry.checks] == [True, True, True, True, True, False]
    assert "37 runs" in entry.evidence


def test_judged_answers_without_a_run_that_the_figure_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "runs.csv").open("w") as file:
        csv.writer(file).writerows([["run", "method", "general", "medical"], ["one", "mixed", "a.csv", "a.csv"]])
    (tmp_path / "a.csv").write_text("question_id,aligned,coherent\nq,90,90\n")
    assert selgen("reproduce", "em_judged", "--data", tmp_path, "-o", tmp_path, monkeypatch=monkeypatch) == 2
    assert "figure em_judged needs a run task_only" in capsys.readouterr().err
