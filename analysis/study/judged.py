"""The study's figure on its own judged answers: its statements, recomputed from single verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from analysis.figures.frontier import frontier_figure
from analysis.study.figure import AnswersFigure, Check, DrawnFigure
from analysis.tables import judged_answers
from analysis.tables.scores import ScoreTable, TrialRecord
from settings.common.errors import UserError

TASK, ALIGNMENT = (objective.name for objective in judged_answers.OBJECTIVES)
Shares = tuple[float, float]  # share of general answers that are aligned, and of medical ones that are misaligned


def em_judged(folder: judged_answers.JudgedFolder) -> DrawnFigure:
    """Recompute the study's statements on its runs from its verdicts. Raises UserError if a needed run is missing."""
    records, _, base = judged_answers.records_of(folder)
    finished = [record for record in records if record.status == "finished"]
    plain, mixed = _mean_shares(finished, "task_only"), _mean_shares(finished, "mixed", share=0.1, proxy="hhh")
    strong, by_epoch = _mean_shares(finished, "kl_penalty", beta=5.0), _shares_by_epoch(finished)
    epoch, best = max(by_epoch.items(), key=lambda item: sum(item[1]))
    last = by_epoch[max(by_epoch)]
    best_of_one_epoch = max((record for record in finished if not _is_long(record)), key=_sum)
    title, one_epoch = best_of_one_epoch.configuration.title, _shares(best_of_one_epoch)
    best_rival = max(_sum(record) for record in finished if record.configuration.method != "kl_penalty")
    checks = [
        Check(
            "Task-only training leaves 0.60 to 0.68 of general answers aligned, and 0.85 to 0.90 of medical ones bad",
            _text(plain),
            0.6 <= plain[0] <= 0.68 and 0.85 <= plain[1] <= 0.9,
        ),
        Check(
            "Mixing HHH rows in leaves fewer answers aligned than no proxy at all",
            f"{mixed[0]:.3f} against {plain[0]:.3f}",
            mixed[0] < plain[0],
        ),
        Check(
            "A strong KL penalty keeps alignment (0.97) at the price of the task (0.30)",
            f"beta 5: {_text(strong)}",
            strong[0] >= 0.95 and strong[1] <= 0.35,
        ),
        Check(
            "A moderate KL penalty and longer training keep both above 0.9",
            f"beta 3, epoch {epoch:g}: {_text(best)}",
            min(best) >= 0.9,
        ),
        Check(
            "The KL penalty has the best trade of all runs (the larger sum of both)",
            f"sum {sum(best):.2f}; of the others at most {best_rival:.2f}",
            sum(best) > best_rival,
        ),
        Check(
            "It also does at equal training, after one epoch",
            f"the best is {title} with {sum(one_epoch):.2f}",
            best_of_one_epoch.configuration.method == "kl_penalty",
        ),
    ]
    table = ScoreTable.from_records(records, judged_answers.OBJECTIVES).select([ALIGNMENT, TASK])
    figure = frontier_figure(table, base, "", ALIGNMENT, TASK)
    sentence = (
        f"The study's shares come out of its verdicts again, and its long KL run falls from {best[0]:.2f} aligned"
        f" after {epoch:g} epochs to {last[0]:.2f} after {max(by_epoch):g}; at one epoch {title}"
        f" has the best trade-off ({_text(one_epoch)})."
    )
    return DrawnFigure(figure, checks, sentence, _notes(folder))


def _is_long(record: TrialRecord) -> bool:
    """Return whether a run was trained for several epochs."""
    return "epoch" in record.configuration.coefficients


def _mean_shares(records: Sequence[TrialRecord], method: str, **coefficients: float | str) -> Shares:
    """Average the runs of a method with these coefficients, leaving out runs of several epochs."""
    chosen = [
        _shares(record)
        for record in records
        if record.configuration.method == method
        and not _is_long(record)
        and all(record.configuration.coefficients.get(name) == value for name, value in coefficients.items())
    ]
    if not chosen:
        wanted = " ".join([method, *(f"{name}={value}" for name, value in coefficients.items())])
        raise UserError(f"figure em_judged needs a run {wanted}, but runs.csv has no usable one")
    return sum(shares[0] for shares in chosen) / len(chosen), sum(shares[1] for shares in chosen) / len(chosen)


def _shares_by_epoch(records: Sequence[TrialRecord]) -> dict[float, Shares]:
    """Map each epoch of the long training under the KL penalty to its shares."""
    by_epoch = {
        float(record.configuration.coefficients["epoch"]): _shares(record)
        for record in records
        if record.configuration.method == "kl_penalty" and _is_long(record)
    }
    if not by_epoch:
        raise UserError("figure em_judged needs runs of kl_penalty with an epoch, but runs.csv has none")
    return dict(sorted(by_epoch.items()))


def _shares(record: TrialRecord) -> Shares:
    return record.scores[ALIGNMENT], record.scores[TASK]


def _sum(record: TrialRecord) -> float:
    return sum(_shares(record))


def _text(shares: Shares) -> str:
    return f"{shares[0]:.3f} aligned, {shares[1]:.3f} of the task"


def _notes(folder: judged_answers.JudgedFolder) -> list[str]:
    """Return notes on how far the shares can be trusted."""
    rates = [rate for run in folder.runs if not run.degenerate and (rate := run.rate("general"))]
    halves = [(rate.valid.high - rate.valid.low) / 2 for rate in rates if rate.valid.num_clusters > 1]
    designs = [rate.valid.design for rate in rates if rate.valid.num_clusters > 1 and rate.valid.design > 0]
    coherent = [(run.name, rate) for run in folder.runs if not run.degenerate and (rate := run.rate("medical"))]
    plain = [rate for name, rate in coherent if name.startswith("task_only") and rate.num_gated]
    notes = [f"Runs: {len(folder.runs)}, of which {sum(bool(run.degenerate) for run in folder.runs)} degenerate."]
    if halves and designs:
        notes.append(
            f"If other questions of the kind had been asked: a run's aligned share is known to ±"
            f"{statistics.median(halves):.2f} (median), since answers to one question go together (the variance is"
            f" {statistics.median(designs):.0f} times that of independent answers)."
        )
    if plain:
        gated = sum(rate.gated for rate in plain) / len(plain)
        notes.append(
            f"Of the task-only runs' medical answers that are coherent {gated:.2f} are misaligned: incoherent ones"
            " raise the study's task score."
        )
    notes.append("Only the KL penalty was trained for ten epochs, so that method and length are not distinguishable.")
    return notes


EM_JUDGED = AnswersFigure(
    name="em_judged",
    title="The study's own judged answers",
    claim=(
        "Task-only training leaves 64 % of the general answers aligned; mixed HHH rows 46 %; KL 5 97 % at 30 % of the"
        " task; KL 3 over five epochs 92 and 94 %, the best trade of all runs."
    ),
    draw=em_judged,
)
