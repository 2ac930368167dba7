"""Score models from elsewhere on a setting like trials, with intervals over questions, and keep them with a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.findings.frontier import Estimate
from analysis.findings.named_points import NamedPoint, estimate_over_questions, named_file, read_named
from settings.common.errors import UserError
from settings.common.files import cache_root, write_text
from settings.judge import JudgeOptions
from settings.reference import SettingRef, setting_label
from settings.setting import Measurement, Setting, observation_from_json
from sweeps.names import SAFE_NAME
from sweeps.results.from_ledger import LedgerReader
from sweeps.search.judging import Judges, grade_replies
from trainables.folder import SweepFolder

BASE = "base"  # in place of an adapter: the base model itself
FEWEST = 5  # questions that the interval of an unbounded score needs
Progress = Callable[[str, float, int], None]


@dataclass(frozen=True)
class Scored:
    """A scored model: its point, and how many questions each score is based on."""

    point: NamedPoint
    numbers: Mapping[str, Measurement]


def label_in(reader: LedgerReader, ref: SettingRef, setting: Setting) -> str:
    """Return the label of the sweep's setting that asks the same. Raise UserError if none does."""
    labels: dict[str, bool] = {}
    for description in reader.configurations.values():
        trial = description.trial
        same = trial["setting"] == {"name": ref.name, "options": dict(ref.options)}
        labels[description.setting] = labels.get(description.setting, False) or same
        if trial["data"] == setting.fingerprint():
            return description.setting
    if any(labels.values()):
        raise UserError(
            f"setting {setting_label(ref)!r} now has other rows or questions than in sweep {reader.description.name!r}:"
            " scores cannot be compared"
        )
    listing = ", ".join(sorted(labels))
    raise UserError(f"sweep {reader.description.name!r} is not on setting {setting_label(ref)!r}, but on {listing}")


def setting_in(reader: LedgerReader) -> SettingRef:
    """Return the only setting of a sweep. Raise UserError if it has several, or no configuration yet."""
    refs = {
        json.dumps(description.trial["setting"], sort_keys=True): description.trial["setting"]
        for description in reader.configurations.values()
    }
    if len(refs) != 1:
        raise UserError(f"sweep {reader.description.name!r} has {len(refs)} settings; say which one with --setting")
    (reference,) = refs.values()
    return SettingRef(reference["name"], reference["options"])


def names_of(adapters: Sequence[str], name: str | None) -> list[str]:
    """Return a name for each model: `name` for a single one, or the folders' names. Raise UserError for duplicates."""
    names = [BASE if adapter == BASE else Path(adapter).resolve().name for adapter in adapters]
    if name is not None:
        names = [name] if len(names) == 1 else [f"{name}-{each}" for each in names]
    for each in names:
        if not SAFE_NAME.fullmatch(each):
            raise UserError(f"{each!r} cannot be the name of a scored model; give another with --name")
        if names.count(each) > 1:
            raise UserError(f"two models are called {each!r}; score them one at a time, each with its --name")
    return names


def score(
    setting: Setting,
    label: str,
    adapters: Mapping[str, str],
    judge: JudgeOptions,
    seed: int = 0,
    progress: Progress = lambda evaluation, done, total: None,
) -> list[Scored]:
    """Score adapters on a setting in this process, as many per pass as fit, judged scores last. Raise UserError.

    Args:
        label: the setting's label, for files.
        adapters: name -> directory of a PEFT adapter, or "base" for the base model itself.
        judge: how to reach a judge, if the setting needs one.
    """
    from trainables.bases.load_base import load_base
    from trainables.evaluation.foreign import read_adapter, score_adapters, score_base

    read = {name: read_adapter(Path(place)) for name, place in adapters.items() if place != BASE}
    judges = Judges(judge, cache_root() / "verdicts.db")
    try:
        for evaluation in setting.judged:
            judges.check({evaluation.judge or "": evaluation.rubrics[0]})
        base = load_base(setting.base_model)
        evaluated = dict(zip(read, score_adapters(base, setting, list(read.values()), seed, progress), strict=True))
        evaluated |= {name: score_base(base, setting, seed, progress) for name in adapters if name not in read}
        scored = []
        for name, place in adapters.items():
            numbers, grades = _graded(setting, evaluated[name].observed_json(), judges)
            facts: dict[str, Any] = {"adapter": None, "base_model": base.source}
            facts |= {"data": setting.fingerprint(), "seed": seed}
            if name in read:
                facts |= {"adapter": str(Path(place).resolve()), "trained_on": read[name].base_model}
            facts["questions"] = {key: measured.n for key, measured in numbers.items()}
            scored.append(Scored(NamedPoint(name, label, _estimates(setting, numbers, grades), facts), numbers))
    finally:
        judges.close()
    return scored


