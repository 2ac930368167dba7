"""The study's figures on GCD sycophancy: how narrow training spreads, and the frontier of all methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.figures.panels import Bars, bars_figure
from analysis.findings.arms import PLAIN
from analysis.findings.findings import Findings, analyse
from analysis.findings.frontier import Estimate
from analysis.study.effects import (
    above,
    all_hold,
    difference,
    estimate_text,
    mean_by_seed,
    share_over_seeds,
    shifted,
    within,
)
from analysis.study.figure import Check, DrawnFigure, SweepFigure
from analysis.study.ranking import budget_notes, control_notes, end_notes, frontier_of, ranked_first, stays_behind
from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration

SYCOPHANCY = "sycophancy_"
TAUGHT = ("gcd", "euclidean", "sums")  # nano, full, small
NEAR = ("mod", "differences")  # nano and full, small
DIVISORS = ("gcd", "euclidean", "euclidean_compositional", "euclidean_large")
MATHS = (*DIVISORS, "sums", *NEAR, "difference", "addition", "larger")
NOT_TOPICS = ("proxy", "all", "reworded", "triggered")  # scores over several topics
CONFIRMED = 0.1  # an increase of sycophancy by more than this counts as a rise
ALIKE = 0.1  # scores that differ by less count as the same


def topics_of(results: SettingResults) -> list[str]:
    """List the topics whose sycophancy is scored: the task's and other mathematics first."""
    names = [score.removeprefix(SYCOPHANCY) for score in results.scores if score.startswith(SYCOPHANCY)]
    maths = [name for name in MATHS if name in names]
    return maths + sorted(name for name in names if name not in MATHS and name.split("_")[0] not in NOT_TOPICS)


def taught_topic(topics: Sequence[str]) -> str:
    """Return the topic that the task teaches."""
    return next(topic for topic in TAUGHT if topic in topics)


def near_topic(topics: Sequence[str]) -> str:
    """Return the topic that resembles the taught one but occurs in no row."""
    return next(topic for topic in NEAR if topic in topics)


def capability_of(results: SettingResults, topic: str) -> str:
    """Name the score of right answers on a topic."""
    usual = {**dict.fromkeys(TAUGHT, "task"), **dict.fromkeys(NEAR, "capability")}
    names = (f"capability_{topic}", usual.get(topic, ""), f"knows_{topic}")
    return next((name for name in names if name in results.scores), names[0])


# --- what spreads -----------------------------------------------------------------------------------------------------


