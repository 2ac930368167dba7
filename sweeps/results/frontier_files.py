"""The results of a sweep on the driver's side: tables, the frontier's files, and what MLflow shows of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from analysis.findings import frontier
from analysis.findings.frontier import Estimate, FrontierPoint
from analysis.findings.frontier_table import rich_table
from analysis.findings.named_points import read_named
from analysis.tables import schema
from analysis.tables.mlflow_runs import grades_file
from analysis.tables.questions import write_grades
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.setting import Measurement
from sweeps.case import Case
from sweeps.description import describe_score
from sweeps.ledger import LedgerState
from sweeps.results.export import EDITS
from sweeps.results.question_grades import grades_of
from sweeps.sweep import Sweep
from sweeps.tracking.models import FrontierAdapter
from sweeps.tracking.writer import Tracker
from trainables.folder import SweepFolder
from trainables.outcome import Outcome

PREVIEW_DPI = 90  # of the figure in MLflow's description, which shows it at full size


@dataclass(frozen=True)
class SettingFrontier:
    """The results of one setting of a sweep.

    Attributes:
        setting: its label.
        table: scores of the objectives.
        base: score name -> mean of the untouched base model, if it has one.
    """

    setting: str
    table: ScoreTable
    base: Mapping[str, float]

    @property
    def points(self) -> list[FrontierPoint]:
        """All configurations, those on the frontier first. Raise UserError if no trial has finished."""
        return frontier.frontier(self.table, base_scores=self.base)


def of_case(sweep: Sweep, record: LedgerState, case: Case) -> SettingFrontier:
    """Return the results of one setting from the ledger."""
    base: Mapping[str, Measurement] = record.bases.get(case.label, {})
    means = {name: measured.mean for name, measured in base.items() if math.isfinite(measured.mean)}
    methods = {name for arm in sweep.arms for name in arm.space.method_titles}
    table = ScoreTable.from_records(records_of(sweep, record, case), objectives_of(case), methods)
    return SettingFrontier(case.label, table, means)


def objectives_of(case: Case) -> list[Objective]:
    """Return the objectives of a setting, for tables."""
    return [describe_score(score) for score in case.objectives]


def records_of(sweep: Sweep, record: LedgerState, case: Case) -> list[TrialRecord]:
    """Return the trials that the search asked for on a setting and that ended, with all of their scores."""
    asked = record.configurations
    return [
        record_of(sweep, outcome).counted_for(case.objective_names)
        for outcome in record.outcomes.values()
        if outcome.trial.setting == case.ref and outcome.trial.configuration_id in asked
    ]


def record_of(sweep: Sweep, outcome: Outcome) -> TrialRecord:
    """Return how a trial ended, for tables."""
    trial = outcome.trial
    return TrialRecord(
        configuration=Configuration(
            trial.configuration_id,
            trial.method.title,
            sweep.label_of(trial),
            sweep.coefficients_of(trial),
            trial.read_from,
        ),
        seed=trial.seed,
        status=outcome.status,
        tokens=outcome.cost.total_tokens,
        seconds=outcome.cost.total_seconds,
        scores={name: score.mean for name, score in outcome.scores.items() if math.isfinite(score.mean)},
        reason=outcome.reason or "",
        counts={name: score.n for name, score in outcome.scores.items()},
    )


def publish(sweep: Sweep, record: LedgerState, folder: Path, tracker: Tracker) -> list[Path]:
    """Write figure, JSON and CSV of each setting's frontier into the sweep's folder, and show them in MLflow.

    The adapters of frontier configurations become logged models. Return the files written.
    """
    from analysis.figures.frontier import frontier_figure
    from analysis.figures.style import save_figure

    written, description, adapters, shown = [], [f"Sweep `{sweep.name}`: {_ended(record)}.", ""], [], ""
    for number, case in enumerate(sweep.cases):
        results = of_case(sweep, record, case)
        if not results.table.num_seeds_C.any():
            continue
        stem = "frontier" if len(sweep.settings) == 1 else f"frontier_{number}"
        points, picture = results.points, []
        files = [folder / f"{stem}.json", folder / f"{stem}.csv"]
        frontier.write_json(files[0], sweep.name, points)
        frontier.write_csv(files[1], points)
        if len(results.table.objectives) > 1:  # one objective gives a ranking, without a figure
            files.append(folder / f"{stem}.png")
            preview = SweepFolder(folder).previews / f"{stem}.png"
            named = read_named(SweepFolder(folder).named, results.setting)
            figure = frontier_figure(results.table, results.base, f"{sweep.name}: {results.setting}", named=named)
            save_figure(files[-1], figure)
            save_figure(preview, figure, PREVIEW_DPI)
            tracker.artifact(preview, schema.PREVIEWS)
            address = f"get-artifact?path={schema.PREVIEWS}/{stem}.png&run_uuid={{run_id}}"
            picture = [f"![{results.setting}]({address})", ""]
            shown = shown or f"{schema.PREVIEWS}/{stem}.png"
        for file in files:
            tracker.artifact(file)
        tracker.frontier(points, _other_estimates(sweep, record, case))
        description += [f"### {results.setting}", "", *picture, _markdown(points, results.table.objectives), ""]
        grades = SweepFolder(folder).questions / grades_file(results.setting)
        write_grades(grades, grades_of(case, record, folder))
        tracker.artifact(grades, schema.QUESTIONS)
        on_front = {point.configuration for point in points if point.on_front}
        adapters += _frontier_adapters(sweep, record, on_front, folder)
        written += files
    _show_adapters(adapters, tracker)
    tracker.describe("\n".join(description), shown)
    return written


def _other_estimates(sweep: Sweep, record: LedgerState, case: Case) -> dict[str, dict[str, Estimate]]:
    """Return configuration -> score other than the objectives -> estimate, for scores of all finished trials."""
    records = [each.counted_for(case.objective_names) for each in records_of(sweep, record, case)]
    measured = [set(each.scores) for each in records if each.status == "finished"]
    common = set.intersection(*measured) - set(case.objective_names) if measured else set()
    others = [describe_score(score) for score in case.setting.all_scores if score.name in common]
    return frontier.estimates(ScoreTable.from_records(records, others)) if others else {}


def _markdown(points: Sequence[FrontierPoint], objectives: Sequence[Objective]) -> str:
    """Return the frontier as a Markdown table: means with 95 % intervals."""
    names = [objective.name for objective in objectives]
    lines = [f"| configuration | {' | '.join(names)} | seeds |", f"|---|{'---|' * len(names)}---|"]
    for point in points:
        if point.on_front:
            cells = [f"{s.mean:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in (point.scores[name] for name in names)]
            lines.append(f"| {point.method} {point.label} | {' | '.join(cells)} | {point.seeds} |")
    return "\n".join(lines)


def _frontier_adapters(
    sweep: Sweep, record: LedgerState, configurations: set[str], folder: Path
) -> list[FrontierAdapter]:
    """Return the adapters of configurations, in the order in which their trials ended."""
    ends = [end for end in record.outcomes.values() if end.adapter and end.trial.configuration_id in configurations]
    return [
        FrontierAdapter(sweep.title_of(end.trial), end.trial, SweepFolder(folder).adapter(end.adapter))
        for end in ends
        if end.adapter
    ]


def _show_adapters(adapters: Sequence[FrontierAdapter], tracker: Tracker) -> None:
    """Log adapters as models, but as files if PEFT would load a different model than was scored."""
    whole = [each for each in adapters if each.trial.decoding_mix == 1.0 and not (each.directory / EDITS).is_file()]
    tracker.adapters(whole)
    for adapter in adapters:
        if adapter not in whole and adapter.directory.is_dir():
            tracker.artifact(adapter.directory, f"{schema.ADAPTERS}/{adapter.directory.name}")


def _ended(record: LedgerState) -> str:
    counts = Counter(outcome.status for outcome in record.outcomes.values())
    return ", ".join(f"{count} trial{'s' if count > 1 else ''} {status}" for status, count in sorted(counts.items()))


def complete(sweep: Sweep, record: LedgerState) -> bool:
    """Return whether every arm has asked for all its configurations, and every trial and base model has its outcome."""
    if any(case.label not in record.bases for case in sweep.cases):
        return False
    for arm in sweep.arms:
        asked = record.asked.get(arm.key, {})
        trials = (trial for item in asked.values() for trial in sweep.trials_of(arm, item.values))
        if len(asked) < arm.budget or any(trial.trial_id not in record.outcomes for trial in trials):
            return False
    return True


def show_results(sweep: Sweep, record: LedgerState, console: Console) -> None:
    """Print every setting's configurations, the frontier first."""
    for case in sweep.cases:
        results = of_case(sweep, record, case)
        title = f"{sweep.name}: {results.setting}"
        if not results.table.num_seeds_C.any():
            ends = Counter(end.status for end in record.outcomes.values() if end.trial.setting == case.ref)
            ended = ", ".join(f"{count} {status}" for status, count in sorted(ends.items())) or "none has ended"
            console.print(f"{title}: no trial has finished ({ended})", style="yellow", highlight=False)
            continue
        table = rich_table(results.points, results.table.objectives, title, width=console.width, base=results.base)
        console.print(table)
