"""Trials that read out another's training: a checkpoint, a scaled or edited adapter; and active priors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from settings.reference import SettingRef
from settings.setting import Setting
from tests.support.checkpoints import tiny_gemma, tiny_qwen3
from tests.support.tiny import prepare, tiny_base, tiny_model, tiny_setting, tiny_trial
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.base import tuning_directions
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.packed_linear import Route
from trainables.evaluation.evaluate import evaluate
from trainables.folder import SweepFolder
from trainables.pack import Pack
from trainables.projections import WeightDirection
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, OptimizerConfig, TrialConfig, trial_for

IDS = torch.tensor([[2, 5, 6, 3, 9, 10, 1]])


def trial_of(name: str, **overrides: object) -> TrialConfig:
    return tiny_trial(methods.make(name), max_length=16, **overrides)  # type: ignore[arg-type]


@contextmanager
def packed(trial: TrialConfig, store: AdapterStore | None, **options: object) -> Iterator[Pack]:
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store, **options)  # type: ignore[arg-type]
    yield pack
    pack.detach()


@torch.no_grad()
def logits(pack: Pack) -> Tensor:
    """Return the logits of the first member."""
    with pack.adapters.routed(Route((0,), (1,))):
        return pack.base.model(input_ids=IDS).logits


@pytest.fixture(scope="module", params=["plain", "orthogonal_lora"])
def name(request: pytest.FixtureRequest) -> str:
    """Return a method without, and one with, an active prior."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the adapters of a training of 20 steps and of its snapshot after 12."""
    folder, trial = tmp_path_factory.mktemp(name), trial_of(name)
    store = prepare(trial.requires, folder)
    with packed(trial, store, snapshots=(12,)) as pack:
        pack.advance(trial.steps)
        pack.finish(SweepFolder(folder))
    return folder


# --- checkpoints ---


def test_a_checkpoint_is_the_training_up_to_there(name: str, folder: Path, tmp_path: Path) -> None:
    """Loaded from the snapshot, it takes no step, and equals 12 steps of the same schedule from scratch to 1e-9."""
    trial = trial_of(name, checkpoint_step=12)
    with packed(trial, AdapterStore(SweepFolder(folder))) as pack:
        assert pack.steps == 0
        loaded = logits(pack)
        (outcome,) = pack.finish(SweepFolder(tmp_path / "loaded")).outcomes
    store = prepare(whole.requires if (whole := trial_of(name)) else (), tmp_path / "priors")
    with packed(trial, store) as pack:
        assert pack.steps == 12
        pack.advance(99)
        assert pack.steps_done == 12
        torch.testing.assert_close(loaded, logits(pack), rtol=0, atol=1e-9)
        (scratch,) = pack.finish(SweepFolder(tmp_path / "scratch")).outcomes
    with packed(replace(trial, checkpoint_step=11), store) as pack:
        pack.advance(99)
        assert float((loaded - logits(pack)).abs().max()) > 1e-5
    assert outcome.scores == scratch.scores
    assert outcome.cost.tokens == 0
    assert outcome.cost.total_tokens == scratch.cost.total_tokens


def test_a_checkpoint_needs_the_whole_training(name: str) -> None:
    trial = trial_of(name, checkpoint_step=12)
    assert trial_of(name) in trial.requires
    assert trial.trial_id != trial_of(name).trial_id


def test_the_last_checkpoint_is_the_trial_itself(name: str) -> None:
    assert trial_of(name, checkpoint_step=20).trial_id == trial_of(name).trial_id


@pytest.mark.parametrize("step", [0, 21, 1.5])
def test_a_checkpoint_outside_the_training_is_refused(step: float) -> None:
    with pytest.raises(UserError, match=r"'checkpoint_step' must be an integer in \[1, 20\]"):
        trial_of("plain", checkpoint_step=step)


# --- scaled adapters ---


def test_scale_0_is_the_base_model(name: str, folder: Path, tmp_path: Path) -> None:
    """Bit for bit in its scores, whatever prior is active."""
    with packed(trial_of(name, adapter_scale=0.0), AdapterStore(SweepFolder(folder))) as pack:
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        (base,) = evaluate(pack.base.model, pack.encoded[16])
    assert outcome.scores["task"] == base.scores["task"]
    assert outcome.scores["alignment"].mean == pytest.approx(base.scores["alignment"].mean, abs=1e-12)


