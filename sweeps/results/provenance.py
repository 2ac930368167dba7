"""Track which code made which trials. A trial's identity is the hash of its arguments, so a changed method or setting
would otherwise silently keep its old numbers.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trainables
from settings import catalog
from sweeps.description import describe, examples
from sweeps.ledger_lines import RawLedger, read_raw

if TYPE_CHECKING:
    from sweeps.ledger import Ledger
    from sweeps.sweep import Sweep

METHOD, SETTING = "method", "setting"  # first words of the keys


def changed(sweep: Sweep, ledger: Ledger) -> list[str]:
    """Record the code of the sweep's methods and own settings. Return a line for each that made trials and changed."""
    code = code_of(sweep)
    ledger.record_code(code)
    return changes(read_raw(ledger.path.parent), describe(sweep).built_on, code)


def code_of(sweep: Sweep) -> dict[str, str]:
    """Return name ("method kl_penalty") -> content id of its own file. The file's imports are not followed."""
    from trainables import methods

    names = {part.method.name for trial in examples(sweep) for part in (trial, *trial.built_on)}
    code = {f"{METHOD} {name}": methods.source_id(name) for name in sorted(names)}
    files = {ref.name: catalog.file_of(ref.name) for ref in sweep.settings}
    return code | {f"{SETTING} {name}": catalog.source_id(path) for name, path in files.items() if path}


def current_code(keys: Iterable[str]) -> dict[str, str]:
    """Return the content ids of the present source of methods and settings. Missing files are left out."""
    code = {}
    for key in sorted(keys):
        kind, _, name = key.partition(" ")
        path = Path(trainables.__path__[0], "methods", f"{name}.py") if kind == METHOD else catalog.file_of(name)
        if path and path.is_file():
            code[key] = catalog.source_id(path)
    return code


def changes(ledger: RawLedger, built_on: Mapping[str, tuple[str, ...]], code: Mapping[str, str]) -> list[str]:
    """Return a line for each method or setting that made trials in the ledger with different code.

    Args:
        built_on: method -> the methods whose trials it builds on.
        code: content ids of the present source, as from `code_of`.
    """
    lines = []
    for key, source in code.items():
        kind, _, name = key.partition(" ")
        outcomes = ledger.made_with_other_code(key, source)
        number = sum(name in _made_by(outcome["trial"], kind, built_on) for outcome in outcomes)
        if number:
            lines.append(
                f"{key} was changed after {number} of its trials had ended; these keep their results."
                " To train them again, rename the sweep or choose another --output"
            )
    return lines


def _made_by(trial: Mapping[str, Any], kind: str, built_on: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of the methods, or of the setting, whose code made a trial."""
    if kind == SETTING:
        return (trial["setting"]["name"],)
    method = trial["method"]["name"]
    return (method, *built_on.get(method, ()))
