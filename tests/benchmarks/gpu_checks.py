"""What must hold on a GPU, and what it is worth there: packs against PEFT on one model with random weights.

Every figure is compared with PEFT, transformers' `generate`, a pack of one, or the plan. Nothing here needs more than
torch, transformers, PEFT and the project's `settings` and `trainables`.

Tolerances: weights and hidden states are bfloat16 on a GPU, with 8 significant bits (2^-8 = .004), and float32 on a
CPU. A product rounds differently when it has other rows beside it, so that neither packs nor padding give equal bits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.benchmarks.baseline import PeftTrial
from tests.benchmarks.measure import timed
from tests.benchmarks.shapes import Shape, World, world
from tests.benchmarks.steps import packed_replies
from trainables.engine.forward import autocast
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.memory import ModelShape, training_bytes
from trainables.engine.process_group import layers_of
from trainables.evaluation.likelihood import token_losses
from trainables.pack import Pack
from trainables.trial import TrialConfig

MEMBERS, BATCH, STEPS = 4, 4, 8
PACKS = (1, 4, 8, 16)
ROUNDS = 3
LENGTH, RANK = 128, 16
PLANNED = 1.1  # of the plan, that a pack may take: planning leaves a tenth of the memory to what it does not count


@dataclass(frozen=True)
class Tolerance:
    """How far apart two computations of the same number may be.

    Attributes:
        first, last: losses of the first and of all steps, relative: rounding alone, and what training makes of it.
        norm: gradient norms of the first step, relative.
        row: the mean loss of one row, relative.
        logit: how far below PEFT's best logit the logit of a token of a greedy reply may lie.
    """

    first: float
    last: float
    norm: float
    row: float
    logit: float


TOLERANCES = {
    torch.bfloat16: Tolerance(first=5e-3, last=2e-2, norm=5e-2, row=1e-2, logit=0.125),
    torch.float32: Tolerance(first=1e-5, last=1e-3, norm=1e-3, row=1e-4, logit=1e-3),
}


@dataclass(frozen=True)
class Found:
    """What a check found.

    Attributes:
        text: for a line.
        values: JSON values.
        holds: whether it is as it must be; None for a figure that has no limit.
    """

    text: str
    values: Mapping[str, Any]
    holds: bool | None = None


class Bench:
    """One base model with random weights, and a second one for PEFT, made when it is first asked for."""

    def __init__(self, shape: Shape, device: torch.device, short: bool) -> None:
        self.shape, self.device, self.short = shape, device, short
        self.where: World = world(shape, device, length=24 if short else LENGTH, rank=4 if short else RANK)
        self.tolerance = TOLERANCES[self.where.dtype]
        self.members, self.steps = (2, 3) if short else (MEMBERS, STEPS)

    @cached_property
    def peft(self) -> PeftTrial:
        """The trial of the first seed, as a user would train it."""
        return PeftTrial(self.where.copy(), self.where.base.tokenizer, self.where.setting, self.trials(1)[0])

    def trials(self, count: int, steps: int = 0) -> list[TrialConfig]:
        """Seeds of one configuration of plain fine-tuning."""
        return self.where.trials("plain", count, steps or self.steps, batch_size=BATCH)

    @contextmanager
    def pack(self, trials: Sequence[TrialConfig], prefixes: PrefixCache | None = None) -> Iterator[Pack]:
        """A pack on the base model, which is given back."""
        pack = Pack(self.where.base, self.where.setting, trials, prefixes=prefixes)
        try:
            yield pack
        finally:
            pack.detach()

    def trained(self, trials: Sequence[TrialConfig], prefixes: PrefixCache | None = None) -> list[dict[str, Any]]:
        """Train a pack to its end; return the curves of its members."""
        with self.pack(trials, prefixes) as pack:
            pack.advance(self.steps)
            return [member.curves for member in pack.members]

    def curves_agree(self, one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Found:
        """Compare two trainings of the same trial."""
        losses = gaps(values_of(one["loss"]), values_of(other["loss"]))
        norm = gaps(values_of(one["grad_norm"])[:1], values_of(other["grad_norm"])[:1])[0]
        allowed = self.tolerance
        text = (
            f"{name}: losses apart by {losses[0]:.1e} at the first step (at most {allowed.first:g}), {max(losses):.1e}"
            f" within {self.steps} (at most {allowed.last:g}), gradient norms by {norm:.1e} (at most {allowed.norm:g})"
        )
        holds = losses[0] <= allowed.first and max(losses) <= allowed.last and norm <= allowed.norm
        return Found(text, {"first": losses[0], "worst": max(losses), "gradient_norm": norm}, holds)


def values_of(curve: Sequence[tuple[int, float]]) -> list[float]:
    """The values of a curve with a point for every step."""
    return [value for _, value in curve]


def gaps(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Relative differences."""
    return [abs(one - other) / max(abs(other), 1e-6) for one, other in zip(some, others, strict=True)]


