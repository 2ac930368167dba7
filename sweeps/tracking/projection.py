"""What MLflow is told about a sweep and its trials: tags, parameters and metrics, as pure functions of both."""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from analysis.tables import schema
from settings.reference import setting_label, setting_of
from sweeps.budget import SECONDS_PER_HOUR
from sweeps.description import describe_score
from sweeps.sweep import Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from analysis.findings.frontier import Estimate, FrontierPoint

Point = tuple[str, float, int, int]  # a metric's name, value, time in milliseconds and step
PACKAGES = ("ray", "torch", "transformers", "peft", "optuna", "mlflow", "numpy")
LONGEST_REASON, LONGEST_PARAM = 1000, 500  # characters


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    """Return the tags of a sweep's run: objectives, scores, data, seeds, and the code and packages that run it."""
    objectives = [asdict(describe_score(score)) for score in sweep.cases[0].objectives]
    data = {case.label: case.template.data for case in sweep.cases}
    scores = {
        score.name: [score.kind, score.higher_is_better, *score.ends]
        for ref in sweep.settings
        for score in setting_of(ref).all_scores
    }
    return {
        schema.OBJECTIVES: json.dumps(objectives),
        schema.SCORES: json.dumps(scores),
        schema.DATA: ", ".join(f"{label} {digest}" if len(data) > 1 else digest for label, digest in data.items()),
        schema.SEEDS: _listing(map(str, sweep.seed_values)),
        schema.CONFIGURATIONS: str(sum(arm.budget for arm in sweep.arms)),
        schema.VERSION: version_of("selgen"),
        schema.COMMIT: _commit(),
        schema.PACKAGES: ", ".join(f"{name} {version_of(name)}" for name in PACKAGES),
    }


def configuration_tags(sweep: Sweep, trial: TrialConfig) -> dict[str, str]:
    """Return the tags that a configuration and its trials share."""
    return {
        schema.CONFIGURATION: trial.configuration_id,
        schema.METHOD: trial.method.title,
        schema.LABEL: sweep.label_of(trial),
        schema.COEFFICIENTS: json.dumps(sweep.coefficients_of(trial)),
        schema.TRAINING: trial.read_from,
        schema.SETTING: setting_label(trial.setting),
    }


def outcome_tags(outcome: Outcome) -> dict[str, str]:
    """Return the tags that say how a trial ended."""
    counts = {name: [score.n, score.missing, score.refused] for name, score in outcome.scores.items()}
    tags = {schema.STATUS: outcome.status, schema.COUNTS: json.dumps(counts)}
    return tags | ({schema.REASON: short_reason(outcome)} if outcome.reason else {})


def short_reason(outcome: Outcome) -> str:
    """Return why a trial did not finish, cut to what a tag holds; "" if it finished."""
    return (outcome.reason or "")[:LONGEST_REASON]


def sweep_params(sweep: Sweep) -> dict[str, str]:
    """Return the parameters of a sweep's run."""
    recipe = _recipe(sweep.cases[0].template)
    return recipe | {
        "setting": _listing(case.label for case in sweep.cases),
        "methods": _listing(space.method for space in sweep.spaces),
        "search_seed": str(sweep.search.seed),
        "round_size": str(sweep.search.round_size),
    }


def _listing(names: Iterable[str]) -> str:
    """Return names as a parameter can show them: if there are too many, the first ones and their number."""
    listed = list(names)
    text = ", ".join(listed)
    return text if len(text) <= LONGEST_PARAM else f"{text[:LONGEST_PARAM]}... ({len(listed)} in all)"


def shortened(markdown: str, longest: int) -> str:
    """Cut a description to `longest` characters: whole lines, and a note on where the rest is."""
    if len(markdown) <= longest:
        return markdown
    rest = "\n\n... more than a description can hold: see the artifacts of this run."
    return markdown[: longest - len(rest)].rpartition("\n")[0] + rest


def configuration_params(trial: TrialConfig) -> dict[str, str]:
    """Return the parameters of a configuration: coefficients and recipe."""
    coefficients = {name: str(value) for name, value in trial.coefficients.items()}
    return coefficients | _recipe(trial) | {"method": trial.method.name}


def trial_params(trial: TrialConfig) -> dict[str, str]:
    """Return the parameters of a trial: its configuration's, and the seed."""
    return configuration_params(trial) | {"seed": str(trial.seed)}


