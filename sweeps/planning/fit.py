"""Choose micro-batches and packs that fit into the memory of the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from settings.base_models import NanoModel
from settings.common.errors import UserError
from settings.setting import Evaluation
from sweeps.case import Case
from sweeps.ledger import Fit, LedgerState
from sweeps.planning.tokens import CaseTokens, Lengths, tokens_of
from sweeps.planning.work import QUESTIONS_PER_BATCH, REPLIES_PER_BATCH, ROWS_PER_PASS, prefix_tokens
from sweeps.sweep import Sweep
from trainables.engine.memory import (
    FLOAT,
    LOGIT_COPIES,
    LOGITS,
    PROCESS_BYTES,
    ROW_STATES_BYTES,
    ModelShape,
    kept_on_gpu,
    training_bytes,
)
from trainables.trial import TrialConfig

SPARE = 0.1  # share of the memory left for others and for what is not counted
HALF = 2  # bytes of a number on a GPU
DOUBLE = 8  # bytes of a number in float64
PASSING = 16  # numbers per token, in hidden widths, that a forward pass without gradients holds at once
GIGABYTE = 1e9
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
USAGES = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
DETAILS = (Path("/sys/fs/cgroup/memory.stat"), Path("/sys/fs/cgroup/memory/memory.stat"))
FILE_PAGES = ("active_file", "inactive_file")  # of files that were read; the kernel frees them on demand


@dataclass(frozen=True)
class CaseSizes:
    """What determines the memory of a setting's packs.

    Attributes:
        case: the setting.
        shape: shape of its base model; assumed if that is not on this machine.
        tokens: tokens of its rows.
        trials: one of each configuration, and those that these build on.
        known: whether the base model is on this machine.
    """

    case: Case
    shape: ModelShape
    tokens: CaseTokens
    trials: tuple[TrialConfig, ...]
    known: bool = True


@dataclass(frozen=True)
class Room:
    """The memory that workers may use.

    Attributes:
        worker: bytes for each, besides base models that all of them map from files; None if not known.
        on_gpu: whether it is GPU memory, which holds the base model once per worker, in half as many bytes.
    """

    worker: float | None
    on_gpu: bool = False


def worker_bytes(sweep: Sweep, sizes: CaseSizes, fit: Fit, on_gpu: bool = False) -> float:
    """Return the peak memory of a worker, besides base models that workers share."""
    return max(trial_bytes(sweep, sizes, trial, fit, on_gpu) for trial in sizes.trials)


def sizes_of(sweep: Sweep) -> list[CaseSizes]:
    """Count what determines the memory of a sweep. Configurations to be searched are spread over their ranges."""
    sizes = []
    for case in sweep.cases:
        asked = [sweep.trials_of(arm, values)[0] for arm in case.arms for values in arm.space.examples(arm.budget)]
        trials = {trial.trial_id: trial for listed in asked for trial in (listed, *listed.built_on)}
        shape = ModelShape.of(case.setting.base_model)
        known = shape is not None
        sizes.append(CaseSizes(case, shape or ModelShape.assumed(), tokens_of(case), tuple(trials.values()), known))
    return sizes


def trial_bytes(
    sweep: Sweep, sizes: CaseSizes, trial: TrialConfig, fit: Fit, on_gpu: bool = False, scored: bool = True
) -> float:
    """Return a worker's memory with a full pack of such trials, besides a base model that workers share.

    Args:
        scored: also count the evaluations.
    """
    number = HALF if on_gpu else FLOAT
    members, execution, shape = [trial] * fit.members(sweep.trials_per_pack), sweep.execution, sizes.shape
    lengths = {stream: float(sizes.tokens.most(trial.method, stream)) for stream in trial.method.streams}
    training = 0.0
    if not trial.is_readout:
        training = training_bytes(
            shape,
            members,
            lengths,
            fit.rows_per_forward,
            execution.gradient_checkpointing,
            number,
            execution.num_workers,
        )
    questions = sizes.tokens.questions
    scoring = [
        evaluation_bytes(shape, each, questions[each.name], len(members), number) for each in sizes.case.observed_here
    ]
    held, quantize = 0.0, sizes.case.setting.base_model.quantize
    if on_gpu:
        held = shape.weight_bytes(HALF, quantize) / (execution.num_workers if execution.shard_base else 1)
        held += kept_on_gpu(*_cache_bytes(sweep, sizes, trial)) if execution.cache_references else 0.0
    elif quantize:
        held = shape.weight_bytes(FLOAT, quantize)  # each worker quantises for itself
    if not on_gpu and trial.method.needs_pretrained:
        held += shape.weight_bytes(FLOAT)  # the model that the base model was tuned from, read only for this pack
    return PROCESS_BYTES + held + max([training, _preparing_bytes(sizes, trial), *(scoring if scored else ())])


def _preparing_bytes(sizes: CaseSizes, trial: TrialConfig) -> float:
    """Return the memory of the hidden states by which a method prepares: sums over rows, and a batch of positions."""
    streams = {asked.stream for asked in trial.method.passes if asked.kind == "states"}
    rows = sum(len(sizes.case.setting.streams[stream]) for stream in streams)
    longest = max((sizes.tokens.most(trial.method, stream) for stream in streams), default=0)
    of_token = sizes.shape.layers * sizes.shape.width
    batch = min(ROWS_PER_PASS * longest * of_token * FLOAT, max(ROW_STATES_BYTES, longest * of_token * FLOAT))
    return rows * of_token * DOUBLE + 2 * batch  # as the layers return them, and only the positions that count


def _cache_bytes(sweep: Sweep, sizes: CaseSizes, trial: TrialConfig) -> tuple[float, float]:
    """Return how much cache a pack of such trials reads on a GPU: states below its adapters, and references."""
    shape, tokens, setting, method = sizes.shape, sizes.tokens, sizes.case.setting, trial.method
    below = references = 0.0
    if shape.upper_part([trial.adapter]).layers < shape.layers and not sweep.execution.shard_base:
        read = () if trial.is_readout else method.streams
        below = prefix_tokens(setting, [(stream, tokens.trained(method, stream)) for stream in read], tokens)
    for stream in () if trial.is_readout else method.reference:
        lengths = tokens.trained(method, stream)
        of_row = lengths.response if method.positions(stream) == "response" else lengths.total
        states = 1 + (shape.layers if stream in method.layers else 0)
        references += len(setting.streams[stream]) * of_row * states
    return below * shape.width * HALF, references * shape.width * HALF


def evaluation_bytes(shape: ModelShape, evaluation: Evaluation, lengths: Lengths, members: int, number: int) -> float:
    """Return the memory to observe a pack: activations of one layer, logits, and keys and values of replies."""
    rows = len(evaluation.examples)
    if evaluation.observe not in ("reply", "reply_and_preference"):
        rows = min(rows, QUESTIONS_PER_BATCH)
        logits = min(rows * lengths.response * shape.vocabulary, LOGITS) * LOGIT_COPIES * FLOAT
        kept = rows * lengths.most * shape.layers * 2 * shape.keys * number if evaluation.compares else 0.0
        return kept + rows * lengths.most * shape.width * PASSING * number + logits
    rows = min(rows, max(1, REPLIES_PER_BATCH // members)) * members
    kept = rows * (lengths.prompt + evaluation.max_new_tokens) * shape.layers * 2 * shape.keys * number
    return kept + rows * (lengths.prompt * shape.width * PASSING * number + shape.vocabulary * 2 * FLOAT)


def settle(sweep: Sweep, cases: Sequence[CaseSizes], room: Room, record: LedgerState | None) -> Fit:
    """Return the fit of a sweep: what an earlier start has fixed, or else what is chosen now.

    A sweep that trained packs before anything was fixed had all rows at a time. What `Execution` says about rows wins.
    """
    chosen = None
    if record:
        chosen = record.fit or (Fit() if record.dispatched or record.outcomes else None)
    fit = chosen or choose(sweep, cases, room)
    rows = sweep.execution.rows_per_forward
    return fit if rows == "auto" else replace(fit, rows_per_forward=rows)


def choose(sweep: Sweep, cases: Sequence[CaseSizes], room: Room) -> Fit:
    """Choose the largest packs, and then the largest micro-batches, that fit; the smallest if none do.

    Smaller packs are tried before micro-batches: half a pack is as fast per trial to within a fifth, but the rows of a
    micro-batch go forward twice. What `Execution` says about rows is kept.
    """
    fit = Fit()
    for fit in _candidates(sweep, cases):
        if shortage(sweep, cases, fit, room) is None:
            break
    return fit


def _candidates(sweep: Sweep, cases: Sequence[CaseSizes]) -> Iterator[Fit]:
    rows, size = sweep.execution.rows_per_forward, sweep.trials_per_pack
    fixed_rows = None if rows == "auto" else rows
    yield Fit(fixed_rows)
    while size > 1:
        size = -(-size // 2)
        yield Fit(fixed_rows, size)
    if rows != "auto":
        return
    most = max(
        trial.method.rows_per_step(stream, trial.sizes)
        for sizes in cases
        for trial in sizes.trials
        for stream in trial.method.streams
    )
    number = 2 ** max(0, math.ceil(math.log2(most)) - 1)  # the largest power of two below
    while number:
        yield Fit(number, 1)
        number //= 2


def shortage(sweep: Sweep, cases: Sequence[CaseSizes], fit: Fit, room: Room) -> CaseSizes | None:
    """Return the setting that takes the most memory, if that is more than there is."""
    if room.worker is None:
        return None
    needs = [(worker_bytes(sweep, sizes, fit, room.on_gpu), sizes) for sizes in cases]
    need, sizes = max(needs, key=lambda pair: pair[0])
    return sizes if need > room.worker else None


def describe(sweep: Sweep, cases: Sequence[CaseSizes], fit: Fit, room: Room) -> str:
    """Say in a line what was made smaller, or what is lacking and would help; "" if everything is as requested.

    Raise UserError if not even one row of one trial can be trained, and the base model is on this machine.
    """
    if room.worker is None and room.on_gpu and sweep.execution.rows_per_forward == "auto":
        return "no GPU here reports its memory: the first start that finds one makes packs and micro-batches fit"
    short = shortage(sweep, cases, fit, room)
    if short is None:
        return _made_smaller(sweep, cases, fit, room)
    assert room.worker is not None
    need = worker_bytes(sweep, short, fit, room.on_gpu)
    where = "of the GPU's memory" if room.on_gpu else "of memory"
    line = (
        f"a worker needs {need / GIGABYTE:.1f} GB {where} for {short.case.label}, but there are only"
        f" {max(0.0, room.worker) / GIGABYTE:.1f} GB for each"
    )
    smallest = fit.members(sweep.trials_per_pack) == 1 and fit.rows_per_forward == 1
    helps = _helpful(sweep, smallest, room.on_gpu)
    trained = max(trial_bytes(sweep, short, trial, fit, room.on_gpu, scored=False) for trial in short.trials)
    if smallest and short.known and trained - PROCESS_BYTES > room.worker:  # a process may need less than planned
        raise UserError(f"sweep {sweep.name!r}: {line}, even with one row of one trial at a time; {helps}")
    return f"{line}; {helps}"


def _made_smaller(sweep: Sweep, cases: Sequence[CaseSizes], fit: Fit, room: Room) -> str:
    changes = []
    if (size := fit.members(sweep.trials_per_pack)) < sweep.trials_per_pack:
        changes.append(f"packs have {size} instead of {sweep.trials_per_pack} trials")
    if sweep.execution.rows_per_forward == "auto" and fit.rows_per_forward is not None:
        rows = f"{fit.rows_per_forward} row{'s' if fit.rows_per_forward > 1 else ''}"
        changes.append(f"{rows} of a step go through the model at a time")
    if not changes or room.worker is None:
        return ""
    return f"to fit {room.worker / GIGABYTE:.1f} GB of memory per worker, {' and '.join(changes)}"


def _helpful(sweep: Sweep, smallest: bool, on_gpu: bool) -> str:
    execution = sweep.execution
    options = []
    if not smallest and execution.rows_per_forward != "auto":
        options.append('rows_per_forward="auto"')
    if not execution.gradient_checkpointing:
        options.append("gradient_checkpointing=True")
    if on_gpu:
        options.append("shard_base=True with several workers" if not execution.shard_base else "more workers")
    else:
        options.append("a larger cpus_per_pack (fewer workers at a time)")
    return f"{' or '.join(options)} would help" if options else "another machine would help"


def shared_bytes(cases: Sequence[CaseSizes]) -> float:
    """Return the bytes of the base models that the workers of a machine map from files, each counted once."""
    models = {str(sizes.case.setting.base_model.to_json()): sizes for sizes in cases}
    return sum(
        sizes.shape.weight_bytes(FLOAT)
        for sizes in models.values()
        if not (isinstance(sizes.case.setting.base_model, NanoModel) or sizes.case.setting.base_model.quantize)
    )


def free_memory() -> float:
    """Return the bytes of main memory that this machine, or the container that this process runs in, has left.

    In a container, too, cached files count as free: the kernel frees them on demand.
    """
    free = float(psutil.virtual_memory().available)
    for limit, usage, details in zip(LIMITS, USAGES, DETAILS, strict=True):
        numbers = [path.read_text().strip() for path in (limit, usage) if path.is_file()]
        if len(numbers) == len((limit, usage)) and all(number.isdecimal() for number in numbers):
            used = max(0.0, float(numbers[1]) - _file_bytes(details))
            free = min(free, float(numbers[0]) - used)
    return free


def _file_bytes(details: Path) -> float:
    """Return the bytes of files cached by a container. Version 1 of cgroups lists them with and without subgroups."""
    if not details.is_file():
        return 0.0
    pairs = (line.split() for line in details.read_text().splitlines())
    numbers = {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    return sum(numbers.get(f"total_{name}", numbers.get(name, 0.0)) for name in FILE_PAGES)


def room_of(sweep: Sweep, share: float | None, gpu: float | None = None) -> Room:
    """Return the memory that each worker may use.

    Args:
        share: its share of the main memory that base models leave; None if not known.
        gpu: bytes of the smallest GPU that a worker may get; None if not known.
    """
    execution = sweep.execution
    if execution.gpus_per_pack:
        part = min(1.0, execution.gpus_per_pack / execution.num_workers)
        return Room(None if gpu is None else gpu * (1 - SPARE) * part, on_gpu=True)
    if execution.memory_per_pack:
        return Room(execution.memory_per_pack * GIGABYTE / execution.num_workers)
    return Room(None if share is None else share * (1 - SPARE))
