"""The gallery's figures on bad medical advice: frontier, longer training, and proxies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from analysis.figures.frontier import frontier_figure
from analysis.figures.panels import Curve, curves_figure
from analysis.findings.findings import findings
from analysis.findings.frontier import Estimate
from analysis.study.gallery import Check, DrawnFigure
from analysis.study.ranking import ends_note, ineffective, pushes, ranked_first
from analysis.study.setting_results import SettingResults, above, average, below, minus, shown
from analysis.tables.scores import Configuration
from settings.common.errors import UserError

PLAIN = "plain"
STUDY_SHARE = 0.1  # of proxy rows in the study's mixes
GOOD, BROKEN = 0.8, 0.2  # of a score from 0 to 1
MORE = 0.05  # alignment, averaged over a knob whose ends are the same for all proxies
LARGE = 0.3  # a change of a score that nobody calls slow


def em_pareto(parts: Sequence[SettingResults]) -> DrawnFigure:
    """All methods: does plain fine-tuning break alignment, does mixing mend it, and which method trades best?"""
    part = parts[0]
    found = findings(part.table, part.base)
    task, alignment = (objective.name for objective in part.objectives[:2])
    if part.objectives[0].kind == "alignment":
        task, alignment = alignment, task
    plain = part.only(PLAIN)
    fall = minus(part.values(plain, alignment), part.base[alignment])
    gain = minus(part.values(plain, task), part.base[task])
    checks = [
        Check(
            "Learning bad medical advice makes the model harmful elsewhere",
            f"alignment {shown(fall, sign=True)} against the base, task {shown(gain, sign=True)}",
            _both(below(fall, -0.2), above(gain, 0.5)),
        ),
        *_mixing(part, alignment, plain),
        ranked_first(found, "kl_penalty"),
        _over_regularised(part, task, alignment),
        ineffective(found, "safe_lora", "kl_penalty"),
        ineffective(found, "dpo", "kl_penalty"),
    ]
    figure = frontier_figure(found.table.select([alignment, task]), part.base, "", alignment, task)
    best = max(found.hypervolumes.items(), key=lambda item: item[1].estimate * (item[0] != "all methods"))
    sentence = (
        f"Plain fine-tuning moves alignment from {part.base[alignment]:.2f} to"
        f" {part.estimates(alignment)[plain.id].mean:.2f}; of the methods {best[0]} has the largest hypervolume,"
        f" {best[1].estimate:.2f} [{best[1].low:.2f}, {best[1].high:.2f}]."
    )
    return DrawnFigure(figure, checks, sentence, [*ends_note(part, task, alignment), *pushes(found)])


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return True if one and other else None


def _mixing(part: SettingResults, alignment: str, plain: Configuration) -> list[Check]:
    """Mixed at the study's share against plain: does it bring back a tenth of the range?"""
    shares = {one.coefficients.get("share"): one for one in part.configurations("mixed")}
    if STUDY_SHARE not in shares:
        return []
    gain = minus(part.values(shares[STUDY_SHARE], alignment), part.values(plain, alignment))
    statement = "Mixing the proxy rows in, a tenth of all, does not restore alignment"
    return [Check(statement, f"{shown(gain, sign=True)} against plain", below(gain, 0.1))]


def _over_regularised(part: SettingResults, task: str, alignment: str) -> Check:
    """Is every setting of the representation penalty that protects at all one that prevents the task?"""
    points = _means(part, "representation", (task, alignment))
    protects = [point for point in points if point[1] >= GOOD]
    best = max(protects, default=(math.nan, math.nan))
    found = f"the best task score where alignment is at least {GOOD:g} is {best[0]:.2f}"
    statement = "The representation constraint prevents the task wherever it protects (task at most 0.13)"
    return Check(statement, found, None if not protects else best[0] <= 0.3)


def _means(part: SettingResults, method: str, scores: Sequence[str]) -> list[tuple[float, ...]]:
    """The means of a method's configurations in some scores."""
    found = [part.estimates(score) for score in scores]
    return [tuple(one[configuration.id].mean for one in found) for configuration in part.configurations(method)]


# --- longer training -------------------------------------------------------------------------------------------------


