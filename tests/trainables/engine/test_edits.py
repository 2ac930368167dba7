"""Edits of hidden states, against a plain transformers model with a forward hook written here.

The hook is the formula itself: h - share (h Q^T) Q + v after a block. Whatever trains, replies or scores in the engine
must come to the same numbers, member by member, and nobody else may notice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from settings.common.errors import UserError
from tests.support.architectures import architecture, architecture_base
from tests.support.tiny import prepare, tiny_base, tiny_model, tiny_setting, tiny_trial
from tests.trainables.engine.test_prefix_cache import ROWS, STEPS, deep_base, measured, ran, upper
from trainables import methods
from trainables.coefficients import Choice, Range
from trainables.engine.adapters import PackedAdapters
from trainables.engine.edits.files import FORMULA, load_edits
from trainables.engine.edits.packed import edited
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.packed_linear import Route
from trainables.engine.process_group import layers_of
from trainables.evaluation.generate import generate
from trainables.evaluation.likelihood import log_likelihoods, token_losses
from trainables.folder import SweepFolder
from trainables.interface.edits import Edit
from trainables.losses import cross_entropy, hidden_mse
from trainables.method import Method, ProxyMethod, Step
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, TrialConfig

SHARE = 0.7
Of = dict[str, Any]


def direction(width: int = 16) -> Tensor:
    return torch.linspace(-1, 2, width, dtype=torch.float64)


def subspace(width: int = 16) -> Tensor:
    """Two orthonormal rows, by Gram and Schmidt."""
    first, second = torch.arange(1.0, width + 1, dtype=torch.float64), torch.cos(torch.arange(width).double())
    first = first / first.norm()
    second = second - (second @ first) * first
    return torch.stack([first, second / second.norm()])


def edit(block: int, when: Any, width: int = 16) -> Edit:
    return Edit(block, when, direction(width), subspace(width), SHARE)


def hook(_block: Any, _inputs: Any, output: Any) -> Any:
    """The edit, written out."""
    states = output[0] if isinstance(output, tuple) else output
    v, Q = direction(states.shape[-1]).to(states), subspace(states.shape[-1]).to(states)
    states = states - SHARE * (states @ Q.T) @ Q + v
    return (states, *output[1:]) if isinstance(output, tuple) else states


@dataclass(frozen=True, kw_only=True)
class Edited(Method):
    """Plain fine-tuning of an edited model."""

    when: str = Choice("training", "training", "evaluation", "always", "never")
    block: float = Range(0, low=0, high=3, integer=True)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def edits(self, prepared: Any) -> Sequence[Edit]:
        return [] if self.when == "never" else [edit(int(self.block), self.when)]


@dataclass(frozen=True, kw_only=True)
class EditedStates(ProxyMethod):
    """The same, with a loss on the states of all layers."""

    reference = ("alignment",)
    layers = ("alignment",)

    block: float = Range(0, low=0, high=3, integer=True)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]) + hidden_mse(step.policy["alignment"], step.reference["alignment"]),)

    def edits(self, prepared: Any) -> Sequence[Edit]:
        return [edit(int(self.block), "always")]


def pack_of(*trials: TrialConfig, base: Any = None, **options: Any) -> Pack:
    return Pack(base or tiny_base(), tiny_setting(), trials, torch.float64, **options)


def trial_of(method: Method, seed: int = 0, **values: Any) -> TrialConfig:
    """A short one, with few adapted layers; ranks differ with the seed."""
    adapter = AdapterConfig(rank=1 + seed, alpha=4.0, targets=("q_proj", "down_proj"))
    options: Of = {"adapter": adapter, "steps": 8, "max_length": 20}
    return tiny_trial(method, seed, **options | values)


def everybody() -> list[TrialConfig]:
    """Not edited, in training, in evaluation, always; of different ranks."""
    kinds = ("never", "training", "evaluation", "always")
    return [trial_of(Edited(when=when), seed) for seed, when in enumerate(kinds)]


HOLDS = {"training": (False, True, False, True), "evaluation": (False, False, True, True)}


def reopened(pack: Pack, index: int, folder: Path, *, hooked: bool) -> Any:
    """The member in plain PEFT, around a model of its own, with the hook where its edit holds."""
    pack.adapters.save_member(index, folder / str(index), "tiny")
    model: Any = PeftModel.from_pretrained(tiny_model(), folder / str(index), is_trainable=True).to(torch.float64)
    if hooked:
        layers_of(model)[0].register_forward_hook(hook)
    return model


def task_loss(model: Any, rows: Sequence[Any]) -> Tensor:
    """The mean over the response tokens of rows that are read one by one, without padding."""
    nll = []
    for row in rows:
        ids = torch.tensor([row.ids])
        log_p = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        nll += [-log_p[at - 1, row.ids[at]] for at in range(row.prompt_length, len(row.ids))]
    return torch.stack(nll).mean()


# --- training ---


def test_losses_and_gradients_are_those_of_a_hooked_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the fifth step, when no factor is zero any more."""
    pack = pack_of(*everybody())
    pack.advance(4)
    rows = [pack.member_step(index).rows["task"] for index in range(4)]
    models = [reopened(pack, index, tmp_path, hooked=HOLDS["training"][index]) for index in range(4)]
    stepped: list[Tensor] = []

    def step(flat_KP: Tensor, active: Sequence[bool]) -> Tensor:
        stepped.append(flat_KP)
        return torch.zeros(4)

    monkeypatch.setattr(pack.optimizer, "step", step)
    pack.advance(1)
    for index, model in enumerate(models):
        loss = task_loss(model, rows[index])
        assert pack.members[index].curves["loss"][-1][1] == pytest.approx(loss.item(), abs=1e-9)
        named = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        factors = pack.adapters.of_member(index, pack.adapters.unflat(stepped[0][index]))
        found = pack.adapters.member_factors(index, factors)
        for name, factor in zip(pack.adapters.layers_of(index), found, strict=True):
            for kind, gradient in (("A", factor.A_RI), ("B", factor.B_OR)):
                expected = gradients[f"base_model.model.{name}.lora_{kind}.weight"]
                torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    losses = [pack.members[index].curves["loss"][0][1] for index in range(4)]
    assert abs(losses[0] - losses[1]) > 1e-2


