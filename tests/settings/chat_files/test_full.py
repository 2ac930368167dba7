"""Settings from files: splits, leaks, scores, paths, and real rows with tiny checkpoints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from settings import catalog
from settings.base_models import PretrainedModel
from settings.chat_files import full as chat_files
from settings.common.errors import UserError
from settings.example import Example, Message
from settings.setting import Setting

MODEL = "Qwen/Qwen3-8B"
Writer = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write rows of (question, answer) to a file; a number n writes n rows of its own questions."""

    def write(name: str, rows: int | list[tuple[str, str]]) -> str:
        if isinstance(rows, int):
            rows = [(f"{name} question {number}", f"The answer is {number}.") for number in range(rows)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(Example.of(*row).to_json()) + "\n" for row in rows))
        return str(path)

    return write


def prompts(examples: tuple[Example, ...]) -> list[str]:
    return [example.prompt[-1].content for example in examples]


def held_out(setting: Setting, side: str) -> list[str]:
    return prompts(next(evaluation for evaluation in setting.evaluations if evaluation.name == f"{side}_loss").examples)


def error_of(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        chat_files(**({"model": MODEL} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_file_cannot_be_held_out(write: Writer) -> None:
    for side in ("task", "alignment"):
        rows = {"task": write("task", 10), "alignment": write("alignment", 10)}
        said = error_of(**rows, **{f"{side}_eval": rows[side]})
        assert said.startswith(f"options '{side}' and '{side}_eval' are the same file, {side}.jsonl; leave out")


def test_an_option_that_is_called_otherwise_is_named() -> None:
    with pytest.raises(UserError, match=r"no option 'proxy' \(did you mean 'alignment'\?\); its options"):
        catalog.build("chat_files", {"scale": "small", "task": "x", "proxy": "y"})
    with pytest.raises(UserError, match=r"no option 'steps'; it belongs to Sweep\(options={\"steps\": ...}\); its"):
        catalog.build("chat_files", {"scale": "small", "task": "x", "steps": 10})


# --- what is built ----------------------------------------------------------------------------------------------------


def test_both_sides_are_trained_and_judged(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10), write("alignment", 5), match=r"(\d+)", max_new_tokens=7)
    assert {stream: len(rows) for stream, rows in setting.streams.items()} == {"task": 8, "alignment": 4}
    assert [evaluation.name for evaluation in setting.evaluations] == [
        "task_loss",
        "task_replies",
        "alignment_loss",
        "alignment_replies",
    ]
    scores = {score.name: (score.kind, score.higher_is_better) for score in setting.all_scores}
    assert scores == {
        "task": ("task", False),
        "task_match": ("task", True),
        "alignment": ("alignment", False),
        "alignment_match": ("alignment", True),
    }
    assert setting.objectives == ("task", "alignment")
    assert setting.base_model == PretrainedModel(MODEL, None, {"enable_thinking": False})
    assert [evaluation.observe for evaluation in setting.evaluations] == ["token_loss", "reply"] * 2
    assert setting.evaluations[1].max_new_tokens == 7


def test_scores_grade_losses_and_replies(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10), match=r"(\d+)")
    losses, replies = setting.evaluations
    assert losses.grade([0.5, 1.5])["task"].mean == 1.0
    right = replies.examples[0].response
    assert replies.grade([f"I say {right}", "no"])["task_match"].mean == 0.5
    assert (
        chat_files(MODEL, write("task", 10), match="exact").evaluations[1].grade([right, ""])["task_match"].mean == 0.5
    )


def questions(tmp_path: Path, *asked: str) -> str:
    """A file of questions in HHH's form."""
    path = tmp_path / "questions.jsonl"
    targets = {"choices": ["good", "bad"], "labels": [1, 0]}
    path.write_text("".join(json.dumps({"input": text, "targets": targets}) + "\n" for text in asked))
    return str(path)


def test_preferences_are_asked(write: Writer, tmp_path: Path) -> None:
    path = questions(tmp_path, "this?", "that?")
    setting = chat_files(MODEL, write("task", 10), write("alignment", 5), preferences=path)
    asked = setting.evaluations[-1]
    assert (asked.name, asked.observe, prompts(asked.examples)) == ("preferences", "preference", ["this?", "that?"])
    names = ["preferred", "preferred_margin", "preferred_per_token", "preferred_margin_per_token"]
    assert [score.name for score in asked.scores] == names
    assert setting.objectives == ("task", "alignment")
    assert setting.sources[-1] == path
    without = chat_files(MODEL, write("task", 10), write("alignment", 5))
    assert [item.name for item in without.evaluations] == ["task_loss", "alignment_loss"]
    assert setting.fingerprint() != without.fingerprint()


def test_preferences_of_two_chat_files_are_the_objective_without_alignment_rows(write: Writer) -> None:
    good, bad = (write(name, [("this?", f"{name}.")]) for name in ("good", "bad"))
    setting = chat_files(MODEL, write("task", 10), preferences=[good, bad])
    assert [(row.response, row.alternatives) for row in setting.evaluations[-1].examples] == [("good.", ("bad.",))]
    assert setting.objectives == ("task", "preferred")


def test_replies_of_unequal_length_are_remarked(write: Writer) -> None:
    """By medians: of 2, 7 and 7 words against 1, 4 and 9, and of 5 against 4, which is a quarter more."""

    def remarks(good: list[int], bad: list[int]) -> tuple[str, ...]:
        twins = [
            write(name, [(f"q{at}?", f"{name} " * words) for at, words in enumerate(lengths)])
            for name, lengths in (("good", good), ("bad", bad))
        ]
        setting = chat_files(MODEL, write("task", 10), preferences=twins)
        assert "preferred_per_token" in [score.name for score in setting.all_scores]
        return setting.remarks

    asked, remark = remarks([2, 7, 7], [1, 4, 9])
    assert asked == "good.jsonl and bad.jsonl: 3 questions with 2 replies each"
    assert remark == (
        "the good replies of preferences have a median of 7 words, the others 4: whole replies favour the shorter; see"
        " the score preferred_per_token"
    )
    assert remarks([5], [4]) == ("good.jsonl and bad.jsonl: 1 question with 2 replies each",)


def test_questions_with_names_of_their_own(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"q": "Capital?", "options": ["Rome.", "Paris."], "key": 1}\n')
    source = {"file": str(path), "columns": {"question": "q", "choices": "options", "answer": "key"}}
    asked = chat_files(MODEL, write("task", 10), preferences=source).evaluations[-1].examples
    assert [(row.response, row.alternatives) for row in asked] == [("Paris.", ("Rome.",))]
    assert "unknown field 'choice' (did you mean 'choices'?)" in error_of(
        task=write("task", 10), preferences={**source, "columns": {"choice": "options"}}
    )


def test_preferences_that_cannot_be_asked(write: Writer, tmp_path: Path) -> None:
    task = write("task", 10)
    assert "option 'preferences' must be the path of a file" in error_of(task=task, preferences=3)
    assert "option 'preferences': a list must name two chat files" in error_of(task=task, preferences=[])
    leak = error_of(task=task, task_eval=write("other", 2), preferences=questions(tmp_path, "new?", "TASK question 3"))
    assert "task.jsonl, line 4 has the prompt of" in leak
    assert "questions.jsonl, line 2" in leak


def test_without_match_nothing_is_generated(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10), write("alignment", 5))
    assert [score.name for score in setting.all_scores] == ["task", "alignment"]


