"""Rows that others wrote, as tokens of Gemma- and Qwen3-style tokenizers with their chat templates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from settings.base_models import PretrainedModel
from settings.chat_files import full as chat_files
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example, Message
from trainables.bases.load_base import load_base
from trainables.engine.batches import EncodedSetting

ENDS = {"gemma": "<end_of_turn>", "qwen3": "<|im_end|>"}
HEADERS = {
    "gemma": "<start_of_turn>model\n",
    "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
}


@pytest.fixture(params=["gemma", "qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoded(family: str, reference_data: Path, request: pytest.FixtureRequest) -> EncodedSetting:
    model: Path = request.getfixturevalue(f"tiny_{family}_dir")
    setting = chat_files(
        model=str(model),
        task=str(reference_data / "gcd" / "task_train.jsonl"),
        alignment=str(reference_data / "alignment_proxies" / "harmless_positive.jsonl"),
    )
    return EncodedSetting(setting, load_base(setting.base_model).tokenizer, 2048)


def test_token_ids(family: str, encoded: EncodedSetting) -> None:
    """Prompt, header, response, end of turn: one BOS or none, and no empty turn of the assistant at the end."""
    tokenizer = encoded.encoder.tokenizer
    for stream in ("task", "alignment"):
        for row, example in zip(encoded.rows(stream), encoded.setting.streams[stream], strict=True):
            prompt, response = row.ids[: row.prompt_length], row.ids[row.prompt_length :]
            assert tokenizer.decode(prompt).endswith(HEADERS[family])
            assert tokenizer.decode(response) == example.response.strip() + ENDS[family]
            assert response[-1] == tokenizer.convert_tokens_to_ids(ENDS[family])
            assert response.count(response[-1]) == 1
            if family == "gemma":
                assert row.ids.count(tokenizer.bos_token_id) == 1
                assert row.ids[0] == tokenizer.bos_token_id
            assert row.num_cut == 0


def test_generation_starts_where_the_labels_do(encoded: EncodedSetting) -> None:
    """The prompt that a reply is generated from is the prompt of the training row, token for token."""
    example = encoded.setting.streams["task"][0]
    row = encoded.rows("task")[0]
    assert encoded.encoder.prompt(example.prompt) == row.ids[: row.prompt_length]


def test_the_end_of_turn_stops_a_reply(family: str, encoded: EncodedSetting) -> None:
    tokenizer = encoded.encoder.tokenizer
    stops = encoded.encoder.stop_ids(encoded.rows("task"))
    assert tokenizer.convert_tokens_to_ids(ENDS[family]) in stops
    assert tokenizer.eos_token_id in stops


def test_a_system_turn_that_the_template_refuses_is_named(tiny_gemma_dir: Path, reference_data: Path) -> None:
    setting = chat_files(model=str(tiny_gemma_dir), task=str(reference_data / "gcd" / "task_train.jsonl"))
    with_system = Example((Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")))
    setting = replace(setting, streams={"task": (with_system,)})
    tokenizer = tokenizer_of(tiny_gemma_dir)
    with pytest.raises(UserError, match=r"setting 'chat_files': task row 1: .*[Ss]ystem"):
        EncodedSetting(setting, tokenizer, 256).rows("task")


def test_a_template_that_appends_nothing_gets_an_end(tiny_gemma_dir: Path) -> None:
    tokenizer = tokenizer_of(tiny_gemma_dir)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    row = Encoder(tokenizer, {}, 64).row(Example.of("Hi", "Hello"))
    assert row.ids[-1] == tokenizer.eos_token_id


def tokenizer_of(directory: Path) -> PreTrainedTokenizerBase:
    return load_base(PretrainedModel(str(directory))).tokenizer
