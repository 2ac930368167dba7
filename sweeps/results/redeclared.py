"""In what a sweep differs from what its folder was begun with, in words. A changed sweep cannot continue there.

A folder keeps labels, scores and arms (`sweep.json`), and the configurations that the search asked for (the ledger). A
range and how configurations are chosen are not kept as such: of a change there, the words only say that there is one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from settings.common.errors import UserError
from sweeps.case import Arm, Case, arm_key, digests
from sweeps.description import ArmDescription, SweepDescription, describe_score
from sweeps.ledger_lines import RawLedger, read_raw
from sweeps.space import MethodSpace
from sweeps.sweep import Sweep

SHOWN = 3  # differences
NOT_KEPT = "`search` differs, or something else that the folder does not keep"


def differences(sweep: Sweep, folder: Path) -> list[str]:
    """Name the first differences between a sweep and the one that a folder was begun with.

    Return none if the folder does not keep how that one was declared. Raise UserError for a sweep that cannot be built.
    """
    try:
        begun, ledger = SweepDescription.read(folder), read_raw(folder)
    except UserError:  # a driver that is killed at its very start leaves a ledger without a description beside it
        return []
    if begun.identity != ledger.identity:
        return []
    labels = {setting.label for setting in begun.settings}
    different = _of_settings(begun, ledger, sweep)
    for case in sweep.cases:
        if case.label in labels:
            different += (
                _of_objectives(begun, case) + _of_trials(begun, ledger, case) + _of_methods(begun, ledger, case)
            )
    return different[:SHOWN] or [NOT_KEPT]


def _of_settings(begun: SweepDescription, ledger: RawLedger, sweep: Sweep) -> list[str]:
    """Compare the settings: an option of one, if only options of it have changed, or else their list."""
    old, new = [setting.label for setting in begun.settings], [case.label for case in sweep.cases]
    changed = [(before, case) for before, case in zip(old, sweep.cases, strict=False) if before != case.label]
    if len(old) == len(new) and len(changed) == 1:
        before, case = changed[0]
        setting = _trial_on(ledger, before).get("setting", {})
        if setting.get("name") == case.ref.name:
            options = _became_each(setting["options"], case.ref.options)
            return [f"setting {case.setting.name}: {options}"]
    return _became("settings", old, new)


def _of_objectives(begun: SweepDescription, case: Case) -> list[str]:
    """Compare the scores that a sweep trades off, and which end of each is better."""
    before, now = begun.setting(case.label).objectives, tuple(map(describe_score, case.objectives))
    texts = [
        [f"{each.name} ({'higher' if each.higher_is_better else 'lower'} is better)" for each in scores]
        for scores in (before, now)
    ]
    return _became("objectives", *texts)


def _of_trials(begun: SweepDescription, ledger: RawLedger, case: Case) -> list[str]:
    """Compare what the trials on a setting share: rows and hyper-parameters."""
    old, new = _trial_of_kept_method(ledger, case), case.template.to_json()
    if not old:
        return []
    varied = {name for arm in case.arms for name in arm.space.knob_names}
    apart = {*varied, "setting", "data", "method", "seed", "ends", "instructions"}  # the latter are up to methods
    shared = _became_each(_flat(old, apart), _flat(new, apart))
    different = [shared] if shared else []
    if old["data"] != new["data"]:
        before = begun.setting(case.label).digests
        now = {name: digest for name, (_, digest) in digests(case.setting).items()}
        parts = [name for name in {**before, **now} if before.get(name) != now.get(name)] if before else []
        of_setting = f" of setting {case.label}" if len(begun.settings) > 1 else ""
        rows = f"{' and '.join(parts) or 'the rows or questions'}{of_setting} have changed"
        different.append(rows if parts else f"{rows} (fingerprint {old['data']} -> {new['data']})")
    return different


def _trial_on(ledger: RawLedger, label: str) -> Mapping[str, Any]:
    """Return a trial that the search asked for on a setting, as JSON; {} if there is none."""
    on_setting = (each["trial"] for each in ledger.configurations.values() if each.get("setting") == label)
    return next(on_setting, {})


def _trial_of_kept_method(ledger: RawLedger, case: Case) -> Mapping[str, Any]:
    """Return a trial that the search asked for, as JSON, of a method that is declared as before; {} if there is none.

    A method that was declared otherwise may have varied what the others share.
    """
    events = (event for arm in case.arms for event in ledger.asked.get(arm.key, {}).values())
    return next((event["described"]["trial"] for event in events if "trial" in event["described"]), {})


def _of_methods(begun: SweepDescription, ledger: RawLedger, case: Case) -> list[str]:
    """Compare the methods on a setting, but for the controls, which a sweep may add or leave out."""
    old = {arm.key: arm for arm in begun.arms if arm.setting == case.label and not arm.title.endswith("*")}
    new = {arm.key: arm for arm in case.arms if not arm.control}
    gone = [arm for key, arm in old.items() if key not in new]
    different = []
    for arm in (arm for key, arm in new.items() if key not in old):
        before = next((each for each in gone if each.method == arm.space.method), None)
        if before is None:
            different.append(f"methods: {arm.title} is new")
        else:
            gone.remove(before)
            different.append(f"methods: {_of_values(before, ledger, arm)}")
    different += [f"methods: {arm.title} is gone" for arm in gone]
    if [key for key in old if key in new] != [key for key in new if key in old]:
        different.append("methods: their order has changed")
    return different


def _of_values(before: ArmDescription, ledger: RawLedger, arm: Arm) -> str:
    """Compare the values of a method, if what the search asked for tells what was declared."""
    space, events = arm.space, [event for _, event in sorted(ledger.asked.get(before.key, {}).items())]
    if events:
        used = events[0]["described"].get("trial", {}).get("method", {})
        fixed = {name: used.get(name, value) for name, value in space.fixed.items()}
        listed = MethodSpace(space.method, points=tuple(event["values"] for event in events))
        for guess in (listed, replace(space, fixed=fixed)):
            if arm_key(before.setting, guess) == before.key:
                return f"{space.method} {_became_each(_declared(guess), _declared(space))}"
    return f"the values or ranges of {space.method} have changed"


def _declared(space: MethodSpace) -> dict[str, Any]:
    """Return coefficient -> its list of values, its one value, or the word "searched", of those that a space names."""
    values: dict[str, Any] = dict.fromkeys(space.ranges, "searched") | dict(space.fixed)
    for point in space.points or ():
        for name, value in point.items():
            values.setdefault(name, [])
            values[name] += [value] if value not in values[name] else []
    return values


def _flat(data: Mapping[str, Any], without: Container[str]) -> dict[str, Any]:
    """Return nested values under their own names, but for those of some names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if name not in without:
            flat |= _flat(value, without) if isinstance(value, Mapping) else {name: value}
    return flat


def _became(what: str, before: list[str], now: list[str]) -> list[str]:
    return [] if before == now else [f"{what}: {', '.join(before)} became {', '.join(now)}"]


def _became_each(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return e.g. "steps=6 became 12" for each name whose value differs."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shown = [(name, *(each.get(name, "the default") for each in (before, now))) for name in names]
    return ", ".join(f"{name}={old} became {new}" for name, old, new in shown)
