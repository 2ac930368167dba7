"""Files of questions with several replies: every form, every mistake, and the scores, by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.example import Example
from settings.preferences import pair, preference_scores, read_preferences, read_twins
from settings.setting import SHARE, Evaluation, Preference

GOOD, BAD = "Paris.", "Rome."
TARGETS = {"choices": [BAD, GOOD], "labels": [0, 1]}
FORMS: dict[str, dict[str, Any]] = {
    "chat": {"messages": Example.of("Capital?", GOOD).to_json()["messages"], "alternatives": [BAD]},
    "hhh": {"input": "Capital?", "targets": TARGETS},
    "truthful": {"question": "Capital?", "mc1_targets": TARGETS, "mc2_targets": {"choices": ["x"], "labels": [1]}},
    "by label": {"question": "Capital?", "mc1_targets": {BAD: 0, GOOD: 1}},
    "mmlu": {"question": "Capital?", "choices": [BAD, GOOD], "answer": 1},
}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_question(form: str, tmp_path: Path) -> None:
    lines = written(tmp_path / "rows.jsonl", FORMS[form] | {"category": "places", "nothing": None})
    (tmp_path / "rows.json").write_text(json.dumps([FORMS[form] | {"category": "places"}]))
    expected = Example.of("Capital?", GOOD, BAD, category="places")
    assert read_preferences(lines).examples == read_preferences(tmp_path / "rows.json").examples == (expected,)
    assert read_preferences(lines).examples[0].place == f"{lines}, line 1"


def test_several_good_choices_are_a_row_each_and_repeated_ones_count_once(tmp_path: Path) -> None:
    targets = {"choices": ["a", "b", "c", "c", "d "], "labels": [1, 0, 1, 1, 0]}
    targets["choices"][4] = "b "  # the same reply once more
    path = written(tmp_path / "rows.jsonl", {"question": "Which?", "mc2_targets": targets})
    assert [(row.response, row.alternatives) for row in read_preferences(path).examples] == [
        ("a", ("b ",)),
        ("c", ("b ",)),
    ]


def test_a_pair_of_the_usual_form(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "q", "chosen": "good", "rejected": "bad", "topic": "x"}\n')
    assert read_preferences(path).examples == (Example.of("q", "good", "bad", topic="x"),)


def test_a_table(tmp_path: Path) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text(
        "\ufeffType,Question,Best Answer,Correct Answers,Incorrect Answers\n"
        'x,"What, then?","Nothing, really",Nothing; Nil,Much; "So" ;\n',
        encoding="utf-8",
    )
    assert read_preferences(path).examples == (Example.of("What, then?", "Nothing, really", "Much", '"So"'),)
    path.write_text("Question,Answer\nq,a\n")
    with pytest.raises(UserError, match=r'line 2 has the columns Question, Answer; .* {"Best Answer": "Answer"}`$'):
        read_preferences(path)


MISTAKES: dict[str, tuple[Any, str]] = {
    "no object": ([1], "expected an object; settings/README.md"),
    "another form": ({"question": "q", "reply": "r"}, "has the columns question, reply; say which is which, "),
    "no alternatives": ({"messages": FORMS["chat"]["messages"]}, "has the columns messages, and not 'alternatives'"),
    "other names": (
        {"question": "q", "options": ["a"], "key": 0},
        '`"columns": {"choices": "options", "answer": "key"}`$',
    ),
    "a pair of other names": (
        {"prompt": "q", "good": "a", "bad": "b"},
        'e.g. `"columns": {"chosen": "good", "rejected": "bad"}`',
    ),
    "texts of other names": (
        {"ask": "q", "good": "a", "bad": "b"},
        'e.g. `"columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}`',
    ),
    "an empty alternative": (FORMS["chat"] | {"alternatives": [" "]}, "'alternatives' must be a list of texts"),
    "no good choice": ({"input": "q", "targets": {"choices": ["a"], "labels": [0]}}, "0 good and 1 other choices"),
    "fewer labels": ({"input": "q", "targets": {"choices": ["a", "b"], "labels": [0]}}, "one label for each"),
    "other labels": ({"input": "q", "targets": {"choices": ["a", "b"], "labels": [1, 2]}}, "labels are 1 for a good"),
    "no targets": ({"question": "q", "mc1_targets": "a"}, "'mc1_targets': expected"),
    "no place": ({"question": "q", "choices": ["a", "b"], "answer": 2}, "'answer' must be the place .* 0 to 1, got 2"),
    "no question": (FORMS["hhh"] | {"input": 3}, "the question must be text, got 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_line(mistake: str, tmp_path: Path) -> None:
    row, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=f"rows.jsonl, line 2.*{message}") as caught:
        read_preferences(written(tmp_path / "rows.jsonl", FORMS["hhh"], row))
    assert "\n" not in str(caught.value)


def test_twins_become_pairs(tmp_path: Path) -> None:
    good, bad = (
        written(tmp_path / f"{reply}.jsonl", {"messages": Example.of("Capital?", reply).to_json()["messages"]})
        for reply in (GOOD, BAD)
    )
    assert [pair(*twins) for twins in read_twins(good, bad)] == [Example.of("Capital?", GOOD, BAD)]


def test_real_pairs_can_be_asked(reference_data: Path) -> None:
    folder = reference_data / "alignment_proxies"
    pairs = [
        pair(*twins)
        for subset in ("harmless", "helpful", "honest")
        for twins in read_twins(folder / f"{subset}_positive.jsonl", folder / f"{subset}_negative.jsonl")
    ]
    assert len(Evaluation("pairs", tuple(pairs), (), "preference").examples) == 178


def test_scores_by_hand() -> None:
    """Three questions: won as a whole by 1 nat, lost by 2, won by 4; per token lost by 1, won by .5, won by 1."""
    rows = tuple(Example.of(f"q{number}", "good", "bad", "worse") for number in range(3))
    observed = [
        Preference((-4.0, -5.0, -9.0), (2, 5, 1)),  # -2, -1, -9
        Preference((-6.0, -4.0, -8.0), (4, 2, 2)),  # -1.5, -2, -4
        Preference((-2.0, -6.0, -6.0), (1, 2, 1)),  # -2, -3, -6
    ]
    evaluation = Evaluation("pairs", rows, preference_scores("pairs", "alignment", "pairs"), "preference")
    measured = {name: measurement.mean for name, measurement in evaluation.grade(observed).items()}
    assert measured == pytest.approx(
        {"pairs": 2 / 3, "pairs_margin": 1.0, "pairs_per_token": 2 / 3, "pairs_margin_per_token": 1 / 6}
    )
    assert [score.ends for score in evaluation.scores] == [SHARE, (None, None), SHARE, (None, None)]
    assert pickle.loads(pickle.dumps(evaluation.scores[2].grade)).keywords == {"per_token": True}
