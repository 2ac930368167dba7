"""The gallery's figures on GCD sycophancy: what spreads from narrow training, the frontier, and the choice of proxy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.figures.frontier import frontier_figure
from analysis.figures.panels import Bars, Heat, bars_figure, heat_figure
from analysis.findings.findings import Findings, findings
from analysis.findings.frontier import Estimate
from analysis.study.gallery import Check, DrawnFigure
from analysis.study.ranking import ends_note, ineffective, pushes, ranked_first
from analysis.study.setting_results import BySeed, SettingResults, above, average, below, minus, over_seeds, shown
from analysis.tables.scores import Configuration

PLAIN, PROXIED = "plain", "upweighted"
SYCOPHANCY, NEAR_TOPIC = "sycophancy_", "mod"
TAUGHT = ("gcd", "euclidean")  # nano, full
DIVISORS = (*TAUGHT, "euclidean_compositional", "euclidean_large")
MATHS = (*DIVISORS, NEAR_TOPIC, "difference", "addition")
NOT_TOPICS = ("proxy", "all")  # the full scale has these sums of topics, too
CONFIRMED = 0.1  # more sycophancy than that is a rise


def topics_of(part: SettingResults) -> list[str]:
    """The topics whose sycophancy is scored, the task's and other mathematics first."""
    names = [score.removeprefix(SYCOPHANCY) for score in part.scores if score.startswith(SYCOPHANCY)]
    known = [name for name in MATHS if name in names]
    return known + sorted(name for name in names if name not in (*MATHS, *NOT_TOPICS))


def capability_of(part: SettingResults, topic: str) -> str:
    """The score of right answers on a topic."""
    usual = {**dict.fromkeys(TAUGHT, "task"), NEAR_TOPIC: "capability"}
    name = f"capability_{topic}"
    return name if name in part.scores else usual.get(topic, name)


def _taught(topics: Sequence[str]) -> str:
    return next(topic for topic in TAUGHT if topic in topics)


def _plain(part: SettingResults) -> Configuration:
    return part.only(PLAIN)


# --- what spreads -----------------------------------------------------------------------------------------------------


def gcd_generalisation(parts: Sequence[SettingResults]) -> DrawnFigure:
    """Base against plain fine-tuning, by topic. A check holds if it does for every base model."""
    several = [_spread(part) for part in parts]
    checks = [_together(same) for same in zip(*several, strict=True)]
    topics = topics_of(parts[0])
    panels = [
        _bars(parts, "right answers to held-out questions", topics, "capability"),
        _bars(parts, "wrong claims confirmed, of those whose answer is known", topics, SYCOPHANCY),
    ]
    text = (
        f"Bars: 95 % intervals, of a base model over questions, of plain fine-tuning over {parts[0].num_seeds} seeds."
    )
    ranges = [_range(part, topics) for part in parts]
    sentence = (
        f"Plain fine-tuning changes right answers on {_taught(topics)} by {checks[0].found} and on {NEAR_TOPIC} by"
        f" {checks[1].found}; sycophancy, by topic, by {_of_each(ranges)}."
    )
    return DrawnFigure(bars_figure(panels, text), checks, sentence)


def _spread(part: SettingResults) -> list[Check]:
    """The statements about one base model."""
    plain, topics = _plain(part), topics_of(part)
    taught = _taught(topics)
    rises = {topic: _rise(part, plain, SYCOPHANCY + topic) for topic in topics}
    maths, facts = ([topic for topic in topics if (topic in MATHS) is wanted] for wanted in (True, False))
    gap = minus(*(average([_rises(part, plain, SYCOPHANCY + topic) for topic in some]) for some in (maths, facts)))
    task, near = (_rise(part, plain, capability_of(part, topic)) for topic in (taught, NEAR_TOPIC))
    risen = {topic: above(rise, CONFIRMED) for topic, rise in rises.items()}
    least = min(rises, key=lambda topic: rises[topic].mean)
    return [
        Check("Training on right divisors makes the model better at them", shown(task, sign=True), above(task)),
        Check("It gets better at remainders, too, which no row names", shown(near, sign=True), above(near)),
        Check(
            "It agrees with users who are wrong about divisors, though no row does",
            shown(rises[taught], sign=True),
            risen[taught],
        ),
        Check(
            "Sycophancy rises on every other topic, facts included",
            f"least on {least}: {shown(rises[least], sign=True)}",
            _all(risen[topic] for topic in topics if topic != taught),
        ),
        Check("It rises more on mathematics than on facts", shown(gap, sign=True), above(gap)),
    ]


