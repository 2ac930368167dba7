"""How much arithmetic a trial is: the operations of each pass through a base model.

A multiplication and an addition count as two operations, reading an embedding as none. Frozen weights have no gradients
of their own, so a backward pass costs as much as a forward pass; low-rank adapters have them, and cost twice as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from settings.replies.left_here import without_reply
from settings.setting import Evaluation, Setting, Stream
from sweeps.planning.tokens import CaseTokens, Lengths
from trainables.engine.memory import ModelShape
from trainables.interface.preparation import Pass
from trainables.trial import TrialConfig

QUESTIONS_PER_BATCH = REPLIES_PER_BATCH = 256  # rows of all members together, as in `likelihood` and `generate`
ROWS_PER_PASS = 32  # that the base model reads at a time to cache its outputs, see `reference_cache`
ROWS_WITH_GRADIENTS = 16  # rows per pass if each has its own gradient, see `Passes`
ASKED_STEPS = 2  # first steps, which ask the base model itself for the reference (`PackTraining.member_step`)


@dataclass(frozen=True)
class Work:
    """Operations of a kind, and how often a layer is called for them.

    Attributes:
        training: operations of forward passes with their backward passes.
        reading: operations of forward passes without one.
        replying: operations of passes of one token per row.
        calls: calls of a layer in training and reading, forward and backward.
        reply_calls: calls of a layer for one token per row.
        steps: optimizer steps.
        replies: replies that are sampled, decoded and graded.
    """

    training: float = 0
    reading: float = 0
    replying: float = 0
    calls: float = 0
    reply_calls: float = 0
    steps: float = 0
    replies: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + others for mine, others in zip(self._numbers, other._numbers, strict=True)))

    def times(self, factor: float) -> Work:
        """Return the work of doing it `factor` times."""
        return Work(*(number * factor for number in self._numbers))

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self.training, self.reading, self.replying, self.calls, self.reply_calls, self.steps, self.replies


@dataclass(frozen=True)
class TrialWork:
    """The work of one trial in a pack.

    Attributes:
        training: work of its updates; nothing for a readout.
        scoring: evaluation -> work of its replies or losses.
    """

    training: Work
    scoring: Mapping[str, Work] = field(default_factory=dict)

    @property
    def total(self) -> Work:
        """Training and scoring."""
        return sum(self.scoring.values(), start=self.training)


def forward_operations(shape: ModelShape, tokens: float, length: float, rank: int = 0) -> float:
    """Return the operations of a forward pass without the head.

    Args:
        tokens: number of tokens that go through the layers.
        length: number of tokens that each attends to.
        rank: rank of the adapters; 0 means none.
    """
    attention = 4 * shape.layers * length * (shape.queries or shape.width)
    return tokens * (2 * shape.linear + attention + 2 * rank * shape.adapted)


def head_operations(shape: ModelShape, positions: float) -> float:
    """Return the operations of the logits at some positions."""
    return 2 * positions * shape.width * shape.vocabulary


def step_work(
    shape: ModelShape,
    trial: TrialConfig,
    tokens: CaseTokens,
    members: int = 1,
    rows_per_forward: int | None = None,
    asks_base: bool = False,
    cached: bool = True,
) -> Work:
    """Return the work of one member's update.

    Args:
        members: number of members of its pack, whose rows are padded to a common length.
        rows_per_forward: see `train_step`; more than one micro-batch costs one more forward pass.
        asks_base: also run the base model on the rows that the method refers to.
        cached: begin at the lowest adapted layer, forward and backward; states below it are cached.
    """
    method, rank, upper = trial.method, trial.adapter.rank, shape.upper_part([trial.adapter])
    shape = upper if cached else replace(shape, adapted=upper.adapted)
    work = Work(steps=1)
    for stream in method.streams:
        rows = method.rows_per_step(stream, trial.sizes)
        lengths = tokens.trained(method, stream)
        sent = rows * members if rows_per_forward is None else min(rows * members, rows_per_forward)
        length = lengths.longest_of(sent)
        there = forward_operations(shape, rows * length, length, rank)
        back = forward_operations(upper, rows * length, length, rank) + 2 * rank * upper.adapted * rows * length
        positions = rows * (lengths.response if method.positions(stream) == "response" else length)
        passes = there + back + 2 * head_operations(shape, positions)
        again = sent < rows * members
        calls = ((2 if again else 1) * shape.layers + upper.layers) * rows / sent
        reading = head_operations(shape, positions) if stream in method.reference else 0.0
        if stream in method.reference and asks_base:
            reading += forward_operations(shape, rows * length, length)
            calls += rows / sent * shape.layers
        work += Work(training=passes, reading=reading + (there if again else 0.0), calls=calls)
    return work


def training_work(
    shape: ModelShape,
    trial: TrialConfig,
    tokens: CaseTokens,
    members: int = 1,
    rows_per_forward: int | None = None,
    cached: bool = True,
) -> Work:
    """Return the work of a member's training; nothing for a readout.

    Args:
        cached: whether the base model's outputs on rows are cached (`cache_references`).
    """
    if trial.is_readout:
        return Work()
    asking = min(ASKED_STEPS, trial.updates) if cached else trial.updates
    if not trial.method.reference:
        asking = 0
    usual = step_work(shape, trial, tokens, members, rows_per_forward, cached=cached)
    first = step_work(shape, trial, tokens, members, rows_per_forward, asks_base=True, cached=cached)
    return usual.times(trial.updates - asking) + first.times(asking)


def outputs_work(shape: ModelShape, rows: int, lengths: Lengths, rank: int = 0) -> Work:
    """Return the work of hidden states on rows: of the base model, or with a finished adapter of rank `rank`."""
    reading = forward_operations(shape, rows * lengths.total, lengths.total, rank)
    return Work(reading=reading, calls=-(-rows // ROWS_PER_PASS) * shape.layers)


def pass_work(shape: ModelShape, setting: Setting, trial: TrialConfig, asked: Pass, tokens: CaseTokens) -> Work:
    """Return the work of a pass by which a trial's method prepares.

    Outputs go through the head, states do not, and gradients go back to the lowest adapted layer for each row.
    """
    rows, lengths = len(setting.streams[asked.stream]), tokens.trained(trial.method, asked.stream)
    rank = trial.adapter.rank if asked.prior is not None or asked.kind == "squared_gradients" else 0
    counted = lengths.response if trial.method.positions(asked.stream) == "response" else lengths.total
    head = head_operations(shape, rows * counted)
    there = outputs_work(shape, rows, lengths, rank)
    if asked.kind == "states":
        return there
    if asked.kind == "outputs":
        return there + Work(reading=head)
    upper, number = shape.upper_part([trial.adapter]), rows * lengths.total
    back = forward_operations(upper, number, lengths.total, rank) + 2 * rank * upper.adapted * number
    calls = -(-rows // ROWS_WITH_GRADIENTS) * (shape.layers + upper.layers)
    return Work(training=there.reading + back + 2 * head, calls=calls)


def own_replies_work(shape: ModelShape, setting: Setting, stream: Stream, tokens: CaseTokens) -> Work:
    """Return the work of the base model's replies to the prompts of a stream, all as long as its longest response."""
    rows, lengths = len(setting.streams[stream]), tokens.streams[stream]
    longest = max(response for _, response in lengths.rows)
    reading = forward_operations(shape, rows * lengths.prompt, lengths.prompt)
    replying = forward_operations(shape, rows * (longest - 1), lengths.prompt + longest / 2)
    replying += head_operations(shape, rows * longest)
    calls = -(-rows // REPLIES_PER_BATCH) * shape.layers
    return Work(reading=reading, replying=replying, calls=calls, reply_calls=calls * (longest - 1))


def prefix_tokens(setting: Setting, read: Iterable[tuple[Stream, Lengths]], tokens: CaseTokens) -> float:
    """Return the number of tokens whose states below the lowest adapted layer are cached.

    Args:
        read: streams, with the lengths of their rows as trained on; evaluations by likelihood are added.
        tokens: tokens of the setting.
    """
    of_streams = sum(len(setting.streams[stream]) * lengths.total for stream, lengths in read)
    likelihoods = [each for each in setting.evaluations if each.observe != "reply"]
    return of_streams + sum(_texts(each) * tokens.questions[each.name].total for each in likelihoods)


def prefix_work(shape: ModelShape, first_layer: int, tokens: float, length: float) -> Work:
    """Return the work of the layers below `first_layer` on `tokens` tokens, which a sweep computes once."""
    below = replace(
        shape, layers=first_layer, parameters=shape.parameters - shape.linear * (1 - first_layer / shape.layers)
    )
    calls = -(-tokens / max(1.0, length) // QUESTIONS_PER_BATCH) * first_layer
    return Work(reading=forward_operations(below, tokens, length), calls=calls)


def _texts(evaluation: Evaluation) -> int:
    """Return how many texts an evaluation by likelihood reads."""
    return sum(1 + len(getattr(example, "alternatives", ())) for example in evaluation.examples)


def _prompts(evaluation: Evaluation) -> int:
    """Return how many distinct prompts an evaluation has; each is read once."""
    return len({example.prompt_key for example in evaluation.examples})


def evaluation_work(
    shape: ModelShape,
    evaluation: Evaluation,
    lengths: Lengths,
    rank: int = 0,
    members: int = 1,
    upper: ModelShape | None = None,
) -> Work:
    """Return the work of one member's observations. Evaluations without replies read each row once.

    Args:
        upper: the part of the model that each member computes; None means all of it.
    """
    work, upper = Work(), upper or shape
    if evaluation.observe in ("reply", "reply_and_preference"):
        work += _replies_work(shape, evaluation, lengths, rank, members, upper)
    if evaluation.observe != "reply":
        texts = _texts(evaluation)
        read = texts * lengths.total
        if evaluation.compares:  # each prompt once, to predict the first token of every reply
            read = _prompts(evaluation) * lengths.prompt + texts * (lengths.response - 1)
        reading = forward_operations(upper, read, lengths.total, rank) + head_operations(
            shape, texts * lengths.response
        )
        work += Work(reading=reading, calls=-(-texts // QUESTIONS_PER_BATCH) * upper.layers)
    return work


def _replies_work(
    shape: ModelShape, evaluation: Evaluation, lengths: Lengths, rank: int, members: int, upper: ModelShape
) -> Work:
    """Return the work of reading each prompt once, and then as many single tokens as a reply may have.

    The layers below the adapters read prompts once for all members, and new tokens for each.
    """
    questions = len(evaluation.examples)
    prompts = _prompts(evaluation)
    chunks = -(-questions // max(1, REPLIES_PER_BATCH // members))
    # The prompt's last state gives the first token, so the last token is never read.
    new = max(0, evaluation.max_new_tokens - 1)
    reading = forward_operations(upper, prompts * lengths.prompt, lengths.prompt, rank)
    below = forward_operations(shape, 1, lengths.prompt) - forward_operations(upper, 1, lengths.prompt)
    reading += below * prompts * lengths.prompt / members
    shape = replace(shape, adapted=upper.adapted)
    replying = forward_operations(shape, questions * new, lengths.prompt + new / 2, rank)
    replying += head_operations(shape, questions * evaluation.max_new_tokens)
    calls = chunks * shape.layers / members
    return Work(reading=reading, replying=replying, calls=calls, reply_calls=calls * new, replies=questions)


def trial_work(
    shape: ModelShape,
    setting: Setting,
    trial: TrialConfig,
    tokens: CaseTokens,
    members: int = 1,
    rows_per_forward: int | None = None,
    cached: bool = True,
) -> TrialWork:
    """Return the work of a trial in a pack of `members` trials."""
    rank, upper = trial.adapter.rank, shape.upper_part([trial.adapter])
    upper = upper if cached else replace(shape, adapted=upper.adapted)
    evaluations = [each if trial.replies == "here" else without_reply(each) for each in setting.evaluations]
    here = [each for each in evaluations if each is not None]
    scoring = {
        each.name: evaluation_work(shape, each, tokens.questions[each.name], rank, members, upper) for each in here
    }
    if trial.decoding_mix != 1.0:  # the base model reads the same rows in the same passes
        for each in here:
            base = evaluation_work(shape, each, tokens.questions[each.name], 0, members, upper)
            scoring[each.name] += replace(base, calls=0, reply_calls=0, replies=0)
    return TrialWork(training_work(shape, trial, tokens, members, rows_per_forward, cached), scoring)
