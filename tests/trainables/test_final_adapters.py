"""Adapters of any rank that methods make after training, and methods that are built on two others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from settings.common.errors import UserError
from tests.support.tiny import prepare, tiny_base, tiny_model, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.adapters import PackedAdapters
from trainables.engine.edits.files import FILE, save_edits
from trainables.engine.packed_linear import Route
from trainables.folder import SweepFolder
from trainables.interface.edits import Edit
from trainables.method import Method, Trained
from trainables.pack import Pack
from trainables.projections import Factors, joined
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, TrialConfig

IDS = torch.tensor([[2, 5, 6, 3, 9, 10, 1]])
ADAPTER = AdapterConfig(rank=2, alpha=4.0, targets=("q_proj", "down_proj"))
STEPS = 6


def trial_of(method: Method | str, values: dict[str, Any] | None = None, **overrides: Any) -> TrialConfig:
    made = methods.make(method, values) if isinstance(method, str) else method
    return tiny_trial(made, adapter=ADAPTER, max_length=16, steps=STEPS, **overrides)


@contextmanager
def packed(trials: Sequence[TrialConfig], store: AdapterStore | None) -> Iterator[Pack]:
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, store=store)
    yield pack
    pack.detach()


@torch.no_grad()
def logits(adapters: PackedAdapters, member: int = 0) -> Tensor:
    with adapters.routed(Route((member,), (1,))):
        return adapters.model(input_ids=IDS).logits


def changes(adapters: PackedAdapters, member: int = 0) -> list[Tensor]:
    return [own.scale * own.B_OR @ own.A_RI for own in adapters.final_factors(member)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters that the steered and merged trials of one seed are made of: three trainings."""
    folder = tmp_path_factory.mktemp("trained")
    prepare(trial_of("weight_steering").requires, folder)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> AdapterStore:
    return AdapterStore(SweepFolder(folder))


MERGED = [("weight_steering", {}, 6), ("safe_merge", {"tau": 1.0}, 4), ("closest_safe_update", {}, 4), ("blend", {}, 4)]


def test_a_steered_trial_is_made_of_three_trainings(store: AdapterStore, tmp_path: Path) -> None:
    """plain + k (aligned - misaligned), layer by layer, from the store; their costs are inherited once each."""
    trial = trial_of("weight_steering", {"k": 0.75})
    assert [needed.method.name for needed in trial.requires] == ["plain", "alignment_only", "misaligned_only"]
    parts = []
    for needed in trial.requires:
        with packed([replace(needed, adapter_scale=1.0)], store) as pack:
            pack.adapters.load_member(0, store.find(needed).tensors)  # type: ignore[union-attr]
            parts.append(changes(pack.adapters))
    with packed([trial], store) as pack:
        assert pack.steps == 0
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        found = changes(pack.adapters)
    for own, plain, aligned, misaligned in zip(found, *parts, strict=True):
        torch.testing.assert_close(own, plain + 0.75 * (aligned - misaligned), rtol=0, atol=1e-12)
    saved = [store.find(needed) for needed in trial.requires]
    assert outcome.cost.tokens == 0
    assert outcome.cost.inherited_tokens == sum(each.tokens for each in saved if each) > 0


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("name", "values", "rank"), MERGED)
def test_the_checkpoint_of_the_joint_rank_opens_in_peft(
    name: str, values: dict[str, Any], rank: int, scale: float, store: AdapterStore, tmp_path: Path
) -> None:
    """With the logits of the pack, which are those of the base model with the dense change added to its weights."""
    trial = trial_of(name, values, adapter_scale=scale)
    with packed([trial], store) as pack:
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        expected, added = logits(pack.adapters), dict(zip(pack.adapters.layers, changes(pack.adapters), strict=True))
    assert outcome.status == "finished"
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapters" / str(outcome.adapter))
    assert loaded.peft_config["default"].r == rank
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)
    dense = tiny_model()
    for layer, change in added.items():
        dense.get_submodule(layer).weight += change
    torch.testing.assert_close(dense(input_ids=IDS).logits, expected, rtol=0, atol=1e-9)
    assert float((expected - tiny_model()(input_ids=IDS).logits).abs().max()) > 1e-2


def test_a_scaled_merged_adapter_is_a_part_of_it(store: AdapterStore) -> None:
    """Half of the change of every layer."""
    added = {}
    for scale in (1.0, 0.5):
        with packed([trial_of("weight_steering", adapter_scale=scale)], store) as pack:
            pack.edit_adapters()
            added[scale] = changes(pack.adapters)
    for whole, half in zip(added[1.0], added[0.5], strict=True):
        torch.testing.assert_close(half, 0.5 * whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "values"), [("weight_steering", {}), ("safety_anchoring", {})])
