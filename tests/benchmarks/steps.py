"""A packed step against the bare base model, a seed more against a trial alone, packed replies against `generate`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from settings.setting import Evaluation
from tests.benchmarks.baseline import PeftTrial
from tests.benchmarks.measure import Result, Spread, interleaved, ratios
from tests.benchmarks.shapes import LARGE, NANO, SMALL, World, fitting, world
from trainables.engine.batches import Batch, EncodedSetting, RowPositions, collate
from trainables.engine.forward import autocast, head_of
from trainables.evaluation.generate import generate
from trainables.pack import Pack
from trainables.trial import TrialConfig

Found = TypeVar("Found")
ROUNDS = 40
SEEDS = 3  # of a sweep's pack, unless told otherwise
TRAINED = 6  # steps before members generate, so that their replies differ


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        rounds: of steps; generation takes a quarter of them.
        large: sizes beyond nano, and packs of 8, too.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounds: int = ROUNDS
    large: bool = True

    def worlds(self, copies: int = 2) -> Iterator[World]:
        """The nano setting, then larger models one after the other, as memory allows."""
        yield world(NANO, self.device)
        if self.large:
            yield world(SMALL, self.device)
            for shape in fitting(LARGE, self.device, copies):
                gc.collect()  # packs and models refer to each other
                torch.cuda.empty_cache()
                yield world(shape, self.device, length=256, rank=16)

    def pack_sizes(self, where: World) -> Sequence[int]:
        """The seeds of a configuration, and where a step takes little time also more."""
        return (SEEDS, 8) if self.large and where.shape in (NANO, SMALL) else (SEEDS,)

    def rounds_of(self, where: World) -> int:
        """Fewer rounds where a step takes long."""
        return self.rounds if where.shape is NANO else max(2, self.rounds // 5)


def if_it_fits(name: str, measure: Callable[..., Found], *arguments: Any, **options: Any) -> dict[str, Found]:
    """What was measured under its name; nothing when the GPU's memory is too small for it."""
    try:
        return {name: measure(*arguments, **options)}
    except torch.OutOfMemoryError:
        return {}


# --- a packed step, and the base model on the same tokens ---


def batches_of(pack: Pack, encoded: EncodedSetting, trials: Sequence[TrialConfig]) -> Iterator[Batch]:
    """The task rows of all members, as each of the next steps of plain fine-tuning will have them."""
    pad, device = int(pack.base.tokenizer.pad_token_id), pack.base.model.device
    for step in range(trials[0].steps):
        rows = [
            RowPositions(row)
            for trial in trials
            for row in encoded.batch(trial.method, trial.sizes, trial.seed, step)["task"]
        ]
        yield collate(rows, pad, device)


def base_pass(model: PreTrainedModel, batch: Batch, with_head: bool) -> Tensor:
    """Forward, and backward to the embeddings through the frozen weights, whose own gradients nobody asks for.

    Args:
        with_head: the loss on the response tokens, too; else a gradient is handed in at the final hidden states.
    """
    with autocast(model.device):
        inputs = model.get_input_embeddings()(batch.ids_RT).detach().requires_grad_()
        found = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden_ND = found[batch.row_N, batch.column_N]
        if with_head:
            root = torch.nn.functional.cross_entropy(head_of(model)(hidden_ND), batch.labels_N)
        else:
            root = hidden_ND.sum()
    (gradient,) = torch.autograd.grad(root, inputs)
    return gradient


