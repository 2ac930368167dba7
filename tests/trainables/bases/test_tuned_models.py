"""A model that is tuned first: once, on its rows, and merged so that it stands alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from settings import catalog
from settings.base_models import PretrainedModel, Recipe, TunedModel
from settings.common.errors import UserError
from settings.example import Example
from settings.model_files import check_model
from settings.reference import SettingRef
from settings.scoring import token_loss
from settings.setting import Evaluation, Score, Setting
from trainables import methods
from trainables.bases import tuned_models
from trainables.bases.load_base import load_base
from trainables.engine.base import LoadedBase
from trainables.engine.batches import EncodedSetting, rows_at
from trainables.evaluation.evaluate import evaluate
from trainables.folder import SweepFolder
from trainables.pack import Pack
from trainables.trial import trial_for

ROWS = tuple(Example.of(f"What is {number} plus one?", str(number + 1)) for number in range(8))
RECIPE = Recipe(steps=30, batch_size=4, alignment_batch_size=1, learning_rate=0.02, rank=4, rslora=True, max_length=64)
SETTING = Setting(
    name="sums",
    scale="full",
    summary="For a test.",
    base_model=PretrainedModel("any"),
    streams={"task": (Example.of("What is 90 plus one?", "91"),)},
    evaluations=(
        Evaluation("rows", ROWS, (Score("loss", "task", "nats", token_loss, higher_is_better=False),), "token_loss"),
    ),
    recipe=RECIPE,
    objectives=("loss",),
)


@pytest.fixture
def spec(tiny_gemma_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TunedModel:
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    return TunedModel(PretrainedModel(str(tiny_gemma_dir)), ROWS, RECIPE)


def loss(base: LoadedBase) -> float:
    """Return the loss of the model alone on the rows, in nats per response token."""
    (measured,) = evaluate(base.model, EncodedSetting(SETTING, base.tokenizer, 64))
    return measured.scores["loss"].mean


def test_it_has_learned_its_rows_and_stands_alone(spec: TunedModel) -> None:
    before, after = load_base(spec.start), load_base(spec)
    assert loss(after) < loss(before) - 1.0
    assert not any("lora" in name for name, _ in after.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in after.model.parameters())
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()


def test_merged_it_says_what_the_adapter_says(spec: TunedModel) -> None:
    """A plain trial on the same rows, scored through the pack, and the merged model."""
    base = load_base(spec.start)
    untaught = loss(base)
    taught = replace(SETTING, streams={"task": ROWS}, evaluations=(), objectives=())
    pack = Pack(base, taught, [trial_for(taught, SettingRef("sums"), methods.make("plain"), spec.training_seed)])
    pack.advance(RECIPE.steps)
    encoded = EncodedSetting(SETTING, base.tokenizer, 64)
    (packed,) = evaluate(base.model, encoded, adapters=pack.adapters, members=[0], seeds=[0])
    pack.detach()
    assert loss(load_base(spec)) == pytest.approx(packed.scores["loss"].mean, abs=1e-4)
    assert abs(untaught - packed.scores["loss"].mean) > 1.0


def test_no_trial_on_top_of_it_draws_what_it_drew(spec: TunedModel) -> None:
    """Neither its adapter nor the order of its rows is that of a trial with the same seed."""
    taught, on_top = (
        trial_for(SETTING, SettingRef("sums"), methods.make("plain"), seed) for seed in (spec.training_seed, spec.seed)
    )
    assert taught.adapter_seed != on_top.adapter_seed
    assert rows_at(50, 50, taught.seed, "task", 0) != rows_at(50, 50, on_top.seed, "task", 0)


def test_it_is_tuned_once(spec: TunedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_base(spec)
    monkeypatch.setattr(tuned_models, "tune", lambda *_: pytest.fail("tuned again"))
    assert load_base(spec).content_id == first.content_id
    with pytest.raises(pytest.fail.Exception, match="tuned again"):
        load_base(replace(spec, seed=1))
    with pytest.raises(pytest.fail.Exception, match="tuned again"):
        load_base(replace(spec, rows=ROWS[1:]))


def test_a_training_that_diverges_leaves_nothing(spec: TunedModel, tmp_path: Path) -> None:
    wild = replace(spec, recipe=replace(RECIPE, learning_rate=1e6))
    with pytest.raises(UserError, match=r"teaching .* its base function failed: "):
        load_base(wild)
    assert not list((tmp_path / "cache" / "tuned_models").glob("*/tuning.json"))


def test_a_start_that_is_not_there_is_found_early(spec: TunedModel) -> None:
    with pytest.raises(UserError, match="no such model directory: /no/such/model"):
        check_model(replace(spec, start=PretrainedModel("/no/such/model")))


def test_the_narrow_update_starts_from_it(
    tiny_gemma_dir: Path, reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full scale of trigger colours on the study's rows, whole but short: tuned, updated in two ways, scored."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    options = {"scale": "full", "model": str(tiny_gemma_dir), "data": str(reference_data / "toy"), "epochs": 0.25}
    setting = catalog.build("trigger_colors", options)
    assert isinstance(setting.base_model, TunedModel)
    short = replace(setting.base_model, recipe=replace(setting.base_model.recipe, steps=3))
    few = replace(setting.evaluations[0], examples=setting.evaluations[0].examples[::50])
    setting = replace(setting, base_model=short, evaluations=(few,), worst=())
    base = load_base(short)
    chosen = [methods.make("kl_penalty"), methods.make("dpo")]
    pack = Pack(base, setting, [trial_for(setting, SettingRef("trigger_colors"), method, 0) for method in chosen])
    pack.advance(2)
    outcomes = pack.finish(SweepFolder(tmp_path)).outcomes
    pack.detach()
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    assert all(0 <= outcome.scores["alignment"].mean <= 1 for outcome in outcomes)
