"""How the next configurations are chosen, and how they reach the workers.

`Proposer` explores one arm: the method's defaults, a low-discrepancy design, and multi-objective TPE. What
it proposes depends on the sweep's seed and on results, never on the order in which results arrive. `StudyMirror` keeps
Optuna studies of it on disk for people and dashboards; the ledger alone is the truth. `PackSearcher` deals packs to Ray
Tune.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import remove
from settings.reference import SettingRef, setting_label, setting_of
from settings.setting import Measurement, Score
from sweeps import plan
from sweeps.early_stopping import promoted
from sweeps.ledger import Ledger
from sweeps.names import JOURNAL
from sweeps.search.failures import reason_of
from sweeps.search.judging import Grades, GradingQueue
from sweeps.space import MethodSpace
from sweeps.sweep import Arm, Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig, base_id, checkpoint_of, pack_id, paused_of

SCRAMBLES = 64  # scramblings of the start-up design that compete for the widest spacing
OUT_OF_MEMORY = re.compile(r"out of memory|low on memory|OutOfMemory|MemoryError", re.IGNORECASE)
REDRAWS = 32  # attempts to find a configuration that was not asked yet
Directions = tuple[Literal["maximize", "minimize"], ...]
Deal = Callable[[Sequence[TrialConfig]], Sequence[Sequence[TrialConfig]]]
logger = logging.getLogger(__name__)

optuna.logging.disable_default_handler()


def directions_of(objectives: Sequence[Score]) -> Directions:
    """The direction of each objective; values keep their own sign."""
    return tuple("maximize" if score.higher_is_better else "minimize" for score in objectives)


@dataclass(frozen=True)
class Proposal:
    """A configuration to try: its number in the arm, and its searched coefficients."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class TrialSummary:
    """What Optuna learns of a configuration.

    Attributes:
        state: COMPLETE with the objectives' means over valid seeds; FAIL or PRUNED without values.
        values: the means, in the order of the objectives; None without a valid seed.
        notes: kept beside it as user attributes: valid seeds, statuses, spread.
    """

    state: TrialState
    values: tuple[float, ...] | None
    notes: Mapping[str, Any]


def summarize_seeds(outcomes: Sequence[Outcome], objectives: Sequence[str]) -> TrialSummary:
    """Sum up the seeds of a configuration.

    A seed is valid when it finished and every objective is a finite number. No valid seed: stopped if any was stopped,
    else failed.
    """
    per_seed = {outcome.trial.seed: outcome.values(objectives) for outcome in outcomes}
    valid = [values for values in per_seed.values() if values is not None]
    statuses = {str(outcome.trial.seed): outcome.status for outcome in outcomes}
    seeds = {str(seed): list(values) for seed, values in per_seed.items() if values is not None}
    notes = {"valid_seeds": len(valid), "statuses": statuses, "values_per_seed": seeds}
    if valid:
        return TrialSummary(TrialState.COMPLETE, tuple(fmean(column) for column in zip(*valid, strict=True)), notes)
    stopped = any(outcome.status == "stopped" for outcome in outcomes)
    return TrialSummary(TrialState.PRUNED if stopped else TrialState.FAIL, None, notes)


