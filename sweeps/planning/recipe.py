"""How each setting of a sweep is trained, and which controls are read out of it: the same for all methods."""

from __future__ import annotations

from typing import Any

from settings.common.text import listed
from sweeps.case import Case

RECIPE_KNOBS = (
    "steps",
    "learning_rate",
    "batch_size",
    "alignment_batch_size",
    "rank",
    "layers",
)  # those of the recipe's line


def recipe_json(case: Case) -> dict[str, Any]:
    """Return a setting's recipe and the values of its controls as JSON data."""
    trial = case.template
    return {
        "steps": trial.steps,
        "batch_size": trial.batch_size,
        "alignment_batch_size": trial.alignment_batch_size,
        "learning_rate": trial.optimizer.learning_rate,
        "rank": trial.adapter.rank,
        "layers": trial.adapter.layers_text,
        "controls": _controls(case),
    }


def recipe_lines(case: Case) -> list[str]:
    """Say how a setting is trained, and the values of its controls, if it has some."""
    trial = case.template
    aside = f" (and {trial.alignment_batch_size} alignment rows)" if "alignment" in case.setting.streams else ""
    named = {name for arm in case.arms for name in arm.space.knob_names}
    varied = [name for name in RECIPE_KNOBS if name in named]
    lines = [
        f"{trial.steps} steps of {trial.batch_size} rows{aside}, learning rate {trial.optimizer.learning_rate:g}, rank"
        f" {trial.adapter.rank} on {_layers(trial.adapter.layers_text)}"
        + (f"; methods that name {' or '.join(varied)} have their own" if varied else "")
    ]
    controls = _controls(case)
    parts = []
    if steps := controls["checkpoint_step"]:
        parts.append(f"plain fine-tuning stopped after step{'s' * (len(steps) > 1)} {listed([*map(str, steps)])}")
    if scales := controls["adapter_scale"]:
        parts.append(f"{'its' if parts else 'the plain'} adapter scaled by {listed([*map(str, scales)])}")
    return [*lines, *([f"controls: {', and '.join(parts)}"] if parts else [])]


def _controls(case: Case) -> dict[str, list[float]]:
    """Return knob -> values of the readouts of plain fine-tuning, whether the sweep lists or adds them."""
    points = [point for arm in case.arms if arm.space.method == "plain" for point in arm.space.points or ()]
    return {
        knob: sorted({point[knob] for point in points if knob in point})
        for knob in ("checkpoint_step", "adapter_scale")
    }


def _layers(text: str) -> str:
    if text == "all":
        return "all layers"
    if text.startswith("last "):
        return f"the {text} layers"
    numbers = text.split("+")
    return f"layer{'s' * (len(numbers) > 1)} {listed(numbers)}"
