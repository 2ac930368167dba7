"""What a method, and what it builds on, needs of a setting."""

from __future__ import annotations

from settings.common.errors import UserError
from settings.setting import Setting
from trainables.method import Method


def require(setting: Setting, method: Method) -> None:
    """Raise UserError when the method, or what it builds on, needs something that the setting does not have."""
    for stream in (*method.streams, *method.prepared_streams):
        if stream not in setting.streams:
            raise UserError(f"method {method.name!r} needs {stream} rows, and setting {setting.name!r} has none")
    for name in instructions_of(method):
        if name not in setting.instructions:
            raise UserError(
                f"method {method.name!r} needs the instruction {name!r}, and setting {setting.name!r} has"
                f" {', '.join(setting.instructions) or 'none'}; rows of your own get theirs by option 'instructions'"
            )
    for needed in (method.trained_as, *method.priors):
        if needed != method:
            require(setting, needed)
    if method.needs_pretrained and not setting.base_model.pretrained:
        raise UserError(
            f"method {method.name!r} needs the pretrained model that the base model was tuned from, and setting"
            f" {setting.name!r} names none"
        )


def instructions_of(method: Method) -> list[str]:
    """Return the names of the instructions that a method, or what it builds on, puts before rows."""
    rewritings = [method.rewriting(stream) for stream in (*method.streams, *method.prepared_streams)]
    names = [each.instruction for each in rewritings if each and each.instructs]
    built_on = [needed for needed in (method.trained_as, *method.priors) if needed != method]
    return sorted({*names, *(name for needed in built_on for name in instructions_of(needed))})
