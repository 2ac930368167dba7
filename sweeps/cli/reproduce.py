"""Make a figure of the study: run its sweeps at a scale, draw it, and put it into a gallery.

The sweeps come from the catalog. At full scale they are the nano sweeps, with real models and rows in place of the
worlds. The small scale, on a real language model, has sweeps of its own, with fewer values and seeds.
`analysis.study` defines what a figure claims, checks and draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.study.catalog import FIGURES
from analysis.study.figure import AnswersFigure, DrawnFigure, StudyFigure, SweepFigure
from analysis.study.gallery import SCALES, Entry, read_entries, write
from analysis.study.kept_results import KeptSweep, keep, path_of, read_kept
from analysis.study.setting_results import SettingResults
from analysis.tables.judged_answers import JudgedFolder, read_judged_folder
from settings.common.errors import UserError
from settings.reference import SettingRef, setting_label, setting_of
from sweeps.case import Case
from sweeps.cli.say import Say
from sweeps.cli.tables import show_outcomes
from sweeps.description import describe_score
from sweeps.driver.run_options import RunOptions
from sweeps.find import load_sweep
from sweeps.ledger import LedgerState, read
from sweeps.results.frontier_files import objectives_of, records_of
from sweeps.results.running import clock
from sweeps.space import MethodSpace
from sweeps.sweep import Execution, Sweep, setting

STEP_AXES = ("steps", "checkpoint_step")
# Resources of a pack of a language model; see the README on larger models.
FULL = Execution(gpus_per_pack=1, pack_size=1, rows_per_forward=2, gradient_checkpointing=True)
PROXIES = {  # nano -> full: option, and its value
    "bad_medical_advice": ("alignment", {"diverse": "safety"}, "hhh"),
    "gcd_sycophancy": (
        "proxy",
        {
            "gcd": "euclidean_compositional",
            "mod": "mod",
            "difference": "addition",
            "remedies": "medical_advice_mathy",
            "homes": "conspiracy_mathy",
        },
        "capitals_mathy",
    ),
}


@dataclass(frozen=True)
class Files:
    """The user's files of the study, for the figures that need them.

    Attributes:
        data: directory of the study's files: its GCD rows (or `gcd` in it), its judged answers (or `em_judged` in it).
        task: chat JSONL with the harmful medical answers.
    """

    data: Path | None = None
    task: Path | None = None

    def folder(self, name: str, holds: str) -> Path | None:
        """Return the directory that holds a file: `data`, or `name` in it; None where neither does."""
        places = [] if self.data is None else [self.data, self.data / name]
        return next((place for place in places if (place / holds).is_file()), None)


def figure_named(name: str) -> StudyFigure:
    """Return a figure of the study. Raise UserError."""
    for figure in FIGURES:
        if figure.name == name:
            return figure
    raise UserError(f"unknown figure {name!r}; available: {', '.join(figure.name for figure in FIGURES)}, and all")


def missing_files(name: str, scale: str, files: Files) -> str | None:
    """Say which files a figure still needs; None when nothing is missing. Raise UserError."""
    if scale not in SCALES:
        raise UserError(f"there is no scale {scale!r}; the scales: {', '.join(SCALES)}")
    figure = figure_named(name)
    if isinstance(figure, AnswersFigure):
        if files.folder(name, "runs.csv"):
            return None
        return "it needs --data DIR, a folder of judged answers with runs.csv (selgen import judged)"
    if scale == "nano":
        return None
    if scale == "small":
        return None if isinstance(figure, SweepFigure) and figure.small else "it has no small scale"
    settings = {ref.name for sweep in _catalog_sweeps(figure) for ref in sweep.settings}
    if lacking := sorted(settings - {"trigger_colors", *PROXIES}):
        return f"it has no full scale, as its setting {lacking[0]} has none (PROXIES in sweeps/cli/reproduce.py)"
    if "bad_medical_advice" in settings and not files.task:
        return "at full scale it needs --task FILE, chat JSONL with the harmful medical answers to learn"
    if "gcd_sycophancy" in settings and not files.folder("gcd", "task_train.jsonl"):
        return "at full scale it needs --data DIR with task_train.jsonl, task_test.jsonl and ood_test.jsonl"
    return None


def _catalog_sweeps(figure: StudyFigure, scale: str = "nano") -> list[Sweep]:
    if not isinstance(figure, SweepFigure):
        return []
    return [load_sweep(name) for name in (figure.small if scale == "small" else figure.sweeps)]


def _sweep_names(figure: SweepFigure, scale: str) -> list[str]:
    names = figure.small if scale == "small" else figure.sweeps
    return [f"{name}_full" if scale == "full" else name for name in names]


def sweeps_of(name: str, scale: str, files: Files) -> list[Sweep]:
    """Load the sweeps of a figure at a scale. Raise UserError for unknown names and missing files."""
    missing = missing_files(name, scale, files)
    if missing:
        raise UserError(f"figure {name}: {missing}")
    sweeps = _catalog_sweeps(figure_named(name), scale)
    return [at_full_scale(sweep, files) for sweep in sweeps] if scale == "full" else sweeps


def at_full_scale(sweep: Sweep, files: Files) -> Sweep:
    """Translate a sweep to real models: settings, proxies, and steps in proportion to the recipe's."""
    full = (setting_at_full_scale(ref, files) for ref in sweep.settings)
    settings = tuple({setting_label(ref): ref for ref in full}.values())
    usual, longer = (setting_of(refs[0]).recipe.steps for refs in (sweep.settings, settings))
    methods = tuple(_in_proportion(space, longer / usual) for space in sweep.spaces)
    name = f"{sweep.name}_full"
    return replace(sweep, name=name, settings=settings, methods=methods, options={}, execution=FULL)


