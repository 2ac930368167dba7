"""The short form of `python -m tests.benchmarks`: everything runs, and both sides train the same trials.

No thresholds on speed: those are read off a quiet machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from settings.bad_medical_advice import nano as bad_medical_advice
from settings.reference import SettingRef
from settings.setting import Setting
from sweeps.find import load_sweep
from tests.benchmarks import gpu, gpu_checks, page, whole_sweep
from tests.benchmarks.__main__ import NAMES, sweep_plan
from tests.benchmarks.baseline import LOSSES, PeftTrial, load
from tests.benchmarks.measure import Result, Spread, interleaved, ratios
from tests.benchmarks.shapes import LARGE, NANO, ON_ONE_GPU, made_up
from tests.studies import driver_scale
from tests.support.mlflow_store import copy_store
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.pack import Pack
from trainables.trial import trial_for

STEPS = 6
REF = SettingRef("bad_medical_advice", {"scale": "nano"})
VALUES = {method: {coefficient: values[-1]} for method, (coefficient, values) in whole_sweep.GRIDS.items()}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return bad_medical_advice()


@pytest.mark.slow
def test_the_baseline_trains_the_same_trials(setting: Setting) -> None:
    trials = [trial_for(setting, REF, methods.make(name, VALUES.get(name, {})), 3, steps=STEPS) for name in LOSSES]
    base = load_base(setting.base_model)
    pack = Pack(base, setting, trials)
    pack.advance(STEPS)
    evaluated = pack.evaluate()
    for index, trial in enumerate(trials):
        own = PeftTrial(*load(base.source), setting, trial)
        own.train()
        curve = [value for _, value in pack.members[index].curves["loss"]]
        assert torch.stack(own.losses).tolist() == pytest.approx(curve, rel=1e-4, abs=1e-4), trial.method.name
        scores, replies = own.evaluate()
        assert scores == evaluated[index].scores
        for name, texts in replies.items():
            equal = [one == two for one, two in zip(texts, evaluated[index].observations[name], strict=True)]
            calls = whole_sweep.differing(equal, own.closest_calls[name])
            assert max(calls, default=0.0) <= whole_sweep.CLOSE_CALL, trial.method.name
            assert sum(equal) >= whole_sweep.REPLIES_EQUAL * len(equal), trial.method.name
    pack.detach()


@pytest.mark.slow
@pytest.mark.timeout(600)  # two starts of Ray, on a machine that may be busy
def test_the_short_form_measures_every_goal(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    root = Path(__file__).resolve().parent.parent
    line = [sys.executable, "-m", "tests.benchmarks", "--short", "--out", str(out)]
    variables = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(line, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(out.read_text())
    for name in NAMES:
        entry = found[name]
        assert entry["min"] <= entry["value"] <= entry["max"], name
        if name != "seed_marginal_cost":  # a difference of two times, which noise may turn round in so short a form
            assert entry["min"] > 0, name
        assert {"goal", "met", "details"} <= entry.keys()
    assert set(found["generation_speedup"]["details"]["equal_replies"].values()) == {1.0}
    assert found["sweep_speedup"]["details"]["trials"] == 2
    assert found["sweep_speedup"]["details"]["equality"]["equal_trials"] == 1.0
    assert found["machine"]["cores"] == os.cpu_count()


WITHOUT = ("ray", "optuna", "mlflow", "datasets", "scipy", "rich", "typer", "pandas", "matplotlib", "openai")
ALONE = f"""
import sys
sys.modules.update(dict.fromkeys({WITHOUT!r}))  # importing one of them raises ModuleNotFoundError
from tests.benchmarks.gpu import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_command_for_a_gpu_needs_only_torch_transformers_and_peft(tmp_path: Path) -> None:
    """Its short form on the CPU, in a process in which nothing else can be imported."""
    out = tmp_path / "gpu.json"
    root = Path(__file__).resolve().parent.parent
    line = [sys.executable, "-c", ALONE, "--device", "cpu", "--short", "--out", str(out)]
    variables = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(line, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {entry["check"]: entry for entry in json.loads(out.read_text())["checks"]}
    assert list(found) == list(gpu_checks.checks(short=True))
    holds = {name: entry["holds"] for name, entry in found.items() if "trial_steps_per_s" not in entry["found"]}
    assert len(holds) == 5
    assert all(holds.values()), holds
    assert min(entry["found"].get("trial_steps_per_s", 1.0) for entry in found.values()) > 0


def test_a_run_on_a_gpu_keeps_what_it_found_and_leaves_out_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> gpu_checks.Found:
        raise RuntimeError("no such kernel")

    def too_large() -> gpu_checks.Found:
        raise torch.OutOfMemoryError

    run = gpu.Run(torch.device("cpu"), 100.0, tmp_path / "gpu.json", {})
    run.taken["slow"] = 100.0
    run.check("m", "good", lambda: gpu_checks.Found("good", {"x": 1.0}, True))
    assert [entry["check"] for entry in json.loads((tmp_path / "gpu.json").read_text())["checks"]] == ["good"]
    run.check("m", "bad", lambda: gpu_checks.Found("bad", {"x": 2.0}, False))
    run.check("m", "broken", broken)
    run.check("m", "large", too_large)
    run.check("m", "slow", broken)
    assert run.failed == ["m, bad", "m, broken"]
    skipped = {
        e["check"]: e["skipped"] for e in json.loads((tmp_path / "gpu.json").read_text())["checks"] if "skipped" in e
    }
    assert skipped.keys() == {"large", "slow"}
    assert "budget" in skipped["slow"]
    assert "no such kernel" in capsys.readouterr().out


def test_shapes_for_a_gpu_have_the_sizes_of_what_they_are_named_after() -> None:
    """Parameters as the models' pages say, without norms and biases."""
    parameters = {shape.name: shape.parameters for shape in ON_ONE_GPU}
    published = {"smollm2-135m": 134.5e6, "qwen2.5-1.5b": 1.54e9, "qwen3-8b": 8.19e9}
    assert parameters == pytest.approx(published, rel=0.01)


def test_the_sweep_has_24_configurations_of_the_baselines_methods(tmp_path: Path) -> None:
    plan = whole_sweep.Plan()
    file = tmp_path / "benchmark.py"
    file.write_text(whole_sweep.sweep_text(plan))
    sweep = whole_sweep.load_sweep(str(file))
    assert sum(arm.budget for arm in sweep.arms) == 24
    assert {arm.space.method for arm in sweep.arms} == LOSSES.keys()
    assert len(sweep.seed_values) == plan.seeds


def test_goals_run_what_they_need() -> None:
    alone = sweep_plan(["first_step_s"], 1.0, 3, 1, short=False)
    assert (alone.ours, alone.theirs, alone.starts) == (0, 0, 3)
    alone = sweep_plan(["overhead_share"], 1.0, 3, 1, short=False)
    assert (alone.ours, alone.theirs, alone.starts) == (3, 0, 0)
    alone = sweep_plan(NAMES, 1.0, 3, 2, short=False)
    assert (alone.ours, alone.theirs, alone.starts) == (3, 2, 3)


def test_actions_take_turns() -> None:
    order: list[str] = []
    found = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 2, torch.device("cpu"))  # type: ignore[misc]
    assert order == ["a", "b"] * 3
    assert [len(some) for some in found.values()] == [2, 2]


