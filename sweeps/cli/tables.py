"""What `selgen methods`, `selgen settings` and `selgen sweep plan` print. Methods need torch: late imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import getdoc
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from settings.common.addresses import without_user
from settings.common.errors import UserError
from settings.common.shared_files import FOLDER_BYTES
from settings.common.text import listed
from sweeps.cli.say import Say

if TYPE_CHECKING:
    from analysis.study.gallery import Entry
    from settings.setting import Setting
    from sweeps.plan import CostEstimate
    from sweeps.planning.spending import BudgetPlan
    from sweeps.results.cleaning import Removable
    from sweeps.sweep import Sweep
    from trainables.method import Method


SHOWN_GIGABYTES = 0.05


def table_of(*columns: str, title: str | None = None) -> Table:
    """Return a table without lines. The first column does not break words."""
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def show_methods(console: Console) -> None:
    """Print all methods, grouped by what they work on: equation, and what a sweep searches."""
    from trainables import methods
    from trainables.method import Kind

    table = table_of("name", "equation", "searched (default; from, to)", title="methods, by what they work on")
    known = {name: methods.get(name) for name in methods.names()}
    for kind in get_args(Kind):
        of_kind = {name: method for name, method in known.items() if method.kind == kind}
        if of_kind:
            table.add_row(Text(f"\n{kind}", style="bold"), "", "")
        for name, method in of_kind.items():
            searched = "\n".join(_coefficients(method, searched=True)) or "nothing"
            table.add_row(f"  {name}", Text(method.equation), searched)
    console.print(table)
    Say(console).note("variants, cost, needs and evidence of a method: selgen methods NAME")


def show_method(console: Console, name: str) -> None:
    """Print one method in full, in any case of its name. Raise UserError, which names methods described with a word."""
    from trainables import methods
    from trainables.method import BatchSizes, step_cost

    names = methods.names()
    name = next((each for each in names if each == name.casefold().replace("-", "_")), name)
    if name not in names and (described := methods.described_with(name)):
        found = listed(described, methods.MENTIONED)
        raise UserError(f"no method is called {name!r}; described with this word: {found}")
    method = methods.get(name)
    Say(console).prose(f"{name}\n", style="bold")
    for line in unwrapped(getdoc(method) or ""):
        text = line.lstrip()
        console.print(Padding(Text(text), (0, 0, 0, len(line) - len(text))))
    default = method()
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_row("coefficients", "\n".join(_coefficients(method)))
    published = ", ".join(f"{key}={value}" for key, value in method.as_published)
    table.add_row("published", f"loss on the whole text{', ' if published else ''}{published}")
    cost = step_cost(default, BatchSizes(2, 1))
    is_of_batches = step_cost(default, BatchSizes(2, 2)) != cost
    rows = ", with an alignment batch half as large as the task batch" if is_of_batches else ""
    table.add_row(
        "cost of a step",
        f"{cost.forwards:.3g} x the forwards, {cost.backwards:.3g} x the backwards and {cost.memory:.3g} x the"
        f" activations of plain{rows}",
    )
    table.add_row(
        "on upper layers",
        'with layers="last N" a step computes N layers and the head, forward and backward; layers below are computed'
        " once for each row. Where padding counts (published definition), it computes all layers",
    )
    table.add_row("needs", "\n".join(_needs(default)))
    table.add_row("works on", method.kind)
    table.add_row("source", Text(method.source))
    table.add_row("evidence", Text(method.evidence or "nothing to cite"))
    console.print()
    console.print(table)


def _needs(method: Method) -> list[str]:
    """Say what a method needs to run."""
    from trainables.method import Method

    needs = [f"{stream} rows" for stream in dict.fromkeys((*method.streams, *method.prepared_streams))]
    needs += [f"the frozen base model's outputs on {stream} rows" for stream in method.reference]
    needs += [f"hidden states of all layers on {stream} rows" for stream in method.layers]
    rewritings = {stream: how for stream in method.streams if (how := method.rewriting(stream))}
    needs += [f"the setting's instruction {how.instruction!r}" for how in rewritings.values() if how.instruction]
    needs += [
        f"the base model's own replies to the prompts of {stream} rows, written once for each seed"
        for stream, how in rewritings.items()
        if how.own_replies
    ]
    hooks = _HOOKS | (
        {"edits": "an edit of the forward pass, in training only"} if method.edits_in_training_only else {}
    )
    needs += [what for hook, what in hooks.items() if _defines(method, hook)]
    if method.trained_as != method:
        needs.append(f"a finished training of {method.trained_as.name}; the method itself trains nothing")
    for number, prior in enumerate(method.priors):
        beneath = method.prior_is_active and number == 0
        where = (
            "beneath the trained one"
            if beneath
            else "seen in every step"
            if method.weights
            else "seen before training"
            if type(method).prepare is not Method.prepare
            else "seen when the training has ended"
        )
        needs.append(f"an adapter trained by {prior.name}, {where}; trained once for all configurations")
    return needs


_HOOKS = {
    "rewriting": "rewritten rows; evaluation rows stay as they are",
    "prepare": "a pass over whole streams before training, computed once and kept",
    "rows_read": "a choice among the rows of a stream",
    "gates": "an even rank of the adapter, whose parts are weighted anew at each step",
    "edits": "an edit of the forward pass; a PEFT checkpoint cannot hold it, so it is kept beside",
    "num_row_groups": "a gradient for each of several losses",
    "initial_state": "a state that is carried from step to step, and kept in checkpoints",
    "finalize": "an edit of the trained adapter wherever it is evaluated or kept",
}


def _defines(method: Method, hook: str) -> bool:
    """Return whether a method overrides a hook of the interface."""
    from trainables.method import Method

    return getattr(type(method), hook) is not getattr(Method, hook)


def _coefficients(method: type[Method], searched: bool = False) -> list[str]:
    from trainables.coefficients import SPACE, OpenSpec, RangeSpec, coefficients

    lines = []
    for item in coefficients(method):
        spec = item.metadata[SPACE]
        if searched and not spec.searched:
            continue
        if isinstance(spec, RangeSpec):
            scale = ", log scale" if spec.log else ""
            lines.append(f"{item.name}: {item.default:g}; {spec.low:g} to {spec.high:g}{scale}")
        elif isinstance(spec, OpenSpec):
            lines.append(f"{item.name}: {item.default}; {spec.what}")
        else:
            lines.append(f"{item.name}: {item.default}; of {', '.join(map(str, spec.options))}")
    return lines


def show_cautions(setting: Setting, console: Console, more: Sequence[str] = ()) -> None:
    """Print how a setting's rows were read, and what the user should know before a sweep."""
    for remark in setting.remarks:
        Say(console).prose(f"{setting.name}: {remark}")
    for caution in (*setting.cautions, *more):
        Say(console).prose(f"caution, {setting.name}: {caution}", style="yellow")