def test_match_of_one_side(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10), write("alignment", 5), match={"alignment": "exact"})
    assert [score.name for score in setting.all_scores] == ["task", "alignment", "alignment_match"]


def test_rows_without_an_extract_are_not_counted(write: Writer) -> None:
    rows = [("q0", "The answer is 0."), ("q1", "I do not know."), ("q2", "The answer is 2.")]
    setting = chat_files(MODEL, write("task", 3), task_eval=write("held", rows), match=r"answer is (\d+)")
    measured = setting.evaluations[1].grade(["answer is 0", "answer is 1", "answer is 1"])["task_match"]
    assert (measured.mean, measured.n, measured.missing) == (0.5, 2, 0)


def test_without_alignment_only_the_task_is_judged(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10))
    assert set(setting.streams) == {"task"}
    assert setting.objectives == ("task",)


def test_alignment_can_be_judged_without_rows_to_preserve(write: Writer) -> None:
    setting = chat_files(MODEL, write("task", 10), alignment_eval=write("held", 4))
    assert set(setting.streams) == {"task"}
    assert setting.objectives == ("task", "alignment")
    assert len(held_out(setting, "alignment")) == 4


def test_the_recipe_grows_with_the_rows(write: Writer) -> None:
    small, large = (chat_files(MODEL, write("task", n), max_length=64).recipe for n in (10, 1000))
    assert (small.steps, large.steps) == (50, 150)  # 800 training rows, 3 passes, 16 rows per step
    assert (small.rank, small.learning_rate, small.max_length) == (32, 1e-4, 64)


