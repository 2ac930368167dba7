"""A whole sweep whose replies come from a server on this machine: model, Ray, ledger, adapters as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from settings.replies import Endpoint
from sweeps.driver import launch
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import read
from sweeps.sweep import Execution, Sweep, setting
from tests.support.fakes import ONE_AT_A_TIME
from tests.support.mlflow_store import copy_store
from tests.support.reply_server import packed_replies, serving_replies
from trainables.bases.load_base import load_base

SETTING = '''
"""A setting whose scores are of replies in words, and of losses."""

from settings.base_models import PretrainedModel, Recipe
from settings.example import Example
from settings.setting import Evaluation, Score, Setting


def asked(model: str) -> Setting:
    """Count the letters of replies."""
    questions = tuple(Example.of(f"Name {number} fruits.", "Apples.") for number in (3, 4, 5))
    rows = tuple(Example.of(f"What is the divisor of {number} and 6?", "2") for number in (2, 4, 8, 10))
    letters = Score("task", "task", "letters of a reply", lambda example, reply: float(len(reply)))
    loss = Score("alignment", "alignment", "nats", lambda example, value: value, higher_is_better=False)
    return Setting(
        name="asked",
        scale="full",
        summary="For a test.",
        base_model=PretrainedModel(model),
        streams={"task": rows, "alignment": (Example.of("Name a cafe.", "Zum Loewen."),)},
        evaluations=(
            Evaluation("replies", questions, (letters,), max_new_tokens=4),
            Evaluation("loss", questions, (loss,), observe="token_loss"),
        ),
        recipe=Recipe(steps=3, batch_size=2, alignment_batch_size=1, learning_rate=0.05, rank=2),
    )
'''


@pytest.mark.study
@pytest.mark.timeout(400)
def test_a_sweep_with_replies_of_a_server_is_the_sweep_without(
    tmp_path: Path, empty_store: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No start where the server lacks the base model; then the same scores as without a server, adapters from files."""
    copy_store(empty_store, tmp_path)
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "asked.py").write_text(SETTING)
    base = load_base(PretrainedModel(str(tiny_qwen3_dir)), dtype=torch.float32)
    scores = []
    with serving_replies(packed_replies(base), base="another") as served:
        for replies in (None, Endpoint(url=served.url)):
            sweep = Sweep(
                name="served" if replies else "packed",
                settings=(setting(f"{tmp_path / 'asked.py'}:asked", model=str(tiny_qwen3_dir)),),
                methods=("plain",),
                seeds=2,
                execution=Execution(cpus_per_pack=ONE_AT_A_TIME),
                replies=replies,
            )
            if replies:
                with pytest.raises(UserError, match=f"it serves another, not '{tiny_qwen3_dir}'"):
                    launch.run(sweep, RunOptions(tmp_path), Console(width=120))
                served.base = str(tiny_qwen3_dir)
            summary = launch.run(sweep, RunOptions(tmp_path), Console(width=120))
            record = read(tmp_path / sweep.name)
            outcomes = sorted(record.outcomes.values(), key=lambda end: json.dumps(_plain(end.trial.to_json())))
            assert {end.status for end in outcomes} == {"finished"} and len(outcomes) >= 10  # the controls' scales, too
            scores.append([record.bases[sweep.cases[0].label], *(end.scores for end in outcomes)])
        assert not served.adapters
    assert scores[0] == scores[1]
    assert len({each["task"].mean for each in scores[0]}) > 3
    assert any(note.startswith("replies at 127.0.0.1") and "sampled" in note for note in summary.notes)


def _plain(trial: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in trial.items() if key != "replies"}
