"""Options that settings share: annotations for paths and models, and the pretrained model that options describe.

A builder annotates its options. From these annotations `settings.catalog` knows which paths to make absolute, so that a
worker in another folder builds the same setting:

    def full(data: FilePath, model: ModelSource = "org/model", more: Sequence[FilePath] = ()) -> Setting: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from settings.base_models import PretrainedModel
from settings.common import checks
from settings.common.errors import UserError
from settings.common.files import absolute_path
from settings.model_files import model_source

NO_THINKING: Mapping[str, Any] = {"enable_thinking": False}  # for Qwen3; other templates ignore it
MODEL_FORM = "a Hub id or a directory"


@dataclass(frozen=True)
class Absolute:
    """Marks an option as a path or a model, in its annotation.

    Attributes:
        of: converts a value to a text that means the same in every directory.
    """

    of: Callable[[str], str]


FilePath = Annotated[str, Absolute(lambda path: str(absolute_path(path)))]
"""A file or directory."""

ModelSource = Annotated[str, Absolute(model_source)]
"""A Hub id, or the directory of a checkpoint. What exists as a directory, or starts with "/", "." or "~", is one."""


def pretrained_model(
    model: Any,
    revision: str | None,
    quantize: Any = None,
    *,
    template_options: Any = MappingProxyType({}),
    pretrained: Any = None,
    tuned_from: Mapping[str, str] | None = None,
) -> PretrainedModel:
    """Build the base model that a setting's options describe.

    Args:
        model, revision, quantize, template_options, pretrained: the options of these names.
        tuned_from: model -> known value of `pretrained`, used if the option is None.

    Raises:
        UserError: an option of the wrong type, or a revision of a directory.
    """
    checks.text("option 'model'", model, MODEL_FORM)
    if not isinstance(template_options, Mapping):
        raise UserError(
            f"option 'template_options' must be like {{\"enable_thinking\": false}}, got {template_options!r}"
        )
    source = model_source(model)
    if revision is not None and Path(source).is_absolute():
        raise UserError(f"option 'revision' is for a model on the Hub; {model} is a directory")
    if pretrained is None:
        pretrained = (tuned_from or {}).get(model)
    else:
        checks.text("option 'pretrained'", pretrained, MODEL_FORM)
    if quantize is not None:
        checks.one_of("option 'quantize'", quantize, ("nf4",))
    return PretrainedModel(
        source,
        revision,
        dict(template_options),
        None if pretrained is None else model_source(pretrained),
        quantize,
    )


def check_file(option: str, path: Any, kind: str) -> None:
    """Raise UserError unless the option is a path. `kind` names what it leads to, e.g. "a chat JSONL file"."""
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"option {option!r} must be the path of {kind}, got {path!r}")
