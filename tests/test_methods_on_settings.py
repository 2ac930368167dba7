"""Every method on every nano setting, in a tiny budget: rows are found, terms are alive, scores are numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from settings import catalog
from settings.base_models import NanoModel, Stage
from settings.example import Example
from settings.reference import SettingRef
from settings.setting import Setting
from tests.support.tiny import prepare
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.base import LoadedBase
from trainables.folder import SweepFolder
from trainables.method import Method
from trainables.pack import Pack
from trainables.trial import TrialConfig, trial_for

STEPS = 2
NANO = [name for name in catalog.names() if "nano" in catalog.scales(name)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=NANO)
def built(request: pytest.FixtureRequest, cache: Path) -> tuple[Setting, LoadedBase]:
    """A nano setting with a quarter of its questions, whose base model has been pre-trained for a moment only."""
    setting = catalog.build(request.param, {"scale": "nano"})
    assert isinstance(setting.base_model, NanoModel)
    stages = tuple(Stage(stage.name, 2, 2, stage.learning_rate) for stage in setting.base_model.stages)
    setting = replace(
        setting,
        base_model=replace(setting.base_model, stages=stages),
        evaluations=tuple(replace(whole, examples=some_of(whole.examples)) for whole in setting.evaluations),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELGEN_CACHE", str(cache))
        return setting, load_base(setting.base_model, dtype=torch.float64)


def some_of(examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(random.Random(0).sample(examples, k=len(examples) // 4))


def trial_of(setting: Setting, method: Method) -> TrialConfig:
    return trial_for(setting, SettingRef(setting.name), method, seed=0, steps=STEPS)


def test_all_methods_train_and_are_scored(built: tuple[Setting, LoadedBase], tmp_path: Path) -> None:
    """All in one pack, but for what cannot run without a pretrained model."""
    setting, base = built
    names = [name for name in methods.names() if not methods.get(name)().needs_pretrained]
    trials = [trial_of(setting, methods.make(name)) for name in names]
    store = prepare((needed for trial in trials for needed in trial.requires), tmp_path, base, setting)
    pack = Pack(base, setting, trials, torch.float64, store=store)
    pack.advance(STEPS)
    outcomes = pack.finish(SweepFolder(tmp_path)).outcomes
    pack.detach()
    assert len(outcomes) == len(names) >= 10
    for outcome in outcomes:
        assert (outcome.status, outcome.reason) == ("finished", None)
        assert set(outcome.scores) == {score.name for score in setting.all_scores}
        assert outcome.scores["task"].n > 0
        assert all(math.isfinite(outcome.scores[name].mean) for name in setting.objectives if outcome.scores[name].n)