class Proposer:
    """Chooses the configurations of one arm, in rounds.

    Configuration n may be asked when all of the rounds before n's are told. The sampler is seeded by (seed, arm, n) and
    sees exactly those told configurations, and the earlier ones of n's own round as running: so two runs of one sweep
    propose the same trials, whatever the order and timing of their results.

    Args:
        arm: what to explore.
        objectives: what is told, in the order of the study's values.
        seed: of the search.
        round_size: configurations per round.
    """

    def __init__(self, arm: Arm, objectives: Sequence[Score], seed: int, round_size: int) -> None:
        self.arm = arm
        self.objectives = tuple(score.name for score in objectives)
        self.directions = directions_of(objectives)
        self.round_size = round_size
        self.asked: dict[int, Mapping[str, Any]] = {}
        self.told: dict[int, TrialSummary] = {}
        self.ended: str | None = None
        self._seed = seed
        self._design = _Design(arm.space, self._derived("design"))

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be asked."""
        return self.ended is not None or len(self.asked) >= self.arm.budget

    def next(self) -> Proposal | None:
        """The next configuration; None when results must come first, or when the arm is exhausted."""
        number = len(self.asked)
        first = number - number % self.round_size
        if self.exhausted or any(earlier not in self.told for earlier in range(first)):
            return None
        values = self._points(number) if self.arm.space.points is not None else self._search(number, first)
        if values is None:
            self.ended = (
                f"{self.arm.key}: no new configuration after {REDRAWS} draws; {number} of {self.arm.budget} asked"
            )
            return None
        self.asked[number] = values
        return Proposal(number, values)

    def restore(self, number: int, values: Mapping[str, Any]) -> None:
        """Take over a configuration that an earlier driver asked for, in the order of its number."""
        if number != len(self.asked):
            raise ValueError(f"{self.arm.key}: configuration {number} follows {len(self.asked) - 1}")
        self.asked[number] = dict(values)

    def tell(self, number: int, outcomes: Sequence[Outcome]) -> TrialSummary:
        """Say how the seeds of configuration `number` ended; the first telling counts."""
        if number not in self.asked:
            raise ValueError(f"{self.arm.key}: configuration {number} was never asked")
        return self.told.setdefault(number, summarize_seeds(outcomes, self.objectives))

    def trials(self, before: int | None = None) -> list[FrozenTrial]:
        """The configurations as Optuna trials; those numbered `before` and above as running."""
        before = len(self.asked) if before is None else before
        return [self.trial(number, told=number < before) for number in sorted(self.asked)]

    def trial(self, number: int, told: bool = True) -> FrozenTrial:
        """A configuration as an Optuna trial, with what is told of it if anything is, else as running."""
        space = self.arm.space
        params = {name: self.asked[number][name] for name in space.ranges}
        notes: dict[str, Any] = {"values": dict(self.asked[number])}
        report = self.told.get(number) if told else None
        state, values = (report.state, report.values) if report else (TrialState.RUNNING, None)
        notes |= dict(report.notes) if report else {}
        return create_trial(
            state=state, values=values, params=params, distributions=space.distributions(), user_attrs=notes
        )

    def _points(self, number: int) -> Mapping[str, Any]:
        assert self.arm.space.points is not None
        return self.arm.space.points[number]

    def _search(self, number: int, first: int) -> Mapping[str, Any] | None:
        """The next values that were not asked yet: of the design at first, then of TPE and the design in turn.

        A frontier needs points all along the knob. On simulated trade-offs with one knob and 10 configurations TPE
        alone reaches less of the best hypervolume than the design alone (.848 against .885 on the hardest), in turn
        .872.
        """
        taken = [dict(values) for values in self.asked.values()]
        for attempt in range(REDRAWS):
            learned = sum(self.told[earlier].values is not None for earlier in range(first))
            if number < self._design.size or learned < self._design.enough:
                values = self._design.values(number + attempt)
            elif number % 2 == 0:
                values = self._design.values((self._design.size + number) // 2 + attempt)
            else:
                values = self._sample(first, self._derived("sample", number, attempt))
            if values not in taken:
                return values
        return None

    def _sample(self, first: int, seed: int) -> dict[str, Any]:
        """One draw of TPE on a fresh study, so that nothing but the told results and the seed matters."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)
            study = optuna.create_study(directions=self.directions, sampler=sampler)
            study.add_trials(self.trials(before=first))
            return self.arm.space.suggest(study.ask())

    def _derived(self, *parts: str | int) -> int:
        return int(content_id([self._seed, self.arm.key, *parts], 8), 16)


