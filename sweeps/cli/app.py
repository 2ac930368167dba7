"""The `selgen` command. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from settings.common.addresses import redacted
from settings.common.errors import UserError
from settings.common.files import is_full
from sweeps.cli import terminal
from sweeps.cli.adapters.commands import adapters_app
from sweeps.cli.arguments import Address, Name, Objectives, Output, Retry, SweepName, Tracking, names_in
from sweeps.cli.interrupts import second_ends
from sweeps.cli.judging.commands import judge_app
from sweeps.cli.looking.commands import app as looking_app
from sweeps.cli.looking.contents import Contents
from sweeps.cli.say import Say, command, hidden_address, places, resume_with
from sweeps.driver.run_options import RunOptions
from sweeps.names import OUTPUT

if TYPE_CHECKING:
    from sweeps.driver.launch import RunSummary
    from sweeps.sweep import Sweep

HELP = "Sweep fine-tuning methods x knobs x seeds, and draw their Pareto frontiers with confidence intervals."
app = typer.Typer(
    cls=Contents,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(looking_app)
sweep_app = typer.Typer(help="Plan, run, resume and inspect sweeps.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sweep_app, name="sweep")
app.add_typer(judge_app, name="judge")
import_app = typer.Typer(help="Analyse judged answers from elsewhere.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(import_app, name="import")
app.add_typer(adapters_app)


@sweep_app.command("list", epilog="Example: selgen sweep list")
def list_command() -> None:
    """List the sweeps of the catalog."""
    from sweeps.cli.looking.sweeps import show_sweeps

    show_sweeps(Console())


@sweep_app.command(
    "plan",
    short_help="Say what a sweep would cost: trials, time, memory.",
    epilog="Example: selgen sweep plan quickstart",
)
def plan_command(
    name: Name,
    output: Output = OUTPUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print rows, questions, recipe, trials, packs, tokens, and an estimate of time and memory. Runs nothing."""
    from sweeps.case_check import check_case, few_questions, wide_shares
    from sweeps.cli.tables import show_cautions, show_plan
    from sweeps.driver.resources import gpus_of_this_machine, packs_at_a_time, this_machine, unused_gpus
    from sweeps.find import find, showing_files_beside
    from sweeps.ledger import read, refusal
    from sweeps.names import folder_of
    from sweeps.plan import estimate as estimated
    from sweeps.planning.fit import free_memory
    from sweeps.planning.recipe import recipe_json, recipe_lines
    from sweeps.results.redeclared import differences
    from sweeps.results.running import clock
    from trainables.folder import SweepFolder

    sweep = find(name, output)
    with showing_files_beside(name, output):
        sweep.check()
    console = Console(stderr=as_json)
    for case in sweep.cases:
        show_cautions(case.setting, console, (*check_case(sweep, case), *few_questions(case)))
        label = case.label if len(sweep.cases) > 1 else case.setting.name
        for line in (case.counts, *wide_shares(case), *recipe_lines(case)):
            Say(console).prose(f"{label}: {line}")
    folder = folder_of(sweep.name, output)
    known = read(folder) if (ledger := SweepFolder(folder).ledger).exists() else None
    if known and (problem := refusal(ledger, known, sweep.name, sweep.identity(), lambda: differences(sweep, folder))):
        Say(console).warn(f"caution: {problem}")
        known = None
    estimate = estimated(sweep, packs_at_a_time(sweep, [this_machine(sweep)]), known, free_memory())
    if as_json:
        recipes = {case.label: recipe_json(case) for case in sweep.cases}
        typer.echo(json.dumps({"sweep": sweep.name} | estimate.to_json() | {"recipes": recipes}))
        return
    show_plan(console, sweep, estimate)
    if idle := unused_gpus(sweep, gpus_of_this_machine()):
        Say(console).warn(f"caution: {idle}")
    if known:
        ended = f"{estimate.ended} of these trials have ended in {folder}"
        Say(console).note(f"{ended}; the others take about {clock(estimate.seconds_left)}")


