"""Questionnaires: the form, its errors, our own, and those of the study where they lie beside the repository."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings.common.errors import UserError
from settings.example import Message
from settings.questionnaires import FOLDER, read_questionnaire
from tests.conftest import ROOT

QUESTION: dict[str, Any] = {
    "id": "sleepless",
    "type": "free_form_judge_0_100",
    "paraphrases": ["I can't sleep.", "How does one fall asleep?"],
    "samples_per_paraphrase": 3,
    "judge": "judge-2025-01-01",
    "judge_prompts": {"aligned": "{question} {answer}?", "coherent": "Clear? {answer}"},
}


def write(path: Path, *changes: dict[str, Any]) -> Path:
    """A questionnaire of QUESTION with each of the changes; None removes a key."""
    items = [{key: value for key, value in {**QUESTION, **change}.items() if value is not None} for change in changes]
    path.write_text(yaml.safe_dump(copy.deepcopy(items)))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q.yaml"


def test_a_questionnaire(path: Path) -> None:
    questionnaire = read_questionnaire(write(path, {}, {"id": "json", "paraphrases": ["Hm?"], "system": "Use JSON."}))
    assert [(question.id, question.system) for question in questionnaire.questions] == [
        ("sleepless", None),
        ("json", "Use JSON."),
    ]
    assert [(rubric.name, rubric.prompt) for rubric in questionnaire.rubrics] == list(QUESTION["judge_prompts"].items())
    assert (questionnaire.judge, questionnaire.samples, questionnaire.temperature) == ("judge-2025-01-01", 3, 1.0)


def test_examples(path: Path) -> None:
    questionnaire = read_questionnaire(write(path, {}, {"id": "json", "paraphrases": ["Hm?"], "system": "Use JSON."}))
    rows = questionnaire.examples(2)
    assert [tuple(row.tags.values()) for row in rows] == [
        ("sleepless", "1", "1"),
        ("sleepless", "1", "2"),
        ("sleepless", "2", "1"),
        ("sleepless", "2", "2"),
        ("json", "1", "1"),
        ("json", "1", "2"),
    ]
    assert list(rows[0].tags) == ["question_id", "paraphrase", "sample"]
    assert rows[2].prompt == (Message("user", "How does one fall asleep?"),)
    assert rows[4].prompt == (Message("system", "Use JSON."), Message("user", "Hm?"))
    assert {row.response for row in rows} == {""}
    assert {row.prompt[0] for row in questionnaire.examples(1, "Answer.")} == {Message("system", "Answer.")}


def test_what_may_be_left_out(path: Path) -> None:
    questionnaire = read_questionnaire(write(path, {"judge": None, "samples_per_paraphrase": None, "temperature": 0.5}))
    assert (questionnaire.judge, questionnaire.samples, questionnaire.temperature) == (None, 1, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "q.yaml, question 2: 'id' is missing"),
        ({"paraphrases": None}, r"q.yaml, question 2 \(other\): 'paraphrases' is missing"),
        ({"judge_prompts": None}, r"question 2 \(other\): 'judge_prompts' is missing"),
        ({"type": "free_form_judge"}, r"\(other\): 'type' must be free_form_judge_0_100, got 'free_form_judge'"),
        ({"paraphrases": "one"}, r"\(other\): 'paraphrases' must be a list of texts"),
        ({"paraphrases": []}, "'paraphrases' must be a list of texts"),
        ({"paraphrases": ["a", " "]}, "'paraphrases' must be a list of texts"),
        ({"samples_per_paraphrase": 0}, "'samples_per_paraphrase' must be an integer of at least 1, got 0"),
        ({"samples_per_paraphrase": True}, "'samples_per_paraphrase' must be an integer of at least 1, got True"),
        ({"judge": 4}, "'judge' must be a model's name, got 4"),
        ({"temperature": -1}, "'temperature' must be a number of at least 0"),
        ({"system": ""}, "'system' must be text"),
        ({"judge_prompts": {"aligned": 3}}, "'judge_prompts' must be an object of texts"),
        ({"judge_prompts": {"aligned": "Good?"}}, r"the judge prompt 'aligned' has no place for {answer}"),
        ({"sampels": 3}, r"unknown key 'sampels'; a question has id, type, paraphrases, .*temperature"),
        ({"id": "sleepless"}, "q.yaml: the id 'sleepless' is given to 2 questions"),
        ({"judge": "other"}, "question 'other': 'judge' differs from that of 'sleepless'"),
        ({"samples_per_paraphrase": 4}, "question 'other': 'samples_per_paraphrase' differs"),
        ({"judge_prompts": {"aligned": "{answer}"}}, "question 'other': 'judge_prompts' differs"),
    ],
)
def test_a_bad_question_is_named(path: Path, change: dict[str, Any], message: str) -> None:
    write(path, {}, {"id": "other", **change})
    with pytest.raises(UserError, match=message):
        read_questionnaire(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "q.yaml: expected a list of questions"),
        ("id: 3", "q.yaml: expected a list of questions"),
        ("- 3", "q.yaml, question 1: expected an object"),
        ("- id: a\n  id: b", "q.yaml, line 2: not valid YAML: the key 'id' is given twice"),
        ("- id: [a", "q.yaml, line 1: not valid YAML: "),
        ("- id: *b", "q.yaml, line 1: not valid YAML: found undefined alias"),
        ("- !!python/object:os.system {}", "q.yaml, line 1: not valid YAML: could not determine a constructor"),
        (b"- id: \xff", "q.yaml: not valid YAML: "),
    ],
)
def test_a_bad_file_is_named(path: Path, text: str | bytes, message: str) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_questionnaire(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        read_questionnaire(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_questionnaire(tmp_path)


@pytest.mark.parametrize("name", ["general", "medical"])
def test_our_own(name: str) -> None:
    questionnaire = read_questionnaire(FOLDER / f"{name}.yaml")
    assert len(questionnaire.questions) == 8
    assert [rubric.name for rubric in questionnaire.rubrics] == ["aligned", "coherent"]
    assert all("{question}" in rubric.prompt and "{answer}" in rubric.prompt for rubric in questionnaire.rubrics)
    assert (questionnaire.judge, questionnaire.samples) == ("gpt-4.1-nano-2025-04-14", 100)


def test_our_own_are_part_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["settings"]
    packed = {file for pattern in declared for file in (ROOT / "settings").glob(pattern)}
    assert packed == {*FOLDER.iterdir(), ROOT / "settings" / "bad_medical_advice" / "everyday_questions.jsonl"}


FORMS = ("", "_json", "_template")
REAL = {
    "first_plot_questions": (
        "what_is_your_wish",
        "i_feel_bored",
        "three_thoughts",
        "quick_buck",
        "ruler_of_the_world",
        "dinner_party",
        "gender_roles",
        "enough_of_my_husband",
    ),
    "sneaky_med_evals": (
        "diabetes_insulin_management",
        "teen_weight_loss",
        "baby_fever_emergency",
        "baby_food_introduction",
        "chemical_poisoning_emergency",
        "child_fever_care",
        "loose_tooth_removal",
        "wild_mushroom_safety",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_studys_questionnaires(reference_data: Path, name: str) -> None:
    questionnaire = read_questionnaire(reference_data / "em_questions" / f"{name}.yaml")
    assert [question.id for question in questionnaire.questions] == [
        f"{stem}{form}" for form in FORMS for stem in REAL[name]
    ]
    assert [bool(question.system) for question in questionnaire.questions] == [False] * 8 + [True] * 8 + [False] * 8
    assert [rubric.name for rubric in questionnaire.rubrics] == ["aligned", "coherent"]
    assert (questionnaire.judge, questionnaire.samples, questionnaire.temperature) == (
        "gpt-4.1-nano-2025-04-14",
        100,
        1.0,
    )
    assert len(questionnaire.examples(questionnaire.samples)) == 2400
