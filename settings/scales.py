"""One setting, two scales: the options of each, and which of them a call may give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from settings.common.errors import UserError
from settings.setting import Setting


def at_scale(
    name: str, scale: str, scales: Mapping[str, Callable[..., Setting]], options: Mapping[str, Any]
) -> Setting:
    """The setting at a scale, built from the options that are given; None is not given, and stays the scale's default.

    Raises:
        UserError: there is no such scale, or it has no such option.
    """
    if scale not in scales:
        raise UserError(f"setting {name!r} has no scale {scale!r}; its scales: {', '.join(scales)}")
    given = {option: value for option, value in options.items() if value is not None}
    allowed = inspect.signature(scales[scale]).parameters
    for option in given:
        if option not in allowed:
            known = ", ".join(allowed)
            raise UserError(
                f"setting {name!r}: option {option!r} does not belong to scale {scale!r}, which has {known}"
            )
    return scales[scale](**given)
