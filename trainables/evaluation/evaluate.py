"""Evaluate models on a setting's questions: replies or token losses, then the setting's grades.

Shape legend: N positions that count, D hidden width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from settings.setting import Evaluation, Measurement, Observation
from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.batches import EncodedSetting, RowPositions, collate
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.evaluation.generate import generate
from trainables.losses import token_nll
from trainables.method import Forward

ROWS_PER_BATCH = 32
Progress = Callable[[str, float, int], None]  # (evaluation, rows done, all rows)


@dataclass(frozen=True)
class Evaluated:
    """One model's scores on one setting, and what was observed on each question of each evaluation, in order."""

    scores: dict[str, Measurement]
    observations: dict[str, list[Observation]]


def evaluate(
    model: PreTrainedModel,
    encoded: EncodedSetting,
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    seeds: Sequence[int] = (),
    workers: ProcessGroup = SINGLE_PROCESS,
    progress: Progress = lambda evaluation, done, total: None,
) -> list[Evaluated]:
    """Evaluate members of a pack, or the base model when there are no adapters.

    Args:
        seeds: one per member (one for the base model); used by evaluations that sample.
        workers: the processes that evaluate together; each returns all results.
        progress: called with an evaluation's name, how many of its rows are done, and all its rows.

    Returns:
        One result per member, in order.
    """
    results = [Evaluated({}, {}) for _ in (members if adapters else (0,))]
    observe = functools.partial(_observe, model, encoded, adapters, tuple(members), tuple(seeds) or (0,), workers)
    for evaluation in encoded.setting.evaluations:
        done = functools.partial(_tell, progress, evaluation)
        done(0)
        for result, observations in zip(results, observe(evaluation, done), strict=True):
            result.observations[evaluation.name] = observations
            if not evaluation.rubrics:  # a judge grades these later, from the stored replies
                result.scores.update(evaluation.grade(observations))
    return results


def _tell(progress: Progress, evaluation: Evaluation, done: float) -> None:
    progress(evaluation.name, done, len(evaluation.examples))


def _of_member(done: Callable[[float], None], number: int, members: int, rows: int, of_rows: float) -> None:
    """Tell how many rows are done when members are observed one after the other."""
    done((number * rows + of_rows) / members)


def _observe(
    model: PreTrainedModel,
    encoded: EncodedSetting,
    adapters: PackedAdapters | None,
    members: tuple[int, ...],
    seeds: tuple[int, ...],
    workers: ProcessGroup,
    evaluation: Evaluation,
    done: Callable[[float], None],
) -> list[list[Observation]]:
    """Return what is observed, `[member][question]`."""
    rows = encoded.questions(evaluation)
    pad_id = int(encoded.encoder.tokenizer.pad_token_id)
    if evaluation.observe == "token_loss":
        routes = [Route((member,), (1,)) for member in members] if adapters else [None]
        losses = []
        for number, route in enumerate(routes):
            share = functools.partial(_of_member, done, number, len(routes), len(rows))
            losses.append(_token_losses(model, rows, adapters, route, pad_id, workers, share))
        return losses
    replies = generate(
        model,
        [row.ids[: row.prompt_length] for row in rows],
        adapters=adapters,
        members=members,
        seeds=[f"{evaluation.name}/{seed}" for seed in seeds],
        max_new_tokens=evaluation.max_new_tokens,
        stop_ids=encoded.encoder.stop_ids(rows),
        pad_id=pad_id,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        workers=workers,
        progress=done,
    )
    return [[encoded.encoder.text(reply) for reply in of_member] for of_member in replies]


@torch.no_grad()
def _token_losses(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    adapters: PackedAdapters | None,
    route: Route | None,
    pad_id: int,
    workers: ProcessGroup,
    done: Callable[[float], None],
) -> list[Observation]:
    """Return the mean cross-entropy in nats per response token of each row, for one member or the base model."""
    losses: dict[int, float] = {}
    for start in range(0, len(rows), ROWS_PER_BATCH * workers.count):
        indices, batch_rows = workers.shard(rows[start : start + ROWS_PER_BATCH * workers.count])
        batch = collate([RowPositions(row) for row in batch_rows], pad_id, model.device)
        with autocast(model.device):
            if adapters and route:
                with adapters.routed(Route(route.members, (len(batch_rows),))):
                    hidden_ND, _ = hidden_states(model, batch)
            else:
                hidden_ND, _ = hidden_states(model, batch)
            forward = Forward(hidden_ND, batch.labels_N, batch.row_N, len(batch_rows), head_of(model))
            parts = token_nll(forward).split(batch.positions_per_row)
        losses.update((start + row, float(part.mean())) for row, part in zip(indices, parts, strict=False))
        done(min(start + ROWS_PER_BATCH * workers.count, len(rows)))
    gathered = {row: loss for of_worker in workers.gather(losses) for row, loss in of_worker.items()}
    return [gathered[row] for row in range(len(rows))]
