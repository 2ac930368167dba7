"""Whether a model can be trained around, by its config.json alone: the model is built without any weights."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM

from settings.common.errors import UserError
from settings.tokenizer import why_not_loaded
from trainables.engine.targets import check_attention, check_not_quantised, target_names
from trainables.trial import AdapterConfig


def check_config(path: Path, source: str, adapter: AdapterConfig) -> None:
    """Refuse a model whose architecture the engine cannot train as a sweep wants it, or whose weights are quantised.

    What needs numbers is checked when the model is loaded (`check_architecture`). Code that comes with a model is never
    run.

    Args:
        path: of its config.json.
        source: what a user calls the model.

    Raises:
        UserError: it cannot be built, or is not supported.
    """
    try:
        config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
        check_not_quantised(config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    except (StrictDataclassError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} describes no model that can be built: {type(error).__name__}: {said}") from error
    check_attention(model)
    target_names(model, adapter)