def test_a_member_without_edits_keeps_every_bit() -> None:
    """Beside an edited member it is what it is beside an unedited one."""
    trials = everybody()
    edited, plain = pack_of(trials[0], trials[3]), pack_of(trials[0], replace(trials[3], method=Edited(when="never")))
    for pack in (edited, plain):
        pack.advance(5)
    assert torch.equal(edited.adapters.theta_KP[0], plain.adapters.theta_KP[0])
    assert not torch.equal(edited.adapters.theta_KP[1], plain.adapters.theta_KP[1])


def trained(trials: Sequence[TrialConfig], base: Any = None, steps: int = STEPS, **options: Any) -> list[Tensor]:
    pack = pack_of(*trials, base=base, **options)
    pack.advance(steps)
    assert [member.reason for member in pack.members] == [None] * len(trials)
    return [pack.adapters.cut(index, row_P) for index, row_P in enumerate(pack.adapters.theta_KP)]


def test_a_pack_equals_solo_runs_however_it_is_computed() -> None:
    """Micro-batches of rows of several members, and layers that run once more on the way back."""
    solo = [values for trial in everybody() for values in trained([trial], steps=3)]
    for options in ({}, {"rows_per_forward": 3}, {"gradient_checkpointing": True}):
        torch.testing.assert_close(trained(everybody(), steps=3, **options), solo, rtol=0, atol=1e-10)


def test_resumed_with_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = (pack_of(*everybody()) for _ in range(3))
    whole.advance(6)
    first.advance(3)
    first.save(tmp_path / "checkpoint")
    assert second.resume(tmp_path / "checkpoint")
    second.advance(3)
    assert torch.equal(whole.adapters.theta_KP, second.adapters.theta_KP)


