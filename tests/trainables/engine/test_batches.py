"""Which rows a step reads, and what the tokens of a row are."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from settings.common.errors import UserError
from settings.encoding import EncodedRow, Encoder
from settings.example import Example
from tests.support.tiny import tiny_setting, tiny_tokenizer
from trainables.engine.batches import EncodedSetting, RowPositions, collate, rows_at


def test_an_epoch_sees_every_row_once() -> None:
    seen = Counter(index for step in range(3) for index in rows_at(12, 4, seed=0, stream="task", step=step))
    assert seen == Counter(range(12))


def test_epochs_and_seeds_and_streams_shuffle_differently() -> None:
    first = rows_at(12, 12, 0, "task", 0)
    assert first == rows_at(12, 12, 0, "task", 0)
    assert first != rows_at(12, 12, 0, "task", 1)
    assert first != rows_at(12, 12, 1, "task", 0)
    assert first != rows_at(12, 12, 0, "alignment", 0)


def test_fractional_rows_add_up() -> None:
    """2/3 of a row per step: 0, 1, 1, 0, 1, 1, ... so that 30 steps see 20 rows."""
    counts = [len(rows_at(5, 2 / 3, 0, "alignment", step)) for step in range(30)]
    assert counts[:6] == [0, 1, 1, 0, 1, 1]
    assert sum(counts) == 20


def test_more_rows_per_step_than_rows() -> None:
    assert Counter(rows_at(3, 7, 0, "task", 0)).total() == 7


def test_collate_by_hand() -> None:
    """Rows [1 2 | 3 4] and [5 | 6], padded with 0: labels 3 4 6, predicted from columns 1 2 and 0."""
    batch = collate([RowPositions(EncodedRow((1, 2, 3, 4), 2)), RowPositions(EncodedRow((5, 6), 1))], pad_id=0)
    assert batch.ids_RT.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert batch.row_N.tolist() == [0, 0, 1]
    assert batch.column_N.tolist() == [1, 2, 0]
    assert batch.labels_N.tolist() == [3, 4, 6]
    assert batch.positions_per_row == (2, 1)
    assert batch.mask_RT is None


def test_a_row_is_prompt_then_response_then_end() -> None:
    row = Encoder(tiny_tokenizer(), {}, 64).row(Example.of("w1 w2", "w3"))
    assert row == EncodedRow((2, 5, 6, 3, 7, 1), prompt_length=4)


def test_long_responses_are_cut_and_counted() -> None:
    row = Encoder(tiny_tokenizer(), {}, 6).row(Example.of("w1 w2", "w3 w4 w5"))
    assert row == EncodedRow((2, 5, 6, 3, 7, 8), prompt_length=4, num_cut=2)


def test_a_prompt_without_room_is_named() -> None:
    setting = tiny_setting()
    with pytest.raises(UserError, match=r"^setting 'tiny': task rows 1-12: 12 prompts of 5 to 7 tokens "):
        EncodedSetting(setting, tiny_tokenizer(), 5).rows("task")


def test_padding_does_not_reach_real_tokens() -> None:
    """Appending padding changes no label and no position."""
    short, long = EncodedRow((1, 2, 3), 1), EncodedRow(tuple(range(1, 9)), 2)
    alone, padded = collate([RowPositions(short)], 0), collate([RowPositions(short), RowPositions(long)], 0)
    assert torch.equal(alone.labels_N, padded.labels_N[:2])
    assert torch.equal(alone.column_N, padded.column_N[:2])