def test_a_checkpoint_of_a_training_is_read_out(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    """After 4 of 6 steps: from the snapshot of a finished training as when trained up to there, to 1e-9."""
    whole, part = trial_of(name, values), trial_of(name, values, checkpoint_step=4)
    store = prepare([*whole.priors], tmp_path)
    pack = Pack(tiny_base(), tiny_setting(), [whole.training], torch.float64, store=store, snapshots=(4,))
    pack.advance(STEPS)
    pack.finish(SweepFolder(tmp_path))
    found = []
    for given in (store, prepare(whole.priors, tmp_path / "alone")):
        with packed([part], given) as pack:
            assert pack.steps == (0 if given is store else 4)
            pack.advance(STEPS)
            (outcome,) = pack.finish(SweepFolder(tmp_path / "read")).outcomes
            found.append((changes(pack.adapters), outcome))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert found[0][1].cost.total_tokens == found[1][1].cost.total_tokens


def test_in_a_pack_with_others_it_is_what_it_is_alone(store: AdapterStore) -> None:
    """Beside a plain member, one of another rank and one above a prior; these stay what they are, too."""
    trials = [
        trial_of("plain", seed=5),
        trial_of("weight_steering"),
        replace(trial_of("plain", seed=6), adapter=replace(ADAPTER, rank=5)),
        trial_of("orthogonal_lora"),
        trial_of("safe_merge", {"tau": 1.0}),
    ]
    with packed(trials, store) as pack:
        pack.advance(STEPS)
        pack.edit_adapters()
        together = [logits(pack.adapters, member) for member in range(len(trials))]
    for trial, expected in zip(trials, together, strict=True):
        with packed([trial], store) as pack:
            pack.advance(STEPS)
            pack.edit_adapters()
            torch.testing.assert_close(logits(pack.adapters), expected, rtol=0, atol=1e-9)


def test_a_merged_adapter_can_be_a_prior(folder: Path, store: AdapterStore) -> None:
    """Of rank 4, beneath one of rank 2; the checkpoint has 6."""
    merged = methods.make("safe_merge", {"tau": 1.0})
    prepare([trial_of(merged)], folder)
    above = type(methods.make("orthogonal_lora"))
    stacked = type("Stacked", (above,), {"priors": property(lambda self: (merged,)), "name": "stacked"})()
    with packed([trial_of(merged)], store) as pack:
        pack.edit_adapters()
        beneath = logits(pack.adapters)
    with packed([trial_of(stacked)], store) as pack:
        torch.testing.assert_close(logits(pack.adapters), beneath, rtol=0, atol=1e-9)
        pack.advance(2)
        pack.adapters.save_member(0, folder / "kept", "tiny")
        expected = logits(pack.adapters)
    loaded = PeftModel.from_pretrained(tiny_model(), folder / "kept")
    assert loaded.peft_config["default"].r == 6
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)


def adapters_of(ranks: Sequence[int]) -> PackedAdapters:
    """Untrained adapters, B drawn as well."""
    configs = [replace(ADAPTER, rank=rank) for rank in ranks]
    adapters = PackedAdapters(tiny_model(), configs, list(range(len(ranks))), torch.float64)
    adapters.theta_KP.copy_(torch.randn(adapters.theta_KP.shape, generator=torch.Generator().manual_seed(0)))
    for member in range(len(ranks)):
        adapters.theta_KP[member] = adapters.pad(member, adapters.cut(member, adapters.theta_KP[member]))
    return adapters


def test_the_trained_adapter_comes_back_to_the_bit() -> None:
    """After one of another rank and one of the same have stood in for it, above a prior; other members never move."""
    adapters = adapters_of((2, 3))
    adapters.attach_priors({0: [replace(own, B_OR=0.1 * own.B_OR) for own in adapters.member_factors(0)]})
    before, outputs = adapters.theta_KP.clone(), [logits(adapters, member) for member in (0, 1)]
    own = [factors.copy() for factors in adapters.member_factors(0)]
    for other in ([joined(factors, factors.times(-0.5)) for factors in own], [replace(f, B_OR=-f.B_OR) for f in own]):
        adapters.stand_in(0, other)
        assert float((logits(adapters) - outputs[0]).abs().max()) > 1e-3
        torch.testing.assert_close(logits(adapters, 1), outputs[1], rtol=0, atol=0)
        adapters.restore(0)
        assert torch.equal(adapters.theta_KP, before)
        assert torch.equal(logits(adapters), outputs[0])


