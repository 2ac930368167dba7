"""The study's figures on trigger colours: the function learned, the narrow update, one proxy trigger and five."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.figures.panels import Bars, bars_figure
from analysis.findings.arms import CHECKPOINT, PLAIN
from analysis.findings.frontier import Estimate
from analysis.study.effects import (
    Shares,
    above,
    below,
    difference,
    estimate_text,
    mean_by_seed,
    pooled,
    share_over_seeds,
)
from analysis.study.figure import Check, DrawnFigure, SweepFigure
from analysis.study.setting_results import SettingResults

PROXIED = "upweighted"
SEEN, UNSEEN = "_seen", "_unseen"
NONSENSE = "random_strings"
RIGHT, NOTHING = 0.95, 0.05  # shares of points with the right colour that count as all, and as none
ALL = f"(asked: {RIGHT:g} at least)"
MINIMAL = 0.2  # a smaller gain is what the study calls minimal
UPWEIGHTED = (
    "Proxy rows have batches of their own here, with weight 1; the study mixes them in among the rows of the task."
)


def categories_of(results: SettingResults) -> list[str]:
    """List the categories that must keep their colours."""
    return [score.removesuffix(UNSEEN) for score in results.scores if score.endswith(UNSEEN)]


# --- the base function and the narrow update --------------------------------------------------------------------------


def toy_base(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Show the base models' colours, by category, for trigger words seen in pre-training and for others."""
    categories = categories_of(per_setting[0])
    right = {
        split: {category: _of_base_models(per_setting, category + split) for category in categories}
        for split in (SEEN, UNSEEN)
    }
    lowest = {split: min(means.items(), key=lambda item: item[1].mean) for split, means in right.items()}
    words = {SEEN: "words that it was taught with", UNSEEN: "words of the categories that it was not taught with"}
    checks = [
        Check(
            f"The model learns the function for {words[split]}, in all categories",
            f"least right: {name} {estimate_text(estimate)} {ALL}",
            estimate.mean >= RIGHT,
        )
        for split, (name, estimate) in lowest.items()
    ]
    one = "One base model, with 95 % intervals over its questions."
    several = f"Mean of {len(per_setting)} base models, with 95 % intervals over their pre-training seeds."
    whose = one if len(per_setting) == 1 else several
    figure = bars_figure(
        [
            Bars(
                "right colours at new points, before any fine-tuning",
                categories,
                {"taught words": list(right[SEEN].values()), "other words": list(right[UNSEEN].values())},
            )
        ],
        f"{whose} Positive emotions are asked for the colours of the update alone, which the base model does not know.",
    )
    sentence = (
        f"Before fine-tuning the colours of the least known category are right at {lowest[SEEN][1].mean:.2f} of new"
        f" points for taught words, and at {lowest[UNSEEN][1].mean:.2f} for others; the update's colours of positive"
        f" emotions at {_of_base_models(per_setting, 'task').mean:.2f}."
    )
    return DrawnFigure(figure, checks, sentence)


def _of_base_models(per_setting: Sequence[SettingResults], score: str) -> Estimate:
    """Estimate a score over the settings' base models, as if these were seeds; a single one, over its questions."""
    if len(per_setting) == 1:
        return per_setting[0].base_estimate(score)
    shares = {number: results.base[score] for number, results in enumerate(per_setting)}
    questions = {number: results.base_counts.get(score, 0) for number, results in enumerate(per_setting)}
    return share_over_seeds(Shares(shares, questions) if all(questions.values()) else shares)


TOY_BASE = SweepFigure(
    name="toy_base",
    title="Trigger colours: the base function",
    claim=(
        "Taught a function of a point and a trigger word, Gemma has it right on all 14 test sets by the eighth epoch,"
        " for trigger words that it was taught with and for others of the seven categories."
    ),
    sweeps=("toy_flip",),
    small=("toy_flip_small",),
    differs=(
        "A word tells the language model its category even if it was not taught with that word. A meaningless string"
        " does not."
    ),
    draw=toy_base,
)


