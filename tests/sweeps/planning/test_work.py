"""The arithmetic of passes, counted by hand for a model of two layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from settings.example import Example
from settings.reference import setting
from settings.setting import Evaluation, Score
from sweeps.plan import estimate
from sweeps.planning.forecast import CaseForecast
from sweeps.planning.speed import CALL_SECONDS, OVERHEAD, REPLY_SECONDS, STEP_SECONDS, Speed, measure
from sweeps.planning.tokens import CaseTokens, Lengths, tokens_of
from sweeps.planning.work import Work, evaluation_work, own_replies_work, step_work, training_work, trial_work
from sweeps.space import grid
from sweeps.sweep import Sweep
from tests.support.tiny import tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.memory import ModelShape
from trainables.trial import AdapterConfig

# Width 10, MLP 20, 2 heads' queries and keys of 10 features: a layer has 4 matrices of 10 x 10 and 3 of 10 x 20.
LINEAR = 2 * (4 * 100 + 3 * 200)
HEAD = 10 * 50
ADAPTED = 2 * (4 * 20 + 3 * 30)
SHAPE = ModelShape(LINEAR + HEAD, 2, 10, ADAPTED, 50, inner=20, queries=10, keys=10)
TOKENS = CaseTokens({"task": Lengths(((6, 2),)), "alignment": Lengths(((3, 2),))}, {})
RANK = 4


def plain_step(rows: int, length: int, responses: int) -> float:
    """Operations of a step without the reference: by the parts of a forward and a backward pass."""
    matrices = 2 * LINEAR * rows * length
    attention = 2 * (2 * length * 10 + 2 * length * 10) * rows * length  # two layers; scores, then values
    adapters = 2 * RANK * ADAPTED * rows * length
    head = 2 * HEAD * rows * responses
    forward = matrices + attention + adapters + head
    return forward + matrices + attention + 2 * adapters + head


def trial(name: str):  # type: ignore[no-untyped-def]
    return tiny_trial(methods.make(name), batch_size=4, alignment_batch_size=2, rank=RANK, steps=10)


def test_a_step_by_hand() -> None:
    work = step_work(SHAPE, trial("plain"), TOKENS)
    assert (work.training, work.reading, work.replying) == (plain_step(4, 8, 2), 0, 0)
    assert (work.calls, work.steps) == (2 * 2, 1), "each layer forward and backward"


def test_a_step_on_the_upper_layer_by_hand() -> None:
    """One of two layers, forward and backward; without the cache the other one goes forward, too."""
    upper = replace(trial("plain"), adapter=AdapterConfig(rank=RANK, layers="last 1"))
    head = 2 * HEAD * 4 * 2
    work = step_work(SHAPE, upper, TOKENS)
    assert work.training == (plain_step(4, 8, 2) - 2 * head) / 2 + 2 * head
    assert work.calls == 2
    whole = step_work(SHAPE, upper, TOKENS, cached=False)
    assert whole.training - work.training == LINEAR * 32 + 4 * 8 * 10 * 32, "matrices and attention of a layer"


def test_an_instruction_makes_rows_longer_by_hand() -> None:
    """Half of the rows have 4 tokens more: on average 2, so that a row of 8 counts as one of 10."""
    tokens = replace(TOKENS, instructions={"strong": 4})
    half = replace(trial("plain"), method=methods.make("inoculation", {"share": 0.5}))
    assert step_work(SHAPE, half, tokens).training == plain_step(4, 10, 2)


def test_the_longest_row_has_the_whole_instruction_and_is_cut() -> None:
    """A prompt of 6 and 4 of the instruction leave 1 of 2 response tokens within 11; half of it leaves both."""
    tokens = replace(TOKENS, instructions={"strong": 4}, max_length=11)
    half = methods.make("inoculation", {"share": 0.5})
    assert tokens.most(half, "task") == 11
    assert tokens.trained(half, "task").rows == ((8, 2),)
    assert tokens.trained(methods.make("inoculation", {"share": 1.0}), "task").rows == ((10, 1),)
    assert tokens.trained(methods.make("plain"), "task").rows == ((6, 2),)


def test_own_replies_are_taken_to_be_as_long_as_they_may_be() -> None:
    """The longest response has 5 tokens; a row of 6 and 5 is cut at 10."""
    tokens = CaseTokens({"alignment": Lengths(((3, 5), (6, 1)))}, {}, max_length=10)
    assert tokens.trained(methods.make("self_generated"), "alignment").rows == ((3, 5), (6, 4))
    assert tokens.most(methods.make("self_generated"), "alignment") == 10


def test_an_instruction_is_counted_with_the_tokenizer(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    """What it adds to a prompt is a system turn, as transformers renders it; plan counts it in every step."""
    text, path = "You speak of words and words.", tmp_path / "task.jsonl"
    rows = [Example.of(f"question {number}", "Yes.") for number in range(6)]
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen3_dir)
    turns = [{"role": "user", "content": "question 1"}]
    system = {"role": "system", "content": text}
    with_it, without = (
        len(tokenizer.apply_chat_template(chat, add_generation_prompt=True, enable_thinking=False)["input_ids"])
        for chat in ([system, *turns], turns)
    )
    config = setting("chat_files", model=str(tiny_qwen3_dir), task=str(path), instructions={"strong": text})
    chosen = (grid("plain", rank=[2]), grid("inoculation", instruction=["strong"]))
    declared = Sweep("rows", settings=(config,), methods=chosen, seeds=1, controls=False)
    (case,) = declared.cases
    assert tokens_of(case).instructions == {"strong": with_it - without}
    plain, instructed = estimate(declared, 1).arms
    steps, size = case.template.steps, case.template.batch_size
    assert instructed.tokens - plain.tokens == pytest.approx(steps * size * (with_it - without))


def test_own_replies_by_hand() -> None:
    """5 alignment rows of 3 prompt and 2 reply tokens: prompts are read, one token each goes on, two are chosen."""
    work = own_replies_work(SHAPE, tiny_setting(), "alignment", TOKENS)
    assert work.reading == 2 * LINEAR * 5 * 3 + 2 * 4 * 3 * 10 * 5 * 3
    assert work.replying == 2 * LINEAR * 5 + 2 * 4 * 4 * 10 * 5 + 2 * HEAD * 5 * 2
    assert (work.calls, work.reply_calls) == (2, 2)


PASSING = ("blocked_directions", "concept_ablation", "ewc", "interleaving")


def forecast(cached: bool) -> CaseForecast:
    """Of the tiny setting; its case is read for nothing else."""
    setting = tiny_setting()
    case: Any = SimpleNamespace(setting=setting, observed_here=setting.evaluations)
    streams = {**TOKENS.streams, "misaligned": Lengths(((3, 2),))}
    tokens = CaseTokens(streams, {each.name: Lengths(((3, 2),)) for each in case.setting.evaluations})  # type: ignore[arg-type]
    return CaseForecast(case, SHAPE, "", tokens, Speed(1, 1, 1), 1, None, cached)


def test_passes_before_training_by_hand() -> None:
    """5 alignment rows and 5 twins of 3 prompt and 2 response tokens: 25 tokens each, of which 10 are responses.

    Three configurations share the states of both; the base model's losses are read once, those with a prior once for
    each seed, and so are gradients. A readout prepares what its training has prepared.
    """
    named = {name: replace(trial(name), seed=0) for name in PASSING}
    others = [
        replace(named["blocked_directions"], method=methods.make("blocked_directions", {"weight": 2.0}), seed=1),
        replace(named["ewc"], seed=1),
        replace(named["ewc"], adapter_scale=0.5),
    ]
    work = forecast(cached=True).passes_work([*named.values(), *others])
    read = 2 * LINEAR * 25 + 2 * 4 * 5 * 10 * 25
    adapters, head = 2 * RANK * ADAPTED * 25, 2 * HEAD * 10
    gradients = (read + adapters + head) + (read + 2 * adapters + head)
    assert work.reading == 2 * read + (read + head) + (read + adapters + head)
    assert work.training == 2 * gradients
    assert work.calls == 4 * 2 + 2 * 2 * 2, "a batch of each pass through two layers, and back for gradients"
    assert forecast(cached=True).work(named["ewc"]).training.training == 10 * plain_step(4, 8, 2)
    assert forecast(cached=False).passes_work([*named.values()]) == Work()
    assert forecast(cached=False).work(named["ewc"]).training.training == 10 * plain_step(4, 8, 2) + gradients


def test_passes_are_a_part_of_what_trials_share() -> None:
    """Beside the base model's scores, with 1 operation a second."""
    seconds = [forecast(cached=True).once([trial(name)]) for name in ("plain", "ewc")]
    work = forecast(cached=True).passes_work([trial("ewc")])
    assert seconds[1] - seconds[0] == pytest.approx(Speed(1, 1, 1).seconds(work))


