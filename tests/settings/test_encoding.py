"""What a chat template may do to rows, and what it may not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from settings.common.errors import UserError
from settings.encoding import Encoder, LongPromptError, chooses_at_random, describe_problems, encode_rows
from settings.example import Example, Message

HEADER = "{% if add_generation_prompt %}<assistant> {% endif %}"
TEXT = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}" + HEADER
PART = "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
PARTS = TEXT.replace("{{ m.content }}", PART)
ROW = Example.of("six and nine", "three")


def encoder(template: str, max_length: int = 20, num_embeddings: int | None = None, **options: object) -> Encoder:
    words = ["<pad>", "<e>", "<user>", "<assistant>", "<system>", "six", "and", "nine", "three", "2024-07-26", "Monday"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<e>")
    wrapped.chat_template = template
    return Encoder(wrapped, options, max_length, num_embeddings)


@pytest.mark.parametrize("template", [TEXT, PARTS])
def test_content_is_written_as_text_or_as_parts(template: str) -> None:
    row = encoder(template).row(ROW)
    assert row.ids == (2, 5, 6, 7, 3, 8, 1)  # <user> six and nine <assistant> three <e>
    assert row.prompt_length == 5


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        (TEXT.replace("m.content", "'' if m.role == 'user' else m.content"), "what the user says: 'six and nine'"),
        (TEXT.replace("m.content", "m.content[:3] if m.role == 'assistant' else m.content"), "the response 'three'"),
        (TEXT.replace("m.content", "m.content if m.role != 'system' else ''"), "what the system says: 'Monday'"),
    ],
)
def test_a_template_that_drops_content_is_refused(template: str, lost: str) -> None:
    row = Example((Message("system", "Monday"), *ROW.messages))
    with pytest.raises(UserError, match=lost):
        encoder(template).row(row)


def test_the_date_is_the_same_in_every_start() -> None:
    dated = "{{ strftime_now('%Y-%m-%d') }} " + TEXT
    assert encoder(dated).row(ROW).ids[0] == 9  # 2024-07-26
    with pytest.raises(UserError, match="computes the format of today's date"):
        encoder("{{ strftime_now('%Y' + '-') }} " + TEXT).row(ROW)
    (caution,) = encoder(dated).cautions
    assert "26 Jul 2024" in caution
    assert encoder(TEXT).cautions == ()


def test_a_template_may_not_choose_at_random() -> None:
    assert chooses_at_random("{{ ['a', 'b'] | random }}")
    assert not chooses_at_random("{{ 'random' }}")


def test_a_token_without_an_embedding_is_named() -> None:
    assert encoder(TEXT, num_embeddings=9).row(ROW).ids[-2] == 8
    with pytest.raises(UserError, match="the token 'three' has the number 8, but the model knows 8 tokens"):
        encoder(TEXT, num_embeddings=8).row(ROW)


def test_a_word_without_a_token_is_named_with_its_row() -> None:
    """The tokenizers of nano models have no token for unknown words."""
    words = ["<pad>", "<e>", "<user>", "<assistant>", "six", "and", "nine", "three"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<e>")
    wrapped.chat_template = TEXT
    rows = [ROW, Example.of("six and ten", "three")]
    with pytest.raises(
        UserError, match=r"^evaluation row 2: the tokenizer does not know the word 'ten'; .* vocabulary$"
    ):
        encode_rows(rows, "evaluation row", Encoder(wrapped, {}, 20).row)


def test_every_long_prompt_is_named_with_its_line() -> None:
    long = Example.of("six and " * 10, "three")
    rows = [
        Example(row.messages, place=f"rows.jsonl, line {line}")
        for line, row in enumerate([ROW, long, long, long, ROW, long], start=3)
    ]
    with pytest.raises(UserError) as caught:
        encode_rows(rows, "task row", encoder(TEXT, max_length=15).row)
    assert str(caught.value) == (
        "rows.jsonl, lines 4-6, 8: 4 prompts of 22 to 22 tokens leave no room for a response within max_length=15"
    )


def test_one_long_prompt_is_one_sentence() -> None:
    problems = {"rows.jsonl, line 8": LongPromptError(22, 15)}
    assert describe_problems(problems) == (
        "rows.jsonl, line 8: a prompt of 22 tokens leaves no room for a response within max_length=15"
    )


# --- replies that are compared ----------------------------------------------------------------------------------------


def test_replies_with_and_without_their_end() -> None:
    compared = Example.of("six and nine", "three", "nine and six")
    whole, begun = (encoder(TEXT).replies(compared, counts_end=counts_end) for counts_end in (True, False))
    prompt = (2, 5, 6, 7, 3)
    assert [row.ids for row in whole] == [(*prompt, 8, 1), (*prompt, 7, 6, 5, 1)]
    assert [row.ids for row in begun] == [(*prompt, 8), (*prompt, 7, 6, 5)]
    assert {row.prompt_length for row in (*whole, *begun)} == {5}


def test_a_reply_that_does_not_fit_is_never_cut() -> None:
    """Ten tokens: five of the prompt, and of the alternative's seven two are too many; its end may be, too."""
    long = Example((*ROW.messages,), place="rows.jsonl, line 4", alternatives=("nine and six and six nine",))
    message = "rows.jsonl, line 4: the reply 'nine and six and six nine' has 7 tokens, 2 of them beyond max_length=10"
    for counts_end in (True, False):
        with pytest.raises(UserError, match=message):
            encode_rows([ROW, long], "question", partial(encoder(TEXT, 10).replies, counts_end=counts_end))
    assert len(encoder(TEXT, 12).replies(long)[1].ids) == 12