def show_figures(console: Console) -> None:
    """Print the figures of the study and the sweeps behind them."""
    from analysis.study.catalog import FIGURES
    from analysis.study.figure import SweepFigure

    table = table_of("figure", "what", "sweeps", "scales", title="figures")
    for figure in FIGURES:
        if isinstance(figure, SweepFigure):
            scales = "nano, small, full" if figure.small else "nano, full"
            table.add_row(figure.name, figure.title, ", ".join(figure.sweeps), scales)
        else:
            table.add_row(figure.name, figure.title, "none: needs --data DIR", "")
    console.print(table)
    Say(console).note("one of them: selgen reproduce FIGURE; all of them: selgen reproduce all")


def show_outcomes(console: Console, entries: Sequence[Entry]) -> None:
    """Print whether the figures of the study are reproduced."""
    table = table_of("figure", "outcome, and checks that hold", title="figures")
    for entry in entries:
        table.add_row(entry.name, entry.result)
    console.print(table)


def show_plan(console: Console, sweep: Sweep, plan: CostEstimate) -> None:
    """Print what a sweep costs: a row per method, then time and memory."""
    from analysis.statistics.bootstrap import VERDICT_SEEDS
    from sweeps.planning.planned import FOR_OTHERS
    from sweeps.results.running import clock

    columns = ("configurations", "trials", "packs", "training tokens")
    rows = [
        (arm.setting, arm.method, (arm.configurations, arm.trials, arm.packs, f"{arm.tokens:,.0f}"))
        for arm in plan.arms
    ]
    table = arms_table(sweep.name, columns, rows)
    table.add_row("all", "", str(plan.trials), str(plan.packs), f"{plan.tokens:,.0f}", style="bold")
    console.print(table)
    if any(arm.method.endswith(FOR_OTHERS) for arm in plan.arms):
        Say(console).note("for others: trained because the rest is built on them; not counted by selgen sweep status")
    for model in plan.assumed:
        line = (
            f"{model} is not on this machine (the start downloads it; `hf download {model}` does so before): time and"
            " memory are those of a model of 8 billion parameters, and may be far too high"
        )
        Say(console).prose(line, style="yellow")
    how = "by the pace of the trials that have ended" if plan.ended else "a rough guess, until trials have ended"
    where = "on a machine with large GPUs (this one has none)" if plan.gpu_assumed else "on this machine"
    at_a_time = f"{plan.workers} pack{'s' * (plan.workers != 1)} at a time"
    Say(console).prose(
        f"about {clock(plan.seconds)} of training and evaluation with {at_a_time} {where},"
        f" if nothing else runs on it ({how}; not counting installation, Ray's start and pre-training);"
        f" {plan.worker_bytes / 1e9:.1f} GB of memory per worker{_shared(plan)}"
    )
    if plan.prefix_bytes:
        used, limit = f"{plan.prefix_cache_bytes / 1e6:,.0f} MB", f"{FOLDER_BYTES / 1e9:.0f} GB"
        Say(console).prose(
            "the layers below the lowest adapted one are computed once and cached:"
            f" {plan.prefix_bytes / 1e6:,.0f} MB on disk (the cache holds {used} now, and at most {limit})"
        )
    if sweep.replies:
        Say(console).note(
            f"replies in words are sampled by the server at {without_user(sweep.replies.url)}, alongside training; the"
            " time this takes is not counted"
        )
    if sweep.search.front == "cheap":
        Say(console).note(
            'front="cheap": the two ends of each searched range are trained for certain, values between them only where'
            " the front has a gap, so these are upper bounds; blend (METHOD) trains nothing"
        )
    for arm in plan.arms:
        if arm.budget_knobs:
            knobs = " and ".join(arm.budget_knobs)
            Say(console).note(f"{arm.setting}: configurations of {arm.method} differ in {knobs}: unequal budgets")
    if len(sweep.seed_values) < VERDICT_SEEDS:
        Say(console).note(f"fewer than {VERDICT_SEEDS} seeds: no method is compared, and selgen choose makes no choice")
    if plan.budget:
        _show_budget(console, sweep, plan.budget)
    if plan.memory:
        Say(console).prose(f"memory: {plan.memory}", style="yellow")