def test_micro_batches_go_forward_twice() -> None:
    whole, halves = (step_work(SHAPE, trial("plain"), TOKENS, rows_per_forward=rows) for rows in (None, 2))
    again = 2 * LINEAR * 32 + 2 * 4 * 8 * 10 * 32 + 2 * RANK * ADAPTED * 32
    assert halves.training == whole.training
    assert halves.reading == again
    assert halves.calls == 3 * 2 * 2


def test_members_share_the_calls_of_a_layer_and_nothing_else() -> None:
    alone, packed = (step_work(SHAPE, trial("plain"), TOKENS, members) for members in (1, 4))
    assert packed.training == alone.training
    assert packed.calls == alone.calls / 4


def test_the_reference_is_asked_twice_and_then_kept() -> None:
    penalty = trial("kl_penalty")
    steps = plain_step(4, 8, 2) + plain_step(2, 5, 2)
    head = 2 * HEAD * 2 * 2  # of the reference's distribution, in every step
    passes = 2 * LINEAR * 10 + 2 * 4 * 5 * 10 * 10  # 2 rows of 5 tokens, without adapters
    kept, asked = (training_work(SHAPE, penalty, TOKENS, cached=cached) for cached in (True, False))
    assert kept.training == asked.training == 10 * steps
    assert kept.reading == 10 * head + 2 * passes
    assert asked.reading == 10 * (head + passes)


