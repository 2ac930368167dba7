"""Which code made which trials. A trial's identity is the hash of its arguments, so that a changed method or setting
would keep its old numbers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from settings import catalog
from sweeps.case import Arm
from sweeps.ledger import Ledger, LedgerState
from sweeps.sweep import Sweep
from trainables import methods
from trainables.trial import TrialConfig


def changed(sweep: Sweep, ledger: Ledger) -> list[str]:
    """Keep the code of the sweep's methods and own settings; a line for each that made trials when it was another."""
    code = code_of(sweep)
    ledger.record_code(code)
    return lines(ledger.state, code)


def code_of(sweep: Sweep) -> dict[str, str]:
    """What ("method kl_penalty") -> content id of its own file. What that imports is not looked at."""
    names = {trial.method.name for arm in sweep.arms for trial in _examples(sweep, arm)}
    code = {f"method {name}": methods.source_id(name) for name in sorted(names)}
    files = {ref.name: catalog.file_of(ref.name) for ref in sweep.settings}
    return code | {f"setting {name}": catalog.source_id(path) for name, path in files.items() if path}


def lines(record: LedgerState, code: Mapping[str, str]) -> list[str]:
    """A line for each method or setting that made trials of the record when its code was another."""
    found = []
    for what, source in code.items():
        kind, _, name = what.partition(" ")
        old = [end for end in record.made_with_other_code(what, source) if name in _names(end.trial, kind)]
        if old:
            found.append(
                f"{kind} {name} was changed after {len(old)} of its trials had ended; these keep their results."
                " To train them anew, rename the sweep or choose another --output"
            )
    return found


def _examples(sweep: Sweep, arm: Arm) -> tuple[TrialConfig, ...]:
    """Return a trial of an arm, and those that it builds on."""
    trial = sweep.trials_of(arm, arm.space.examples()[0])[0]
    return (trial, *trial.built_on)


def _names(trial: TrialConfig, kind: str) -> set[str]:
    return {one.method.name if kind == "method" else one.setting.name for one in (trial, *trial.built_on)}