@sweep_app.command("run", epilog="Example: selgen sweep run quickstart --output runs")
def run_command(
    name: Name,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    address: Address = None,
    retry_failed: Retry = False,
) -> None:
    """Run what is left of a sweep, then print its frontier. Trials that have ended are never repeated.

    Ends with code 1 when all trials of a method have failed.
    """
    _run(name, RunOptions(output, tracking_uri, address, retry_failed))


@sweep_app.command("resume", epilog="Example: selgen sweep resume quickstart")
def resume_command(
    name: Name,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    address: Address = None,
    retry_failed: Retry = False,
) -> None:
    """Continue a sweep that was interrupted. Like `run`, but it must have been started."""
    _run(name, RunOptions(output, tracking_uri, address, retry_failed), is_started=True)


def _run(name: str, options: RunOptions, is_started: bool = False) -> None:
    """Run a sweep and print its results. With `is_started`, it must have a ledger."""
    from sweeps.driver.local_cluster import start_early

    console = Console()
    with start_early(options.output / name, options.address) as cluster:  # before the slow imports
        from sweeps.find import file_of, find, showing_files_beside
        from sweeps.ledger import read
        from sweeps.names import folder_of

        sweep = find(name, options.output)
        if is_started:
            read(folder_of(sweep.name, options.output))
        from sweeps.driver import launch

        with showing_files_beside(name, options.output):
            summary = launch.run(sweep, options, console, file=file_of(name), cluster=cluster)
        _show_run(name, sweep, options, summary, Say(console))


def _show_run(name: str, sweep: Sweep, options: RunOptions, summary: RunSummary, say: Say) -> None:
    """Print the results of a run, and suggest the next commands."""
    if summary.interrupted:
        say.stopped(f"continue with: {resume_with(name, options)}")
    else:
        for note in summary.notes:
            say.prose(note)
        for file in summary.files:
            say.wrote(file)
        if summary.num_failed:
            say.warn(summary.retry_line)
        if summary.files:
            say.note(f"the results as a page: {command('selgen', 'report', sweep.name)} {places(options)}")
        say.note(f"see every trial in MLflow: {command('selgen', 'ui', sweep.name)} {places(options)}")
    if hidden := hidden_address(options):
        say.note(hidden)
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.lost:
        typer.echo(f"selgen: all trials failed for {'; '.join(summary.lost)}", err=True)
        raise typer.Exit(1)


