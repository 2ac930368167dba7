"""The report of a sweep: a page, figures and tables as files, and in MLflow if the sweep is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.findings.arms import PLAIN, plain_title
from analysis.findings.findings import analyse
from analysis.findings.judges import read_comparison
from analysis.findings.named_points import read_named
from analysis.findings.reading import read_findings
from analysis.report.page import Chapter, write_report
from analysis.tables import mlflow_runs, schema
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.mlflow_runs import SweepRuns
from settings.common.addresses import without_user
from settings.common.errors import UserError
from sweeps.cli.say import Say
from sweeps.names import default_uri, folder_of
from sweeps.results.from_ledger import LedgerReader
from sweeps.results.readers import SweepReader, open_sweep, unfinished_note
from sweeps.tracking.store import log_files
from trainables.folder import SweepFolder

LOCAL_UI = "http://127.0.0.1:5000"  # where `selgen ui` serves a local store


@dataclass(frozen=True)
class WrittenReport:
    """A report.

    Attributes:
        files: the files written, the page first.
        answers: setting -> the five questions of a reader, each with its answer.
        note: why the report is not in MLflow; "" if it is.
        unfinished: how much of the sweep has ended; "" if all has.
    """

    files: tuple[Path, ...]
    answers: Mapping[str, tuple[tuple[str, str], ...]]
    note: str = ""
    unfinished: str = ""


def report(
    sweep: str,
    output: Path,
    tracking_uri: str | None,
    setting: str | None = None,
    objectives: Sequence[str] | None = None,
    folder: Path | None = None,
) -> WrittenReport:
    """Write the report of a sweep, even while it runs, and log it to the sweep's run in MLflow.

    Args:
        setting: label of one of them; None is all that have a finished trial.
        objectives: two or three of the sweep's scores; None is its own.
        folder: where to write; None is `report` in the sweep's folder under `output`, or `report-a-b` for other
            objectives than the sweep's own.

    Raise UserError.
    """
    if objectives is not None and len(objectives) not in (2, 3):
        raise UserError(f"option --objectives: a report needs two or three scores, got {', '.join(objectives)}")
    reader, uri = open_sweep(sweep, output, tracking_uri), tracking_uri or default_uri(output)
    labels: Sequence[str | None] = [setting] if setting else reader.labels or [None]
    loaded = [reader.load(label, objectives) for label in labels]
    if not any(results.table.num_seeds_C.any() for results in loaded):
        raise UserError(f"no trial of sweep {sweep!r} has finished yet, so there is nothing to report")
    runs, note = SweepRuns("", ""), ""
    try:
        runs = mlflow_runs.runs_of(sweep, uri)
    except UserError as error:
        if not isinstance(reader, LedgerReader):
            raise
        note = f"the report is not in MLflow: {error}"
    places = SweepFolder(folder_of(sweep, output))
    chapters = [_chapter(results, runs, uri, places) for results in loaded if results.table.num_seeds_C.any()]
    name = schema.REPORT + _other_objectives(reader, labels, objectives)
    files = write_report(folder or places.report.with_name(name), sweep, chapters)
    if not note:
        log_files(uri, runs.run_id, files, name)
    answers = {chapter.setting: read_findings(chapter.findings).answers for chapter in chapters}
    unfinished = unfinished_note(reader, sum(chapter.running for chapter in chapters))
    return WrittenReport(tuple(files), answers, note, unfinished)


def _other_objectives(reader: SweepReader, labels: Sequence[str | None], objectives: Sequence[str] | None) -> str:
    """Return what tells a report of other objectives from the usual one, e.g. "-task-skill"; "" if it is the usual."""
    if objectives is None:
        return ""
    usual = [[objective.name for objective in reader.load(label).objectives] for label in labels]
    return "" if all(names == list(objectives) for names in usual) else f"-{'-'.join(objectives)}"


def show_report(written: WrittenReport, say: Say) -> None:
    """Print the answers of a report, its files in one line, and where the page is."""
    for setting, answers in written.answers.items():
        if len(written.answers) > 1:
            say.prose(setting, style="bold")
        for question, answer in answers:
            say.prose(f"{question} {answer}")
    if any(plain_title(PLAIN) in which for (_, which), *_ in written.answers.values()):
        say.prose(f"({plain_title(PLAIN)} counts with its readouts: checkpoints, scaled adapters and mixes)")
    page, *others = written.files
    for note in filter(None, (written.note, written.unfinished)):
        say.warn(note)
    say.note(f"wrote {len(others)} figures and tables to {page.parent}: {', '.join(path.name for path in others)}")
    say.wrote(page)


def _chapter(loaded: LoadedSweep, runs: SweepRuns, uri: str, places: SweepFolder | None = None) -> Chapter:
    place = without_user(uri).rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL_UI
    links = {
        configuration: f"{place}/#/experiments/{runs.experiment}/runs/{run}"
        for configuration, run in runs.configurations.items()
    }
    return Chapter(
        setting=loaded.setting or loaded.name,
        findings=analyse(loaded.table, loaded.base_scores, loaded.grades),
        triggered=None if loaded.triggered is None else analyse(loaded.triggered, loaded.base_scores, loaded.grades),
        records=loaded.records,
        base_scores=loaded.base_scores,
        links=links,
        running=loaded.counts.get("running", 0),
        named=read_named(places.named, loaded.setting) if places else (),
        judges=read_comparison(places.judges, loaded.setting) if places else None,
    )
