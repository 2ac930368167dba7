"""What a sweep keeps on the disk: the rule, what is in use, leftovers, and paths that a ledger may not lead to."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from settings.common.errors import UserError
from sweeps.cli.app import app
from sweeps.ledger import Ledger, read
from sweeps.results.cleaning import prunable, prune, removable
from sweeps.results.disk import size_of, usage
from sweeps.space import grid
from sweeps.sweep import Sweep
from tests.support.fakes import SOURCES, Rig, finished, toy_sweep
from trainables.folder import SweepFolder
from trainables.outcome import Outcome
from trainables.trial import TrialConfig, pack_id

BETAS = [0.1, 0.3, 1.0, 3.0, 10.0]


def write_adapter(folder: Path, trial: TrialConfig, size: int = 1000) -> Path:
    directory = folder / "adapters" / trial.trial_id
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(bytes(size))
    return directory


def worse_inside(trial: TrialConfig) -> Outcome:
    """The ends of the knob are on the frontier, and what lies between is not."""
    outcome = finished(trial)
    if trial.method.name == "kl_penalty" and trial.coefficients["beta"] in BETAS[1:-1]:
        return replace(outcome, scores={name: replace(one, mean=-1.0) for name, one in outcome.scores.items()})
    return replace(outcome, adapter=trial.trial_id)


def done(folder: Path, **changes: Any) -> tuple[Sweep, Path]:
    """A finished sweep of one knob, with an adapter for each trial, and its folder."""
    sweep = toy_sweep(folder, **({"methods": (grid("kl_penalty", beta=BETAS),)} | changes))
    rig = Rig(sweep, folder / "out" / sweep.name)
    assert rig.run(random.Random(0), ending=worse_inside)
    for outcome in rig.ledger.state.outcomes.values():
        write_adapter(rig.out, outcome.trial)
    rig.kill()
    return sweep, rig.out


def betas(paths: list[Path], folder: Path) -> set[float]:
    trials = {key: outcome.trial for key, outcome in read(folder).outcomes.items()}
    return {trials[path.name].coefficients["beta"] for path in paths}


def test_the_frontier_and_the_newest_stay(tmp_path: Path) -> None:
    sweep, folder = done(tmp_path)
    record = read(folder)
    items = prunable(sweep, record, folder, newest=0)
    assert betas([item.path for item in items], folder) == set(BETAS[1:-1])
    assert len(items) == 6 and {item.size for item in items} == {1000}
    last = list(record.outcomes)[-3:]
    kept = {item.path.name for item in items} - {item.path.name for item in prunable(sweep, record, folder, newest=3)}
    assert kept == {item.path.name for item in items}.intersection(last)
    assert not prunable(sweep, record, folder, newest=10)
    assert prune(items) == 6000
    assert len(list((folder / "adapters").iterdir())) == 4
    assert not prunable(sweep, record, folder, newest=0)


def test_what_others_build_on_stays(tmp_path: Path) -> None:
    """The plain training that a method edits, and the prior; neither is on the frontier."""
    sweep = toy_sweep(tmp_path, methods=(grid("safe_lora", share=[0.5]), grid("kl_penalty", beta=[0.1])), seeds=1)
    rig = Rig(sweep, tmp_path / "out")

    def ending(trial: TrialConfig) -> Outcome:
        outcome = finished(trial)
        good = trial.method.name == "kl_penalty"
        return (
            outcome if good else replace(outcome, scores={n: replace(s, mean=-1.0) for n, s in outcome.scores.items()})
        )

    assert rig.run(random.Random(0), ending=ending)
    for outcome in rig.ledger.state.outcomes.values():
        write_adapter(rig.out, outcome.trial)
    (item,) = prunable(sweep, rig.ledger.state, rig.out, newest=0)
    gone = rig.ledger.state.outcomes[item.path.name].trial
    assert gone.method.name == "safe_lora"
    assert {outcome.trial.method.name for outcome in rig.ledger.state.outcomes.values()} > {"plain", "alignment_only"}


def test_adapters_of_trials_that_have_not_ended_stay(tmp_path: Path) -> None:
    """Among them snapshots that a readout is going to use, and folders that the ledger does not know."""
    sweep, folder = done(tmp_path, configurations=1)
    (trial, *_) = sweep.trials_of(sweep.arms[0], {"beta": 1.0})
    unknown = write_adapter(folder, replace(trial, seed=77))
    assert unknown not in {item.path for item in removable(sweep, read(folder), folder, newest=0)}


def test_checkpoints_of_ended_packs_and_leftovers_go(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[0.1, 1.0]),))
    rig = Rig(sweep, tmp_path / "out")
    rig.next_job(), rig.next_job(), rig.next_job()
    one, two = rig.dispatched
    rig.scheduler.report("t2", outcomes=[finished(trial) for trial in one])
    rig.scheduler.close("t2")
    for pack in (one, two):
        SweepFolder(rig.out).checkpoint(pack_id(pack)).parent.mkdir(exist_ok=True)
        SweepFolder(rig.out).checkpoint(pack_id(pack)).write_bytes(bytes(10))
    (rig.out / "adapters").mkdir()
    for name in (".x.partial", "adapters/.y.partial", "checkpoints/.z.partial", "ledger.torn", "study.torn"):
        (rig.out / name).write_text("left")
    names = {str(item.path.relative_to(rig.out)) for item in removable(sweep, rig.ledger.state, rig.out, newest=0)}
    assert names == {
        f"checkpoints/{SweepFolder(rig.out).checkpoint(pack_id(one)).name}",
        ".x.partial",
        "adapters/.y.partial",
        "checkpoints/.z.partial",
        "ledger.torn",
        "study.torn",
    }


def test_use_by_kind(tmp_path: Path) -> None:
    _, folder = done(tmp_path)
    (folder / "observations").mkdir()
    (folder / "observations" / "a.json").write_bytes(bytes(50))
    (folder / "grades").mkdir()
    (folder / "grades" / "a.json").write_bytes(bytes(7))
    (folder / "frontier.json").write_bytes(bytes(3))
    (folder / "ledger.torn").write_bytes(bytes(2))
    found = usage(folder)
    own = sum(path.stat().st_size for path in (SweepFolder(folder).ledger, SweepFolder(folder).study))
    assert found == {
        "adapters": 10_000,
        "replies and grades": 57,
        "ledger and study": own,
        "results": 3,
        "leftovers": 2,
    }
    assert sum(found.values()) == size_of(folder)


# --- the command ---


@pytest.fixture
def command(tmp_path: Path) -> tuple[list[str], Path]:
    """`selgen sweep ... FILE --output DIR` of a finished sweep, without the verb, and its folder."""
    sweep, folder = done(tmp_path)
    file = tmp_path / "sweep.py"
    file.write_text(
        "from sweeps.space import grid\nfrom sweeps.sweep import Sweep, setting\n"
        f"sweep = Sweep({sweep.name!r}, (setting({sweep.settings[0].name!r}),), (grid('kl_penalty', beta={BETAS}),),"
        " configurations=6, seeds=2, controls=False)\n"
    )
    return [str(file), "--output", str(tmp_path / "out")], folder


def test_clean_says_what_would_go_and_then_it_goes(command: tuple[list[str], Path]) -> None:
    options, folder = command
    before = sorted(folder.rglob("*"))
    dry = CliRunner().invoke(app, ["sweep", "clean", *options, "--keep", "0", "--dry-run"])
    assert dry.exit_code == 0, dry.exception
    assert "would be deleted" in dry.output and "adapters: its trial has ended and is not on the frontier" in dry.output
    assert sorted(folder.rglob("*")) == before
    wet = CliRunner().invoke(app, ["sweep", "clean", *options, "--keep", "0"])
    assert wet.exit_code == 0 and "deleted" in wet.output
    assert len(list((folder / "adapters").iterdir())) == 4
    again = CliRunner().invoke(app, ["sweep", "clean", *options, "--keep", "0"])
    assert "nothing to delete" in again.output
    status = CliRunner().invoke(app, ["sweep", "status", *options, "--json"])
    assert json.loads(status.output)["disk"]["adapters"] == 4000
    shown = CliRunner().invoke(app, ["sweep", "status", *options])
    assert "ledger and study" in shown.output


def test_clean_refuses_while_the_sweep_runs(command: tuple[list[str], Path]) -> None:
    options, folder = command
    record = read(folder)
    with Ledger(folder, record.sweep, record.identity):
        result = CliRunner().invoke(app, ["sweep", "clean", *options])
    assert isinstance(result.exception, UserError) and "another process is running this sweep" in str(result.exception)


def test_clean_makes_nothing_where_no_sweep_ran(command: tuple[list[str], Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sweep", "clean", command[0][0], "--output", str(tmp_path / "empty")])
    assert isinstance(result.exception, UserError) and "no sweep ran there" in str(result.exception)
    assert not (tmp_path / "empty").exists()


# --- what a ledger of others may say ---


@pytest.mark.parametrize("adapter", ["../../elsewhere", "/etc", "another"])
def test_an_adapter_has_its_trials_name(tmp_path: Path, adapter: str) -> None:
    _, folder = done(tmp_path)
    path = SweepFolder(folder).ledger
    lines = path.read_text().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if '"adapter":"' in line)
    event = json.loads(lines[number])
    event["outcome"]["adapter"] = adapter
    lines[number] = json.dumps(event) + "\n"
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=f"line {number + 1} is not an event of this ledger: adapter '{adapter}'"):
        read(folder)


def test_a_setting_that_the_sweep_does_not_have_is_not_run(tmp_path: Path) -> None:
    """A setting's name may be a file, and a ledger of others may name any."""
    sweep, folder = done(tmp_path)
    touch = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "evil.py").write_text(touch + (SOURCES / "toy_setting.py").read_text())
    path = SweepFolder(folder).ledger
    text = re.sub('"adapter":"[0-9a-f]+"', '"adapter":null', path.read_text())
    path.write_text(text.replace("toy_setting.py:toy", "evil.py:toy"))
    with pytest.raises(UserError, match=r"a trial of setting '.*evil.py:toy', which is not one of the sweep's"):
        sweep.check_settings(read(folder).trials)
    assert not (tmp_path / "ran").exists()