def test_layers_of_different_rank_are_kept_at_the_largest(tmp_path: Path) -> None:
    """The first layer has 4, the others 2, of a scale of their own."""
    adapters = adapters_of((2,))
    first, *rest = [factors.copy() for factors in adapters.member_factors(0)]
    adapters.stand_in(0, [joined(first, first.times(0.5)), *rest])
    expected = logits(adapters)
    adapters.save_member(0, tmp_path, "tiny")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert loaded.peft_config["default"].r == 4
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)


def broken(finalize: Callable[[Trained], Sequence[Factors]]) -> Method:
    """Plain fine-tuning with an edit of one's own."""
    plain = methods.make("plain")
    made = type(
        "Broken",
        (type(plain),),
        {"name": "broken", "trained_as": property(lambda self: plain), "finalize": lambda self, given: finalize(given)},
    )()
    assert isinstance(made, Method)
    return made


@pytest.mark.parametrize(
    "edit",
    [lambda own: replace(own, B_OR=own.B_OR * math.nan), lambda own: own.times(math.inf)],
)
def test_numbers_that_are_not_finite_are_invalid(edit: Callable[[Factors], Factors], tmp_path: Path) -> None:
    """In the last layer only. Nothing is evaluated or kept, and the member beside it finishes."""
    method = broken(lambda given: [*given.adapter[:-1], edit(given.adapter[-1])])
    with packed([trial_of(method), trial_of("plain")], None) as pack:
        pack.advance(STEPS)
        outcome, other = pack.finish(SweepFolder(tmp_path)).outcomes
    assert (outcome.status, outcome.adapter, outcome.scores) == ("invalid", None, {})
    assert outcome.reason == (
        "finalize of method 'broken' makes numbers that are not finite in layer model.layers.1.mlp.down_proj"
    )
    assert other.status == "finished"


def test_finalize_works_on_a_copy() -> None:
    def spoil(given: Trained) -> Sequence[Factors]:
        for own in given.adapter:
            own.B_OR.zero_()
        return [replace(own, B_OR=own.B_OR + 1) for own in given.adapter]

    with packed([trial_of(broken(spoil))], None) as pack:
        pack.advance(2)
        before = pack.adapters.theta_KP.clone()
        pack.edit_adapters()
        pack.adapters.restore(0)
        assert torch.equal(pack.adapters.theta_KP, before)


# --- blends of any two configurations ---


ENDS = ("plain", "kl_penalty beta=3", "orthogonal_lora", "weight_steering k=0.75")


def method_of(end: str) -> Method:
    """The method of an end, its coefficients written out by hand."""
    values: dict[str, dict[str, Any]] = {ENDS[1]: {"beta": 3.0}, ENDS[3]: {"k": 0.75}}
    return methods.make(end.partition(" ")[0], values.get(end))


@pytest.mark.parametrize(("first", "second"), [(ENDS[1], ENDS[0]), (ENDS[2], ENDS[1]), (ENDS[0], ENDS[2]), ENDS[:1:-1]])
def test_a_blend_is_made_of_the_peft_checkpoints_of_its_ends(first: str, second: str, tmp_path: Path) -> None:
    """w dW_1 + (1 - w) dW_2, with dW of each end the merged weights of its checkpoint, as PEFT alone reads it.

    One end may lie above a frozen prior, or be edited after its training.
    """
    trial = trial_of("blend", {"w": 0.3, "first": first, "second": second})
    assert [needed.method for needed in trial.requires] == [method_of(first), method_of(second)]
    store = prepare(trial.requires, tmp_path)
    base, expected = tiny_model(), tiny_model()
    for share, end in ((0.3, trial.requires[0]), (0.7, trial.requires[1])):
        directory = SweepFolder(tmp_path).adapter(end.trial_id)
        merged = PeftModel.from_pretrained(tiny_model(), directory).merge_and_unload().state_dict()
        for name, weight in expected.state_dict().items():
            weight += share * (merged[name] - base.state_dict()[name])
    with packed([trial], store) as pack:
        assert pack.steps == 0
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        torch.testing.assert_close(logits(pack.adapters), expected(input_ids=IDS).logits, rtol=0, atol=1e-5)
    assert outcome.cost.tokens == 0
    assert float((expected(input_ids=IDS).logits - base(input_ids=IDS).logits).abs().max()) > 1e-2


