"""What MLflow's pages show of a published sweep: means and intervals, the frontier, rows, adapters, and no JSON."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from analysis.tables.mlflow_runs import load
from settings.common.content import content_id
from settings.common.files import write_json
from settings.setting import Measurement
from sweeps.cli.ui import pages_of
from sweeps.ledger import Asked, LedgerState, read
from sweeps.names import default_uri
from sweeps.results.frontier_files import publish
from sweeps.space import grid
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker
from tests.conftest import ROOT
from tests.support.fakes import Rig, finished, toy_sweep
from tests.support.mlflow_store import copy_store
from tests.support.pages import code_blocks
from tests.support.peft_adapters import adapted_sweep, base_directory
from trainables.outcome import Outcome

pytestmark = pytest.mark.slow


def shown(sweep: Sweep, record: LedgerState, output: Path) -> MlflowClient:
    """Publish a sweep into the store of an output folder, and open it."""
    tracker = Tracker(default_uri(output), sweep, output / "artifacts")
    tracker.start(record=record)
    publish(sweep, record, output / sweep.name, tracker)
    tracker.close()
    assert tracker.problems == []
    return MlflowClient(default_uri(output))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Sweep, LedgerState, Path]:
    """A sweep of two methods and three seeds, one of which did not finish."""
    folder = tmp_path_factory.mktemp("pages")
    output = copy_store(empty_store, folder / "runs")
    methods = ("plain", grid("kl_penalty", beta=[0.1, 1.0, 10.0]), grid("upweighted", weight=[0.3, 3.0]))
    sweep = toy_sweep(folder, methods=methods, seeds=3)
    rig = Rig(sweep, output / sweep.name)
    rig.run(random.Random(0), lambda trial: finished(trial, "invalid" if diverged(trial.to_json()) else "finished"))
    for outcome in rig.ledger.state.outcomes.values():
        path = output / sweep.name / "observations" / f"{outcome.trial.trial_id}.json"
        write_json(path, {"all": ["yes", "no"]}, durable=False)
    rig.kill()
    record = read(output / sweep.name)
    shown(sweep, record, output)
    return sweep, record, output


def diverged(trial: Mapping[str, Any]) -> bool:
    return bool(trial["method"].get("beta") == 1.0 and trial["seed"] == 2)


@pytest.fixture()
def client(published: tuple[Sweep, LedgerState, Path]) -> MlflowClient:
    return MlflowClient(default_uri(published[2]))


def searched(client: MlflowClient, condition: str, order: Sequence[str] = ()) -> list[Run]:
    """Runs of the toy sweep that a query finds, in its order."""
    experiment = client.get_experiment_by_name("toy-sweep")
    return list(client.search_runs([experiment.experiment_id], condition, order_by=list(order)))


def test_configurations_carry_means_intervals_and_the_front(
    published: tuple[Sweep, LedgerState, Path], client: MlflowClient
) -> None:
    _, record, output = published
    with (output / "toy-sweep" / "frontier.csv").open() as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    runs = searched(client, "tags.`selgen.kind` = 'configuration'")
    assert len(runs) == len(rows) == 6
    for run in runs:
        configuration = run.data.tags["selgen.configuration"]
        ends = [end for end in record.outcomes.values() if end.trial.configuration_id == configuration]
        seeds = [end for end in ends if end.status == "finished"]
        metrics, row = run.data.metrics, rows[configuration]
        assert metrics["seeds"] == len(seeds) == (2 if run.info.run_name == "kl_penalty beta=1" else 3)
        assert run.data.tags["frontier"] == row["on_front"]
        for score in ("task", "alignment", "other"):
            assert metrics[score] == pytest.approx(fmean(end.scores[score].mean for end in seeds))
        for score in ("task", "alignment"):
            low, high = metrics[f"{score}_low"], metrics[f"{score}_high"]
            assert (low, high) == pytest.approx((float(row[f"{score}_low"]), float(row[f"{score}_high"])))
            assert low < metrics[score] < high
        assert metrics["other_low"] == metrics["other_high"] == 0.5  # no objective, and the same in every trial
        assert (metrics["tokens"], metrics["seconds"]) == (100, 0.5)


def test_the_query_of_the_readme_sorts_and_filters(
    published: tuple[Sweep, LedgerState, Path], client: MlflowClient
) -> None:
    """The block is run as it is printed, on this store. MLflow's answer is held against the CSV file."""
    with (published[2] / "toy-sweep" / "frontier.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["on_front"] == "true"]
    good = [row for row in rows if float(row["alignment_low"]) > 0.7]
    assert 0 < len(good) < len(rows)
    block = code_blocks(ROOT / "sweeps" / "README.md", "In MLflow")[0]
    names: dict[str, Any] = {}
    exec(block.replace("quickstart", "toy-sweep").replace("sqlite:///runs/mlflow.db", client.tracking_uri), names)
    found = names["front"]
    expected = sorted(good, key=lambda row: -float(row["task_mean"]))
    assert [run.data.tags["selgen.configuration"] for run in found] == [row["configuration"] for row in expected]


def test_nobody_sees_json_among_tags(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("toy-sweep")
    runs = client.search_runs([experiment.experiment_id])
    tags = [item for each in (experiment, *runs) for item in getattr(each, "data", each).tags.items()]
    seen = [value for key, value in tags if not key.startswith("mlflow.")]
    assert seen and not [value for value in seen if value[:1] in ("[", "{")]


def test_publishing_again_writes_nothing(published: tuple[Sweep, LedgerState, Path], client: MlflowClient) -> None:
    sweep, record, output = published

    def points() -> list[Any]:
        return sorted(
            (run.info.run_id, metric.key, metric.timestamp, metric.value)
            for run in searched(client, "")
            for name in run.data.metrics
            for metric in client.get_metric_history(run.info.run_id, name)
        )

    before = points()
    shown(sweep, record, output)
    assert points() == before


def test_means_and_front_follow_the_sweep(tmp_path: Path, empty_store: Path) -> None:
    """A configuration whose seeds turn out better is on the front then, with its new means."""
    output = copy_store(empty_store, tmp_path / "runs")
    sweep = toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[1.0, 10.0]),))
    record = LedgerState(sweep.name, sweep.identity())
    trials = [trial for point in sweep.arms[0].space.points or () for trial in sweep.trials_of(sweep.arms[0], point)]
    record.outcomes = {trial.trial_id: finished(trial) for trial in trials}
    asked = dict.fromkeys(trial.configuration_id for trial in trials)
    record.asked["arm"] = {number: Asked(number, {}, configuration) for number, configuration in enumerate(asked)}
    (output / sweep.name).mkdir()
    worse = [trial for trial in trials if trial.coefficients["beta"] == 10.0]
    for trial in worse:
        scores = {name: Measurement(0.01 * trial.seed, 4, 0) for name in ("task", "alignment")}
        record.outcomes[trial.trial_id] = Outcome(trial=trial, status="finished", scores=scores)
    client = shown(sweep, record, output)
    fronts = {run.info.run_name: run.data.tags.get("frontier") for run in searched(client, "metrics.seeds > 0")}
    assert fronts == {"kl_penalty beta=1": "true", "kl_penalty beta=10": "false"}
    for trial in worse:
        record.outcomes[trial.trial_id] = finished(trial)
    shown(sweep, record, output)
    fronts = {run.info.run_name: run.data.tags.get("frontier") for run in searched(client, "metrics.seeds > 0")}
    assert fronts == {"kl_penalty beta=1": "true", "kl_penalty beta=10": "true"}
    (run,) = searched(client, "attributes.run_name = 'kl_penalty beta=10'")
    assert run.data.metrics["task"] == pytest.approx(fmean(finished(trial).scores["task"].mean for trial in worse))