def setting_at_full_scale(ref: SettingRef, files: Files) -> SettingRef:
    """Translate a nano setting and its proxy to the real model and rows."""
    options: dict[str, Any] = {"scale": "full"}
    if ref.name == "trigger_colors":
        options |= {name: ref.options[name] for name in ("proxy", "num_triggers") if name in ref.options}
        return setting(ref.name, **options, seed=int(ref.options.get("pretraining_seed", 0)))
    option, translated, usual = PROXIES[ref.name]
    options[option] = translated.get(str(ref.options.get("proxy")), usual)
    if ref.name == "gcd_sycophancy":
        return setting(ref.name, **options, data=str(files.folder("gcd", "task_train.jsonl")))
    return setting(ref.name, **options, task=str(files.task))


def _in_proportion(space: MethodSpace, factor: float) -> MethodSpace:
    """Return a space whose steps, if it has any, are multiplied by `factor`."""

    def longer(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: max(1, round(value * factor)) if name in STEP_AXES else value for name, value in values.items()}

    points = None if space.points is None else tuple(longer(point) for point in space.points)
    return replace(space, fixed=longer(space.fixed), points=points)


def results_of(sweep: Sweep, output: Path) -> KeptSweep:
    """Read the results of every setting of a sweep from its ledger. Raise UserError."""
    record = read(output / sweep.name)
    seconds = sum(outcome.cost.seconds for outcome in record.outcomes.values())
    return KeptSweep(sweep.name, seconds, [_setting_results(sweep, record, case) for case in sweep.cases])


def _setting_results(sweep: Sweep, record: LedgerState, case: Case) -> SettingResults:
    base = record.bases.get(case.label, {})
    return SettingResults(
        sweep=sweep.name,
        setting=case.label,
        options=case.ref.options,
        objectives=tuple(objectives_of(case)),
        records=tuple(records_of(sweep, record, case)),
        base={name: measured.mean for name, measured in base.items()},
        base_counts={name: measured.n for name, measured in base.items()},
        described={score.name: describe_score(score) for score in case.setting.all_scores},
    )


def _judged_folder(figure: StudyFigure, files: Files) -> JudgedFolder:
    return read_judged_folder(files.folder(figure.name, "runs.csv") or Path())


def draw(
    name: str, scale: str, files: Files, sweeps: Sequence[Sweep], output: Path, folder: Path
) -> tuple[Entry, list[Path]]:
    """Draw a figure from finished sweeps and put it into a gallery. Return its entry and the files written.

    Raise UserError.
    """
    figure = figure_named(name)
    if isinstance(figure, SweepFigure):
        kept = [results_of(sweep, output) for sweep in sweeps]
        drawn = figure.draw(_per_setting(kept))
        entry = _entry(figure, scale, _needs(sweeps, scale), drawn, _evidence(kept))
        results = [keep(folder, each) for each in kept]
    elif isinstance(figure, AnswersFigure):  # models and answers of the study
        answers = _judged_folder(figure, files)
        drawn, evidence = figure.draw(answers), f"{len(answers.runs)} runs of the study, from `--data DIR`"
        entry, results = _entry(figure, "full", "--data DIR", drawn, evidence), []
    else:
        raise TypeError(f"{figure!r} has nothing to be drawn from")
    return entry, [*_write(folder, entry, drawn), *results]


def redraw(name: str, scale: str, folder: Path) -> tuple[Entry, list[Path]]:
    """Draw a figure of a gallery from the results that it keeps. Return its entry and the files written.

    Raise UserError, also if the gallery does not have this figure at this scale.
    """
    figure = figure_named(name)
    if missing := _not_kept(figure, scale, folder):
        raise UserError(missing)
    assert isinstance(figure, SweepFigure)
    known = {(entry.figure, entry.scale): entry for entry in read_entries(folder).values()}
    kept = [read_kept(folder, sweep) for sweep in _sweep_names(figure, scale)]
    drawn = figure.draw(_per_setting(kept))
    entry = _entry(figure, scale, known[name, scale].needs, drawn, _evidence(kept))
    return entry, _write(folder, entry, drawn)