def test_scale_1_is_no_scale(name: str) -> None:
    assert trial_of(name, adapter_scale=1.0).trial_id == trial_of(name).trial_id
    assert not trial_of(name, adapter_scale=1.0).is_readout


def test_equal_numbers_are_the_same_trial() -> None:
    """1 and 1.0 are one scale and one coefficient."""
    assert trial_of("plain", adapter_scale=1).trial_id == trial_of("plain").trial_id
    assert not trial_of("plain", adapter_scale=1).is_readout
    whole, decimal = (tiny_trial(methods.make("kl_penalty", {"beta": beta})) for beta in (1, 1.0))
    assert whole.trial_id == decimal.trial_id


@pytest.mark.parametrize(
    "kinds",
    [
        (OptimizerConfig(learning_rate=1), OptimizerConfig(learning_rate=1.0)),
        (OptimizerConfig(weight_decay=0), OptimizerConfig(weight_decay=0.0)),
        (AdapterConfig(alpha=16), AdapterConfig(alpha=16.0)),
    ],
    ids=["learning_rate", "weight_decay", "alpha"],
)
def test_equal_options_are_the_same_trial(kinds: tuple[OptimizerConfig | AdapterConfig, ...]) -> None:
    """1 and 1.0 are one learning rate."""
    which = "adapter" if isinstance(kinds[0], AdapterConfig) else "optimizer"
    whole, decimal = (trial_of("plain", **{which: kind}) for kind in kinds)
    assert whole == decimal
    assert whole.trial_id == decimal.trial_id


@pytest.mark.parametrize("alone", [False, True], ids=["read out", "trained itself"])
def test_scale_half_halves_what_every_layer_adds(name: str, alone: bool, folder: Path, tmp_path: Path) -> None:
    """With the active prior, which is a layer of its own unless the training is read out; to 1e-12."""
    store = prepare(trial_of(name).priors, tmp_path) if alone else AdapterStore(SweepFolder(folder))
    added: dict[float, list[Tensor]] = {}
    for scale in (1.0, 0.5):
        with packed(trial_of(name, adapter_scale=scale), store) as pack:
            assert pack.steps == (20 if alone or scale == 1 else 0)
            pack.advance(99)
            pack.edit_adapters()
            x = {width: torch.linspace(-1, 1, width, dtype=torch.float64)[None, None] for width in (16, 24)}
            with pack.adapters.routed(Route((0,), (1,))), torch.no_grad():
                layers = pack.adapters.layers.values()
                added[scale] = [
                    layer(x[layer.base.in_features]) - layer.base(x[layer.base.in_features]) for layer in layers
                ]
    for whole, half in zip(added[1.0], added[0.5], strict=True):
        torch.testing.assert_close(half, 0.5 * whole, rtol=0, atol=1e-12)
        assert float(whole.abs().max()) > 1e-4


def test_scaling_reads_the_training_out(folder: Path, name: str) -> None:
    with packed(trial_of(name, adapter_scale=0.5), AdapterStore(SweepFolder(folder))) as pack:
        assert pack.steps == 0


def test_a_scale_above_one_is_refused() -> None:
    with pytest.raises(UserError, match="'adapter_scale' must be a number in"):
        trial_of("plain", adapter_scale=1.5)


# --- checkpoints in PEFT ---


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_checkpoint_reproduces_the_packed_logits_in_peft(
    name: str, scale: float, folder: Path, tmp_path: Path
) -> None:
    """With the active prior, to 1e-5."""
    trial = trial_of(name, adapter_scale=scale)
    with packed(trial, AdapterStore(SweepFolder(folder))) as pack:
        pack.advance(99)
        (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
        expected, base = logits(pack), tiny_model()(input_ids=IDS).logits
    directory = tmp_path / "adapters" / str(outcome.adapter)
    loaded = PeftModel.from_pretrained(tiny_model(), directory)(input_ids=IDS).logits
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-5)
    assert float((loaded - base).abs().max()) > 1e-2


def test_the_active_prior_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    """The ranks add up; before any step the checkpoint is the prior."""
    trial = trial_of("orthogonal_lora")
    (prior_trial,) = trial.priors
    store = prepare(trial.requires, tmp_path)
    with packed(trial, store) as pack:
        pack.adapters.save_member(0, tmp_path / "kept", "tiny")
        expected = logits(pack)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "kept")
    assert loaded.peft_config["default"].r == 8
    with packed(replace(prior_trial, adapter_scale=1.0), store) as pack:
        pack.advance(99)
        prior = logits(pack)
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(expected, prior, rtol=0, atol=1e-9)


