"""A configuration of a sweep as files, as `selgen export` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from settings.common.files import absolute_path
from sweeps.cli.say import Say
from sweeps.results.export import EDITS, check_empty, find_adapter, write
from sweeps.results.model_card import elsewhere, model_card, vllm_problems


def export(
    sweep: str,
    configuration: str,
    directory: Path,
    output: Path,
    setting: str | None,
    seed: int | None,
    merged: bool,
    as_json: bool,
    console: Console,
) -> None:
    """Write a configuration's adapter or merged model with its card, and say what it is. Raise UserError."""
    place = absolute_path(directory)
    check_empty(place)
    exported = find_adapter(sweep, configuration, output, setting, seed)
    files = write(exported, place, model_card(exported, place, merged), merged)
    problems = [] if merged else vllm_problems(exported.adapter_config)
    if as_json:
        data: dict[str, Any] = {"sweep": sweep, "configuration": exported.title, "id": exported.point.configuration}
        data |= {"seed": exported.seed, "base_model": exported.base_model, "directory": str(place), "files": files}
        console.file.write(json.dumps(data | {"merged": merged, "vllm_problems": problems}) + "\n")
        return
    say = Say(console)
    say.note(f"{exported.title}, seed {exported.seed}, of base model {exported.base_model}")
    for name in files:
        say.wrote(place / name)
    if not merged and (instead := elsewhere(exported)):
        say.note(instead)
    if exported.has_edits:
        say.warn(f"without the edits of hidden states in {EDITS} the model differs; PEFT and vLLM do not apply them")
    if exported.mixed != 1.0:
        say.warn(
            f"the scores are of its mix with the base model at decoding, lambda {exported.mixed:g}; the files hold only"
            " the adapter, which is a different model"
        )
    for problem in problems:
        say.warn(f"vLLM would refuse the adapter: {problem}; export it with --merged")
