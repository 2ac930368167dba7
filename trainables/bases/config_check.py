"""Check from config.json alone whether adapters can be trained on a model: it is built without any weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from settings.common.errors import UserError
from settings.tokenizer import why_not_loaded
from trainables.engine.targets import check_attention, check_not_quantised


def model_of_config(config: Path | Mapping[str, Any], source: str) -> PreTrainedModel:
    """Build a model without weights; refuse one that the engine cannot train or whose weights are quantised.

    Checks that need numbers run when the model is loaded (`check_architecture`). Code that comes with a model is never
    run.

    Args:
        config: the path of its config.json, or its contents.
        source: what the user calls the model.

    Raises:
        UserError: the model cannot be built, or is not supported.
    """
    try:
        if isinstance(config, Path):
            read = AutoConfig.from_pretrained(config.parent, trust_remote_code=False)
        else:
            read = AutoConfig.for_model(**config)
        check_not_quantised(read)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(read)
    except (OSError, ValueError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    except (StrictDataclassError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{config} describes no model that can be built: {type(error).__name__}: {said}") from error
    check_attention(model)
    return model
