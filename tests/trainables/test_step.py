"""What a step does to the base model, in rows: the stated cost, parts of a batch, and when a loss has exploded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.method import BatchSizes, cost_of
from trainables.pack import Pack
from trainables.step import _StreamPass
from trainables.store import AdapterStore
from trainables.trial import TrialConfig

STEPS = 20


def train(trials: list[TrialConfig], **options: Any) -> list[dict[str, Tensor]]:
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, **options)
    pack.advance(STEPS)
    assert [record.status for record in pack.records] == ["finished"] * len(trials)
    return [pack.adapters.member(index) for index in range(len(trials))]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", methods.names())
def test_the_stated_cost_is_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go forward and backward through the base in a step, counted."""
    trial = tiny_trial(methods.make(name)).training
    prepare(trial.requires, tmp_path)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=AdapterStore(tmp_path))
    rows = {"forward": 0, "backward": 0}
    forward = _StreamPass._forward

    def counted(self: _StreamPass, chunk: Any, *, policy: bool) -> Any:
        number = len(chunk.batch.ids_RT)
        rows["forward"] += number
        outputs = forward(self, chunk, policy=policy)
        for output in outputs if policy else ():
            if output is not None:  # a loss sees the final states or those of all layers, so one hook is called
                output.register_hook(lambda _: rows.update(backward=rows["backward"] + number))
        return outputs

    monkeypatch.setattr(_StreamPass, "_forward", counted)
    pack.advance(1)
    cost = cost_of(trial.method, trial.sizes)
    assert rows["forward"] == pytest.approx(cost.forwards * trial.batch_size, abs=1)  # a share of a row is rounded
    assert rows["backward"] == pytest.approx(cost.backwards * trial.batch_size, abs=1)


def test_costs_relative_to_plain() -> None:
    """With half as many alignment rows as task rows: KL reads 1 + 1/2 + 1/2, DPO 1 + 4/2."""
    sizes = BatchSizes(task=2, alignment=1)
    forwards = {name: cost_of(methods.make(name), sizes).forwards for name in methods.names()}
    known = ("plain", "upweighted", "kl_penalty", "dpo", "gradient_projection")
    assert [forwards[name] for name in known] == [1, 1.5, 2, 3, 1.5]


@pytest.mark.parametrize("values", [{"directions": 3}, {"directions": 3, "stage": "update", "scope": "global"}])
def test_parts_of_a_batch_pack_and_micro_batch_like_all_else(values: dict[str, Any]) -> None:
    """Proxy rows with a gradient for each part, beside members that have no parts: to 1e-9 in float64."""
    trial = tiny_trial(methods.make("gradient_projection", values))
    others = [tiny_trial(methods.make("kl_penalty")), tiny_trial(methods.make("representation"), seed=1)]
    (alone,), (micro,) = train([trial]), train([trial], rows_per_forward=2)
    packed = train([others[0], trial, others[1]])
    assert gap(alone, packed[1]) < 1e-9
    assert gap(alone, micro) < 1e-9
    assert gap(train([others[0]])[0], packed[0]) < 1e-9
    assert gap(train([others[1]])[0], packed[2]) < 1e-9
    assert gap(alone, train([tiny_trial(methods.make("gradient_projection", values | {"directions": 1}))])[0]) > 1e-4


def test_a_task_loss_far_worse_than_guessing_is_invalid() -> None:
    """Finite, and no training any more: here because the head is 50 times too large."""
    base = tiny_base()
    base.model.get_output_embeddings().weight.data *= 50
    pack = Pack(base, tiny_setting(), [tiny_trial(methods.make("plain"))], torch.float64)
    pack.advance(STEPS)
    assert pack.records[0].status == "invalid"
    assert str(pack.records[0].reason).startswith("the task loss is ")
    assert pack.steps_done == 1