class _Design:
    """The start-up points of an arm: its defaults, then a scrambled Sobol sequence.

    Of several scramblings the one whose points lie farthest apart is taken, so that four points on one axis do not
    waste a training on a near repeat.

    Attributes:
        size: configurations that come from the design in any case.
        enough: results without which later configurations come from it, too.
    """

    def __init__(self, space: MethodSpace, seed: int) -> None:
        self._space = space
        axes = len(space.ranges)
        self.size = 2 + axes
        self.enough = 1 + axes
        self._spread = 3 + 2 * axes  # points whose spacing chooses the scrambling
        defaults = space.defaults() if axes else {}
        self._first = [defaults] if defaults is not None else []
        self._seeds = range(seed, seed + SCRAMBLES)

    @cached_property
    def _scramble(self) -> int:
        return max(self._seeds, key=self._spacing)

    def values(self, number: int) -> dict[str, Any]:
        """Point `number`, 0 being the defaults where they lie inside the ranges."""
        if number < len(self._first):
            return dict(self._first[number])
        if not self._space.ranges:
            return {}
        return self._sobol(number + 1 - len(self._first), self._scramble)[-1]

    def _sobol(self, count: int, scramble: int) -> list[dict[str, Any]]:
        from scipy.stats import qmc

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the balance of powers of two is not needed
            points = qmc.Sobol(len(self._space.ranges), seed=scramble).random(count)
        return [self._space.at(point) for point in points.tolist()]

    def _spacing(self, scramble: int) -> float:
        """The smallest distance between two of the first points, in the unit cube."""
        values = self._first + self._sobol(self._spread - len(self._first), scramble)
        points = [self._space.position(point) for point in values]
        return min(math.dist(one, other) for index, one in enumerate(points) for other in points[:index])


class StudyMirror:
    """The Optuna studies of a sweep on disk, one per arm, for dashboards and plots. Follows the ledger, never leads.

    Args:
        folder: of the sweep; the file is `study.journal`. Its lock is the ledger's: open that first.
        sweep: its name, the first part of each study's name.
    """

    def __init__(self, folder: Path, sweep: str) -> None:
        self._path = folder / JOURNAL
        self._sweep = sweep
        self._studies: dict[str, optuna.Study] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Only this process writes: a lock left here is a dead driver's, and Optuna would wait 30 seconds for it.
            Path(f"{self._path}.lock").unlink(missing_ok=True)
            self._storage = self._load()
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror or error}") from error

    def _load(self) -> JournalStorage:
        try:
            if self._path.exists() and not (b"\n" + self._path.read_bytes()).endswith(b"\n"):
                raise ValueError("torn")
            return JournalStorage(JournalFileBackend(str(self._path)))
        except (ValueError, KeyError, AssertionError):  # torn by a kill: the ledger has all of it
            if self._path.exists():
                self._path.replace(self._path.with_suffix(".torn"))
            return JournalStorage(JournalFileBackend(str(self._path)))

    def name(self, proposer: Proposer) -> str:
        """The study's name: sweep and arm."""
        return f"{self._sweep}/{proposer.arm.key}"

    def open(self, proposer: Proposer) -> None:
        """Make the arm's study equal to the proposer. Raises UserError when it has other directions."""
        name, expected = self.name(proposer), proposer.trials()
        study = self._study(name, proposer.directions)
        found = tuple(direction.name.lower() for direction in study.directions)
        if found != proposer.directions:
            raise UserError(
                f"{self._path}: study {name!r} has directions {', '.join(found)}, the sweep wants"
                f" {', '.join(proposer.directions)}; choose another output folder or rename the sweep"
            )
        if list(map(_content, study.get_trials(deepcopy=False))) != list(map(_content, expected)):
            optuna.delete_study(study_name=name, storage=self._storage)
            study = self._study(name, proposer.directions)
            study.add_trials(expected)
        self._studies[proposer.arm.key] = study

    def _study(self, name: str, directions: Directions) -> optuna.Study:
        if name in optuna.get_all_study_names(self._storage):
            return optuna.load_study(study_name=name, storage=self._storage)
        return optuna.create_study(study_name=name, storage=self._storage, directions=directions)

    def asked(self, proposer: Proposer, number: int) -> None:
        """Add a configuration that was asked for, as running."""
        with self._unless_refused(proposer) as study:
            study.add_trial(proposer.trial(number))

    def told(self, proposer: Proposer, number: int) -> None:
        """Write down how a configuration ended."""
        report = proposer.told[number]
        with self._unless_refused(proposer) as study:
            trial = study.get_trials(deepcopy=False)[number]
            for key, value in report.notes.items():
                self._storage.set_trial_user_attr(trial._trial_id, key, value)
            study.tell(number, values=report.values, state=report.state)

    @contextmanager
    def _unless_refused(self, proposer: Proposer) -> Iterator[optuna.Study]:
        """The arm's study. A disk that refuses costs the mirror, not the sweep: the next `open` rebuilds it."""
        try:
            yield self._studies[proposer.arm.key]
        except OSError as error:
            logger.warning("%s: %s; the study is incomplete until the sweep is resumed", self._path, error.strerror)


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """What two equal trials share; their times differ."""
    return trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs


