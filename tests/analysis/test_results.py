"""A sweep's results as tables of pandas."""

from analysis.results import SweepResults
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.scores import Configuration, Objective, TrialRecord

OBJECTIVES = (Objective("task", "task"), Objective("alignment", "alignment"))


def test_a_coefficient_with_the_name_of_another_column_keeps_its_value() -> None:
    """A penalty has a coefficient "tokens", and trials have a cost of this name."""
    which = Configuration("c", "kl_penalty", "beta=1", {"beta": 1.0, "tokens": "all", "task": "first"})
    scores = {"task": 0.5, "alignment": 0.75}
    trials = [TrialRecord(which, seed, "finished", scores, tokens=1200.0, seconds=3.0) for seed in range(2)]
    results = SweepResults(LoadedSweep.of_trials("mine", None, OBJECTIVES, trials))
    for frame in (results.configurations, results.trials):
        row = frame.iloc[0]
        assert (row["beta"], row["coefficient_tokens"], row["coefficient_task"]) == (1.0, "all", "first")
        assert (row["tokens"], row["seconds"], row["task"]) == (1200.0, 3.0, 0.5)
