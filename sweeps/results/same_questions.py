"""Whether two sweeps on different settings can be compared: only if they measure the same on the same base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.tables.loaded_sweep import LoadedSweep
from settings.catalog import options_for_score
from settings.common.errors import UserError
from settings.reference import SettingRef, setting_of
from settings.setting import Setting
from sweeps.results.from_ledger import LedgerReader
from sweeps.results.readers import SweepReader


def are_apart(readers: Sequence[SweepReader], loaded: Sequence[LoadedSweep]) -> bool:
    """Return whether two sweeps with trials are on different settings, or on files that have changed in between."""
    if any(sweep.setting is None for sweep in loaded):
        return False
    trials = [_a_trial(reader, sweep) for reader, sweep in zip(readers, loaded, strict=True)]
    known = [trial["data"] for trial in trials if trial]
    return loaded[0].setting != loaded[1].setting or len(set(known)) > 1


def _a_trial(reader: SweepReader, sweep: LoadedSweep) -> Mapping[str, Any]:
    """Return a trial of a sweep as JSON; {} if there is no folder to read it from."""
    if not isinstance(reader, LedgerReader):
        return {}
    return next((each.trial for each in reader.configurations.values() if each.setting == sweep.setting), {})


def why_apart(readers: Sequence[SweepReader], loaded: Sequence[LoadedSweep]) -> str:
    """Say why the numbers of two sweeps on different settings cannot be compared; "" if they can.

    They can if the rows to train on alone differ: the proxy, say. Both settings are built to see that.
    """
    trials = [_a_trial(reader, sweep) for reader, sweep in zip(readers, loaded, strict=True)]
    if not all(trials):
        return "what they measure is only known from the folders of both sweeps, which are not under --output"
    built = []
    for trial, sweep in zip(trials, loaded, strict=True):
        try:
            setting = setting_of(SettingRef(trial["setting"]["name"], trial["setting"]["options"]))
        except UserError as error:
            return f"setting {sweep.setting} cannot be built here ({error})"
        if setting.fingerprint() != trial["data"]:
            return f"the rows or questions of setting {sweep.setting} have changed since"
        built.append(setting)
    if built[0].base_model.to_json() != built[1].base_model.to_json():
        return "their base models differ"
    differing = [
        objective.name
        for objective in loaded[0].objectives
        if _measured_by(built[0], objective.name) != _measured_by(built[1], objective.name)
    ]
    if not differing:
        return ""
    questions = "give both the same questions" + _by_option(trials, differing)
    alike = " or ".join([*_instead(built), questions])
    return f"{' and '.join(differing)}: not comparable, as their questions differ; {alike}"


def _by_option(trials: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> str:
    """Name the options that hold the questions of these scores, e.g. " (`alignment_eval`)"; "" if there are none."""
    names = {trial["setting"]["name"] for trial in trials}
    options = sorted({option for name in names for score in scores for option in options_for_score(name, score)})
    named = [option for option in options if option.endswith("_eval")] or options
    return f" ({', '.join(f'`{option}`' for option in named)})" if named else ""


def _instead(built: Sequence[Setting]) -> list[str]:
    """Propose scores that two settings measure alike: of the task, and of something else, of alignment if possible."""
    others = {score.name for score in built[1].all_scores}
    alike = [
        score
        for score in built[0].all_scores
        if score.name in others and _measured_by(built[0], score.name) == _measured_by(built[1], score.name)
    ]
    of_kind = {score.kind: score.name for score in reversed(alike)}
    more = of_kind.get("alignment") or of_kind.get("capability")
    if "task" not in of_kind or more is None:
        return []
    return [f"compare them on scores that do not depend on the proxy, e.g. --objectives {of_kind['task']},{more},"]


def _measured_by(setting: Setting, name: str) -> list[object]:
    """Return what decides a score besides the model: what it is, the questions that count, and how they are asked."""
    parts = next((worst.worst_of for worst in setting.worst if worst.name == name), (name,))
    return [
        (
            score.name,
            score.description,
            score.higher_is_better,
            [example.to_json() for example in evaluation.examples if score.applies(example)],
            {key: value for key, value in evaluation.to_json().items() if key not in ("examples", "scores")},
        )
        for evaluation in setting.evaluations
        for score in evaluation.scores
        if score.name in parts
    ]