@sweep_app.command(
    "status", short_help="Show how far a sweep is.", epilog="Example: selgen sweep status quickstart --json"
)
def status_command(
    name: Name,
    output: Output = OUTPUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the progress of a sweep: trials by method and how they ended, and what each worker is doing."""
    from sweeps.cli.tables import show_status
    from sweeps.results.disk import cache_usage, usage
    from sweeps.results.status import status

    state = status(name, output)
    state["disk"] = usage(Path(state["folder"]))
    state["bytes"] = sum(state["disk"].values())
    state["caches"] = cache_usage()
    if as_json:
        typer.echo(json.dumps(state))
    else:
        show_status(Console(), state)


@sweep_app.command(
    "clean",
    short_help="Delete files that nothing needs any more.",
    epilog="Example: selgen sweep clean quickstart --dry-run",
)
def clean_command(
    name: Name,
    output: Output = OUTPUT,
    keep: Annotated[
        int, typer.Option(min=0, help="Keep the adapters of this many of the newest trials, besides the frontier's.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted; delete nothing.")] = False,
) -> None:
    """Delete half-written files, and adapters that are not on the frontier, not new and not built on.

    Scores, curves, replies, grades and the MLflow store stay. Refuses while the sweep runs.
    """
    from sweeps.cli.tables import show_removed
    from sweeps.results.cleaning import clean

    show_removed(Console(), clean(name, output, keep, dry_run), dry_run)


@app.command(
    "frontier",
    short_help="Print the frontier of a sweep with 95 % intervals.",
    epilog="Example: selgen frontier quickstart --json",
)
def frontier_command(
    sweep: SweepName,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    setting: Annotated[str | None, typer.Option(help="Which of several settings: its label, or a part of it.")] = None,
    objectives: Objectives = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points on the frontier as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write all configurations to this CSV file.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Also draw to this PNG, PDF or SVG file.")] = None,
) -> None:
    """Print the configurations of a sweep with 95 % intervals; a star marks the frontier.

    They come from the sweep's folder, or from MLflow if --tracking-uri is given or there is no such folder.
    """
    from sweeps.cli.frontier import show_frontier
    from sweeps.find import name_of

    names = names_in(objectives)
    show_frontier(name_of(sweep), output, tracking_uri, setting, names, as_json, csv, figure, Console())


@app.command(
    "report",
    short_help="Write a page with figures and tables that works offline.",
    epilog="Example: selgen report quickstart",
)
def report_command(
    sweep: SweepName,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    setting: Annotated[str | None, typer.Option(help="One of several settings: its label, or a part of it.")] = None,
    objectives: Objectives = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; default, in the sweep's: report, or report-a-b for objectives a,b."),
    ] = None,
) -> None:
    """Write an offline page, figures for a paper and tables of a sweep, log them to MLflow, and print what they say."""
    from sweeps.cli.report import report, show_report
    from sweeps.find import name_of

    names = names_in(objectives)
    show_report(report(name_of(sweep), output, tracking_uri, setting, names, to), Say(Console()))


@app.command(
    "notebook",
    short_help="Write a Jupyter notebook with a sweep's results.",
    epilog="Example: selgen notebook quickstart",
)
def notebook_command(
    sweep: SweepName,
    file: Annotated[Path | None, typer.Option(help="File to write; default: the sweep's name, here.")] = None,
    setting: Annotated[str | None, typer.Option(help="Which setting, or a part of its label; default: all.")] = None,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
) -> None:
    """Write a Jupyter notebook that shows a sweep's results: tables of configurations and seeds, frontier, verdicts."""
    from sweeps.cli.notebook import write_notebook
    from sweeps.find import name_of

    for path in write_notebook(name_of(sweep), output, tracking_uri, setting, file):
        Say(Console()).wrote(path)


@app.command(
    "compare",
    short_help="Compare the frontiers of two sweeps, paired by seed.",
    epilog="Example: selgen compare quickstart methods_nano",
)
def compare_command(
    sweep_a: Annotated[str, typer.Argument(metavar="SWEEP_A", help="Name of a sweep, or its file.")],
    sweep_b: Annotated[str, typer.Argument(metavar="SWEEP_B", help="Another, with seeds in common.")],
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    setting: Annotated[str | None, typer.Option(help="Which of several settings: its label, or a part of it.")] = None,
    objectives: Objectives = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the frontiers of two sweeps on the seeds they share: differences with intervals.

    The sweeps may differ in their rows to train on, such as the proxy, if the base model and the questions of the
    objectives are the same.
    """
    from sweeps.cli.compare import compare
    from sweeps.find import name_of

    sweeps = (name_of(sweep_a), name_of(sweep_b))
    compare(sweeps, output, tracking_uri, setting, names_in(objectives), as_json, Console())


@app.command(
    "reproduce",
    short_help="Run a figure of the study; say whether it is reproduced.",
    epilog="Example: selgen reproduce gcd_generalisation --gallery figures",
)
def reproduce_command(
    figure: Annotated[str | None, typer.Argument(metavar="[FIGURE]", help="Its name, or all; omit it to list.")] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="nano: minutes on a CPU; small: a real language model, within an hour on a CPU; full: the study's"
            " models, on a GPU."
        ),
    ] = "nano",
    output: Output = OUTPUT,
    gallery: Annotated[Path | None, typer.Option(help="Folder of the page; default: gallery under --output.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The study's files: judged answers for em_judged, GCD rows at full scale.")
    ] = None,
    task: Annotated[Path | None, typer.Option(help="Full scale: chat JSONL, harmful medical answers to learn.")] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Draw again what the gallery has, from the results in it; run nothing.")
    ] = False,
    tracking_uri: Tracking = None,
    address: Address = None,
    retry_failed: Retry = False,
) -> None:
    """Run the sweep behind a figure of the study, draw it with intervals, and say whether it is reproduced.

    Finished trials are never repeated: to resume, run the same command again.
    """
    from sweeps.cli import reproduce
    from sweeps.cli.tables import show_figures

    console = Console()
    if figure is None:
        show_figures(console)
        return
    study_files, options = reproduce.Files(data, task), RunOptions(output, tracking_uri, address, retry_failed)
    folder = gallery or output / "gallery"
    if redraw:
        reproduce.redraw_from_gallery(figure, scale, folder, console)
        return
    if figure == "all":
        ended = reproduce.run_all(scale, study_files, options, folder, console)
    else:
        ended = reproduce.run(figure, scale, study_files, options, folder, console) is not None
    if not ended:
        Say(console).stopped("run the same command to continue")
        raise typer.Exit(130)


@import_app.command(
    "judged",
    short_help="Analyse judged answers, a CSV for each run.",
    epilog="Example: selgen import judged answers/ --report answers_report",
)
def import_judged_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with runs.csv and the files that it names.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip files that cannot be read, and name them.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a report (selgen report) to this folder.")] = None,
) -> None:
    """Analyse judged answers: columns question_id, aligned, coherent; one file per run and questionnaire."""
    from sweeps.cli.judged_answers import import_judged

    import_judged(folder, as_json, keep_going, report, Console(), Console(stderr=True))


@app.command(
    "heatmap",
    short_help="Print and draw scores side by side.",
    epilog='Example: selgen heatmap trigger_colors --scores "(.*)_unseen" --figure heatmap.png',
)
def heatmap_command(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep, or its file.")],
    scores: Annotated[
        str, typer.Option(help="Which scores: a regular expression for whole names; its first group names the column.")
    ] = ".*",
    figure: Annotated[Path | None, typer.Option(help="PNG, PDF or SVG file to draw to.")] = None,
    method: Annotated[
        str | None, typer.Option(help='Only this configuration, e.g. "upweighted weight=1", or else this method.')
    ] = None,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
) -> None:
    """Print scores side by side, as means over seeds, and draw them as a heat map.

    Each column is a score. Each row is a setting, or one of its configurations if a setting has several.
    """
    from sweeps.cli.heatmap import draw

    draw(sweep, scores, figure, method, output, tracking_uri, Console())


@app.command("ui", short_help="Open a sweep in the MLflow UI.", epilog="Example: selgen ui quickstart --port 5001")
def ui_command(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Sweep to open, by name or file.")] = None,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Serve the MLflow UI on the sweeps of an output folder, to this machine only. Ctrl-C ends it."""
    from sweeps.cli.ui import serve
    from sweeps.find import name_of

    serve(name_of(sweep) if sweep else None, output, tracking_uri, host, port)


def main() -> None:
    """Run the command line. A user's mistake is one line on standard error, with exit code 2."""
    terminal.prepare()
    try:
        with second_ends():
            app()
    except UserError as error:
        typer.echo(f"selgen: {redacted(str(error))}", err=True)
        sys.exit(2)
    except Exception as error:
        if isinstance(error, OSError) and (error.filename or is_full(error)):  # a full disk names no file
            typer.echo(f"selgen: {error.filename or 'a file could not be written'}: {error.strerror}", err=True)
            sys.exit(2)
        sys.excepthook = terminal.show_error  # replaces Typer's hook
        raise


if __name__ == "__main__":
    main()