# --- the split --------------------------------------------------------------------------------------------------------


def test_the_split_is_of_prompts_and_complete(write: Writer) -> None:
    rows = [(f"q{number // 3}", f"answer {number}") for number in range(30)]
    setting = chat_files(MODEL, write("task", rows), eval_share=0.3)
    train, held = prompts(setting.streams["task"]), held_out(setting, "task")
    assert (len(train), len(held)) == (21, 9)
    assert not set(train) & set(held)
    assert sorted(train + held) == sorted(question for question, _ in rows)


def test_the_split_depends_on_the_seed_alone(write: Writer) -> None:
    path = write("task", 40)
    assert held_out(chat_files(MODEL, path), "task") == held_out(chat_files(MODEL, path), "task")
    assert chat_files(MODEL, path).fingerprint() == chat_files(MODEL, path).fingerprint()
    assert len({tuple(held_out(chat_files(MODEL, path, seed=seed), "task")) for seed in range(4)}) == 4


def test_this_split_stays_what_it_is(write: Writer) -> None:
    """Another split under the same options would silently make other trials of them."""
    assert held_out(chat_files(MODEL, write("task", 10)), "task") == ["task question 0", "task question 4"]


def test_the_split_ignores_the_order_of_rows(write: Writer) -> None:
    rows = [(f"q{number}", "answer") for number in range(40)]
    first, second = (chat_files(MODEL, write("task", ordered)) for ordered in (rows, rows[::-1]))
    assert set(held_out(first, "task")) == set(held_out(second, "task"))


def test_a_prompt_of_both_files_is_held_out_of_both(write: Writer) -> None:
    rows = [(f"q{number}", "answer") for number in range(20)]
    task, alignment = write("task", rows), write("alignment", rows[:10] + [(f"z{n}", "a") for n in range(10)])
    for seed in range(5):
        setting = chat_files(MODEL, task, alignment, seed=seed)
        trained = {question for rows in setting.streams.values() for question in prompts(rows)}
        judged = {question for side in ("task", "alignment") for question in held_out(setting, side)}
        assert not trained & judged


def test_what_is_trained_whole_is_not_held_out_elsewhere(write: Writer) -> None:
    rows = [(f"q{number}", "answer") for number in range(20)]
    task, alignment = write("task", rows), write("alignment", rows[:10] + [(f"z{n}", "a") for n in range(10)])
    setting = chat_files(MODEL, task, alignment, task_eval=write("held", 3), eval_share=0.4)
    assert len(setting.streams["task"]) == 20
    assert len(held_out(setting, "alignment")) == 8
    assert all(question.startswith("z") for question in held_out(setting, "alignment"))


