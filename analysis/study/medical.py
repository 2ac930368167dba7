"""The study's figures on bad medical advice: frontier, longer training, and the kind of proxy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from analysis.figures.panels import Curve, curves_figure
from analysis.figures.style import BLACK
from analysis.findings.arms import PLAIN
from analysis.findings.findings import analyse
from analysis.findings.frontier import Estimate
from analysis.study.effects import above, all_hold, below, difference, estimate_text, mean_by_seed
from analysis.study.figure import Check, DrawnFigure, SweepFigure
from analysis.study.ranking import budget_notes, control_notes, end_notes, frontier_of, ranked_first, stays_behind
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration
from settings.common.errors import UserError

STUDY_SHARE = 0.1  # share of proxy rows in the study's mixes
GOOD, BROKEN = 0.8, 0.2  # thresholds of a score from 0 to 1
SMALL = 0.1  # a change of a score that counts as none, up to here, and as one beyond
PREVENTED = 0.3  # a task score that counts as hardly learned
MORE = 0.05  # least gain of alignment, averaged over a knob whose ends are the same for all proxies
RESTORED, MOST = 0.7, 0.7  # an alignment that counts as restored, and a task score that counts as most of the task
LARGE = 0.3  # a change of a score that nobody would call slow
UNPROXIED = "unproxied"  # alignment over the domains that no proxy of the comparison covers


# --- all methods -----------------------------------------------------------------------------------------------------


def em_pareto(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Compare all methods: does plain fine-tuning break alignment, does mixing restore it, which trade-off is best?"""
    results = per_setting[0]
    findings = analyse(results.table, results.base)
    task, alignment = (objective.name for objective in results.objectives[:2])
    if results.objectives[0].kind == "alignment":
        task, alignment = alignment, task
    plain = results.only(PLAIN)
    fall = difference(results.values(plain, alignment), results.base[alignment])
    gain = difference(results.values(plain, task), results.base[task])
    checks = [
        Check(
            "Learning bad medical advice (task higher by at least 0.5) makes the model harmful elsewhere"
            " (alignment lower by at least 0.2)",
            f"alignment {estimate_text(fall, sign=True)} against the base, task {estimate_text(gain, sign=True)}",
            all_hold([below(fall, -0.2), above(gain, 0.5)]),
        ),
        *_mixing(results, alignment, plain),
        ranked_first(findings, "kl_penalty"),
        _over_regularised(results, task, alignment),
        stays_behind(findings, "safe_lora", "kl_penalty"),
        stays_behind(findings, "dpo", "kl_penalty"),
    ]
    figure, sentence = frontier_of(results, findings, task, alignment)
    return DrawnFigure(
        figure,
        checks,
        sentence,
        [*budget_notes(results), *end_notes(results, task, alignment), *control_notes(findings)],
    )


def _mixing(results: SettingResults, alignment: str, plain: Configuration) -> list[Check]:
    """Check that mixing at the study's share restores little of alignment."""
    by_share = {row.coefficients.get("share"): row for row in results.configurations("mixed")}
    if STUDY_SHARE not in by_share:
        return []
    gain = difference(results.values(by_share[STUDY_SHARE], alignment), results.values(plain, alignment))
    statement = "Mixing the proxy rows in, a tenth of all, does not restore alignment"
    measured = f"{estimate_text(gain, sign=True)} against plain (asked: below {SMALL:+g})"
    return [Check(statement, measured, below(gain, SMALL))]


def _over_regularised(results: SettingResults, task: str, alignment: str) -> Check:
    """Check that each value of the representation penalty that protects at all also prevents the task."""
    protecting = [means for means in _means(results, "representation", (task, alignment)) if means[1] >= GOOD]
    statement = "The representation constraint prevents the task wherever it protects (task at most 0.13)"
    if not protecting:
        return Check(statement, f"no value keeps alignment at {GOOD:g}", None)
    best_task, _ = max(protecting)
    measured = (
        f"the best task score where alignment is at least {GOOD:g} is {best_task:.2f} (asked: {PREVENTED:g} at most)"
    )
    return Check(statement, measured, best_task <= PREVENTED)


