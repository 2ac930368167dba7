"""Base models that are fine-tuned here first: once, with LoRA, merged into one model, and cached.

The adapter is trained as a plain trial in a pack of one, saved as a PEFT checkpoint and merged by PEFT, so that the
weights are those that a user of PEFT would get.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from settings.base_models import PackagedModel, PretrainedModel, TunedModel
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import cache_root, remove_partial, replacing
from settings.reference import SettingRef
from settings.setting import Setting
from trainables import methods
from trainables.bases.loading import load_directory, load_pretrained
from trainables.bases.packaged_models import ensure_fetched
from trainables.bases.pretraining import Progress
from trainables.engine.base import LoadedBase
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.pack import Pack
from trainables.trial import TrialConfig, trial_for

COMPLETE = "tuning.json"  # written last: a directory without it is not a model
VERSION = 1  # in every tuned model's directory; raise it when the same specification would give different weights


def ensure_tuned(
    spec: TunedModel, dtype: torch.dtype, device: torch.device | str, progress: Progress | None = None
) -> Path:
    """Return the directory of a tuned model under the cache root; tune the model if it is missing.

    If several processes ask at once, one trains and the others wait. Raise UserError if the training diverges.
    """
    directory = tuned_directory(spec, dtype)
    if is_tuned(spec, dtype):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if not (directory / COMPLETE).is_file():
            remove_partial(directory.parent, of=directory.name)
            with replacing(directory) as temporary:
                tune(spec, dtype, device, temporary, progress)
                (temporary / COMPLETE).write_text(json.dumps(spec.to_json(), sort_keys=True), encoding="utf-8")
    return directory


def tuned_directory(spec: TunedModel, dtype: torch.dtype) -> Path:
    """Return the directory that the cache has, or would have, for a tuned model."""
    precision = str(dtype).removeprefix("torch.")
    return cache_root() / "tuned_models" / content_id([VERSION, spec.to_json(), precision])


def is_tuned(spec: TunedModel, dtype: torch.dtype) -> bool:
    """Return whether the cache has a tuned model."""
    return (tuned_directory(spec, dtype) / COMPLETE).is_file()


def teaching_of(spec: TunedModel) -> tuple[Setting, TrialConfig]:
    """Return what a tuned model is taught, as a setting without evaluations, and the trial that teaches it."""
    setting = Setting(
        name="tuned",
        scale="full",
        summary="What a base model is taught first.",
        base_model=spec.start,
        streams={"task": spec.rows},
        evaluations=(),
        recipe=spec.recipe,
        objectives=(),
    )
    return setting, trial_for(setting, SettingRef("tuned"), methods.make("plain"), spec.training_seed)


def load_start(spec: PretrainedModel | PackagedModel, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    """Load a model that others trained. Raise UserError as `load_base` does."""
    if isinstance(spec, PackagedModel):
        return load_directory(ensure_fetched(spec), spec.content_id, dtype, device)
    return load_pretrained(spec, dtype, device)


def tune(
    spec: TunedModel, dtype: torch.dtype, device: torch.device | str, directory: Path, progress: Progress | None
) -> None:
    """Write a tuned model and its tokenizer to a directory. Raise UserError if the training diverges."""
    base = load_start(spec.start, dtype, device)
    setting, trial = teaching_of(spec)
    with tempfile.TemporaryDirectory() as kept:
        pack = Pack(base, setting, [trial], prefixes=PrefixCache(Path(kept)))
        for done in range(trial.steps):
            pack.advance(1)
            if progress:
                progress(done + 1, trial.steps)
    (member,) = pack.members
    if member.status != "finished":
        raise UserError(f"teaching {spec.start.source} its base function failed: {member.reason}")
    from peft import PeftModel  # imported late: most workers need not tune a base model

    with tempfile.TemporaryDirectory() as adapter:
        pack.adapters.save_member(0, Path(adapter), base.source)
        pack.detach()
        merged = PeftModel.from_pretrained(base.model, adapter).merge_and_unload()
    merged.save_pretrained(directory)
    base.tokenizer.save_pretrained(directory)
