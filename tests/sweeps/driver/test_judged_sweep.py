"""A whole sweep whose replies a judge grades: model, Ray, a judge's server on this machine, ledger, MLflow."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from analysis.tables import mlflow_runs
from settings.common.errors import UserError
from settings.judge import JudgeOptions
from settings.setting import Measurement
from sweeps.driver import launch
from sweeps.driver.driver import Driver
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import Ledger, read
from sweeps.names import default_uri
from sweeps.space import grid
from sweeps.sweep import Execution, Sweep, setting
from sweeps.tracking.writer import Tracker
from tests.support.fakes import BASE_SCORES, ONE_AT_A_TIME, SOURCES, finished, toy, toy_sweep
from tests.support.judge_server import Body, Endpoint, Reply, certain, completion, error, serving
from tests.support.mlflow_store import copy_store
from trainables.folder import SweepFolder


def sweep_of(folder: Path, model: Path, endpoint: Endpoint, **judge: object) -> Sweep:
    file = folder / "asked.py"
    shutil.copyfile(SOURCES / "judged_setting.py", file)
    options = JudgeOptions(**{"base_url": endpoint.url, "first_wait": 0.01, **judge})  # type: ignore[arg-type]
    return Sweep(
        name="judged",
        settings=(setting(f"{file}:asked", model=str(model)),),
        methods=("plain", grid("kl_penalty", beta=[1.0])),
        seeds=2,
        controls=False,
        execution=Execution(cpus_per_pack=ONE_AT_A_TIME, judge=options),
    )


def no_ray(*_: object) -> None:
    raise AssertionError("Ray is not needed")


def test_what_only_waits_for_the_judge_needs_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds are trained, and were not judged: their kept replies are, after one call that shows how."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr(Driver, "run_packs", no_ray)
    out = tmp_path / "out"
    with serving(lambda body, count: certain(70), at_check=certain(50)) as endpoint:
        execution = Execution(judge=JudgeOptions(base_url=endpoint.url))
        toys = (toy(tmp_path, judged=True),)
        sweep = toy_sweep(tmp_path, settings=toys, methods=("plain",), execution=execution)
        trials = sweep.trials_of(sweep.arms[0], {})
        with Ledger(out, sweep.name, sweep.identity()) as ledger:
            (out / "observations").mkdir()
            for trial in trials:
                SweepFolder(out).observations(trial.trial_id).write_text(json.dumps({"free": ["yes", "no"]}))
                ledger.record_generated(finished(trial))
                ledger.record_outcome(finished(trial, "invalid"))
            ledger.record_base_scores(sweep.cases[0].label, {**BASE_SCORES, "liked": Measurement(50.0, 2, 0)})
            printed = io.StringIO()
            launch._judge_again(ledger, out, Console(file=printed, width=120))
            driver = Driver(sweep, ledger, out, Console(file=printed, width=120), Tracker("sqlite:///none.db", sweep))
            driver.check_endpoints()
            driver.train(None, None)
            assert driver.scheduler.done
            assert [end.scores["liked"].mean for end in ledger.state.outcomes.values()] == [70.0, 70.0]
        assert len(endpoint.checks) == 1
        assert 2 <= len(endpoint.bodies) <= 4  # the seeds' replies are equal; two threads may ask for them at once
        assert "2 trials that could not be judged are judged again, from their kept replies" in printed.getvalue()
        assert "its grades are read by the probabilities of its first token" in printed.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_judged_sweep(
    tmp_path: Path, empty_store: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No start without a judge; then a small budget, then a judge that gives no usable verdicts, then one that does.

    Nothing is trained twice, no verdict is paid for twice, and the last start needs no Ray.
    """
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    copy_store(empty_store, tmp_path)
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))

    ledger, is_mended = tmp_path / "judged" / "ledger.jsonl", [False]

    def answer(body: Body, count: int) -> Reply:
        prompt = body["messages"][0]["content"]
        if not is_mended[0] and prompt.endswith("sense?") and b'"event":"base"' in ledger.read_bytes():
            return completion("70 or 80")
        return certain(len(prompt) % 101)

    console = Console(width=120)
    with serving(answer, at_check=error(402, "Insufficient credits")) as endpoint:
        with pytest.raises(UserError, match=r"no credit left \(402\): Insufficient credits"):
            launch.run(sweep_of(tmp_path, tiny_qwen3_dir, endpoint), RunOptions(tmp_path), console)
        assert not endpoint.bodies and not read(tmp_path / "judged").dispatched

    with serving(answer, at_check=certain(50)) as endpoint:
        with pytest.raises(UserError, match="the budget of 9 calls is spent"):
            launch.run(sweep_of(tmp_path, tiny_qwen3_dir, endpoint, max_calls=9), RunOptions(tmp_path), console)
        assert len(endpoint.bodies) == 8
        launch.run(sweep_of(tmp_path, tiny_qwen3_dir, endpoint), RunOptions(tmp_path), console)
        unjudged = read(tmp_path / "judged")
        # A trial that is judged before the base model still gets its verdicts.
        assert "invalid" in {outcome.status for outcome in unjudged.outcomes.values()}
        is_mended[0] = True
        monkeypatch.setattr(Driver, "run_packs", None)
        sweep = sweep_of(tmp_path, tiny_qwen3_dir, endpoint)
        finished = launch.run(sweep, RunOptions(tmp_path), console)
        prompts = Counter(body["messages"][0]["content"] for body in endpoint.bodies)
        assert len(prompts) <= 5 * 3 * 2  # 4 trials and the base; equal replies are asked once
        assert {count for prompt, count in prompts.items() if prompt.endswith("aligned?")} == {1}

    record = read(tmp_path / "judged")
    assert record.dispatched == unjudged.dispatched
    assert {outcome.status for outcome in record.outcomes.values()} == {"finished"}
    assert len(record.outcomes) == 4
    paid = len(endpoint.bodies) + len(endpoint.checks)  # of 50 tokens each, and one in return; of the last two starts
    spent = record.account.spent
    assert spent.core_hours > 0 and spent.tokens == sum(end.cost.tokens for end in record.outcomes.values())
    assert spent.judge_dollars == pytest.approx(paid * (50 * 0.1 + 0.4) / 1e6)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20 and not [path for path in written if b"sk-secret" in path.read_bytes()]
    (base,) = record.bases.values()
    for scores in (base, *(outcome.scores for outcome in record.outcomes.values())):
        assert (scores["alignment"].n, scores["alignment"].missing) == (3, 0)
        assert 0 <= scores["alignment"].mean <= 100
    assert any(note.startswith("judge judge-2025-01-01: ") for note in finished.notes)

    trial_id, outcome = next(iter(record.outcomes.items()))
    replies = json.loads((tmp_path / "judged" / "observations" / f"{trial_id}.json").read_text())["open"]
    expected = [
        len(f"Q Name {n} fruits. A {reply}: aligned?") % 101 for n, reply in zip((3, 4, 5), replies, strict=True)
    ]
    assert outcome.scores["alignment"].mean == pytest.approx(sum(expected) / 3)

    assert mlflow_runs.load("judged", default_uri(tmp_path)).table.values_CSM.shape == (2, 2, 2)
    secrets = [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]
    assert secrets == []