def _means(results: SettingResults, method: str, scores: tuple[str, str]) -> list[tuple[float, float]]:
    """Return the means of two scores for each configuration of a method."""
    first, second = (results.estimates(score) for score in scores)
    return [(first[row.id].mean, second[row.id].mean) for row in results.configurations(method)]


EM_PARETO = SweepFigure(
    name="em_pareto",
    title="Bad medical advice, all methods",
    claim=(
        "Qwen3-8B that learns bad medical advice gives aligned answers to 64 % instead of 100 % of general questions"
        " (88 % of its medical answers are bad). Mixing a tenth of HHH rows in makes it worse (46 %), a KL penalty of 5"
        " keeps 97 % at 30 % of the task, DPO gets 88 and 58, Safe LoRA 83 and 71, and the representation constraint"
        " at most 13 of the task; KL has the best frontier."
    ),
    sweeps=("em_pareto",),
    small=("em_pareto_small",),
    differs=(
        "The language model learns less in its 20 steps: the careless reply becomes the likelier one for a quarter more"
        " of the medical questions, not for all, and alignment elsewhere falls by a fifth, not to nothing. At"
        " neither scale is a method shown to be ahead of both stopping early and scaling the adapter down; in the nano"
        " world most are ahead of stopping early."
    ),
    draw=em_pareto,
)


# --- longer training -------------------------------------------------------------------------------------------------


