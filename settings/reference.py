"""References to settings: a name and options, from which any process builds the same setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from settings import catalog
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.setting import Setting

LONGEST_SHOWN = 24  # characters of an option's value in a setting's label


@dataclass(frozen=True)
class SettingRef:
    """A setting by its name (see `settings.catalog`) and options, all JSON values: any process can build it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def setting(name: str, **options: Any) -> SettingRef:
    """Refer to a setting: its name, or `path/to/file.py:function`, and its options, e.g. `scale="nano"`.

    Paths become absolute. Raise UserError for an unknown name or option, or an option that is not a JSON value.
    """
    options = catalog.absolute(name, options)
    path, colon, function = name.rpartition(":")
    name = f"{Path(path).expanduser().resolve()}:{function}" if colon else name
    try:
        json.dumps(options)
    except TypeError as error:
        raise UserError(f"setting {name!r}: options must be plain JSON values: {error}") from error
    return SettingRef(name, options)


def setting_label(ref: SettingRef) -> str:
    """Return a setting as short text, e.g. "bad_medical_advice scale=nano".

    Paths and names of data sets are shortened to their last part, also those of rows with mapped columns; long and
    other nested values are left out. A content id then tells equal labels apart.
    """
    name = ref.name.rpartition(":")[2]
    brief = {key: _brief(value) for key, value in sorted(ref.options.items())}
    plain = {key: value for key, value in brief.items() if isinstance(value, str | int | float)}
    shown = {key: value for key, value in plain.items() if len(str(value)) <= LONGEST_SHOWN}
    label = " ".join([name, *(f"{key}={value}" for key, value in shown.items())])
    return label if shown == ref.options else f"{label} ({content_id(dict(ref.options), 4)})"


def _brief(value: Any) -> Any:
    """Return the last part of a path, or of the file or data set that a source of rows names; else the value."""
    if isinstance(value, Mapping):
        source = value.get("file", value.get("dataset"))
        return Path(source).name if isinstance(source, str) else value
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def setting_of(ref: SettingRef) -> Setting:
    """Build a setting; the same reference gives the same object. Raise UserError."""
    return _build(ref.name, json.dumps(dict(ref.options), sort_keys=True))


def check_repeatable(ref: SettingRef) -> None:
    """Raise UserError if a function of a user's file builds other rows, questions or models when it is called again."""
    if ":" in ref.name and catalog.build(ref.name, dict(ref.options)).fingerprint() != setting_of(ref).fingerprint():
        raise UserError(
            f"setting {ref.name!r}: its function returns something different at each call, so workers would not have"
            " the rows that were planned; seed its random numbers"
        )


def forget_settings() -> None:
    """Forget all settings that were built, so that a changed file of settings is read again."""
    _build.cache_clear()


@lru_cache(maxsize=32)
def _build(name: str, options: str) -> Setting:
    return catalog.build(name, json.loads(options))
