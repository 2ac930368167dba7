"""A pack equals its solo runs; nothing that happens to one member reaches another."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.common.files import remove_partial
from tests.support.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import checkpoint, methods
from trainables.checkpoint import CheckpointError
from trainables.engine.batches import RowPositions, collate
from trainables.engine.forward import hidden_states
from trainables.engine.packed_linear import Route
from trainables.folder import SweepFolder
from trainables.losses import cross_entropy
from trainables.member import MemberState
from trainables.pack import Pack
from trainables.trial import OptimizerConfig, TrialConfig

STEPS = 20


def eight_trials() -> list[TrialConfig]:
    """The four methods twice, with different coefficients, ranks, learning rates and seeds."""
    make = methods.make
    return [
        tiny_trial(make("plain"), seed=0),
        tiny_trial(make("plain"), seed=3, rank=2, learning_rate=3e-2),
        tiny_trial(make("mixed", {"share": 0.3}), seed=1),
        tiny_trial(make("mixed", {"share": 0.1}), seed=0, rank=8, learning_rate=2e-3),
        tiny_trial(make("upweighted", {"weight": 2.0}), seed=2),
        tiny_trial(make("upweighted", {"weight": 0.5}), seed=0, rank=1, learning_rate=2e-2),
        tiny_trial(make("kl_penalty", {"beta": 1.0}), seed=0),
        tiny_trial(make("kl_penalty", {"beta": 10.0}), seed=5, rank=3, learning_rate=5e-3),
    ]


def train(trials: list[TrialConfig], steps: int = STEPS) -> list[dict[str, Tensor]]:
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(steps)
    assert [member.status for member in pack.members] == ["finished"] * len(trials)
    return [pack.adapters.member(index) for index in range(len(trials))]


@lru_cache
def eight_together() -> list[dict[str, Tensor]]:
    """The eight in one pack, trained once for all tests."""
    return train(eight_trials())


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_pack_equals_solo() -> None:
    """Parameters after 20 steps agree to 1e-9 in float64 (measured: about 1e-15)."""
    packed = eight_together()
    for trial, member in zip(eight_trials(), packed, strict=True):
        (solo,) = train([trial])
        assert largest_difference(solo, member) < 1e-9, trial.method
        assert float(member["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].abs().max()) > 1e-3


def test_a_misrouted_row_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending the first row of the second member to the first adapter changes parameters by far more than 1e-9."""
    expected = eight_together()
    original = Route.__init__

    def shifted(self: Route, members: tuple[int, ...], counts: tuple[int, ...]) -> None:
        wrong = (counts[0] + 1, counts[1] - 1, *counts[2:]) if len(counts) > 1 else counts
        original(self, members, wrong)

    monkeypatch.setattr(Route, "__init__", shifted)
    misrouted = train(eight_trials())
    assert largest_difference(expected[0], misrouted[0]) > 1e-4


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma", "gemma2"])
def test_members_rows_are_their_own(architecture: str) -> None:
    """A forward of two members' rows, uneven counts, equals each member's rows alone."""
    trials = [tiny_trial(methods.make("plain"), seed=0), tiny_trial(methods.make("plain"), seed=1, rank=2)]
    pack = Pack(tiny_base(architecture), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(2)
    rows = pack.encoded[2048].rows("task")
    both = collate([RowPositions(row) for row in rows[:5]], 0)
    with pack.adapters.routed(Route((0, 1), (2, 3))):
        together, _ = hidden_states(pack.base.model, both)
    with pack.adapters.routed(Route((1,), (3,))):
        alone, _ = hidden_states(pack.base.model, collate([RowPositions(row) for row in rows[2:5]], 0))
    torch.testing.assert_close(together[-len(alone) :], alone, rtol=0, atol=1e-12)


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    trials = eight_trials()
    base = tiny_base()
    whole = Pack(base, tiny_setting(), trials, dtype=torch.float64)
    whole.advance(STEPS)
    whole.detach()

    first = Pack(base, tiny_setting(), trials, dtype=torch.float64)
    first.advance(7)
    first.save(tmp_path / "checkpoint")
    first.detach()
    second = Pack(base, tiny_setting(), trials, dtype=torch.float64)
    assert second.resume(tmp_path / "checkpoint")
    assert second.steps_done == 7
    second.advance(STEPS)

    assert torch.equal(whole.adapters.theta_KP, second.adapters.theta_KP)
    assert [member.curves for member in whole.members] == [member.curves for member in second.members]
    assert [member.cost.tokens for member in whole.members] == [member.cost.tokens for member in second.members]


def test_resume_without_checkpoint(tmp_path: Path) -> None:
    pack = Pack(tiny_base(), tiny_setting(), eight_trials(), dtype=torch.float64)
    assert not pack.resume(tmp_path / "nothing")


def two_trials() -> list[TrialConfig]:
    return [tiny_trial(methods.make("plain"), seed=seed) for seed in range(2)]


def checkpointed(path: Path, steps: int = 3) -> Pack:
    """Train a pack of two for three steps, and write its checkpoint."""
    pack = Pack(tiny_base(), tiny_setting(), two_trials(), dtype=torch.float64)
    pack.advance(steps)
    pack.save(path)
    return pack


def test_a_checkpoint_that_is_cut_off_anywhere_is_no_checkpoint(tmp_path: Path) -> None:
    """A pack that meets one is as it was before, and trains from the start."""
    path = tmp_path / "checkpoint"
    checkpointed(path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    pack = Pack(tiny_base(), tiny_setting(), two_trials(), dtype=torch.float64)
    before = pack.adapters.theta_KP.clone()
    for cut in (0, 1, 7, 8, 9, header // 2, header + 7, header + 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="checkpoint cannot be read") as caught:
            pack.resume(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(CheckpointError):
        pack.resume(path)
    assert torch.equal(pack.adapters.theta_KP, before) and pack.steps_done == 0
    assert all(not member.curves and not member.cost.tokens for member in pack.members)
    path.write_bytes(whole)
    assert pack.resume(path) and pack.steps_done == 3


@pytest.mark.parametrize("damage", ["no records", "half the records", "other fields", "other shapes", "no tensor"])
def test_a_checkpoint_of_other_content_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint"
    checkpointed(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    if damage == "no records":
        about["records"] = "[]"
    elif damage == "half the records":
        about["records"] = '[{"status": "fin'
    elif damage == "other fields":
        about["records"] = '[{"mood": 1}, {"mood": 1}]'
    elif damage == "other shapes":
        tensors["theta"] = tensors["theta"][:1]
    elif damage == "no tensor":
        del tensors["mean"]
    save_file(tensors, path, about)
    pack = Pack(tiny_base(), tiny_setting(), two_trials(), dtype=torch.float64)
    before = pack.adapters.theta_KP.clone()
    with pytest.raises(CheckpointError):
        pack.resume(path)
    assert torch.equal(pack.adapters.theta_KP, before) and pack.steps_done == 0
    assert len(pack.members) == 2


def test_a_checkpoint_of_another_pack_is_refused(tmp_path: Path) -> None:
    checkpointed(tmp_path / "checkpoint")
    turned = Pack(tiny_base(), tiny_setting(), list(reversed(two_trials())), dtype=torch.float64)
    with pytest.raises(CheckpointError, match="it belongs to another pack"):
        turned.resume(tmp_path / "checkpoint")


@pytest.mark.parametrize("moment", ["half written", "before it takes its place"])
def test_killed_inside_a_checkpoint_the_older_one_is_there(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "checkpoint"
    pack = checkpointed(path)
    child = os.fork()
    if child == 0:
        pack.advance(1)
        _die_while_saving(pack, path, moment)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2, "what it had begun to write"
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    again = Pack(tiny_base(), tiny_setting(), two_trials(), dtype=torch.float64)
    assert again.resume(path) and again.steps_done == 3


def _die_while_saving(pack: Pack, path: Path, moment: str) -> None:
    """Kill this process in the middle of `Pack.save`."""

    def half(tensors: object, file: Path, about: object) -> None:
        save_file(tensors, file, about)  # type: ignore[arg-type]
        os.truncate(file, file.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "half written":
        checkpoint.save_file = half  # type: ignore[assignment]
    else:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, misc]
    pack.save(path)


def test_members_that_pause_go_on_in_another_pack(tmp_path: Path) -> None:
    """Three members of different ranks pause at different steps, go on in other packs, and end as if trained in one."""
    trials = eight_trials()[:3]
    pauses = (2, 5, None)
    first = Pack(tiny_base(), tiny_setting(), trials, torch.float64, pause_after=pauses)
    first.advance(first.steps)
    assert first.optimizer.updates == [2, 5, trials[2].updates]
    end = first.finish(SweepFolder(tmp_path))
    assert first.paused == [0, 1]
    assert [outcome.trial for outcome in end.outcomes] == [trials[2]]
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == [trials[2].trial_id]
    stopped_there = [replace(trial, checkpoint_step=step) for trial, step in zip(trials, pauses[:2], strict=False)]
    assert [outcome.trial for outcome in end.rungs] == stopped_there
    shorter = Pack(tiny_base(), tiny_setting(), stopped_there, torch.float64)
    shorter.advance(shorter.steps)
    for rung, expected in zip(end.rungs, shorter.finish(SweepFolder(tmp_path / "shorter")).outcomes, strict=True):
        assert rung.adapter is None and rung.cost.tokens == expected.cost.tokens > 0
        assert rung.scores.keys() == expected.scores.keys()
        for name, score in rung.scores.items():
            assert score.mean == pytest.approx(expected.scores[name].mean, abs=1e-9)

    for index in first.paused:
        first.save_member_state(index, tmp_path / f"{index}.safetensors")
    company = [eight_trials()[4], trials[1], trials[0]]
    second = Pack(tiny_base(), tiny_setting(), company, torch.float64)
    assert second.load_member_state(1, tmp_path / "1.safetensors")
    assert second.load_member_state(2, tmp_path / "0.safetensors")
    assert not second.load_member_state(0, tmp_path / "none.safetensors")
    assert second.optimizer.updates == [0, 5, 2]
    second.advance(second.steps)
    for member, trial in ((2, trials[0]), (1, trials[1])):
        alone = Pack(tiny_base(), tiny_setting(), [trial], torch.float64)
        alone.advance(alone.steps)
        assert largest_difference(second.adapters.member(member), alone.adapters.member(0)) < 1e-9
        curve = alone.members[0].curves["loss"]
        assert second.members[member].curves["loss"][-1] == pytest.approx(curve[-1], abs=1e-9)
        assert second.members[member].cost.tokens == alone.members[0].cost.tokens


@pytest.mark.parametrize("difference", ["another trial", "another rank"])
def test_the_state_of_another_member_is_refused(tmp_path: Path, difference: str) -> None:
    first, second = eight_trials()[:2]
    pack = Pack(tiny_base(), tiny_setting(), [first], torch.float64)
    pack.advance(1)
    path = tmp_path / "member.safetensors"
    pack.save_member_state(0, path)
    if difference == "another rank":
        tensors = load_file(path)
        tensors["mean"] = tensors["mean"][:-1]
        members = json.dumps([MemberState().to_json()])
        save_file(tensors, path, {"pack": second.trial_id, "records": members})
    later = Pack(tiny_base(), tiny_setting(), [second], torch.float64)
    before = later.adapters.theta_KP.clone()
    with pytest.raises(CheckpointError, match="cannot be read"):
        later.load_member_state(0, path)
    assert torch.equal(later.adapters.theta_KP, before) and later.optimizer.updates == [0]


def test_a_diverging_member_is_invalid_and_alone() -> None:
    """A learning rate of 1e300 overflows: that member is invalid with a reason, the other keeps every bit."""
    sane = tiny_trial(methods.make("plain"), seed=0)
    wild = tiny_trial(methods.make("plain"), seed=1)
    wild = TrialConfig(**{**vars(wild), "optimizer": OptimizerConfig(learning_rate=1e300, max_grad_norm=None)})
    pack = Pack(tiny_base(), tiny_setting(), [sane, wild], dtype=torch.float64)
    pack.advance(STEPS)
    assert pack.members[1].status == "invalid"
    assert "at step" in str(pack.members[1].reason)
    assert pack.members[0].status == "finished"
    assert largest_difference(train([sane])[0], pack.adapters.member(0)) < 1e-9


@pytest.mark.parametrize("of_task", [1.0, 2.0])
def test_a_term_that_pulls_at_nothing_is_invalid(of_task: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detached term is above zero and minimises nothing; with a weight of 0 that is as it should be.

    Also where the method changes the task's loss, which then has a gradient besides plain fine-tuning's.
    """
    upweighted = methods.get("upweighted")

    def losses(self: Any, step: Any) -> tuple[torch.Tensor, ...]:
        term = cross_entropy(step.policy["alignment"])
        step.record(alignment=term)
        return (of_task * cross_entropy(step.policy["task"]) + self.weight * term.detach(),)

    monkeypatch.setattr(upweighted, "losses", losses)
    pack = Pack(
        tiny_base(), tiny_setting(), [tiny_trial(methods.make("upweighted", {"weight": w})) for w in (1.0, 0.0)]
    )
    pack.advance(STEPS)
    assert [member.status for member in pack.members] == ["invalid", "finished"]
    assert "the term 'alignment' is exactly 0 after the first update, or has no gradient, or" in str(
        pack.members[0].reason
    )


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            lambda self, step: step.policy["task"].nll_N.mean(),
            "must return a tuple of 1 scalar tensors.*Tensor of shape",
        ),
        (lambda self, step: (step.policy["task"].nll_N,), r"got Tensor of shape \(\d+,\)"),
        (lambda self, step: (torch.tensor(1.0),), "that depend on the adapter"),
        (
            lambda self, step: step.record(size=0),
            r"record\(size=...\) takes a scalar tensor, got 0",
        ),
        (
            lambda self, step: sum(factors.B_OR.square().sum() for factors in step.adapter),
            r"method 'upweighted' reads step\.adapter: declare weights = True",
        ),
        (lambda self, step: step.priors[0], r"reads step\.priors: declare weights = True"),
        (lambda self, step: len(step.directions), r"reads step\.directions: declare weights = True"),
        (
            lambda self, step: step.policy["alignment"].layers_LND.mean(),
            r'reads layers_LND of alignment rows: declare layers = \("alignment", ...\)',
        ),
        (
            lambda self, step: (step.policy["task"].nll_N.mean(),) * 2,
            r"a tuple of 1 scalar tensors, got 2 losses; num_row_groups\(stream\) sets how many",
        ),
        (
            lambda self, step: step.policy["misaligned"],
            r'step\.policy\["misaligned"\] .*: declare streams = \("task", "alignment", "misaligned"\)',
        ),
        (
            lambda self, step: step.reference["task"],
            r'step\.reference\["task"\] .*: declare reference = \("task",\)',
        ),
        (
            lambda self, step: (step.policy["task"].nll_N.mean(),),
            r"has must_stay_active = \('alignment',\), and .* records nothing",
        ),
    ],
)
def test_what_losses_may_not_do_is_said_in_the_methods_words(
    losses: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods.get("upweighted"), "losses", losses)
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("upweighted"))])
    with pytest.raises((TypeError, KeyError), match=message):
        pack.advance(1)


def test_a_dead_term_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KL whose policy is the reference stays exactly 0 after the first update, and the trial is not reported."""
    kl_penalty = methods.get("kl_penalty")
    losses = kl_penalty.losses
    monkeypatch.setattr(kl_penalty, "losses", lambda self, step: losses(self, _policy_is_reference(step)))
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("kl_penalty"))], dtype=torch.float64)
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid"
    assert "'kl' is exactly 0" in str(pack.members[0].reason)


def _policy_is_reference(step: object) -> object:
    from dataclasses import replace

    reference = step.reference["alignment"]  # type: ignore[attr-defined]
    leaf = replace(reference, hidden_ND=reference.hidden_ND.clone().requires_grad_())
    policy = {"task": step.policy["task"], "alignment": leaf}  # type: ignore[attr-defined]
    return replace(step, policy=policy)  # type: ignore[type-var]


def test_kl_is_exactly_zero_before_the_first_update() -> None:
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("kl_penalty"))], dtype=torch.float64)
    pack.advance(2)
    first, second = (value for _, value in pack.members[0].curves["kl"])
    assert first == 0.0
    assert second > 0.0


def test_finish_writes_adapters_and_observations(tmp_path: Path) -> None:
    trials = eight_trials()[:3]
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(STEPS)
    outcomes = pack.finish(SweepFolder(tmp_path)).outcomes
    for trial, outcome in zip(trials, outcomes, strict=True):
        assert outcome.status == "finished"
        assert outcome.scores["alignment"].n == 6
        assert outcome.cost.tokens > 0
        assert outcome.cost.tokens_cut == 0
        assert (tmp_path / "adapters" / trial.trial_id / "adapter_model.safetensors").is_file()
        assert (tmp_path / "observations" / f"{trial.trial_id}.json").is_file()


def test_scores_do_not_depend_on_the_pack() -> None:
    trials = eight_trials()
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(STEPS)
    packed = pack.evaluate()
    solo = Pack(tiny_base(), tiny_setting(), [trials[6]], dtype=torch.float64)
    solo.advance(STEPS)
    (alone,) = solo.evaluate().values()
    assert alone.observations["replies"] == packed[6].observations["replies"]
    assert alone.observations["losses"] == pytest.approx(packed[6].observations["losses"], abs=1e-9)


def test_close_gives_the_base_back() -> None:
    base = tiny_base()
    ids = torch.arange(8)[None]
    before = base.model(input_ids=ids).logits
    names = [name for name, _ in base.model.named_modules()]
    pack = Pack(base, tiny_setting(), eight_trials(), dtype=torch.float64)
    pack.advance(3)
    pack.detach()
    assert torch.equal(before, base.model(input_ids=ids).logits)
    assert names == [name for name, _ in base.model.named_modules()]
