"""Chat rows as tokens of one model: what its chat template writes, where a response begins, and which rows do not fit.

Tokens are a function of the row, the tokenizer and the template's options alone: a template that writes today's date is
told a fixed one, and one that chooses at random is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError

from settings.common.errors import UserError
from settings.example import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)  # for templates that ask; the date that Llama 3's own falls back to
DATE = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
PROBE = "probe"
T = TypeVar("T")
NAMED = 3  # other problems that one message tells in full


@dataclass(frozen=True)
class EncodedRow:
    """One encoded chat row.

    Attributes:
        ids: prompt and response tokens.
        prompt_length: tokens of the prompt; the rest are labels.
        num_cut: response tokens that did not fit into `max_length`.
        padded_left: whether padding that counts stands before the row, as the study's code pads for Gemma.
    """

    ids: tuple[int, ...]
    prompt_length: int
    num_cut: int = 0
    padded_left: bool = False


class LongPromptError(UserError):
    """A prompt that leaves no room for a response.

    Attributes:
        tokens, limit: of the prompt, and `max_length`.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"a prompt of {tokens} tokens leaves no room for a response within max_length={limit}")
        self.tokens, self.limit = tokens, limit


class Encoder:
    """Chat rows to tokens with one tokenizer and its chat template.

    The prompt and the response are tokenised apart, at exactly the boundary where generation would start, and nothing
    is added to what the template writes: no second BOS, no empty assistant turn after the response. The response ends
    with the template's end-of-turn token.

    A row's instruction becomes its system turn: in place of an empty one, and after the text of another, with a blank
    line between them. Where the template takes no system turn, it stands before the first user's text, likewise.

    Args:
        template_options: extra arguments of the template.
        max_length: of a row, in tokens.
        num_embeddings: tokens that the model knows; None does not look.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_options: Mapping[str, Any],
        max_length: int,
        num_embeddings: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template_options = dict(template_options)
        self.max_length = max_length
        self.num_embeddings = num_embeddings

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode the turns and the header that asks for the assistant's reply."""
        return self._tokens(self._render(messages, add_generation_prompt=True))

    def row(self, example: Example) -> EncodedRow:
        """Encode a row with its response. Raise UserError when the template or the length does not allow it."""
        prompt_text, text = self._texts(example, open_ended=False)
        prompt, response = self._tokens(prompt_text), self._tokens(text[len(prompt_text) :].rstrip())
        if not response or response[-1] not in self.tokenizer.all_special_ids:
            response += (int(self.tokenizer.eos_token_id),)
        room = self.max_length - len(prompt)
        if room < 1:
            raise LongPromptError(len(prompt), self.max_length)
        return EncodedRow(prompt + response[:room], len(prompt), max(0, len(response) - room))

    def replies(self, example: Example, counts_end: bool = True) -> tuple[EncodedRow, ...]:
        """Encode a row with each of its replies: the response, then the alternatives, in order.

        Args:
            counts_end: keep the tokens that end the turn, which follow the text of a reply.

        Raises:
            UserError: as `row` does, or a reply that does not fit as a whole: replies that are cut cannot be compared.
        """
        rows = []
        for reply in example.replies:
            row = self.row(reply)
            if row.num_cut:
                raise UserError(
                    f"the reply {reply.response[:60]!r} has {len(row.ids) - row.prompt_length + row.num_cut} tokens,"
                    f" {row.num_cut} of them beyond max_length={self.max_length}; compared replies must fit as a whole"
                )
            rows.append(row if counts_end else self._without_end(row))
        return tuple(rows)

    def _without_end(self, row: EncodedRow) -> EncodedRow:
        """Return a row without the special tokens at its end. Raise UserError where the reply is nothing else."""
        special, ids = set(self.tokenizer.all_special_ids), list(row.ids)
        while len(ids) > row.prompt_length and ids[-1] in special:
            ids.pop()
        if len(ids) == row.prompt_length:
            raise UserError("a reply has no token but those that end it")
        return replace(row, ids=tuple(ids))

    def published_row(self, example: Example) -> EncodedRow:
        """Encode a row as the study's code renders it, for the `published` definition of methods.

        After the conversation comes the header of one more assistant turn and the EOS token, and the text, which has
        the template's special tokens already, is tokenised with special tokens once more (a second BOS for Gemma).
        Padding stands on the tokenizer's own side.
        """
        prompt_text, text = self._texts(example, open_ended=True)
        prompt = self.tokenizer(prompt_text)["input_ids"]
        ids = self.tokenizer(text + str(self.tokenizer.eos_token))["input_ids"]
        self._check_known(ids)
        if len(prompt) >= min(len(ids), self.max_length):
            raise LongPromptError(len(prompt), self.max_length)
        on_left = self.tokenizer.padding_side == "left"
        return EncodedRow(tuple(ids[: self.max_length]), len(prompt), max(0, len(ids) - self.max_length), on_left)

    def long_prompt(self, example: Example) -> LongPromptError | None:
        """Return the error of a row whose prompt leaves no room for a response, under either definition of methods.

        What else is wrong with a row is said when it is encoded.
        """
        try:
            self.row(example)
            self.published_row(example)
        except LongPromptError as error:
            return error
        except (UserError, TemplateError):
            return None
        return None

    def stop_ids(self, rows: Sequence[EncodedRow]) -> frozenset[int]:
        """Return the tokens that end a reply: the tokenizer's EOS, and the last ones of the complete `rows`."""
        ends = {row.ids[-1] for row in rows if not row.num_cut}
        return frozenset(ends | {int(self.tokenizer.eos_token_id)})

    def text(self, ids: Sequence[int]) -> str:
        """Decode a reply, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a user should know of the template, one line each."""
        if not DATE.search(str(self.tokenizer.get_chat_template())):
            return ()
        return (
            f"the chat template writes today's date; in every start of a sweep it is told {TODAY:%d %b %Y}, and another"
            ' by template_options, if the template has an option for it ({"date_string": ...} in Llama 3)',
        )

    @cached_property
    def _template(self) -> str:
        """The chat template with a fixed date. Raise UserError for one that asks for it in a form unknown before."""
        pinned = DATE.sub(lambda call: json.dumps(TODAY.strftime(call[2])), str(self.tokenizer.get_chat_template()))
        if "strftime_now(" in pinned:
            raise UserError("the chat template asks for today's date in a form that it computes; give one without")
        return pinned

    def _texts(self, example: Example, *, open_ended: bool) -> tuple[str, str]:
        """Return the text of the prompt and of the whole row.

        Raise UserError unless the second continues the first, and both hold what the row says. Earlier replies need
        not be there in full: templates leave out their reasoning.
        """
        example = self._instructed(example)
        prompt_text = self._render(example.prompt, add_generation_prompt=True)
        text = self._render(example.messages, add_generation_prompt=open_ended)
        if not text.startswith(prompt_text):
            raise UserError(
                "the tokenizer's chat template renders a prompt with its reply differently from the prompt alone, so"
                f" the response cannot be told apart; prompt {prompt_text!r}, whole {text!r}"
            )
        written = _squeezed(prompt_text)
        for message in example.prompt:
            if message.role != "assistant" and _squeezed(message.content) not in written:
                raise UserError(f"the chat template leaves out what the {message.role} says: {message.content[:60]!r}")
        if _squeezed(example.response) not in _squeezed(text[len(prompt_text) :]):
            raise UserError(f"the chat template leaves out a part of the response {example.response[:60]!r}")
        return prompt_text, text

    def _instructed(self, example: Example) -> Example:
        """Return a row with its instruction in its turns."""
        if not example.instruction:
            return example
        first, *others = example.messages
        if first.role == "system" and self._takes_system:
            text = f"{first.content}\n\n{example.instruction}" if first.content.strip() else example.instruction
            return replace(example, messages=(Message("system", text), *others))
        if self._takes_system:
            return replace(example, messages=(Message("system", example.instruction), *example.messages))
        asked = next(at for at, message in enumerate(example.messages) if message.role == "user")
        turns = list(example.messages)
        turns[asked] = Message("user", f"{example.instruction}\n\n{turns[asked].content}")
        return replace(example, messages=tuple(turns))

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template writes a system turn; some refuse one, some leave it out."""
        return PROBE in self._attempt((Message("system", PROBE), Message("user", "question")), self._in_parts)

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template wants the content of a message as a list of parts, as models that see images do."""
        message = (Message("user", PROBE),)
        plain, parts = (self._attempt(message, in_parts) for in_parts in (False, True))
        return PROBE not in plain and PROBE in parts

    def _attempt(self, messages: Sequence[Message], in_parts: bool) -> str:
        try:
            return self._write(messages, in_parts, add_generation_prompt=True)
        except (TemplateError, TypeError):
            return ""  # a template that cannot write the probe may still write rows; where not, they are named

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        return self._write(messages, self._in_parts, add_generation_prompt)

    def _write(self, messages: Sequence[Message], in_parts: bool, add_generation_prompt: bool) -> str:
        turns = [
            {
                "role": message.role,
                "content": [{"type": "text", "text": message.content}] if in_parts else message.content,
            }
            for message in messages
        ]
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                **self.template_options,
            )
        )

    def _tokens(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        self._check_known(ids)
        return ids

    def _check_known(self, ids: Iterable[int]) -> None:
        """Raise UserError for a token that the model has no embedding of."""
        largest = max(ids, default=0)
        if self.num_embeddings is not None and largest >= self.num_embeddings:
            raise UserError(
                f"the token {self.tokenizer.convert_ids_to_tokens(largest)!r} has the number {largest}, and the model"
                f" knows {self.num_embeddings} tokens; resize its embedding, or remove the token from the tokenizer"
            )


def _squeezed(text: str) -> str:
    """Return a text without white space, which templates trim."""
    return "".join(text.split())


def chooses_at_random(template: str) -> bool:
    """Say whether a chat template writes the same row in different ways."""
    return re.search(r"\|\s*random\b", template) is not None


# --- rows that do not fit --------------------------------------------------------------------------------------------


def encode_rows(examples: Sequence[Example], what: str, encode: Callable[[Example], T]) -> tuple[T, ...]:
    """Encode rows, in order.

    Args:
        what: they are, for rows whose place is not known.

    Raises:
        UserError: rows that cannot be encoded; all of them are named.
    """
    rows: list[T] = []
    problems: dict[str, Exception] = {}
    for number, example in enumerate(examples, start=1):
        try:
            rows.append(encode(example))
        except (UserError, TemplateError) as error:
            problems[example.place or f"{what} {number}"] = error
    if problems:
        raise UserError(describe_problems(problems)) from next(iter(problems.values()))
    return tuple(rows)


def describe_problems(problems: Mapping[str, Exception]) -> str:
    """Return one line about rows, by place: all prompts that are too long, and otherwise the first few."""
    long = {place: error for place, error in problems.items() if isinstance(error, LongPromptError)}
    others = [f"{place}: {error}" for place, error in problems.items() if place not in long]
    told = others[:NAMED] + ([f"so are {len(others) - NAMED} more rows"] if len(others) > NAMED else [])
    if len(long) == 1:
        told += [f"{place}: {error}" for place, error in long.items()]
    elif long:
        tokens = [error.tokens for error in long.values()]
        limit = next(iter(long.values())).limit
        told.append(
            f"{', '.join(_gathered(long))}: {len(long)} prompts of {min(tokens)} to {max(tokens)} tokens leave no room"
            f" for a response within max_length={limit}"
        )
    return "; ".join(told)


def _gathered(places: Iterable[str]) -> list[str]:
    """Gather places that differ in their number alone: "rows.jsonl, lines 3, 7-9"."""
    numbers: dict[str, list[int]] = {}
    for place in places:
        start, _, number = place.rpartition(" ")
        if start and number.isdecimal():
            numbers.setdefault(start, []).append(int(number))
        else:
            numbers[place] = []
    return [
        f"{start}{'s' if len(values) > 1 else ''} {_ranges(values)}" if values else start
        for start, values in numbers.items()
    ]


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers in words: "3, 7-9"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
