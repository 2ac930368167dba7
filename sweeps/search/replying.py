"""Have a trained adapter's replies sampled by a server, on the driver, while the next packs train.

Workers write their own observations, and the questions as tokens. Here each trial's adapter is loaded on the server by
name, queried, and unloaded; the replies go into its observations, as if the worker had sampled them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from settings.common.content import content_id
from settings.common.files import write_json
from settings.replies import Asked, Endpoint, ReplyServer, ServedModel
from settings.replies.server import draw_seed
from settings.setting import Evaluation, Setting
from sweeps.case import served_name
from trainables.folder import SweepFolder
from trainables.trial import TrialConfig, base_id


class ServedReplies:
    """Completes the observations of models with replies that a server samples. Usable from several threads.

    Args:
        folder: the sweep's folder.
        server: where the replies come from.
        endpoint: how the server is reached.
    """

    def __init__(self, folder: Path, server: ReplyServer, endpoint: Endpoint) -> None:
        self._folder, self._server, self._endpoint = SweepFolder(folder), server, endpoint

    def complete(self, setting: Setting, trial: TrialConfig | None) -> None:
        """Sample the replies that the observations of a trial, or of the base model, lack. Raise UserError."""
        name = trial.trial_id if trial else base_id(setting)
        path = self._folder.observations(name)
        observations = json.loads(path.read_text(encoding="utf-8"))
        wanted = [each for each in setting.evaluations if each.generates and _lacks_replies(observations, each)]
        if not wanted:
            return
        called = served_name(setting, self._endpoint)
        base = ServedModel(called, content_id([called, setting.base_model.to_json()]))
        asked = self._asked(setting, wanted, trial)
        if trial:
            with self._server.adapter(base, self._folder.adapter(name), f"selgen-{name}") as model:
                replies = {each: self._server.reply(model, prompts) for each, prompts in asked.items()}
        else:
            replies = {each: self._server.reply(base, prompts) for each, prompts in asked.items()}
        order = {each.name: None for each in setting.evaluations}
        observations |= {
            each: [{**seen, "reply": text} for seen, text in zip(observations[each], texts, strict=True)]
            if each in observations
            else texts
            for each, texts in replies.items()
        }
        write_json(path, {each: observations[each] for each in order if each in observations})

    def _asked(
        self, setting: Setting, wanted: Iterable[Evaluation], trial: TrialConfig | None
    ) -> dict[str, list[Asked]]:
        """Return the prompts of each evaluation, with its sampling settings and the seed of each draw."""
        max_length = trial.max_length if trial else setting.recipe.max_length
        file = self._folder.asked(base_id(setting), max_length)
        questions = json.loads(file.read_text(encoding="utf-8"))
        seed = trial.seed if trial else 0
        return {
            each.name: [
                Asked(
                    tuple(prompt),
                    each.max_new_tokens,
                    tuple(questions[each.name]["stop_ids"]),
                    each.temperature,
                    each.top_p,
                    draw_seed(each.name, seed, place),
                )
                for place, prompt in enumerate(questions[each.name]["prompts"])
            ]
            for each in wanted
        }


def _lacks_replies(observations: Mapping[str, Any], evaluation: Evaluation) -> bool:
    """Return whether an evaluation's replies were left to the server and are still missing."""
    observed = observations.get(evaluation.name)
    return observed is None or (evaluation.compares and any("reply" not in item for item in observed))
