"""What a method carries from step to step, and where what it finalizes is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.checkpoint import CheckpointError
from trainables.coefficients import Range
from trainables.folder import SweepFolder
from trainables.losses import cross_entropy
from trainables.method import Method, Step
from trainables.pack import Pack
from trainables.projections import Factors
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, OptimizerConfig, TrialConfig

STEPS = 9


@dataclass(frozen=True, kw_only=True)
class Anchored(Method):
    """Pull A towards where it was after the last step but one, and more so with every step; count the steps.

    The state has a number, tensors of the shapes of the factors, and a value that a step keeps; all change the loss.
    """

    weights = True
    pull: float = Range(10.0, low=1.0, high=100.0)

    def initial_state(self, adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        anchors = {f"anchor.{layer}": factors.A_RI for layer, factors in enumerate(adapter)}
        last = {f"last.{layer}": factors.A_RI for layer, factors in enumerate(adapter)}
        return {"steps": torch.tensor(0), "loss": adapter[0].A_RI.new_ones(()), **anchors, **last}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        task = cross_entropy(step.policy["task"])
        gaps = [(own.A_RI - step.state[f"anchor.{layer}"]).square().sum() for layer, own in enumerate(step.adapter)]
        step.keep(loss=task)
        return (task + self.pull * step.state["steps"] * step.state["loss"] * torch.stack(gaps).sum(),)

    def after_update(self, state: Mapping[str, Tensor], adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        last = {f"last.{layer}": factors.A_RI for layer, factors in enumerate(adapter)}
        anchors = {name.replace("last", "anchor"): state[name] for name in last}
        return {**state, "steps": state["steps"] + 1, **anchors, **last}


def trial_of(method: Method | str, seed: int = 0, **overrides: Any) -> TrialConfig:
    made = methods.make(method) if isinstance(method, str) else method
    options = {"rank": 2, "targets": ("q_proj", "down_proj")} | overrides.pop("adapter", {})
    adapter = AdapterConfig(alpha=2.0 * options["rank"], **options)
    return tiny_trial(made, seed, **{"adapter": adapter, "max_length": 16, "steps": STEPS, **overrides})


def trials() -> list[TrialConfig]:
    """Members of different ranks, layers and methods: the state of the first is padded nowhere, its factors are."""
    return [
        trial_of(Anchored()),
        trial_of("kl_constraint", 1, adapter={"rank": 4}),
        trial_of("moving_average", 2, adapter={"rank": 3, "layers": "last 1"}),
        trial_of("plain", 3, adapter={"rank": 6}),
    ]


def pack_of(*members: TrialConfig, **options: Any) -> Pack:
    return Pack(tiny_base(), tiny_setting(), members or trials(), torch.float64, **options)


def states(pack: Pack) -> list[dict[str, Tensor]]:
    return [dict(member.state) for member in pack.members]


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


@pytest.fixture(scope="module")
def whole() -> Pack:
    """Return the four, trained without a break."""
    pack = pack_of()
    pack.advance(STEPS)
    assert [member.reason for member in pack.members] == [None] * 4
    return pack


# --- the engine ---


def test_a_state_changes_what_is_learned(whole: Pack) -> None:
    """Nine steps were counted, and the anchor lies where A was one step before."""
    plain = pack_of(trial_of("plain"))
    plain.advance(STEPS)
    assert (
        float((plain.adapters.theta_KP[0] - whole.adapters.theta_KP[0, : plain.adapters.theta_KP.shape[1]]).norm()) > 0
    )
    before = pack_of(trial_of(Anchored()))
    before.advance(STEPS - 1)
    state = whole.members[0].state
    assert int(state["steps"]) == STEPS
    for layer, (old, new) in enumerate(
        zip(before.adapters.member_factors(0), whole.adapters.member_factors(0), strict=True)
    ):
        torch.testing.assert_close(state[f"anchor.{layer}"], old.A_RI, rtol=0, atol=1e-9)
        assert torch.equal(state[f"last.{layer}"], new.A_RI)
        assert state[f"last.{layer}"].shape == (2, old.A_RI.shape[1])


def test_a_state_is_no_view_of_the_factors(whole: Pack) -> None:
    """An update overwrites these in place; the state of the step before would change with them."""
    pointers = {value.untyped_storage().data_ptr() for member in whole.members for value in member.state.values()}
    assert whole.adapters.theta_KP.untyped_storage().data_ptr() not in pointers
    assert len(pointers) == sum(len(member.state) for member in whole.members)


def test_a_pack_carries_what_solo_runs_carry(whole: Pack) -> None:
    for index, trial in enumerate(trials()):
        alone = pack_of(trial)
        alone.advance(STEPS)
        one, other = alone.members[0].state, whole.members[index].state
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("after", [1, 5])
def test_resumed_at_any_step_it_is_the_uninterrupted_state_bit_for_bit(after: int, whole: Pack, tmp_path: Path) -> None:
    first, second = pack_of(), pack_of()
    first.advance(after)
    first.save(tmp_path / "checkpoint")
    assert second.resume(tmp_path / "checkpoint")
    for one, other in zip(states(first), states(second), strict=True):
        assert list(one) == list(other)
        assert_equal(one, other)
    second.advance(STEPS)
    for one, other in zip(states(second), states(whole), strict=True):
        assert_equal(one, other)
    assert torch.equal(second.adapters.theta_KP, whole.adapters.theta_KP)


def test_a_paused_member_goes_on_with_its_state_in_another_pack(whole: Pack, tmp_path: Path) -> None:
    """There the ranks and layers of its neighbours are others. While it pauses, its state stays."""
    first = pack_of(pause_after=(4, 4, 4, None))
    first.advance(4)
    kept = states(first)
    first.advance(STEPS)
    assert first.paused == [0, 1, 2]
    for one, other in zip(kept, states(first), strict=True):
        assert_equal(one, other)
    for index in first.paused:
        first.save_member_state(index, tmp_path / str(index))
    second = pack_of(*reversed(trials()[:3]))
    for index in range(3):
        assert second.load_member_state(index, tmp_path / str(2 - index))
        assert_equal(second.members[index].state, kept[2 - index])
    second.advance(STEPS)
    for index in range(3):
        for name, value in second.members[index].state.items():
            torch.testing.assert_close(value, whole.members[2 - index].state[name], rtol=0, atol=1e-9)


def test_an_invalid_member_keeps_its_state_and_reaches_no_other(whole: Pack) -> None:
    wild = trial_of("kl_constraint", 1, optimizer=OptimizerConfig(learning_rate=1e300, max_grad_norm=None))
    pack = pack_of(trials()[0], wild)
    pack.advance(3)
    assert pack.members[1].status == "invalid"
    before = states(pack)[1]
    pack.advance(STEPS)
    assert all(torch.equal(value, pack.members[1].state[name]) or value.isnan().any() for name, value in before.items())
    for name, value in pack.members[0].state.items():
        torch.testing.assert_close(value, whole.members[0].state[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("damage", ["missing", "of another shape", "of another method"])
def test_a_checkpoint_with_another_state_changes_nothing(damage: str, tmp_path: Path) -> None:
    path, pack = tmp_path / "checkpoint", pack_of()
    pack.advance(2)
    pack.save(path)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    if damage == "missing":
        del tensors["state.1.beta"]
    elif damage == "of another shape":
        tensors["state.1.beta"] = tensors["state.1.beta"][None]
    else:
        tensors["state.3.beta"] = tensors["state.1.beta"].clone()
    save_file(tensors, path, about)
    fresh = pack_of()
    before, theta_KP = states(fresh), fresh.adapters.theta_KP.clone()
    with pytest.raises(CheckpointError, match="the state that its methods carry is of another kind"):
        fresh.resume(path)
    assert torch.equal(fresh.adapters.theta_KP, theta_KP)
    for one, other in zip(before, states(fresh), strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize(
    ("hook", "made", "error", "message"),
    [
        ("losses", lambda self, step: step.keep(gamma=step.state["beta"]), KeyError, "the state has beta"),
        ("losses", lambda self, step: step.keep(beta=1.0), TypeError, r"takes a tensor of shape \(\), got 1.0"),
        ("losses", lambda self, step: step.keep(beta=torch.ones(2)), TypeError, r"takes a tensor of shape \(\)"),
        ("after_update", lambda self, state, adapter: {}, TypeError, r"'kl_constraint' must return beta \(\), got $"),
        ("after_update", lambda self, state, adapter: {"beta": torch.ones(2)}, TypeError, r"got beta \(2,\)"),
    ],
)
def test_what_a_state_may_not_become_is_said_in_the_methods_words(
    hook: str, made: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods.get("kl_constraint"), hook, made)
    with pytest.raises(error, match=message):
        pack_of(trial_of("kl_constraint")).advance(1)


# --- dual ascent ---


def test_the_multiplier_follows_the_measured_divergence() -> None:
    """From the curves alone: beta_t+1 = [beta_t + eta (KL_t - epsilon)]_+, from 1; the last one is the state."""
    pack = pack_of(trial_of(methods.make("kl_constraint", {"eta": 3.0, "epsilon": 1e-4})))
    pack.advance(STEPS)
    curves = {name: [value for _, value in curve] for name, curve in pack.members[0].curves.items()}
    assert len(curves["beta"]) == STEPS and curves["beta"][0] == 1.0
    expected = [max(1e-8, beta + 3 * (kl - 1e-4)) for beta, kl in zip(curves["beta"], curves["kl"], strict=True)]
    assert [*curves["beta"][1:], float(pack.members[0].state["beta"])] == pytest.approx(expected, abs=1e-12)
    assert min(curves["beta"]) < 1 < max(curves["beta"]), "it falls before it has anything to hold, and rises after"


def test_the_bound_is_kept_however_the_multiplier_begins() -> None:
    """After 40 steps the KL lies near epsilon, whether the multiplier begins far below or above."""
    chosen = [{"epsilon": 0.02, "eta": 20.0, "beta": beta} for beta in (0.01, 3.0)]
    made = [*(methods.make("kl_constraint", values) for values in chosen), methods.make("kl_penalty", {"beta": 0.01})]
    pack = pack_of(*(trial_of(method, steps=40) for method in made))
    pack.advance(40)
    ends = [sum(value for _, value in member.curves["kl"][-3:]) / 3 for member in pack.members]
    assert all(0.005 < end < 0.05 for end in ends[:2]), ends
    assert ends[2] > 0.1, ends


def test_steps_without_proxy_rows_leave_the_multiplier() -> None:
    """Five rows, three at a time: of a pass of six steps the last four have none."""
    method = methods.make("kl_constraint", {"proxy_schedule": "synchronized"})
    pack = pack_of(trial_of(method, steps=8, batch_size=2, alignment_batch_size=3))
    pack.advance(8)
    beta = [value for _, value in pack.members[0].curves["beta"]]
    assert beta[0] != beta[1] != beta[2] == beta[3] == beta[4] == beta[5] == beta[6] != beta[7]


# --- finalize, wherever an adapter is evaluated or kept ---


def averaged(rate: float = 0.3, **overrides: Any) -> TrialConfig:
    return trial_of(methods.make("moving_average", {"rate": rate}), **overrides)


def factors_of(pack: Pack) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in pack.adapters.member(0).values()])


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    """Accumulated outside, from plain training, whose weights the method's own are throughout."""
    plain, pack = pack_of(trial_of("plain")), pack_of(averaged())
    mean_P = factors_of(plain)
    for _ in range(STEPS):
        plain.advance(1)
        pack.advance(1)
        assert torch.equal(factors_of(plain), factors_of(pack))
        mean_P = 0.7 * mean_P + 0.3 * factors_of(plain)
    pack.edit_adapters()
    torch.testing.assert_close(factors_of(pack), mean_P, rtol=0, atol=1e-12)
    assert float((factors_of(pack) - factors_of(plain)).abs().max()) > 1e-3