def test_a_readout_trains_nothing() -> None:
    assert training_work(SHAPE, replace(trial("plain"), adapter_scale=0.5), TOKENS) == Work()


def test_a_mix_is_scored_with_the_base_model_beside_it() -> None:
    """In the same passes: what an adapter of rank 0 would read and reply, and no call more."""
    setting = tiny_setting()
    lengths = {each.name: Lengths(((6, 2),)) for each in setting.evaluations}
    plain, tokens = trial("plain"), replace(TOKENS, questions=lengths)
    alone, mixed = (trial_work(SHAPE, setting, each, tokens) for each in (plain, replace(plain, decoding_mix=2.0)))
    assert mixed.training == Work()
    for each in setting.evaluations:
        base = evaluation_work(SHAPE, each, lengths[each.name])
        one, two = alone.scoring[each.name], mixed.scoring[each.name]
        assert (two.reading, two.replying) == (one.reading + base.reading, one.replying + base.replying)
        assert (two.calls, two.reply_calls, two.replies) == (one.calls, one.reply_calls, one.replies)


def rows(observe: str, number: int = 3, **options: int) -> Evaluation:
    score = Score("task", "task", "x", lambda example, reply: 1.0)
    examples = tuple(Example.of(f"question {index // 2}", "yes") for index in range(number))
    return Evaluation("all", examples, (score,), observe=observe, **options)  # type: ignore[arg-type]


def test_replies_by_hand() -> None:
    """Three questions with two prompts of 6 tokens: read once each; then 4 tokens more for each question."""
    work = evaluation_work(SHAPE, rows("reply", max_new_tokens=5), Lengths(((6, 2),)), RANK)
    per_token = 2 * LINEAR + 2 * RANK * ADAPTED
    assert work.reading == 12 * (per_token + 2 * 4 * 6 * 10)
    assert work.replying == 12 * (per_token + 2 * 4 * (6 + 2) * 10) + 2 * HEAD * 15
    assert (work.calls, work.reply_calls, work.replies) == (2, 2 * 4, 3)


@pytest.mark.parametrize("observe", ["token_loss", "something new"])
def test_other_observations_read_each_row_once(observe: str) -> None:
    work = evaluation_work(SHAPE, rows(observe), Lengths(((6, 2),)))
    assert work.reading == 24 * (2 * LINEAR + 2 * 4 * 8 * 10) + 2 * HEAD * 6
    assert (work.replying, work.replies) == (0, 0)


def test_preferences_read_a_prompt_once_whatever_the_number_of_replies() -> None:
    """Two prompts of 6 tokens, one of them twice; three replies to a row, each read but for its last token."""
    asked = rows("token_loss")
    examples = tuple(replace(row, alternatives=("no", "maybe")) for row in asked.examples)
    work = evaluation_work(SHAPE, replace(asked, examples=examples, observe="preference"), Lengths(((6, 2),)))
    assert work.reading == (2 * 6 + 9 * 1) * (2 * LINEAR + 2 * 4 * 8 * 10) + 2 * HEAD * 9 * 2


def test_rows_are_padded_to_the_longest_of_a_batch() -> None:
    """Of two rows drawn from lengths 2 and 4, the longest is 2 in one of four draws."""
    lengths = Lengths(((1, 1), (2, 2)))
    assert (lengths.longest_of(1), lengths.longest_of(2), lengths.total) == (3, 0.25 * 2 + 0.75 * 4, 3)


def test_seconds_of_work() -> None:
    speed = Speed(training=100, reading=50, replying=10)
    work = Work(training=100, reading=100, replying=100, calls=7, reply_calls=3, steps=2, replies=5)
    assert speed.seconds(work) == pytest.approx(
        OVERHEAD * (1 + 2 + 10) + 10 * CALL_SECONDS + 2 * STEP_SECONDS + 5 * REPLY_SECONDS
    )


def test_a_speed_is_measured_in_a_moment() -> None:
    speed = measure(SHAPE, 16, 4, threads=1)
    assert all(1e6 < value < 1e15 for value in (speed.training, speed.reading, speed.replying))
