"""Export a configuration of a sweep for other tools: a PEFT adapter or a merged model, with a model card.

Only merging needs torch.

Shape legend: S seeds, M objectives.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings.frontier import FrontierPoint, frontier
from analysis.tables.loaded_sweep import LoadedSweep
from settings.common.errors import UserError, did_you_mean
from settings.common.files import remove, replacing
from settings.reference import SettingRef, setting_of
from settings.setting import Setting
from sweeps.names import folder_of
from sweeps.results.from_ledger import LedgerReader, is_readable
from trainables.folder import SweepFolder

CONFIG, WEIGHTS, EDITS, CARD = "adapter_config.json", "adapter_model.safetensors", "edits.safetensors", "README.md"


@dataclass(frozen=True)
class Exported:
    """An adapter of a sweep, with all the facts for its card.

    Attributes:
        sweep, output: the sweep and output root it comes from.
        loaded: the numbers of its setting.
        point: the configuration, with its intervals.
        seed: the seed of the adapter.
        outcome: how the trial ended, as in the ledger.
        directory: the adapter's directory in the sweep's folder.
        setting: the setting, as it is built now.
    """

    sweep: str
    output: Path
    loaded: LoadedSweep
    point: FrontierPoint
    seed: int
    outcome: Mapping[str, Any]
    directory: Path
    setting: Setting

    @property
    def title(self) -> str:
        """Method and label, as tables write them."""
        return title_of(self.point)

    @property
    def adapter_config(self) -> dict[str, Any]:
        """PEFT's configuration of the adapter."""
        config: dict[str, Any] = json.loads((self.directory / CONFIG).read_text(encoding="utf-8"))
        return config

    @property
    def base_model(self) -> str:
        """The Hub id or directory of the base model."""
        return str(self.adapter_config["base_model_name_or_path"])

    @property
    def has_edits(self) -> bool:
        """Whether edits of hidden states belong to the adapter, which PEFT's files cannot hold."""
        return (self.directory / EDITS).is_file()

    @property
    def mixed(self) -> float:
        """Lambda of the decoding mix that was scored, which no weights can hold; 1 means only the adapter."""
        return float(self.outcome["trial"].get("decoding_mix", 1.0))

    @property
    def data_changed(self) -> bool:
        """Whether the setting's rows or questions on this machine differ from those of the trial."""
        return bool(self.setting.fingerprint() != self.outcome["trial"]["data"])


def title_of(point: FrontierPoint) -> str:
    """Return a configuration as tables write it, e.g. "kl_penalty beta=10"."""
    return f"{point.method} {point.label}".strip()


def find_adapter(sweep: str, configuration: str, output: Path, setting: str | None, seed: int | None) -> Exported:
    """Find the adapter of a configuration. If there is none, raise UserError that says what to do.

    Args:
        configuration: as tables write it, or its id.
        setting: which of several: its label, or a part of it.
        seed: the trial's seed; None takes the one whose scores are nearest to the configuration's mean.
    """
    folder = folder_of(sweep, output)
    if not is_readable(folder):
        raise UserError(f"there is no sweep {sweep!r} under {output}: adapters are in the folder of a sweep")
    reader = LedgerReader.open(folder)
    loaded = reader.load(setting)
    points = [each for each in frontier(loaded.table, base_scores=loaded.base_scores) if each.seeds]
    point = _configuration(points, configuration, sweep, output)
    outcomes = {
        candidate: outcome
        for candidate in loaded.table.seeds
        if (outcome := reader.ledger.outcomes.get(reader.configurations[point.configuration].trial_id(candidate)))
        and outcome["status"] == "finished"
    }
    if seed is not None and seed not in outcomes:
        raise UserError(f"{title_of(point)} has no finished trial of seed {seed}; it has {_listed(outcomes)}")
    chosen = nearest_seed(loaded, point.configuration) if seed is None else seed
    directories = {each: _directory(folder, outcome) for each, outcome in outcomes.items()}
    directory = directories[chosen]
    if directory is None:
        raise UserError(_not_kept(sweep, title_of(point), chosen, directories))
    reference = outcomes[chosen]["trial"]["setting"]
    built = setting_of(SettingRef(reference["name"], reference["options"]))
    return Exported(sweep, output, loaded, point, chosen, outcomes[chosen], directory, built)


