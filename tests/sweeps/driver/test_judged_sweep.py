"""A whole sweep whose replies a judge grades: model, Ray, a judge's server on this machine, ledger, MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from analysis.tables import mlflow_runs
from settings.common.errors import UserError
from settings.judge import JudgeOptions
from sweeps.driver import launch
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import read
from sweeps.names import default_uri
from sweeps.space import grid
from sweeps.sweep import Execution, Sweep, setting
from tests.support.fakes import ONE_AT_A_TIME, SOURCES
from tests.support.judge_server import Body, Endpoint, Reply, certain, serving
from tests.support.mlflow_store import copy_store


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


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_judged_sweep(
    tmp_path: Path, empty_store: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first start has too small a budget, a second one ends; no verdict is paid for twice."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    copy_store(empty_store, tmp_path)
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))

    def answer(body: Body, count: int) -> Reply:
        return certain(len(body["messages"][0]["content"]) % 101)

    console = Console(width=120)
    with serving(answer) as endpoint:
        with pytest.raises(UserError, match="the budget of 9 calls is spent"):
            launch.run(sweep_of(tmp_path, tiny_qwen3_dir, endpoint, max_calls=9), RunOptions(tmp_path), console)
        assert len(endpoint.bodies) == 9
        finished = launch.run(sweep_of(tmp_path, tiny_qwen3_dir, endpoint), RunOptions(tmp_path), console)
        prompts = {body["messages"][0]["content"] for body in endpoint.bodies}
        assert len(endpoint.bodies) == len(prompts) <= 5 * 3 * 2  # 4 trials and the base; equal replies are asked once

    record = read(tmp_path / "judged")
    assert {outcome.status for outcome in record.outcomes.values()} == {"finished"}
    assert len(record.outcomes) == 4
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