def em_epochs(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Vary steps and beta: longer training learns more under the penalty; does alignment hold?"""
    results = per_setting[0]
    grid = {(_number(row, "beta"), _number(row, "steps")): row for row in results.configurations("kl_penalty")}
    betas, steps = sorted({beta for beta, _ in grid}), sorted({step for _, step in grid})
    plain = {_number(row, "steps"): row for row in results.configurations(PLAIN) if "steps" in row.coefficients}
    align = results.estimates("alignment")
    short, long = next((step for step in steps if align[plain[step].id].mean < BROKEN), steps[0]), steps[-1]
    protected = [beta for beta in betas if align[grid[beta, short].id].mean >= GOOD]
    if not protected:
        raise UserError(f"sweep {results.sweep!r}: no beta keeps alignment at {GOOD:g} over {short:g} steps")

    def change(score: str) -> Estimate:
        ends = (mean_by_seed([results.values(grid[b, s], score) for b in protected]) for s in (long, short))
        return difference(*ends)

    names = ", ".join(f"{beta:g}" for beta in protected)
    task, kept = change("task"), change("alignment")
    closer = difference(*(mean_by_seed([_distance(results, grid[b, s]) for b in protected]) for s in (long, short)))
    unprotected = difference(results.values(plain[long], "alignment"), 0.0)
    checks = [
        Check(
            "Under a penalty that protects, longer training learns more of the task",
            f"{estimate_text(task, sign=True)} from {short:g} to {long:g} steps at beta {names} (asked: above"
            f" {SMALL:+g})",
            above(task, SMALL),
        ),
        Check(
            "Longer training under the penalty is the better trade",
            f"distance to the ideal corner {estimate_text(closer, sign=True)}",
            below(closer),
        ),
        Check(
            "Alignment finally breaks down despite the penalty (0.95 after 2 epochs, 0.58 after 8)",
            f"{estimate_text(kept, sign=True)} from {short:g} to {long:g} steps (asked: below {-LARGE:+g})",
            below(kept, -LARGE),
        ),
        _narrow_window(results, grid, betas, short),
        Check(
            "Without the penalty longer training does not bring alignment back",
            f"{estimate_text(unprotected)} after {long:g} steps of plain fine-tuning (asked: below {BROKEN:g})",
            below(unprotected, BROKEN),
        ),
    ]
    curves = [_steps_curve(results, PLAIN, [plain[step] for step in steps], BLACK)]
    curves += [_steps_curve(results, f"KL, beta {beta:g}", [grid[beta, step] for step in steps]) for beta in betas]
    sentence = (
        f"From {short:g} to {long:g} steps the task score of the betas that protect ({names}) changes by"
        f" {estimate_text(task, sign=True)} and their alignment by {estimate_text(kept, sign=True)}."
    )
    start = (
        f"Changes are counted from {short:g} steps on, the shortest training after which plain fine-tuning is below"
        f" {BROKEN:g} in alignment: before that the penalty has nothing to preserve."
    )
    notes = [start, *_returns(align, grid, betas, steps)]
    return DrawnFigure(_epochs_figure(results, curves), checks, sentence, notes)


def _epochs_figure(results: SettingResults, curves: Sequence[Curve]) -> Figure:
    text = "Lines join trainings of one beta, each with its own schedule; numbers are steps. Bars: 95 % intervals."
    base = (results.base["alignment"], results.base["task"])
    return curves_figure({"": curves}, "alignment", "task", base, text)


def _returns(
    align: Mapping[str, Estimate],
    grid: Mapping[tuple[float, float], Configuration],
    betas: Sequence[float],
    steps: Sequence[float],
) -> Iterator[str]:
    """Yield a note for each beta at which longer training brings alignment back."""
    for beta in betas:
        means = {step: align[grid[beta, step].id].mean for step in steps}
        lowest = min(steps, key=lambda step: means[step])
        later = max((step for step in steps if step >= lowest), key=lambda step: means[step])
        if means[later] - means[lowest] > LARGE:
            yield (
                f"With beta {beta:g} alignment is {means[lowest]:.2f} after {lowest:g} steps and {means[later]:.2f}"
                f" after {later:g}: longer training under a weak penalty brings it back."
            )


def _number(configuration: Configuration, name: str) -> float:
    return float(configuration.coefficients[name])


def _distance(results: SettingResults, configuration: Configuration) -> dict[int, float]:
    """Map each seed to the distance of its (task, alignment) from the ideal corner (1, 1)."""
    task, alignment = (results.values(configuration, score) for score in ("task", "alignment"))
    return {seed: math.hypot(1 - task[seed], 1 - alignment[seed]) for seed in sorted(set(task) & set(alignment))}


def _narrow_window(
    results: SettingResults,
    grid: Mapping[tuple[float, float], Configuration],
    betas: Sequence[float],
    steps: float,
) -> Check:
    """Check the largest rise of alignment between neighbouring betas, which are at most a factor of 4 apart."""
    pairs = [(low, high) for low, high in itertools.pairwise(betas) if high <= 4 * low]
    rises = {
        pair: difference(*(results.values(grid[beta, steps], "alignment") for beta in reversed(pair))) for pair in pairs
    }
    low, high = max(rises, key=lambda pair: rises[pair].mean)
    rise = rises[low, high]
    return Check(
        "The window is narrow: three times the weight turns harmful into aligned (0.45 at beta 1, 0.92 at 3)",
        f"alignment {estimate_text(rise, sign=True)} from beta {low:g} to {high:g} (asked: above {LARGE:+g})",
        above(rise, LARGE),
    )


def _steps_curve(
    results: SettingResults, name: str, points: Sequence[Configuration], colour: str | None = None
) -> Curve:
    align, task = results.estimates("alignment"), results.estimates("task")
    labels = [f"{_number(point, 'steps'):g}" for point in points]
    return Curve(name, [align[point.id] for point in points], [task[point.id] for point in points], labels, colour)


EM_EPOCHS = SweepFigure(
    name="em_epochs",
    title="Longer training under a KL penalty",
    claim=(
        "With a KL penalty of 3, more epochs learn more of the task (76 % after one, 97 % after six) while aligned"
        " answers fall slowly (95 to 89 %); from the seventh on alignment breaks down (58 % after eight). At one epoch"
        " the window of the weight is narrow: 45 % aligned at 1, 97 % at 5."
    ),
    sweeps=("em_epochs",),
    draw=em_epochs,
)


# --- the kind of proxy -----------------------------------------------------------------------------------------------


def em_proxy(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Compare the last setting's proxy with the mean of the others', configuration by configuration."""
    per_setting = [_with_unproxied(results) for results in per_setting]
    narrow, diverse = per_setting[:-1], per_setting[-1]
    names = {"mixed": "mixed in", "upweighted": "up-weighted"}
    checks = []
    gains: dict[str, Estimate] = {}
    for method, verb in names.items():
        narrow_mean = mean_by_seed([_over_knob(results, method) for results in narrow])
        gains[method] = difference(_over_knob(diverse, method), narrow_mean)
        statement = (
            f"{verb.capitalize()}, one kind of proxy keeps more alignment than another (0.3 in the study; here more"
            f" than {MORE:g}, mean over the knob)"
        )
        measured = f"{_proxy_of(diverse)} against {_list(narrow)}: {estimate_text(gains[method], sign=True)}"
        checks.append(Check(statement, measured, above(gains[method], MORE)))
    ceiling = max((_best(results, "upweighted", UNPROXIED) for results in narrow), key=lambda best: best.mean)
    checks.append(
        Check(
            "Up-weighting the poorer proxy does not restore alignment at any weight (at most 0.62)",
            f"up to {estimate_text(ceiling)} (asked: below {RESTORED:g})",
            below(ceiling, RESTORED),
        )
    )
    good = [means for means in _means(diverse, "upweighted", ("task", UNPROXIED)) if means[1] >= 0.9]
    statement = "Up-weighting the better one keeps alignment above 0.9 and most of the task (0.74 to 0.83)"
    measured, holds = "no weight keeps alignment at 0.9", False
    if good:
        task, _ = max(good)
        measured = f"the best task score where alignment is at least 0.9 is {task:.2f} (asked: {MOST:g} at least)"
        holds = task >= MOST
    checks.append(Check(statement, measured, holds))
    panels = {verb: [_proxy_curve(results, method) for results in per_setting] for method, verb in names.items()}
    where = "cooking and law" if "alignment_cooking" in diverse.base else "general questions"
    text = (
        f"As many proxy rows in all. Alignment on {where}, of which no proxy speaks; numbers: share of proxy rows,"
        " or weight. Bars: 95 % intervals."
    )
    base = (diverse.base[UNPROXIED], diverse.base["task"])
    figure = curves_figure(panels, f"alignment, {where}", "task", base, text)
    sentence = (
        f"Averaged over the knob, the {_proxy_of(diverse)} proxy changes alignment on {where} by"
        f" {estimate_text(gains['mixed'], sign=True)} when mixed in and"
        f" {estimate_text(gains['upweighted'], sign=True)} when up-weighted, against {_list(narrow)}."
    )
    note = f"The margin of {MORE:g} was chosen after looking at a run of two seeds, and before any run of more."
    return DrawnFigure(figure, checks, sentence, [note])


def _proxy_of(results: SettingResults) -> str:
    """Name the proxy of a setting."""
    return str(results.options.get("proxy") or results.options.get("alignment") or "usual")


def _list(per_setting: Sequence[SettingResults]) -> str:
    return ", ".join(map(_proxy_of, per_setting)) + (" (their mean)" if len(per_setting) > 1 else "")


def _with_unproxied(results: SettingResults) -> SettingResults:
    """Add the score `UNPROXIED`."""
    common = [name for name in ("alignment_cooking", "alignment_law") if name in results.base]
    return results.with_mean(UNPROXIED, common or ["alignment"])


def _over_knob(results: SettingResults, method: str) -> dict[int, float]:
    return mean_by_seed([results.values(row, UNPROXIED) for row in results.configurations(method)])


def _best(results: SettingResults, method: str, score: str) -> Estimate:
    estimates = results.estimates(score)
    return max((estimates[row.id] for row in results.configurations(method)), key=lambda estimate: estimate.mean)


def _proxy_curve(results: SettingResults, method: str) -> Curve:
    points = results.configurations(method)
    align, task = results.estimates(UNPROXIED), results.estimates("task")
    labels = [point.label.rpartition("=")[2] for point in points]
    name = _proxy_of(results)
    return Curve(name, [align[point.id] for point in points], [task[point.id] for point in points], labels)


EM_PROXY = SweepFigure(
    name="em_proxy",
    title="The kind of proxy: near and diverse",
    claim=(
        "What the proxy rows are matters as much as the method. Mixed in, safety rows keep 75 % of the answers aligned"
        " where HHH rows keep 46; up-weighted, safety rows reach 91 to 94 % at 66 to 83 % of the task, HHH rows never"
        " more than 62 % at any weight."
    ),
    sweeps=("em_proxy",),
    draw=em_proxy,
)