def pack_is_solo(bench: Bench) -> Found:
    """The last member of a pack trains as it does alone."""
    trials = bench.trials(bench.members)
    return bench.curves_agree(bench.trained(trials)[-1], bench.trained(trials[-1:])[0], "pack against solo")


def pack_is_peft(bench: Bench) -> Found:
    """The first member of a pack has the losses of PEFT's training."""
    bench.peft.train()
    ours = values_of(bench.trained(bench.trials(bench.members))[0]["loss"])
    apart = gaps(ours, torch.stack(bench.peft.losses).tolist())
    allowed = bench.tolerance
    text = (
        f"pack against PEFT: losses apart by {apart[0]:.1e} at the first step (at most {allowed.first:g}),"
        f" {max(apart):.1e} within {bench.steps} (at most {allowed.last:g})"
    )
    return Found(
        text, {"first": apart[0], "worst": max(apart)}, apart[0] <= allowed.first and max(apart) <= allowed.last
    )


def padded_is_single(bench: Bench) -> Found:
    """Rows of many lengths in padded batches of all members, against each row alone and unpadded in PEFT's model."""
    with bench.pack(bench.trials(bench.members)) as pack:
        pack.advance(2)
        encoded = next(iter(pack.encoded.values()))
        rows = encoded.rows("task")[: 4 if bench.short else 16]
        pad, last = int(bench.where.base.tokenizer.pad_token_id), bench.members - 1
        ours = token_losses(bench.where.base.model, rows, pad, adapters=pack.adapters, members=range(bench.members))[
            last
        ]
        bench.peft.set_adapter(pack.adapters.member(last))
    with torch.no_grad(), autocast(bench.device):
        alone = [float(bench.peft.forward([row])[0].loss) for row in rows]
    worst, allowed = max(gaps(ours, alone)), bench.tolerance.row
    lengths = [len(row.ids) for row in rows]
    text = (
        f"padded against single: mean losses of {len(rows)} rows of {min(lengths)} to {max(lengths)} tokens apart by"
        f" {worst:.1e} (at most {allowed:g})"
    )
    return Found(text, {"worst": worst, "rows": len(rows)}, worst <= allowed)


def replies_are_generates(bench: Bench) -> Found:
    """Every token of a packed greedy reply is PEFT's best one after the same tokens, or as good as that."""
    evaluation = bench.where.setting.evaluations[0]
    with bench.pack(bench.trials(bench.members)) as pack:
        pack.advance(2)
        encoded = next(iter(pack.encoded.values()))
        rows = encoded.questions(evaluation)[: 4 if bench.short else 16]
        ours = packed_replies(pack, encoded, evaluation, rows)
        adapters = [pack.adapters.member(member) for member in range(bench.members)]
    equal, below = [], [0.0]
    for adapter, replies in zip(adapters, ours, strict=True):
        bench.peft.set_adapter(adapter)
        theirs = bench.peft.reply(rows, evaluation, [range(len(rows))])
        equal += [one == two for one, two in zip(replies, theirs, strict=True)]
        for row, reply in zip(rows, replies, strict=True):
            below += below_the_best(bench.peft, row.ids[: row.prompt_length], reply)
    allowed = bench.tolerance.logit
    text = (
        f"packed replies against generate: {fmean(equal):.0%} of {len(equal)} equal; tokens at most {max(below):.1e}"
        f" below PEFT's best logit (at most {allowed:g})"
    )
    return Found(text, {"equal": fmean(equal), "replies": len(equal), "worst": max(below)}, max(below) <= allowed)


