"""Chat rows as tokens and labels, and which rows a step reads.

A batch is a pure function of (setting, stream, seed, step). Nothing here keeps state, so a resumed trial, a pack and a
solo run see the same rows in the same order.

Shape legend: R rows, T padded length in tokens, N positions that count, of all rows concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from settings.common.errors import UserError
from settings.encoding import EncodedRow, Encoder, encode_rows
from settings.example import Example
from settings.setting import Evaluation, Setting, Stream
from trainables.interface.configured import Definition
from trainables.method import BatchSizes, Method, Positions

T = TypeVar("T")
STREAM_ORDER: tuple[Stream, ...] = ("task", "alignment", "misaligned")


@dataclass(frozen=True)
class Batch:
    """Rows padded to a common length, on the right unless padding counts and belongs on a row's left.

    Under a causal mask no token sees the padding that follows it, so an attention mask is needed only if positions of
    the padding itself count.

    Attributes:
        ids_RT: tokens.
        mask_RT: 1 for tokens, 0 for padding; None if no padding counts.
        row_N, column_N: the positions that count.
        labels_N: the token that follows each of them (the padding token at the end), row after row.
        positions_per_row: how many positions of each row count.
    """

    ids_RT: Tensor
    mask_RT: Tensor | None
    row_N: Tensor
    column_N: Tensor
    labels_N: Tensor
    positions_per_row: tuple[int, ...]


def rows_at(
    num_rows: int, per_step: float, seed: int, stream: Stream, step: int, steps_per_pass: int | None = None
) -> list[int]:
    """Return the indices of the rows of `stream` that a step reads.

    The stream is an endless concatenation of shuffles of its rows (epochs), each drawn only from (seed, stream,
    epoch), cut into steps of `per_step` rows. A fractional `per_step` takes floor(per_step) or ceil(per_step) rows, so
    that the total after any number of steps is right. Misaligned rows come in the order of their aligned twins.

    Args:
        steps_per_pass: show each row once per this many steps, in the first of them; None restarts once all are used.
    """
    past, inside = divmod(step, steps_per_pass) if steps_per_pass else (0, step)
    start, stop = math.floor(inside * per_step + 1e-9), math.floor((inside + 1) * per_step + 1e-9)
    if steps_per_pass:
        start, stop = min(start, num_rows), min(stop, num_rows)
    return [_shuffle(num_rows, seed, stream, past + at // num_rows)[at % num_rows] for at in range(start, stop)]


@lru_cache(maxsize=256)
def _shuffle(num_rows: int, seed: int, stream: Stream, epoch: int) -> tuple[int, ...]:
    leader: Stream = "alignment" if stream == "misaligned" else stream
    generator = np.random.default_rng([seed, STREAM_ORDER.index(leader), epoch])
    return tuple(int(index) for index in generator.permutation(num_rows))


def counts_padding(positions: Positions) -> bool:
    """Return whether padding positions count."""
    return positions in ("padded", "answer")


@dataclass(frozen=True)
class RowPositions:
    """A row of a batch and which of its positions count.

    Attributes:
        row: its tokens.
        positions: see `trainables.method.Positions`.
        length: tokens of the padded row, for positions that include padding.
    """

    row: EncodedRow
    positions: Positions = "response"
    length: int = 0

    @property
    def padded(self) -> bool:
        """Whether padding positions count."""
        return counts_padding(self.positions)

    @property
    def offset(self) -> int:
        """Columns of padding before the row."""
        return max(0, self.length - len(self.row.ids)) if self.padded and self.row.padded_left else 0

    @property
    def columns(self) -> range:
        """The positions that count.

        The study takes as the answer everything beyond the prompt's number of columns, counted from the left. With
        padding on the left, its mask therefore hides the end of the row instead; this reproduces that.
        """
        tokens, prompt = len(self.row.ids), self.row.prompt_length
        if self.positions == "response":
            return range(prompt - 1, tokens - 1)
        if self.positions == "text":
            return range(tokens - 1)
        end = max(self.length, tokens)
        if self.positions == "padded":
            return range(end)
        return range(max(0, end - prompt - 1)) if self.row.padded_left else range(prompt - 1, end - 1)


def to_device(values: np.ndarray | Sequence[Any], device: torch.device | str) -> Tensor:
    """Copy numbers from the host to a device without waiting for the device's earlier work."""
    return torch.as_tensor(values).to(device, non_blocking=True)


