"""Several judges' grades of a sweep's kept replies, as `selgen judge compare` prints them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings.frontier import Estimate
from analysis.findings.judges import JudgeComparison, write_comparison
from analysis.statistics.arrays import number_text
from analysis.tables.loaded_sweep import choose_setting
from settings.common.errors import UserError
from settings.common.files import cache_root
from settings.judge import Judge, JudgeOptions, Request
from settings.judge.price import most_dollars_of
from settings.setting import Verdict
from sweeps.cli.say import Say
from sweeps.names import folder_of
from sweeps.results.from_ledger import LedgerReader, is_readable
from sweeps.results.judge_comparison import compare_kept, judged_setting, judges_of, kept_models, requests_about
from sweeps.search.judging import Judges
from trainables.folder import SweepFolder

CAPTION = """bias: how much higher its grades are, of 100; same side: of the threshold in brackets; kappa: beyond
chance; [95 % interval over questions]; replies: graded by both (number of questions)"""
SIGNS = {True: "yes", False: "no"}


def compare(
    sweep: str,
    models: Sequence[str],
    setting: str | None,
    options: JudgeOptions,
    prices: Mapping[str, tuple[float, float]],
    output: Path,
    as_json: bool,
    console: Console,
    errors: Console,
) -> None:
    """Print how several judges grade a sweep's kept replies, and save it in the sweep's folder. Raise UserError.

    Args:
        models: the judges' models; before a single one, the sweep's own judge comes first.
        prices: model -> dollars per million tokens read and written, if not the usual ones.
        errors: console for costs and cautions.
    """
    folder = folder_of(sweep, output)
    if not is_readable(folder):
        raise UserError(f"no sweep {sweep!r} has run under {output.resolve()}; replies are kept in its folder")
    reader = LedgerReader.open(folder)
    label = choose_setting(reader.labels, sweep, setting)
    built = judged_setting(reader, label)
    names = judges_of(built, label, models)
    kept, left_out = kept_models(reader, label, built)
    graded = _grade(requests_about(built, kept), _options_of(names, options, prices), errors)
    comparison = compare_kept(reader.description.setting(label).objectives, label, built, kept, graded, left_out)
    file = SweepFolder(folder).judges / f"{re.sub('[^A-Za-z0-9._-]+', '_', label)}.json"
    write_comparison(file, comparison)
    for caution in comparison.cautions:
        Say(errors).warn(f"caution: {caution}")
    if as_json:
        console.file.write(json.dumps(comparison.to_json(), allow_nan=False) + "\n")
    else:
        show(comparison, console)
        Say(console).wrote(file)


def prices_of(pairs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Read `MODEL=IN,OUT`. Raise UserError."""
    prices = {}
    for pair in pairs:
        model, _, numbers = pair.rpartition("=")
        try:
            price_in, price_out = map(float, numbers.split(","))
        except ValueError:
            price_in = price_out = math.nan
        if not model or not (math.isfinite(price_in + price_out) and min(price_in, price_out) >= 0):
            raise UserError(f"--price must be MODEL=IN,OUT, in dollars per million tokens, got {pair!r}")
        prices[model] = price_in, price_out
    return prices


def _options_of(
    names: Sequence[str], options: JudgeOptions, prices: Mapping[str, tuple[float, float]]
) -> dict[str, JudgeOptions]:
    """Return each judge's options. Raise UserError for a price of no judge, or a dollar limit without a price."""
    for model in prices.keys() - set(names):
        raise UserError(f"--price names {model!r}; the judges are {', '.join(names)}")
    unpriced = [name for name in names if name not in prices]
    if options.max_dollars is not None and len(names) > 1 and unpriced:
        raise UserError(f"--max-dollars needs the price of each judge: --price {unpriced[0]}=IN,OUT")
    usual = options.input_price, options.output_price
    pairs = {name: prices.get(name, usual) for name in names}
    return {name: replace(options, input_price=pair[0], output_price=pair[1]) for name, pair in pairs.items()}