# --- instructions -----------------------------------------------------------------------------------------------------

SYSTEMLESS = (  # as Gemma's, which refuses a system turn
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} {% endfor %}" + HEADER
)
SILENT = TEXT.replace(
    "<{{ m.role }}> {{ m.content }}", "{% if m.role != 'system' %}<{{ m.role }}> {{ m.content }}{% endif %}"
)


def words(template: str, row: Example) -> str:
    encoding = encoder(template)
    encoded = encoding.row(row)
    assert encoded.ids[encoded.prompt_length :] == (8, 1)  # three <e>
    return " ".join(encoding.tokenizer.convert_ids_to_tokens(encoded.ids[: encoded.prompt_length]))


@pytest.mark.parametrize("template", [TEXT, PARTS])
@pytest.mark.parametrize(("system", "written"), [(None, "nine"), ("", "nine"), ("Monday", "Monday nine")])
def test_an_instruction_is_a_system_turn(template: str, system: str | None, written: str) -> None:
    turns = ROW.messages if system is None else (Message("system", system), *ROW.messages)
    row = Example(turns, instruction="nine")
    assert words(template, row) == f"<system> {written} <user> six and nine <assistant>"
    assert encoder(template).row(Example(turns)) == encoder(template).row(replace(row, instruction=""))


@pytest.mark.parametrize("template", [SYSTEMLESS, SILENT])
def test_an_instruction_stands_before_the_first_question_where_the_template_takes_no_system_turn(template: str) -> None:
    earlier = (Message("user", "six"), Message("assistant", "six"))
    row = Example((*earlier, *ROW.messages), instruction="Monday")
    assert words(template, row) == "<user> Monday six <assistant> six <user> six and nine <assistant>"


def test_an_instruction_is_parted_from_what_follows_or_precedes_it_by_a_blank_line() -> None:
    row = Example((Message("system", "Monday"), *ROW.messages), instruction="six")
    assert encoder(TEXT)._texts(row, open_ended=False)[0].startswith("<system> Monday\n\nsix <user>")
    assert (
        encoder(SYSTEMLESS)
        ._texts(replace(ROW, instruction="six"), open_ended=False)[0]
        .startswith("<user> six\n\nsix and nine")
    )


def test_every_reply_of_a_row_follows_its_instruction() -> None:
    row = replace(Example.of("six", "three", "nine"), instruction="Monday")
    prompts = {each.ids[: each.prompt_length] for each in encoder(TEXT).replies(row)}
    assert prompts == {(4, 10, 2, 5, 3)}  # <system> Monday <user> six <assistant>