def test_ends_are_written_in_one_way() -> None:
    """Spaces, commas, defaults and 10 or 10.0 are no other trial; the order of the ends is."""
    blends = [
        methods.make("blend", {"first": text, "second": "plain"})
        for text in ("kl_penalty beta=10", " kl_penalty  beta=10.0,tokens=response", "kl_penalty beta=1e1")
    ]
    assert {trial_of(each).trial_id for each in blends} == {trial_of(blends[0]).trial_id}
    turned = methods.make("blend", {"first": "plain", "second": "kl_penalty beta=10"})
    assert trial_of(turned).trial_id != trial_of(blends[0]).trial_id


def test_blends_of_the_same_ends_are_read_from_the_same_trainings() -> None:
    """Whichever end comes first, and whatever is read out of them; an end that is edited plain training is plain's."""
    plain, kl = trial_of("plain"), trial_of("kl_penalty")
    pairs = [("plain", "kl_penalty"), ("kl_penalty", "plain"), ("safe_lora", "kl_penalty")]
    blends = [trial_of("blend", {"w": 0.2, "first": first, "second": second}) for first, second in pairs]
    readouts = [*blends, replace(blends[0], adapter_scale=0.5), replace(blends[0], decoding_mix=2.0)]
    both = "+".join(sorted([plain.configuration_id, kl.configuration_id]))
    assert {trial.read_from for trial in readouts} == {both}
    for trial in (plain, replace(plain, adapter_scale=0.5), trial_of("safe_lora"), trial_of("weight_steering")):
        assert trial.read_from == plain.configuration_id


def test_an_end_counts_once_where_the_other_is_built_on_it(tmp_path: Path) -> None:
    """Safe LoRA edits the plain training: a blend of the two takes what Safe LoRA takes."""
    trial = trial_of("blend", {"first": "plain", "second": "safe_lora"})
    store = prepare(trial.requires, tmp_path)
    saved = store.find(trial.requires[1])
    with packed([trial], store) as pack:
        assert saved and pack.members[0].cost.inherited_tokens == saved.tokens > 0


def test_what_both_ends_are_built_on_counts_once(tmp_path: Path) -> None:
    """O-LoRA lies above the alignment-only adapter, Safe LoRA reads it and edits plain: three trainings in all."""
    trial = trial_of("blend", {"first": "orthogonal_lora", "second": "safe_lora"})
    above, edited = trial.requires
    store = prepare(trial.built_on, tmp_path)
    alone = [store.cost(each) for each in (above, trial_of("plain"), trial_of("alignment_only"))]
    assert all(each and each[0] > 0 for each in alone)
    with packed([trial], store) as pack:
        inherited = pack.members[0].cost
    assert inherited.inherited_tokens == alone[0][0] + alone[1][0]  # type: ignore[index]
    assert inherited.inherited_tokens == store.cost(above)[0] + store.cost(edited)[0] - alone[2][0]  # type: ignore[index]


def test_the_identity_of_a_blend_has_the_defaults_of_its_ends() -> None:
    """So that another default is another trial; its text leaves them out."""
    trial = trial_of("blend", {"first": "plain", "second": "kl_penalty"})
    assert trial.method.second == "kl_penalty"  # type: ignore[attr-defined]
    plain, kl = trial.to_json()["ends"]
    assert (plain["name"], kl["name"], kl["beta"]) == (
        "plain",
        "kl_penalty",
        trial_of("kl_penalty").coefficients["beta"],
    )
    assert TrialConfig.from_json(trial.to_json()) == trial
    with pytest.raises(UserError, match="would train differently"):
        TrialConfig.from_json({**trial.to_json(), "ends": [plain, {**kl, "beta": 2 * kl["beta"]}]})


def test_an_end_that_edits_hidden_states_in_evaluation_is_refused(tmp_path: Path) -> None:
    """As the first or the second: an adapter cannot hold what it does."""
    trial = trial_of("blend", {"first": "plain", "second": "kl_penalty"})
    store = prepare(trial.requires, tmp_path)
    for end in trial.requires:
        save_edits(SweepFolder(tmp_path).adapter(end.trial_id), [Edit(0, "always", add_D=torch.ones(16))])
        message = f"'blend' cannot build on method '{end.method.name}', which edits hidden states"
        with pytest.raises(UserError, match=message), packed([trial], store):
            pass
        (SweepFolder(tmp_path).adapter(end.trial_id) / FILE).unlink()


def test_a_first_end_that_is_not_there_is_not_trained_as_another(tmp_path: Path) -> None:
    """The step of a blend is that of plain fine-tuning."""
    trial = trial_of("blend", {"first": "kl_penalty", "second": "plain"})
    store = prepare(trial.priors, tmp_path)
    with packed([trial], store) as pack, pytest.raises(UserError, match="needs the finished adapter of 'kl_penalty'"):
        pack.advance(1)