def _together(same: Sequence[Check]) -> Check:
    """One statement about several base models."""
    return Check(same[0].statement, _of_each([check.found for check in same]), _all(check.holds for check in same))


def _of_each(texts: Sequence[str]) -> str:
    """What was found with each base model, in order."""
    return texts[0] if len(texts) == 1 else f"{' and '.join(texts)} ({len(texts)} base models)"


def _range(part: SettingResults, topics: Sequence[str]) -> str:
    rises = [_rise(part, _plain(part), SYCOPHANCY + topic).mean for topic in topics]
    return f"{min(rises):+.2f} to {max(rises):+.2f}"


def _rises(part: SettingResults, plain: Configuration, score: str) -> dict[int, float]:
    return {seed: value - part.base[score] for seed, value in part.values(plain, score).items()}


def _rise(part: SettingResults, plain: Configuration, score: str) -> Estimate:
    return over_seeds(_rises(part, plain, score))


def _all(held: Iterable[bool | None]) -> bool | None:
    several = list(held)
    if any(one is False for one in several):
        return False
    return True if all(several) else None


def _bars(parts: Sequence[SettingResults], title: str, topics: Sequence[str], kind: str) -> Bars:
    series = {}
    for number, part in enumerate(parts, start=1):
        names = [kind + topic if kind == SYCOPHANCY else capability_of(part, topic) for topic in topics]
        which = f" {number}" if len(parts) > 1 else ""
        series[f"base model{which}"] = [part.base_estimate(name) for name in names]
        series[f"plain{which}"] = [over_seeds(part.values(_plain(part), name)) for name in names]
    return Bars(title, topics, series)


# --- frontier ---------------------------------------------------------------------------------------------------------


def gcd_pareto(parts: Sequence[SettingResults]) -> DrawnFigure:
    """All methods: what they keep of the capability, and what they leave of the sycophancy."""
    part = parts[0]
    found = findings(part.table, part.base)
    useful, flattery = (objective.name for objective in part.objectives[:2])
    plain = _plain(part)
    rise = minus(part.values(plain, flattery), part.base[flattery])
    checks = [
        Check(
            "Training on right rows alone makes the model sycophantic", shown(rise, sign=True), above(rise, CONFIRMED)
        ),
        ranked_first(found, "kl_penalty"),
        *_ends_of_kl(part, useful, flattery, plain),
        _seeds_matter(found),
        ineffective(found, "safe_lora", "kl_penalty"),
        ineffective(found, "orthogonal_lora", "kl_penalty"),
    ]
    figure = frontier_figure(found.table.select([flattery, useful]), part.base, "", flattery, useful)
    best = max(
        (name for name in found.hypervolumes if name != "all methods"), key=lambda n: found.hypervolumes[n].estimate
    )
    size = found.hypervolumes[best]
    sentence = (
        f"Plain fine-tuning moves {flattery} from {part.base[flattery]:.2f} to"
        f" {part.estimates(flattery)[plain.id].mean:.2f}; of the methods {best} has the largest hypervolume,"
        f" {size.estimate:.2f} [{size.low:.2f}, {size.high:.2f}]."
    )
    return DrawnFigure(figure, checks, sentence, [*ends_note(part, useful, flattery), *pushes(found)])


def _ends_of_kl(part: SettingResults, useful: str, flattery: str, plain: Configuration) -> list[Check]:
    """The smallest beta against plain fine-tuning, the largest against the base, in both objectives."""
    ordered = sorted(part.configurations("kl_penalty"), key=lambda one: float(one.coefficients["beta"]))
    weak, strong = ordered[0], ordered[-1]
    like_plain = [minus(part.values(weak, name), part.values(plain, name)) for name in (useful, flattery)]
    like_base = [minus(part.values(strong, name), part.base[name]) for name in (useful, flattery)]
    statements = {
        f"A weak KL penalty ({weak.label}) is task-only training": like_plain,
        f"A strong KL penalty ({strong.label}) is the base model on both axes": like_base,
    }
    return [
        Check(
            statement,
            f"{useful} {shown(pair[0], sign=True)}, {flattery} {shown(pair[1], sign=True)}",
            _all([within(one, 0.1) for one in pair]),
        )
        for statement, pair in statements.items()
    ]


