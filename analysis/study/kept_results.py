"""The results behind a gallery's figures: with them a figure is drawn, and its checks computed, without any training.

`results/SWEEP.json` in a gallery holds everything that figures read of a sweep: each trial's scores, with the number of
questions behind them, its configuration and seed. It is JSON with a line for each trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective, TrialRecord
from settings.common.errors import UserError
from settings.common.files import write_text

FOLDER = "results"


@dataclass(frozen=True, eq=False)
class KeptSweep:
    """What figures read of a sweep.

    Attributes:
        name: of the sweep.
        seconds: what its packs took, in total.
        settings: the results of each of its settings.
    """

    name: str
    seconds: float
    settings: Sequence[SettingResults]


def path_of(gallery: Path, sweep: str) -> Path:
    """Return the file with a sweep's results in a gallery."""
    return gallery / FOLDER / f"{sweep}.json"


def keep(gallery: Path, kept: KeptSweep) -> Path:
    """Write a sweep's results into a gallery. Return the file. Raise UserError."""
    settings = ",\n".join(_setting_text(results) for results in kept.settings)
    head = f'"sweep": {json.dumps(kept.name)}, "seconds": {json.dumps(kept.seconds)}'
    path = path_of(gallery, kept.name)
    write_text(path, f'{{{head}, "settings": [\n{settings}\n]}}\n')
    return path


def read_kept(gallery: Path, sweep: str) -> KeptSweep:
    """Read a sweep's results from a gallery. Raise UserError."""
    path = path_of(gallery, sweep)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return KeptSweep(facts["sweep"], facts["seconds"], [_setting(sweep, each) for each in facts["settings"]])
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: the gallery keeps no results of sweep {sweep!r}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not hold the results of a sweep: {error!r}") from error


def _setting_text(results: SettingResults) -> str:
    """Write a setting's results as JSON. Configurations are written once, not with each trial."""
    configurations = {record.configuration.id: asdict(record.configuration) for record in results.records}
    parts = {
        "setting": results.setting,
        "options": results.options,
        "objectives": [asdict(objective) for objective in results.objectives],
        "described": {name: asdict(score) for name, score in results.described.items()},
        "base": _without_nan(results.base),
        "base_counts": results.base_counts,
        "configurations": configurations,
    }
    head = ",\n".join(f" {json.dumps(name)}: {_json(part)}" for name, part in parts.items())
    trials = ",\n".join(f"  {_json(_trial_facts(record))}" for record in results.records)
    return f'{{\n{head},\n "trials": [\n{trials}\n ]\n}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _trial_facts(record: TrialRecord) -> dict[str, Any]:
    facts = {"configuration": record.configuration.id, "seed": record.seed, "status": record.status}
    costs = _without_nan({"tokens": record.tokens, "seconds": record.seconds})
    return facts | costs | {"reason": record.reason, "scores": _without_nan(record.scores), "counts": record.counts}


def _setting(sweep: str, facts: Mapping[str, Any]) -> SettingResults:
    configurations = {key: Configuration(**each) for key, each in facts["configurations"].items()}
    return SettingResults(
        sweep=sweep,
        setting=facts["setting"],
        options=facts["options"],
        objectives=tuple(Objective(**each) for each in facts["objectives"]),
        records=tuple(_trial(configurations, trial) for trial in facts["trials"]),
        base=_with_nan(facts["base"]),
        base_counts=facts["base_counts"],
        described={name: Objective(**each) for name, each in facts["described"].items()},
    )


def _trial(configurations: Mapping[str, Configuration], facts: Mapping[str, Any]) -> TrialRecord:
    costs = _with_nan({"tokens": facts["tokens"], "seconds": facts["seconds"]})
    return TrialRecord(
        configuration=configurations[facts["configuration"]],
        seed=facts["seed"],
        status=facts["status"],
        scores=_with_nan(facts["scores"]),
        reason=facts["reason"],
        counts=facts["counts"],
        **costs,
    )
