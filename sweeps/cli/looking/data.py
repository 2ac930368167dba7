"""`selgen data`: how a file of rows is read, before it becomes part of a setting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from settings import catalog
from settings.chat_files.rows import opened_by
from settings.common import checks
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from settings.rows import facts
from settings.rows.source import SourceRows
from settings.small_models import SMOLLM2, TEMPLATE, system_turn
from settings.tokenizer import load_tokenizer
from sweeps.cli.looking.sources import read_against, read_file

FEW = 3  # places listed in a line
SETTING = "chat_files"  # whose scales say how rows are encoded


@dataclass(frozen=True)
class Look:
    """What to show of a file of rows, as the command line says it.

    Attributes:
        file: file of rows, or with `split` a data set on the Hub.
        against: files that must share no prompt with it, e.g. held-out rows.
        columns, against_columns: "prompt=question", for `file` and for `against`; see `settings.rows.source`.
        questions: read it as questions with several replies, see `settings.preferences`.
        scale: encode rows as `chat_files` does at this scale.
        model: Hub id or directory of the tokenizer; None is the model of scale "small", if it is on this machine.
        max_length: longest row in tokens; None is the default of the scale.
        rows: number of rows to show as tokens.
    """

    file: str
    against: Sequence[str] = ()
    columns: Sequence[str] = ()
    against_columns: Sequence[str] = ()
    split: str | None = None
    questions: bool = False
    scale: str = "full"
    model: str | None = None
    max_length: int | None = None
    rows: int = 2


def show_data(look: Look, as_json: bool, console: Console) -> None:
    """Print how a source is read: forms, turns, tags, lengths in tokens, what is cut, what repeats, the first rows.

    Raise UserError.
    """
    checks.one_of("--scale", look.scale, list(catalog.scales(SETTING)))
    if look.against_columns and not look.against:
        raise UserError("--against-columns is for the files of --against, and there are none")
    defaults = _defaults(look.scale)
    read = read_file(look.file, look.split, look.columns, look.questions)
    encoder = _encoder(look.model, look.max_length or defaults["max_length"], defaults.get("template_options", {}))
    opened = opened_by(read.examples, system_turn(defaults.get("system", TEMPLATE)))
    measured = facts.token_facts(opened, encoder) if encoder else None
    others = {other: read_against(other, look.against_columns) for other in look.against}
    leaks = {other: facts.shared(read.examples, rows.examples) for other, rows in others.items()}
    again = facts.repeated(read.examples)
    if as_json:
        data = {
            "source": read.name,
            "rows": len(read.examples),
            "read_from": dict(read.read_from),
            "pairs": sum(bool(row.alternatives) for row in read.examples),
            "turns": dict(facts.turns(read.examples)),
            "tags": facts.tags(read.examples),
            "scale": look.scale,
            "tokens": measured and measured.to_json(),
            "repeated_prompts": again,
            "shared_prompts": leaks,
        }
        console.print_json(json.dumps(data))
        return
    _print_rows(read, "questions" if look.questions else "rows", console)
    if measured is None:
        console.print(f"tokens: not counted; name a model, --model DIR_OR_HUB_ID ({SMOLLM2.title} is not fetched yet)")
    else:
        _print_tokens(measured, look.model or SMOLLM2.title, console)
        if look.model is None and look.scale != "small":
            told = f"{SETTING} at scale small reads rows differently: see it with --scale small"
            console.print(f"  {told}", highlight=False, soft_wrap=True)
    _print_repeats(again, leaks, console)
    for row in opened[: look.rows] if encoder else ():
        _print_row(row, encoder, console)  # type: ignore[arg-type]


def _defaults(scale: str) -> dict[str, Any]:
    """Return the options of the setting of own rows at a scale, with their defaults."""
    return {option.name: option.default for option in catalog.options_of(catalog.scales(SETTING)[scale])}


def _encoder(model: str | None, max_length: int, template_options: Mapping[str, Any]) -> Encoder | None:
    if model is None and not SMOLLM2.is_fetched:
        return None
    return Encoder(load_tokenizer(model or SMOLLM2.source), template_options, max_length)


def _print_rows(read: SourceRows, what: str, console: Console) -> None:
    chats = len(read.examples) - sum(read.read_from.values())
    forms = [f"{number} from {fields}" for fields, number in read.read_from.items()]
    forms += [f"{chats} from 'messages'"] if chats else []
    console.print(f"{read.name}: {len(read.examples)} {what}, {', '.join(forms)}", highlight=False, soft_wrap=True)
    for roles, number in facts.turns(read.examples).items():
        console.print(f"  {number} x {roles}", highlight=False, soft_wrap=True)
    for others, number in sorted(Counter(len(row.alternatives) for row in read.examples).items()):
        if others:
            told = "a rejected reply" if others == 1 else f"{others} rejected replies"
            console.print(f"  {number} with {told}", highlight=False, soft_wrap=True)
    for name, values in facts.tags(read.examples).items():
        listed = ", ".join(f"{value} ({number})" for value, number in values.items())
        console.print(f"  tag {name}: {listed}", highlight=False, soft_wrap=True)


def _print_tokens(measured: facts.TokenFacts, model: str, console: Console) -> None:
    console.print(f"tokens of {model}, at most {measured.max_length} a row:", highlight=False, soft_wrap=True)
    for what, lengths in (("prompts", measured.prompts), ("responses", measured.responses)):
        if lengths:
            least, middle, most = lengths
            console.print(f"  {what}: {least} to {most}, median {middle:g}", highlight=False, soft_wrap=True)
    problems: Sequence[tuple[str, Mapping[str, Any]]] = (
        ("responses are cut, tokens lost", measured.cut),
        ("prompts leave no room for a response, tokens", measured.long),
        ("rows cannot be written by the chat template", measured.broken),
    )
    for what, places in problems:
        if places:
            console.print(f"  {len(places)} {what}: {_listed(places)}", highlight=False, soft_wrap=True)


def _listed(places: Mapping[str, Any]) -> str:
    told = [f"{place} ({value})" for place, value in list(places.items())[:FEW]]
    return ", ".join(told) + (f", and {len(places) - FEW} more" if len(places) > FEW else "")


def _print_repeats(
    again: Mapping[str, Sequence[str]], leaks: Mapping[str, Mapping[str, str]], console: Console
) -> None:
    number = sum(map(len, again.values()))
    if number:
        listed = _listed({place: ", ".join(others[:FEW]) for place, others in again.items()})
        console.print(f"prompts that repeat an earlier row: {number}, e.g. {listed}", highlight=False, soft_wrap=True)
    for other, places in leaks.items():
        told = f"{len(places)}, e.g. {_listed(places)}" if places else "none"
        console.print(f"prompts that are also in {Path(other).name}: {told}", highlight=False, soft_wrap=True)


def _print_row(row: Example, encoder: Encoder, console: Console) -> None:
    """Print a row's tokens; those that are learned come in bold, after an arrow. Rejected replies follow it."""
    try:
        good, *rejected = map(encoder.row, row.replies)
    except UserError as error:
        console.print(f"{row.place}: {error}", highlight=False, soft_wrap=True)
        return
    text = Text(f"{row.place}: ")
    text.append(_tokens(good.ids[: good.prompt_length], encoder), style="dim")
    text.append(" -> ")
    text.append(_tokens(good.ids[good.prompt_length :], encoder), style="bold")
    for reply in rejected:
        text.append(f"\n  rejected -> {_tokens(reply.ids[reply.prompt_length :], encoder)}")
    console.print(text, soft_wrap=True)


def _tokens(ids: Sequence[int], encoder: Encoder) -> str:
    return "|".join(encoder.tokenizer.decode([token]).replace("\n", "\\n") for token in ids)
