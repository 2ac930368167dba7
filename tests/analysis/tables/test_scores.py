"""The table: its order, its errors, and the one place where signs are flipped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import (
    ALIGNMENT,
    KL1,
    KL10,
    OBJECTIVES,
    PLAIN,
    TASK,
    TRIALS,
    configuration,
    record,
    table,
)


def test_table_by_hand() -> None:
    """Rows by method and coefficient; nan where a seed is missing or not finished."""
    made = table([*TRIALS, record(KL10, 7, status="invalid"), record(PLAIN, 7, 0.25, 0.5)])
    assert made.configurations == (KL1, KL10, PLAIN)
    assert made.seeds == (0, 1, 7)
    assert made.methods == ("kl", "plain")
    assert made.values_CSM[2].tolist() == [[0.8, 0.1], [1.0, 0.1], [0.25, 0.5]]
    assert np.isnan(made.values_CSM[:2, 2]).all()
    assert np.isnan(made.values_CSM).sum() == 4
    assert made.num_seeds_C.tolist() == [2, 2, 3]
    assert [dict(counts) for counts in made.excluded] == [
        {"invalid": 0, "failed": 0, "stopped": 0},
        {"invalid": 1, "failed": 0, "stopped": 0},
        {"invalid": 0, "failed": 0, "stopped": 0},
    ]


def test_a_configuration_without_result_stays_in_the_table() -> None:
    made = table([*TRIALS, *(record(configuration("dead"), seed, status="failed") for seed in (0, 1))])
    assert made.configurations[0].method == "dead"
    assert np.isnan(made.values_CSM[0]).all()
    assert made.num_excluded() == {"invalid": 0, "failed": 2, "stopped": 0}


@given(st.permutations(TRIALS))
def test_order_of_records_does_not_matter(records: list[TrialRecord]) -> None:
    usual, shuffled = table(TRIALS), table(records)
    assert usual.configurations == shuffled.configurations
    assert np.array_equal(usual.values_CSM, shuffled.values_CSM)


def test_coefficients_are_ordered_as_numbers() -> None:
    """2 < 10, although "10" < "2"; numbers before words; equal coefficients by id."""
    values: list[float | str] = ["all", 10.0, 2.0]
    made = table([record(configuration("m", k=value), 0) for value in values])
    assert [row.coefficients["k"] for row in made.configurations] == [2.0, 10.0, "all"]
    twins = [replace(KL1, id=name) for name in ("b", "a")]
    assert [row.id for row in table([record(twin, 0) for twin in twins]).configurations] == ["a", "b"]


def test_gains_flip_what_is_better_when_small_and_back() -> None:
    """Loss 2 is gain -2, and -2 is loss 2 again."""
    loss = Objective("loss", "task", higher_is_better=False)
    made = table([TrialRecord(PLAIN, 0, "finished", {"loss": 2.0, "alignment": 0.5})], (loss, ALIGNMENT))
    assert made.values_CSM[0, 0].tolist() == [2.0, 0.5]
    assert made.gains_CSM[0, 0].tolist() == [-2.0, 0.5]
    assert made.oriented(made.gains_CSM)[0, 0].tolist() == [2.0, 0.5]
    assert (loss.arrow, TASK.arrow) == ("↓", "↑")


def test_select_reorders_objectives() -> None:
    made = table(TRIALS).select(["alignment"])
    assert made.objectives == (ALIGNMENT,)
    assert made.values_CSM[2].tolist() == [[0.1], [0.1]]
    with pytest.raises(UserError, match="no objective 'x'; there are task, alignment"):
        table(TRIALS).select(["x"])


def test_what_is_selected_has_the_layout_of_the_table() -> None:
    """Otherwise sums differ in their last bits, and the draws of a bootstrap with them: P would differ."""
    whole = table(TRIALS)
    chosen = whole.select([objective.name for objective in OBJECTIVES])
    assert chosen.values_CSM.strides == whole.values_CSM.strides
    assert chosen.gains_CSM.mean(axis=1).tobytes() == whole.gains_CSM.mean(axis=1).tobytes()


def test_duplicates_are_named() -> None:
    with pytest.raises(UserError, match=r"'kl beta=1.0' \(configuration kl/beta=1.0, seed 1\) occurs twice"):
        table([*TRIALS, record(KL1, 1, status="failed")])


def test_one_id_with_two_meanings_is_refused() -> None:
    changed = Configuration(KL1.id, "kl", KL1.label, {"beta": 2.0})
    with pytest.raises(UserError, match=r"'kl/beta=1\.0' has two meanings"):
        table([*TRIALS, record(changed, 5)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_finished_without_a_finite_objective_is_named(value: float) -> None:
    with pytest.raises(UserError, match=rf"seed 4\) is finished but its score 'alignment' is {value}"):
        table([*TRIALS, record(KL1, 4, 0.5, value)])


def test_finished_without_an_objective_is_named() -> None:
    with pytest.raises(UserError, match=r"'plain' \(configuration plain/, seed 4\) .* has no score 'alignment'"):
        table([*TRIALS, TrialRecord(PLAIN, 4, "finished", {"task": 1.0})])


def test_scores_of_an_unfinished_trial_are_not_read() -> None:
    made = table([TrialRecord(PLAIN, 0, "invalid", {"task": math.nan}), record(PLAIN, 1)])
    assert made.num_seeds_C.tolist() == [1]


def test_other_errors() -> None:
    with pytest.raises(UserError, match="unknown status 'running'"):
        table([TrialRecord(PLAIN, 0, "running")])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="different names"):
        table(TRIALS, (TASK, TASK))


def test_empty_and_read_only() -> None:
    assert ScoreTable.from_records([], OBJECTIVES).values_CSM.shape == (0, 0, 2)
    with pytest.raises(ValueError, match="read-only"):
        table(TRIALS).values_CSM[0, 0, 0] = 1.0
