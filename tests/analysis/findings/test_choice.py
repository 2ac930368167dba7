"""Which configuration to take: what is said of it, in which words, and when nothing is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from analysis.findings.choice import Limit, choice_table, choose_configuration
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
    assert chosen.verdict.startswith(
        "no configuration keeps harm ≤ 0.01 with 95% confidence; kl beta=8.0 comes closest"
    )


def test_two_seeds_give_no_verdict_and_one_is_refused() -> None:
    chosen = choose_configuration(sweep(seeds=2), "task", [Limit("harm", 0.2, at_least=False)])
    assert chosen.taken is None and chosen.candidates[0].probability is None
    assert "two seeds" in chosen.verdict
    assert json.loads(json.dumps(chosen.to_json(), allow_nan=False))["needed_probability"] is None
    with pytest.raises(UserError, match="one seed"):
        choose_configuration(sweep(seeds=1), "task", [Limit("harm", 0.2)])


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
