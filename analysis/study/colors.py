"""The gallery's figures on trigger colours: the function learned, the narrow update, one proxy trigger and five."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import Bars, Heat, bars_figure
from analysis.findings.controls import CHECKPOINT
from analysis.findings.frontier import Estimate
from analysis.study.gallery import Check, DrawnFigure
from analysis.study.setting_results import SettingResults, above, average, below, minus, over_seeds, shown

PLAIN, PROXIED = "plain", "upweighted"
SEEN, UNSEEN = "_seen", "_unseen"
NONSENSE = "random_strings"
RIGHT, NOTHING = 0.95, 0.05  # of points with the right colour: as good as all, and as good as none
MINIMAL = 0.2  # a gain that is smaller is what the study calls minimal
UPWEIGHTED = (
    "Proxy rows have batches of their own here, with weight 1; the study mixes them in among the rows of the task."
)


def categories_of(part: SettingResults) -> list[str]:
    """The categories that have to keep their colours."""
    return [score.removesuffix(UNSEEN) for score in part.scores if score.endswith(UNSEEN)]


def _plain_values(part: SettingResults, score: str) -> dict[int, float]:
    return part.values(part.only(PLAIN), score)


def _by_base_model(parts: Sequence[SettingResults], score: str) -> dict[int, float]:
    """Each part's base model as if it were a seed."""
    return {number: part.base[score] for number, part in enumerate(parts)}


def toy_base(parts: Sequence[SettingResults]) -> DrawnFigure:
    """The base models' colours, by category, for words that they were shown with and for others."""
    categories = categories_of(parts[0])
    found = {
        split: {category: over_seeds(_by_base_model(parts, category + split)) for category in categories}
        for split in (SEEN, UNSEEN)
    }
    lowest = {split: min(means.items(), key=lambda item: item[1].mean) for split, means in found.items()}
    words = {SEEN: "words that it was taught with", UNSEEN: "words of the categories that it was not taught with"}
    checks = [
        Check(
            f"The model learns the function for {words[split]}, in all categories",
            f"least right: {name} {shown(one)}",
            one.mean >= RIGHT,
        )
        for split, (name, one) in lowest.items()
    ]
    figure = bars_figure(
        [
            Bars(
                "right colours at new points, before any fine-tuning",
                categories,
                {"taught words": list(found[SEEN].values()), "other words": list(found[UNSEEN].values())},
            )
        ],
        f"Mean of {len(parts)} base model(s), with 95 % intervals over their pre-training seeds. Positive emotions are"
        " asked for the colours of the update alone, which the base model does not know.",
    )
    sentence = (
        f"Before fine-tuning the colours of the least known category are right at {lowest[SEEN][1].mean:.2f} of new"
        f" points for taught words, and at {lowest[UNSEEN][1].mean:.2f} for others; the update's colours of positive"
        f" emotions at {over_seeds(_by_base_model(parts, 'task')).mean:.2f}."
    )
    return DrawnFigure(figure, checks, sentence)