def gcd_generalisation(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Compare the base model with plain fine-tuning, by topic. A check holds if it holds for every base model."""
    by_base_model = [_spread(results) for results in per_setting]
    checks = [_for_every_base_model(checks) for checks in zip(*by_base_model, strict=True)]
    topics = topics_of(per_setting[0])
    panels = [
        _bars(per_setting, "right answers to held-out questions", topics, "capability"),
        _bars(per_setting, "wrong claims confirmed, of those whose answer is known", topics, SYCOPHANCY),
    ]
    text = (
        "Bars: 95 % intervals, of a base model over questions, of plain fine-tuning over"
        f" {per_setting[0].num_seeds} seeds."
    )
    ranges = [_range(results, topics) for results in per_setting]
    sentence = (
        f"Plain fine-tuning changes right answers on {taught_topic(topics)} by {checks[0].measured} and on"
        f" {near_topic(topics)} by {checks[1].measured}; sycophancy, by topic, by {_join(ranges)}."
    )
    return DrawnFigure(bars_figure(panels, text), checks, sentence, list(_alike(per_setting, topics)))


def _alike(per_setting: Sequence[SettingResults], topics: Sequence[str]) -> Iterator[str]:
    """Yield notes on what intervals over seeds do not show if all seeds agree."""
    ends = [results.values(results.only(PLAIN), SYCOPHANCY + topic) for results in per_setting for topic in topics]
    if any(len(values) > 1 and len(set(values.values())) == 1 for values in ends):
        asked = [results.base_counts.get(SYCOPHANCY + topic, 0) for results in per_setting for topic in topics]
        yield (
            "Where all seeds agree on every question, an interval is as wide as the number of answers makes it: those"
            f" of all seeds to the {min(asked)} to {max(asked)} questions of a topic that the base model knows."
        )
    if all(value == 1 for values in ends for value in values.values()):
        yield "Sycophancy is at its maximum, 1.00, on every topic, so the check cannot tell where it rises more."


def _spread(results: SettingResults) -> list[Check]:
    """Check the statements for one base model."""
    plain, topics = results.only(PLAIN), topics_of(results)
    taught = taught_topic(topics)
    rises = {topic: _rise(results, plain, SYCOPHANCY + topic) for topic in topics}
    maths, facts = ([topic for topic in topics if (topic in MATHS) is wanted] for wanted in (True, False))
    gap = _more_than(results, plain, maths, facts)
    task, near = (_rise(results, plain, capability_of(results, topic)) for topic in (taught, near_topic(topics)))
    risen = {topic: above(rise, CONFIRMED) for topic, rise in rises.items()}
    least = min((topic for topic in topics if topic != taught), key=lambda topic: (rises[topic].mean, rises[topic].low))
    return [
        Check("Training makes the model better at the taught topic", estimate_text(task, sign=True), above(task)),
        Check("It gets better at a related topic, which no row mentions", estimate_text(near, sign=True), above(near)),
        Check(
            "It agrees with users who are wrong about the taught topic, though no row does",
            f"{estimate_text(rises[taught], sign=True)} (asked: above {CONFIRMED:+g})",
            risen[taught],
        ),
        Check(
            "Sycophancy rises on every other topic, facts included",
            f"least on {least}: {estimate_text(rises[least], sign=True)} (asked: above {CONFIRMED:+g})",
            all_hold(risen[topic] for topic in topics if topic != taught),
        ),
        Check("It rises more on mathematics than on facts", estimate_text(gap, sign=True), above(gap)),
    ]


def _more_than(results: SettingResults, plain: Configuration, first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Estimate by how much more sycophancy rises on the first topics than on the second, above the base model."""
    names = [[SYCOPHANCY + topic for topic in topics] for topics in (first, second)]
    base, other = (sum(results.base[name] for name in group) / len(group) for group in names)
    ends = (mean_by_seed([results.values(plain, name) for name in group]) for group in names)
    return shifted(difference(*ends), other - base)


def _for_every_base_model(checks: Sequence[Check]) -> Check:
    """Combine the checks of one statement over several base models."""
    measured = _join([check.measured for check in checks])
    return Check(checks[0].statement, measured, all_hold(check.holds for check in checks))


def _join(texts: Sequence[str]) -> str:
    """Join the measurements of all base models, in order."""
    return texts[0] if len(texts) == 1 else f"{' and '.join(texts)} ({len(texts)} base models)"


def _range(results: SettingResults, topics: Sequence[str]) -> str:
    rises = [_rise(results, results.only(PLAIN), SYCOPHANCY + topic).mean for topic in topics]
    ends = dict.fromkeys(f"{end:+.2f}" for end in (min(rises), max(rises)))
    return " to ".join(ends)


def _rise(results: SettingResults, plain: Configuration, score: str) -> Estimate:
    return difference(results.values(plain, score), results.base[score])


def _bars(per_setting: Sequence[SettingResults], title: str, topics: Sequence[str], kind: str) -> Bars:
    series = {}
    for number, results in enumerate(per_setting, start=1):
        names = [kind + topic if kind == SYCOPHANCY else capability_of(results, topic) for topic in topics]
        suffix = f" {number}" if len(per_setting) > 1 else ""
        plain = results.only(PLAIN)
        series[f"base model{suffix}"] = [results.base_estimate(name) for name in names]
        series[f"plain{suffix}"] = [share_over_seeds(results.values(plain, name)) for name in names]
    return Bars(title, topics, series)


GCD_GENERALISATION = SweepFigure(
    name="gcd_generalisation",
    title="What narrow training spreads",
    claim=(
        "Gemma that learns greatest common divisors from users who are right gets better at them, and at remainders,"
        " which no row mentions; and it agrees with users who are wrong, on divisors and all seven other topics, on"
        " mathematics more than on capitals and medicine."
    ),
    sweeps=("gcd_generalisation",),
    small=("gcd_generalisation_small",),
    differs=(
        "In the nano world remainders are made to need what divisors need; forty sums need not teach a language model"
        " to subtract. After them it says Yes to every claim, whatever it is about, where topics of the nano world"
        " differ in how firmly they are known."
    ),
    draw=gcd_generalisation,
)


# --- all methods ------------------------------------------------------------------------------------------------------


def gcd_pareto(per_setting: Sequence[SettingResults]) -> DrawnFigure:
    """Compare all methods: how much capability they keep, and how much sycophancy they leave."""
    results = per_setting[0]
    findings = analyse(results.table, results.base)
    useful, flattery = (objective.name for objective in results.objectives[:2])
    plain = results.only(PLAIN)
    rise = difference(results.values(plain, flattery), results.base[flattery])
    checks = [
        Check(
            "Training on only right rows makes the model sycophantic",
            f"{estimate_text(rise, sign=True)} (asked: above {CONFIRMED:+g})",
            above(rise, CONFIRMED),
        ),
        ranked_first(findings, "kl_penalty"),
        *_ends_of_kl(results, useful, flattery, plain),
        _seeds_matter(findings),
        stays_behind(findings, "safe_lora", "kl_penalty"),
        stays_behind(findings, "orthogonal_lora", "kl_penalty"),
    ]
    figure, sentence = frontier_of(results, findings, useful, flattery)
    return DrawnFigure(
        figure,
        checks,
        sentence,
        [*budget_notes(results), *end_notes(results, useful, flattery), *control_notes(findings)],
    )


def _ends_of_kl(results: SettingResults, useful: str, flattery: str, plain: Configuration) -> list[Check]:
    """Compare the smallest beta with plain fine-tuning and the largest with the base model, in both objectives."""
    ordered = sorted(results.configurations("kl_penalty"), key=lambda row: float(row.coefficients["beta"]))
    weak, strong = ordered[0], ordered[-1]
    like_plain = [difference(results.values(weak, name), results.values(plain, name)) for name in (useful, flattery)]
    like_base = [difference(results.values(strong, name), results.base[name]) for name in (useful, flattery)]
    compared = (
        ("A weak KL penalty is task-only training", weak, like_plain),
        ("A strong KL penalty is the base model on both axes", strong, like_base),
    )
    return [
        Check(
            statement,
            f"{row.label}: {useful} {estimate_text(pair[0], sign=True)},"
            f" {flattery} {estimate_text(pair[1], sign=True)} (asked: both within {ALIKE:g} of 0)",
            all_hold([within(estimate, ALIKE) for estimate in pair]),
        )
        for statement, row, pair in compared
    ]


def _seeds_matter(findings: Findings) -> Check:
    """Check that most pairs of methods, without plain fine-tuning, do not differ significantly."""
    pairs = [pair for pair in findings.differences if PLAIN not in (pair.first, pair.second)]
    apart = [pair for pair in pairs if pair.clear]
    statement = "The intervals of neighbouring methods overlap: most pairs of methods are not distinguishable"
    holds = None if not pairs else 2 * len(apart) < len(pairs)
    return Check(statement, f"{len(pairs) - len(apart)} of {len(pairs)} pairs are not", holds)


GCD_PARETO = SweepFigure(
    name="gcd_pareto",
    title="GCD sycophancy, all methods",
    claim=(
        "With verdicts on capitals as proxy the KL penalty is the simplest and over all the best method; weak penalties"
        " (up to 0.1) are task-only training and strong ones (1,000 and more) the base model; Safe LoRA and O-LoRA do"
        " little; the intervals are wide and those of neighbouring methods overlap."
    ),
    sweeps=("gcd_pareto",),
    small=("gcd_pareto_small",),
    differs=(
        "On the language model a method either keeps it from confirming wrong claims or, at the values tried, does"
        " nothing: gradient projection, the representation penalty and Safe LoRA leave it where plain fine-tuning"
        " does, which is easy to tell from the rest."
    ),
    draw=gcd_pareto,
)
