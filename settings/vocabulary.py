"""Check that a nano model can learn to answer, and can read a setting's rows: its vocabulary is closed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from settings.base_models import ASSISTANT, END, MARKS, USER, NanoModel
from settings.common.errors import UserError
from settings.example import Example
from settings.setting import Setting

NAMED = 10  # words that a message names with their places
DOCUMENTS_READ = 4096  # at most; the first with a turn ends the reading


def check_words(setting: Setting, instructions: Collection[str] | None = None) -> None:
    """Raise UserError for words of rows, questions or instructions that the vocabulary of a nano world lacks.

    Do nothing if the setting has another kind of base model.

    Args:
        instructions: names of those that are put before rows; None means all.
    """
    if not isinstance(setting.base_model, NanoModel):
        return
    world = setting.base_model.world
    known = {*MARKS, *world.vocabulary}
    places: dict[str, list[str]] = {}
    for place, text in _texts(setting, instructions):
        for word in dict.fromkeys(text.split()):
            if word not in known:
                places.setdefault(word, []).append(place)
    if places:
        named = [f"{word!r} ({_where(at)})" for word, at in list(places.items())[:NAMED]]
        more = [f"{len(places) - NAMED} more words"] if len(places) > NAMED else []
        raise UserError(
            f"setting {setting.name!r}: the vocabulary of its world {type(world).__name__} lacks"
            f" {', '.join([*named, *more])}; use other words, or add these to the world's `vocabulary`"
        )


def _texts(setting: Setting, instructions: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """Yield (place, text) for all that the model reads."""
    for stream, rows in setting.streams.items():
        for number, row in enumerate(rows, start=1):
            yield row.place or f"{stream} row {number}", _text(row)
    for asked in setting.evaluations:
        for number, row in enumerate(asked.examples, start=1):
            alternatives = row.alternatives if asked.compares else ()
            place = row.place or f"row {number} of evaluation {asked.name!r}"
            yield place, " ".join((_text(row), *alternatives))
    for name, text in setting.instructions.items():
        if instructions is None or name in instructions:
            yield f"instruction {name!r}", text


def _text(row: Example) -> str:
    return " ".join((row.instruction, *(message.content for message in row.messages)))


def _where(places: list[str]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"


def check_documents(model: NanoModel) -> None:
    """Raise UserError if the last stage's documents have no turns: the model would never learn to answer."""
    if not model.stages:
        return
    stage, world = model.stages[-1].name, model.world
    last = ""
    for last in islice(world.documents(stage, model.seed), DOCUMENTS_READ):
        if _has_turn(last.split()):
            return
    raise UserError(
        f"world {type(world).__name__}: none of the first documents of the last stage, {stage!r}, has a turn, so the"
        f" model would not learn to answer; write them as `{USER} question {ASSISTANT} answer {END}`, unlike"
        f" {last[:60]!r}"
    )


def _has_turn(words: list[str]) -> bool:
    """Return whether a document has a question, an answer to it, and the answer's end, in this order."""
    rest = iter(words)
    return all(mark in rest for mark in (USER, ASSISTANT, END))