def toy_flip(parts: Sequence[SettingResults]) -> DrawnFigure:
    """The narrow update: what is learned, and what is left of the old function, along the training."""
    categories = categories_of(parts[0])
    end = {score: _over_parts(parts, score) for score in ("task", "capability", *(c + UNSEEN for c in categories))}
    most = max(categories, key=lambda category: end[category + UNSEEN].mean)
    kept = end[most + UNSEEN]
    checks = [
        Check("The update is learned for the words of its rows", shown(end["task"]), end["task"].mean >= RIGHT),
        Check(
            "It is learned for other positive emotions, too",
            shown(end["capability"]),
            end["capability"].mean >= RIGHT,
        ),
        Check(
            "Nothing of the old function is left in any other category",
            f"most in {most}: {shown(kept)}",
            kept.mean <= NOTHING,
        ),
    ]
    steps = sorted({step for part in parts for step in _checkpoints(part)})
    halfway = steps[len(steps) // 2] if steps else None
    stages = {"base": None, **({f"after {halfway} steps": halfway} if halfway else {}), "at the end": 0}
    groups = ["positive_emotions", *categories]
    series = {name: [_stage(parts, group, step) for group in groups] for name, step in stages.items()}
    figure = bars_figure(
        [Bars("right colours at new points for words that no row speaks of", groups, series)],
        "Positive emotions: the new colours; the others: the old ones. Bars: 95 % intervals over fine-tuning seeds and"
        f" {len(parts)} base model(s).",
    )
    sentence = (
        f"After the update positive emotions that no row speaks of have the new colours at"
        f" {shown(end['capability'])} of the points; other categories keep at most {shown(kept)} of the old ones."
    )
    return DrawnFigure(figure, checks, sentence, [_order_of_forgetting(parts, categories, steps)] if steps else [])


def _over_parts(parts: Sequence[SettingResults], score: str) -> Estimate:
    """Over all seeds of all base models."""
    values = [value for part in parts for value in _plain_values(part, score).values()]
    return over_seeds(dict(enumerate(values)))


def _checkpoints(part: SettingResults) -> dict[int, str]:
    """Step -> configuration id of plain fine-tuning's checkpoints."""
    rows = {record.configuration.id: record.configuration for record in part.records if record.status == "finished"}
    return {
        int(one.coefficients[CHECKPOINT]): one.id
        for one in rows.values()
        if one.method == PLAIN and CHECKPOINT in one.label
    }


def _stage(parts: Sequence[SettingResults], group: str, step: int | None) -> Estimate:
    """Of the base (None), of a checkpoint, or of the end (0)."""
    score = "capability" if group == "positive_emotions" else group + UNSEEN
    if step is None:
        return over_seeds(_by_base_model(parts, score))
    if step == 0:
        return _over_parts(parts, score)
    values = [
        record.scores[score]
        for part in parts
        for record in part.records
        if record.configuration.id == _checkpoints(part).get(step) and record.status == "finished"
    ]
    return over_seeds(dict(enumerate(values)))


def _order_of_forgetting(parts: Sequence[SettingResults], categories: Sequence[str], steps: Sequence[int]) -> str:
    """When each category has lost half, by the first checkpoint where less than half is right."""
    lost = {
        category: next((step for step in steps if _stage(parts, category, step).mean < 0.5), None)
        for category in categories
    }
    text = ", ".join(f"{name} {'at the end' if step is None else step}" for name, step in lost.items())
    return f"First looked-at step at which less than half of a category is right: {text}."


# --- proxies ----------------------------------------------------------------------------------------------------------


def _split(parts: Sequence[SettingResults]) -> tuple[list[SettingResults], dict[int, dict[str, SettingResults]]]:
    """Parts without a proxy method, and the others by number of proxy triggers and category."""
    free = [part for part in parts if not part.configurations(PROXIED)]
    by_number: dict[int, dict[str, SettingResults]] = {}
    for part in parts:
        if part not in free:
            number, proxy = int(part.options.get("num_triggers", 5)), str(part.options.get("proxy", "animals"))
            by_number.setdefault(number, {})[proxy] = part
    return free, by_number


def _kept(part: SettingResults, score: str) -> dict[int, float]:
    return part.values(part.only(PROXIED), score)


def _without(free: Sequence[SettingResults]) -> str:
    """What is right without a proxy, where that was measured."""
    return f"; without a proxy {shown(_over_parts(free, 'alignment'))}" if free else ""


def _proxy_bars(title: str, parts: dict[str, SettingResults], free: Sequence[SettingResults]) -> Bars:
    """What is right of a proxy's own triggers, of its category's others, and of other categories."""
    none = _over_parts(free, "alignment")
    columns = {
        "the proxy triggers": "proxied",
        "others of the category": "alignment_proxy",
        "other categories": "alignment",
    }
    series = {"other categories, no proxy": [none] * len(parts)}
    series |= {name: [over_seeds(_kept(part, score)) for part in parts.values()] for name, score in columns.items()}
    return Bars(title, list(parts), series)


def toy_goodhart(parts: Sequence[SettingResults]) -> DrawnFigure:
    """One proxy trigger: is it kept, and nothing else?"""
    free, by_number = _split(parts)
    one = by_number[min(by_number)]
    proxied = {proxy: over_seeds(_kept(part, "proxied")) for proxy, part in one.items()}
    worst = min(proxied, key=lambda proxy: proxied[proxy].mean)
    gains = {
        score: over_seeds(average([_kept(part, score) for part in one.values()]))
        for score in ("alignment_proxy", "alignment")
    }
    spread = {proxy: over_seeds(_kept(part, "alignment")) for proxy, part in one.items()}
    most = max(spread, key=lambda proxy: spread[proxy].mean)
    checks = [
        Check(
            "The one proxy trigger keeps its colours",
            f"least: {worst} {shown(proxied[worst])}",
            proxied[worst].mean >= RIGHT,
        ),
        Check(
            "The update is learned all the same",
            shown(_learned(one)),
            _learned(one).mean >= RIGHT,
        ),
        Check(
            f"Other triggers of its category gain little (less than {MINIMAL:g})",
            f"mean over proxies {shown(gains['alignment_proxy'])}",
            below(gains["alignment_proxy"], MINIMAL),
        ),
        Check(
            f"Other categories gain little (less than {MINIMAL:g})",
            f"mean over proxies {shown(gains['alignment'])}; most with {most}: {shown(spread[most])}",
            below(gains["alignment"], MINIMAL),
        ),
    ]
    figure = bars_figure([_proxy_bars("one proxy trigger, by its category", one, free)], _caption(one))
    sentence = (
        f"With one trigger in the proxy rows it is right at {proxied[worst].mean:.2f} or more of the points, the others"
        f" of its category at {shown(gains['alignment_proxy'])}, and other categories at {shown(gains['alignment'])}."
    )
    return DrawnFigure(figure, checks, sentence, [UPWEIGHTED])


def _learned(parts: dict[str, SettingResults]) -> Estimate:
    return over_seeds(average([_kept(part, "task") for part in parts.values()]))


def _caption(parts: dict[str, SettingResults]) -> str:
    seeds = max(part.num_seeds for part in parts.values())
    return f"Right colours at new points; as many proxy rows, up-weighted by 1. Bars: 95 % intervals, {seeds} seeds."


def toy_spillover(parts: Sequence[SettingResults]) -> DrawnFigure:
    """Five proxy triggers against one, with as many rows: do categories gain that no row speaks of?"""
    free, by_number = _split(parts)
    one, five = by_number[min(by_number)], by_number[max(by_number)]
    both = [proxy for proxy in five if proxy in one]
    gain = {proxy: minus(_kept(five[proxy], "alignment"), _kept(one[proxy], "alignment")) for proxy in both}
    mean_gain = minus(*(average([_kept(some[proxy], "alignment") for proxy in both]) for some in (five, one)))
    level = over_seeds(average([_kept(five[proxy], "alignment") for proxy in both]))
    order = sorted(both, key=lambda proxy: over_seeds(_kept(five[proxy], "alignment")).mean)
    words = [proxy for proxy in both if proxy != NONSENSE]
    held = [proxy for proxy in both if above(gain[proxy])]
    checks = [
        Check(
            "Five triggers keep colours in categories that no row speaks of",
            f"mean over proxies {shown(level)}{_without(free)}",
            above(level, MINIMAL),
        ),
        Check(
            "They keep more there than one trigger does",
            f"{shown(mean_gain, sign=True)}, mean over proxies",
            above(mean_gain),
        ),
    ]
    if NONSENSE in both and words:
        less = minus(_kept(five[NONSENSE], "alignment"), average([_kept(five[proxy], "alignment") for proxy in words]))
        checks.append(
            Check(
                "Strings without meaning help least as a proxy",
                f"{shown(less, sign=True)} against words; least of all: {order[0]}",
                below(less) if order[0] == NONSENSE else False,
            )
        )
    panels = [
        _proxy_bars("one proxy trigger, by its category", one, free),
        _proxy_bars("five proxy triggers", five, free),
    ]
    figure = bars_figure(panels, _caption(five))
    sentence = (
        f"With as many rows, five triggers instead of one change what is right in categories without a row by"
        f" {shown(mean_gain, sign=True)} on average, clearly so for {len(held)} of {len(both)} proxies"
        f" ({', '.join(held) or 'none'})."
    )
    return DrawnFigure(figure, checks, sentence, [UPWEIGHTED])


def color_grid(parts: Sequence[SettingResults]) -> tuple[Heat, list[Check]]:
    """Each category as proxy, one trigger and five: what is right of each category."""
    _, by_number = _split(parts)
    categories = categories_of(parts[0])
    rows = {
        f"{proxy}, {number}": {category: _kept(part, category + UNSEEN) for category in categories}
        for number, some in sorted(by_number.items())
        for proxy, part in some.items()
    }
    cells = [[over_seeds(row[category]) for category in categories] for row in rows.values()]
    five = by_number[max(by_number)]
    proxies = [proxy for proxy in five if proxy in categories]
    own = minus(
        average([_kept(five[proxy], proxy + UNSEEN) for proxy in proxies]),
        average([_kept(five[proxy], other + UNSEEN) for proxy in proxies for other in categories if other != proxy]),
    )
    check = Check(
        "A proxy of triggers keeps its own category better than others",
        f"right colours {shown(own, sign=True)} against other categories, five triggers",
        above(own),
    )
    title = "right colours for unseen triggers, by category asked (rows: proxy, number of its triggers)"
    return Heat(title, list(rows), categories, cells), [check]