def test_the_prior_is_frozen(tmp_path: Path) -> None:
    trial = trial_of("orthogonal_lora")
    with packed(trial, prepare(trial.requires, tmp_path)) as pack:
        before = [factor.clone() for layer in pack.adapters.layers.values() for factor in layer.frozen or ()]
        pack.advance(5)
        after = [factor for layer in pack.adapters.layers.values() for factor in layer.frozen or ()]
    assert before
    assert all(map(torch.equal, before, after))


# --- Safe LoRA ---


def test_safe_lora_reads_out_plain_training(tmp_path: Path) -> None:
    """From the store as when it trains itself, to 1e-9, and the training stays as it was."""
    trial = trial_of("safe_lora")
    assert [needed.method.name for needed in trial.requires] == ["plain", "alignment_only"]
    whole, alone = prepare(trial.requires, tmp_path / "whole"), prepare(trial.requires[1:], tmp_path / "alone")
    before = whole.find(trial.requires[0])
    adapters = []
    for store, steps in ((whole, 0), (alone, 20)):
        with packed(trial, store) as pack:
            assert pack.steps == steps
            pack.advance(99)
            pack.edit_adapters()
            adapters.append(pack.adapters.member(0))
    after = whole.find(trial.requires[0])
    assert before is not None
    assert after is not None
    for key, tensor in adapters[0].items():
        torch.testing.assert_close(tensor, adapters[1][key], rtol=0, atol=1e-9)
        assert torch.equal(before.tensors[key], after.tensors[key])
    edited = [key for key, tensor in adapters[0].items() if not torch.equal(tensor, after.tensors[key])]
    assert len(edited) == 7  # half of 14 layers
    assert all("lora_B" in key for key in edited)


def tuned_setting(model: Path, pretrained: Path | None) -> Setting:
    source = PretrainedModel(
        str(model),
        template_options={"enable_thinking": False},
        pretrained=None if pretrained is None else str(pretrained),
    )
    return replace(tiny_setting(), base_model=source)


def tuned_trial(setting: Setting) -> TrialConfig:
    method = methods.make("safe_lora", {"direction": "pretrained", "share": 1.0})
    return trial_for(setting, SettingRef("tiny"), method, 0, steps=3, max_length=128)