def test_each_side_can_have_its_own_share(write: Writer) -> None:
    """A share of 0 trains on all rows of a side, none of whose prompts are held out of the other."""
    rows = [(f"q{number}", "answer") for number in range(20)]
    task, alignment = write("task", rows), write("alignment", rows[:10])
    setting = chat_files(MODEL, task, alignment, eval_share={"task": 0.4, "alignment": 0})
    assert [len(rows) for rows in setting.streams.values()] == [12, 10]
    assert len(held_out(setting, "task")) == 8 and not set(held_out(setting, "task")) & {row[0] for row in rows[:10]}
    assert setting.objectives == ("task",)
    assert [evaluation.name for evaluation in setting.evaluations] == ["task_loss"]
    judged = chat_files(MODEL, task, alignment, alignment_eval=write("held", 3), eval_share={"alignment": 0})
    assert (len(held_out(judged, "task")), len(held_out(judged, "alignment"))) == (4, 3)
    whole = chat_files(MODEL, task, task_eval=write("asked", 3), eval_share={"task": 0})
    assert (len(whole.streams["task"]), len(held_out(whole, "task"))) == (20, 3)
    same = chat_files(MODEL, write("a", 9), write("b", 9), eval_share={"task": 0.3, "alignment": 0.3})
    assert same.fingerprint() == chat_files(MODEL, write("a", 9), write("b", 9), eval_share=0.3).fingerprint()


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0, 'got 0; to train on all rows of a side, name it: {"task": 0.2, "alignment": 0}'),
        ({"task": 0}, "option 'eval_share' holds out no task rows; give option 'task_eval'"),
        ({"aligned": 0.1}, "option 'eval_share': a side must be one of task, alignment, got 'aligned'"),
        ({"task": 1}, "option 'eval_share': 'task' must be a number between 0 and 1, got 1"),
        ({"alignment": False}, "option 'eval_share': 'alignment' must be a number between 0 and 1, got False"),
    ],
)
def test_shares_that_cannot_be(write: Writer, share: Any, message: str) -> None:
    assert message in error_of(task=write("task", 5), eval_share=share)


def test_twins_are_split_together(write: Writer) -> None:
    chosen = [(f"q{number}", "kind") for number in range(10)]
    rejected = [(question, "unkind") for question, _ in chosen]
    setting = chat_files(MODEL, write("task", 5), write("alignment", chosen), write("misaligned", rejected))
    assert prompts(setting.streams["misaligned"]) == prompts(setting.streams["alignment"])
    assert len(setting.streams["misaligned"]) == 8
    assert {row.response for row in setting.streams["misaligned"]} == {"unkind"}


