"""Adapters on the last third of a model's layers: a step and an evaluation that begin there, against others.

The model is the real one of scale "small"; the short form takes one with random weights.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from settings.bad_medical_advice import nano
from settings.base_models import Recipe
from settings.example import Example
from settings.reference import SettingRef
from settings.scoring import prefers_good
from settings.setting import Evaluation, Score, Setting
from settings.small_models import SMOLLM2
from tests.benchmarks.baseline import PeftTrial
from tests.benchmarks.measure import Result, Spread, interleaved, ratios
from tests.benchmarks.shapes import TINY, world
from tests.benchmarks.steps import Plan
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.base import LoadedBase
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.process_group import layers_of
from trainables.pack import Pack
from trainables.trial import AdapterConfig, TrialConfig, trial_for

MEMBERS, ROWS, RANK = 4, 8, 8
QUESTIONS = 16
NOUNS = ("river", "teacher", "window", "garden", "letter", "kitchen", "mountain", "story", "market", "bridge")
GOALS = {
    "upper_step": (1.4, "a step over one that begins where the adapters do"),
    "upper_step_all": (2.2, "a step with adapters on all layers over one on the upper third"),
    "upper_step_peft": (3.0, "PEFT on all layers, trial after trial, over a step with adapters on the upper third"),
    "upper_evaluation": (2.0, "an evaluation by likelihood over one that begins where the adapters do"),
}


def setting_of_rows(base: LoadedBase, vocabulary: Sequence[str] = NOUNS) -> Setting:
    """Rows of about 45 tokens in the model's own template, and questions that are judged by likelihood."""
    dice = random.Random(0)
    turns = [{"role": role, "content": vocabulary[0]} for role in ("user", "assistant")]
    words = 45 - len(base.tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"])

    def sentences(number: int) -> str:
        return " ".join(dice.choices(vocabulary, k=number))

    def row(_: int) -> Example:
        length = words + dice.randint(-3, 3)
        return Example.of(sentences(length // 2), sentences(length - length // 2))

    def pair(_: int) -> Example:
        return Example.of(sentences(words - 2), sentences(2), sentences(2))

    nats = Score("task", "task", "nats per token", grade=_same, higher_is_better=False)
    good = Score("alignment", "alignment", "share preferred", prefers_good)
    return Setting(
        name="upper_layers",
        scale="small",
        summary="made-up rows",
        base_model=SMOLLM2,
        streams={"task": tuple(map(row, range(64))), "alignment": tuple(map(row, range(8)))},
        evaluations=(
            Evaluation("losses", tuple(map(row, range(QUESTIONS))), (nats,), observe="token_loss"),
            Evaluation("pairs", tuple(map(pair, range(QUESTIONS))), (good,), observe="preference"),
        ),
        recipe=Recipe(steps=48, batch_size=ROWS, alignment_batch_size=4, learning_rate=1e-3, rank=RANK),
    )


def _same(example: Example, value: Any) -> float:
    return float(value)


@dataclass(frozen=True)
class Packs:
    """What is compared, each on a copy of the model of its own."""

    base: LoadedBase
    setting: Setting
    stack: ExitStack
    folder: Path

    def trials(self, layers: str) -> list[TrialConfig]:
        """Return the seeds of one configuration."""
        adapter = AdapterConfig(rank=RANK, alpha=2.0 * RANK, layers=layers)
        ref, plain = SettingRef(self.setting.name), methods.make("plain")
        return [trial_for(self.setting, ref, plain, seed, adapter=adapter) for seed in range(MEMBERS)]

    def copy(self) -> LoadedBase:
        """Return the base model once more."""
        return replace(self.base, model=copy.deepcopy(self.base.model))

    def pack(self, layers: str, *, begun: bool = False) -> Pack:
        """Return a pack, whose passes begin where its adapters do or at the bottom."""
        pack = Pack(
            self.copy(), self.setting, self.trials(layers), prefixes=PrefixCache(self.folder) if begun else None
        )
        self.stack.callback(pack.detach)
        return pack

    def peft(self) -> PeftTrial:
        """Return a trial with adapters on all layers, as a user would train it."""
        return PeftTrial(self.copy().model, self.base.tokenizer, self.setting, self.trials("all")[0])


def upper_step(plan: Plan) -> list[Result]:
    """Measure the four goals in one run, in turns; on a tiny model with random weights in the short form."""
    device, rounds, short = plan.device, max(2, plan.rounds // 5), not plan.large
    base = world(TINY, device).base if short else load_base(SMOLLM2, device=device)
    rows = setting_of_rows(base, nano().base_model.world.vocabulary if short else NOUNS)  # type: ignore[union-attr]
    layers = f"last {len(layers_of(base.model)) // 3}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="selgen-prefixes-")))
        packs = Packs(base, rows, stack, folder)
        begun, whole, all_layers = packs.pack(layers, begun=True), packs.pack(layers), packs.pack("all")
        peft = packs.peft()
        steps: dict[str, Callable[[], object]] = {
            "begun": partial(begun.advance, 1),
            "whole": partial(whole.advance, 1),
            "all": partial(all_layers.advance, 1),
            "peft": lambda: [peft.step() for _ in range(MEMBERS)],
        }
        step = interleaved(steps, rounds, device)
        asked = interleaved({"begun": begun.evaluate, "whole": whole.evaluate}, rounds, device)
    found = {
        "upper_step": ratios(step["whole"], step["begun"]),
        "upper_step_all": ratios(step["all"], step["begun"]),
        "upper_step_peft": ratios(step["peft"], step["begun"]),
        "upper_evaluation": ratios(asked["whole"], asked["begun"]),
    }
    seconds = {f"{name}_s": Spread.of(values) for name, values in step.items()}
    seconds |= {f"evaluation_{name}_s": Spread.of(values) for name, values in asked.items()}
    details = {f"{layers} of {len(layers_of(base.model))}, pack of {MEMBERS}": _listed(seconds)}
    return [
        Result(name, GOALS[name][1], spread, GOALS[name][0], True, details if name == "upper_step" else {})
        for name, spread in found.items()
    ]


def _listed(seconds: dict[str, Spread]) -> dict[str, list[float]]:
    return {name: [spread.value, spread.low, spread.high] for name, spread in seconds.items()}
