"""What `selgen settings` prints: all settings, the options of one, and one in full."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from rich.console import Console
from rich.table import Table

from settings import catalog
from settings.common.errors import UserError
from settings.model_files import check_model
from settings.setting import Evaluation, Setting
from settings.vocabulary import check_words
from sweeps.cli.looking.described import show_described
from sweeps.cli.say import Say
from sweeps.cli.tables import show_cautions


def show_named(console: Console, name: str, given: Mapping[str, Any]) -> None:
    """Print a setting built with the options given, and its options.

    The options are printed even if the setting cannot be built: at each scale, or at the chosen one if any are given.

    Raise UserError if the setting cannot be built from the options given, or its model cannot read its words. Without
    options, only say which it needs.
    """
    try:
        built = catalog.build(name, catalog.absolute(name, given))
    except UserError as error:
        show_options(console, name, given)
        if given or not isinstance(error, catalog.MissingOptionError):
            raise
        missing = " ".join(f"--option {option}=..." for option in error.options)
        scales = [] if ":" in name else [*catalog.scales(name)][1:]
        others = f"; --option scale={scales[0]} may need fewer" if scales else ""
        Say(console).note(f"give {missing} to build it and see its rows{others}")
        return
    show_setting(console, built)
    show_options(console, name, given)
    check_model(built.base_model)
    check_words(built)


def show_settings(console: Console) -> None:
    """Print all settings."""
    rows = [(name, ", ".join(catalog.scales(name)), catalog.description(name)) for name in catalog.names()]
    show_described(console, "settings", ("name", "scales, default first", "what"), rows)
    Say(console).note("its options, rows and scores: selgen settings NAME")


def show_options(console: Console, name: str, given: Mapping[str, Any]) -> None:
    """Print the options of a setting, default and meaning: at each scale, or at that of the options given."""
    builders = {"": catalog.function_of_file(name)} if ":" in name else catalog.scales(name)
    default_scale = next(iter(builders))
    chosen = (given.get("scale") or default_scale) if given else None
    for scale, builder in builders.items():
        if chosen in list(builders) and scale != chosen:
            continue
        is_default = " (default)" if scale == default_scale else ""
        title = f"\noptions at scale {scale!r}{is_default}" if scale else "\noptions"
        rows = [(option.name, _default(option), option.doc) for option in catalog.options_of(builder)]
        show_described(console, title, ("option", "default", "what"), rows)


def _default(option: catalog.Option) -> str:
    return "(required)" if option.default is Parameter.empty else _short(repr(option.default))


def show_setting(console: Console, setting: Setting) -> None:
    """Print one setting in full: rows, evaluations, scores."""
    say = Say(console)
    say.prose(f"{setting.name} ({setting.scale})\n", style="bold")
    say.prose(setting.summary)
    table = Table(box=None, padding=(0, 2), title="\nrows", title_justify="left")
    for column in ("stream", "rows", "first prompt", "first response"):
        table.add_column(column, overflow="fold")
    for stream, rows in setting.streams.items():
        table.add_row(stream, str(len(rows)), _short(rows[0].prompt[-1].content), _short(rows[0].response))
    console.print(table)
    say.prose(f"{setting.proxy_share:.1%} of the training rows are alignment rows")
    say.prose("no training row has the prompt of an evaluated row")
    show_cautions(setting, console)
    evaluations = Table(box=None, padding=(0, 2), title="\nevaluations", title_justify="left")
    for column in ("evaluation", "rows", "observed", "first prompt", "right answer"):
        evaluations.add_column(column, overflow="fold")
    for evaluation in setting.evaluations:
        first = evaluation.examples[0]
        row = (evaluation.name, str(len(evaluation.examples)), _observed(evaluation))
        evaluations.add_row(*row, _short(first.prompt[-1].content), _short(first.response))
    console.print(evaluations)
    show_described(console, "\nscores", ("score", "kind", "better", "questions", "what"), _score_rows(setting))
    say.prose("* optimised by default\n")
    for name, text in setting.instructions.items():
        say.prose(f"instruction, {name}: {text}")
    for source in setting.sources:
        say.prose(f"source: {source}")
    say.note(f"fingerprint: {setting.fingerprint()}")


def _score_rows(setting: Setting) -> list[tuple[str, ...]]:
    """Return what is said of each score."""
    asked = {
        score.name: str(sum(map(score.applies, evaluation.examples)))
        for evaluation in setting.evaluations
        for score in evaluation.scores
    }
    rows: list[tuple[str, ...]] = []
    for score in setting.all_scores:
        mark = "*" if score.name in setting.objectives else ""
        better = "higher" if score.higher_is_better else "lower"
        rows.append((f"{score.name}{mark}", score.kind, better, asked.get(score.name, ""), score.description))
    return rows


def _observed(evaluation: Evaluation) -> str:
    """Say what is observed of a model, and how."""
    if evaluation.observe == "token_loss":
        return "loss in nats per token"
    if evaluation.compares:
        replies = sum(1 + len(example.alternatives) for example in evaluation.examples)
        likelihoods = f"log-likelihoods of {replies} replies"
        if not evaluation.generates:
            return likelihoods
        return f"{likelihoods}, and {_replies(evaluation)}"
    return _replies(evaluation)


def _replies(evaluation: Evaluation) -> str:
    """Say how a model's replies are sampled."""
    how = "greedy" if evaluation.temperature == 0 else f"temperature {evaluation.temperature:g}"
    nucleus = f", top-p {evaluation.top_p:g}" if evaluation.top_p < 1 else ""
    judge = f", judged by {evaluation.judge}" if evaluation.judge else ""
    return f"replies of at most {evaluation.max_new_tokens} tokens, {how}{nucleus}{judge}"


def _short(text: str, length: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."
