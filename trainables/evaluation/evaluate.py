"""Evaluate models on a setting's questions: replies, token losses or preferences, then the setting's grades."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from settings.replies.left_here import without_reply
from settings.setting import Evaluation, Measurement, Observation, Preference
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import EncodedSetting
from trainables.engine.frozen.prefix_cache import PackPrefixes
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.evaluation.generate import generate
from trainables.evaluation.likelihood import log_likelihoods, token_losses

Progress = Callable[[str, float, int], None]  # (evaluation, rows done, all rows)


@dataclass(frozen=True)
class Evaluated:
    """One model's scores on one setting, and its observations on each evaluation's questions, in order."""

    scores: dict[str, Measurement]
    observations: dict[str, list[Observation]]

    def observed_json(self) -> dict[str, list[Any]]:
        """Return the observations as JSON data; `observation_from_json` reads each of them."""
        return {
            name: [item.to_json() if isinstance(item, Preference) else item for item in items]
            for name, items in self.observations.items()
        }


def evaluate(
    model: PreTrainedModel,
    encoded: EncodedSetting,
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    mixes: Sequence[float] = (),
    seeds: Sequence[int] = (),
    prefixes: PackPrefixes | None = None,
    replying: bool = True,
    workers: ProcessGroup = SINGLE_PROCESS,
    progress: Progress = lambda evaluation, done, total: None,
) -> list[Evaluated]:
    """Evaluate members of a pack, or the base model if there are no adapters.

    Args:
        mixes: how much each member is mixed with the base model (`Readers`); empty means not at all.
        seeds: one per member (one for the base model); used by evaluations that sample.
        prefixes: cached states below the lowest adapted layer; None computes them.
        replying: whether replies in words are sampled here. If not, evaluations that need only these are left out;
            those that also compare likelihoods observe only the likelihoods, without a score (see `questions_json`).
        workers: the processes that evaluate together; each returns all results.
        progress: called with an evaluation's name, the number of its rows done, and of all its rows.

    Returns:
        One result per member, in order.
    """
    results = [Evaluated({}, {}) for _ in (members if adapters else (0,))]
    observe = functools.partial(
        _observe, model, encoded, adapters, tuple(members), tuple(mixes), tuple(seeds) or (0,), prefixes, workers
    )
    for evaluation in encoded.setting.evaluations:
        asked = evaluation if replying else without_reply(evaluation)
        if asked is None:
            continue
        done = functools.partial(_tell, progress, evaluation)
        done(0.0)
        for result, observations in zip(results, observe(asked, done), strict=True):
            result.observations[evaluation.name] = list(observations)
            if (
                not evaluation.rubrics and asked.observe == evaluation.observe
            ):  # otherwise the driver grades it, from the stored replies
                result.scores.update(evaluation.grade(observations))
    return [replace(result, scores=encoded.setting.with_worst(result.scores)) for result in results]


def questions_json(encoded: EncodedSetting) -> dict[str, Any]:
    """Return the questions that need replies in words, by evaluation: their tokens, and those that end a reply.

    They are for sampling the replies elsewhere.
    """
    questions = {}
    for evaluation in encoded.setting.evaluations:
        if evaluation.generates:
            rows = encoded.questions(evaluation)
            prompts = [list(row.ids[: row.prompt_length]) for row in rows]
            questions[evaluation.name] = {"prompts": prompts, "stop_ids": sorted(encoded.encoder.stop_ids(rows))}
    return questions


def _tell(progress: Progress, evaluation: Evaluation, share: float) -> None:
    progress(evaluation.name, share * len(evaluation.examples), len(evaluation.examples))


def _in_part(done: Callable[[float], None], start: float, part: float, share: float) -> None:
    """Report the share of an evaluation that is done, given the share of one part of it."""
    done(start + part * share)


def _observe(
    model: PreTrainedModel,
    encoded: EncodedSetting,
    adapters: PackedAdapters | None,
    members: tuple[int, ...],
    mixes: tuple[float, ...],
    seeds: tuple[int, ...],
    prefixes: PackPrefixes | None,
    workers: ProcessGroup,
    evaluation: Evaluation,
    done: Callable[[float], None],
) -> Sequence[Sequence[Observation]]:
    """Return what is observed, `[member][question]`."""
    pad_id = int(encoded.encoder.tokenizer.pad_token_id)
    by_members: dict[str, Any] = {"adapters": adapters, "members": members, "mixes": mixes}
    by_members |= {"workers": workers, "prefixes": prefixes}
    if evaluation.observe == "token_loss":
        return token_losses(model, encoded.questions(evaluation), pad_id, progress=done, **by_members)
    part = 0.5 if evaluation.generates and evaluation.compares else 1.0  # of the two kinds of passes
    in_words = functools.partial(_in_part, done, 0.0, part)
    replies = _replies(model, encoded, evaluation, pad_id, seeds, by_members, in_words) if evaluation.generates else []
    if not evaluation.compares:
        return replies
    compared = encoded.compared(evaluation)
    replied = [row for rows in compared for row in rows]
    read = functools.partial(_in_part, done, 1.0 - part, part)
    nats = log_likelihoods(model, replied, pad_id, progress=read, **by_members)
    preferences = [_preferences(compared, of_member) for of_member in nats]
    if not evaluation.generates:
        return preferences
    return [
        [replace(preference, reply=reply) for preference, reply in zip(*of_member, strict=True)]
        for of_member in zip(preferences, replies, strict=True)
    ]


def _preferences(compared: Sequence[Sequence[EncodedRow]], nats: Sequence[float]) -> list[Preference]:
    """Return the preference between each question's replies, from the log-likelihoods of all replies in order."""
    of_reply = iter(nats)
    return [
        Preference(tuple(next(of_reply) for _ in rows), tuple(len(row.ids) - row.prompt_length for row in rows))
        for rows in compared
    ]


def _replies(
    model: PreTrainedModel,
    encoded: EncodedSetting,
    evaluation: Evaluation,
    pad_id: int,
    seeds: tuple[int, ...],
    by_members: dict[str, Any],
    done: Callable[[float], None],
) -> list[list[str]]:
    """Return what each member replies in words, `[member][question]`."""
    rows = encoded.questions(evaluation)
    replies = generate(
        model,
        [row.ids[: row.prompt_length] for row in rows],
        seeds=[f"{evaluation.name}/{seed}" for seed in seeds],
        max_new_tokens=evaluation.max_new_tokens,
        stop_ids=encoded.encoder.stop_ids(rows),
        pad_id=pad_id,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        progress=lambda prompts: done(prompts / len(rows)),
        **by_members,
    )
    return [[encoded.encoder.text(reply) for reply in of_member] for of_member in replies]