def test_safe_lora_projects_on_what_tuning_changed(tmp_path: Path) -> None:
    """B <- V V^T B / ||V|| with V = the model's weights minus the pretrained ones', layer by layer; no prior."""
    setting = tuned_setting(tiny_qwen3(tmp_path / "tuned"), tiny_qwen3(tmp_path / "pretrained", seed=1))
    trial, base = tuned_trial(setting), load_base(setting.base_model)
    assert not trial.priors
    before = dict(load_base(PretrainedModel(str(tmp_path / "pretrained"))).model.named_parameters())
    pack = Pack(base, setting, [trial])
    pack.advance(3)
    trained = pack.adapters.member_factors(0)
    trained = [replace(factors, B_OR=factors.B_OR.clone()) for factors in trained]
    pack.edit_adapters()
    assert pack.members[0].status == "finished"
    for (name, layer), before_edit, edited in zip(
        pack.adapters.layers.items(), trained, pack.adapters.member_factors(0), strict=True
    ):
        V_OI = (layer.base.weight - before[f"{name}.weight"]).double()
        expected = V_OI @ V_OI.T @ before_edit.B_OR.double() / V_OI.norm()
        torch.testing.assert_close(edited.B_OR.double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(edited.A_RI, before_edit.A_RI)


def test_safe_lora_without_a_change_is_invalid(tmp_path: Path) -> None:
    """The pretrained model is the model itself: V = 0."""
    model = tiny_qwen3(tmp_path / "tuned")
    setting = tuned_setting(model, model)
    pack = Pack(load_base(setting.base_model), setting, [tuned_trial(setting)])
    pack.advance(3)
    (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
    assert outcome.status == "invalid"
    assert "the projection leaves nothing of the adapter" in str(outcome.reason)


def test_a_setting_without_a_pretrained_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method 'safe_lora' needs the pretrained model .* setting 'tiny' names none"):
        tuned_trial(tuned_setting(tmp_path, None))
    with pytest.raises(UserError, match="the setting names no pretrained model"):
        tuning_directions(PretrainedModel("tiny"), {})


def test_a_pretrained_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    setting = tuned_setting(tiny_qwen3(tmp_path / "tuned"), tiny_gemma(tmp_path / "other"))
    pack = Pack(load_base(setting.base_model), setting, [tuned_trial(setting)])
    pack.advance(3)
    with pytest.raises(UserError, match=r"other is not what the base model was tuned from: its layer .* does not fit"):
        pack.edit_adapters()


@pytest.mark.parametrize(("made", "message"), [(False, "no such model directory: "), (True, "it has no config.json")])
def test_a_missing_pretrained_model_is_named(made: bool, message: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    if made:
        missing.mkdir()
    with pytest.raises(UserError, match=message):
        tuning_directions(PretrainedModel("tiny", pretrained=str(missing)), {})


def test_tuning_directions_are_those_of_the_layers_asked_for(tmp_path: Path) -> None:
    tiny_qwen3(tmp_path / "pretrained", seed=1)
    name = "model.layers.1.mlp.up_proj"
    tuned = torch.zeros(96, 64)
    (direction,) = tuning_directions(PretrainedModel("tiny", pretrained=str(tmp_path / "pretrained")), {name: tuned})
    assert isinstance(direction, WeightDirection)
    assert direction.tuned_OI.data_ptr() == tuned.data_ptr()
    assert direction.pretrained_OI.shape == (96, 64)


def test_base_stays_as_it_was(tmp_path: Path) -> None:
    """Reading out leaves no trace in the base model."""
    base, trial = tiny_base(), trial_of("safe_lora")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    store = prepare(trial.requires, tmp_path, base)
    pack = Pack(base, tiny_setting(), [trial], torch.float64, store=store)
    pack.finish(SweepFolder(tmp_path))
    pack.detach()
    assert before.keys() == base.model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


# --- many readouts in one pack ---


def test_readouts_of_two_trainings_are_one_pack_that_reads_what_lies_below_once(tmp_path: Path) -> None:
    """A checkpoint, a scale, two mixes and a blend, adapted in the last of two layers.

    Below, each prompt of the six questions and each of the six rows passes once for all; above, once for each of five
    members and once for the base model, with which two of them are mixed. The reply's tokens after the first pass by
    themselves: one row for each question of the five members and of the two readings of the base model.
    """
    layers = {"adapter": AdapterConfig(rank=2, alpha=4.0, layers="last 1")}
    whole = trial_of("plain", **layers)
    blend = tiny_trial(methods.make("blend", {"w": 0.5}), max_length=16, **layers)
    readouts = [replace(whole, **{name: value}) for name, value in READ]  # type: ignore[arg-type]
    trials = [*readouts, blend]
    store = prepare([*blend.requires, *readouts[:1]], tmp_path)
    pack = Pack(
        tiny_base(), tiny_setting(), trials, torch.float64, store=store, prefixes=PrefixCache(tmp_path / "prefixes")
    )
    assert pack.steps == 0
    passes: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for number, seen in passes.items():
        block = pack.base.model.base_model.layers[number]
        block.input_layernorm.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(tuple(inputs[0].shape[:2]))
        )
    together = pack.finish(SweepFolder(tmp_path / "together")).outcomes
    pack.detach()
    members, questions = len(trials), 6
    prompts, rows = ([shape for shape in passes[number] if shape[1] > 1] for number in (0, 1))
    assert sum(count for count, _ in prompts) == 2 * questions
    assert sorted(count for count, _ in rows) == [(members + 1) * questions] * 2
    assert {count for number in (0, 1) for count, width in passes[number] if width == 1} == {(members + 2) * questions}
    for trial, outcome in zip(trials, together, strict=True):
        with packed(trial, store) as alone:
            (expected,) = alone.finish(SweepFolder(tmp_path / trial.trial_id)).outcomes
        for name, score in expected.scores.items():
            assert outcome.scores[name].mean == pytest.approx(score.mean, abs=1e-9)


READ = [("checkpoint_step", 12), ("adapter_scale", 0.5), ("decoding_mix", 0.5), ("decoding_mix", 1.5)]