def efficiency(where: World, members: int, rounds: int, **options: Any) -> dict[str, Spread]:
    """Time of the base model alone over that of a packed step of plain fine-tuning, on the same tokens."""
    trials = where.trials("plain", members, rounds + 1, **options)
    pack, bare = where.pack(trials), where.copy()
    encoded = EncodedSetting(where.setting, where.base.tokenizer, trials[0].max_length)
    batches = list(batches_of(pack, encoded, trials))
    places = {name: iter(batches) for name in ("head", "body")}
    actions: dict[str, Callable[[], object]] = {
        "step": lambda: pack.advance(1),
        "head": lambda: base_pass(bare, next(places["head"]), True),
        "body": lambda: base_pass(bare, next(places["body"]), False),
    }
    found = interleaved(actions, rounds, where.device)
    pack.detach()
    return {
        "efficiency": ratios(found["head"], found["step"]),
        "efficiency_without_head": ratios(found["body"], found["step"]),
        "step_s": Spread.of(found["step"]),
    }


def step_efficiency(plan: Plan) -> list[Result]:
    """The goal speaks of the pack that a sweep makes by itself: the seeds of a configuration."""
    cases: dict[str, dict[str, Spread]] = {}
    for where in plan.worlds():
        for members in plan.pack_sizes(where):
            name, rounds = f"{where.shape.name}, pack of {members}", plan.rounds_of(where)
            cases |= if_it_fits(name, efficiency, where, members, rounds)
    headline = cases[f"{NANO.name}, pack of {SEEDS}"]["efficiency"]
    what = "forward and backward of the frozen base over a packed step, same tokens, nano, pack of 3"
    return [Result("step_efficiency", what, headline, 0.85, True, _details(cases))]


# --- a seed more ---


def marginal(where: World, method: str, sizes: Sequence[int], rounds: int, **options: Any) -> dict[str, Spread]:
    """What each further member of a pack costs, in units of a pack of one: (T_K - T_1) / (K - 1) / T_1.

    `peft` is a step of the baseline in the same unit.
    """
    steps = rounds + 1
    alone_trial, tokenizer = where.trials(method, 1, steps, **options)[0], where.base.tokenizer
    actions: dict[str, Callable[[], object]] = {}
    with ExitStack() as packs:
        for size in (1, *sizes):
            pack = where.pack(where.trials(method, size, steps, **options), copied=size > 1)
            packs.callback(pack.detach)
            actions[str(size)] = partial(pack.advance, 1)
        actions["peft"] = PeftTrial(where.copy(), tokenizer, where.setting, alone_trial).step
        found = interleaved(actions, rounds, where.device)
    alone = found["1"]
    added = {
        f"pack of {size}": Spread.of(
            (many - one) / (size - 1) / one for many, one in zip(found[str(size)], alone, strict=True)
        )
        for size in sizes
    }
    return added | {"peft": ratios(found["peft"], alone), "solo_step_s": Spread.of(alone)}


def seed_marginal_cost(plan: Plan) -> list[Result]:
    """At batch 4, for the methods with the cheapest and the dearest steps of the sweep."""
    cases: dict[str, dict[str, Spread]] = {}
    for where in plan.worlds(copies=3):
        for method in ("plain", "kl_penalty"):
            sizes = plan.pack_sizes(where)
            options = {"batch_size": 4, "alignment_batch_size": 4}
            name, rounds = f"{where.shape.name}, {method}", plan.rounds_of(where)
            cases |= if_it_fits(name, marginal, where, method, sizes, rounds, **options)
    headline = cases[f"{NANO.name}, plain"][f"pack of {SEEDS}"]
    what = "cost of a seed more over that of a trial alone, nano, plain, batch 4, pack of 3"
    return [Result("seed_marginal_cost", what, headline, 0.6, False, _details(cases))]


# --- replies ---


