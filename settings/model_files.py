"""Locate a base model's files, and check them before anything is read.

A model is a directory or a Hugging Face Hub id.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from settings.base_models import BaseModel, NanoModel, PackagedModel, TunedModel
from settings.common.errors import UserError
from settings.common.files import absolute_path

LFS_POINTER = b"version https://git-lfs"
ADAPTER = "adapter_config.json"


def model_source(model: str) -> str:
    """Return the directory of a checkpoint as an absolute path, and a Hub id unchanged.

    A text is taken as a directory if it exists as one, or starts with "/", "." or "~".
    """
    return str(absolute_path(model)) if model.startswith(("/", ".", "~")) or Path(model).exists() else model


def model_directory(source: str) -> Path | None:
    """Return the directory that a model's source names; None for a Hub id. Raise UserError if no model is there."""
    if model_source(source) == source and not Path(source).is_absolute():
        return None
    directory = absolute_path(source)
    if not directory.is_dir():
        raise UserError(f"no such model directory: {source}")
    if not (directory / "config.json").is_file() and (directory / ADAPTER).is_file():
        raise UserError(f"{source} is a PEFT adapter, not a model; merge it into its base model first")
    if not (directory / "config.json").is_file():
        raise UserError(f"{source} is not a model directory: it has no config.json")
    return directory


def check_files(source: str) -> None:
    """Raise UserError for a directory whose files are git-lfs pointers, or that has an adapter next to a model."""
    directory = Path(source)
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.suffix in (".safetensors", ".json", ".model", ".bin") and _starts_with(path, LFS_POINTER):
            raise UserError(f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in {directory}")
    if (directory / ADAPTER).is_file():
        raise UserError(
            f"{directory} has a PEFT adapter next to a model ({ADAPTER}); merge it into the model first"
            " (`merge_and_unload` in PEFT), or remove it"
        )


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def model_config(source: str, revision: str | None = None) -> Path | None:
    """Return the config.json of a model; see `model_file`."""
    return model_file(source, "config.json", revision)


def model_file(source: str, name: str, revision: str | None = None) -> Path | None:
    """Return a file of a directory, or of a Hub id in this machine's Hub cache; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    directory = model_directory(source)
    if directory:
        return directory / name if (directory / name).is_file() else None
    cached = try_to_load_from_cache(source, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def check_model(model: BaseModel) -> None:
    """Raise UserError for a local model that does not exist, or that workers in another folder would not find."""
    start = model.start if isinstance(model, TunedModel) else model
    if isinstance(start, NanoModel | PackagedModel):
        return
    if start.quantize and isinstance(model, TunedModel):
        raise UserError(
            f"{start.source} is tuned here first and then merged, and merging into quantised weights would round it"
        )
    if start.quantize:
        check_four_bit()
    for source in filter(None, (start.source, start.pretrained)):
        directory = model_directory(source)
        if not directory:
            _check_hub_id(source)
        if directory and not Path(source).expanduser().is_absolute():
            raise UserError(
                f"the model {source!r} is a relative path, but workers run in another directory; its setting must give"
                f" it as {str(directory)!r} (settings.model_files.model_source does that)"
            )


def check_four_bit() -> None:
    """Raise UserError if the package that keeps weights in four bits is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError('quantize="nf4" needs the package bitsandbytes: pip install -e ".[4bit]"')


def _check_hub_id(source: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise UserError(f"no model directory {source!r}, and not a Hub id either: {error}") from error