def _show_budget(console: Console, sweep: Sweep, plan: BudgetPlan) -> None:
    """Say what fits the budget, and which methods are cut."""
    from sweeps.budget import spending_text

    spent = spending_text(plan.spending, sweep.budget, sweep.on_gpu)
    if not plan.exceeded:
        Say(console).prose(f"budget: everything fits: about {spent}")
        return
    fit, total = sum(arm.fits for arm in plan.arms), sum(arm.configurations for arm in plan.arms)
    several = len(sweep.settings) > 1
    cut = [
        f"{f'{arm.setting}: ' if several else ''}{arm.method} {arm.fits} of {arm.configurations}"
        for arm in plan.arms
        if arm.fits < arm.configurations
    ]
    line = f"{fit} of {total} configurations fit, {plan.trials} trials: about {spent}; more would exceed the"
    if not plan.trials:
        line = f"none of {total} configurations fits: about {spent} without them, and any would exceed the"
    Say(console).prose(f"budget: {line} {' and '.join(plan.exceeded)} ({', '.join(cut)})", style="yellow")


def _shared(plan: CostEstimate) -> str:
    shared = plan.shared_bytes / 1e9
    return f", and {shared:.1f} GB for the base models, which workers share" if shared >= SHOWN_GIGABYTES else ""


