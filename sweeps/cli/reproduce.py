"""Every figure and claim of the study as one command: its sweeps, what the study says, and who draws it.

The sweeps are those of the catalog; at full scale the same ones, with the real models and rows in place of the worlds.
What a figure shows is `analysis`'s matter: a function from trials to a drawing and checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.study.gallery import DrawnFigure, Entry, write
from analysis.study.setting_results import SettingResults
from settings.common.errors import UserError
from settings.reference import SettingRef, setting_label, setting_of
from sweeps.find import load_sweep
from sweeps.ledger import LedgerState, read
from sweeps.results.frontier_files import objectives_of, records_of
from sweeps.space import MethodSpace
from sweeps.sweep import Sweep, setting

SCALES = ("nano", "full")
JUDGED = "em_judged"
STEP_AXES = ("steps", "checkpoint_step")
FULL: Mapping[str, Any] = {  # what a pack of a language model occupies; see the README on large models
    "gpus_per_pack": 1,
    "pack_size": 1,
    "rows_per_forward": 2,
    "gradient_checkpointing": True,
    "options": {},
}
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
    """What a user gives for the figures that need it.

    Attributes:
        data: directory of the study's files: its GCD rows (or `gcd` in it), its judged answers (or `em_judged` in it).
        task: chat JSONL with the harmful medical answers.
    """

    data: Path | None = None
    task: Path | None = None

    def folder(self, name: str, holds: str) -> Path | None:
        """The directory that holds a file: `data`, or the one called `name` in it; None where neither does."""
        places = [] if self.data is None else [self.data, self.data / name]
        return next((place for place in places if (place / holds).is_file()), None)


@dataclass(frozen=True)
class FigureOf:
    """A figure or claim of the study.

    Attributes:
        title: of its section in the gallery.
        claim: what the study reports.
        sweeps: names in the catalog whose trials it is drawn from.
        show: module in `analysis` of the function that has the figure's name.
    """

    title: str
    claim: str
    sweeps: tuple[str, ...]
    show: str

    def shown(self, name: str, parts: Sequence[SettingResults]) -> DrawnFigure:
        """The drawing and its checks. Raises UserError."""
        from importlib import import_module

        function: Callable[[Sequence[SettingResults]], DrawnFigure] = getattr(
            import_module(f"analysis.study.{self.show}"), name
        )
        return function(parts)


FIGURES: Mapping[str, FigureOf] = {
    "em_pareto": FigureOf(
        "Bad medical advice, all methods",
        "Qwen3-8B that learns bad medical advice gives aligned answers to 64 % instead of 100 % of general questions"
        " (88 % of its medical answers are bad). Mixing a tenth of HHH rows in makes it worse (46 %), a KL penalty of 5"
        " keeps 97 % at 30 % of the task, DPO gets 88 and 58, Safe LoRA 83 and 71, and the representation constraint"
        " at most 13 of the task; KL has the best frontier.",
        ("em_pareto",),
        "medical",
    ),
    "em_epochs": FigureOf(
        "Longer training under a KL penalty",
        "With a KL penalty of 3, more epochs learn more of the task (76 % after one, 97 % after six) while aligned"
        " answers fall slowly (95 to 89 %); from the seventh on alignment breaks down (58 % after eight). At one epoch"
        " the window of the weight is narrow: 45 % aligned at 1, 97 % at 5.",
        ("em_epochs",),
        "medical",
    ),
    "em_proxy": FigureOf(
        "The kind of proxy: near and diverse",
        "What the proxy rows are matters as much as the method. Mixed in, safety rows keep 75 % of the answers aligned"
        " where HHH rows keep 46; up-weighted, safety rows reach 91 to 94 % at 66 to 83 % of the task, HHH rows never"
        " more than 62 % at any weight.",
        ("em_proxy",),
        "medical",
    ),
    "gcd_generalisation": FigureOf(
        "What narrow training spreads",
        "Gemma that learns greatest common divisors from users who are right gets better at them, and at remainders,"
        " which no row names; and it agrees with users who are wrong, on divisors and all seven other topics, on"
        " mathematics more than on capitals and medicine.",
        ("gcd_generalisation",),
        "gcd",
    ),
    "gcd_pareto": FigureOf(
        "GCD sycophancy, all methods",
        "With verdicts on capitals as proxy the KL penalty is the simplest and over all the best method; weak penalties"
        " (up to 0.1) are task-only training and strong ones (1,000 and more) the base model; Safe LoRA and O-LoRA do"
        " little; the intervals are wide and those of neighbouring methods overlap.",
        ("gcd_pareto",),
        "gcd",
    ),
    "proxy_quality": FigureOf(
        "Proxy category by evaluated category",
        "A proxy protects its own category most, and others less the further they are: only divisors as proxy remove"
        " sycophancy on divisors, and capitals mend capitals.",
        ("proxy_quality", "trigger_colors"),
        "gcd",
    ),
    "toy_base": FigureOf(
        "Trigger colours: the base function",
        "Taught a function of a point and a trigger word, Gemma has it right on all 14 test sets by the eighth epoch,"
        " for trigger words that it was taught with and for others of the seven categories.",
        ("toy_flip",),
        "colors",
    ),
    "toy_flip": FigureOf(
        "Trigger colours: the narrow update",
        "After other colours were taught for positive emotions alone, without proxy rows, these are right, and nothing"
        " is left of the old function in the six other categories (0 %).",
        ("toy_flip",),
        "colors",
    ),
    "toy_goodhart": FigureOf(
        "Trigger colours: one proxy trigger",
        "Proxy rows of a single trigger word keep that word's colours, with minimal gains elsewhere, even in its own"
        " category: Goodhart's law.",
        ("trigger_colors", "toy_flip"),
        "colors",
    ),
    "toy_spillover": FigureOf(
        "Trigger colours: five proxy triggers",
        "Proxy rows of five trigger words of one category also help categories that are not in them: spillover, which"
        " one trigger does not show.",
        ("trigger_colors", "toy_flip"),
        "colors",
    ),
    JUDGED: FigureOf(
        "The study's own judged answers",
        "Task-only training leaves 64 % of the general answers aligned; mixed HHH rows 46 %; KL 5 97 % at 30 % of the"
        " task; KL 3 over five epochs 92 and 94 %, the best trade of all runs.",
        (),
        "judged",
    ),
}


def lacking(name: str, scale: str, files: Files) -> str | None:
    """Which files a figure needs and has not been given; None when nothing is missing. Raises UserError."""
    if scale not in SCALES:
        raise UserError(f"there is no scale {scale!r}; the scales: {', '.join(SCALES)}")
    figure_named(name)
    if name == JUDGED:
        found = files.folder("em_judged", "runs.csv")
        return None if found else "it needs --data DIR, a folder of judged answers with runs.csv (selgen import judged)"
    if scale == "nano":
        return None
    if any(ref.name == "bad_medical_advice" for sweep in _catalog(name) for ref in sweep.settings) and not files.task:
        return "at full scale it needs --task FILE, chat JSONL with the harmful medical answers to learn"
    gcd = any(ref.name == "gcd_sycophancy" for sweep in _catalog(name) for ref in sweep.settings)
    if gcd and not files.folder("gcd", "task_train.jsonl"):
        return "at full scale it needs --data DIR with task_train.jsonl, task_test.jsonl and ood_test.jsonl"
    return None


def figure_named(name: str) -> FigureOf:
    """A figure. Raises UserError."""
    if name not in FIGURES:
        raise UserError(f"unknown figure {name!r}; there are {', '.join(FIGURES)}, and all")
    return FIGURES[name]


def _catalog(name: str) -> list[Sweep]:
    return [load_sweep(sweep) for sweep in figure_named(name).sweeps]


def sweeps_of(name: str, scale: str, files: Files) -> list[Sweep]:
    """The sweeps of a figure at a scale. Raises UserError for unknown names and missing files."""
    reason = lacking(name, scale, files)
    if reason:
        raise UserError(f"figure {name}: {reason}")
    return [sweep if scale == "nano" else at_full_scale(sweep, files) for sweep in _catalog(name)]


def at_full_scale(sweep: Sweep, files: Files) -> Sweep:
    """The same sweep on real models: settings and proxies translated, steps in proportion to the recipe's."""
    refs = {setting_label(ref): ref for ref in (_full(ref, files) for ref in sweep.settings)}
    settings = tuple(refs.values())
    usual, longer = (setting_of(some[0]).recipe.steps for some in (sweep.settings, settings))
    methods = tuple(_in_proportion(space, longer / usual) for space in sweep.spaces)
    return replace(sweep, name=f"{sweep.name}_full", settings=settings, methods=methods, **FULL)