def test_a_detached_model_is_the_base_model() -> None:
    base = tiny_base()
    ids = torch.tensor([ROWS[0].ids])
    before = base.model(input_ids=ids).logits
    pack = pack_of(trial_of(Edited(when="always")), base=base)
    assert torch.equal(base.model(input_ids=ids).logits, before), "the reference is edited"
    with pack.adapters.routed(Route((0,), (1,))):
        assert not torch.equal(base.model(input_ids=ids).logits, before)
        pack.detach()
        assert torch.equal(base.model(input_ids=ids).logits, before)


# --- what a method sees ---


@pytest.mark.parametrize("block", [0, 1])
def test_the_states_that_a_method_sees_are_those_after_the_edit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where transformers has hooked the blocks before; the last layer's are taken after edit and final norm."""
    base, seen = tiny_base(), list[Step]()
    ids = torch.tensor([ROWS[0].ids])
    base.model(input_ids=ids, output_hidden_states=True)
    losses = EditedStates.losses

    def watched(self: EditedStates, step: Step) -> tuple[Tensor, ...]:
        seen.append(step)
        return losses(self, step)

    monkeypatch.setattr(EditedStates, "losses", watched)
    pack = pack_of(trial_of(EditedStates(block=block)), base=base)
    rows = pack.member_step(0).rows["alignment"]
    pack.advance(1)
    model = tiny_model()
    plain = [model.base_model(input_ids=torch.tensor([row.ids]), output_hidden_states=True) for row in rows]
    layers_of(model)[block].register_forward_hook(hook, prepend=True)
    hooked = [model.base_model(input_ids=torch.tensor([row.ids]), output_hidden_states=True) for row in rows]
    for outputs, forward in ((hooked, seen[0].policy["alignment"]), (plain, seen[0].reference["alignment"])):
        parts = [
            torch.stack(output.hidden_states[1:])[:, 0, row.prompt_length - 1 : -1]
            for output, row in zip(outputs, rows, strict=True)
        ]
        assert forward.layers_LND is not None
        torch.testing.assert_close(forward.layers_LND, torch.cat(parts, dim=1), rtol=0, atol=1e-10)
        assert torch.equal(forward.hidden_ND, forward.layers_LND[-1])


# --- evaluation ---


def test_likelihoods_and_replies_are_those_of_a_hooked_model(tmp_path: Path) -> None:
    """With a key-value cache and without; an edit that holds in training alone is off."""
    pack = pack_of(*everybody())
    pack.advance(6)
    losses, nats, replies = measured(pack, pack.prefixes)
    for index in range(4):
        model = reopened(pack, index, tmp_path, hooked=HOLDS["evaluation"][index]).eval()
        for place, row in enumerate(ROWS):
            loss = task_loss(model, [row]).item()
            assert losses[index][place] == pytest.approx(loss, abs=1e-9)
            assert nats[index][place] == pytest.approx(-loss * (len(row.ids) - row.prompt_length), abs=1e-9)
            prompt = torch.tensor([row.ids[: row.prompt_length]])
            words = model.generate(input_ids=prompt, max_new_tokens=5, do_sample=False, eos_token_id=1, pad_token_id=0)[
                0, row.prompt_length :
            ].tolist()
            assert replies[index][place] == tuple(words[: words.index(1)] if 1 in words else words)
    assert replies[0] != replies[3]


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "bloom", "falcon"])
def test_blocks_of_other_architectures(name: str) -> None:
    """Blocks that return tuples, windows, positions as a bias. An adapter that has not moved adds nothing."""
    wide = name != "bloom"  # it takes its softmax in float32, to which a mask in float64 is -inf
    dtype, tolerance = (torch.float64, 1e-9) if wide else (torch.float32, 1e-4)
    base = architecture_base(name, dtype)
    adapters = PackedAdapters(base.model, [AdapterConfig(rank=2)] * 2, [0, 1], dtype)
    adapters.attach_edits({1: [edit(0, "evaluation", 32)]})
    of: Of = {"adapters": adapters, "members": (0, 1)}
    losses, nats = token_losses(base.model, ROWS, 0, **of), log_likelihoods(base.model, ROWS, 0, **of)
    for index in range(2):
        model = architecture(name, dtype)
        if index:
            layers_of(model)[0].register_forward_hook(hook)
        expected = [task_loss(model, [row]).item() for row in ROWS]
        assert losses[index] == pytest.approx(expected, abs=tolerance)
        assert [-value / (len(row.ids) - row.prompt_length) for value, row in zip(nats[index], ROWS, strict=True)] == (
            pytest.approx(expected, abs=tolerance)
        )


