"""Which code made which trials. A trial's identity is the hash of its arguments, so that a changed method or setting
would keep its old numbers without a word.
"""

from __future__ import annotations

from settings import catalog
from sweeps.ledger import Ledger
from sweeps.sweep import Sweep
from trainables import methods
from trainables.trial import SettingRef, TrialConfig


def changed(sweep: Sweep, ledger: Ledger) -> list[str]:
    """Keep the source of the sweep's methods and own settings; a line for each that made trials when it was another."""
    methods_of = [trial.method for ref in sweep.settings for trial in _examples(sweep, ref)]
    code = {f"method {name}": methods.source_id(name) for name in sorted({method.name for method in methods_of})}
    for ref in sweep.settings:
        path = catalog.file_of(ref.name)
        if path:
            code[f"setting {ref.name}"] = catalog.source_id(path)
    ledger.code(code)
    lines = []
    for what in code:
        kind, _, name = what.partition(" ")
        old = [end for end in ledger.record.made_otherwise(what) if name in _names(end.trial, kind)]
        if old:
            lines.append(
                f"{kind} {name} was changed after {len(old)} of its trials had ended; these keep their results."
                " To train them anew, rename the sweep or choose another --output"
            )
    return lines


def _examples(sweep: Sweep, ref: SettingRef) -> list[TrialConfig]:
    """A trial of each method on a setting, and those that it builds on."""
    arms = [arm for arm in sweep.arms if arm.setting == ref]
    middles = [arm.space.points or [arm.space.at([0.5] * len(arm.space.ranges))] for arm in arms]
    trials = [sweep.trials_of(arm, some[0])[0] for arm, some in zip(arms, middles, strict=True)]
    return [one for trial in trials for one in (trial, *trial.built_on)]


def _names(trial: TrialConfig, kind: str) -> set[str]:
    return {one.method.name if kind == "method" else one.setting.name for one in (trial, *trial.built_on)}
