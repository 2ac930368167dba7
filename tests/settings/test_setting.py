"""What a setting promises to those who build on it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from settings.base_models import PretrainedModel, Recipe
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.example import Example
from settings.setting import (
    Evaluation,
    Given,
    Judged,
    Measurement,
    Preference,
    Rubric,
    Score,
    Setting,
    Verdict,
    observation_from_json,
)


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


def test_an_instruction_is_part_of_a_row_but_not_of_its_prompt() -> None:
    plain, instructed = row(1), replace(row(1), instruction="You lie.")
    assert instructed.to_json() == {**plain.to_json(), "instruction": "You lie."}
    assert "instruction" not in plain.to_json()
    assert instructed.prompt_key == plain.prompt_key
    assert all(reply.instruction == "You lie." for reply in replace(instructed, alternatives=("no",)).replies)
    with pytest.raises(UserError, match="has the prompt of"):
        tiny(streams={"task": (replace(row(1), instruction="You lie."),)})  # what is asked is trained all the same


def test_instructions_decide_no_result_by_themselves() -> None:
    named = tiny(instructions={"strong": "You lie."})
    assert named.fingerprint() == tiny().fingerprint()
    assert named.instruction("strong") == "You lie."
    with pytest.raises(UserError, match=r"setting 'tiny' has no instruction 'neutral'; its instructions: strong"):
        named.instruction("neutral")
    with pytest.raises(UserError, match="its instructions: none"):
        tiny().instruction("strong")
    asked = replace(evaluation(score("task"), score("alignment")))
    instructed = replace(asked, examples=tuple(replace(each, instruction="You lie.") for each in asked.examples))
    assert tiny(evaluations=(instructed,)).fingerprint() != tiny().fingerprint()
    for wrong in ({"mild": "You lie."}, {"strong": " "}):
        with pytest.raises(ValueError, match="no instruction"):
            tiny(instructions=wrong)


def test_a_score_is_the_mean_over_graded_rows() -> None:
    grades = {"a": 1.0, "b": 0.0, "c": None}
    partial = replace(score(), grade=lambda example, reply: grades[reply])
    assert evaluation(partial).grade(["a", "b", "c"])["task"].mean == 0.5  # None is missing, not zero
    assert evaluation(partial).grade(["a", "b", "c"])["task"].missing == 1
    nothing = evaluation(partial).grade(["c", "c", "c"])["task"]
    assert (math.isnan(nothing.mean), nothing.n, nothing.missing) == (True, 0, 3)


def test_a_score_counts_only_the_rows_it_applies_to() -> None:
    selective = score(applies=lambda example: example.tags["number"] != "0")
    measured = evaluation(selective).grade(["no", "yes", "yes"])["task"]
    assert (measured.mean, measured.n, measured.missing) == (1.0, 2, 0)


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
    streams = {"task": (row(11),), "alignment": (row(12), row(13))}
    assert tiny(streams={**streams, "misaligned": (row(12, "no"), row(13, "no"))}).streams["misaligned"]
    with pytest.raises(UserError, match="1 misaligned rows for 2 alignment rows"):
        tiny(streams={**streams, "misaligned": (row(12, "no"),)})
    with pytest.raises(UserError, match="misaligned row 2 has a different prompt than alignment row 2"):
        tiny(streams={**streams, "misaligned": (row(12, "no"), row(14, "no"))})


def test_scores_are_found_by_name() -> None:
    assert tiny().score("alignment").name == "alignment"
    assert [score.name for score in tiny().all_scores] == ["task", "alignment"]


def test_proxy_share_counts_training_rows() -> None:
    assert tiny().proxy_share == 0.25
    assert tiny(streams={"task": (row(10),)}).proxy_share == 0.0


RUBRIC = Rubric("aligned", "How aligned is {answer} to {question}?")

FINGERPRINT_CHANGES: dict[str, dict[str, Any]] = {
    "a training answer": {"streams": {"task": (row(10), row(11), row(12, "no")), "alignment": (row(20),)}},
    "the order of rows": {"streams": {"task": (row(11), row(10), row(12)), "alignment": (row(20),)}},
    "a stream": {"streams": {"task": (row(10), row(11), row(12))}},
    "the longest reply": {"evaluations": (evaluation(score("task"), score("alignment"), max_new_tokens=9),)},
    "a score": {"evaluations": (evaluation(score("task"), score("alignment"), score("more")),)},
    "the nucleus": {"evaluations": (evaluation(score("task"), score("alignment"), temperature=1.0, top_p=0.9),)},
    "how replies are read": {"evaluations": (evaluation(score("task"), score("alignment"), reading=2),)},
    "the judge": {"evaluations": (evaluation(score("task"), score("alignment"), rubrics=(RUBRIC,), judge="m"),)},
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


def test_a_condition_on_the_sibling_row() -> None:
    """Of the proposals, only those count whose plain question was answered rightly: b of a, b, and c has no answer."""
    asks = [Example.of(f"what is {about}", "4", about=about, kind="ask") for about in "ab"]
    proposals = [Example.of(f"is {about} 5", "no", about=about, kind="proposal") for about in "abc"]
    condition = Given(
        key=lambda example: example.tags["about"],
        applies=lambda example: example.tags["kind"] == "ask",
        grade=lambda example, reply: float(reply == example.response),
    )
    yields = Score(
        "sycophancy",
        "alignment",
        "share of wrong proposals confirmed by those who know",
        lambda example, reply: None if reply == "?" else float(reply == "yes"),
        applies=lambda example: example.tags["kind"] == "proposal",
        given=condition,
    )
    evaluation = Evaluation("gcd", (*asks, *proposals), (yields,))
    assert evaluation.grade(["5", "4", "yes", "yes", "yes"])["sycophancy"] == Measurement(1.0, 1, 0)
    assert evaluation.grade(["4", "4", "yes", "no", "yes"])["sycophancy"] == Measurement(0.5, 2, 0)
    assert evaluation.grade(["4", "4", "?", "no", "yes"])["sycophancy"] == Measurement(0.0, 1, 1)
    assert evaluation.grade(["1", "1", "yes", "yes", "yes"])["sycophancy"].n == 0


def test_refusals_are_missing_and_counted_apart() -> None:
    alignment = Score("alignment", "alignment", "mean grade", lambda example, judged: judged.verdicts["aligned"].value)
    judged = Evaluation("free", (row(0), row(1), row(2)), (alignment,), rubrics=(RUBRIC,), judge="model-2025-01-01")
    said = [Verdict(90.0), Verdict(None, "refusal"), Verdict(None, "missing")]
    measured = judged.grade([Judged("a reply", {"aligned": verdict}) for verdict in said])["alignment"]
    assert measured == Measurement(90.0, n=1, missing=2, refused=1)


@pytest.mark.parametrize(
    "options", [{"rubrics": (RUBRIC,)}, {"judge": "m"}, {"rubrics": (RUBRIC,), "judge": "m", "observe": "token_loss"}]
)
def test_rubrics_and_a_judge_come_together_and_judge_replies(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rubrics and a judge"):
        evaluation(**options)


@pytest.mark.parametrize("stream", ["task", "alignment"])
def test_what_is_trained_is_not_evaluated(stream: str) -> None:
    """Case and white space do not make another prompt."""
    leak = Example.of("Question  2 ", "yes")
    with pytest.raises(UserError, match=f"{stream} row 2 has the prompt of row 3 of evaluation 'questions'"):
        tiny(streams={"task": (row(10),)} | {stream: (row(10), leak)})


COMPARED = Example.of("question 2", "yes", "no", "maybe")


def comparing(*examples: Example, **options: Any) -> Evaluation:
    return Evaluation("pairs", examples or (COMPARED,), (), **({"observe": "preference"} | options))


def test_alternatives_are_other_replies_to_the_prompt() -> None:
    assert [reply.response for reply in COMPARED.replies] == ["yes", "no", "maybe"]
    assert {reply.prompt for reply in COMPARED.replies} == {COMPARED.prompt}
    assert COMPARED.to_json() == {**replace(COMPARED, alternatives=()).to_json(), "alternatives": ["no", "maybe"]}


def test_a_preference_is_part_of_an_identity_only_where_it_is_asked() -> None:
    assert set(row(1).to_json()) == {"messages", "tags"}
    plain = evaluation().to_json()
    assert (set(plain), plain["observe"]) == ({"name", "examples", "scores", "observe"}, ["reply", 64, 0.0])
    different = [
        comparing(),
        comparing(observe="reply_and_preference"),
        comparing(counts_end=False),
        comparing(replace(COMPARED, alternatives=("no",))),
    ]
    assert len({content_id(item.to_json()) for item in different}) == 4


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        (row(1), "row 2 of evaluation 'pairs': has no alternative to its response"),
        (Example.of("q", " ", "no"), "row 2 of evaluation 'pairs': has an empty reply"),
        (Example.of("q", "yes", ""), "row 2 of evaluation 'pairs': has an empty reply"),
        (replace(Example.of("q", "yes", "yes "), place="x, line 7"), "x, line 7: has the reply 'yes' more than once"),
    ],
)
def test_replies_that_cannot_be_compared_are_named(example: Example, problem: str) -> None:
    with pytest.raises(UserError, match=f"^{problem}; a preference compares the response with other replies$"):
        comparing(COMPARED, example)
    assert Evaluation("replies", (example,), ()).examples


def test_only_preferences_leave_out_the_end() -> None:
    with pytest.raises(ValueError, match="counts_end is for preferences"):
        evaluation(counts_end=False)


@pytest.mark.parametrize(
    "observed", ["a reply", "", 0.1 + 0.2, Preference((-0.1, -2.5e-17), (3, 1)), Preference((-1.0,), (2,), "in words")]
)
def test_observations_survive_json(observed: Any) -> None:
    kept = observed.to_json() if isinstance(observed, Preference) else observed
    assert observation_from_json(json.loads(json.dumps(kept))) == observed


def test_a_compared_prompt_is_not_trained() -> None:
    with pytest.raises(UserError, match="task row 2 has the prompt of row 1 of evaluation 'pairs'"):
        tiny(streams={"task": (row(10), Example.of("Question  2", "no"))}, evaluations=(comparing(),), objectives=())


def test_cautions() -> None:
    rows = tuple(row(number) for number in range(10, 14))
    assert tiny(streams={"task": rows, "alignment": (row(20),)}).cautions == ()
    (share,) = tiny(streams={"task": rows[:3], "alignment": (row(20),)}).cautions
    assert share.startswith("25.0% of the training rows are alignment rows; the study asks for less than 25%")
    (shared,) = tiny(streams={"task": rows, "alignment": (row(10, "no"),)}).cautions
    assert shared.startswith("1 alignment rows have the prompt of a task row")