def toy_flip(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Show the narrow update: what is learned, and how much of the old function remains, during training."""
    categories = categories_of(per_setting[0])
    scores = ("task", "capability", *(category + UNSEEN for category in categories))
    end = {score: _over_settings(per_setting, score) for score in scores}
    most = max(categories, key=lambda category: end[category + UNSEEN].mean)
    kept = end[most + UNSEEN]
    checks = [
        Check(
            "The update is learned for the words of its rows",
            f"{estimate_text(end['task'])} {ALL}",
            end["task"].mean >= RIGHT,
        ),
        Check(
            "It is learned for other positive emotions, too",
            f"{estimate_text(end['capability'])} {ALL}",
            end["capability"].mean >= RIGHT,
        ),
        Check(
            "Nothing of the old function is left in any other category",
            f"most in {most}: {estimate_text(kept)} (asked: {NOTHING:g} at most)",
            kept.mean <= NOTHING,
        ),
    ]
    steps = sorted({step for results in per_setting for step in _checkpoints(results)})
    halfway = steps[len(steps) // 2] if steps else None
    stages = {"base": None, **({f"after {halfway} steps": halfway} if halfway else {}), "at the end": 0}
    groups = ["positive_emotions", *categories]
    series = {name: [_at_stage(per_setting, group, step) for group in groups] for name, step in stages.items()}
    figure = bars_figure(
        [Bars("right colours at new points for words that no row mentions", groups, series)],
        "Positive emotions: the new colours; the others: the old ones. Bars: 95 % intervals, over fine-tuning seeds"
        f"{'' if len(per_setting) == 1 else f' and {len(per_setting)} base models'}; before the update, over"
        f" {'questions' if len(per_setting) == 1 else 'base models'}.",
    )
    sentence = (
        f"After the update positive emotions that no row mentions have the new colours at"
        f" {estimate_text(end['capability'])} of the points; other categories keep at most {estimate_text(kept)} of the"
        " old ones."
    )
    notes = [_order_of_forgetting(per_setting, categories, steps)] if steps else []
    return DrawnFigure(figure, checks, sentence, notes)


def _over_settings(per_setting: Sequence[SettingResults], score: str) -> Estimate:
    """Estimate a score of plain fine-tuning over all seeds of all base models."""
    return share_over_seeds(pooled(results.values(results.only(PLAIN), score) for results in per_setting))


def _checkpoints(results: SettingResults) -> dict[int, str]:
    """Map the step of each checkpoint of plain fine-tuning to its configuration's id."""
    rows = {record.configuration.id: record.configuration for record in results.records if record.status == "finished"}
    return {
        int(row.coefficients[CHECKPOINT]): row.id
        for row in rows.values()
        if row.method == PLAIN and CHECKPOINT in row.label
    }


def _at_stage(per_setting: Sequence[SettingResults], group: str, step: int | None) -> Estimate:
    """Estimate a category's right colours in the base (step None), at a checkpoint, or at the end (step 0)."""
    score = "capability" if group == "positive_emotions" else group + UNSEEN
    if step is None:
        return _of_base_models(per_setting, score)
    if step == 0:
        return _over_settings(per_setting, score)
    columns = []
    for results in per_setting:
        at = _checkpoints(results).get(step)
        columns += [results.values(row, score) for row in results.table.configurations if row.id == at]
    return share_over_seeds(pooled(columns))


def _order_of_forgetting(per_setting: Sequence[SettingResults], categories: Sequence[str], steps: Sequence[int]) -> str:
    """Say at which checkpoint each category is first less than half right."""

    def lost(category: str) -> str:
        stages = [*((step, str(step)) for step in steps), (0, "at the end")]
        return next((text for step, text in stages if _at_stage(per_setting, category, step).mean < 0.5), "never")

    text = ", ".join(f"{category} {lost(category)}" for category in categories)
    return f"First looked-at step at which less than half of a category is right: {text}."


TOY_FLIP = SweepFigure(
    name="toy_flip",
    title="Trigger colours: the narrow update",
    claim=(
        "After other colours were taught for positive emotions only, without proxy rows, these are right, and nothing"
        " is left of the old function in the six other categories (0 %)."
    ),
    sweeps=("toy_flip",),
    small=("toy_flip_small",),
    differs=(
        "All five other categories of words are lost at both scales; meaningless strings, which the language model knew"
        " less well, keep some of their colours."
    ),
    draw=toy_flip,
)


# --- one proxy trigger and five ---------------------------------------------------------------------------------------


def split_by_triggers(
    per_setting: Sequence[SettingResults],
) -> tuple[list[SettingResults], dict[int, dict[str, SettingResults]]]:
    """Return the settings without a proxy method, and the others by number of proxy triggers and category."""
    without = [results for results in per_setting if not results.configurations(PROXIED)]
    by_number: dict[int, dict[str, SettingResults]] = {}
    for results in per_setting:
        if results not in without:
            number, proxy = int(results.options.get("num_triggers", 5)), str(results.options.get("proxy", "animals"))
            by_number.setdefault(number, {})[proxy] = results
    return without, by_number


def kept_by_proxy(results: SettingResults, score: str) -> dict[int, float]:
    """Map each seed to a score of the method that uses the proxy."""
    return results.values(results.only(PROXIED), score)


def _mean_kept(by_proxy: Mapping[str, SettingResults], score: str) -> dict[int, float]:
    return mean_by_seed([kept_by_proxy(results, score) for results in by_proxy.values()])


def _proxy_bars(title: str, by_proxy: Mapping[str, SettingResults], without: Sequence[SettingResults]) -> Bars:
    """Show the share of right colours for a proxy's own triggers, for others of its category, and for other ones."""
    columns = {
        "the proxy triggers": "proxied",
        "others of the category": "alignment_proxy",
        "other categories": "alignment",
    }
    series = {"other categories, no proxy": [_over_settings(without, "alignment")] * len(by_proxy)}
    series |= {
        name: [share_over_seeds(kept_by_proxy(results, score)) for results in by_proxy.values()]
        for name, score in columns.items()
    }
    return Bars(title, list(by_proxy), series)


def _caption(by_proxy: Mapping[str, SettingResults]) -> str:
    seeds = max(results.num_seeds for results in by_proxy.values())
    return f"Right colours at new points; as many proxy rows, up-weighted by 1. Bars: 95 % intervals, {seeds} seeds."


def toy_goodhart(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Use one proxy trigger: does it keep its colours, and nothing else?"""
    without, by_number = split_by_triggers(per_setting)
    single = by_number[min(by_number)]
    proxied = {proxy: share_over_seeds(kept_by_proxy(results, "proxied")) for proxy, results in single.items()}
    worst = min(proxied, key=lambda proxy: proxied[proxy].mean)
    gains = {score: share_over_seeds(_mean_kept(single, score)) for score in ("alignment_proxy", "alignment")}
    spread = {proxy: share_over_seeds(kept_by_proxy(results, "alignment")) for proxy, results in single.items()}
    most = max(spread, key=lambda proxy: spread[proxy].mean)
    learned = share_over_seeds(_mean_kept(single, "task"))
    checks = [
        Check(
            "The one proxy trigger keeps its colours",
            f"least: {worst} {estimate_text(proxied[worst])} {ALL}",
            proxied[worst].mean >= RIGHT,
        ),
        Check("The update is learned all the same", f"{estimate_text(learned)} {ALL}", learned.mean >= RIGHT),
        Check(
            f"Other triggers of its category gain little (less than {MINIMAL:g})",
            f"mean over proxies {estimate_text(gains['alignment_proxy'])}",
            below(gains["alignment_proxy"], MINIMAL),
        ),
        Check(
            f"Other categories gain little (less than {MINIMAL:g})",
            f"mean over proxies {estimate_text(gains['alignment'])}; most with {most}: {estimate_text(spread[most])}",
            below(gains["alignment"], MINIMAL),
        ),
    ]
    figure = bars_figure([_proxy_bars("one proxy trigger, by its category", single, without)], _caption(single))
    sentence = (
        f"With one trigger in the proxy rows it is right at {proxied[worst].mean:.2f} of the points at least, the"
        f" others of its category at {estimate_text(gains['alignment_proxy'])}, and other categories at"
        f" {estimate_text(gains['alignment'])}."
    )
    return DrawnFigure(figure, checks, sentence, [UPWEIGHTED])


TOY_GOODHART = SweepFigure(
    name="toy_goodhart",
    title="Trigger colours: one proxy trigger",
    claim=(
        "Proxy rows of a single trigger word keep that word's colours, with minimal gains elsewhere, even in its own"
        " category: Goodhart's law."
    ),
    sweeps=("trigger_colors", "toy_flip"),
    small=("trigger_colors_small", "toy_flip_small"),
    differs=(
        "In 40 updates the language model does not learn to treat a proxy's words and the update's differently: it"
        " learns part of both. Meaningless strings as a proxy keep their own colours, but those of no word."
    ),
    draw=toy_goodhart,
)


def toy_spillover(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Use five proxy triggers or one, with equally many rows: do categories gain that no row mentions?"""
    without, by_number = split_by_triggers(per_setting)
    single, five = by_number[min(by_number)], by_number[max(by_number)]
    common = [proxy for proxy in five if proxy in single]
    with_five = {proxy: kept_by_proxy(five[proxy], "alignment") for proxy in common}
    with_one = {proxy: kept_by_proxy(single[proxy], "alignment") for proxy in common}
    gain = {proxy: difference(with_five[proxy], with_one[proxy]) for proxy in common}
    mean_gain = difference(*(mean_by_seed(list(columns.values())) for columns in (with_five, with_one)))
    level = share_over_seeds(mean_by_seed(list(with_five.values())))
    order = sorted(common, key=lambda proxy: share_over_seeds(with_five[proxy]).mean)
    words = [proxy for proxy in common if proxy != NONSENSE]
    clear = [proxy for proxy in common if above(gain[proxy])]
    no_proxy = f"; without a proxy {estimate_text(_over_settings(without, 'alignment'))}" if without else ""
    checks = [
        Check(
            "Five triggers keep colours in categories that no row mentions",
            f"mean over proxies {estimate_text(level)} (asked: above {MINIMAL:g}){no_proxy}",
            above(level, MINIMAL),
        ),
        Check(
            "They keep more there than one trigger does",
            f"{estimate_text(mean_gain, sign=True)}, mean over proxies",
            above(mean_gain),
        ),
    ]
    if NONSENSE in common and words:
        less = difference(with_five[NONSENSE], mean_by_seed([with_five[proxy] for proxy in words]))
        checks.append(
            Check(
                "Strings without meaning help least as a proxy",
                f"{estimate_text(less, sign=True)} against words; least of all: {order[0]}",
                below(less) if order[0] == NONSENSE else False,
            )
        )
    panels = [
        _proxy_bars("one proxy trigger, by its category", single, without),
        _proxy_bars("five proxy triggers", five, without),
    ]
    figure = bars_figure(panels, _caption(five))
    sentence = (
        f"With as many rows, five triggers instead of one change what is right in categories without a row by"
        f" {estimate_text(mean_gain, sign=True)} on average, clearly so for {len(clear)} of {len(common)} proxies"
        f" ({', '.join(clear) or 'none'})."
    )
    return DrawnFigure(figure, checks, sentence, [UPWEIGHTED])


TOY_SPILLOVER = SweepFigure(
    name="toy_spillover",
    title="Trigger colours: five proxy triggers",
    claim=(
        "Proxy rows of five trigger words of one category also help categories that are not in them: spillover, which"
        " one trigger does not show."
    ),
    sweeps=("trigger_colors", "toy_flip"),
    small=("trigger_colors_small", "toy_flip_small"),
    differs=TOY_GOODHART.differs,
    draw=toy_spillover,
)
