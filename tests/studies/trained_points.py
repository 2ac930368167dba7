"""Trainings and evaluations on a setting in one process, each done once: a file of JSON lines keeps what it gave.

Killed at any time, the same command goes on. All seeds of a configuration are one pack, whether it trains or only
evaluates, so that seconds of one are comparable with those of another: of the processor, on one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from settings.common.files import cache_root
from settings.reference import SettingRef
from settings.setting import Measurement, Score, Setting
from trainables import methods
from trainables.engine.base import LoadedBase
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.peft_format import from_peft
from trainables.folder import SweepFolder
from trainables.outcome import Outcome
from trainables.pack import Pack
from trainables.projections import joined
from trainables.store import AdapterStore
from trainables.trial import TrialConfig, trial_for

Line = dict[str, Any]
TO_THE_END = 10**6


@dataclass(frozen=True)
class Point:
    """What is evaluated: a configuration, or a blend of two.

    Attributes:
        method: its name; "" is the untouched base model.
        values: coefficients of the method.
        knobs: what is evaluated of the training, by the names of trial knobs.
        blend: another finished training, and the share of the first in dW = share dW_1 + (1 - share) dW_2.
    """

    method: str
    values: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    blend: tuple[Point, float] | None = None

    @property
    def key(self) -> str:
        """The point as text; the same for equal points."""
        other = [self.blend[0].key, self.blend[1]] if self.blend else []
        return json.dumps([self.method, dict(self.values), dict(self.knobs), *other], sort_keys=True)


@dataclass(frozen=True)
class Measured:
    """What a point gave.

    Attributes:
        scores: of each seed, by name; None where the trial has none.
        seconds: of its evaluation, all seeds.
    """

    scores: Sequence[Mapping[str, Measurement] | None]
    seconds: float


@dataclass(frozen=True)
class Training:
    """What a training took, all seeds."""

    tokens: int
    seconds: float


class TrainedPoints:
    """The points of a setting, measured when they are first asked for.

    Args:
        ref, setting, base: what is learned.
        objectives: the scores that matter.
        seeds: trains that many, from 0.
        out: the file of JSON lines. Adapters are kept beside it.
        options: of every trial, where they are not the setting's own.
    """

    def __init__(
        self,
        ref: SettingRef,
        setting: Setting,
        base: LoadedBase,
        objectives: Sequence[Score],
        seeds: int,
        out: Path,
        options: Mapping[str, Any],
    ) -> None:
        self.ref, self.setting, self.objectives, self.seeds = ref, setting, tuple(objectives), seeds
        self._base, self._out, self._options = base, out, dict(options)
        self._folder = SweepFolder(out.with_suffix(".kept"))
        self._store = AdapterStore(self._folder)
        self._references = ReferenceCache(self._folder.path / "references")
        self._prefixes = PrefixCache(cache_root() / "prefixes")
        self._lines = self._read()

    @property
    def steps(self) -> int:
        """Updates of a training."""
        return self.trials(Point("plain"))[0].steps

    def _read(self) -> dict[str, Line]:
        """Return what the file has, by its keys. A line that a kill has cut is left out."""
        lines = self._out.read_text(encoding="utf-8").split("\n") if self._out.is_file() else []
        if lines and lines[-1]:
            self._out.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
        return {line["key"]: line for line in map(json.loads, filter(None, lines[:-1]))}

    def _key(self, what: str, name: str) -> str:
        return json.dumps([self.setting.name, self.seeds, self._options, what, name])

    def _write(self, key: str, **values: Any) -> None:
        self._lines[key] = {"key": key, **values}
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._lines[key]) + "\n")

    def trials(self, point: Point) -> list[TrialConfig]:
        """Return the trial of each seed of a point that is no blend."""
        method, options = methods.make(point.method, dict(point.values)), {**self._options, **point.knobs}
        return [trial_for(self.setting, self.ref, method, seed, **options) for seed in range(self.seeds)]

    def trainings(self, point: Point) -> dict[str, list[TrialConfig]]:
        """Return what has to be trained for a point: the configuration's id -> the trial of each seed."""
        needed = {} if point.blend is None else self.trainings(point.blend[0])
        if not point.method:
            return needed
        trials = [trial.full_training for trial in self.trials(point)]
        return {trials[0].configuration_id: trials, **needed}

    def cost(self, configuration_id: str) -> Training:
        """Return what a finished training took."""
        line = self._lines[self._key("train", configuration_id)]
        return Training(line["tokens"], line["seconds"])

    def measure(self, points: Iterable[Point], snapshots: Sequence[int] = ()) -> list[Measured]:
        """Return what points gave; train and evaluate what is missing.

        Args:
            snapshots: updates after which adapters in training are kept, for points that stop there.
        """
        listed = list(points)
        for point in listed:
            for identity, trials in self.trainings(point).items():
                if self._key("train", identity) not in self._lines or any(not self._kept(trial) for trial in trials):
                    self._train(identity, trials, snapshots)
        return [self._measured(point) for point in listed]

    def _kept(self, trial: TrialConfig) -> bool:
        """Say whether a training's adapter is there, or is known not to be: one that diverged has none."""
        line = self._lines[self._key("train", trial.configuration_id)]
        return self._store.find(trial) is not None or trial.seed in line["unfinished"]

    def _train(self, identity: str, trials: Sequence[TrialConfig], snapshots: Sequence[int]) -> None:
        began = time.process_time()
        options: dict[str, Any] = {"store": self._store, "references": self._references, "snapshots": snapshots}
        options["prefixes"] = self._prefixes
        pack = Pack(self._base, self.setting, trials, **options)
        try:
            pack.advance(TO_THE_END)
            trained = time.process_time()
            outcomes = pack.finish(self._folder).outcomes
        finally:
            pack.detach()
        ended = time.process_time()
        unfinished = [outcome.trial.seed for outcome in outcomes if outcome.status != "finished"]
        tokens = sum(outcome.cost.tokens for outcome in outcomes)
        scores = [_listed(outcome.scores) if outcome.status == "finished" else None for outcome in outcomes]
        self._write(self._key("evaluate", trials[0].configuration_id), seconds=ended - trained, scores=scores)
        self._write(self._key("train", identity), tokens=tokens, seconds=trained - began, unfinished=unfinished)

    def _measured(self, point: Point) -> Measured:
        plain = point.blend is None and point.method
        key = self._key("evaluate", self.trials(point)[0].configuration_id if plain else point.key)
        if key not in self._lines:
            began = time.process_time()
            scores = self._evaluate(point)
            self._write(key, seconds=time.process_time() - began, scores=scores)
        line = self._lines[key]
        scores = [None if one is None else {name: Measurement(*each) for name, each in one.items()}
                  for one in line["scores"]]  # fmt: skip
        return Measured(scores, line["seconds"])

    def _evaluate(self, point: Point) -> list[Mapping[str, Any] | None]:
        """Evaluate a point whose trainings are there, all seeds in one pack."""
        if not point.method:
            trials = self.trials(Point("plain", knobs={"adapter_scale": 0.0}))[:1]
        else:
            trials = self.trials(point)
        sound = [trial for trial in trials if self._is_sound(trial, point)]
        store = self._store if point.blend is None else None
        pack = Pack(self._base, self.setting, sound, store=store, prefixes=self._prefixes)
        try:
            if point.blend is None:
                pack.edit_adapters()
            else:
                self._blend(pack, *point.blend)
            evaluated = pack.evaluate()
        finally:
            pack.detach()
        found = {trial.seed: _listed(evaluated[at].scores) for at, trial in enumerate(sound) if at in evaluated}
        return [found.get(0 if not point.method else seed) for seed in range(self.seeds)]

    def _is_sound(self, trial: TrialConfig, point: Point) -> bool:
        if not point.method:
            return True
        ends = [trial.full_training]
        if point.blend is not None:
            ends.append(self.trials(point.blend[0])[trial.seed].full_training)
        return all(self._store.find(end) is not None for end in ends)

    def _blend(self, pack: Pack, other: Point, share: float) -> None:
        """Let the blend of its own training and another stand in for each member's adapter."""
        seconds = self.trials(other)
        for index, trial in enumerate(pack.trials):
            layers, ends = pack.adapters.layers_of(index), []
            for end, weight in ((trial, share), (seconds[trial.seed], 1 - share)):
                saved = self._store.find(end)
                assert saved is not None, end
                factors = from_peft(layers, saved.tensors, saved.config)
                ends.append([each.to(pack.adapters.theta_KP).times(weight) for each in factors])
            pack.adapters.stand_in(index, [joined(*pair) for pair in zip(*ends, strict=True)])

    def outcomes(self, point: Point) -> list[Outcome]:
        """Return what a search is told of a point."""
        (measured,) = self.measure([point])
        pairs = zip(self.trials(point), measured.scores, strict=True)
        return [
            Outcome(trial=trial, status="invalid" if scores is None else "finished", scores=scores or {})
            for trial, scores in pairs
        ]


def _listed(scores: Mapping[str, Measurement]) -> dict[str, list[float]]:
    return {name: [each.mean, each.n, each.missing, each.refused] for name, each in scores.items()}
