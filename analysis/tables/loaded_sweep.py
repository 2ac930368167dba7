"""A sweep's numbers, read from its ledger or from MLflow, and the rules by which its trials count."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.tables.questions import Grade
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError, did_you_mean

STATUSES = ("finished", "invalid", "failed", "stopped", "running")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedSweep:
    """One setting of a sweep. Build it with `of_trials`.

    Attributes:
        name: of the sweep.
        setting: label of what was learned; None if no trial names it.
        table: scores of the objectives.
        objectives: task first.
        base_scores: score name -> mean of the untouched base model; empty if it was not scored.
        counts: status -> number of trials: finished, invalid, failed, stopped, running.
        records: the trials that ended, with all of their scores.
        grades: of single questions, where the sweep has published them.
        triggered: the table with "<objective>_triggered" in place of each objective for which the sweep has this
            score; None if it has none, as in older sweeps.
        scores: name -> every score of the sweep, as far as its records describe them.
    """

    name: str
    setting: str | None
    table: ScoreTable
    objectives: tuple[Objective, ...]
    base_scores: Mapping[str, float]
    counts: Mapping[str, int]
    records: tuple[TrialRecord, ...]
    grades: tuple[Grade, ...]
    triggered: ScoreTable | None = None
    scores: Mapping[str, Objective] = field(default_factory=dict)

    @staticmethod
    def of_trials(
        name: str,
        setting: str | None,
        objectives: Sequence[Objective],
        trials: Sequence[TrialRecord],
        *,
        num_running: int = 0,
        base_scores: Mapping[str, float] | None = None,
        grades: Sequence[Grade] = (),
        scores: Mapping[str, Objective] | None = None,
        methods: Collection[str] = (),
    ) -> LoadedSweep:
        """Build the table from ended trials, by the rule of `TrialRecord.counted_for`.

        `scores` and `methods` are those of the whole sweep.

        Raises UserError if no finished trial has all objectives, since then an objective's name must be wrong.
        """
        records = counted(trials, objectives)
        counts = Counter(dict.fromkeys(STATUSES, 0))
        counts.update(record.status for record in records)
        counts["running"] = num_running
        return LoadedSweep(
            name=name,
            setting=setting,
            table=ScoreTable.from_records(records, objectives, methods),
            objectives=tuple(objectives),
            base_scores=dict(base_scores or {}),
            counts=dict(counts),
            records=tuple(records),
            grades=tuple(grades),
            triggered=_triggered(records, objectives, scores or {}, methods),
            scores=dict(scores or {}),
        )


def _triggered(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    scores: Mapping[str, Objective],
    methods: Collection[str],
) -> ScoreTable | None:
    """Return the table of the triggered scores, if any finished trial has them."""
    twins = [scores.get(f"{objective.name}_triggered", objective) for objective in objectives]
    names = [twin.name for twin in twins]
    rows = [record.counted_for(names) for record in records]
    new = set(names) - {objective.name for objective in objectives}
    if not new or len(set(names)) < len(names) or not any(row.status == "finished" for row in rows):
        return None
    return ScoreTable.from_records(rows, twins, methods)


def counted(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Return the trials as they count for objectives, and log which finished ones count as invalid.

    Raises UserError if all finished ones do.
    """
    names = [objective.name for objective in objectives]
    records = [trial.counted_for(names) for trial in trials]
    finished = [trial for trial in trials if trial.status == "finished"]
    lacking = [trial for trial in finished if trial.counted_for(names).status != "finished"]
    if lacking and len(lacking) == len(finished):
        has = ", ".join(sorted({name for trial in lacking for name in trial.scores})) or "no score"
        raise UserError(f"no finished trial has a number for each of {', '.join(names)}; they have {has}")
    if lacking:
        titles = ", ".join(f"{trial.configuration.title} seed {trial.seed}" for trial in lacking)
        logger.warning("counted as invalid, because an objective could not be measured: %s", titles)
    return records


def choose_setting(labels: Sequence[str], sweep: str, text: str | None) -> str:
    """Return the label that equals a text, or else contains it; without a text, the only label. Raises UserError."""
    listing = ", ".join(sorted(labels))
    if text is None and len(labels) > 1:
        raise UserError(f"sweep {sweep!r} has several settings; choose one with --setting, or a part of it: {listing}")
    close = [label for label in sorted(labels) if text is None or text in label]
    close = [label for label in close if label == text] or close
    if not close:
        raise UserError(f"sweep {sweep!r} has no setting {text!r}; it has {listing or 'no named one'}")
    if len(close) > 1:
        raise UserError(f"sweep {sweep!r}: several settings contain {text!r}: {', '.join(close)}")
    return close[0]


def choose_objectives(
    usual: Sequence[Objective], scores: Mapping[str, Objective], names: Sequence[str] | None
) -> tuple[Objective, ...]:
    """Return the scores of these names, or else the sweep's own objectives. Raises UserError.

    Args:
        usual: the sweep's objectives.
        scores: all scores of the sweep.
    """
    if names is None:
        return tuple(usual)
    available = dict(scores) | {objective.name: objective for objective in usual}
    for name in names:
        if name not in available:
            hint = did_you_mean(name, available)
            raise UserError(f"the sweep has no score {name!r}{hint}; it has {', '.join(sorted(available))}")
    return tuple(available[name] for name in names)