def _graded(
    setting: Setting, observed: Mapping[str, list[Any]], judges: Judges
) -> tuple[dict[str, Measurement], dict[str, list[float | None]]]:
    """Return all scores of one model, and the grades of single questions."""
    numbers: dict[str, Measurement] = {}
    grades: dict[str, list[float | None]] = {}
    for evaluation in setting.evaluations:
        if not evaluation.rubrics:
            observations = [observation_from_json(item) for item in observed[evaluation.name]]
            numbers |= evaluation.grade(observations)
            grades |= evaluation.grades(observations)
    if setting.judged:
        judged, of_questions = grade_replies(setting, observed, judges)
        if judged.problem:
            raise UserError(judged.problem)
        numbers |= judged.scores
        grades |= of_questions
    return setting.with_worst(numbers), grades


def _estimates(
    setting: Setting, numbers: Mapping[str, Measurement], grades: Mapping[str, list[float | None]]
) -> dict[str, Estimate]:
    """Return every score with its interval over questions; a worst-of score has the interval of the worst one.

    An unbounded score of fewer than `FEWEST` questions has none: a loss would reach far below 0.
    """
    estimates = {}
    for evaluation in setting.evaluations:
        questions = [example.prompt_key for example in evaluation.examples]
        for each in evaluation.scores:
            estimate = estimate_over_questions(grades[each.name], questions, each.ends)
            graded = {key for key, grade in zip(questions, grades[each.name], strict=True) if grade is not None}
            if None in each.ends and len(graded) < FEWEST:
                estimate = Estimate(estimate.mean, math.nan, math.nan, "none")
            estimates[each.name] = estimate
    for worst in setting.worst:
        part = worst.worst_part(numbers)
        if part is not None:
            estimates[worst.name] = estimates[part]
    return estimates


def keep(scored: Sequence[Scored], folder: Path) -> list[Path]:
    """Write each point into a sweep's folder, where `frontier` and `report` read it. Return the files."""
    named = SweepFolder(folder).named
    read_named(named, None)  # report an unreadable file now
    files = {each.point.name: named_file(named, each.point.name, each.point.setting) for each in scored}
    written = _write(scored, files)
    for each in scored:  # replaces an older version's file about the same model
        older = named / f"{each.point.name}.json"
        if older.is_file() and json.loads(older.read_text(encoding="utf-8"))["setting"] == each.point.setting:
            older.unlink()
    return written


def keep_beside(scored: Sequence[Scored], places: Mapping[str, str], to: Path | None) -> list[Path]:
    """Write each point beside its adapter, or into the folder `to`. Return the files."""
    files = {}
    for each in scored:
        place = places[each.point.name]
        folder = to or (Path.cwd() if place == BASE else Path(place).resolve().parent)
        files[each.point.name] = folder / f"{each.point.name}.scores.json"
    return _write(scored, files)


def _write(scored: Sequence[Scored], files: Mapping[str, Path]) -> list[Path]:
    for each in scored:
        text = json.dumps(each.point.to_json(), ensure_ascii=False, indent=2, allow_nan=False)
        write_text(files[each.point.name], text + "\n")
    return list(files.values())
