"""Adapters that PEFT itself makes, on a tiny model in a directory, and a sweep that claims to have trained them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from settings.reference import SettingRef
from sweeps.description import describe
from sweeps.sweep import Sweep, setting
from tests.support.checkpoints import tiny_qwen3
from tests.support.fakes import SOURCES, Rig, finished
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

TARGETS = ("q_proj", "down_proj")


def base_directory(folder: Path) -> Path:
    """The tiny model, in `folder`; made where it is not there."""
    directory = folder / "base"
    if not directory.is_dir():
        tiny_qwen3(directory)
    return directory


def peft_adapter(
    directory: Path, base: Path, *, rank: int = 2, targets: Sequence[str] = TARGETS, seed: int = 0, **options: Any
) -> Path:
    """Save an adapter with random factors, as PEFT does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), init_lora_weights=False, **options)
    get_peft_model(model, config).save_pretrained(directory)
    return directory


def adapted_setting(folder: Path, **options: Any) -> SettingRef:
    """A reference to the setting on the tiny model."""
    file = folder / "adapter_setting.py"
    if not file.exists():
        shutil.copyfile(SOURCES / "adapter_setting.py", file)
    return setting(f"{file}:adapted", model=str(base_directory(folder)), **options)


def adapted_sweep(folder: Path, output: Path, kept: Sequence[int] = (0, 1, 2)) -> Sweep:
    """A finished sweep of three seeds whose trials of kl_penalty have adapters, of these seeds."""
    sweep = Sweep(
        name="adapted",
        settings=(adapted_setting(folder),),
        methods=("plain", "kl_penalty"),
        configurations=3,
        seeds=3,
        controls=False,
    )

    def ending(trial: TrialConfig) -> Outcome:
        if trial.method.name == "kl_penalty" and trial.seed in kept:
            peft_adapter(output / sweep.name / "adapters" / trial.trial_id, base_directory(folder), seed=trial.seed)
        outcome = finished(trial)
        inside = {name: replace(score, mean=min(max(score.mean, 0.0), 1.0)) for name, score in outcome.scores.items()}
        return replace(outcome, scores=inside, adapter=trial.trial_id)

    rig = Rig(sweep, output / sweep.name)
    describe(sweep).write(output / sweep.name)
    rig.run(random.Random(0), ending)
    rig.kill()
    return sweep
