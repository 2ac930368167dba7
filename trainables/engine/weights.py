"""Load a model's weights from a directory or the Hub: all of them, in the right places, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from settings.common.errors import UserError
from settings.model_files import check_files
from settings.tokenizer import no_progress_bars, why_not_loaded
from trainables.engine.targets import check_not_quantised


def load_model(
    source: str, revision: str | None, dtype: torch.dtype, options: Mapping[str, Any] = MappingProxyType({})
) -> PreTrainedModel:
    """Load a causal language model. Never run code that comes with it, and never read pickled weights.

    Args:
        options: further arguments for transformers (see `four_bit_options`).

    Raise UserError if it cannot be read, or if its tensors are not those of its architecture: transformers would
    initialise missing ones at random.
    """
    check_files(source)
    try:
        with no_progress_bars(), _no_load_report():
            # Loaders of quantised models would first ask for extra packages.
            check_not_quantised(AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False))
            model, info = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported by name below
                **options,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    _check_fit(source, info)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{source} holds a PEFT adapter, too; merge it into the model first, or remove it")
    return model


def _check_fit(source: str, info: Mapping[str, Any]) -> None:
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = [f"{name} ({tuple(kept)} and not {tuple(wanted)})" for name, kept, wanted in info["mismatched_keys"]]
    problems = [
        f"{len(names)} tensors {what}, e.g. {names[0]}"
        for names, what in (
            (missing, "of its architecture are missing"),
            (unexpected, "have no place in it"),
            (sorted(mismatched), "have another shape"),
        )
        if names
    ]
    problems += [" ".join(str(message).split())[:200] for message in info.get("error_msgs", ())]
    if problems:
        prefix = _prefix(unexpected, missing)
        hint = f"; its names carry the prefix {prefix!r}, as a wrong merge leaves them" if prefix else ""
        raise UserError(f"the weights in {source} do not fit its config.json: {', '.join(problems)}{hint}")


def _prefix(unexpected: Collection[str], missing: Collection[str]) -> str:
    """Return the prefix that all missing names have in the checkpoint, if any."""
    for name in missing:
        for longer in unexpected:
            if longer.endswith(f".{name}"):
                return longer.removesuffix(name)
    return ""


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Switch off the table of tensors that transformers prints: problems with them are raised instead."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