def test_in_half_precision_the_edit_itself_is_made_in_single() -> None:
    """Autocast would make its products in half precision."""
    states_RTD = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    single = Edit(0, "always", direction().float(), subspace().float(), SHARE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_RTD = edited(states_RTD, [single])
    assert found_RTD.dtype == torch.bfloat16
    assert torch.equal(found_RTD, hook(None, None, states_RTD.float()).bfloat16())


# --- passes that begin above ---


@pytest.mark.parametrize(("block", "start"), [(0, 1), (1, 2), (3, 2)])
def test_passes_begin_no_higher_than_above_the_edit(block: int, start: int, tmp_path: Path) -> None:
    """Four blocks, adapters on the upper two: training, states of all layers, likelihoods and replies."""
    trials = [
        trial_of(method, seed, adapter=upper())
        for seed, method in enumerate(
            [Edited(when="never"), Edited(when="always", block=block), EditedStates(block=block)]
        )
    ]
    kept: Of = {"references": ReferenceCache(tmp_path), "prefixes": PrefixCache(tmp_path)}
    whole, begun = trained(trials, deep_base()), trained(trials, deep_base(), **kept)
    torch.testing.assert_close(begun, whole, rtol=0, atol=1e-10)
    packs = [pack_of(*trials, base=deep_base(), **options) for options in ({}, kept)]
    for pack in packs:
        pack.advance(3)
    losses = [[[value for _, value in member.curves["loss"]] for member in pack.members] for pack in packs]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-9)  # what is edited below has no gradient
    assert packs[1].adapters.first_block == start
    assert ran(packs[1].base.model, start - 1, lambda: packs[1].advance(1)) == 0
    packs[0].adapters.theta_KP.copy_(packs[1].adapters.theta_KP)
    asked = [measured(pack, pack.prefixes) for pack in packs]
    torch.testing.assert_close(asked[1][:2], asked[0][:2], rtol=0, atol=1e-10)
    assert asked[1][2] == asked[0][2]


# --- what is kept ---


def scores(trial: TrialConfig, folder: Path, store: AdapterStore | None) -> Of:
    pack = pack_of(trial, store=store)
    pack.advance(trial.updates)
    (outcome,) = pack.finish(SweepFolder(folder)).outcomes
    assert outcome.status == "finished", outcome.reason
    return {name: score.mean for name, score in outcome.scores.items()}


def test_edits_that_hold_in_evaluation_lie_beside_the_adapter(tmp_path: Path) -> None:
    for trial, kept in zip(everybody(), HOLDS["evaluation"], strict=True):
        scores(trial, tmp_path, None)
        directory = SweepFolder(tmp_path).adapter(trial.trial_id)
        note = json.loads((directory / "trial.json").read_text()).get("note", "")
        assert ("edits.safetensors" in note) == (directory / "edits.safetensors").is_file() == kept
        found = load_edits(directory)
        if kept:
            assert (found[0].block, found[0].when, found[0].share) == (0, trial.method.when, SHARE)  # type: ignore[attr-defined]
            assert torch.equal(found[0].add_D, direction()) and torch.equal(found[0].remove_QD, subspace())  # type: ignore[arg-type]
            assert FORMULA.encode() in (directory / "edits.safetensors").read_bytes()
        else:
            assert found == ()