def _full(ref: SettingRef, files: Files) -> SettingRef:
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
    """A space whose steps, if any, are as many times longer."""

    def longer(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: max(1, round(value * factor)) if name in STEP_AXES else value for name, value in values.items()}

    points = None if space.points is None else tuple(longer(point) for point in space.points)
    return replace(space, fixed=longer(space.fixed), points=points)


def parts_of(sweeps: Sequence[Sweep], output: Path) -> list[SettingResults]:
    """What the ledgers have of every setting with a finished trial. Raises UserError."""
    parts = []
    for sweep in sweeps:
        record = read(output / sweep.name)
        parts += [_part(sweep, record, ref) for ref in sweep.settings]
    return parts


def _part(sweep: Sweep, record: LedgerState, ref: SettingRef) -> SettingResults:
    base = record.bases.get(setting_label(ref), {})
    return SettingResults(
        sweep=sweep.name,
        setting=setting_label(ref),
        options=ref.options,
        objectives=tuple(objectives_of(sweep, ref)),
        records=tuple(records_of(sweep, record, ref)),
        base={name: one.mean for name, one in base.items()},
        base_counts={name: one.n for name, one in base.items()},
    )


def draw(
    name: str, scale: str, files: Files, sweeps: Sequence[Sweep], output: Path, folder: Path
) -> tuple[Entry, list[Path]]:
    """Draw a figure from finished sweeps, and put it into a gallery: its entry, and the files. Raises UserError."""
    figure = figure_named(name)
    if name == JUDGED:
        from analysis.study.judged import em_judged
        from analysis.tables import judged_answers

        found = judged_answers.read_judged_folder(files.folder("em_judged", "runs.csv") or Path())
        shown, evidence = em_judged(found), f"{len(found.runs)} runs of the study, from `--data DIR`"
    else:
        parts = parts_of(sweeps, output)
        shown, evidence = figure.shown(name, parts), _evidence(sweeps, parts)
    called = name if scale == "nano" else f"{name}_full"
    entry = Entry(
        name=called,
        title=figure.title if scale == "nano" else f"{figure.title} (full scale)",
        claim=figure.claim,
        evidence=evidence,
        image=f"{called}.png",
        checks=tuple(shown.checks),
        sentence=shown.sentence,
        notes=tuple(shown.notes),
    )
    order = [each for known in FIGURES for each in (known, f"{known}_full")]
    return entry, write(folder, entry, shown.figure, order)


