"""Decide which trials train next, and in which packs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sweeps.case import Case
from sweeps.early_stopping import RungDecision
from sweeps.ledger import Ledger
from sweeps.search.packing import pack_trials
from sweeps.search.sweep_search import SweepSearch
from sweeps.sweep import Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig


@dataclass
class InFlightPack:
    """A pack that is queued or at a worker, or a base model to be scored.

    Attributes:
        members: all trials of the pack, in order; none if a base model is scored.
        waiting: by id, the members that have neither ended nor reached their rung.
        base: the setting whose base model is scored.
    """

    members: Sequence[TrialConfig]
    waiting: dict[str, TrialConfig]
    base: Case | None = None

    @staticmethod
    def of(trials: Sequence[TrialConfig]) -> InFlightPack:
        """Make a pack of trials that all need training."""
        return InFlightPack(trials, {trial.trial_id: trial for trial in trials})


class PackQueue:
    """The trials waiting to be packed, and the packs waiting for a worker.

    A trial is queued after everything it requires (priors, trainings to be read out), and packed once that has
    finished. A trial that pauses at a rung is queued again, and packed or stopped once the others of its round have
    arrived.

    Args:
        sweep: what to run.
        ledger: an open ledger; trials that have ended or wait for their grades are not queued.
        search: decides about trials at their rungs.

    Attributes:
        packs: the waiting packs, in the order in which they are handed out.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, search: SweepSearch) -> None:
        self.packs: deque[InFlightPack] = deque()
        self._sweep, self._ledger, self._search = sweep, ledger, search
        self._trials: list[TrialConfig] = []  # not packed yet, in the order in which they were asked for
        self._enqueued: set[str] = set()  # ids of all trials that are or were queued
        self._size_that_fits: dict[str, int] = {}  # fingerprint of a setting -> trials that its memory holds

    @property
    def has_trials(self) -> bool:
        """Whether trials are waiting to be packed."""
        return bool(self._trials)

    @property
    def _pack_size(self) -> int:
        """The most trials in a pack: what the sweep says, or less if the first start chose so."""
        fit, most = self._ledger.state.fit, self._sweep.trials_per_pack
        return fit.members(most) if fit else most

    def restore(self, trials: Sequence[TrialConfig]) -> None:
        """Queue base models without a score, packs that an earlier driver handed out, and what is left of `trials`."""
        unscored = [case for case in self._sweep.cases if case.label not in self._ledger.state.bases]
        self.packs.extend(InFlightPack((), {}, base=case) for case in unscored)
        for trial in trials:
            self._enqueue(trial)
        self._restore_packs()

    def fill(self, end: Callable[[Outcome], None]) -> None:
        """Ask the search for trials and pack what is ready, until there is a pack or nothing changes.

        Args:
            end: called with the outcome of each trial that ends here because it cannot run or is stopped at its rung.
        """
        while not self.packs:
            for trial in self._search.ask():
                self._enqueue(trial)
            num_ended = len(self._ledger.state.outcomes)
            packs = pack_trials(self._pop_ready(end), self._pack_size)
            self.packs.extend(InFlightPack.of(part) for pack in packs for part in self._split_to_fit(pack))
            if len(self._ledger.state.outcomes) == num_ended:  # else a trial has ended here, and more may be asked
                break

    def take(self, may_begin: Callable[[InFlightPack], bool]) -> InFlightPack | None:
        """Take the first pack that may begin; None if there is none."""
        for number, pack in enumerate(self.packs):
            if may_begin(pack):
                del self.packs[number]
                return pack
        return None

    def put_back(self, trial: TrialConfig) -> None:
        """Queue a trial that pauses at a rung again."""
        self._trials.append(trial)

    def put_back_halves(self, trials: Sequence[TrialConfig]) -> None:
        """Queue the trials of a pack that ran out of memory in halves, before all others. Later packs are as small."""
        data, half = trials[0].data, len(trials) // 2
        self._size_that_fits[data] = min(half, self._size_that_fits.get(data, half))
        self.packs.extendleft(reversed([InFlightPack.of(part) for part in self._split_to_fit(trials)]))

    def _restore_packs(self) -> None:
        """Queue the unfinished packs of an earlier driver again, unless packs are smaller now.

        If two packs have the same trial, the later one counts: the earlier one was too large.
        """
        record, queued = self._ledger.state, {trial.trial_id: trial for trial in self._trials}
        trials = queued | {key: end.trial for key, end in (record.generated | record.outcomes).items()}
        packs: list[InFlightPack] = []
        for pack, pause_after in reversed(record.dispatched):
            fits = len(pack) <= self._pack_size and trials.keys() >= set(pack)
            pairs = [(key, pause) for key, pause in zip(pack, pause_after, strict=True) if fits and key in queued]
            waiting = {key: queued.pop(key) for key, pause in pairs if pause == self._search.next_rung(queued[key])}
            if waiting:
                packs.append(InFlightPack([trials[key] for key in pack], waiting))
        self.packs.extend(reversed(packs))
        self._trials = list(queued.values())

    def _enqueue(self, trial: TrialConfig) -> None:
        record = self._ledger.state
        if trial.trial_id in record.outcomes or trial.trial_id in record.generated or trial.trial_id in self._enqueued:
            return
        for required in trial.requires:
            self._enqueue(required)
        self._enqueued.add(trial.trial_id)
        self._trials.append(trial)

    def _pop_ready(self, end: Callable[[Outcome], None]) -> list[TrialConfig]:
        """Take trials whose requirements have finished out of the queue; end those that cannot run."""
        outcomes = self._ledger.state.outcomes
        ready: list[TrialConfig] = []
        waiting: list[TrialConfig] = []
        for trial in self._trials:
            ends = [outcomes[required.trial_id] for required in trial.requires if required.trial_id in outcomes]
            unusable = next((outcome for outcome in ends if outcome.status != "finished"), None)
            ruling = self._search.decide_at_rung(trial)
            if ruling.decision is RungDecision.WAIT:
                waiting.append(trial)
            elif ruling.decision is RungDecision.STOP:
                end(self._stopped_at_rung(trial, ruling.stopped_because))
            elif unusable:
                built_on = unusable.trial.method.name
                reason = f"the {built_on} training that it builds on is {unusable.status}: {unusable.reason}"
                end(Outcome(trial=trial, status=unusable.status, reason=reason))
            else:
                (ready if len(ends) == len(trial.requires) else waiting).append(trial)
        self._trials = waiting
        return ready

    def _stopped_at_rung(self, trial: TrialConfig, because: str) -> Outcome:
        """Return the outcome of a trial that is stopped at the last rung that it has reached."""
        rungs = self._ledger.state.rungs[trial.trial_id]
        last = rungs[max(rungs)]
        reason = f"{because} after {last.trial.updates} of {trial.updates} updates"
        return replace(last, trial=trial, status="stopped", reason=reason, scores={})

    def _split_to_fit(self, pack: Sequence[TrialConfig]) -> list[Sequence[TrialConfig]]:
        """Split a pack into packs of the size that is known to fit into memory."""
        size = self._size_that_fits.get(pack[0].data, len(pack))
        return [pack[start : start + size] for start in range(0, len(pack), size)]
