"""Where pre-trained nano models are cached, by content. Imports nothing heavy, because a sweep's driver needs it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from settings.base_models import NanoModel
from settings.common.content import content_id
from settings.common.files import cache_root

# Part of every nano model's content id. Raise it when the same specification would give different weights.
PRETRAINING_VERSION = 1

DOCUMENTS_HASHED = 32  # of each stage, for the content id
COMPLETE = "pretraining.json"  # written last: a directory without it is not a model


def nano_content_id(spec: NanoModel) -> str:
    """Return the content id of a nano model. It covers all that affects the weights except the machine and PyTorch.

    It includes the vocabulary and the first documents, so that an edited world gets a different id.
    """
    documents = [list(islice(spec.world.documents(stage.name, spec.seed), DOCUMENTS_HASHED)) for stage in spec.stages]
    world = {"vocabulary": list(spec.world.vocabulary), "documents": documents}
    return content_id({"model": spec.to_json(), "pretraining": PRETRAINING_VERSION, "world": world})


def is_pretrained(spec: NanoModel) -> bool:
    """Return whether the cache has a nano model."""
    return (nano_directory(spec) / COMPLETE).is_file()


def nano_directory(spec: NanoModel) -> Path:
    """Return the directory that the cache has, or would have, for a nano model."""
    return cache_root() / "base_models" / nano_content_id(spec)
