"""A whole sweep on rows that others wrote: files -> two model families -> Ray -> ledger, MLflow, frontier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from analysis.tables import mlflow_runs
from settings.reference import setting_label
from sweeps.driver import launch
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import read
from sweeps.names import default_uri
from sweeps.space import grid
from sweeps.sweep import Execution, Sweep, setting
from tests.support.fakes import ONE_AT_A_TIME
from tests.support.mlflow_store import copy_store


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_families_to_a_frontier(
    tmp_path: Path, reference_data: Path, empty_store: Path, tiny_gemma_dir: Path, tiny_qwen3_dir: Path
) -> None:
    """2 models x 2 methods x 2 seeds: 8 trials, each once, with scores, adapters and runs."""
    settings = tuple(
        setting(
            "chat_files",
            model=str(model),
            task=str(reference_data / "gcd" / "task_train.jsonl"),
            alignment=str(reference_data / "alignment_proxies" / "harmless_positive.jsonl"),
            match={"task": r"(\d+)\.?$"},
            max_new_tokens=8,
        )
        for model in (tiny_gemma_dir, tiny_qwen3_dir)
    )
    sweep = Sweep(
        name="real-input",
        settings=settings,
        methods=(grid("kl_penalty", beta=[0.1]), grid("upweighted", weight=[0.3])),
        seeds=2,
        options={"steps": 10, "batch_size": 2, "alignment_batch_size": 2, "rank": 4, "learning_rate": 0.1},
        controls=False,
        execution=Execution(cpus_per_pack=ONE_AT_A_TIME),
    )
    copy_store(empty_store, tmp_path)
    finished = launch.run(sweep, RunOptions(tmp_path), Console(width=120))
    assert not finished.interrupted

    record = read(tmp_path / sweep.name)
    assert {outcome.status for outcome in record.outcomes.values()} == {"finished"}
    assert len(record.outcomes) == 8
    for outcome in record.outcomes.values():
        label = setting_label(outcome.trial.setting)
        assert outcome.scores["task"].mean < record.bases[label]["task"].mean - 0.05  # it learned something
        assert outcome.scores["task_match"].n > 0
        assert (tmp_path / sweep.name / "adapters" / outcome.trial.trial_id / "adapter_model.safetensors").is_file()

    for ref in settings:
        loaded = mlflow_runs.load(sweep.name, default_uri(tmp_path), setting_label(ref))
        assert loaded.table.values_CSM.shape == (2, 2, 2)
        assert loaded.counts["finished"] == 4
    figures = sorted(path.name for path in finished.files)
    assert figures == sorted(f"frontier_{number}.{ending}" for number in (0, 1) for ending in ("csv", "json", "png"))
    points = json.loads((tmp_path / sweep.name / "frontier_0.json").read_text())["points"]
    assert points
    assert {"mean", "low", "high"} == set(points[0]["task"])

    trial = next(outcome.trial for outcome in record.outcomes.values() if outcome.trial.setting == settings[1])
    base = AutoModelForCausalLM.from_pretrained(tiny_qwen3_dir)
    PeftModel.from_pretrained(base, tmp_path / sweep.name / "adapters" / trial.trial_id)
