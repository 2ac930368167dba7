"""The trials that a sweep will have, as far as they are known in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.case import Case
from sweeps.controls import ENDS
from sweeps.ledger import LedgerState
from sweeps.sweep import Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

FOR_OTHERS = ", for others"  # ends the title of trials that the sweep does not list, but builds on


@dataclass(frozen=True)
class Planned:
    """A method on a setting: the trials of each configuration, and the key of the arm that asks for them, if any."""

    case: Case
    title: str
    configurations: Sequence[Sequence[TrialConfig]]
    arm: str | None = None

    @property
    def trials(self) -> list[TrialConfig]:
        """All trials of all configurations."""
        return [trial for seeds in self.configurations for trial in seeds]

    def outcomes(self, record: LedgerState) -> list[Outcome]:
        """Return the outcomes of the trials that have ended."""
        if self.arm is None:
            return [record.outcomes[trial.trial_id] for trial in self.trials if trial.trial_id in record.outcomes]
        return record.outcomes_of(self.arm)


def planned_arms(sweep: Sweep) -> list[Planned]:
    """List every arm, then the trials that arms build on but none asks for.

    Configurations to be searched are taken from the middle of their ranges; those of a cheap front, first from both
    ends, on which its blends are built.
    """
    planned = []
    for case in sweep.cases:
        for arm in case.arms:
            examples = arm.space.examples(arm.budget)
            if sweep.search.front == "cheap" and arm.space.ranges:
                examples = [*(arm.space.at([end]) for end in ENDS), *examples][: arm.budget]
            configurations = [sweep.trials_of(arm, values) for values in examples]
            planned.append(Planned(case, arm.title, configurations, arm.key))
    listed = {trial.trial_id for method in planned for trial in method.trials}
    auxiliary: dict[tuple[str, str], tuple[Case, dict[str, list[TrialConfig]]]] = {}
    for method in planned:
        for trial in method.trials:
            for needed in trial.built_on:
                if needed.trial_id not in listed:
                    listed.add(needed.trial_id)
                    title = f"{needed.method.title}{FOR_OTHERS}"
                    _, needed_by_id = auxiliary.setdefault((method.case.label, title), (method.case, {}))
                    needed_by_id.setdefault(needed.configuration_id, []).append(needed)
    return planned + [
        Planned(case, title, list(configurations.values())) for (_, title), (case, configurations) in auxiliary.items()
    ]