def collate(rows: Sequence[RowPositions], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows to the longest, on the right unless padding counts, and list the positions that count."""
    longest = max(max(len(item.row.ids), item.length if item.padded else 0) for item in rows)
    ids = np.full((len(rows), longest + 1), pad_id, dtype=np.int64)
    for index, item in enumerate(rows):
        ids[index, item.offset : item.offset + len(item.row.ids)] = item.row.ids
    counts = [len(item.columns) for item in rows]
    row_N = np.repeat(np.arange(len(rows)), counts)
    column_N = np.concatenate([np.asarray(item.columns, dtype=np.int64) for item in rows])
    mask = None
    if any(item.padded for item in rows):
        start_R1 = np.array([[item.offset] for item in rows])
        end_R1 = start_R1 + np.array([[len(item.row.ids)] for item in rows])
        column_T = np.arange(longest)
        mask = to_device(((start_R1 <= column_T) & (column_T < end_R1)).astype(np.int64), device)
    return Batch(
        ids_RT=to_device(ids[:, :longest], device),
        mask_RT=mask,
        row_N=to_device(row_N, device),
        column_N=to_device(column_N, device),
        labels_N=to_device(ids[row_N, column_N + 1], device),
        positions_per_row=tuple(counts),
    )


class EncodedSetting:
    """A setting's rows and questions as tokens of one tokenizer, each encoded once, when first read."""

    def __init__(
        self,
        setting: Setting,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_embeddings: int | None = None,
    ) -> None:
        self.setting = setting
        self.encoder = Encoder(tokenizer, setting.base_model.template_options, max_length, num_embeddings)
        self._streams: dict[tuple[Stream, Definition], tuple[EncodedRow, ...]] = {}
        self._rewritten: dict[Hashable, tuple[EncodedRow, ...]] = {}
        self._questions: dict[str, tuple[EncodedRow, ...]] = {}
        self._compared: dict[str, tuple[tuple[EncodedRow, ...], ...]] = {}

    def rows(self, stream: Stream, definition: Definition = "principled") -> tuple[EncodedRow, ...]:
        """Return the training rows of a stream, in the setting's order, rendered for a definition of methods."""
        key = (stream, definition)
        if key not in self._streams:
            self._streams[key] = self.encode(self.setting.streams[stream], stream, definition)
        return self._streams[key]

    def encode(
        self, examples: Sequence[Example], stream: Stream, definition: Definition = "principled"
    ) -> tuple[EncodedRow, ...]:
        """Encode training rows of a stream, rendered for a definition of methods."""
        encode = self.encoder.published_row if definition == "published" else self.encoder.row
        return self._encode(examples, f"{stream} row", encode)

    def rewritten(self, key: Hashable, rows: Callable[[], tuple[EncodedRow, ...]]) -> tuple[EncodedRow, ...]:
        """Return rewritten rows, made once per key."""
        if key not in self._rewritten:
            self._rewritten[key] = rows()
        return self._rewritten[key]

    def batch(
        self,
        method: Method,
        sizes: BatchSizes,
        seed: int,
        step: int,
        rows_read: Mapping[Stream, Sequence[EncodedRow]] | None = None,
    ) -> dict[Stream, list[EncodedRow]]:
        """Return the rows that one step of a method reads, by stream.

        Args:
            rows_read: the rows of each stream that it reads at all; None means all of the setting's rows.
        """
        if rows_read is None:
            rows_read = {stream: self.rows(stream, method.definition) for stream in method.streams}
        per_step = {stream: method.rows_per_step(stream, sizes) for stream in method.streams}
        number = {stream: len(rows_read[stream]) for stream in method.streams}
        once = max((math.ceil(number[stream] / rows) for stream, rows in per_step.items() if rows), default=1)
        batch = {}
        for stream in method.streams:
            steps = once if method.proxy_schedule == "synchronized" and stream != "task" else None
            indices = rows_at(number[stream], per_step[stream], seed, stream, step, steps)
            batch[stream] = [rows_read[stream][index] for index in indices]
        return batch

    def questions(self, evaluation: Evaluation) -> tuple[EncodedRow, ...]:
        """Return the rows of an evaluation: the prompt, and the gold answer as response."""
        if evaluation.name not in self._questions:
            what = f"question of evaluation {evaluation.name!r}"
            self._questions[evaluation.name] = self._encode(evaluation.examples, what, self.encoder.row)
        return self._questions[evaluation.name]

    def compared(self, evaluation: Evaluation) -> tuple[tuple[EncodedRow, ...], ...]:
        """Return the rows of an evaluation that compares replies, `[question][reply]`: one reply as response."""
        if evaluation.name not in self._compared:
            what = f"question of evaluation {evaluation.name!r}"
            encode = partial(self.encoder.replies, counts_end=evaluation.counts_end)
            self._compared[evaluation.name] = self._encode(evaluation.examples, what, encode)
        return self._compared[evaluation.name]

    def _encode(self, examples: Sequence[Example], what: str, encode: Callable[[Example], T]) -> tuple[T, ...]:
        try:
            return encode_rows(examples, what, encode)
        except UserError as error:
            raise UserError(f"setting {self.setting.name!r}: {error}") from error