def _ignore(*_: Any) -> None:
    """A listener that does not listen."""


@dataclass(frozen=True)
class Listener:
    """Who else wants to know; called after the ledger has it. None of these may raise.

    Attributes:
        started: the trials of a pack that goes to a worker.
        base: label of a setting and the scores of its untouched base model.
        outcome: how a trial ended.
    """

    started: Callable[[Sequence[TrialConfig]], None] = _ignore
    base: Callable[[str, Mapping[str, Measurement]], None] = _ignore
    outcome: Callable[[Outcome], None] = _ignore


@dataclass
class InFlightPack:
    """A pack at a worker: its members and those without an outcome yet, or the setting whose base model is scored."""

    members: Sequence[TrialConfig]
    trials: dict[str, TrialConfig]
    base: SettingRef | None = None


def _flight(trials: Sequence[TrialConfig]) -> InFlightPack:
    return InFlightPack(trials, {trial.trial_id: trial for trial in trials})


class PackSearcher(Searcher):
    """Deals packs to Ray Tune and writes down what comes back: ledger first, then study, then listener.

    Trials that others build on (priors, trainings that are only read out) are trained first, once, whether or not the
    sweep asks for them itself.

    A Tune configuration is `{"pack": {"kind": "train", "trials": [TrialConfig.to_json(), ...], "snapshots": [...]}}` or
    `{"pack": {"kind": "base", "setting": {"name": ..., "options": {...}}}}`. A result may carry `outcomes`, a list of
    `Outcome.to_json()`, and `base`, a dict of score name -> measurement; either may come in several results. A result
    with `user_error`, one line about what only the user can put right, ends the search; `failed` is the traceback of a
    pack that has. One with `out_of_memory`, or that failed of it, is dealt again as two of half its size, and later
    ones of the setting are as small.

    After `Tuner.fit` look at `problem`: an error of the disk or of the user ends the search early and is kept there.

    Args:
        sweep: what to run.
        ledger: open; what it knows is not run again.
        folder: where study and checkpoints are kept; the ledger's folder.
        deal: joins trials into packs; `packing.deal` by default.
        listener: see `Listener`.
        judging: for settings whose replies a judge grades; their trials end when their grades are in, and others train
            meanwhile.

    Attributes:
        interrupted: tells whether the user wants to stop; then nothing more is waited for.
        reason: tells why a Tune trial failed, as a line or a traceback; the ledger keeps a line.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        folder: Path,
        *,
        deal: Deal | None = None,
        listener: Listener | None = None,
        judging: GradingQueue | None = None,
    ) -> None:
        super().__init__()
        self.problem: UserError | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.reason: Callable[[str], str] = lambda trial_id: "the worker that trained it died or raised an error"
        self._sweep = sweep
        self._ledger = ledger
        self._listener = listener or Listener()
        self._judging = judging
        self._deal = deal or plan.pack_trials(sweep.trials_per_pack)
        self._folder = folder
        self._mirror = StudyMirror(folder, sweep.name)
        self._proposers = [
            Proposer(arm, sweep.objectives_of(arm.setting), sweep.seed, sweep.round_size) for arm in sweep.arms
        ]
        self._owners: dict[str, list[tuple[Proposer, int]]] = {}  # trial id -> configurations that wait for it
        self._seeds: dict[tuple[str, int], tuple[TrialConfig, ...]] = {}  # (arm, number) -> its trials
        self._pool: list[TrialConfig] = []  # wanted, not dealt
        self._wanted: set[str] = set()  # ids of all trials that are or were in the pool
        self._packs: deque[InFlightPack] = deque()
        self._flights: dict[str, InFlightPack] = {}
        self._most: dict[str, int] = {}  # fingerprint of a setting -> trials that its memory holds, where known
        self._notes: list[str] = []
        self._restore()

    @property
    def done(self) -> bool:
        """Whether nothing is left to run: every arm is exhausted, every trial ended, every base scored."""
        waiting = self._packs or self._pool or self._flights or self._num_judged
        return not waiting and all(proposer.exhausted for proposer in self._proposers)

    @property
    def notes(self) -> list[str]:
        """What a user should know in the end: arms that ended before their budget, base models without a score."""
        return [proposer.ended for proposer in self._proposers if proposer.ended] + self._notes

    @property
    def _num_judged(self) -> int:
        """Models whose replies are with the judge."""
        return self._judging.pending if self._judging else 0

    def _restore(self) -> None:
        """Take over what the ledger says, and queue what is missing."""
        for trial_id, outcome in self._ledger.record.generated.items():
            if trial_id not in self._ledger.record.outcomes:
                self._judge(outcome)
        missing = [ref for ref in self._sweep.settings if setting_label(ref) not in self._ledger.record.bases]
        self._packs.extend(InFlightPack((), {}, base=ref) for ref in missing)
        for proposer in self._proposers:
            asked = self._ledger.record.asked.get(proposer.arm.key, {})
            for number in sorted(asked):
                proposer.restore(number, asked[number].values)
                self._want(proposer, number)
            self._mirror.open(proposer)
        self._take_up()

    def _take_up(self) -> None:
        """Queue the packs again that an earlier driver dealt and that did not end, unless packs are smaller now.

        Of two packs with one trial the later one counts: the earlier was too large.
        """
        record, pool = self._ledger.record, {trial.trial_id: trial for trial in self._pool}
        packs: list[InFlightPack] = []
        known = pool | {key: end.trial for key, end in (record.generated | record.outcomes).items()}
        packs = []
        for pack, pauses in reversed(record.dealt):  # of a trial that was dealt twice the later counts
            fits = len(pack) <= self._sweep.trials_per_pack and known.keys() >= set(pack)
            pairs = [(key, at) for key, at in zip(pack, pauses, strict=True) if fits and key in pool]
            waiting = {key: pool.pop(key) for key, at in pairs if at == self._pause(pool[key])}
            if waiting:
                packs.append(InFlightPack([known[key] for key in pack], waiting))
        self._packs.extend(reversed(packs))
        self._pool = list(pool.values())

    def auxiliary(self, trial: TrialConfig) -> bool:
        """Whether a trial is only there because others build on it."""
        return trial.trial_id not in self._owners

    def _want(self, proposer: Proposer, number: int) -> None:
        """Queue the trials of a configuration that have no outcome and no pack; tell it if there are none."""
        trials = self._seeds[proposer.arm.key, number] = self._sweep.trials_of(proposer.arm, proposer.asked[number])
        for trial in trials:
            self._queue(trial)
            self._owners.setdefault(trial.trial_id, []).append((proposer, number))
        self._tell_if_complete(proposer, number)

    def _queue(self, trial: TrialConfig) -> None:
        """Put a trial into the pool, after all that it builds on; each once."""
        record = self._ledger.record
        if trial.trial_id in record.outcomes or trial.trial_id in record.generated or trial.trial_id in self._wanted:
            return
        for needed in trial.requires:
            self._queue(needed)
        self._wanted.add(trial.trial_id)
        self._pool.append(trial)

    def _ready(self) -> list[TrialConfig]:
        """Take the trials out of the pool whose requirements have finished; those that cannot run end here."""
        outcomes = self._ledger.record.outcomes
        ready: list[TrialConfig] = []
        waiting: list[TrialConfig] = []
        for trial in self._pool:
            ends = [outcomes[needed.trial_id] for needed in trial.requires if needed.trial_id in outcomes]
            bad = next((end for end in ends if end.status != "finished"), None)
            left_behind = self._left_behind(trial)
            if left_behind is None:
                waiting.append(trial)
            elif left_behind:
                self._stop(trial, left_behind)
            elif bad:
                reason = f"the {bad.trial.method.name} training that it builds on is {bad.status}: {bad.reason}"
                self._ended(Outcome(trial=trial, status=bad.status, reason=reason))
            else:
                (ready if len(ends) == len(trial.requires) else waiting).append(trial)
        self._pool = waiting
        return ready

    def _rungs(self, trial: TrialConfig) -> tuple[int, ...]:
        """Updates after which a trial is compared; none for those that only others build on."""
        found = [self._sweep.rungs_of(proposer.arm, trial) for proposer, _ in self._owners.get(trial.trial_id, ())]
        return min(found, key=len, default=())  # whoever wants it to its end has it

    def _left_behind(self, trial: TrialConfig) -> str | None:
        """Why a trial is to be stopped at the rung that it has reached; empty if it goes on; None if that is open."""
        done = max(self._ledger.record.rungs.get(trial.trial_id, {}), default=0)
        if done not in self._rungs(trial):
            return ""
        found = [
            self._verdict(proposer, number, self._rungs(trial).index(done))
            for proposer, number in self._owners[trial.trial_id]
        ]
        return "" if "" in found else None if None in found else found[0]

    def _verdict(self, proposer: Proposer, number: int, rung: int) -> str | None:
        """The same for a configuration of an arm. Its round and those before it have to be there, or out, first."""
        until = (number // proposer.round_size + 1) * proposer.round_size
        known = {other: self._at_rung(proposer, other, rung) for other in proposer.asked if other < until}
        if None in known.values():
            return None
        there = {other: gains for other, gains in known.items() if gains}
        assert self._sweep.early_stopping is not None
        going = promoted(list(there.values()), self._sweep.early_stopping.keep)
        if number not in there or list(there).index(number) in going:
            return ""
        return f"left behind by {len(going)} of {len(there)} configurations"

    def _at_rung(self, proposer: Proposer, number: int, rung: int) -> tuple[float, ...] | None:
        """Mean gains of a configuration at a rung; empty if it is out before; None if it is not there yet."""
        record, per_seed = self._ledger.record, []
        for trial in self._seeds[proposer.arm.key, number]:
            steps = self._sweep.rungs_of(proposer.arm, trial)
            outcome = record.rungs.get(trial.trial_id, {}).get(steps[rung]) if steps else None
            if outcome is None and trial.trial_id not in record.outcomes:
                return None
            values = outcome.values(proposer.objectives) if outcome else None
            if values is not None:
                per_seed.append(values)
        signs = [1 if direction == "maximize" else -1 for direction in proposer.directions]
        means = [fmean(column) for column in zip(*per_seed, strict=True)]
        return tuple(sign * mean for sign, mean in zip(signs, means, strict=False))

    def _stop(self, trial: TrialConfig, reason: str) -> None:
        """End a trial at the rung that it waits at."""
        rungs = self._ledger.record.rungs[trial.trial_id]
        last = rungs[max(rungs)]
        text = f"{reason} after {last.trial.updates} of {trial.updates} updates"
        self._ended(replace(last, trial=trial, status="stopped", reason=text, scores={}))

    def _tell_if_complete(self, proposer: Proposer, number: int) -> bool:
        known = self._ledger.record.outcomes
        trials = self._seeds[proposer.arm.key, number]
        if number in proposer.told or any(trial.trial_id not in known for trial in trials):
            return False
        proposer.tell(number, [known[trial.trial_id] for trial in trials])
        return True

    def _ask(self) -> None:
        """Ask every arm in turn for all that it can propose now."""
        while True:
            proposals = [(proposer, proposer.next()) for proposer in self._proposers]
            for proposer, proposal in proposals:
                if proposal:
                    trial = self._sweep.trials_of(proposer.arm, proposal.values)[0]
                    self._ledger.asked(proposer.arm.key, proposal.number, proposal.values, trial.configuration_id)
                    self._mirror.asked(proposer, proposal.number)
                    self._want(proposer, proposal.number)
                    if proposal.number in proposer.told:  # another arm had the same trials
                        self._mirror.told(proposer, proposal.number)
            if not any(proposal for _, proposal in proposals):
                return

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None when results must come first; FINISHED when no more will come."""
        if self.problem:
            return Searcher.FINISHED
        try:
            self._collect()
            return self._next_pack(trial_id)
        except UserError as error:
            self.problem = error
            return Searcher.FINISHED

    def _next_pack(self, trial_id: str) -> dict[str, Any] | str | None:
        while not self._packs:
            self._ask()
            known = len(self._ledger.record.outcomes)
            ready = self._ready()
            packs = self._deal(ready) if ready else []
            self._packs.extend(_flight(part) for pack in packs for part in self._that_fit(pack))
            if len(self._ledger.record.outcomes) == known:  # else a trial has ended here, and more may be asked
                break
        if self._packs:
            flight = self._flights[trial_id] = self._packs.popleft()
            return {"pack": self._departure(flight)}
        least = 0 if self._sweep.early_stopping else 1
        may_return = any(len(flight.trials) > least for flight in self._flights.values())  # from a rung, or in halves
        if may_return or (
            self._flights and (self._pool or not all(proposer.exhausted for proposer in self._proposers))
        ):
            return None  # after FINISHED nobody asks again
        if self._judging and (self._flights or self._num_judged) and not self.interrupted():
            return None  # what is in flight has yet to be judged
        return Searcher.FINISHED

    def _that_fit(self, pack: Sequence[TrialConfig]) -> list[Sequence[TrialConfig]]:
        """A pack cut to the size that is known to fit the memory."""
        most = self._most.get(pack[0].data, len(pack))
        return [pack[start : start + most] for start in range(0, len(pack), most)]

    def _departure(self, flight: InFlightPack) -> dict[str, Any]:
        if flight.base:
            return {"kind": "base", "setting": asdict(flight.base)}
        pauses = [self._pause(trial) for trial in flight.members]
        self._ledger.dealt([trial.trial_id for trial in flight.members], pauses)
        self._listener.started(list(flight.trials.values()))
        packed = [trial.to_json() for trial in flight.members]
        return {"kind": "train", "trials": packed, "snapshots": list(self._sweep.snapshots), "pauses": pauses}

    def _pause(self, trial: TrialConfig) -> int | None:
        """The next rung of a trial."""
        known = self._ledger.record.rungs.get(trial.trial_id, {})
        return next((step for step in self._rungs(trial) if step not in known and step < trial.updates), None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the outcomes and base scores that a worker reports."""
        flight = self._flights.get(trial_id)
        if flight is None or self.problem:
            return
        try:
            if result.get("user_error"):
                raise UserError(str(result["user_error"]))
            if result.get("out_of_memory"):
                self._split(flight, str(result["out_of_memory"]))
            elif result.get("failed"):
                self._failed(flight, str(result["failed"]))
            else:
                self._receive(flight, result)
        except UserError as error:
            self.problem = error

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack ended. With `error`, its trials without an outcome have failed; else the next start runs them."""
        if result:
            self.on_trial_result(trial_id, result)
        flight = self._flights.pop(trial_id, None)
        if flight is None:
            return
        if error and not self.problem:
            try:
                self._failed(flight, self.reason(trial_id))
            except UserError as problem:
                self.problem = problem
        elif flight.trials:
            logger.info("a pack ended without the outcome of %d trials; the next start runs them", len(flight.trials))

    def _failed(self, flight: InFlightPack, text: str) -> None:
        """What a pack has not finished has failed, or is dealt again in halves where memory was lacking."""
        name = base_id(setting_of(flight.base)) if flight.base else pack_id(flight.members)
        reason = reason_of(text, self._folder, name)
        if OUT_OF_MEMORY.search(reason):
            self._split(flight, reason)
            return
        if flight.base:
            self._not_scored(flight.base, reason)
            flight.base = None
        lost = [Outcome(trial=trial, status="failed", reason=reason) for trial in flight.trials.values()]
        self._receive(flight, {"outcomes": [outcome.to_json() for outcome in lost]})

    def _not_scored(self, base: SettingRef, reason: str) -> None:
        label = setting_label(base)
        self._notes.append(f"{label}: no score of the base model ({reason}); the next start tries again")

    def _split(self, flight: InFlightPack, reason: str) -> None:
        """Deal the trials of a pack again in halves; one that does not even fit alone has failed."""
        trials = list(flight.trials.values())
        flight.trials.clear()
        if flight.base:
            self._not_scored(flight.base, f"out of memory: {reason}")
            flight.base = None
        if len(trials) == 1:
            advice = "try rows_per_forward=1 and gradient_checkpointing=True"
            self._ended(Outcome(trial=trials[0], status="failed", reason=f"out of memory alone; {advice} ({reason})"))
        elif trials:
            half = len(trials) // 2
            self._most[trials[0].data] = min(half, self._most.get(trials[0].data, half))
            self._packs.extendleft(reversed([_flight(part) for part in self._that_fit(trials)]))
            self._notes.append(f"a pack of {len(trials)} trials was out of memory and is dealt in halves ({reason})")

    def _receive(self, flight: InFlightPack, result: Mapping[str, Any]) -> None:
        for data in result.get("outcomes") or ():
            outcome = Outcome.from_json(data)
            if flight.trials.pop(outcome.trial.trial_id, None):
                if outcome.status == "finished" and setting_of(outcome.trial.setting).judged:
                    self._ledger.generated(outcome)
                    self._judge(outcome)
                else:
                    self._ended(outcome)
        for data in result.get("rungs") or ():
            outcome = Outcome.from_json(data)
            trial = flight.trials.pop(outcome.trial.whole.trial_id, None)
            if trial:
                self._ledger.rung(outcome)
                self._pool.append(trial)
        if flight.members and not flight.trials:
            remove(checkpoint_of(self._folder, flight.members))
        scores = _branch(result, "base")
        if flight.base and (scores or result.get("done")):
            measured = {name: Measurement(**score) for name, score in scores.items()}
            self._base_scored(flight.base, measured)
            flight.base = None

    def _base_scored(self, ref: SettingRef, scores: Mapping[str, Measurement]) -> None:
        setting, label = setting_of(ref), setting_label(ref)
        if any(score.name not in scores for evaluation in setting.judged for score in evaluation.scores):
            assert self._judging is not None
            self._judging.submit((ref, scores), setting, base_id(setting))
        elif self._ledger.base(label, scores):
            self._listener.base(label, scores)

    def _judge(self, outcome: Outcome) -> None:
        assert self._judging is not None
        self._judging.submit(outcome, setting_of(outcome.trial.setting), outcome.trial.trial_id)

    def _collect(self) -> None:
        """Take in what the judge has graded."""
        for what, grades in self._judging.collect() if self._judging else ():
            if isinstance(what, Outcome):
                self._ended(_graded(what, grades))
            else:
                ref, scores = what
                self._base_scored(ref, {**scores, **grades.scores})

    def _ended(self, outcome: Outcome) -> None:
        """Write down how a trial ended, and tell the configurations that are complete with it."""
        if not self._ledger.outcome(outcome):
            return
        if self._sweep.early_stopping:
            remove(paused_of(self._folder, outcome.trial))
        for proposer, number in self._owners.get(outcome.trial.trial_id, ()):
            if self._tell_if_complete(proposer, number):
                self._mirror.told(proposer, number)
        self._listener.outcome(outcome)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Tune's own metric, mode and search space are not used."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the ledger has it all, at any time."""

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Nothing: a new searcher on the same ledger continues."""

    def save(self, checkpoint_path: str) -> None:
        """See `save_to_dir`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `restore_from_dir`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration; open files and listeners stay here


def _graded(outcome: Outcome, grades: Grades) -> Outcome:
    """The outcome with a judge's scores, invalid if these cannot be trusted."""
    if grades.problem:
        return replace(outcome, status="invalid", reason=grades.problem)
    return replace(outcome, scores={**outcome.scores, **grades.scores})


def _branch(result: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """`result[key]`, a dict of dicts, also when Tune has flattened it to "key/score/field" entries."""
    if isinstance(result.get(key), Mapping):
        return dict(result[key])
    branch: dict[str, dict[str, Any]] = {}
    for path, value in result.items():
        if path.startswith(f"{key}/"):
            name, _, leaf = path.removeprefix(f"{key}/").rpartition("/")
            branch.setdefault(name, {})[leaf] = value
    return branch