def test_a_snapshot_is_what_a_shorter_run_keeps(tmp_path: Path) -> None:
    """The average after six steps; and the training goes on as if nothing had been kept."""
    store, short = AdapterStore(SweepFolder(tmp_path)), averaged(checkpoint_step=6)
    pack, alone, shorter = pack_of(averaged(), store=store, snapshots=(6,)), pack_of(averaged()), pack_of(short)
    for each in (pack, alone, shorter):
        each.advance(STEPS)
    assert torch.equal(factors_of(pack), factors_of(alone))
    scores = {}
    read_out = pack_of(short, store=store)
    assert read_out.steps == 0
    for name, each in (("read out", read_out), ("from scratch", shorter)):
        (outcome,) = each.finish(SweepFolder(tmp_path / name)).outcomes
        scores[name] = {score: value.mean for score, value in outcome.scores.items()}
    torch.testing.assert_close(factors_of(read_out), factors_of(shorter), rtol=0, atol=1e-7)
    assert scores["read out"] == pytest.approx(scores["from scratch"], abs=1e-6)
    raw = pack_of(short)
    raw.advance(STEPS)
    assert float((factors_of(raw) - factors_of(shorter)).abs().max()) > 1e-3


def test_a_scaled_average_is_scaled_and_not_averaged_again(tmp_path: Path) -> None:
    whole = pack_of(averaged())
    whole.advance(STEPS)
    whole.finish(SweepFolder(tmp_path))
    half = pack_of(averaged(adapter_scale=0.5), store=AdapterStore(SweepFolder(tmp_path)))
    assert half.steps == 0
    half.edit_adapters()
    for one, other in zip(half.adapters.member_factors(0), whole.adapters.member_factors(0), strict=True):
        torch.testing.assert_close(one.B_OR, 0.5 * other.B_OR, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.A_RI, other.A_RI, rtol=0, atol=1e-6)


def test_a_rung_is_evaluated_finalized_and_trained_on_raw(tmp_path: Path) -> None:
    pack, alone = pack_of(averaged(), pause_after=(6,)), pack_of(replace(averaged(), checkpoint_step=6))
    for each in (pack, alone):
        each.advance(STEPS)
    raw_P = factors_of(pack)
    (rung,) = pack.finish(SweepFolder(tmp_path / "paused")).rungs
    assert torch.equal(factors_of(pack), raw_P)
    (outcome,) = alone.finish(SweepFolder(tmp_path / "alone")).outcomes
    assert rung.trial == outcome.trial
    assert rung.scores["alignment"].mean == pytest.approx(outcome.scores["alignment"].mean, abs=1e-12)
    plain = pack_of(trial_of("plain", checkpoint_step=6))
    plain.advance(STEPS)
    other = plain.finish(SweepFolder(tmp_path / "plain")).outcomes[0].scores["alignment"].mean
    assert abs(other - rung.scores["alignment"].mean) > 1e-3
