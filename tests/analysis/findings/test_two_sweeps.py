"""Two sweeps: paired over common seeds, and refused when there is nothing to pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.findings.two_sweeps import WHOLE, compare_sweeps, to_json
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import configuration, record, table


def sweep(task: float, seeds: range, methods: tuple[str, ...] = ("kl", "mixed"), luck: int = 0) -> ScoreTable:
    """Methods with two configurations; a seed shifts all of them alike."""
    rows = []
    for seed in seeds:
        shift = 0.2 * np.random.default_rng(seed).normal()
        noise = np.random.default_rng([luck, seed])
        for method in methods:
            for strength in (1.0, 2.0):
                task_noise, alignment_noise = 0.005 * noise.normal(size=2)
                rows.append(
                    record(
                        configuration(method, beta=strength),
                        seed,
                        task / strength + shift + task_noise,
                        0.4 * strength + alignment_noise,
                    )
                )
    return table(rows)


def test_common_seeds_alone_count() -> None:
    """Seeds 2 to 5 are common. The first is better by .2 in the task at full strength; the luck of seeds cancels."""
    comparison = compare_sweeps(("a", "b"), (sweep(0.8, range(6)), sweep(0.6, range(2, 9), ("kl", "dpo"), luck=1)))
    assert comparison.seeds == (2, 3, 4, 5)
    assert set(comparison.rows) == {WHOLE, "kl"}
    assert comparison.only_in_one == ("dpo", "mixed")
    assert comparison.rows["kl"].statistic.low > 0
    assert comparison.rows["kl"].clear
    assert comparison.rows["kl"].statistic.error < 0.05


def test_a_sweep_does_not_differ_from_itself() -> None:
    same = sweep(0.8, range(4))
    comparison = compare_sweeps(("a", "a"), (same, sweep(0.8, range(4), luck=1)))
    assert not any(difference.clear for difference in comparison.rows.values())
    data = to_json(("a", "a"), comparison)
    assert data["differences"][WHOLE]["low"] <= 0 <= data["differences"][WHOLE]["high"]
    assert data["seeds"] == [0, 1, 2, 3]


def test_the_same_trials_cancel() -> None:
    """Both sweeps trained `mixed` alike; the second has another `kl`. Other seeds of one of them are cut off first."""
    first = sweep(0.8, range(4))
    rows = np.array([configuration.method == "mixed" for configuration in first.configurations])
    values = np.where(rows[:, None, None], first.values_CSM, first.values_CSM - 0.1)
    comparison = compare_sweeps(("a", "b"), (sweep(0.8, range(4)), replace(first, values_CSM=values)))
    statistic = comparison.rows["mixed"].statistic
    assert (statistic.estimate, statistic.low, statistic.high) == (0.0, 0.0, 0.0)
    assert comparison.rows["mixed"].adjusted == 1.0
    assert comparison.rows["kl"].clear
    elsewhere = [replace(each, id=f"other {each.id}") for each in first.configurations]  # a setting with another proxy
    apart = compare_sweeps(("a", "b"), (first, replace(first, configurations=tuple(elsewhere))))
    assert apart.rows["mixed"].statistic.high > 0.001, "only plain fine-tuning reads no proxy"
    plain = sweep(0.8, range(4), ("plain", "kl"))
    elsewhere = [replace(each, id=f"other {each.id}") for each in plain.configurations]
    both = compare_sweeps(("a", "b"), (plain, replace(plain, configurations=tuple(elsewhere))))
    assert both.rows["plain"].statistic.high == 0.0
    itself = compare_sweeps(("a", "a"), (first, first))
    assert {difference.statistic.high for difference in itself.rows.values()} == {0.0}
    values[rows.argmax(), 0, 0] += 1e-9  # one trial of `mixed` is another one: so is its curve
    nearly = compare_sweeps(("a", "b"), (first, replace(first, values_CSM=values)))
    assert nearly.rows["mixed"].statistic.high > 0.001


def test_the_order_of_the_sweeps_decides_signs_alone() -> None:
    """Each number of one order is that of the other, to the last digit; methods that only one has do not matter."""
    tables = (sweep(0.8, range(6), luck=2), sweep(0.6, range(2, 9), ("kl", "dpo"), luck=1))
    bases = ({"task": 0.1, "alignment": 0.2}, {"task": 0.1, "alignment": 0.3})
    usual = compare_sweeps(("a", "b"), tables, bases)
    exchanged = compare_sweeps(("b", "a"), tables[::-1], bases[::-1])
    assert exchanged.worst_corner == usual.worst_corner
    for label, row in usual.rows.items():
        assert exchanged.rows[label].statistic == -row.statistic
    data, reverse = to_json(("a", "b"), usual), to_json(("b", "a"), exchanged)
    assert (data.pop("first"), data.pop("second")) == (reverse.pop("second"), reverse.pop("first")) == ("a", "b")
    for label, row in data.pop("differences").items():
        other = reverse["differences"][label]
        assert [other.pop(name) for name in ("estimate", "low", "high")] == [
            -row.pop(name) for name in ("estimate", "high", "low")
        ]
        assert other.pop("p_first_dominates") == row.pop("p_second_dominates")
        assert other.pop("p_second_dominates") == row.pop("p_first_dominates")
        assert (row.pop("first"), row.pop("second")) == (f"a[0]: {label}", f"b[1]: {label}")
        assert (other.pop("first"), other.pop("second")) == (f"b[0]: {label}", f"a[1]: {label}")
        assert other == row
    del reverse["differences"]
    assert data == reverse


def test_refusals() -> None:
    usual = sweep(0.8, range(3))
    with pytest.raises(UserError, match="two seeds that both sweeps have"):
        compare_sweeps(("a", "b"), (usual, sweep(0.8, range(2, 5))))
    scattered = table([record(configuration("kl", beta=float(seed)), seed, 0.5, 0.5) for seed in range(3)])
    with pytest.raises(UserError, match="'b' has no configuration with finished trials of two seeds"):
        compare_sweeps(("a", "b"), (usual, scattered))
    loss_only = ScoreTable.from_records(
        [TrialRecord(configuration("kl"), 0, "finished", {"loss": 1.0})], [Objective("loss", "task", False)]
    )
    with pytest.raises(UserError, match="differ in their objectives: task, alignment and loss"):
        compare_sweeps(("a", "b"), (usual, loss_only))
    with pytest.raises(UserError, match="two or three objectives"):
        compare_sweeps(("a", "b"), (loss_only, loss_only))
