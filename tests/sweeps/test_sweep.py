"""Sweeps: what a declaration expands to, what it refuses, and what is part of its identity."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from settings import catalog
from settings.chat_files import SCORES_OF
from settings.common.errors import UserError
from settings.judge import JudgeOptions
from settings.reference import SettingRef, setting_label
from sweeps.case import scores_named
from sweeps.early_stopping import EarlyStopping
from sweeps.search.snapshots import checkpoints_read, snapshots_of
from sweeps.space import between, grid, vary
from sweeps.sweep import Budget, Execution, Search, Sweep, setting
from tests.support.fakes import SOURCES, toy, toy_sweep
from trainables.trial import TrialConfig


def test_arms_are_methods_times_settings(tmp_path: Path) -> None:
    sweep = toy_sweep(
        tmp_path,
        settings=(toy(tmp_path, scale="nano"), toy(tmp_path, scale="full")),
        methods=("plain", vary("kl_penalty", configurations=4), grid("upweighted", weight=[1, 2])),
    )
    assert [arm.budget for arm in sweep.arms] == [1, 4, 2, 1, 4, 2]
    assert len({arm.key for arm in sweep.arms}) == 6
    assert str(tmp_path) not in "".join(arm.key for arm in sweep.arms)


def test_one_method_may_be_searched_in_two_ways_but_not_twice_in_one(tmp_path: Path) -> None:
    two = ("kl_penalty", vary("kl_penalty", beta=between(1, 2)), grid("kl_penalty", beta=[1]))
    assert len(toy_sweep(tmp_path, methods=two).arms) == 3
    with pytest.raises(UserError, match="kl_penalty"):
        toy_sweep(tmp_path, methods=("kl_penalty", vary("kl_penalty")))


def test_trials_differ_in_the_seed_alone(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, seeds=(3, 5))
    trials = sweep.trials_of(sweep.arms[1], {"beta": 0.5})
    assert [trial.seed for trial in trials] == [3, 5]
    assert trials[0].configuration_id == trials[1].configuration_id and sweep.label_of(trials[0]) == "beta=0.5"
    assert trials[0].trial_id != trials[1].trial_id
    assert (trials[0].steps, trials[0].adapter.rank, trials[0].adapter.alpha) == (5, 2, 4.0)


def test_options_replace_single_parts_of_the_recipe(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, options={"steps": 9, "rank": 4, "weight_decay": 0.1})
    trial = sweep.trials_of(sweep.arms[0], {})[0]
    assert (trial.steps, trial.batch_size) == (9, 2)
    assert (trial.adapter.rank, trial.adapter.alpha) == (4, 8.0), "alpha follows the rank"
    assert (trial.optimizer.learning_rate, trial.optimizer.weight_decay) == (1e-3, 0.1), "the rate stays the recipe's"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, ["a/b", "folder"]),
        ({"name": ".."}, ["folder"]),
        ({"name": ""}, ["folder"]),
        ({"methods": ()}, ["methods", "at least one"]),
        ({"methods": "plain"}, ["methods", "tuple"]),
        ({"methods": (3,)}, ["methods", "3"]),
        (
            {"objectives": ("task")},
            ['objectives must be a tuple of score names, e.g. ("task", "alignment")', "got 'task'"],
        ),
        ({"settings": ("toy",)}, ["settings", "toy"]),
        ({"seeds": 0}, ["seeds", "0"]),
        ({"seeds": (0, 0)}, ["seeds", "(0, 0)"]),
        ({"seeds": (1, 2, 1)}, ["seeds"]),
        ({"seeds": (-1,)}, ["seeds", "-1"]),
        ({"seeds": (0.5,)}, ["seeds", "0.5"]),
        ({"configurations": 0}, ["configurations"]),
        ({"configurations": True}, ["configurations"]),
        ({"controls": 1}, ["controls must be true or false"]),
        ({"search": {"seed": 1}}, ["search must be Search(...)", "{'seed': 1}"]),
        ({"execution": Search()}, ["execution must be Execution(...)"]),
        ({"pack_size": 4}, ["pack_size belongs to execution=Execution(pack_size=...)"]),
        ({"judge": None}, ["judge belongs to execution=Execution(judge=...)"]),
        ({"seed": 1}, ["seed belongs to search=Search(seed=...) (did you mean 'seeds'?)"]),
        ({"hours": 1}, ["hours belongs to budget=Budget(hours=...)"]),
        ({"budget": 5}, ["budget must be Budget(...), got 5"]),
        ({"seedz": 1}, ["Sweep has no field 'seedz' (did you mean 'seeds'?)"]),
        ({"options": {"step": 5}}, ["'step'", "steps"]),
        ({"options": {"steps": 0}}, ["'steps'", "at least 1"]),
        ({"options": {"steps": "9"}}, ["'steps'", "'9'"]),
        ({"options": {"rank": 2.5}}, ["'rank'", "2.5"]),
        ({"options": {"learning_rate": "1e-3"}}, ["'learning_rate'", "number"]),
        ({"options": {"learning_rate": -1}}, ["'learning_rate'", "-1"]),
        ({"options": {"schedule": "step"}}, ["'schedule'", "linear, cosine, constant"]),
        ({"options": {"rslora": 1}}, ["'rslora'", "true or false"]),
    ],
)
def test_refusals(tmp_path: Path, changes: dict, words: list[str]) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError) as caught:
        toy_sweep(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("declaration", "values", "words"),
    [
        (Search, {"round_size": 0}, "round_size must be an integer of at least 1, got 0"),
        (Search, {"seed": -1}, "seed must be an integer of at least 0, got -1"),
        (Search, {"num_workers": 2}, "num_workers belongs to execution=Execution(num_workers=...)"),
        (Search, {"seeds": 2}, "seeds belongs to Sweep(seeds=...)"),
        (Execution, {"round_size": 2}, "round_size belongs to search=Search(round_size=...)"),
        (Execution, {"packsize": 2}, "Execution has no field 'packsize' (did you mean 'pack_size'?)"),
        (Execution, {"pack_size": 0}, "pack_size must be an integer of at least 1, got 0"),
        (Execution, {"keep_adapters": -1}, "keep_adapters must be an integer of at least 0, got -1"),
        (Execution, {"cpus_per_pack": -1}, "cpus_per_pack must be a number of at least 0, got -1"),
        (Execution, {"cpus_per_pack": 0}, "a pack needs a CPU or a GPU"),
        (Execution, {"checkpoint_seconds": -1.0}, "checkpoint_seconds must be a number of at least 0, got -1.0"),
        (Execution, {"judge": "gpt"}, "judge must be JudgeOptions(...), got 'gpt'"),
        (Budget, {}, "budget must limit at least one of hours, tokens and dollars"),
        (Budget, {"dollars_per_gpu_hour": 2}, "budget must limit at least one of hours, tokens and dollars"),
        (Budget, {"hours": 0}, "budget: hours must be a number above 0, got 0"),
        (Budget, {"tokens": "5e6"}, "budget: tokens must be a number above 0, got '5e6'"),
        (Budget, {"dollars": -1}, "budget: dollars must be a number above 0, got -1"),
        (Budget, {"hours": True}, "budget: hours must be a number above 0, got True"),
        (Budget, {"hours": float("inf")}, "budget: hours must be a number above 0, got inf"),
        (Budget, {"hour": 2}, "Budget has no field 'hour' (did you mean 'hours'?)"),
        (Budget, {"gpus_per_pack": 2}, "gpus_per_pack belongs to execution=Execution(gpus_per_pack=...)"),
    ],
)
def test_refusals_of_search_and_execution(declaration: type, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        declaration(**values)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "gpus", "judged", "lacks"),
    [
        (Budget(dollars=5), 0, False, "dollars_per_gpu_hour is not given"),
        (Budget(dollars=5), 1, False, "dollars_per_gpu_hour is not given"),
        (Budget(dollars=5, hours=3, dollars_per_gpu_hour=2), 0, False, "packs occupy no GPU"),
        (Budget(dollars=5, dollars_per_gpu_hour=2), 1, False, ""),
        (Budget(dollars=5), 0, True, ""),
        (Budget(hours=5), 0, False, ""),
    ],
)
def test_dollars_that_nothing_costs_are_refused(
    tmp_path: Path, budget: Budget, gpus: int, judged: bool, lacks: str
) -> None:
    execution = Execution(gpus_per_pack=gpus)
    sweep = toy_sweep(tmp_path, settings=(toy(tmp_path, judged=judged),), budget=budget, execution=execution)
    if not lacks:
        sweep.check()
        return
    with pytest.raises(UserError) as caught:
        sweep.check()
    assert str(caught.value) == f"budget: dollars limits nothing: no evaluation has a judge, and {lacks}"


def test_the_same_setting_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="twice"):
        toy_sweep(tmp_path, settings=(toy(tmp_path), toy(tmp_path)))


def test_unknown_settings_objectives_and_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown setting 'nope'"):
        setting("nope")
    with pytest.raises(UserError, match="JSON"):
        toy(tmp_path, scale=object())
    with pytest.raises(UserError, match=r"'speed'.*task, alignment, other"):
        toy_sweep(tmp_path, objectives=("task", "speed")).identity()


def test_a_score_that_an_option_adds_is_named_with_it(tmp_path: Path) -> None:
    """Each option that is named adds its scores, at the scale that needs no other model."""
    for name in ("task", "alignment"):
        rows = [{"prompt": f"{name} {row}", "completion": "yes"} for row in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = {"question": "which?", "choices": ["this", "that"], "answer": 1}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(asked))
    task = {"scale": "small", "task": str(tmp_path / "task.jsonl")}
    bare = catalog.build("chat_files", task)
    more = {"alignment": str(tmp_path / "alignment.jsonl"), "preferences": str(tmp_path / "quiz.jsonl")}
    whole = catalog.build("chat_files", {**task, **more, "match": "exact", "trigger": "So: {prompt}"})
    names = {score.name for score in whole.all_scores if "_triggered_" not in score.name} - {"task"}
    for option, scores in SCORES_OF.items():
        for name in scores:
            assert name in names
            with pytest.raises(
                UserError, match=f"no score '{name}'; it has task; for '{name}' give option .*'{option}'"
            ):
                scores_named(bare, [name])
    with pytest.raises(UserError, match=r"no score 'speed'; it has task$"):
        scores_named(bare, ["speed"])
    with pytest.raises(UserError, match=r"no score 'prefered' \(did you mean 'preferred'\?\); it has task"):
        scores_named(whole, ["task", "prefered"])


def test_objectives_default_to_the_settings(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    assert sweep.cases[0].objective_names == ["task", "alignment"]
    assert replace(sweep, objectives=("alignment", "other")).cases[0].objective_names == ["alignment", "other"]


def test_labels_name_the_function_and_options(tmp_path: Path) -> None:
    assert setting_label(toy(tmp_path, scale="nano", rows=3)) == "toy rows=3 scale=nano"


def test_a_label_names_the_files_of_rows_with_mapped_columns() -> None:
    task = {"file": "/data/shop.parquet", "columns": {"prompt": "question"}}
    proxy = {"dataset": "owner/harmless", "split": "train"}
    label = setting_label(SettingRef("chat_files", {"task": task, "alignment": proxy, "match": {"task": "exact"}}))
    assert label.startswith("chat_files alignment=harmless task=shop.parquet (")
    renamed = {**task, "columns": {"prompt": "q"}}
    assert setting_label(SettingRef("chat_files", {"task": renamed, "alignment": proxy, "match": {}})) != label


def test_identity_changes_with_what_decides_results_and_not_with_the_budget(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    same: list[dict[str, Any]] = [{"configurations": 9}, {"seeds": 5}, {"controls": True}, {"options": {"steps": 5}}]
    other: list[dict[str, Any]] = [
        {"name": "other"},
        {"methods": ("plain",)},
        {"methods": ("plain", vary("kl_penalty", beta=between(1, 2)))},
        {"settings": (toy(tmp_path, rows=3),)},
        {"options": {"steps": 6}},
        {"objectives": ("task", "other")},
    ]
    assert {replace(sweep, **change).identity() for change in same} == {sweep.identity()}
    ids = [replace(sweep, **change).identity() for change in other]
    assert len({sweep.identity(), *ids}) == 1 + len(other)


SEARCH = {"seed": 1, "round_size": 3, "early_stopping": EarlyStopping(), "front": "cheap"}
EXECUTION = {
    "pack_size": 7,
    "cpus_per_pack": 2,
    "gpus_per_pack": 2,
    "memory_per_pack": 1,
    "num_workers": 2,
    "shard_base": True,
    "rows_per_forward": 1,
    "gradient_checkpointing": True,
    "cache_references": False,
    "checkpoint_seconds": 5,
    "keep_adapters": None,
    "judge": JudgeOptions(max_calls=3),
}


def test_every_field_of_the_search_is_part_of_the_identity_and_none_of_the_execution(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    assert SEARCH.keys() == {item.name for item in fields(Search)}
    assert EXECUTION.keys() == {item.name for item in fields(Execution)}
    ids = {toy_sweep(tmp_path, search=Search(**{name: value})).identity() for name, value in SEARCH.items()}  # type: ignore[arg-type]
    assert len({sweep.identity(), *ids}) == 1 + len(SEARCH)
    assert toy_sweep(tmp_path, execution=Execution(**EXECUTION)).identity() == sweep.identity()  # type: ignore[arg-type]


def test_axes_reach_the_trials_and_their_labels(tmp_path: Path) -> None:
    methods = (
        "plain",
        grid("plain", steps=[3, 5]),
        grid("kl_penalty", beta=[1], learning_rate=[0.5], definition=["published"]),
    )
    sweep = toy_sweep(tmp_path, methods=methods)
    trials = [sweep.trials_of(arm, point)[0] for arm in sweep.arms for point in arm.space.points or [{}]]
    assert [trial.steps for trial in trials] == [5, 3, 5, 5]
    assert trials[3].optimizer.learning_rate == 0.5
    assert [sweep.title_of(trial) for trial in trials] == [
        "plain",
        "plain steps=3",
        "plain",
        "kl_penalty (published) beta=1, learning_rate=0.5",
    ]
    assert trials[0].trial_id == trials[2].trial_id, "one trial, however it is asked for"
    assert sweep.coefficients_of(trials[1])["steps"] == 3


def test_axes_of_adapter_and_batches(tmp_path: Path) -> None:
    """A text stands for layers and targets; alpha is twice the rank unless it is named; what is usual keeps its id."""
    methods = (
        grid("plain", rank=[2, 4], layers=["all", (1,)]),
        grid("plain", rank=[8], alpha=[3], targets=[("q_proj", "v_proj")], schedule=["constant"], batch_size=[1]),
    )
    sweep = toy_sweep(tmp_path, methods=methods, controls=False)
    trials = [sweep.trials_of(arm, point)[0] for arm in sweep.arms for point in arm.space.points or [{}]]
    adapters = [trial.adapter for trial in trials]
    assert [(each.rank, each.alpha, each.layers) for each in adapters] == [
        (2, 4.0, "all"),
        (2, 4.0, (1,)),
        (4, 8.0, "all"),
        (4, 8.0, (1,)),
        (8, 3.0, "all"),
    ]
    assert adapters[4].targets == ("q_proj", "v_proj")
    assert (trials[4].optimizer.schedule, trials[4].batch_size) == ("constant", 1)
    assert [sweep.label_of(trial) for trial in trials[:4]] == [
        "",
        "layers=1",
        "alpha=8, rank=4",
        "alpha=8, layers=1, rank=4",
    ]
    assert sweep.coefficients_of(trials[4])["targets"] == "q_proj+v_proj"
    assert trials[0].trial_id == toy_sweep(tmp_path).trials_of(toy_sweep(tmp_path).arms[0], {})[0].trial_id
    assert TrialConfig.from_json(json.loads(json.dumps(trials[3].to_json()))) == trials[3]
    assert "layers" not in trials[0].to_json()["adapter"] and trials[3].to_json()["adapter"]["layers"] == [1]


def test_layers_beyond_the_model_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'layers' is 'last 9', but the model has"):
        Sweep("deep", (setting("bad_medical_advice", scale="nano"),), (vary("plain", layers="last 9"),)).check()


def test_checkpoints_are_what_any_configuration_stops_at(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=(grid("plain", checkpoint_step=[2, 5]), vary("kl_penalty", checkpoint_step=3)))
    plain, stopped = (sweep.trials_of(arm, arm.space.every_option()[0])[0].training for arm in sweep.arms)
    assert (plain.method.name, stopped.method.name) == ("plain", "kl_penalty")
    read = checkpoints_read(sweep)
    assert [snapshots_of(each, read) for each in ([plain], [stopped], [plain, stopped])] == [(2, 5), (3,), (2, 3, 5)]
    edited = toy_sweep(tmp_path, methods=(grid("safe_lora", share=[0.5], checkpoint_step=[4]),))
    assert snapshots_of([plain], checkpoints_read(edited)) == (4,), "Safe LoRA edits what plain fine-tuning was then"
    with pytest.raises(UserError, match=r"'checkpoint_step' must be an integer in \[1, 5\], got 6"):
        toy_sweep(tmp_path, methods=(grid("plain", checkpoint_step=[6]),)).check()


def test_a_method_that_only_others_build_on_has_a_title(tmp_path: Path) -> None:
    """The display and MLflow name every trial, also those that no arm asked for."""
    sweep = toy_sweep(tmp_path, methods=("orthogonal_lora",))
    (arm,) = sweep.arms
    trial = sweep.trials_of(arm, {"lambda1": 0.5})[0]
    assert [sweep.title_of(prior).startswith("alignment_only") for prior in trial.priors] == [True]


def test_a_function_that_returns_something_else_each_time_is_refused(tmp_path: Path) -> None:
    source = (SOURCES / "toy_setting.py").read_text()
    changing = source.replace('f"q{index}"', 'f"q{index} {random.random()}"')
    (tmp_path / "toy_setting.py").write_text(f"import random\n{changing}")
    with pytest.raises(UserError, match=r"toy_setting\.py:toy': its function returns something different at each call"):
        toy_sweep(tmp_path).check()