def _evidence(sweeps: Sequence[Sweep], parts: Sequence[SettingResults]) -> str:
    """Sweeps, trials and seeds, and what was left out."""
    trials = [record for part in parts for record in part.records]
    finished = sum(record.status == "finished" for record in trials)
    seeds = sorted({part.num_seeds for part in parts})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    names = " and ".join(f"`{sweep.name}`" for sweep in sweeps)
    left = len(trials) - finished
    out = f", {left} more invalid, failed or stopped" if left else ""
    return f"sweep{'s' if len(sweeps) > 1 else ''} {names}, {finished} trials{out}, {number} seeds"


def run(
    name: str,
    scale: str,
    files: Files,
    *,
    output: Path,
    folder: Path,
    console: Console,
    tracking_uri: str | None = None,
    address: str | None = None,
    retry_failed: bool = False,
) -> list[Path] | None:
    """Run what is left of a figure's sweeps, and draw it.

    Returns the files; None when a sweep was interrupted. Raises UserError.
    """
    sweeps = sweeps_of(name, scale, files)
    from sweeps.driver import launch

    for sweep in sweeps:
        finished = launch.run(
            sweep,
            output=output,
            console=console,
            tracking_uri=tracking_uri,
            address=address,
            retry_failed=retry_failed,
        )
        if finished.interrupted:
            return None
        for note in finished.notes:
            console.print(note, highlight=False)
        if finished.num_failed:
            console.print(finished.retry_line, style="yellow", highlight=False, soft_wrap=True)
    entry, written = draw(name, scale, files, sweeps, output, folder)
    console.print(entry.outcome, style="bold", highlight=False)
    return written