def test_runs_name_the_rows_that_they_read(published: tuple[Sweep, LedgerState, Path], client: MlflowClient) -> None:
    sweep = published[0]
    setting = sweep.cases[0].setting
    digests = {
        f"toy: {name} rows": content_id([row.to_json() for row in rows]) for name, rows in setting.streams.items()
    }
    digests |= {
        f"toy: questions of {each.name}": content_id([row.to_json() for row in each.examples])
        for each in setting.evaluations
    }

    def read_of(name: str) -> dict[str, tuple[str, str]]:
        (run,) = searched(client, f"attributes.run_name = '{name}'")
        return {
            each.dataset.name: (each.dataset.digest, each.tags[0].value)
            for each in run.inputs.dataset_inputs
            if json.loads(each.dataset.source)["setting"] == "toy"
        }

    alignment = ("toy: alignment rows", "training")
    for name in ("plain", "plain seed=1"):
        assert alignment[0] not in read_of(name) and ("toy: task rows" in read_of(name))
    for name in ("kl_penalty beta=10", "kl_penalty beta=10 seed=0", "toy-sweep"):
        reads = read_of(name)
        assert reads == {
            key: (digests[key], "evaluation" if "questions" in key else "training") for key in digests if key in reads
        }
        assert reads[alignment[0]][1] == alignment[1]
    assert read_of("toy-sweep").keys() == digests.keys()