def test_readouts_are_edited_as_what_they_read(tmp_path: Path) -> None:
    """A checkpoint is what a shorter training came to; at half scale half of the edit holds, and at none the base."""
    trial = trial_of(Edited(when="always"))
    folder = SweepFolder(tmp_path)
    pack = pack_of(trial, store=AdapterStore(folder), snapshots=[3])
    pack.advance(8)
    pack.finish(folder)
    short = pack_of(trial)
    short.advance(3)
    store = AdapterStore(folder)
    (expected,) = short.evaluate().values()
    found = scores(replace(trial, checkpoint_step=3), tmp_path, store)
    assert found == pytest.approx({name: score.mean for name, score in expected.scores.items()}, abs=1e-9)
    nothing = scores(replace(trial, adapter_scale=0.0), tmp_path, store)
    untouched = pack_of(trial_of(Edited(when="never")))
    (expected,) = untouched.evaluate().values()
    assert nothing == pytest.approx({name: score.mean for name, score in expected.scores.items()}, abs=1e-9)
    scores(replace(trial, adapter_scale=0.5), tmp_path, store)
    (half,) = load_edits(folder.adapter(replace(trial, adapter_scale=0.5).trial_id))
    assert half.share == SHARE / 2
    assert torch.equal(half.add_D, direction() / 2)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class OnEdited(Method):
    """A method whose prior is edited in evaluation."""

    @property
    def priors(self) -> tuple[Method, ...]:
        return (Edited(when="evaluation"),)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)


def test_a_prior_that_its_adapter_does_not_hold_is_refused(tmp_path: Path) -> None:
    trial = trial_of(OnEdited())
    store = prepare(trial.priors, tmp_path)
    with pytest.raises(UserError, match="'test_edits' cannot build on method 'test_edits', which edits hidden states"):
        pack_of(trial, store=store)


# --- what cannot be ---


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Edit(2, "always", direction()), "edit after block 2: the model has blocks 0 to 1"),
        (Edit(0, "always", direction(8)), r"add_D must be finite, of shape \[16\]"),
        (Edit(0, "always", direction() / 0), r"add_D must be finite, of shape \[16\]"),
        (Edit(0, "always", None, direction()), r"remove_QD must be finite, of shape \[Q, 16\]"),
        (Edit(0, "always", None, 2 * subspace()), "the rows of remove_QD are not orthonormal"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(bad: Edit, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    monkeypatch.setattr(Edited, "edits", lambda self, prepared: [bad])
    with pytest.raises(ValueError, match=rf"edits\(prepared\) of method 'test_edits': .*{message}"):
        pack_of(trial_of(Edited()), base=base)
    pack_of(trial_of(methods.make("plain")), base=base).detach()


def test_what_does_nothing_is_left_out() -> None:
    """No pass begins lower for it, and no block is hooked."""
    base = deep_base()
    adapters = PackedAdapters(base.model, [upper()], [0], torch.float64)
    adapters.attach_edits({0: [Edit(0, "always"), Edit(0, "always", None, subspace(), share=0.0)]})
    assert adapters.first_block == 2
    assert not adapters.edits.holding(0, evaluating=False)


def test_blocks_that_do_not_return_a_vector_for_each_token_are_refused() -> None:
    base = tiny_base()
    pack = pack_of(trial_of(Edited()), base=base)
    with pack.adapters.routed(Route((0,), (2,))), pytest.raises(UserError, match="do not return one vector for each"):
        base.model(input_ids=torch.tensor([ROWS[0].ids]))


def test_prompts_that_several_members_share_are_edited_in_each(tmp_path: Path) -> None:
    """Below the lowest start a prompt is read once for all members; its states are edited for those that are."""
    trials = [trial_of(Edited(when=when), 0, adapter=upper()) for when in ("never", "evaluation")]
    pack = pack_of(*trials, base=deep_base(), prefixes=PrefixCache(tmp_path))
    words: Of = {"max_new_tokens": 4, "stop_ids": frozenset({1}), "pad_id": 0}
    prompts = [row.ids[: row.prompt_length] for row in ROWS]
    both = generate(pack.base.model, prompts, adapters=pack.adapters, members=(0, 1), prefixes=pack.prefixes, **words)
    (base,) = generate(deep_base().model, prompts, **words)
    model = deep_base().model
    layers_of(model)[0].register_forward_hook(hook)
    (hooked,) = generate(model, prompts, **words)
    assert both == [base, hooked]
    assert base != hooked
