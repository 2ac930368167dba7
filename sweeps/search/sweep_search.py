"""The search of a whole sweep: a proposer for each arm, the trials of its configurations, and the studies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.case import Case, arm_key
from sweeps.controls import blends_of
from sweeps.description import describe_configuration
from sweeps.early_stopping import Gains, RungDecision, RungRuling, decide_configuration, decide_trial, gains_at_rung
from sweeps.ledger import Ledger
from sweeps.search.accountant import Accountant
from sweeps.search.gaps import GapProposer
from sweeps.search.proposer import Proposal, Proposer
from sweeps.search.study import StudyMirror
from sweeps.sweep import Sweep
from trainables.trial import TrialConfig


@dataclass(frozen=True)
class ArmConfiguration:
    """A configuration that an arm asked for, with one trial per seed."""

    proposer: Proposer
    number: int
    trials: Sequence[TrialConfig]


class SweepSearch:
    """Ask all arms of a sweep for configurations, and tell each configuration once all of its seeds have ended.

    Several arms may ask for the same trial: it is trained once, and all of its configurations are told.

    Args:
        sweep: what to search.
        ledger: an open ledger; nothing in it is asked for again. It is written first, then the studies.
        folder: where the studies are kept.
        account: says whether the sweep's budget has room for a configuration, and learns of those asked for.

    Attributes:
        proposers: one per arm, in the order of the sweep's arms.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, folder: Path, account: Accountant) -> None:
        self._sweep = sweep
        self._ledger, self._account = ledger, account
        self._mirror = StudyMirror(folder, sweep.name)
        self.proposers = [proposer for case in sweep.cases for proposer in _proposers_of(sweep, case)]
        self._configurations: dict[tuple[str, int], ArmConfiguration] = {}  # by arm and number
        self._by_trial: dict[str, list[ArmConfiguration]] = {}

    @property
    def exhausted(self) -> bool:
        """Whether no arm will ask for anything more."""
        return all(proposer.exhausted for proposer in self.proposers)

    @property
    def notes(self) -> list[str]:
        """Why arms ended before their budget was spent."""
        return [proposer.ended for proposer in self.proposers if proposer.ended]

    def restore(self) -> list[TrialConfig]:
        """Take over the configurations in the ledger and rewrite the studies. Return the trials of all of them."""
        trials: list[TrialConfig] = []
        for proposer in self.proposers:
            asked = self._ledger.state.asked.get(proposer.arm.key, {})
            for number in sorted(asked):
                proposer.restore(number, asked[number].values)
                configuration = self._add(proposer, number)
                self._tell_if_complete(configuration)
                trials += configuration.trials
            self._mirror.open(proposer)
        return trials

    def ask(self) -> list[TrialConfig]:
        """Ask every arm in turn for all it can propose now. Return the trials of the new configurations."""
        trials: list[TrialConfig] = []
        while True:
            proposals = [(proposer, self._next(proposer)) for proposer in self.proposers]
            for proposer, proposal in proposals:
                if proposal:
                    configuration = self._add(proposer, proposal.number)
                    trial = configuration.trials[0]
                    described = describe_configuration(self._sweep, trial)
                    asked = proposer.arm.key, proposal.number, proposal.values, trial.configuration_id
                    self._ledger.record_configuration(*asked, described)
                    self._mirror.add(proposer, proposal.number)
                    if self._tell_if_complete(configuration):  # another arm has had the same trials
                        self._mirror.tell(proposer, proposal.number)
                    trials += configuration.trials
            if not any(proposal for _, proposal in proposals):
                return trials

    def _next(self, proposer: Proposer) -> Proposal | None:
        """Ask an arm for a configuration that the budget has room for."""
        if not self._account.is_limited:
            return proposer.next()
        arm = proposer.arm
        if self._account.is_refused(arm) or self._is_ahead(proposer):
            return None
        return proposer.next(lambda values: self._account.admit(arm, self._sweep.trials_of(arm, values)))

    def _is_ahead(self, proposer: Proposer) -> bool:
        """Return whether an arm would get two rounds ahead of another: a budget must not favour the quick ones."""
        next_round = len(proposer.asked) // proposer.round_size
        return any(
            other.first_untold < len(other.asked) and other.first_untold // other.round_size < next_round - 1
            for other in self.proposers
        )

    def tell(self, trial: TrialConfig) -> None:
        """Tell the configurations that the outcome of `trial`, now in the ledger, completes."""
        for configuration in self._by_trial.get(trial.trial_id, ()):
            if self._tell_if_complete(configuration):
                self._mirror.tell(configuration.proposer, configuration.number)

    def is_auxiliary(self, trial: TrialConfig) -> bool:
        """Return whether no configuration has the trial: it exists only for others to build on."""
        return trial.trial_id not in self._by_trial

    def rungs_of(self, trial: TrialConfig) -> tuple[int, ...]:
        """Return the updates after which a trial is compared; none for auxiliary trials."""
        arms = [configuration.proposer.arm for configuration in self._by_trial.get(trial.trial_id, ())]
        # if several arms share the trial, the one with the fewest rungs wins
        return min((self._sweep.rungs_of(arm, trial) for arm in arms), key=len, default=())

    def next_rung(self, trial: TrialConfig) -> int | None:
        """Return the updates after which the trial pauses next; None if it trains to its end."""
        reached = self._ledger.state.rungs.get(trial.trial_id, {})
        return next((step for step in self.rungs_of(trial) if step not in reached and step < trial.updates), None)

    def decide_at_rung(self, trial: TrialConfig) -> RungRuling:
        """Decide whether a trial continues from the rung that it has reached; CONTINUE if it is waiting at none."""
        updates, rungs = max(self._ledger.state.rungs.get(trial.trial_id, {}), default=0), self.rungs_of(trial)
        if updates not in rungs:
            return RungRuling(RungDecision.CONTINUE)
        rung = rungs.index(updates)
        return decide_trial([self._decide(configuration, rung) for configuration in self._by_trial[trial.trial_id]])

    def _decide(self, configuration: ArmConfiguration, rung: int) -> RungRuling:
        """Decide one configuration. All configurations of its round and earlier rounds must have arrived or ended."""
        rule = self._sweep.search.early_stopping
        assert rule is not None
        proposer = configuration.proposer
        until = (configuration.number // proposer.round_size + 1) * proposer.round_size
        numbers = [number for number in proposer.asked if number < until]
        gains = {number: self._gains(self._configurations[proposer.arm.key, number], rung) for number in numbers}
        return decide_configuration(configuration.number, gains, rule.keep)

    def _gains(self, configuration: ArmConfiguration, rung: int) -> Gains | None:
        """Return a configuration's mean gains at a rung; () if it ended before, None if it has not arrived."""
        record, seeds = self._ledger.state, []
        for trial in configuration.trials:
            steps = self._sweep.rungs_of(configuration.proposer.arm, trial)
            outcome = record.rungs.get(trial.trial_id, {}).get(steps[rung]) if steps else None
            if outcome:
                seeds.append(outcome)
            elif trial.trial_id not in record.outcomes:
                return None
        return gains_at_rung(seeds, configuration.proposer.scores)

    def _add(self, proposer: Proposer, number: int) -> ArmConfiguration:
        trials = self._sweep.trials_of(proposer.arm, proposer.asked[number])
        configuration = ArmConfiguration(proposer, number, trials)
        self._configurations[proposer.arm.key, number] = configuration
        for trial in trials:
            self._by_trial.setdefault(trial.trial_id, []).append(configuration)
        self._account.commit(trials)
        return configuration

    def _tell_if_complete(self, configuration: ArmConfiguration) -> bool:
        outcomes = self._ledger.state.outcomes
        proposer, number = configuration.proposer, configuration.number
        if number in proposer.told or any(trial.trial_id not in outcomes for trial in configuration.trials):
            return False
        proposer.tell(number, [outcomes[trial.trial_id] for trial in configuration.trials])
        return True


def _proposers_of(sweep: Sweep, case: Case) -> list[Proposer]:
    """Return the proposer of each of a case's arms, in order."""
    search = sweep.search
    by_key = {arm.key: Proposer(arm, case.objectives, search.seed, search.round_size) for arm in case.arms}
    for arm in case.arms if search.front == "cheap" else ():
        if arm.space.ranges:
            blends = by_key[arm_key(case.label, blends_of(arm.space))]
            by_key[arm.key] = GapProposer(arm, case.objectives, search.seed, blends)
    return list(by_key.values())
