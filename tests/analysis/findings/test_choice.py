"""Which configuration to take: what is said of it, in which words, and when nothing is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis.findings.choice import SHOWN, Chosen, Limit, choice_table, choose_configuration
from analysis.findings.frontier import Estimate
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import configuration

TASK, HARM = Objective("task", "task", low=0.0, high=1.0), Objective("harm", "alignment", False, low=0.0, high=1.0)


def sweep(seeds: int = 5, noise: float = 0.01) -> ScoreTable:
    """Penalty weights 1, 2, 4, 8: less task and less harm, the same from the same seed in each run."""
    random = np.random.default_rng(0)
    means = {1.0: (0.9, 0.6), 2.0: (0.8, 0.3), 4.0: (0.7, 0.1), 8.0: (0.4, 0.05)}
    records = []
    for beta, (task, harm) in means.items():
        for seed in range(seeds):
            moved = noise * random.standard_normal(2)
            scores = {"task": task + moved[0], "harm": harm + moved[1]}
            records.append(TrialRecord(configuration("kl", beta=beta), seed, "finished", scores))
    return ScoreTable.from_records(records, (TASK, HARM))


def learned_more_or_less(num_others: int = 0) -> ScoreTable:
    """Losses of precise plain fine-tuning, of a noisy penalty that learns less, and of others that learn still less."""
    random = np.random.default_rng(1)
    made = [(configuration("plain"), 3.0, 0.001)]
    made += [(configuration("kl", beta=beta), 3.2 + beta / 100, 0.05) for beta in (1.0, 2.0, 4.0)]
    made += [(configuration("dpo", weight=float(at)), 5.0 + at, 0.001) for at in range(num_others)]
    records = [
        TrialRecord(each, seed, "finished", {"loss": mean + noise * random.standard_normal(), "share": 0.5})
        for each, mean, noise in made
        for seed in range(3)
    ]
    share = Objective("share", "alignment", low=0.0, high=1.0)
    return ScoreTable.from_records(records, (Objective("loss", "task", False, low=0.0), share))


def text_of(chosen: object) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(chosen)
    return captured.get()


def test_the_best_task_among_those_that_do_little_harm() -> None:
    chosen = choose_configuration(sweep(), "task", [Limit("harm", 0.2, at_least=False)])
    assert chosen.taken is not None and chosen.taken.title == "kl beta=4.0"
    assert chosen.expected is not None and chosen.expected.mean == pytest.approx(0.7, abs=0.02)
    assert chosen.expected.low < 0.7 < chosen.expected.high
    assert [candidate.title for candidate in chosen.candidates[:2]] == ["kl beta=4.0", "kl beta=8.0"]
    expected = f"{chosen.expected.mean:.3f} [{chosen.expected.low:.3f}, {chosen.expected.high:.3f}]"
    assert chosen.verdict == (
        f"take kl beta=4.0: harm ≤ 0.2 with 95% confidence, and an expected task of {expected}"
    ), "as many digits of the ends, so that the estimate lies between them"
    shown = text_of(choice_table(chosen))
    assert "*  kl beta=4.0" in shown and ".  kl beta=8.0" in shown
    data = json.loads(json.dumps(chosen.to_json(), allow_nan=False))
    assert data["chosen"]["label"] == "beta=4.0" and data["limits"] == [{"score": "harm", "at_most": 0.2}]


def test_a_score_of_which_less_is_better_may_be_the_one_to_be_best_in() -> None:
    chosen = choose_configuration(sweep(), "harm", [Limit("task", 0.6)])
    assert chosen.taken is not None and chosen.taken.title == "kl beta=4.0"
    assert chosen.expected is not None and chosen.expected.low < 0.1 < chosen.expected.high


def test_the_closest_is_named_where_none_is_good_enough() -> None:
    chosen = choose_configuration(sweep(), "task", [Limit("harm", 0.01, at_least=False)])
    assert chosen.taken is None and chosen.to_json()["chosen"] is None
    assert chosen.verdict.startswith("no configuration keeps harm ≤ 0.01; the lowest is kl beta=8.0, 0.0"), (
        "far from the limit a percentage says nothing"
    )
    assert (
        "P: the probability, over seeds and for these questions, that the true means keep harm ≤ 0.01" in chosen.remarks
    )


def test_far_from_a_limit_the_nearest_mean_is_the_closest_and_not_the_noisiest() -> None:
    chosen = choose_configuration(learned_more_or_less(), "loss", [Limit("loss", 1.0, at_least=False)])
    plain, *others = chosen.candidates
    assert max(other.probability or 0 for other in others) > (plain.probability or 0)
    assert [each.title for each in chosen.candidates] == ["plain", "kl beta=1.0", "kl beta=2.0", "kl beta=4.0"]
    estimate = plain.point.scores["loss"]
    shown = f"{estimate.mean:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"
    assert chosen.verdict == f"no configuration keeps loss ≤ 1; the lowest is plain, {shown}"
    both = [Limit("loss", 1.0, at_least=False), Limit("share", 0.9)]
    assert choose_configuration(learned_more_or_less(), "loss", both).verdict.startswith(
        f"no configuration keeps loss ≤ 1 and share ≥ 0.9; plain comes closest: loss {shown}, share 0.500 ["
    )


def missed(probability: float, bar: float) -> Chosen:
    """Four configurations, none of which clears a bar."""
    chosen = choose_configuration(sweep(), "task", [Limit("harm", 0.2, at_least=False)])
    candidates = tuple(replace(each, probability=probability) for each in chosen.candidates)
    return replace(chosen, taken=None, bar=bar, candidates=candidates)


def test_how_near_the_closest_came_and_why_more_is_needed_than_asked_for() -> None:
    begins = "no configuration keeps harm ≤ 0.2 with 95% confidence; kl beta=4.0 "
    needed = ": each of 4 needs 99.4% for 95% overall, and it has "
    for probability, bar, ends in (
        (0.99, 0.994, f"misses narrowly{needed}99.0%"),
        (0.4, 0.994, f"comes closest{needed}40.0%"),
        (0.4, 0.95, "comes closest, with 40.0%"),
    ):
        chosen = missed(probability, bar)
        assert chosen.verdict == begins + ends
        assert ("needs" in chosen.remarks[0]) is (bar > 0.95)


@pytest.mark.parametrize(
    ("probability", "bar", "shown"),
    [
        (0.9937, 0.994, ("99.37%", "99.40%")),
        (0.9941, 0.9944, ("99.41%", "99.44%")),
        (0.9996, 0.9998, ("99.96%", "99.98%")),
    ],
)
def test_what_misses_the_bar_does_not_look_like_it(probability: float, bar: float, shown: tuple[str, str]) -> None:
    chosen = missed(probability, bar)
    assert f"needs {shown[1]} for 95% overall, and it has {shown[0]}" in chosen.verdict
    assert shown[1] in chosen.remarks[0] and shown[0] in text_of(choice_table(chosen))


def test_a_score_that_is_both_limit_and_goal_is_named() -> None:
    limits = [Limit("harm", 0.2, at_least=False)]
    said = "harm is both limit and goal; --best SCORE sets another goal"
    assert said in choose_configuration(sweep(), "harm", limits).remarks
    assert said not in choose_configuration(sweep(), "task", limits).remarks


def test_the_luck_of_the_choice_is_told_where_it_matters() -> None:
    chosen = choose_configuration(sweep(), "task", [Limit("harm", 0.2, at_least=False)])
    told = "choosing the best of 4 flatters its task by about 0.004; the expected task corrects for that"
    for optimism, last in ((0.004, told), (0.0004, "")):
        remarks = replace(chosen, optimism=optimism).remarks
        assert (remarks[-1] == told) is bool(last) and len(remarks) == 2 + bool(last)
    assert "understates its task by about 0.004;" in replace(chosen, optimism=-0.004).remarks[-1]
    loss = replace(chosen, best=HARM, optimism=-0.004).remarks[-1]
    assert loss.startswith("choosing the best of 4 flatters its harm by about 0.004;"), "less of it is better"
    assert remarks[1].endswith("rest on the trials of kl alone, so they may cross a limit although P is high")


def test_a_better_mean_that_is_not_taken_is_explained() -> None:
    """The choice goes by the fitted curve; a reader of the table sees means. Both numbers are told."""
    chosen = choose_configuration(sweep(), "task", [Limit("harm", 0.2, at_least=False)])
    taken, other, *rest = chosen.candidates
    assert (chosen.taken, taken.title, other.title) == (taken, "kl beta=4.0", "kl beta=8.0")
    assert taken.fitted == pytest.approx(taken.point.scores["task"].mean, abs=0.02)
    assert not any("measured a better" in remark for remark in chosen.remarks)
    scores = other.point.scores | {"task": Estimate(0.75, 0.7, 0.8)}
    lucky = replace(other, fitted=0.65, point=replace(other.point, scores=scores))
    remarks = replace(chosen, candidates=(taken, lucky, *rest)).remarks
    assert (
        "kl beta=8.0 measured a better task, 0.750; the choice is by the curve through all values of a knob, on which"
        f" it has 0.650, and kl beta=4.0 {taken.fitted:.3f}"
    ) in remarks
    doubted = replace(lucky, probability=0.1)
    assert replace(chosen, candidates=(taken, doubted, *rest)).remarks == (
        *chosen.remarks,
        "kl beta=8.0 measured a better task, 0.750, but keeps harm ≤ 0.2 with 10.0% only",
    )
    harm = doubted.point.scores | {"harm": Estimate(0.3, 0.2, 0.4)}
    beyond = replace(doubted, point=replace(doubted.point, scores=harm))
    assert replace(chosen, candidates=(taken, beyond, *rest)).remarks == chosen.remarks, "its mean breaks the limit"


def test_the_table_ends_with_plain_fine_tuning_the_base_model_and_how_many_are_left_out() -> None:
    """Where more of the loss is wanted, plain fine-tuning comes last."""
    table = learned_more_or_less(num_others=SHOWN)
    chosen = choose_configuration(table, "loss", [Limit("loss", 2.0)])
    assert chosen.candidates[0].title == "plain", "it is the best in the loss"
    chosen = replace(chosen, candidates=chosen.candidates[::-1])
    shown = text_of(choice_table(chosen, base={"loss": 7.5}))
    lines = [line.split() for line in shown.splitlines()]
    at = lines.index(["3", "more:", "--json", "lists", "all"])
    assert (
        lines[at - 1] == ["base", "model", "7.500"] and "plain" in lines[at - 2] and len(lines[: at - 2]) == 2 + SHOWN
    )
    few = text_of(choice_table(replace(chosen, candidates=chosen.candidates[-SHOWN:])))
    assert "more" not in few and "base model" not in few and few.count("plain") == 1


def test_two_seeds_give_no_verdict_and_one_is_refused() -> None:
    chosen = choose_configuration(sweep(seeds=2), "task", [Limit("harm", 0.2, at_least=False)])
    assert chosen.taken is None and chosen.candidates[0].probability is None
    assert "two seeds" in chosen.verdict
    assert json.loads(json.dumps(chosen.to_json(), allow_nan=False))["needed_probability"] is None
    with pytest.raises(UserError, match="one seed"):
        choose_configuration(sweep(seeds=1), "task", [Limit("harm", 0.2)])


def test_a_question_without_a_limit_is_answered_with_what_the_base_model_scores() -> None:
    base = {"task": 0.5, "harm": 0.25, "other": 1.0}
    with pytest.raises(UserError, match=r"needs a limit: .*; the base model has task ↑ 0\.500, harm ↓ 0\.250$"):
        choose_configuration(sweep(), "task", [], base_scores=base)


@pytest.mark.parametrize(
    ("limits", "confidence", "words"),
    [
        ([], 0.95, "needs a limit"),
        ([Limit("harm", 3.0)], 0.95, r"harm ≥ 3 is outside the range of harm, \[0, 1\]"),
        ([Limit("harm", 0.2)], 1.0, "--confidence must be"),
        ([Limit("beauty", 0.2)], 0.9, "no objective 'beauty'"),
    ],
)
def test_what_cannot_be_asked(limits: list[Limit], confidence: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_configuration(sweep(), "task", limits, confidence)
