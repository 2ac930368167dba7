"""Any share of Pareto adapters from one training: which trains what, what is kept, and what PEFT reads of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from tests.support.tiny import prepare, tiny_base, tiny_model, tiny_setting, tiny_trial
from tests.trainables.test_invariants import gradient_in
from trainables import methods
from trainables.engine.packed_linear import Route
from trainables.engine.stream import MemberStep
from trainables.folder import SweepFolder
from trainables.losses import cross_entropy
from trainables.method import Method, Step
from trainables.pack import Pack
from trainables.trial import AdapterConfig, TrialConfig

IDS = torch.tensor([[2, 5, 6, 3, 9, 10, 1]])
STEPS = 6
FORMS = ("separate", "conditioned")


def trial_of(share: float, form: str = "separate", rslora: bool = False, **values: object) -> TrialConfig:
    adapter = AdapterConfig(rank=4, alpha=6.0, rslora=rslora)
    method = methods.make("pareto_adapters", {"share": share, "form": form, "weight": 3.0, **values})
    return tiny_trial(method, adapter=adapter, steps=STEPS, max_length=16)


@torch.no_grad()
def logits(pack: Pack, member: int = 0) -> Tensor:
    with pack.adapters.routed(Route((member,), (1,))):
        return pack.base.model(input_ids=IDS).logits


def test_all_shares_are_readouts_of_one_training() -> None:
    trials = [trial_of(share) for share in (0.0, 0.3, 0.5, 1.0)]
    assert len({trial.training.trial_id for trial in trials}) == 1
    assert [trial.is_readout for trial in trials] == [True, True, False, True]
    assert [needed.trial_id for needed in trials[1].requires] == [trials[2].trial_id]
    assert trial_of(0.3, "conditioned").training != trials[1].training
    assert trial_of(0.3, weight=5.0).training != trials[1].training


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_share_is_a_plain_peft_checkpoint_of_the_trained_halves(form: str, rslora: bool, tmp_path: Path) -> None:
    """Its logits are those of W + 2 (1 - s) scale B_T A_T + 2 s scale B_A A_A, the factors kept at 0.5."""
    store = prepare([trial_of(0.5, form, rslora)], tmp_path)
    kept = store.find(trial_of(0.5, form, rslora))
    assert kept is not None
    for share in (0.0, 0.3, 1.0):
        pack = Pack(tiny_base(), tiny_setting(), [trial_of(share, form, rslora)], torch.float64, store=store)
        assert pack.steps == 0
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        found = logits(pack)
        pack.detach()
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapters" / str(outcome.adapter))
        assert loaded.peft_config["default"].r == 4
        torch.testing.assert_close(loaded(input_ids=IDS).logits, found, rtol=0, atol=1e-5)
        dense, scale = tiny_model(), 6 / 2 if rslora else 6 / 4
        first = 0 if form == "separate" else 2
        for name in pack.adapters.layers:
            A_RI, B_OR = (kept.tensors[f"base_model.model.{name}.lora_{kind}.weight"].double() for kind in "AB")
            middle = (first + 4) // 2
            shared = B_OR[:, :first] @ A_RI[:first]
            task = 2 * (1 - share) * B_OR[:, first:middle] @ A_RI[first:middle]
            aligned = 2 * share * B_OR[:, middle:] @ A_RI[middle:]
            dense.get_submodule(name).weight += scale * (shared + task + aligned)
        torch.testing.assert_close(dense(input_ids=IDS).logits, found, rtol=0, atol=1e-6)
        assert float((found - tiny_model()(input_ids=IDS).logits).abs().max()) > 1e-2


def test_the_even_share_is_the_adapter_as_trained(tmp_path: Path) -> None:
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(0.5)], torch.float64)
    pack.advance(STEPS)
    before = pack.adapters.theta_KP.clone()
    pack.finish(SweepFolder(tmp_path))
    assert torch.equal(pack.adapters.theta_KP, before)


def test_a_training_is_the_same_whichever_share_asks_for_it() -> None:
    """Beside a plain member, and in any place of the pack: the draws are of the seed and the step."""
    pack = Pack(
        tiny_base(),
        tiny_setting(),
        [trial_of(0.1), tiny_trial(methods.make("plain"), steps=STEPS), trial_of(0.9), trial_of(0.5)],
        torch.float64,
    )
    pack.advance(STEPS)
    rows = [pack.adapters.cut(member, pack.adapters.theta_KP[member]) for member in (0, 2, 3)]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(rows[0], rows[2], rtol=0, atol=1e-12)


def test_halves_of_a_step_are_two_adapters_with_the_scale_of_their_own_rank() -> None:
    """The gradient at s = 0 and s = 1 is that of one half alone, of rank 2 with alpha / 2, and no other's."""
    for share, half in ((0.0, slice(0, 2)), (1.0, slice(2, 4))):
        whole = Pack(tiny_base(), tiny_setting(), [trial_of(0.5)], torch.float64)
        name = "plain" if share == 0 else "alignment_only"
        alone = tiny_trial(methods.make(name), adapter=AdapterConfig(rank=2, alpha=6.0), steps=STEPS, max_length=16)
        single = Pack(tiny_base(), tiny_setting(), [alone], torch.float64)
        cross = methods.make("pareto_adapters", {"alignment": "cross_entropy"})
        drawn = replace(whole.member_step(0), method=cross, gates=[2 * (1 - share)] * 2 + [2 * share] * 2)
        for factors, one in zip(whole.adapters.member_factors(0), single.adapters.member_factors(0), strict=True):
            one.A_RI.copy_(factors.A_RI[half])
        gradients = [gradient_of(whole, drawn), gradient_of(single, single.member_step(0))]
        for at, (found, expected) in enumerate(zip(*gradients, strict=True)):
            kept = found[half] if at % 2 == 0 else found[:, half]
            torch.testing.assert_close(kept, expected, rtol=0, atol=1e-10)
            assert float(found.abs().sum()) == pytest.approx(float(kept.abs().sum()))


def gradient_of(pack: Pack, member: MemberStep) -> list[Tensor]:
    """What the only member of a pack gives the optimizer, after which the pack is detached."""
    found = gradient_in(pack, member)
    pack.detach()
    return found


def test_a_term_without_a_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the weight of the task's own loss has one: s CE(task) is no alignment."""
    kind = methods.get("pareto_adapters")

    def losses(self: Method, step: Step) -> tuple[Tensor, ...]:
        alignment = cross_entropy(step.policy["alignment"]).detach()
        step.record(alignment=alignment)
        share = step.gates[-1] / 2
        return ((1 - share) * cross_entropy(step.policy["task"]) + share * alignment,)

    monkeypatch.setattr(kind, "losses", losses)
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(0.5)], torch.float64)
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid"
    assert "the term 'alignment'" in str(pack.members[0].reason)
