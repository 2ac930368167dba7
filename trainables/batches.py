"""From chat rows to tokens and labels, and which rows a step reads.

A batch is a pure function of (setting, stream, seed, step): nothing here keeps state, so that a resumed trial, a pack
and a solo run see the same rows in the same order.

Shape legend: R rows, T padded length in tokens, N response tokens of the rows concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from settings.setting import Evaluation, Example, Message, Setting, Stream, UserError

STREAM_ORDER: tuple[Stream, ...] = ("task", "alignment", "misaligned")


@dataclass(frozen=True)
class Row:
    """One encoded chat row.

    Attributes:
        ids: prompt and response tokens.
        prompt_length: how many of them are prompt; the rest are labels.
        num_cut: response tokens that did not fit into `max_length`.
    """

    ids: tuple[int, ...]
    prompt_length: int
    num_cut: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to a common length.

    Under a causal mask no token sees the padding that follows it, so no attention mask is needed.

    Attributes:
        ids_RT: tokens.
        row_N, column_N: where each response token is predicted from, i.e. one position before it.
        labels_N: the response tokens, row after row.
        tokens_per_row: response tokens of each row.
        num_tokens: tokens of all rows, padding excluded.
    """

    ids_RT: Tensor
    row_N: Tensor
    column_N: Tensor
    labels_N: Tensor
    tokens_per_row: tuple[int, ...]
    num_tokens: int


class Encoder:
    """Chat rows to tokens with one tokenizer and its chat template.

    The prompt and the response are tokenised apart, at exactly the boundary where generation would start, and nothing
    is added but what the template writes: no second BOS, no empty assistant turn after the response. The response ends
    with the template's end-of-turn token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template_options: Mapping[str, Any], max_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.template_options = dict(template_options)
        self.max_length = max_length

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of the turns and of the header that asks for the assistant's reply."""
        return self._tokens(self._render(messages, add_generation_prompt=True))

    def row(self, example: Example) -> Row:
        """Tokens of a whole row. Raises UserError when the template or the length does not allow it."""
        prompt_text = self._render(example.prompt, add_generation_prompt=True)
        text = self._render(example.messages, add_generation_prompt=False)
        if not text.startswith(prompt_text):
            raise UserError(
                "the tokenizer's chat template renders a prompt with its reply differently from the prompt alone, so"
                f" the response cannot be told apart; prompt {prompt_text!r}, whole {text!r}"
            )
        prompt, response = self._tokens(prompt_text), self._tokens(text[len(prompt_text) :].rstrip())
        if not response or response[-1] not in self.tokenizer.all_special_ids:
            response += (int(self.tokenizer.eos_token_id),)
        room = self.max_length - len(prompt)
        if room < 1:
            raise UserError(
                f"a prompt of {len(prompt)} tokens leaves no room for a response within max_length={self.max_length}:"
                f" {example.prompt[-1].content[:60]!r}"
            )
        return Row(prompt + response[:room], len(prompt), max(0, len(response) - room))

    def stop_ids(self, rows: Sequence[Row]) -> frozenset[int]:
        """Tokens that end a reply: the tokenizer's EOS and whatever ends the responses of complete `rows`."""
        ends = {row.ids[-1] for row in rows if not row.num_cut}
        return frozenset(ends | {int(self.tokenizer.eos_token_id)})

    def text(self, ids: Sequence[int]) -> str:
        """The reply's text without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **self.template_options
            )
        )

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def rows_at(num_rows: int, per_step: float, seed: int, stream: Stream, step: int) -> list[int]:
    """Indices of the rows that `stream` gives at `step`.

    The stream is an endless concatenation of shuffles of its rows (epochs), each drawn from (seed, stream, epoch)
    alone, cut into steps of `per_step` rows. A fractional `per_step` takes floor(per_step) or ceil(per_step) rows, so
    that the total after any number of steps is right.
    """
    start, stop = math.floor(step * per_step + 1e-9), math.floor((step + 1) * per_step + 1e-9)
    return [_shuffle(num_rows, seed, stream, at // num_rows)[at % num_rows] for at in range(start, stop)]


@lru_cache(maxsize=256)
def _shuffle(num_rows: int, seed: int, stream: Stream, epoch: int) -> tuple[int, ...]:
    generator = np.random.default_rng([seed, STREAM_ORDER.index(stream), epoch])
    return tuple(int(index) for index in generator.permutation(num_rows))


def collate(rows: Sequence[Row], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows to the longest of them and list their response positions."""
    longest = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
    counts = [len(row.ids) - row.prompt_length for row in rows]
    row_N = np.repeat(np.arange(len(rows)), counts)
    column_N = np.concatenate([np.arange(row.prompt_length - 1, len(row.ids) - 1) for row in rows])
    return Batch(
        ids_RT=torch.from_numpy(ids).to(device),
        row_N=torch.from_numpy(row_N).to(device),
        column_N=torch.from_numpy(column_N).to(device),
        labels_N=torch.from_numpy(ids[row_N, column_N + 1]).to(device),
        tokens_per_row=tuple(counts),
        num_tokens=sum(len(row.ids) for row in rows),
    )


class EncodedSetting:
    """A setting's rows and questions as tokens of one tokenizer; streams are encoded when first asked for."""

    def __init__(self, setting: Setting, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        options = getattr(setting.base_model, "template_options", {})
        self.setting, self.encoder = setting, Encoder(tokenizer, options, max_length)
        self._streams: dict[Stream, tuple[Row, ...]] = {}

    def rows(self, stream: Stream) -> tuple[Row, ...]:
        """The training rows of a stream, in the setting's order."""
        if stream not in self._streams:
            self._streams[stream] = self._encode(self.setting.streams[stream], f"{stream} row")
        return self._streams[stream]

    def rows_at(self, stream: Stream, per_step: float, seed: int, step: int) -> list[Row]:
        """The rows that one step reads; see `rows_at`."""
        rows = self.rows(stream)
        return [rows[index] for index in rows_at(len(rows), per_step, seed, stream, step)]

    def questions(self, evaluation: Evaluation) -> tuple[Row, ...]:
        """The rows of an evaluation: the prompt, and the gold answer as response."""
        return self._encode(evaluation.examples, f"question of evaluation {evaluation.name!r}")

    def _encode(self, examples: Sequence[Example], what: str) -> tuple[Row, ...]:
        rows = []
        for number, example in enumerate(examples, start=1):
            try:
                rows.append(self.encoder.row(example))
            except (UserError, TemplateError) as error:
                raise UserError(f"setting {self.setting.name!r}, {what} {number}: {error}") from error
        return tuple(rows)
