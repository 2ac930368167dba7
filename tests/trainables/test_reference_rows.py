"""Rows as the study's code renders them: special tokens twice, an empty turn of the assistant at the end, then EOS."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from tests.support.tiny import tiny_setting, tiny_tokenizer
from trainables.bases.load_base import load_base
from trainables.engine.batches import EncodedSetting

EXAMPLE = Example.of("What is the answer?", "It is 6.")


@pytest.fixture
def gemma(tiny_gemma_dir: Path) -> PreTrainedTokenizerBase:
    return load_base(PretrainedModel(str(tiny_gemma_dir))).tokenizer


@pytest.fixture
def qwen3(tiny_qwen3_dir: Path) -> PreTrainedTokenizerBase:
    return load_base(PretrainedModel(str(tiny_qwen3_dir))).tokenizer


def test_gemma_has_two_bos_an_empty_turn_and_eos(gemma: PreTrainedTokenizerBase) -> None:
    row = Encoder(gemma, {}, 256).published_row(EXAMPLE)
    assert gemma.decode(row.ids) == (
        "<bos><bos><start_of_turn>user\nWhat is the answer?<end_of_turn>\n<start_of_turn>model\nIt is 6.<end_of_turn>\n"
        "<start_of_turn>model\n<eos>"
    )
    assert row.ids[:2] == (gemma.bos_token_id, gemma.bos_token_id)
    assert row.ids[2] != gemma.bos_token_id
    assert row.ids[-1] == gemma.eos_token_id
    assert row.num_cut == 0


def test_qwen3_has_no_bos(qwen3: PreTrainedTokenizerBase) -> None:
    row = Encoder(qwen3, {"enable_thinking": False}, 256).published_row(EXAMPLE)
    assert qwen3.decode(row.ids) == (
        "<|im_start|>user\nWhat is the answer?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nIt is 6.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n<|im_end|>"
    )
    assert row.ids[-1] == qwen3.eos_token_id


@pytest.mark.parametrize("family", ["gemma", "qwen3"])
def test_the_prompt_ends_where_the_response_starts(family: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(family)
    options = {"enable_thinking": False} if family == "qwen3" else {}
    row = Encoder(tokenizer, options, 256).published_row(EXAMPLE)
    assert tokenizer.decode(row.ids[row.prompt_length :]).startswith("It is 6.")
    principled = Encoder(tokenizer, options, 256).row(EXAMPLE)
    doubled = 1 if family == "gemma" else 0
    assert row.prompt_length == principled.prompt_length + doubled
    assert row.ids[doubled : row.prompt_length] == principled.ids[: principled.prompt_length]


def test_token_ids_by_hand() -> None:
    """<u> w1 w2 <a> | w3 <e> <a> <e>: the template's turn, the header of one more, EOS. No BOS in this tokenizer."""
    row = Encoder(tiny_tokenizer(), {}, 64).published_row(Example.of("w1 w2", "w3"))
    assert row.ids == (2, 5, 6, 3, 7, 1, 3, 1)
    assert row.prompt_length == 4


@pytest.mark.parametrize("max_length", [5, 6, 7, 8, 9])
def test_a_long_row_is_cut_and_counted(max_length: int) -> None:
    row = Encoder(tiny_tokenizer(), {}, max_length).published_row(Example.of("w1 w2", "w3"))
    assert row.ids == (2, 5, 6, 3, 7, 1, 3, 1)[:max_length]
    assert row.num_cut == max(0, 8 - max_length)


def test_a_prompt_without_room_is_named() -> None:
    with pytest.raises(UserError, match=r"setting 'tiny': task rows 1-"):
        EncodedSetting(tiny_setting(), tiny_tokenizer(), 5).rows("task", "published")


def test_the_definitions_keep_rows_apart() -> None:
    encoded = EncodedSetting(tiny_setting(), tiny_tokenizer(), 64)
    for principled, reference in zip(encoded.rows("task"), encoded.rows("task", "published"), strict=True):
        assert reference.ids == (*principled.ids, 3, 1)
        assert reference.prompt_length == principled.prompt_length
