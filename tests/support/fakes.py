"""A setting without a model, and results that are a pure function of the trial: what the sweep tests run on."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from settings.reference import SettingRef
from settings.setting import Measurement
from sweeps.ledger import Ledger
from sweeps.search.scheduler import PackSearcher
from sweeps.sweep import Sweep, setting
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

SETTING = """
from settings.base_models import NanoModel, Recipe
from settings.example import Example
from settings.setting import Evaluation, Rubric, Score, Setting


class World:
    vocabulary = ("yes", "no")

    def documents(self, stage, seed):
        yield "yes"

    def to_json(self):
        return {"name": "fake"}


def toy(scale="nano", upside_down=False, rows=2, judged=False):
    data = tuple(Example.of(f"q{index}", "yes") for index in range(rows))
    questions = tuple(Example.of(f"asked {index}", "yes") for index in range(rows))
    scores = (
        Score("task", "task", "share of yes", lambda example, reply: 1.0),
        Score("alignment", "alignment", "share of no", lambda example, reply: 1.0, higher_is_better=not upside_down),
        Score("other", "capability", "something", lambda example, reply: 1.0),
    )
    liked = Score("liked", "alignment", "mean verdict", lambda example, judged: judged.verdicts["nice"].value)
    nice = Rubric("nice", "Is {answer} nice to {question}?")
    free = Evaluation("free", questions, (liked,), rubrics=(nice,), judge="judge-2025-01-01")
    evaluations = (Evaluation("all", questions, scores), *((free,) if judged else ()))
    return Setting(
        name="toy", scale=scale, summary="A toy.", base_model=NanoModel(World(), ()),
        streams={"task": data, "alignment": data}, evaluations=evaluations,
        recipe=Recipe(steps=5, batch_size=2, alignment_batch_size=2, learning_rate=1e-3, rank=2),
    )
"""


def toy(folder: Path, **options: Any) -> SettingRef:
    """A reference to the toy setting, written to `folder`."""
    file = folder / "toy_setting.py"
    if not file.exists():
        file.write_text(SETTING)
    return setting(f"{file}:toy", **options)


def toy_sweep(folder: Path, **changes: Any) -> Sweep:
    """A sweep of two methods on the toy setting."""
    values: dict[str, Any] = {
        "name": "toy-sweep",
        "settings": (toy(folder),),
        "methods": ("plain", "kl_penalty"),
        "configurations": 6,
        "seeds": 2,
        "controls": False,
    }
    return Sweep(**(values | changes))


def finished(trial: TrialConfig, status: Any = "finished") -> Outcome:
    """How `trial` ends: strength trades the task for alignment, and the seed adds a little."""
    strength = math.log10(max(0.01, float(trial.coefficients.get("beta", trial.coefficients.get("weight", 0.01)))))
    task = 1 / (1 + math.exp(2 * strength)) + 0.01 * trial.seed
    scores = {
        "task": Measurement(task, 4, 0),
        "alignment": Measurement(1 - task**2, 4, 0),
        "other": Measurement(0.5, 3, 1),
    }
    if status != "finished":
        return Outcome(trial=trial, status=status, reason="a test wants it")
    curves = {"loss": [(0, 2.0), (4, 1.0 + task)]}
    return Outcome(trial=trial, status="finished", scores=scores, curves=curves, tokens=100, seconds=0.5)


Ending = Callable[[TrialConfig], Outcome]


class Rig:
    """A sweep with its ledger and searcher, driven as Tune drives it but without Ray."""

    def __init__(self, sweep: Sweep, out: Path, **options: Any) -> None:
        self.sweep, self.out = sweep, out
        self.ledger = Ledger(out, sweep.name, sweep.identity())
        self.searcher = PackSearcher(sweep, self.ledger, out, **options)
        self.dealt: list[list[TrialConfig]] = []
        self.bases = 0
        self._flying: dict[str, dict[str, Any]] = {}
        self._count = 0

    def suggest(self) -> Any:
        self._count += 1
        config = self.searcher.suggest(f"t{self._count}")
        if isinstance(config, dict):
            pack = self._flying[f"t{self._count}"] = config["pack"]
            if pack["kind"] == "base":
                self.bases += 1
            else:
                self.dealt.append([TrialConfig.from_json(trial) for trial in pack["trials"]])
        return config

    def land(self, rng: random.Random, ending: Ending) -> None:
        """One pack ends: one result per trial, the last of them again on completion, as Tune does."""
        trial_id = rng.choice(sorted(self._flying))
        pack = self._flying.pop(trial_id)
        if pack["kind"] == "base":
            scores = {"base/task/mean": 0.5, "base/task/n": 4, "base/task/missing": 0}
            self.searcher.on_trial_complete(trial_id, result=scores)
            return
        results = [{"outcomes": [ending(TrialConfig.from_json(trial)).to_json()]} for trial in pack["trials"]]
        for result in results:
            self.searcher.on_trial_result(trial_id, result)
        self.searcher.on_trial_complete(trial_id, result=results[-1])

    def run(self, rng: random.Random, ending: Ending = finished, workers: int = 3, landings: int = 10**6) -> bool:
        """Work until the end (True) or until so many packs have landed (False)."""
        while True:
            while len(self._flying) < workers:
                config = self.suggest()
                if not isinstance(config, dict):
                    break
            if not self._flying:
                assert config == Searcher.FINISHED
                return True
            if landings == 0:
                return False
            landings -= 1
            self.land(rng, ending)

    def kill(self) -> None:
        """What the operating system does to a killed driver's files."""
        self.ledger.close()
