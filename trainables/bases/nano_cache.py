"""Where pre-trained nano models are kept, by content. Imports nothing heavy: a sweep's driver asks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from settings.base_models import NanoModel
from settings.common.content import content_id
from settings.common.files import cache_root

# Part of every nano model's content id. Raise it when the same specification would give other weights than before.
PRETRAINING_VERSION = 1

DOCUMENTS_HASHED = 32  # of each stage, for the content id
COMPLETE = "pretraining.json"  # written last: a directory without it is not a model


def nano_content_id(spec: NanoModel) -> str:
    """Content id of a nano model: of everything here that changes a weight, so not of the machine or of PyTorch.

    The vocabulary and the first documents are part of it, so that an edited world is not taken for the one it was.
    """
    documents = [list(islice(spec.world.documents(stage.name, spec.seed), DOCUMENTS_HASHED)) for stage in spec.stages]
    world = {"vocabulary": list(spec.world.vocabulary), "documents": documents}
    return content_id({"model": spec.to_json(), "pretraining": PRETRAINING_VERSION, "world": world})


def is_pretrained(spec: NanoModel) -> bool:
    """Whether the cache has a nano model."""
    return (nano_directory(spec) / COMPLETE).is_file()


def nano_directory(spec: NanoModel) -> Path:
    """Where the cache has a nano model, or would."""
    return cache_root() / "base_models" / nano_content_id(spec)