def _not_kept(figure: StudyFigure, scale: str, folder: Path) -> str:
    """Say why a gallery cannot draw a figure again; "" if it can. Raise UserError for an unknown scale."""
    if scale not in SCALES:
        raise UserError(f"there is no scale {scale!r}; the scales: {', '.join(SCALES)}")
    if not isinstance(figure, SweepFigure):
        return f"figure {figure.name} is drawn from the study's own answers; give --data DIR instead of --redraw"
    if (figure.name, scale) not in {(entry.figure, entry.scale) for entry in read_entries(folder).values()}:
        return f"{folder} has no figure {figure.name} at scale {scale}; without --redraw its sweeps are run"
    paths = [path_of(folder, sweep) for sweep in _sweep_names(figure, scale)]
    lacking = next((path for path in paths if not path.is_file()), None)
    return f"{lacking} does not exist; without --redraw its sweep is run" if lacking else ""


def _per_setting(kept: Sequence[KeptSweep]) -> list[SettingResults]:
    return [results for sweep in kept for results in sweep.settings]


def _write(folder: Path, entry: Entry, drawn: DrawnFigure) -> list[Path]:
    return write(folder, entry, drawn.figure, [figure.name for figure in FIGURES])


def _entry(figure: StudyFigure, scale: str, needs: str, drawn: DrawnFigure, evidence: str) -> Entry:
    return Entry(
        figure=figure.name,
        scale=scale,
        needs=needs,
        title=figure.title,
        claim=figure.claim,
        evidence=evidence,
        checks=tuple(drawn.checks),
        sentence=drawn.sentence,
        notes=tuple(drawn.notes),
        differs=figure.differs,
    )


def _needs(sweeps: Sequence[Sweep], scale: str) -> str:
    """Return the arguments, besides its name, of the command that makes a figure at a scale."""
    settings = {ref.name for sweep in sweeps for ref in sweep.settings} if scale == "full" else set[str]()
    files = {"bad_medical_advice": "--task FILE", "gcd_sycophancy": "--data DIR"}
    given = [text for name, text in files.items() if name in settings]
    return " ".join([*([f"--scale {scale}"] if scale != SCALES[0] else []), *given])


def _evidence(sweeps: Sequence[KeptSweep]) -> str:
    """Say which sweeps, trials and seeds a figure rests on, how many trials were left out, and how long it took."""
    per_setting = _per_setting(sweeps)
    trials = [record for results in per_setting for record in results.records]
    finished = sum(record.status == "finished" for record in trials)
    seeds = sorted({results.num_seeds for results in per_setting})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    names = " and ".join(f"`{sweep.name}`" for sweep in sweeps)
    left_out = len(trials) - finished
    rest = f", {left_out} more invalid, failed or stopped" if left_out else ""
    named = f"sweep{'s' if len(sweeps) > 1 else ''} {names}"
    seconds = sum(sweep.seconds for sweep in sweeps)
    return f"{named}, {finished} trials{rest}, {number} seeds, {clock(seconds)} of packs"


def run(name: str, scale: str, files: Files, options: RunOptions, folder: Path, console: Console) -> Entry | None:
    """Run what is left of a figure's sweeps, and draw it into `folder`.

    Return its entry, or None if a sweep was interrupted. Raise UserError.
    """
    sweeps = sweeps_of(name, scale, files)
    from sweeps.driver import launch

    say = Say(console)
    for sweep in sweeps:
        finished = launch.run(sweep, options, console)
        if finished.interrupted:
            return None
        for note in finished.notes:
            say.prose(note)
        if finished.num_failed:
            say.warn(finished.retry_line)
    return _said(draw(name, scale, files, sweeps, options.output, folder), say)


def _said(drawn: tuple[Entry, list[Path]], say: Say) -> Entry:
    """Print a figure's outcome and the files written. Return its entry."""
    entry, written = drawn
    say.prose(entry.outcome, style="bold")
    for file in written:
        say.wrote(file)
    return entry


def run_all(scale: str, files: Files, options: RunOptions, folder: Path, console: Console) -> bool:
    """Make every figure that has its files, print the outcomes as a table, and name the figures left out.

    Return False if it was interrupted. Raise UserError if no figure can be made.
    """
    missing = {figure.name: missing_files(figure.name, scale, files) for figure in FIGURES}
    entries = []
    for name in [name for name, reason in missing.items() if not reason]:
        entry = run(name, scale, files, options, folder, console)
        if entry is None:
            return False
        entries.append(entry)
    _show_all(entries, {name: reason for name, reason in missing.items() if reason}, console)
    return True


def redraw_from_gallery(name: str, scale: str, folder: Path, console: Console) -> None:
    """Draw a figure, or all, from the results that a gallery keeps, without any training. Raise UserError."""
    say = Say(console)
    if name != "all":
        _said(redraw(name, scale, folder), say)
        return
    entries, left_out = [], {}
    for figure in FIGURES:
        if missing := _not_kept(figure, scale, folder):
            left_out[figure.name] = missing
        else:
            entries.append(_said(redraw(figure.name, scale, folder), say))
    _show_all(entries, left_out, console)


def _show_all(entries: Sequence[Entry], left_out: Mapping[str, str], console: Console) -> None:
    """Print the outcomes as a table, and name the figures left out. Raise UserError if there are no outcomes."""
    if entries:
        show_outcomes(console, entries)
    for name, reason in left_out.items():
        Say(console).note(f"left out {name}: {reason}")
    if not entries:
        raise UserError("no figure could be made")