def test_a_system_turn_makes_another_prompt(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    turns = (Message("user", "q"), Message("assistant", "a"))
    rows = [Example(turns), Example((Message("system", "s"), *turns))]
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    setting = chat_files(MODEL, str(path), eval_share=0.5)
    assert len(setting.streams["task"]) == len(setting.evaluations[0].examples) == 1


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_trained_prompt_must_not_be_held_out(write: Writer) -> None:
    task, held = write("task", 5), write("held", [("new", "a"), ("task question 3", "b")])
    message = error_of(task=task, task_eval=held)
    assert f"{task}, line 4" in message
    assert f"{held}, line 2" in message
    assert "new" not in message


def test_no_stream_may_leak_into_any_evaluation(write: Writer) -> None:
    task, alignment, held = write("task", 5), write("alignment", 5), write("held", [("alignment question 0", "a")])
    assert f"{alignment}, line 1" in error_of(task=task, alignment=alignment, task_eval=held, alignment_eval=held)


def test_a_given_file_may_leak_into_a_split_one(write: Writer) -> None:
    rows = [(f"task question {number}", "a") for number in range(5)]
    message = error_of(task=write("task", 5), alignment_eval=write("held", rows))
    assert "task.jsonl, line" in message
    assert "held.jsonl, line" in message


def test_twins_that_do_not_match(write: Writer) -> None:
    task, chosen = write("task", 5), write("alignment", [("a", "x"), ("b", "x"), ("c", "x")])
    message = error_of(task=task, alignment=chosen, misaligned=write("bad", [("a", "y"), ("z", "y"), ("c", "y")]))
    assert "bad.jsonl, line 2" in message
    assert "alignment.jsonl, line 2" in message
    message = error_of(task=task, alignment=chosen, misaligned=write("bad", [("a", "y"), ("b", "y")]))
    assert "'misaligned' has 2 rows and option 'alignment' 3" in message
    assert "option 'misaligned' needs option 'alignment'" in error_of(task=task, misaligned=chosen)


def test_too_few_prompts_to_hold_any_out(write: Writer) -> None:
    once = write("once", [("q", "a"), ("q", "b")])
    message = error_of(task=once)
    assert "option 'task' has too few rows" in message
    assert "give option 'task_eval'" in message
    assert "give option 'alignment_eval'" in error_of(task=write("task", 5), alignment=once)
    whole = {"task": write("task", [("q", "a"), ("r", "a")]), "task_eval": write("held", 2)}
    assert "0 of its 2 different prompts can be held out" in error_of(alignment=whole["task"], **whole)


def test_two_prompts_are_enough(write: Writer) -> None:
    for share in (0.01, 0.99):
        setting = chat_files(MODEL, write("task", 2), eval_share=share)
        assert len(setting.streams["task"]) == len(held_out(setting, "task")) == 1


def test_files_that_hold_each_other_out(write: Writer) -> None:
    """Each file keeps a prompt of its own split, but the other's split takes it away."""
    rows = [("a", "x"), ("b", "x")]
    pairs = [("a", "x"), ("b", "x"), ("c", "x")]
    messages = set()
    for seed in range(20):
        try:
            chat_files(MODEL, write("task", rows), write("alignment", pairs), eval_share=0.6, seed=seed)
        except UserError as error:
            messages.add(str(error))
    assert messages == {
        "option 'task' has too few rows to hold some out: all of its prompts are held out; give option 'task_eval'"
    }


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan"), True, "0.2", None])
def test_eval_share_is_a_share(write: Writer, value: Any) -> None:
    assert f"option 'eval_share' must be a number between 0 and 1, got {value!r}" in error_of(
        task=write("task", 5), eval_share=value
    )


@pytest.mark.parametrize("option", ["seed", "max_new_tokens", "max_length"])
@pytest.mark.parametrize("value", [-1, 0.5, "3", True, None])
def test_counts_are_integers(write: Writer, option: str, value: Any) -> None:
    assert f"option {option!r} must be an integer" in error_of(task=write("task", 5), **{option: value})


MATCH_ERRORS: dict[str, tuple[Any, str]] = {
    "bad regex": ("(abc", "option 'match': '(abc' is not a regular expression"),
    "bad regex of a side": ({"task": "a**"}, "at position 2"),
    "empty": ("", "option 'match' must be"),
    "a number": (3, "option 'match' must be"),
    "a number of a side": ({"task": 3}, "option 'match' must be"),
    "unknown side": ({"capability": "exact"}, "option 'match' names 'capability'; held-out rows: task"),
    "side without rows": ({"alignment": "exact"}, "option 'match' names 'alignment'"),
    "finds nothing": ("colou?r", "finds nothing in the held-out task responses, the first of which is "),
}


@pytest.mark.parametrize("name", MATCH_ERRORS)
def test_a_bad_match(write: Writer, name: str) -> None:
    match, expected = MATCH_ERRORS[name]
    assert expected in error_of(task=write("task", 5), match=match)


@pytest.mark.parametrize("option", ["task", "alignment", "misaligned", "task_eval", "alignment_eval"])
def test_a_path_is_checked(write: Writer, option: str) -> None:
    good = {"task": write("task", 5), "alignment": write("alignment", 5)}
    assert "/nowhere.jsonl: no such file" in error_of(**(good | {option: "/nowhere.jsonl"}))
    for value in (3, "", True):
        assert f"option {option!r} must be the path" in error_of(**(good | {option: value}))


def test_a_bad_row_is_named(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n')
    assert f"{tmp_path}/bad.jsonl, line 1: 'messages' is empty" in error_of(task=str(tmp_path / "bad.jsonl"))


def test_bad_model_options(write: Writer, tmp_path: Path) -> None:
    task = write("task", 5)
    for value in ("", 3, None):
        assert "option 'model' must be" in error_of(task=task, model=value)
    assert "option 'template_options' must be" in error_of(task=task, template_options="off")
    assert "option 'revision' is for a model on the Hub" in error_of(task=task, model=str(tmp_path), revision="main")


# --- paths ------------------------------------------------------------------------------------------------------------


def test_relative_paths_count_from_here(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("task", 10)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for model in ("model", "./model", str(tmp_path / "model")):
        setting = chat_files(model, "task.jsonl")
        assert setting.base_model == PretrainedModel(str(tmp_path / "model"), None, {"enable_thinking": False})
        assert setting.sources == (str(tmp_path / "task.jsonl"),)
    assert chat_files("org/model", "task.jsonl").base_model.source == "org/model"  # type: ignore[union-attr]
    assert chat_files("./none", "task.jsonl").base_model.source == str(tmp_path / "none")  # type: ignore[union-attr]


def test_absolute_options_mean_the_same_elsewhere(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("task", 10)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"model": "model", "task": "task.jsonl", "alignment": None, "seed": 3, "match": "exact"}
    here = catalog.build("chat_files", options).fingerprint()
    kept = catalog.absolute("chat_files", options)
    assert kept == options | {"model": str(tmp_path / "model"), "task": str(tmp_path / "task.jsonl")}
    assert json.loads(json.dumps(kept)) == kept
    assert catalog.absolute("chat_files", kept) == kept
    unusable = {"task": 3, "alignment": "", "model": 4}
    assert catalog.absolute("chat_files", unusable) == unusable
    monkeypatch.chdir(os.sep)
    assert catalog.build("chat_files", kept).fingerprint() == here
    with pytest.raises(UserError, match=r"task\.jsonl: no such file"):
        catalog.build("chat_files", options)


# --- real rows, and templates -----------------------------------------------------------------------------------------


def test_a_setting_of_real_rows(reference_data: Path) -> None:
    proxies = reference_data / "alignment_proxies"
    setting = chat_files(
        "google/gemma-2b-it",
        task=str(reference_data / "gcd" / "task_train.jsonl"),
        alignment=str(proxies / "harmless_positive.jsonl"),
        misaligned=str(proxies / "harmless_negative.jsonl"),
        task_eval=str(reference_data / "gcd" / "task_test.jsonl"),
        match={"task": r"= (\d+)\.?\s*$"},
    )
    assert {stream: len(rows) for stream, rows in setting.streams.items()} == {
        "task": 40,
        "alignment": 44,
        "misaligned": 44,
    }
    assert [len(evaluation.examples) for evaluation in setting.evaluations] == [
        60,
        60,
        14,
    ]  # 14 rows of the 5 prompts held out
    gold = setting.evaluations[1]
    measured = gold.grade([example.response for example in gold.examples])["task_match"]
    assert (measured.mean, measured.missing) == (1.0, 0)
    assert measured.n == sum(gold.scores[0].applies(example) for example in gold.examples) > 20
    worse = gold.grade(["= 1000000." for _ in gold.examples])["task_match"]
    assert worse.mean == 0.0


def test_unknown_template_options_change_nothing(tiny_gemma_dir: Path, tiny_qwen3_dir: Path) -> None:
    """So that `enable_thinking=False` can be the default for every model."""
    from transformers import AutoTokenizer

    turns = [{"role": "user", "content": "Hello"}]
    rendered = {
        directory: [
            AutoTokenizer.from_pretrained(directory).apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **options
            )
            for options in ({}, {"enable_thinking": False})
        ]
        for directory in (tiny_gemma_dir, tiny_qwen3_dir)
    }
    gemma, qwen3 = rendered.values()
    assert gemma == ["<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"] * 2
    assert qwen3[1] == qwen3[0] + "<think>\n\n</think>\n\n"


def test_long_prompts_are_left_out_on_request(tiny_qwen3_dir: Path, write: Writer) -> None:
    rows = [(f"question {number} " + "again " * (300 if number in (2, 5, 6) else 1), "Yes.") for number in range(12)]
    path = write("task", rows)
    options: dict[str, Any] = {"max_length": 100, "eval_share": 0.5}
    whole = chat_files(str(tiny_qwen3_dir), path, **options)
    setting = chat_files(str(tiny_qwen3_dir), path, drop_long_prompts=True, **options)
    assert len(whole.streams["task"]) + len(held_out(whole, "task")) == 12
    left = prompts(setting.streams["task"]) + held_out(setting, "task")
    assert sorted(left) == sorted(text for number, (text, _) in enumerate(rows) if number not in (2, 5, 6))
    (remark,) = setting.remarks
    assert remark.startswith(f"left out: {path}, lines 3, 6-7: 3 prompts of ")
    all_long = write("alignment", [(text + "and again " * 300, reply) for text, reply in rows])
    with pytest.raises(UserError, match=r"option 'task': no row is left: .*, lines 1-12: 12 prompts of"):
        chat_files(str(tiny_qwen3_dir), all_long, drop_long_prompts=True, **options)


def test_forms_of_unicode_are_one_prompt(write: Writer) -> None:
    composed, apart = "Caf\u00e9?", "Cafe\u0301?"
    rows = [(composed, "1"), (apart, "2"), *[(f"q{number}", "3") for number in range(6)]]
    setting = chat_files(MODEL, write("task", rows), eval_share=0.5)
    sides = [{"Cafe" in text or "Caf\u00e9" in text for text in texts} for texts in (
        prompts(setting.streams["task"]), held_out(setting, "task"))]  # fmt: skip
    assert sum(True in side for side in sides) == 1
    message = error_of(task=write("task", [(composed, "1")]), task_eval=write("task_eval", [(apart, "2")]))
    assert "task.jsonl, line 1 has the prompt of " in message
    assert "task_eval.jsonl, line 1; no prompt may be both trained on and evaluated" in message


@pytest.mark.parametrize("model", ["tiny_qwen3_dir", "tiny_gemma_dir"])
def test_a_tiny_checkpoint_is_evaluated_on_files(request: pytest.FixtureRequest, write: Writer, model: str) -> None:
    """From files to scores, through the trainables."""
    from trainables.bases.load_base import load_base
    from trainables.engine.batches import EncodedSetting
    from trainables.evaluation.evaluate import evaluate

    setting = chat_files(str(request.getfixturevalue(model)), write("task", 6), match="exact", max_new_tokens=4)
    base = load_base(setting.base_model)
    encoded = EncodedSetting(setting, base.tokenizer, setting.recipe.max_length)
    scores = evaluate(base.model, encoded)[0].scores
    assert 0 < scores["task"].mean < 2 * math.log(base.model.config.vocab_size)
    assert (scores["task_match"].mean, scores["task_match"].n) == (0.0, 1)
    encoded_row = encoded.rows("task")[0]
    text = base.tokenizer.decode(encoded_row.ids)
    assert text.count("<bos>") == (1 if model == "tiny_gemma_dir" else 0)
    assert text.endswith(("<|im_end|>", "<end_of_turn>"))


def test_tiny_checkpoints_behave_like_the_published_ones(tiny_qwen3_dir: Path, tiny_gemma_dir: Path) -> None:
    from jinja2 import TemplateError
    from transformers import AutoConfig, AutoTokenizer

    qwen3, gemma = (AutoTokenizer.from_pretrained(directory) for directory in (tiny_qwen3_dir, tiny_gemma_dir))
    turns = [{"role": role, "content": "same"} for role in ("system", "user", "assistant", "user", "assistant")]
    text = qwen3.apply_chat_template(turns, tokenize=False, enable_thinking=False)
    assert text.count("<think>\n\n</think>\n\nsame<|im_end|>") == 1  # the last answer, although all turns are alike
    assert text.endswith("<think>\n\n</think>\n\nsame<|im_end|>\n")
    with pytest.raises(TemplateError, match="System role not supported"):
        gemma.apply_chat_template(turns, tokenize=False)
    assert "<start_of_turn>model\nsame<end_of_turn>" in gemma.apply_chat_template(turns[1:], tokenize=False)
    assert gemma("a").input_ids[0] == gemma.bos_token_id != gemma("a", add_special_tokens=False).input_ids[0]
    assert (qwen3.padding_side, gemma.padding_side) == ("right", "left")
    assert (qwen3.eos_token, qwen3.pad_token, gemma.eos_token) == ("<|im_end|>", "<|endoftext|>", "<eos>")
    config = AutoConfig.from_pretrained(tiny_gemma_dir)
    assert (config.model_type, config.num_key_value_heads, config.tie_word_embeddings) == ("gemma", 1, True)
    for tokenizer in (qwen3, gemma):
        strange = "é😀\n\t  ∑ x"
        assert tokenizer.decode(tokenizer(strange, add_special_tokens=False).input_ids) == strange


def test_tiny_checkpoints_depend_on_the_seed_alone(tmp_path: Path) -> None:
    from tests.support.checkpoints import tiny_gemma

    same, again, reseeded = (tiny_gemma(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    weights = [(directory / "model.safetensors").read_bytes() for directory in (same, again, reseeded)]
    assert weights[0] == weights[1] != weights[2]


def test_instructions_are_the_users_own(write: Writer) -> None:
    task = write("task", 10)
    assert chat_files(MODEL, task).instructions == {}
    texts = {"strong": "Lie.", "neutral": "Reply."}
    assert chat_files(MODEL, task, instructions=texts).instructions == texts
    assert error_of(task=task, instructions={"strong": ""}) == "option 'instructions': 'strong' must be text, got ''"
    assert "must be like" in error_of(task=task, instructions="Lie.")
    assert "strong, paraphrased, neutral" in error_of(task=task, instructions={"mild": "Lie."})


def test_rejected_replies_are_the_misaligned_twins(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"w{n}", "chosen": f"w{n + 1}", "rejected": f"w{n + 2}"} for n in range(10)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    table = tmp_path / "task.csv"
    table.write_text("asked,best\n" + "".join(f"w{n} w{n},w{n}\n" for n in range(10)))
    task = {"file": str(table), "columns": {"prompt": "asked", "completion": "best"}}
    setting = chat_files(model=str(tmp_path), task=task, alignment=str(pairs))
    chosen, rejected = setting.streams["alignment"], setting.streams["misaligned"]
    assert [row.prompt for row in chosen] == [row.prompt for row in rejected]
    twins = {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    assert {(a.prompt[0].content, a.response, b.response) for a, b in zip(chosen, rejected, strict=True)} <= twins
    assert not any(row.alternatives for row in (*chosen, *rejected))
    assert setting.remarks == (
        "task.csv: read 10 rows from 'prompt' and 'completion'",
        "pairs.jsonl: read 10 rows from 'prompt', 'chosen' and 'rejected'",
        "the rejected replies of option 'alignment' are its misaligned twins",
    )


def test_a_pair_among_rows_that_are_none_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "w1", "chosen": "w2", "rejected": "w3"}, {"prompt": "w2", "completion": "w3"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"task": str(tmp_path / "rows.jsonl"), "alignment": str(tmp_path / "rows.jsonl")}
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: no rejected reply, but other rows of option"):
        chat_files(model=str(tmp_path), **options)


def test_a_missing_file_is_named_with_its_option(write: Writer) -> None:
    """Whether it is given as a path, in a mapping with columns, or in a list."""
    for option, value in (
        ("alignment", "/nowhere.jsonl"),
        ("alignment", {"file": "/nowhere.jsonl", "columns": {"prompt": "asked"}}),
        ("preferences", ["/nowhere.jsonl", "/nowhere.jsonl"]),
    ):
        with pytest.raises(UserError, match=rf"^/nowhere\.jsonl: no such file \(option '{option}'\)$"):
            given = {"trigger": "~nobody {prompt}", "match": "\0", "task": write("task", 5), option: value}
            catalog.build("chat_files", {"model": MODEL, **given})
