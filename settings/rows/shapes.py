"""Read rows of other forms as chats (see `settings.sources`), if there is one obvious reading.

    {"prompt": "...", "completion": "..."}                      also 'response' for 'completion'; each a text or turns
    {"instruction": "...", "input": "...", "output": "..."}     Alpaca; 'input' may be empty or left out
    {"question": "...", "answer": "..."}                        also 'input' and 'output', 'query' and 'response'
    {"conversations": [{"from": "human", "value": "..."}, ...]} ShareGPT
    {"prompt": "...", "chosen": "...", "rejected": "..."}       preferences; no 'prompt' needed if both begin with it

A text under 'system' becomes the first turn. Unused fields stay, and become tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from settings.common.errors import UserError
from settings.rows.columns import unknown_form

Turn = Mapping[str, Any]
Fields = dict[str, Any]  # of a row; a reading takes out those that it uses
Reading = Callable[[Fields, str], tuple[list[Turn], tuple[str, ...]]]  # (fields, where) -> turns, other replies

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
FIELDS = tuple(
    dict.fromkeys(
        ("messages", "conversations", "chosen", "rejected", "system", *(name for pair in PAIRS for name in pair))
    )
)
ANY_REPLY = "..."
SPEAKERS: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
SPOKEN = re.compile(r"\n\n(Human|Assistant):")  # a transcript as in Anthropic's hh-rlhf
FORMS = (*PAIRS, ("prompt", "chosen", "rejected"))


@dataclass(frozen=True)
class ChatRow:
    """A row in the form of a chat.

    Attributes:
        fields: `messages`, and further fields, which become tags.
        alternatives: replies that are not preferred.
        read_from: the fields that it was read from, e.g. "'prompt' and 'completion'"; "" if it was a chat.
    """

    fields: Fields
    alternatives: tuple[str, ...] = ()
    read_from: str = ""


def chat_row(row: Any, where: str, columns: Mapping[str, str] = MappingProxyType({})) -> ChatRow:
    """Read a row of any form as a chat. A chat row stays as it is, including any mistakes.

    Args:
        row: known field, or name of a column -> value.
        where: its place.
        columns: the mapping that renamed its columns, known field -> column.

    Raises:
        UserError: a row that has no obvious reading; a FormError if it has no known form. The message starts with
            `where`.
    """
    if not isinstance(row, Mapping):
        return ChatRow(row)  # refused later, when chats are checked
    fields = {str(name): value for name, value in row.items() if value is not None}
    if "messages" in fields:
        return ChatRow(fields | {"messages": _parsed(fields["messages"])})
    reading = _reading(fields)
    if reading is None:
        raise unknown_form(where, row, columns, FORMS, FIELDS)
    names, read = reading
    system = fields.pop("system", "")
    turns, alternatives = read(fields, where)
    if system and isinstance(system, str) and system.strip():
        if turns and turns[0].get("role") == "system":
            _refuse(where, "has both a text under 'system' and a system turn; keep only one of them")
        turns = [{"role": "system", "content": system}, *turns]
    return ChatRow({"messages": turns, **fields}, alternatives, _in_words(names))


def prompt_row(row: Any, where: str, columns: Mapping[str, str]) -> ChatRow:
    """Read only the prompt of a row, with a reply that stands for any. Raise FormError for a row without a prompt."""
    fields = row if isinstance(row, Mapping) else {}
    for prompt, reply in PAIRS:
        if fields.get(prompt) is not None:
            asked = {name: fields[name] for name in dict.fromkeys((prompt, "input", "system")) if name in fields}
            return chat_row({**asked, reply: ANY_REPLY}, where)
    raise unknown_form(where, fields, columns, [(prompt,) for prompt, _ in PAIRS], FIELDS)


def _in_words(names: Sequence[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} and {last}" if others else last


def _reading(fields: Fields) -> tuple[Sequence[str], Reading] | None:
    """Return the fields that a row is read from, and how; None if they have no known form."""
    if "conversations" in fields:
        return ("conversations",), _conversation
    if {"chosen", "rejected"} <= fields.keys():
        return (*(("prompt",) if "prompt" in fields else ()), "chosen", "rejected"), _preference
    for prompt, reply in PAIRS:
        if {prompt, reply} <= fields.keys():
            more = ("input",) if prompt == "instruction" and fields.get("input") else ()
            return (prompt, *more, reply), partial(_pair, prompt, reply)
    return None


def _pair(prompt: str, reply: str, fields: Fields, where: str) -> tuple[list[Turn], tuple[str, ...]]:
    asked, said = fields.pop(prompt), fields.pop(reply)
    if prompt == "instruction":
        more = fields.pop("input", "")
        if more and not isinstance(more, str):
            _refuse(where, f"'input' must be text, got {more!r}")
        asked = f"{asked}\n\n{more}" if isinstance(asked, str) and more.strip() else asked
    return [*_turns(asked, "user"), *_turns(said, "assistant")], ()


def _preference(fields: Fields, where: str) -> tuple[list[Turn], tuple[str, ...]]:
    prompt = fields.pop("prompt", None)
    good, bad = (_side(fields.pop(name)) for name in ("chosen", "rejected"))
    if good[0].get("role") == bad[0].get("role") == "assistant":
        if prompt is None:
            _refuse(where, "'chosen' and 'rejected' are only replies, and there is no 'prompt'")
        asked = _side(prompt) if isinstance(prompt, str) and SPOKEN.match(prompt) else _turns(prompt, "user")
        asked = asked[:-1] if asked[-1] == {"role": "assistant", "content": ""} else asked
    else:
        asked, (good, bad) = good[:-1], (good[-1:], bad[len(good) - 1 :] if bad[:-1] == good[:-1] else [])
        if not bad:
            _refuse(where, "'chosen' and 'rejected' are not two replies to one prompt")
        if isinstance(prompt, str) and not any(prompt.strip() in str(turn.get("content")) for turn in asked):
            _refuse(where, "'prompt' differs from the prompt in 'chosen'")
    if len(good) != 1 or len(bad) != 1 or not isinstance(bad[0].get("content"), str):
        _refuse(where, "'chosen' and 'rejected' must be one reply each")
    if str(good[0].get("content")).strip() == bad[0]["content"].strip():
        _refuse(where, "'chosen' and 'rejected' are the same reply")
    return [*asked, *good], (str(bad[0]["content"]),)


def _side(value: Any) -> list[Turn]:
    """Return the turns of 'chosen' or 'rejected': a reply, a conversation, or a transcript."""
    if not isinstance(value, str) or not SPOKEN.match(value):
        return _turns(value, "assistant")
    _, *parts = SPOKEN.split(value)
    speakers, texts = parts[::2], parts[1::2]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": text.strip()} for who, text in zip(speakers, texts, strict=True)]


def _conversation(fields: Fields, where: str) -> tuple[list[Turn], tuple[str, ...]]:
    said = _parsed(fields.pop("conversations"))
    if not isinstance(said, list | tuple) or not said or not all(isinstance(turn, Mapping) for turn in said):
        _refuse(where, '\'conversations\' must be a list of turns like {"from": "human", "value": "..."}')
    turns: list[Turn] = []
    for number, turn in enumerate(said, start=1):
        if "from" not in turn:
            turns.append(turn)
            continue
        role = SPEAKERS.get(str(turn["from"]).casefold())
        if role is None:
            _refuse(f"{where}, turn {number}", f"unknown speaker {turn['from']!r}; allowed: {', '.join(SPEAKERS)}")
        turns.append({"role": role, "content": turn.get("value")})
    return turns, ()


def _turns(value: Any, role: str) -> list[Turn]:
    """Return a text as one turn; turns as they are."""
    value = _parsed(value)
    if isinstance(value, list | tuple) and value and all(isinstance(turn, Mapping) for turn in value):
        return list(value)
    return [{"role": role, "content": value}]


def _parsed(value: Any) -> Any:
    """Return turns that a table stores as JSON text; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return value
    return parsed if all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in parsed) else value


def _refuse(where: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")