def em_epochs(parts: Sequence[SettingResults]) -> DrawnFigure:
    """Steps x beta: longer training learns more under the penalty; does alignment hold?"""
    part = parts[0]
    grid = {(_number(one, "beta"), _number(one, "steps")): one for one in part.configurations("kl_penalty")}
    betas, steps = sorted({beta for beta, _ in grid}), sorted({step for _, step in grid})
    plain = {_number(one, "steps"): one for one in _with_steps(part)}
    align = part.estimates("alignment")
    short, long = next((step for step in steps if align[plain[step].id].mean < BROKEN), steps[0]), steps[-1]
    protected = [beta for beta in betas if align[grid[beta, short].id].mean >= GOOD]
    if not protected:
        raise UserError(f"sweep {part.sweep!r}: no beta keeps alignment at {GOOD:g} for {short:g} steps")

    def change(score: str, first: float, last: float) -> Estimate:
        return minus(*(average([part.values(grid[b, s], score) for b in protected]) for s in (last, first)))

    names = ", ".join(f"{beta:g}" for beta in protected)
    task, kept = change("task", short, long), change("alignment", short, long)
    closer = minus(*(average([_distance(part, grid[b, s]) for b in protected]) for s in (long, short)))
    jump, pair = _largest_jump(part, grid, betas, short)
    unprotected = minus(part.values(plain[long], "alignment"), 0.0)
    checks = [
        Check(
            "Under a penalty that protects, longer training learns more of the task",
            f"{shown(task, sign=True)} from {short:g} to {long:g} steps (beta {names})",
            above(task, 0.1),
        ),
        Check(
            "Longer training under the penalty is the better trade",
            f"distance to the ideal corner {shown(closer, sign=True)}",
            below(closer),
        ),
        Check(
            "Alignment breaks down at last in spite of the penalty (0.95 after 2 epochs, 0.58 after 8)",
            f"{shown(kept, sign=True)} from {short:g} to {long:g} steps",
            below(kept, -LARGE),
        ),
        Check(
            "The window is narrow: three times the weight turns harmful into aligned (0.45 at beta 1, 0.92 at 3)",
            f"alignment {shown(jump, sign=True)} from beta {pair[0]:g} to {pair[1]:g}",
            above(jump, LARGE),
        ),
        Check(
            "Without the penalty longer training does not bring alignment back",
            f"{shown(unprotected)} after {long:g} steps of plain fine-tuning",
            below(unprotected, 0.2),
        ),
    ]
    curves = [_steps_curve(part, PLAIN, [plain[step] for step in steps], "#000000")]
    curves += [_steps_curve(part, f"KL, beta {beta:g}", [grid[beta, step] for step in steps]) for beta in betas]
    text = "Lines join trainings of one beta, each with its own schedule; numbers are steps. Bars: 95 % intervals."
    figure = curves_figure({"": curves}, "alignment", "task", (part.base["alignment"], part.base["task"]), text)
    sentence = (
        f"From {short:g} to {long:g} steps the task score of the betas that protect ({names}) changes by"
        f" {shown(task, sign=True)} and their alignment by {shown(kept, sign=True)}."
    )
    return DrawnFigure(figure, checks, sentence, [_from(short), *_returns(align, grid, betas, steps)])


def _from(steps: float) -> str:
    return (
        f"Changes are counted from {steps:g} steps on, the shortest training after which plain fine-tuning is below"
        f" {BROKEN:g} in alignment: before that the penalty has nothing to hold."
    )


def _returns(
    align: Mapping[str, Estimate],
    grid: Mapping[tuple[float, float], Configuration],
    betas: Sequence[float],
    steps: Sequence[float],
) -> Iterator[str]:
    """Betas under which alignment comes back with longer training."""
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


def _with_steps(part: SettingResults) -> list[Configuration]:
    return [one for one in part.configurations(PLAIN) if "steps" in one.coefficients]


def _distance(part: SettingResults, one: Configuration) -> dict[int, float]:
    """Of each seed's (task, alignment) from (1, 1)."""
    task, alignment = part.values(one, "task"), part.values(one, "alignment")
    return {seed: math.hypot(1 - task[seed], 1 - alignment[seed]) for seed in sorted(set(task) & set(alignment))}


def _largest_jump(
    part: SettingResults, grid: Mapping[tuple[float, float], Configuration], betas: Sequence[float], steps: float
) -> tuple[Estimate, tuple[float, float]]:
    """The largest rise of alignment between neighbouring betas at most a factor of 4 apart."""
    pairs = [(one, other) for one, other in itertools.pairwise(betas) if other <= 4 * one]
    rises = {pair: minus(*(part.values(grid[beta, steps], "alignment") for beta in reversed(pair))) for pair in pairs}
    pair = max(rises, key=lambda one: rises[one].mean)
    return rises[pair], pair


