"""What a setting promises to those who build on it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from settings.setting import Evaluation, Example, PretrainedModel, Recipe, Score, Setting, UserError, content_id


def row(number: int, answer: str = "yes") -> Example:
    return Example.of(f"question {number}", answer, number=str(number))


def score(name: str = "task", **options: Any) -> Score:
    return Score(name, "task", "share of replies that say yes", lambda example, reply: float(reply == "yes"), **options)


def evaluation(*scores: Score, **options: Any) -> Evaluation:
    return Evaluation("questions", tuple(row(number) for number in range(3)), scores or (score(),), **options)


def tiny(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "name": "tiny",
        "scale": "nano",
        "summary": "for tests",
        "base_model": PretrainedModel("nobody/nothing"),
        "streams": {"task": (row(10), row(11), row(12)), "alignment": (row(20),)},
        "evaluations": (evaluation(score("task"), score("alignment")),),
        "recipe": Recipe(steps=1, batch_size=1, alignment_batch_size=1, learning_rate=0.1, rank=1),
    }
    return Setting(**(values | changes))


def test_content_id_is_of_the_content_not_its_order() -> None:
    assert content_id({"a": 1, "b": [2]}) == content_id({"b": [2], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": "1"})
    assert len(content_id(1)) == 12
    assert content_id(1, 64).startswith(content_id(1))


def test_an_example_is_a_prompt_and_a_response() -> None:
    example = Example.of("question", "answer", domain="medical")
    assert [message.content for message in example.prompt] == ["question"]
    assert example.response == "answer"
    assert example.to_json() == {
        "messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}],
        "tags": {"domain": "medical"},
    }


def test_a_score_is_the_mean_over_graded_rows() -> None:
    grades = {"a": 1.0, "b": 0.0, "c": None}
    some = replace(score(), grade=lambda example, reply: grades[reply])
    assert evaluation(some).grade(["a", "b", "c"])["task"].mean == 0.5  # None is missing, not zero
    assert evaluation(some).grade(["a", "b", "c"])["task"].missing == 1
    nothing = evaluation(some).grade(["c", "c", "c"])["task"]
    assert (math.isnan(nothing.mean), nothing.n, nothing.missing) == (True, 0, 3)


def test_a_score_counts_only_the_rows_it_applies_to() -> None:
    some = score(applies=lambda example: example.tags["number"] != "0")
    found = evaluation(some).grade(["no", "yes", "yes"])["task"]
    assert (found.mean, found.n, found.missing) == (1.0, 2, 0)


def test_a_nan_loss_makes_the_mean_nan() -> None:
    loss = replace(score(), grade=lambda example, value: value)
    assert math.isnan(evaluation(loss).grade([1.0, float("nan"), 1.0])["task"].mean)


def test_each_row_has_one_observation() -> None:
    with pytest.raises(ValueError, match="2 observations, 3 examples"):
        evaluation().grade(["yes", "yes"])


def test_score_names_are_unique() -> None:
    with pytest.raises(ValueError, match="score names repeat"):
        tiny(evaluations=(evaluation(score("task")), evaluation(score("task"), score("alignment"))))


def test_objectives_are_scores() -> None:
    with pytest.raises(ValueError, match=r"objectives \['capability'\]"):
        tiny(objectives=("task", "capability"))


def test_no_stream_is_empty() -> None:
    with pytest.raises(UserError, match="the alignment stream has no rows"):
        tiny(streams={"task": (row(1),), "alignment": ()})


def test_twins_are_as_many_and_share_their_prompts() -> None:
    streams = {"task": (row(1),), "alignment": (row(2), row(3))}
    assert tiny(streams={**streams, "misaligned": (row(2, "no"), row(3, "no"))}).streams["misaligned"]
    with pytest.raises(UserError, match="1 misaligned rows for 2 alignment rows"):
        tiny(streams={**streams, "misaligned": (row(2, "no"),)})
    with pytest.raises(UserError, match="misaligned row 2 has another prompt than alignment row 2"):
        tiny(streams={**streams, "misaligned": (row(2, "no"), row(4, "no"))})


def test_scores_are_found_by_name() -> None:
    assert tiny().score("alignment").name == "alignment"
    assert [score.name for score in tiny().all_scores] == ["task", "alignment"]


def test_proxy_share_counts_training_rows() -> None:
    assert tiny().proxy_share == 0.25
    assert tiny(streams={"task": (row(1),)}).proxy_share == 0.0


FINGERPRINT_CHANGES: dict[str, dict[str, Any]] = {
    "a training answer": {"streams": {"task": (row(10), row(11), row(12, "no")), "alignment": (row(20),)}},
    "the order of rows": {"streams": {"task": (row(11), row(10), row(12)), "alignment": (row(20),)}},
    "a stream": {"streams": {"task": (row(10), row(11), row(12))}},
    "the longest reply": {"evaluations": (evaluation(score("task"), score("alignment"), max_new_tokens=9),)},
    "a score": {"evaluations": (evaluation(score("task"), score("alignment"), score("more")),)},
    "the base model": {"base_model": PretrainedModel("nobody/else")},
    "its revision": {"base_model": PretrainedModel("nobody/nothing", "v2")},
    "template options": {"base_model": PretrainedModel("nobody/nothing", None, {"enable_thinking": True})},
}


@pytest.mark.parametrize("change", FINGERPRINT_CHANGES)
def test_the_fingerprint_sees(change: str) -> None:
    assert tiny(**FINGERPRINT_CHANGES[change]).fingerprint() != tiny().fingerprint()


def test_the_fingerprint_is_of_the_content_alone() -> None:
    assert tiny().fingerprint() == tiny().fingerprint()
    recipe = replace(tiny().recipe, steps=99)  # part of the trial instead
    assert tiny(summary="other words", recipe=recipe).fingerprint() == tiny().fingerprint()