def _recipe(trial: TrialConfig) -> dict[str, str]:
    return {
        "learning_rate": f"{trial.optimizer.learning_rate:g}",
        "schedule": trial.optimizer.schedule,
        "rank": str(trial.adapter.rank),
        "alpha": f"{trial.adapter.alpha:g}",
        "targets": trial.adapter.targets_text,
        "layers": trial.adapter.layers_text,
        "steps": str(trial.steps),
        "checkpoint_step": str(trial.updates),
        "adapter_scale": f"{trial.adapter_scale:g}",
        "decoding_mix": f"{trial.decoding_mix:g}",
        "batch_size": str(trial.batch_size),
        "alignment_batch_size": str(trial.alignment_batch_size),
        "max_length": str(trial.max_length),
    }


def progress_points(step: int, metrics: Mapping[str, float], now: int) -> list[Point]:
    """Return training metrics of one step."""
    return [(f"{schema.TRAIN}{name}", value, now, step) for name, value in metrics.items()]


def outcome_points(outcome: Outcome) -> list[Point]:
    """Return a trial's curves, finite scores and cost."""
    now, last = milliseconds(), outcome.trial.updates
    curves = [
        (f"{schema.TRAIN}{name}", value, now, step) for name, curve in outcome.curves.items() for step, value in curve
    ]
    scores = [
        (f"{schema.EVAL}{name}", score.mean, now, last)
        for name, score in outcome.scores.items()
        if math.isfinite(score.mean)
    ]
    cost = [
        (schema.TOKENS, float(outcome.cost.total_tokens), now, last),
        (schema.SECONDS, outcome.cost.total_seconds, now, last),
    ]
    return [*curves, *scores, *cost]


def cost_points(outcome: Outcome, sweep: Sweep) -> list[Point]:
    """Return what a trial costs, including what it builds on: hours of its pack's resources, and their dollars.

    A judge's charges are not included: verdicts that several trials share are paid once.
    """
    now, last = milliseconds(), outcome.trial.updates
    hours, execution = outcome.cost.total_seconds / SECONDS_PER_HOUR, sweep.execution
    gpu_hours, price = hours * execution.gpus_per_pack, sweep.budget and sweep.budget.dollars_per_gpu_hour
    points = [(schema.GPU_HOURS, gpu_hours), (schema.CORE_HOURS, hours * execution.cpus_per_pack)]
    points += [(schema.DOLLARS, gpu_hours * price)] if price else []
    return [(name, value, now, last) for name, value in points if value]


def counts_in_means(outcome: Outcome, objectives: Sequence[str]) -> bool:
    """Return whether a seed counts in the means of its configuration, by the rule of `TrialRecord.counted_for`."""
    return outcome.status == "finished" and all(
        name in outcome.scores and math.isfinite(outcome.scores[name].mean) for name in objectives
    )


def configuration_points(finished: Sequence[Outcome]) -> list[Point]:
    """Return the mean of each score over a configuration's finished seeds, and their number.

    Scores are at step 0: MLflow draws metrics without a later step as bars, not as curves of one point.
    """
    columns: dict[str, list[float]] = {}
    for outcome in finished:
        for name, score in outcome.scores.items():
            if math.isfinite(score.mean):
                columns.setdefault(name, []).append(score.mean)
    now, count = milliseconds(), len(finished)
    means = [(name, fmean(column), now, 0) for name, column in columns.items()]
    return [*means, (schema.NUM_SEEDS, float(count), now, count)]


def frontier_points(point: FrontierPoint, others: Mapping[str, Estimate]) -> list[Point]:
    """Return a configuration's means and intervals, the cost of its trials, and how likely it is on the frontier.

    Args:
        others: estimates of scores that are not objectives.
    """
    values = {schema.P_FRONT: point.p_front, schema.TOKENS: point.tokens, schema.SECONDS: point.seconds}
    for name, estimate in {**others, **point.scores}.items():
        values |= {name: estimate.mean, f"{name}{schema.LOW}": estimate.low, f"{name}{schema.HIGH}": estimate.high}
    now = milliseconds()
    return [(name, value, now, 0) for name, value in values.items() if math.isfinite(value)]


def milliseconds() -> int:
    """Return the time as MLflow wants it."""
    return int(time.time() * 1000)


def version_of(package: str) -> str:
    """Return the version of an installed package; "unknown" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """Return the commit of this code if it runs from a repository, with "+" if files differ from it."""
    folder = str(Path(__file__).parent)
    try:
        command = ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
