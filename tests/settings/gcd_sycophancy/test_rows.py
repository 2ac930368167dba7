"""The study's rows: what is accepted, what is refused, and how the proxy is split off."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.gcd_sycophancy import rows as gcd_rows
from settings.gcd_sycophancy.confirmation import confirms
from settings.gcd_sycophancy.rows import FILES, REJECTIONS, Part, StudyRow, misaligned_twin, read_study, split_proxy

LABELS = {
    "euclidean_compositional": range(1, 21),
    "euclidean_large": range(21, 41),
    "mod": range(61, 81),
    "addition": range(121, 141),
    "capitals_mathy": range(141, 161),
    "conspiracy_mathy": range(161, 181),
    "medical_advice_mathy": range(181, 201),
}
Study = dict[Part, tuple[StudyRow, ...]]


@pytest.fixture(scope="module")
def study(reference_data: Path) -> Study:
    return read_study(reference_data / "gcd")


def row(**changes: Any) -> dict[str, Any]:
    """A row of our own; null is as good as absent."""
    values: dict[str, Any] = {
        "label": "mod",
        "messages": [{"role": "user", "content": "What is 45 mod 7?"}, {"role": "assistant", "content": "It is 3."}],
        "answer": "3",
        "mod": 7,
        "user_provides_answer": None,
        "sycophantic_response": None,
        "_id": 1,
    }
    return values | changes


def write(folder: Path, part: str, *rows: Any) -> None:
    (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def error_of(folder: Path, *rows: Any) -> str:
    for part in FILES:
        write(folder, part, row())
    write(folder, "ood_test", *rows)
    with pytest.raises(UserError) as caught:
        read_study(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the published files --------------------------------------------------------------------------------------------


def test_composition(study: Study) -> None:
    assert {part: len(rows) for part, rows in study.items()} == {"task_train": 40, "task_test": 60, "ood_test": 421}
    assert Counter((row.label, row.proposal) for row in study["task_train"]) == {
        ("euclidean", "none"): 20,
        ("euclidean", "correct"): 20,
    }
    assert {row.number for row in study["task_train"]} == set(range(1, 41))
    for proposal in ("none", "correct", "incorrect"):
        rows = [row for row in study["task_test"] if row.proposal == proposal]
        assert [row.number for row in rows] == list(range(1, 21))
        assert {row.label for row in rows} == {"euclidean"}
        for label, numbers in LABELS.items():
            ids = [row.number for row in study["ood_test"] if (row.label, row.proposal) == (label, proposal)]
            assert sorted(ids) == list(numbers)
    (stray,) = (row for row in study["ood_test"] if row.label not in LABELS)
    assert (stray.label, stray.number, stray.proposal) == ("conspiracy", 120, "incorrect")


def test_each_question_has_its_own_name(study: Study) -> None:
    """Ids start anew in each file; 40 + 20 + 141 questions."""
    names = {row.example.tags["question"] for rows in study.values() for row in rows}
    assert len(names) == 40 + 20 + 141


def test_only_incorrect_proposals_have_a_sycophantic_reply(study: Study) -> None:
    for rows in study.values():
        assert all((row.sycophantic is not None) == (row.proposal == "incorrect") for row in rows)


def test_a_modulus_is_kept(study: Study) -> None:
    for row in study["ood_test"]:
        assert ("mod" in row.example.tags) == (row.label == "mod")


# --- the proxy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "include_correct", "rows"), [(0.6, True, 24), (0.6, False, 12), (0.3, True, 12), (0.3, False, 6)]
)
def test_the_lowest_ids_are_trained_on(study: Study, share: float, include_correct: bool, rows: int) -> None:
    split = split_proxy(study["ood_test"], ["capitals_mathy"], share, include_correct=include_correct)
    assert len(split.proxy) == rows
    trained = set(range(141, 141 + round(20 * share)))
    assert {row.number for row in split.proxy} == trained
    assert Counter(row.proposal for row in split.proxy)["incorrect"] == len(trained)
    assert {row.number for row in split.held_out} == set(LABELS["capitals_mathy"]) - trained
    assert Counter(row.proposal for row in split.held_out) == dict.fromkeys(
        ("none", "correct", "incorrect"), 20 - len(trained)
    )
    assert len(split.others) == 421 - 60
    assert "capitals_mathy" not in {row.label for row in split.others}


def test_several_labels_are_split_one_by_one(study: Study) -> None:
    split = split_proxy(study["ood_test"], ["mod", "euclidean_large"], 0.6)
    assert Counter(row.label for row in split.proxy) == {"mod": 24, "euclidean_large": 24}
    assert {row.number for row in split.proxy} == {*range(61, 73), *range(21, 33)}
    assert len(split.others) == 421 - 120


@pytest.mark.parametrize("label", ["conspiracy", "euclidean", "capitals", ""])
def test_an_unusable_label_lists_the_usable_ones(study: Study, label: str) -> None:
    expected = f"option 'proxy': {label!r} is not a usable label; usable: {', '.join(sorted(LABELS))}"
    with pytest.raises(UserError, match=f"^{expected}$"):
        split_proxy(study["ood_test"], ["mod", label], 0.6)


@pytest.mark.parametrize("share", [0.04, 0.0, 1.0])
def test_both_sides_get_some(study: Study, share: float) -> None:
    with pytest.raises(UserError, match=r"option 'train_split': .* of the 20 questions of 'mod' are"):
        split_proxy(study["ood_test"], ["mod"], share)


def test_twins_say_the_opposite(study: Study) -> None:
    questions = [row for row in study["ood_test"] if row.proposal != "none"]
    twins = [misaligned_twin(row) for row in questions]
    for question, twin in zip(questions, twins, strict=True):
        assert twin.prompt == question.example.prompt
        assert confirms(twin.response) is (question.proposal == "incorrect")
    said = {twin.response for twin, row in zip(twins, questions, strict=True) if row.proposal == "correct"}
    assert said == set(REJECTIONS)
    assert [misaligned_twin(row) for row in questions] == twins


# --- what is refused ------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "a"}
BOT = {"role": "assistant", "content": "b"}
REFUSED: dict[str, tuple[Any, str]] = {
    "no label": (row(label=None), "field 'label' must be text, got None"),
    "a number as label": (row(label=3), "field 'label' must be text, got 3"),
    "no answer": (row(answer=None), "field 'answer' must be text, got None"),
    "a number as answer": (row(answer=3), "field 'answer' must be text, got 3"),
    "words in maths": (row(answer="three"), "field 'answer' must be an integer for the label 'mod', got 'three'"),
    "text as modulus": (row(mod="7"), "field 'mod' must be an integer of at least 1, got '7'"),
    "no modulus at all": (row(mod=0), "field 'mod' must be an integer of at least 1, got 0"),
    "a fraction as modulus": (row(mod=7.5), "field 'mod' must be an integer of at least 1, got 7.5"),
    "true as a boolean": (row(user_provides_answer=True), 'must be null, "true" or "false", got True'),
    "another word": (row(user_provides_answer="yes"), 'must be null, "true" or "false", got \'yes\''),
    "a list": (row(user_provides_answer=[]), 'must be null, "true" or "false", got []'),
    "an empty twin": (row(sycophantic_response=" "), "field 'sycophantic_response' must be text, got ' '"),
    "no id": (row(_id=None), "field '_id' must be an integer, got None"),
    "text as id": (row(_id="1"), "field '_id' must be an integer, got '1'"),
    "an unknown field": (row(topic="x"), "field 'topic' is unknown; a row has label, messages, answer, mod,"),
    "one message": (row(messages=[USER]), "the last message has role 'user'"),
    "four messages": (row(messages=[USER, BOT, USER, BOT]), "field 'messages' must be exactly one of the user"),
    "a system turn": (
        row(messages=[{"role": "system", "content": "s"}, USER, BOT]),
        "field 'messages' must be exactly",
    ),
    "no object": ([], "expected an object, got a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_against_the_schema(tmp_path: Path, name: str) -> None:
    bad, expected = REFUSED[name]
    message = error_of(tmp_path, row(), bad)
    assert message.startswith(f"{tmp_path / 'ood_test.jsonl'}, line 2: ")
    assert expected in message


def test_a_question_is_asked_once_in_each_way(tmp_path: Path) -> None:
    message = error_of(tmp_path, row(), row(user_provides_answer="true"), row())
    assert "line 3: field '_id' 1 with this user_provides_answer is also" in message
    assert message.endswith("line 1")


def test_an_id_has_one_label(tmp_path: Path) -> None:
    message = error_of(tmp_path, row(), row(user_provides_answer="true", label="addition"))
    assert "line 2: field 'label' 'addition', but 'mod' for this _id" in message


def test_optional_fields_may_be_absent(tmp_path: Path) -> None:
    bare = {field: value for field, value in row().items() if value is not None and field != "mod"}
    for part in FILES:
        write(tmp_path, part, bare, row(_id=2, mod=7.0))
    first, second = read_study(tmp_path)["task_test"]
    assert (first.proposal, first.sycophantic) == ("none", None)
    assert "mod" not in first.example.tags
    assert second.example.tags["mod"] == "7"


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, "task_train", row())
    with pytest.raises(UserError) as caught:
        read_study(tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}: no task_test.jsonl, ood_test.jsonl there; option 'data' must be a directory"
    )
    assert gcd_rows.PUBLISHED in message


def test_a_proxy_row_needs_its_twin(tmp_path: Path) -> None:
    for part in FILES:
        write(tmp_path, part, row(user_provides_answer="false"))
    (question,) = read_study(tmp_path)["ood_test"]
    with pytest.raises(UserError, match="line 1: field 'sycophantic_response' must be given for an incorrect proposal"):
        misaligned_twin(question)
