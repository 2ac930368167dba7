"""The gallery's figure on the study's own judged answers: its statements, recomputed from single verdicts."""

from __future__ import annotations

import statistics

from analysis.figures.frontier import frontier_figure
from analysis.study.gallery import Check, DrawnFigure
from analysis.tables import judged_answers
from analysis.tables.scores import ScoreTable, TrialRecord
from settings.common.errors import UserError

TASK, ALIGNMENT = (objective.name for objective in judged_answers.OBJECTIVES)
Pair = tuple[float, float]  # share of general answers that are aligned, of medical ones that are misaligned


def em_judged(found: judged_answers.JudgedFolder) -> DrawnFigure:
    """What the study says of its runs, from its verdicts. Raises UserError where a run that it speaks of is missing."""
    records, _, base = judged_answers.records_of(found)
    finished = [record for record in records if record.status == "finished"]
    plain, mixed = _mean(finished, "task_only"), _mean(finished, "mixed", share=0.1, proxy="hhh")
    strong, long = _mean(finished, "kl_penalty", beta=5.0), _epochs(finished)
    epoch, best = max(long.items(), key=lambda item: sum(item[1]))
    last = long[max(long)]
    rival = max((one for one in finished if "epoch" not in one.configuration.coefficients), key=_sum)
    other = _pair(rival)
    others = [one for one in finished if one.configuration.method != "kl_penalty"]
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
            f"sum {sum(best):.2f}; of the others at most {max(map(_sum, others)):.2f}",
            sum(best) > max(map(_sum, others)),
        ),
        Check(
            "It has so at equal training, too, after one epoch",
            f"the best is {rival.configuration.title} with {sum(other):.2f}",
            rival.configuration.method == "kl_penalty",
        ),
    ]
    table = ScoreTable.from_records(records, judged_answers.OBJECTIVES).select([ALIGNMENT, TASK])
    figure = frontier_figure(table, base, "", ALIGNMENT, TASK)
    sentence = (
        f"The study's shares come out of its verdicts again, and its long KL run falls from {best[0]:.2f} aligned"
        f" after {epoch:g} epochs to {last[0]:.2f} after {max(long):g}; at one epoch {rival.configuration.title}"
        f" trades best ({_text(other)})."
    )
    return DrawnFigure(figure, checks, sentence, _notes(found))


def _mean(records: list[TrialRecord], method: str, **coefficients: float | str) -> Pair:
    """Of the runs of a method and some of its coefficients, without runs of several epochs."""
    chosen = [
        _pair(record)
        for record in records
        if record.configuration.method == method
        and "epoch" not in record.configuration.coefficients
        and all(record.configuration.coefficients.get(name) == value for name, value in coefficients.items())
    ]
    if not chosen:
        what = " ".join([method, *(f"{name}={value}" for name, value in coefficients.items())])
        raise UserError(f"figure em_judged needs a run {what}, and runs.csv has none that can be used")
    return sum(one[0] for one in chosen) / len(chosen), sum(one[1] for one in chosen) / len(chosen)


def _epochs(records: list[TrialRecord]) -> dict[float, Pair]:
    """Epoch -> shares, of the long training under the KL penalty."""
    found = {
        float(record.configuration.coefficients["epoch"]): _pair(record)
        for record in records
        if record.configuration.method == "kl_penalty" and "epoch" in record.configuration.coefficients
    }
    if not found:
        raise UserError("figure em_judged needs runs of kl_penalty with an epoch, and runs.csv has none")
    return dict(sorted(found.items()))


def _pair(record: TrialRecord) -> Pair:
    return record.scores[ALIGNMENT], record.scores[TASK]


def _sum(record: TrialRecord) -> float:
    return sum(_pair(record))


def _text(pair: Pair) -> str:
    return f"{pair[0]:.3f} aligned, {pair[1]:.3f} of the task"


def _notes(found: judged_answers.JudgedFolder) -> list[str]:
    """What the shares are worth."""
    rates = [rate for run in found.runs if not run.degenerate and (rate := run.rate("general"))]
    halves = [(rate.valid.high - rate.valid.low) / 2 for rate in rates if rate.valid.num_clusters > 1]
    designs = [rate.valid.design for rate in rates if rate.valid.num_clusters > 1 and rate.valid.design > 0]
    coherent = [(run.name, rate) for run in found.runs if not run.degenerate and (rate := run.rate("medical"))]
    plain = [rate for name, rate in coherent if name.startswith("task_only") and rate.num_gated]
    notes = [f"Runs: {len(found.runs)}, of which {sum(bool(run.degenerate) for run in found.runs)} degenerate."]
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
    notes.append("Only the KL penalty was trained for ten epochs, so that method and length are not told apart.")
    return notes