def show_status(console: Console, state: Mapping[str, Any]) -> None:
    """Print the progress of a sweep: a row per arm, what the user should know, and what its folder holds."""
    arms = state["arms"]
    columns = {name: name for name in ("trials", "finished", "invalid", "failed", "stopped", "left")}
    if any(arm["stopped"] for arm in arms):
        columns["stopped"] = "stopped early"
    else:
        del columns["stopped"]
    rows = [(arm["setting"], arm["title"], [arm[column] for column in columns]) for arm in arms]
    say = Say(console)
    say.note(state["lines"][0])
    console.print(arms_table(state["sweep"], tuple(columns.values()), rows))
    for line in state["lines"][1:]:
        say.note(line)
    for line in state["cautions"]:
        say.warn(f"caution: {line}")
    kinds = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in sorted(state["disk"].items()))
    say.note(f"{state['bytes'] / 1e6:.1f} MB in {state['folder']}: {kinds}")
    if any(state["caches"].values()):
        say.note(f"in caches that all sweeps share: {_caches(state['caches'])}")


def _caches(sizes: Mapping[str, int]) -> str:
    """Say how large the bounded caches are, e.g. "3.1 MB of the base models' outputs (at most 20 GB each; ...)"."""
    from sweeps.results.disk import CACHES

    listed = " and ".join(f"{sizes[name] / 1e6:,.1f} MB of {what}" for name, what in CACHES.items() if sizes[name])
    return f"{listed} (at most {FOLDER_BYTES / 1e9:.0f} GB each; the least recently used entries go first)"


def show_removed(console: Console, removed: Sequence[Removable], dry_run: bool) -> None:
    """Print what was or would be deleted, by folder and reason."""
    if not removed:
        console.print("nothing to delete")
        return
    sizes: dict[str, list[int]] = {}
    for file in removed:
        sizes.setdefault(f"{file.path.parent.name}: {file.reason}", []).append(file.size)
    title = "would be deleted" if dry_run else "deleted"
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for column in ("what", "number", "MB"):
        table.add_column(column, justify="left" if column == "what" else "right", overflow="fold")
    for what, of_kind in sizes.items():
        table.add_row(what, str(len(of_kind)), f"{sum(of_kind) / 1e6:.1f}")
    console.print(table)


def arms_table(sweep: str, columns: Sequence[str], rows: Sequence[tuple[str, str, Sequence[object]]]) -> Table:
    """Return a table with a row per method; several settings each have a row above their methods.

    Args:
        columns: names of the numbers.
        rows: setting, method, numbers.
    """
    settings = list(dict.fromkeys(setting for setting, _, _ in rows))
    several = len(settings) > 1
    title = f"sweep {sweep}" if several else f"sweep {sweep} on {settings[0]}"
    table = Table(box=None, padding=(0, 1), title=title, title_justify="left", caption_justify="left")
    if any(method.endswith("*") for _, method, _ in rows):
        table.caption = "* added as a control: plain fine-tuning, and readouts of it, which train nothing"
    table.add_column("method", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for setting in settings:
        if several:
            table.add_row(Text(setting, style="bold"))
        for _, method, numbers in (row for row in rows if row[0] == setting):
            table.add_row(Text(f"  {method}" if several else method), *map(Text, map(str, numbers)))
    return table


def unwrapped(text: str) -> list[str]:
    """Join the lines of each paragraph and item ("    name: ...") of a docstring, for a terminal of any width."""
    lines: list[str] = []
    indent: int | None = None  # of the line being continued, None if there is none
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        goes_on = indent is not None and line.strip() and (depth == indent == 0 or depth > indent > 0)
        if goes_on:
            lines[-1] += f" {line.strip()}"
            continue
        lines.append(line)
        item = depth > 0 and ":" in line and line.split(":")[0].replace(",", "").replace(" ", "").isidentifier()
        indent = depth if line.strip() and not line.endswith(":") and (depth == 0 or item) else None
    return lines