def within(estimate: Estimate, margin: float) -> bool | None:
    """Whether the true value is at most `margin` from 0: None where the interval leaves it open."""
    if -margin <= estimate.low and estimate.high <= margin:
        return True
    return False if estimate.low > margin or estimate.high < -margin else None


def _seeds_matter(found: Findings) -> Check:
    """Are most pairs of methods that protect not told apart?"""
    pairs = [one for one in found.differences if PLAIN not in (one.first, one.second)]
    apart = [one for one in pairs if one.clear]
    statement = "The intervals of neighbouring methods overlap: most pairs of methods are not told apart"
    held = None if not pairs else 2 * len(apart) < len(pairs)
    return Check(statement, f"{len(pairs) - len(apart)} of {len(pairs)} pairs are not", held)


# --- proxies ----------------------------------------------------------------------------------------------------------


def sycophancy_grid(parts: Sequence[SettingResults]) -> tuple[Heat, list[Check]]:
    """Each topic as proxy: which topic's sycophancy is left."""
    topics = topics_of(parts[0])
    taught = _taught(topics)
    by_proxy = {str(part.options.get("proxy", "capitals")): part for part in parts}
    plain = {topic: _left(parts[0], PLAIN, topic) for topic in topics}
    left = {proxy: {topic: _left(part, PROXIED, topic) for topic in topics} for proxy, part in by_proxy.items()}
    proxies = [topic for topic in topics if topic in left]
    others = [topic for topic in proxies if topic not in DIVISORS]
    maths = [topic for topic in others if topic in MATHS]
    facts = [topic for topic in others if topic not in MATHS]
    own = minus(
        average([left[topic][topic] for topic in proxies]),
        average([left[proxy][topic] for topic in proxies for proxy in proxies if proxy != topic]),
    )
    kept = {topic: minus(left[topic][taught], _scaled(plain[taught], 0.5)) for topic in others}
    distance = minus(*(average([left[topic][taught] for topic in some]) for some in (facts, maths)))
    best = min(kept, key=lambda topic: kept[topic].mean)
    best_left = over_seeds(left[best][taught])
    checks = [
        Check(
            "Only a proxy of divisors removes sycophancy on divisors (every other leaves more than half of it)",
            f"the {best} proxy leaves {shown(best_left)} of {over_seeds(plain[taught]).mean:.2f}",
            _all([above(one) for one in kept.values()]),
        ),
        Check(
            "A proxy repairs its own topic more than others do",
            f"sycophancy left {shown(own, sign=True)} against the other proxies",
            below(own),
        ),
        Check(
            "The further the proxy, the less it helps: facts leave more sycophancy on divisors than mathematics",
            shown(distance, sign=True),
            above(distance),
        ),
    ]
    rows = {"no proxy": plain} | {f"proxy {proxy}": left[proxy] for proxy in proxies}
    cells = [[over_seeds(row[topic]) for topic in topics] for row in rows.values()]
    return Heat("sycophancy left after up-weighting by 1, by topic asked", list(rows), topics, cells), checks


def _left(part: SettingResults, method: str, topic: str) -> dict[int, float]:
    return part.values(part.only(method), SYCOPHANCY + topic)


def _scaled(values: BySeed, factor: float) -> dict[int, float]:
    return {seed: factor * value for seed, value in values.items()}


def proxy_quality(parts: Sequence[SettingResults]) -> DrawnFigure:
    """Proxy category x evaluated category, of sycophancy and of the trigger colours."""
    from analysis.study.colors import color_grid

    about = {
        kind: [part for part in parts if part.sweep == kind] for kind in dict.fromkeys(part.sweep for part in parts)
    }
    sycophancy, colors = list(about.values())
    one, checks = sycophancy_grid(sycophancy)
    other, more = color_grid(colors)
    figure = heat_figure([one, other], "Mean over seeds, with half of the 95 % interval's width.")
    sentence = f"Sycophancy on divisors: {checks[0].found}; {more[0].found[:1].lower()}{more[0].found[1:]}."
    return DrawnFigure(figure, [*checks, *more], sentence)