def _grade(
    requests: Sequence[Request], options_of: Mapping[str, JudgeOptions], errors: Console
) -> dict[str, list[Verdict]]:
    """Have all judges answer all requests, and say what that costs. Raise UserError."""
    different = set(requests)
    say, graded = Say(errors), {}
    for name, options in options_of.items():
        price = f"${options.input_price:g} and ${options.output_price:g} per million tokens read and written"
        dollars = most_dollars_of(different, options)
        say.prose(
            f"{len(different)} verdicts of {name}, about ${dollars:.2g} if none is cached, at {price};"
            " reasoning is extra"
        )
    for name, options in options_of.items():
        with closing(Judges(options, cache_root() / "verdicts.db")) as judges:
            judge: Judge = judges(name)
            with errors.status(name) as status:
                graded[name] = judge.ask(requests, _progress(status.update, name))
            if all(verdict.kind == "missing" for verdict in graded[name]):
                raise UserError(f"judge {name}: no readable verdict on any of {len(requests)} replies")
            if judge.usage.calls:
                say.prose(judge.check(requests[0][0]))
            say.prose(judges.usage)
    return graded


def _progress(show: Callable[[str], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: show(f"{name}: {done}/{total} verdicts")


def show(comparison: JudgeComparison, console: Console) -> None:
    """Print agreement, bias by method, the front's members, and which results survive."""
    console.print(_agreement_table(comparison))
    console.print(_bias_table(comparison))
    console.print(_front_table(comparison))
    say = Say(console)
    for line in comparison.lines:
        say.prose(line)
    if not comparison.pushes:
        say.note("no verdict on beating the controls: that needs controls, two seeds, and two or three objectives")
    missing = [each for each in comparison.agreements if each.missing or each.missing_first]
    for each in missing:
        first = f"{each.missing_first} by {comparison.judges[0]}"
        say.warn(f"without a grade, {each.rubric}: {each.missing} by {each.judge}, {first}")
    for line in comparison.left_out:
        say.warn(f"left out: {line}")


def _agreement_table(comparison: JudgeComparison) -> Table:
    table = _table(f"{comparison.setting}: against {comparison.judges[0]}", CAPTION)
    for column in ("judge", "rubric"):
        table.add_column(column, overflow="fold")
    table.add_column("replies", justify="right")
    for column in ("bias", "same side", "kappa"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in comparison.agreements:
        cells = [_cell(each.bias, 1), _cell(each.same_side, 2), _cell(each.kappa, 2)]
        table.add_row(each.judge, f"{each.rubric} ({each.threshold:g})", f"{each.replies} ({each.questions})", *cells)
    return table


def _bias_table(comparison: JudgeComparison) -> Table:
    """Return a table with a row for each judge and method, and a column for each rubric."""
    table = _table("bias on the replies of each method's models", "")
    for column in ("judge", "replies of"):
        table.add_column(column, overflow="fold")
    rubrics = list(dict.fromkeys(each.rubric for each in comparison.agreements))
    for rubric in rubrics:
        table.add_column(rubric, justify="right", no_wrap=True)
    for judge in comparison.judges[1:]:
        of_judge = {each.rubric: each.bias_of for each in comparison.agreements if each.judge == judge}
        for method in dict.fromkeys(method for biases in of_judge.values() for method in biases):
            cells = [_cell(of_judge[rubric][method], 1) if method in of_judge[rubric] else "" for rubric in rubrics]
            table.add_row(judge, method, *cells)
    return table


def _cell(estimate: Estimate, digits: int) -> str:
    ends = f"[{number_text(estimate.low, digits)}, {number_text(estimate.high, digits)}]"
    return f"{number_text(estimate.mean, digits)} {ends}"


def _front_table(comparison: JudgeComparison) -> Table:
    table = _table("members of the front under any judge", "on the front, P(front), and the objectives by each judge")
    table.add_column("configuration", overflow="fold")
    for judge in comparison.judges:
        table.add_column(judge, overflow="fold", justify="right")
    for point in comparison.members:
        cells = []
        for judge in comparison.judges:
            means = ", ".join(number_text(point.scores[judge][name].mean) for name in comparison.objectives)
            p_front = point.p_front[judge]
            p = "" if math.isnan(p_front) else f" {p_front:.0%}"
            cells.append(f"{SIGNS[point.on_front[judge]]}{p}: {means}")
        table.add_row(point.title, *cells, style="bold" if point in comparison.surviving else "")
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(title=title, title_justify="left", caption=Text(caption), caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, (0, 1, 0, 0)
    return table