def test_the_ui_opens_at_the_figure(published: tuple[Sweep, LedgerState, Path], client: MlflowClient) -> None:
    uri = default_uri(published[2])
    figure, table = (urlsplit(page) for page in pages_of("toy-sweep", uri).values())
    place, _, query = figure.fragment.partition("?")
    assert parse_qs(query) == {"workflowType": ["machine_learning"]}
    _, _, experiment, _, run, _, *file = unquote(place).split("/")
    assert "/".join(file) == "description/frontier.png"
    assert client.get_run(run).data.tags["selgen.kind"] == "sweep"
    assert [item.path for item in client.list_artifacts(run, "description")] == ["description/frontier.png"]
    tags = client.get_experiment(experiment).tags
    assert figure.fragment in tags["mlflow.note.content"] and "1 trial invalid" in tags["mlflow.note.content"]
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    (key,) = parse_qs(table.fragment.partition("?")[2])["viewStateShareKey"]
    view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert len(searched(client, view["searchFilter"], [f"{view['orderByKey']} DESC"])) == 6
    assert {"metrics.`alignment_low`", "tags.`frontier`"} <= set(view["selectedColumns"])


def test_tags_of_earlier_versions_are_read(published: tuple[Sweep, LedgerState, Path], tmp_path: Path) -> None:
    sweep, _, output = published
    old = copy_store(output / "mlflow.db", tmp_path / "old")
    client, whole = MlflowClient(default_uri(old)), load(sweep.name, default_uri(output))
    for run in searched(client, ""):
        for key, value in run.data.tags.items():
            if key.startswith("mlflow.selgen."):
                client.set_tag(run.info.run_id, key.removeprefix("mlflow."), value)
                client.delete_tag(run.info.run_id, key)
    loaded = load(sweep.name, default_uri(old))
    assert (loaded.records, loaded.objectives, loaded.base_scores) == (
        whole.records,
        whole.objectives,
        whole.base_scores,
    )


LOADING = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}", model_config={"max_new_tokens": 5})
print(json.dumps(model.predict(["Name a colour, please."])))
"""


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, MlflowClient, list[Any]]:
    """A sweep whose kl_penalty has adapters, its client, and its logged models."""
    folder = tmp_path_factory.mktemp("models")
    output = copy_store(empty_store, folder / "runs")
    sweep = adapted_sweep(folder, output)
    for _ in range(2):  # what is there is not logged again
        client = shown(sweep, read(output / sweep.name), output)
    experiment = client.get_experiment_by_name(sweep.name)
    return folder, client, list(client.search_logged_models([experiment.experiment_id]))


def test_frontier_adapters_are_logged_models_with_scores(adapted: tuple[Path, MlflowClient, list[Any]]) -> None:
    folder, client, models = adapted
    record = read(folder / "runs" / "adapted")
    points = json.loads((folder / "runs" / "adapted" / "frontier.json").read_text())["points"]
    on_front = {point["configuration"] for point in points if point["method"] == "kl_penalty"}
    expected = {key for key, end in record.outcomes.items() if end.trial.configuration_id in on_front and end.adapter}
    assert {model.tags["selgen.trial"] for model in models} == expected and len(models) == len(expected) > 0
    for model in models:
        outcome = record.outcomes[model.tags["selgen.trial"]]
        assert (str(model.status), model.tags["frontier"]) == ("READY", "true")
        assert model.params["beta"] == str(outcome.trial.coefficients["beta"])
        assert f"seed={outcome.trial.seed}" in model.name and "." not in model.name
        scores = {metric.key: metric.value for metric in model.metrics}
        expected_scores = {f"eval/{name}": outcome.scores[name].mean for name in ("task", "alignment")}
        assert scores == pytest.approx(expected_scores)
        assert all(": questions of " in metric.dataset_name for metric in model.metrics)
        run = client.get_run(model.source_run_id)
        assert run.data.tags["selgen.trial"] == outcome.trial.trial_id
        assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
        assert len(client.get_metric_history(run.info.run_id, "eval/task")) == 1, "the run's own score stays alone"


SAVING = """
import sys
from pathlib import Path
from sweeps.tracking.models import save_model
save_model(Path(sys.argv[1]), Path(sys.argv[2]), "m-1")
print(sorted({"peft", "transformers"} & set(sys.modules)))
"""


def test_a_driver_that_logs_adapters_does_not_import_what_only_loading_them_needs(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    command = [sys.executable, "-c", SAVING, str(tmp_path / "model"), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (tmp_path / "model" / "MLmodel").is_file(), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.study
def test_mlflow_loads_a_frontier_adapter_in_a_fresh_process(
    adapted: tuple[Path, MlflowClient, list[Any]], tmp_path: Path
) -> None:
    folder, client, models = adapted
    command = [sys.executable, "-I", "-c", LOADING, client.tracking_uri, models[0].model_id]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    base = base_directory(folder)
    directory = folder / "runs" / "adapted" / "adapters" / models[0].tags["selgen.trial"]
    tokenizer, plain = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    model = PeftModel.from_pretrained(plain, directory).eval()
    turns = [{"role": "user", "content": "Name a colour, please."}]
    encoded = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        replied = model.generate(**encoded, do_sample=False, max_new_tokens=5)
    reply = tokenizer.decode(replied[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [reply]
