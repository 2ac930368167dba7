"""What a source of rows contains: how many rows of which form, how long they are, what is cut, and what repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from settings.common.errors import UserError
from settings.encoding import Encoder, LongPromptError
from settings.example import Example

Lengths = tuple[int, float, int]  # minimum, median, maximum


@dataclass(frozen=True)
class TokenFacts:
    """The lengths of rows in a model's tokens.

    Attributes:
        max_length: longest allowed row.
        prompts, responses: lengths in the rows whose prompt fits; None without such rows.
        cut: place of a row whose response is cut -> tokens lost.
        long: place of a row whose prompt leaves no room -> tokens of the prompt.
        broken: place of a row that the chat template cannot write -> why.
    """

    max_length: int
    prompts: Lengths | None
    responses: Lengths | None
    cut: Mapping[str, int]
    long: Mapping[str, int]
    broken: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON data."""
        return {
            "max_length": self.max_length,
            "prompt_tokens": self.prompts and dict(zip(("min", "median", "max"), self.prompts, strict=True)),
            "response_tokens": self.responses and dict(zip(("min", "median", "max"), self.responses, strict=True)),
            "cut": dict(self.cut),
            "no_room": dict(self.long),
            "unwritable": dict(self.broken),
        }


def token_facts(examples: Sequence[Example], encoder: Encoder) -> TokenFacts:
    """Encode rows, and return their lengths."""
    prompts, responses = list[int](), list[int]()
    cut, long, broken = dict[str, int](), dict[str, int](), dict[str, str]()
    for row in examples:
        try:
            encoded = encoder.row(row)
        except LongPromptError as error:
            long[row.place] = error.tokens
            continue
        except UserError as error:
            broken[row.place] = str(error)
            continue
        prompts.append(encoded.prompt_length)
        responses.append(len(encoded.ids) - encoded.prompt_length + encoded.num_cut)
        if encoded.num_cut:
            cut[row.place] = encoded.num_cut
    return TokenFacts(encoder.max_length, _lengths(prompts), _lengths(responses), cut, long, broken)


def _lengths(values: Sequence[int]) -> Lengths | None:
    return (min(values), median(values), max(values)) if values else None


def turns(examples: Sequence[Example]) -> Mapping[str, int]:
    """Return sequences of roles, e.g. "user assistant" -> number of rows, the most frequent first."""
    return dict(Counter(" ".join(message.role for message in row.messages) for row in examples).most_common())


def tags(examples: Sequence[Example], most: int = 5) -> Mapping[str, Mapping[str, int]]:
    """Return how often each value of each tag occurs; for tags with more than `most` values, only their number."""
    names = dict.fromkeys(name for row in examples for name in row.tags)
    counts = {name: Counter(row.tags[name] for row in examples if name in row.tags) for name in names}
    return {
        name: dict(values.most_common()) if len(values) <= most else {f"{len(values)} values": values.total()}
        for name, values in counts.items()
    }


def repeated(examples: Sequence[Example]) -> Mapping[str, tuple[str, ...]]:
    """Return repeated prompts: place of the first row with a prompt -> places of later rows with it."""
    first: dict[Any, str] = {}
    again: dict[str, list[str]] = {}
    for row in examples:
        place = first.setdefault(row.prompt_key, row.place)
        if place != row.place:
            again.setdefault(place, []).append(row.place)
    return {place: tuple(others) for place, others in again.items()}


def shared(examples: Sequence[Example], others: Sequence[Example]) -> Mapping[str, str]:
    """Return rows whose prompts also occur among `others`: place -> place of the first such row there."""
    known: dict[Any, str] = {}
    for row in others:
        known.setdefault(row.prompt_key, row.place)
    return {row.place: known[row.prompt_key] for row in examples if row.prompt_key in known}