@torch.no_grad()
def below_the_best(peft: PeftTrial, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
    """How far the logit of each token of a reply lies below the best one, in PEFT's model without a cache."""
    if not reply:
        return []
    ids = torch.tensor([[*prompt, *reply]], device=peft.model.device)
    with autocast(peft.model.device):
        logits = peft.peft(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    said = logits.gather(-1, torch.tensor(reply, device=logits.device)[:, None])[:, 0]
    return [float(gap) for gap in logits.max(dim=-1).values - said]


def prefix_is_whole(bench: Bench) -> Found:
    """With adapters on the upper third, passes that begin there train as whole passes do."""
    layers = f"last {len(layers_of(bench.where.base.model)) // 3}"
    trials = [replace(each, adapter=replace(each.adapter, layers=layers)) for each in bench.trials(bench.members)]
    with TemporaryDirectory(prefix="selgen-prefixes-") as folder:
        cache = PrefixCache(Path(folder))
        begun = bench.trained(trials, cache)[-1]
        if cache.caution:
            return Found(f"frozen prefix: {cache.caution}", {"caution": cache.caution}, False)
    return bench.curves_agree(begun, bench.trained(trials)[-1], f"frozen prefix ({layers}) against whole passes")


def planned_bytes(bench: Bench, trials: Sequence[TrialConfig]) -> float:
    """What planning expects that a pack adds to the base model."""
    sizes = ModelShape.of_config(bench.shape.config().to_dict())
    assert sizes is not None
    rows = bench.where.base.encoded(bench.where.setting, trials[0].max_length).rows("task")
    lengths = {"task": float(max(len(row.ids) for row in rows))}
    return training_bytes(sizes, trials, lengths, activation_bytes=bench.where.dtype.itemsize)  # type: ignore[arg-type]


def pack_of(size: int, bench: Bench) -> Found:
    """Trial-steps per second of a pack, and the memory that it takes against the plan."""
    rounds = 1 if bench.short else ROUNDS
    trials = bench.trials(size, rounds + 1)
    planned = planned_bytes(bench, trials) / 1e9
    gc.collect()  # packs and models refer to each other
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
    with bench.pack(trials) as pack:
        seconds = [timed(partial(pack.advance, 1), bench.device) for _ in range(rounds + 1)][1:]
    per_second = size / median(seconds)
    values: dict[str, Any] = {"trial_steps_per_s": per_second, "planned_gb": planned}
    text = f"pack of {size}: {per_second:.3g} trial-steps per second"
    if bench.device.type != "cuda":
        return Found(f"{text}; {planned:.3g} GB planned, not measured without a GPU", values)
    taken = (torch.cuda.max_memory_allocated(bench.device) - before) / 1e9
    text += f"; {taken:.3g} GB, {taken / planned:.2f} of the plan (at most {PLANNED:g})"
    return Found(text, values | {"taken_gb": taken, "share_of_plan": taken / planned}, taken <= PLANNED * planned)


def peft_alone(bench: Bench) -> Found:
    """Steps per second of PEFT, one trial after the other."""
    rounds = 1 if bench.short else ROUNDS
    bench.peft.peft.train()
    seconds = [timed(bench.peft.step, bench.device) for _ in range(rounds + 1)][1:]
    per_second = 1 / median(seconds)
    return Found(f"PEFT, one after the other: {per_second:.3g} steps per second", {"trial_steps_per_s": per_second})


def checks(short: bool) -> dict[str, Callable[[Bench], Found]]:
    """All checks by name, in the order in which they run on each model."""
    sizes = PACKS[:2] if short else PACKS
    return {
        "pack = PEFT": pack_is_peft,
        "pack = solo": pack_is_solo,
        "padded = single": padded_is_single,
        "replies = generate": replies_are_generates,
        "prefix = whole": prefix_is_whole,
        "PEFT alone": peft_alone,
        **{f"pack of {size}": partial(pack_of, size) for size in sizes},
    }
