"""The comparison that `tests.studies.chaos` rests on sees every way in which a sweep may end otherwise."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from settings.common.files import write_json
from sweeps.ledger import Ledger
from sweeps.names import default_uri
from sweeps.results.frontier_files import publish
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker
from tests.studies.chaos import differences, facts, leftovers
from tests.support.fakes import Rig, toy_sweep
from tests.support.mlflow_store import copy_store
from trainables.folder import SweepFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Sweep, Path]:
    """A sweep that has ended, without any training."""
    output = copy_store(empty_store, tmp_path_factory.mktemp("ended"))
    sweep = toy_sweep(output, methods=("plain",))
    folder = output / sweep.name
    rig = Rig(sweep, folder)
    rig.run(random.Random(0))
    rig.kill()
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        for trial_id in ledger.state.outcomes:
            write_json(folder / "observations" / f"{trial_id}.json", {"all": ["yes", "no"]})
        tracker = Tracker(default_uri(output), sweep, output / "artifacts")
        tracker.start(record=ledger.state)
        publish(sweep, ledger.state, folder, tracker)
        tracker.close()
    assert not tracker.problems
    return sweep, output


def _outcome(folder: Path, change: Callable[[str], str]) -> None:
    """Put other lines in the place of the last outcome's line."""
    lines = SweepFolder(folder).ledger.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"event":"outcome"' in line)
    SweepFolder(folder).ledger.write_text("".join([*lines[:last], change(lines[last]), *lines[last + 1 :]]))


def _one_bit(line: str) -> str:
    """The last bit of one score is another one."""
    event = json.loads(line)
    score = event["outcome"]["scores"]["other"]
    score["mean"] = math.nextafter(score["mean"], 1)
    return json.dumps(event) + "\n"


def _mlflow(folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(folder.parent))
    experiment = client.get_experiment_by_name(folder.name)
    runs = client.search_runs([experiment.experiment_id])
    tags = {key: value for key, value in runs[0].data.tags.items() if not key.startswith("mlflow.user")}
    client.create_run(experiment.experiment_id, run_name=runs[0].info.run_name, tags=tags)


def _frontier(folder: Path) -> None:
    text = (folder / "frontier.json").read_text()
    (folder / "frontier.json").write_text(text.replace('"seeds": 2', '"seeds": 1'))


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an outcome twice": (lambda folder: _outcome(folder, lambda line: line + line), "events: "),
    "a lost outcome": (lambda folder: _outcome(folder, lambda line: ""), "outcome "),
    "a bit of a score": (lambda folder: _outcome(folder, _one_bit), "outcome "),
    "another frontier": (_frontier, "frontier.json"),
    "another reply": (lambda folder: next((folder / "observations").iterdir()).write_text("{}"), "observations"),
    "a run too much": (_mlflow, "mlflow: "),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_difference_is_seen(tmp_path: Path, ended: tuple[Sweep, Path], what: str) -> None:
    sweep, output = ended
    shutil.copytree(output, tmp_path / "copy")
    expected = facts(sweep, output)
    assert differences(expected, facts(sweep, tmp_path / "copy")) == []
    change, where = CHANGES[what]
    change(tmp_path / "copy" / sweep.name)
    found = differences(expected, facts(sweep, tmp_path / "copy"))
    assert any(line.startswith(where) for line in found), found


def test_leftovers_are_seen(tmp_path: Path) -> None:
    assert not leftovers(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/pack.safetensors", ".ledger.node-1.partial"):
        (tmp_path / name).touch()
    assert len(leftovers(tmp_path)) == 2