def _configuration(points: Sequence[FrontierPoint], text: str, sweep: str, output: Path) -> FrontierPoint:
    wanted = " ".join(text.replace("*", " ").split())
    matching = [point for point in points if wanted in (point.configuration, title_of(point))]
    if not matching:
        titles = [title_of(point) for point in points]
        raise UserError(
            f"sweep {sweep!r} has no finished configuration {wanted!r}{did_you_mean(wanted, titles)};"
            f" selgen heatmap {shlex.quote(sweep)} --output {shlex.quote(str(output))} lists all {len(titles)}"
        )
    if len(matching) > 1:
        ids = ", ".join(point.configuration for point in matching)
        raise UserError(f"{len(matching)} configurations are called {wanted!r}; give the id of one: {ids}")
    return matching[0]


def nearest_seed(loaded: LoadedSweep, configuration: str) -> int:
    """Return the seed whose scores are nearest to the configuration's mean, each score in units of its spread."""
    table = loaded.table
    row = [each.id for each in table.configurations].index(configuration)
    values_SM = table.values_CSM[row]
    spread_M = np.nanstd(values_SM, axis=0)
    gaps_SM = (values_SM - np.nanmean(values_SM, axis=0)) / np.where(spread_M > 0, spread_M, 1.0)
    return table.seeds[int(np.nanargmin((gaps_SM**2).sum(axis=1)))]


def _directory(folder: Path, outcome: Mapping[str, Any]) -> Path | None:
    """Return the directory of a trial's adapter; None if it was not kept."""
    directory = SweepFolder(folder).adapter(str(outcome["adapter"]))
    return directory if outcome["adapter"] and (directory / WEIGHTS).is_file() else None


def _not_kept(sweep: str, title: str, seed: int, directories: Mapping[int, Path | None]) -> str:
    kept = [each for each, directory in directories.items() if directory is not None]
    if kept:
        return f"the adapter of {title}, seed {seed}, was not kept; take another: --seed {kept[0]}"
    return (
        f"no adapter of {title} was kept: besides the newest, a sweep keeps those on its frontier; to train it again,"
        f" run the sweep into another folder: selgen sweep run {sweep} --output DIR, with Execution(keep_adapters=...)"
    )


def _listed(seeds: Mapping[int, Any]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def check_empty(directory: Path) -> None:
    """Refuse a folder that is not empty. Raise UserError."""
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; give an empty or a new folder")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; give a folder")


def write(exported: Exported, directory: Path, card: str, merged: bool) -> list[str]:
    """Write adapter or merged model, edits and card into a new folder, atomically. Return the files' names.

    Raise UserError if the folder is not empty or the disk cannot be written.
    """
    check_empty(directory)
    try:
        with replacing(directory) as temporary:
            if merged:
                _merge(exported, temporary)
            else:
                for name in (CONFIG, WEIGHTS):
                    shutil.copyfile(exported.directory / name, temporary / name)
            if exported.has_edits:
                shutil.copyfile(exported.directory / EDITS, temporary / EDITS)
            (temporary / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror or error}") from error
    return sorted(path.name for path in directory.iterdir())


def _merge(exported: Exported, directory: Path) -> None:
    """Add the adapter to the base model's weights, in float32, and write them in the type of the model's own files."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig

    from trainables.bases.load_base import load_base

    if exported.setting.base_model.quantize:
        raise UserError("the base model is in four bits, so merged weights would be rounded; export the adapter")
    stored = getattr(AutoConfig.from_pretrained(exported.base_model), "dtype", None)
    base = load_base(exported.setting.base_model)
    model = PeftModel.from_pretrained(base.model, exported.directory).merge_and_unload()
    model.to(stored if isinstance(stored, torch.dtype) else torch.float32).save_pretrained(directory)
    base.tokenizer.save_pretrained(directory)
    remove(directory / CARD)


def finite_scores(outcome: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """Return score -> mean and number of graded questions, for scores that were measured."""
    return {
        name: (float(score["mean"]), int(score["n"]))
        for name, score in outcome["scores"].items()
        if math.isfinite(score["mean"])
    }
