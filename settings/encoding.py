"""Chat rows as tokens of one model: what its chat template writes, where a response begins, and which rows do not fit.

Tokens depend only on the row, the tokenizer and the template's options: a template that writes today's date gets a
fixed date, and a template that makes random choices is refused.
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

TODAY = datetime(2024, 7, 26)  # for templates that ask for the date; Llama 3's template falls back to this one
DATE = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
PROBE = "probe"
T = TypeVar("T")
NAMED = 3  # problems other than long prompts that one message describes in full


@dataclass(frozen=True)
class EncodedRow:
    """One encoded chat row.

    Attributes:
        ids: prompt and response tokens.
        prompt_length: number of prompt tokens; the rest are labels.
        num_cut: number of response tokens that did not fit into `max_length`.
        padded_left: whether the row is padded on the left, and the padding counts, as in the study's code for Gemma.
    """

    ids: tuple[int, ...]
    prompt_length: int
    num_cut: int = 0
    padded_left: bool = False


class LongPromptError(UserError):
    """A prompt that leaves no room for a response.

    Attributes:
        tokens, limit: length of the prompt, and `max_length`.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"a prompt of {tokens} tokens leaves no room for a response within max_length={limit}")
        self.tokens, self.limit = tokens, limit


class Encoder:
    """Encodes chat rows as tokens with one tokenizer and its chat template.

    The prompt and the response are tokenised separately, split exactly where generation would start. Nothing is added
    to what the template writes: no second BOS, and no empty assistant turn after the response. The response ends with
    the template's end-of-turn token.

    A row's instruction goes into its system turn: it replaces an empty one, and is appended to any other after a blank
    line. If the template does not support a system turn, the instruction precedes the first user text, followed by a
    blank line.

    Args:
        template_options: extra arguments of the template.
        max_length: longest row, in tokens.
        num_embeddings: number of tokens that the model knows; None skips that check.
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
        """Encode the turns, and the header that starts the assistant's reply."""
        return self._tokens(self._render(messages, add_generation_prompt=True))

    def row(self, example: Example) -> EncodedRow:
        """Encode a row with its response. Raise UserError if the template or the length does not allow it."""
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
            counts_end: keep the tokens that end the turn after a reply's text.

        Raises:
            UserError: as `row` does, or if a reply does not fit completely: truncated replies cannot be compared.
        """
        rows = []
        for reply in example.replies:
            row = self.row(reply)
            if row.num_cut:
                raise UserError(
                    f"the reply {reply.response[:60]!r} has {len(row.ids) - row.prompt_length + row.num_cut} tokens,"
                    f" {row.num_cut} of them beyond max_length={self.max_length}; compared replies must fit completely"
                )
            rows.append(row if counts_end else self._without_end(row))
        return tuple(rows)

    def _without_end(self, row: EncodedRow) -> EncodedRow:
        """Return a row without the special tokens at its end. Raise UserError if the reply is nothing else."""
        special, ids = set(self.tokenizer.all_special_ids), list(row.ids)
        while len(ids) > row.prompt_length and ids[-1] in special:
            ids.pop()
        if len(ids) == row.prompt_length:
            raise UserError("a reply has no tokens except those that end it")
        return replace(row, ids=tuple(ids))

    def published_row(self, example: Example) -> EncodedRow:
        """Encode a row as the study's code renders it, for the `published` definition of methods.

        The header of one more assistant turn and the EOS token follow the conversation. The text, which already has the
        template's special tokens, is tokenised with special tokens once more (a second BOS for Gemma). Padding is on
        the tokenizer's default side.
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

        Any other error is ignored here, and raised when the row is encoded.
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
        """What a user should know about the template, one line each."""
        if not DATE.search(str(self.tokenizer.get_chat_template())):
            return ()
        return (
            f"the chat template writes today's date; every start of a sweep gives it {TODAY:%d %b %Y} instead; set"
            ' another date by template_options, if the template has an option for it ({"date_string": ...} in Llama 3)',
        )

    @cached_property
    def _template(self) -> str:
        """The chat template with a fixed date. Raise UserError if it computes the format of the date."""
        pinned = DATE.sub(lambda call: json.dumps(TODAY.strftime(call[2])), str(self.tokenizer.get_chat_template()))
        if "strftime_now(" in pinned:
            raise UserError("the chat template computes the format of today's date; use one that does not")
        return pinned

    def _texts(self, example: Example, *, open_ended: bool) -> tuple[str, str]:
        """Return the text of the prompt and of the whole row.

        Raise UserError unless the whole text continues the prompt, and both contain what the row says. Earlier replies
        may be incomplete, because templates leave out their reasoning.
        """
        example = self._instructed(example)
        prompt_text = self._render(example.prompt, add_generation_prompt=True)
        text = self._render(example.messages, add_generation_prompt=open_ended)
        if not text.startswith(prompt_text):
            raise UserError(
                "the tokenizer's chat template renders a prompt differently when its reply follows, so the start of"
                f" the response cannot be located; prompt {prompt_text!r}, whole {text!r}"
            )
        written = _squeezed(prompt_text)
        for message in example.prompt:
            if message.role != "assistant" and _squeezed(message.content) not in written:
                raise UserError(f"the chat template leaves out what the {message.role} says: {message.content[:60]!r}")
        if _squeezed(example.response) not in _squeezed(text[len(prompt_text) :]):
            raise UserError(f"the chat template leaves out a part of the response {example.response[:60]!r}")
        return prompt_text, text

    def _instructed(self, example: Example) -> Example:
        """Return a row with its instruction written into its turns."""
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
        """Whether the template writes a system turn; some templates refuse it, some leave it out."""
        return PROBE in self._attempt((Message("system", PROBE), Message("user", "question")), self._in_parts)

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template needs a message's content as a list of parts, as for models that see images."""
        message = (Message("user", PROBE),)
        plain, parts = (self._attempt(message, in_parts) for in_parts in (False, True))
        return PROBE not in plain and PROBE in parts

    def _attempt(self, messages: Sequence[Message], in_parts: bool) -> str:
        try:
            return self._write(messages, in_parts, add_generation_prompt=True)
        except (TemplateError, TypeError):
            return ""  # a template that fails on the probe may still write rows; if not, encoding names them

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
        try:
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        except Exception as error:  # `tokenizers` raises plain Exceptions
            known = self.tokenizer.get_vocab()
            unknown = [word for word in text.split() if word not in known]
            if unknown and "[UNK]" in str(error):
                raise UserError(
                    f"the tokenizer does not know the word {unknown[0]!r}; use another, or add it to the vocabulary"
                ) from error
            raise
        self._check_known(ids)
        return ids

    def _check_known(self, ids: Iterable[int]) -> None:
        """Raise UserError for a token without an embedding in the model."""
        largest = max(ids, default=0)
        if self.num_embeddings is not None and largest >= self.num_embeddings:
            raise UserError(
                f"the token {self.tokenizer.convert_ids_to_tokens(largest)!r} has the number {largest}, but the model"
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
        what: what the rows are, to name those whose place is unknown.

    Raises:
        UserError: some rows cannot be encoded; the message names all with long prompts, and the first few others.
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
    """Return one line about rows, by place: all prompts that are too long, and the first few other problems."""
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
    """Merge places that differ only in their number: "rows.jsonl, lines 3, 7-9"."""
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
