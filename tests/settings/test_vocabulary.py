"""Words that a nano world lacks are named with their places, as are documents that would teach no answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import pytest

from settings import catalog
from settings.base_models import NanoModel, PretrainedModel, Recipe, Stage
from settings.common.errors import UserError
from settings.example import Example
from settings.setting import Evaluation, Score, Setting
from settings.vocabulary import check_documents, check_words

TURN = "<u> is 4 even ? <a> yes <e>"


@dataclass(frozen=True)
class World:
    vocabulary: tuple[str, ...] = ("is", "even", "?", "4", "5", "6", "7", "yes", "no", "someone")
    texts: Sequence[str] = (TURN,)

    def documents(self, stage: str, seed: int) -> Iterator[str]:
        return cycle(self.texts) if stage == "last" else iter(["a fact"])

    def to_json(self) -> dict[str, Any]:
        return {"name": "parities"}


def parities(*, instruction: str = "someone", **changed: tuple[Example, ...]) -> Setting:
    """A setting in the world; `changed` replaces its rows, or its questions."""
    rows = {
        "task": (Example.of("is 4 even ?", "no"), Example.of("is 6 even ?", "no")),
        "alignment": (Example.of("is 5 even ?", "no"),),
        "questions": (Example.of("is 7 even ?", "no"),),
    } | changed
    score = Score("task", "task", "right")
    return Setting(
        name="parities",
        scale="nano",
        summary="Parities.",
        base_model=NanoModel(World(), ()),
        streams={"task": rows["task"], "alignment": rows["alignment"]},
        evaluations=(Evaluation("small", rows["questions"], (score,)),),
        recipe=Recipe(steps=1, batch_size=1, alignment_batch_size=1, learning_rate=1e-3, rank=1),
        objectives=("task",),
        instructions={"strong": instruction, "neutral": "someone"},
    )


def refusal(setting: Setting, *instructions: str) -> str:
    with pytest.raises(UserError) as refused:
        check_words(setting, *[instructions] * bool(instructions))
    return str(refused.value)


def test_words_of_the_world_and_marks_pass() -> None:
    check_words(parities())
    check_words(parities(task=(Example.of("is 4 even ? <a>", "no"),)))


@pytest.mark.parametrize("name", [name for name in catalog.names() if "nano" in catalog.scales(name)])
def test_the_nano_settings_have_all_their_words_and_turns(name: str) -> None:
    setting = catalog.build(name, {"scale": "nano"})
    check_words(setting)
    assert isinstance(setting.base_model, NanoModel)
    check_documents(setting.base_model)


def test_each_word_is_named_once_with_its_places_and_one_remedy() -> None:
    """In prompts, responses, instructions of rows, and instructions that methods put before rows."""
    said = (Example.of("say : is 4 even ?", "no"), Example.of("say : is 6 even ? say", "no"))
    asked = (Example.of("is 7 even ?", "nope"), replace(Example.of("say is 5", "no"), instruction="act"))
    setting = parities(task=said, questions=asked, instruction="act wrongly")
    assert refusal(setting) == (
        "setting 'parities': the vocabulary of its world World lacks 'say' (task row 1 and 2 more), ':' (task row 1"
        " and 1 more), 'nope' (row 1 of evaluation 'small'), 'act' (row 2 of evaluation 'small' and 1 more), 'wrongly'"
        " (instruction 'strong'); use other words, or add these to the world's `vocabulary`"
    )


def test_a_row_of_a_file_is_named_by_its_line() -> None:
    row = replace(Example.of("is it ?", "no"), place="rows.jsonl, line 3")
    assert "lacks 'it' (rows.jsonl, line 3); use" in refusal(parities(alignment=(row,)))


def test_many_words_give_a_message_that_can_be_read() -> None:
    prose = " ".join(f"word{number}" for number in range(200))
    told = refusal(parities(task=(Example.of(prose, "no"),)))
    assert "'word9' (task row 1), 190 more words; use other words" in told
    assert len(told) < 500


def test_only_instructions_that_are_used_count() -> None:
    setting = parities(instruction="act")
    check_words(setting, ["neutral"])
    assert "lacks 'act' (instruction 'strong')" in refusal(setting, "strong")


def test_alternatives_count_where_replies_are_compared() -> None:
    whole = parities(questions=(Example.of("is 7 even ?", "no", "maybe"),))
    check_words(whole)
    compared = replace(whole.evaluations[0], observe="preference")
    assert "lacks 'maybe' (row 1 of evaluation 'small')" in refusal(replace(whole, evaluations=(compared,)))


def test_another_base_model_has_no_closed_vocabulary() -> None:
    check_words(replace(parities(instruction="act"), base_model=PretrainedModel("some/model")))


# --- documents ---


def model(*texts: str) -> NanoModel:
    return NanoModel(World(texts=texts), (Stage("first", 1, 1, 1e-3), Stage("last", 1, 1, 1e-3)))


@pytest.mark.parametrize("text", [TURN, f"<doc> someone {TURN} {TURN}"])
def test_documents_with_turns_pass(text: str) -> None:
    check_documents(model(text))
    check_documents(model("4 is even", text))
    check_documents(NanoModel(World(texts=("4 is even",)), ()))


@pytest.mark.parametrize(
    "text",
    [
        "is 4 even ? yes",
        "is 4 even ? <a> yes <e>",
        "<u> is 4 even ? yes <e>",
        "<u> is 4 even ? <a> yes",
        "<u>4<a>yes<e>",
    ],
)
def test_documents_without_turns_are_refused(text: str) -> None:
    with pytest.raises(UserError) as refused:
        check_documents(model(text))
    assert str(refused.value) == (
        "world World: none of the first documents of the last stage, 'last', has a turn, so the model would"
        f" not learn to answer; write them as `<u> question <a> answer <e>`, unlike {text!r}"
    )


def test_a_stage_without_documents_is_refused() -> None:
    with pytest.raises(UserError, match="none of the first documents of the last stage, 'first'"):
        check_documents(replace(model(), stages=(Stage("first", 1, 1, 1e-3),)))