def by_length(rows: Sequence[EncodedRow]) -> list[list[int]]:
    """Prompts of equal length together, so that none is padded."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.prompt_length, []).append(index)
    return list(groups.values())


def generation(where: World, members: int, rounds: int) -> tuple[dict[str, Spread], float]:
    """Time of `generate`, trial after trial, over that of one packed generation; and the share of equal replies.

    `by_length` has a batch for each length of prompt, `left_padded` one batch for all, `one_by_one` no batches.
    """
    trials = where.trials("plain", members, TRAINED)
    pack = where.pack(trials)
    pack.advance(TRAINED)
    evaluation = where.setting.evaluations[0]
    encoded = EncodedSetting(where.setting, where.base.tokenizer, trials[0].max_length)
    rows = encoded.questions(evaluation)
    peft = PeftTrial(where.copy(), where.base.tokenizer, where.setting, trials[0])
    adapters = [pack.adapters.member(member) for member in range(members)]
    said: dict[str, list[list[tuple[int, ...]]]] = {}

    def theirs(name: str, batches: Sequence[Sequence[int]]) -> None:
        said[name] = []
        for adapter in adapters:
            peft.set_adapter(adapter)
            said[name].append(peft.reply(rows, evaluation, batches))

    def ours() -> None:
        said["ours"] = packed_replies(pack, encoded, evaluation, rows)

    few = rows[: max(1, len(rows) // 8)]  # one by one takes long; an eighth of the prompts says as much
    actions: dict[str, Callable[[], object]] = {
        "ours": ours,
        "by_length": lambda: theirs("by_length", by_length(rows)),
        "left_padded": lambda: theirs("left_padded", [range(len(rows))]),
    }
    found = interleaved(actions, rounds, where.device)
    peft.set_adapter(adapters[0])
    single = interleaved(
        {"one_by_one": lambda: peft.reply(few, evaluation, [[index] for index in range(len(few))])},
        1,
        where.device,
        warmup=0,
    )
    pack.detach()
    ratio = {name: ratios(found[name], found["ours"]) for name in ("by_length", "left_padded")}
    one_by_one = single["one_by_one"][0] * members * len(rows) / len(few) / median(found["ours"])
    equal = fmean(
        one == two
        for own, other in zip(said["ours"], said["left_padded"], strict=True)
        for one, two in zip(own, other, strict=True)
    )
    return ratio | {"one_by_one": Spread.of([one_by_one]), "ours_s": Spread.of(found["ours"])}, equal


def packed_replies(
    pack: Pack, encoded: EncodedSetting, evaluation: Evaluation, rows: Sequence[EncodedRow]
) -> list[list[tuple[int, ...]]]:
    """`[member][prompt]`, as an evaluation has them."""
    return generate(
        pack.base.model,
        [row.ids[: row.prompt_length] for row in rows],
        adapters=pack.adapters,
        members=range(len(pack.trials)),
        seeds=[trial.seed for trial in pack.trials],
        max_new_tokens=evaluation.max_new_tokens,
        stop_ids=encoded.encoder.stop_ids(rows),
        pad_id=int(encoded.encoder.tokenizer.pad_token_id),
    )


def generation_speedup(plan: Plan) -> list[Result]:
    """The goal is against the better of the batched baselines."""
    cases: dict[str, dict[str, Spread]] = {}
    equal = {}
    for where in plan.worlds():
        for members in plan.pack_sizes(where) if where.shape is NANO else (SEEDS,):
            name = f"{where.shape.name}, pack of {members}"
            rounds = max(1, plan.rounds_of(where) // 4)
            for case, (found, same) in if_it_fits(name, generation, where, members, rounds).items():
                cases[case], equal[case] = found, same
    nano = cases[f"{NANO.name}, pack of {SEEDS}"]
    headline = min(nano["by_length"], nano["left_padded"], key=lambda spread: spread.value)
    what = "one `model.generate` per trial over packed generation, all questions in a batch, nano, pack of 3"
    details = _details(cases) | {"equal_replies": equal}
    return [Result("generation_speedup", what, headline, 5.0, True, details)]


def _details(cases: Mapping[str, Mapping[str, Spread]]) -> dict[str, Any]:
    """Spreads as JSON values: [median, min, max]."""
    return {
        case: {name: [spread.value, spread.low, spread.high] for name, spread in found.items()}
        for case, found in cases.items()
    }
