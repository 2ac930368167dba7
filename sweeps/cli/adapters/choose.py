"""The recommended configuration of a sweep, as `selgen choose` prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.findings.choice import Limit, choice_table, choose_configuration
from analysis.tables.scores import Objective
from settings.common.errors import UserError
from sweeps.cli.say import Say, command
from sweeps.results.from_ledger import LedgerReader
from sweeps.results.readers import open_sweep, unfinished_note


def limits_of(at_least: Sequence[str], at_most: Sequence[str]) -> list[Limit]:
    """Read limits written as SCORE=NUMBER. Raise UserError."""
    limits = []
    for option, texts in (("--min", at_least), ("--max", at_most)):
        for text in texts:
            name, _, number = text.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not name or not math.isfinite(value):
                raise UserError(f"{option} {text!r} must be SCORE=NUMBER, e.g. {option} alignment=0.9")
            limits.append(Limit(name.strip(), value, option == "--min"))
    return limits


def doubt(limit: Limit, score: Objective) -> str:
    """Return a question about a limit that bounds the better end of its score; "" for any other."""
    if limit.at_least == score.higher_is_better:
        return ""
    better, option = ("higher", "--min") if score.higher_is_better else ("lower", "--max")
    return f"{better} is better for {score.name}: did you mean {option} {score.name}={limit.value:g}?"


def show_choice(
    sweep: str,
    texts: tuple[Sequence[str], Sequence[str]],
    confidence: float,
    best: str | None,
    output: Path,
    tracking_uri: str | None,
    setting: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """Print the choice. Raise UserError."""
    limits = limits_of(*texts)
    reader = open_sweep(sweep, output, tracking_uri)
    if best is None:
        best = reader.load(setting).objectives[0].name
    names = list(dict.fromkeys([best, *(limit.score for limit in limits)])) if limits else None
    loaded = reader.load(setting, names)
    say = Say(console)
    for limit in limits if not as_json else ():
        if warning := doubt(limit, loaded.table.objectives[loaded.table.index(limit.score)]):
            say.warn(warning)
    chosen = choose_configuration(loaded.table, best, limits, confidence, loaded.base_scores)
    if as_json:
        data = {"sweep": sweep, "setting": loaded.setting, **chosen.to_json()}
        console.file.write(json.dumps(data, allow_nan=False) + "\n")
        return
    title = f"{sweep}: {loaded.setting}" if loaded.setting else sweep
    if chosen.note:
        say.prose(chosen.note, style="bold")
    console.print(choice_table(chosen, title, width=console.width, base=loaded.base_scores))
    if not chosen.note:
        say.prose(chosen.verdict, style="bold")
    for remark in chosen.remarks:
        say.prose(remark)
    if note := unfinished_note(reader, loaded.counts["running"]):
        say.warn(note)
    if chosen.taken is not None and isinstance(reader, LedgerReader):  # adapters are in the folder of a sweep
        which = f" {command('--setting', loaded.setting)}" if len(reader.labels) > 1 else ""
        export = command("selgen", "export", sweep, chosen.taken.title)
        say.note(f"write its adapter to DIR: {export} DIR {command('--output', output)}{which}")
