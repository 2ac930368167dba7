"""What every method must satisfy (found by discovery), and the equalities between methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from settings.setting import UserError
from tests.trainables.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.batches import STREAM_ORDER
from trainables.method import SPACE, BatchSizes, Method, RangeSpec, coefficients
from trainables.pack import Pack
from trainables.step import MemberStep, train_step
from trainables.trial import SettingRef, TrialConfig, trial_for

ALL = methods.names()


def train(method: Method, steps: int = 20) -> dict[str, Tensor]:
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(method)], dtype=torch.float64)
    pack.advance(steps)
    return pack.adapters.member(0)


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def neutral() -> list[tuple[str, str, float]]:
    """(method, coefficient, value) at which a method is plain fine-tuning."""
    found = []
    for name in ALL:
        for item in coefficients(methods.get(name)):
            spec = item.metadata[SPACE]
            if isinstance(spec, RangeSpec) and spec.neutral is not None:
                found.append((name, item.name, spec.neutral))
    return found


def test_the_methods_are_found() -> None:
    assert {"plain", "mixed", "upweighted", "kl_penalty"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_described(name: str) -> None:
    method = methods.get(name)
    assert method.equation.startswith("L = ")
    assert method.source
    assert method.equation in (method.__doc__ or "")
    for item in coefficients(method):
        assert f"{item.name}:" in (method.__doc__ or ""), f"{name}: {item.name} is not in the docstring"


@pytest.mark.parametrize("name", ALL)
def test_defaults_lie_in_their_ranges(name: str) -> None:
    for item in coefficients(methods.get(name)):
        spec = item.metadata[SPACE]
        assert spec.check(item.default) is None
        if isinstance(spec, RangeSpec):
            assert spec.low <= item.default <= spec.high
            assert spec.check(spec.low) is None
            assert spec.check(spec.high) is None


@pytest.mark.parametrize("name", ALL)
def test_streams(name: str) -> None:
    method = methods.get(name)
    assert "task" in method.streams
    assert set(method.streams) <= set(STREAM_ORDER)
    assert set(method.reference) <= set(method.streams)


@pytest.mark.parametrize("name", ALL)
def test_json_round_trip_and_stable_id(name: str) -> None:
    trial = tiny_trial(methods.make(name))
    again = TrialConfig.from_json(trial.to_json())
    assert again == trial
    assert again.trial_id == trial.trial_id
    assert tiny_trial(methods.make(name), seed=1).configuration_id == trial.configuration_id
    assert tiny_trial(methods.make(name), seed=1).trial_id != trial.trial_id


@pytest.mark.parametrize("name", ALL)
def test_only_declared_streams_are_read(name: str) -> None:
    """A step that offers exactly the declared streams is enough, and the pack fetches no other."""
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make(name))], dtype=torch.float64)
    assert set(pack._member_step(0).rows) == set(methods.get(name).streams)
    pack.advance(1)


@pytest.mark.parametrize(("name", "coefficient", "value"), neutral())
def test_the_neutral_value_is_plain(name: str, coefficient: str, value: float) -> None:
    """To 1e-9 in float64 after 20 steps, and the default is not."""
    plain = train(methods.make("plain"))
    assert gap(train(methods.make(name, {coefficient: value})), plain) < 1e-9
    assert gap(train(methods.make(name)), plain) > 1e-5


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_only_its_own_adapter(name: str) -> None:
    """A member that does not take part in a step keeps every bit of its factors."""
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make(name), seed=s) for s in range(3)], torch.float64)
    before = pack.adapters.theta_KP.clone()
    train_step(pack.base.model, pack.adapters, pack.optimizer, {1: pack._member_step(1)}, 0)
    assert torch.equal(before[[0, 2]], pack.adapters.theta_KP[[0, 2]])
    assert not torch.equal(before[1], pack.adapters.theta_KP[1])


def test_mixed_is_a_multiple_of_upweighted() -> None:
    """With n_T and n_A response tokens: mixed = n_T / (n_T + n_A) * upweighted(n_A / n_T) on the same rows."""
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("upweighted"))], dtype=torch.float64)
    rows = pack._member_step(0).rows
    tokens = {stream: sum(len(row.ids) - row.prompt_length for row in some) for stream, some in rows.items()}
    upweighted = methods.make("upweighted", {"weight": tokens["alignment"] / tokens["task"]})

    def loss(method: Method) -> float:
        fresh = Pack(tiny_base(), tiny_setting(), [tiny_trial(method)], dtype=torch.float64)
        return float(
            train_step(fresh.base.model, fresh.adapters, fresh.optimizer, {0: MemberStep(method, rows, 2048)}, 0)[0][
                "loss"
            ]
        )

    factor = tokens["task"] / (tokens["task"] + tokens["alignment"])
    assert loss(methods.make("mixed")) == pytest.approx(factor * loss(upweighted), abs=1e-12)


def test_mixed_reads_its_share() -> None:
    """share = 1/4: one alignment row to three task rows."""
    mixed = methods.make("mixed", {"share": 0.25})
    assert mixed.rows_per_step("alignment", BatchSizes(task=24, alignment=99)) == pytest.approx(8)
    assert mixed.rows_per_step("task", BatchSizes(task=24, alignment=99)) == 24


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("kl", {}, r"unknown method 'kl'; available: .*kl_penalty"),
        ("kl_penalty", {"lambda": 1.0}, r"method 'kl_penalty' has no coefficient 'lambda'; its coefficients: beta"),
        ("plain", {"beta": 1.0}, r"method 'plain' has no coefficient 'beta'; its coefficients: none"),
        ("kl_penalty", {"beta": -1.0}, r"coefficient 'beta' must be a number in \[0, inf\], got -1.0"),
        ("kl_penalty", {"beta": float("nan")}, r"coefficient 'beta' must be a number in \[0, inf\], got nan"),
        ("kl_penalty", {"beta": "1"}, r"coefficient 'beta' must be a number"),
        ("mixed", {"share": 1.0}, r"coefficient 'share' must be a number in \[0, 0.95\], got 1.0"),
    ],
)
def test_bad_input(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.make(name, values)


def test_a_missing_stream_is_named() -> None:
    setting = tiny_setting()
    lonely = replace(setting, streams={"task": setting.streams["task"]})
    with pytest.raises(UserError, match="method 'kl_penalty' needs alignment rows, and setting 'tiny' has none"):
        trial_for(lonely, SettingRef("tiny"), methods.make("kl_penalty"), 0)