def test_a_goal_is_met_by_the_median() -> None:
    spread = ratios([2.0, 6.0, 8.0], [1.0, 1.0, 2.0])
    assert spread == Spread(4.0, 2.0, 6.0, 3)
    assert Result("x", "", spread, 3.9, True).met
    assert not Result("x", "", spread, 3.9, False).met


def test_different_results_are_no_contest() -> None:
    same = {
        "equal_replies": 0.99,
        "widest_call_of_others": 1e-5,
        "mean_score_difference": 0.0,
        "max_relative_loss_difference": 1e-5,
    }
    whole_sweep.check(same)
    assert whole_sweep.differing([True, False, True], [1e-9, 0.5, 2.0]) == [0.5]
    changes = ("equal_replies", 0.9), ("mean_score_difference", 0.1), ("max_relative_loss_difference", 0.1)
    for other in (*({name: value} for name, value in changes), {"widest_call_of_others": 0.5}):
        with pytest.raises(AssertionError):
            whole_sweep.check(same | other)


def test_curves_are_compared_over_the_steps_that_a_point_stands_for() -> None:
    assert whole_sweep.curve_gap([(2, 1.5), (3, 3.0)], [1.0, 2.0, 3.0]) == 0
    assert whole_sweep.curve_gap([(2, 1.5), (3, 3.3)], [1.0, 2.0, 3.0]) == pytest.approx(0.1)


def test_made_up_rows_are_as_long_as_wanted(setting: Setting) -> None:
    for length in (16, 256):
        rows = made_up(setting, length, 8).streams["task"]
        words = [len(f"{row.prompt[-1].content} {row.response}".split()) + 3 for row in rows]
        assert length * 0.8 <= min(words) <= length <= max(words) <= length * 1.2


def test_shapes_have_the_sizes_of_what_they_are_named_after() -> None:
    parameters = {shape.name: shape.parameters for shape in (NANO, *LARGE)}
    assert parameters["nano"] == pytest.approx(520_576, rel=0.01)
    assert parameters["gemma-2b"] == pytest.approx(2.51e9, rel=0.01)
    assert parameters["qwen3-8b"] == pytest.approx(8.19e9, rel=0.01)


def test_the_page_has_a_place_for_every_table() -> None:
    text = page.PAGE.read_text()
    sections = {"goals": "| 1 |", "growth": "| 2 |", "profile": "| 3 |"}
    written = page.filled(text, sections)
    assert all(content in written for content in sections.values())
    assert page.filled(written, sections) == written
    with pytest.raises(KeyError):
        page.filled(text, {"unknown": ""})


@pytest.mark.slow
def test_the_simulation_of_a_long_sweep_runs_to_its_end(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a few trials: the tables need minutes to hours, and what it overrides of the driver may change before."""
    monkeypatch.setattr(driver_scale, "SHARES", (0.25, 0.5, 1.0))
    copy_store(empty_store, tmp_path / "output")
    points = driver_scale.simulate(tmp_path, configurations=16, seeds=1, with_ray=False)
    assert len(points) == len(driver_scale.SHARES)
    assert points[-1].trials == driver_scale.number_of_trials(load_sweep(tmp_path / "scale_sweep.py"))
    assert points[-1].row()["CPU s"] > 0
    assert set(driver_scale.exponents(points)) == set(points[-1].row())