def _steps_curve(part: SettingResults, name: str, points: Sequence[Configuration], colour: str | None = None) -> Curve:
    align, task = part.estimates("alignment"), part.estimates("task")
    labels = [f"{_number(one, 'steps'):g}" for one in points]
    return Curve(name, [align[one.id] for one in points], [task[one.id] for one in points], labels, colour)


# --- proxies ---------------------------------------------------------------------------------------------------------


def em_proxy(parts: Sequence[SettingResults]) -> DrawnFigure:
    """The last part's proxy against the mean of the others', configuration by configuration."""
    parts = [_unproxied(part) for part in parts]
    narrow, diverse = parts[:-1], parts[-1]
    names = {"mixed": "mixed in", "upweighted": "up-weighted"}
    checks = []
    gains: dict[str, Estimate] = {}
    for method, how in names.items():
        gains[method] = minus(_over_knob(diverse, method), average([_over_knob(part, method) for part in narrow]))
        statement = (
            f"{how.capitalize()}, one kind of proxy keeps more alignment than another (0.3 in the study; here more than"
            f" {MORE:g}, mean over the knob)"
        )
        found = f"{proxy_of(diverse)} against {_list(narrow)}: {shown(gains[method], sign=True)}"
        checks.append(Check(statement, found, above(gains[method], MORE)))
    ceiling = max((_best(part, "upweighted", "unproxied") for part in narrow), key=lambda one: one.mean)
    checks.append(
        Check(
            "Up-weighting the poorer proxy does not restore alignment at any weight (at most 0.62)",
            f"up to {shown(ceiling)}",
            below(ceiling, 0.7),
        )
    )
    good = [point for point in _means(diverse, "upweighted", ("task", "unproxied")) if point[1] >= 0.9]
    task = max((point[0] for point in good), default=math.nan)
    checks.append(
        Check(
            "Up-weighting the better one keeps alignment above 0.9 and most of the task (0.74 to 0.83)",
            f"the best task score where alignment is at least 0.9 is {task:.2f}",
            bool(good) and task >= 0.7,
        )
    )
    panels = {how: [_proxy_curve(part, method) for part in parts] for method, how in names.items()}
    where = "cooking and law" if "alignment_cooking" in diverse.base else "general questions"
    text = (
        f"As many proxy rows in all. Alignment on {where}, of which no proxy speaks; numbers: share of proxy rows,"
        " or weight. Bars: 95 % intervals."
    )
    base = (diverse.base["unproxied"], diverse.base["task"])
    figure = curves_figure(panels, f"alignment, {where}", "task", base, text)
    sentence = (
        f"Averaged over the knob, the {proxy_of(diverse)} proxy changes alignment on {where} by"
        f" {shown(gains['mixed'], sign=True)} when mixed in and {shown(gains['upweighted'], sign=True)} when"
        f" up-weighted, against {_list(narrow)}."
    )
    note = f"The margin of {MORE:g} was chosen after a look at a run of two seeds, and before any of more."
    return DrawnFigure(figure, checks, sentence, [note])


def proxy_of(part: SettingResults) -> str:
    """The name of a part's proxy."""
    return str(part.options.get("proxy") or part.options.get("alignment") or "usual")


def _list(parts: Sequence[SettingResults]) -> str:
    return ", ".join(proxy_of(part) for part in parts) + (" (their mean)" if len(parts) > 1 else "")


def _unproxied(part: SettingResults) -> SettingResults:
    """With the score `unproxied`: over domains that no proxy of the comparison speaks of."""
    common = [name for name in ("alignment_cooking", "alignment_law") if name in part.base]
    return part.with_mean("unproxied", common or ["alignment"])


def _over_knob(part: SettingResults, method: str) -> dict[int, float]:
    return average([part.values(one, "unproxied") for one in part.configurations(method)])


def _best(part: SettingResults, method: str, score: str) -> Estimate:
    found = part.estimates(score)
    return max((found[one.id] for one in part.configurations(method)), key=lambda one: one.mean)


def _proxy_curve(part: SettingResults, method: str) -> Curve:
    points = part.configurations(method)
    align, task = part.estimates("unproxied"), part.estimates("task")
    labels = [one.label.rpartition("=")[2] for one in points]
    return Curve(proxy_of(part), [align[one.id] for one in points], [task[one.id] for one in points], labels)
