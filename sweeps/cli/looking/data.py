"""`selgen data`: how a file of rows is read, before it becomes part of a setting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from settings import catalog
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from settings.options import NO_THINKING
from settings.preferences import read_preferences
from settings.rows import facts
from settings.rows.source import SourceRows, read_source
from settings.small_models import SMOLLM2
from settings.tokenizer import load_tokenizer

FEW = 3  # places listed in a line


def show_data(
    file: str,
    against: Sequence[str],
    columns: Sequence[str],
    split: str | None,
    questions: bool,
    model: str | None,
    max_length: int,
    rows: int,
    as_json: bool,
    console: Console,
) -> None:
    """Print how a source is read: forms, turns, tags, lengths in tokens, what is cut, what repeats, the first rows.

    Args:
        file: file of rows, or with `split` a data set on the Hub.
        against: files that must share no prompt with it, e.g. held-out rows.
        columns: "prompt=question", see `settings.rows.source`.
        questions: read it as questions with several replies, see `settings.preferences`.
        model: Hub id or directory of the tokenizer; None is the model of scale "small", if it is on this machine.
        rows: number of rows to show as tokens.

    Raise UserError.
    """
    source: dict[str, Any] = {"dataset": file, "split": split} if split else {"file": file}
    if columns:
        source["columns"] = dict(_column(pair) for pair in columns)
    read = read_preferences(source, "FILE") if questions else read_source("FILE", source)
    encoder = _encoder(model, max_length)
    measured = facts.token_facts(read.examples, encoder) if encoder else None
    leaks = {other: facts.shared(read.examples, read_source("--against", other).examples) for other in against}
    again = facts.repeated(read.examples)
    if as_json:
        data = {
            "source": read.name,
            "rows": len(read.examples),
            "read_from": dict(read.read_from),
            "pairs": sum(bool(row.alternatives) for row in read.examples),
            "turns": dict(facts.turns(read.examples)),
            "tags": facts.tags(read.examples),
            "tokens": measured and measured.to_json(),
            "repeated_prompts": again,
            "shared_prompts": leaks,
        }
        console.print_json(json.dumps(data))
        return
    _print_rows(read, "questions" if questions else "rows", console)
    if measured is None:
        console.print(f"tokens: not counted; name a model, --model DIR_OR_HUB_ID ({SMOLLM2.title} is not fetched yet)")
    else:
        _print_tokens(measured, model or SMOLLM2.title, console)
        if model is None:
            console.print(f"  {_small_differs()}", highlight=False, soft_wrap=True)
    _print_repeats(again, leaks, console)
    for row in read.examples[:rows] if encoder else ():
        _print_row(row, encoder, console)  # type: ignore[arg-type]


def _column(pair: str) -> tuple[str, str]:
    name, equals, theirs = pair.partition("=")
    if not (name and equals and theirs):
        raise UserError(f"--columns must be like prompt=question, got {pair!r}")
    return name, theirs


def _encoder(model: str | None, max_length: int) -> Encoder | None:
    if model is None and not SMOLLM2.is_fetched:
        return None
    return Encoder(load_tokenizer(model or SMOLLM2.source), NO_THINKING, max_length)


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


def _small_differs() -> str:
    """Say how `chat_files` reads rows for the model whose tokens are counted by default."""
    options = catalog.options_of(catalog.scales("chat_files")["small"])
    length = next(option.default for option in options if option.name == "max_length")
    return (
        "with the chat template's own system turn; chat_files at scale small opens rows with an empty one and cuts at"
        f" {length} tokens"
    )


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
    """Print a row's tokens; those that are learned come in bold, after an arrow."""
    try:
        encoded = encoder.row(row)
    except UserError as error:
        console.print(f"{row.place}: {error}", highlight=False, soft_wrap=True)
        return
    words = [encoder.tokenizer.decode([token]).replace("\n", "\\n") for token in encoded.ids]
    text = Text(f"{row.place}: ")
    text.append("|".join(words[: encoded.prompt_length]), style="dim")
    text.append(" -> ")
    text.append("|".join(words[encoded.prompt_length :]), style="bold")
    console.print(text, soft_wrap=True)
