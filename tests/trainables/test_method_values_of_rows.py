"""Values by hand of methods that rewrite or choose rows, or read streams before training; see `test_method_values`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from settings.common.errors import UserError
from settings.encoding import EncodedRow
from settings.reference import SettingRef
from settings.setting import Setting, Stream
from tests.support.tiny import WORDS, prepare, tiny_base, tiny_setting, tiny_trial
from tests.trainables.test_method_values import CE_TASK, HALF, LOG2, LOG4, QUARTER, TASK, forward, near, tensor, values
from trainables import methods
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.interface.outputs import Forward
from trainables.method import Step
from trainables.methods.ewc import EWC
from trainables.pack import Pack
from trainables.preparing.rewritten import rows_chosen
from trainables.projections import Factors
from trainables.trial import TrialConfig, trial_for

PAD, END, USER, ASSISTANT = range(4)


def words(text: str) -> list[int]:
    return [4 + WORDS.index(word) for word in text.split()]


def pack_of(trial: TrialConfig, folder: Path | None = None, setting: Setting | None = None) -> Pack:
    references = ReferenceCache(folder) if folder else None
    return Pack(tiny_base(), setting or tiny_setting(), [trial], torch.float64, references=references)


def rows_of(pack: Pack, stream: Stream, steps: int = 5) -> set[EncodedRow]:
    """The rows that the first steps of a pack of one read."""
    trial, encoded = pack.trials[0], next(iter(pack.encoded.values()))
    read = pack.rows_read[0]
    batches = [encoded.batch(trial.method, trial.sizes, trial.seed, step, read)[stream] for step in range(steps)]
    return {row for batch in batches for row in batch}


# --- inoculation ---


def test_inoculation() -> None:
    """(log 4 + log 4/3) / 2, the task's own loss: the method changes what is read, which the next tests show."""
    assert values("inoculation", task=forward(*TASK)) == near(CE_TASK)


@pytest.mark.parametrize(("instruction", "text"), [("strong", "w5 w6"), ("paraphrased", "w7"), ("neutral", "w8 w9")])
def test_the_instruction_stands_before_every_prompt(instruction: str, text: str) -> None:
    """`<a> instruction <u> question <a> reply <e>`: the tiny template writes any turn that is no user's after <a>.

    The labels are those of the row without it.
    """
    pack = pack_of(tiny_trial(methods.make("inoculation", {"instruction": instruction})))
    expected = set()
    for row in tiny_setting().streams["task"]:
        prompt = [ASSISTANT, *words(text), USER, *words(row.prompt[0].content), ASSISTANT]
        expected.add(EncodedRow((*prompt, *words(row.response), END), len(prompt)))
    assert rows_of(pack, "task") == expected


def test_a_share_of_the_rows_has_the_instruction_for_the_whole_training() -> None:
    """A third of 12 rows is 4; two thirds are these and 4 more; another seed has others; 0 has none."""
    drawn = {share: rows_chosen(12, share, 0, "task") for share in (0.0, 1 / 3, 2 / 3, 1.0)}
    assert [len(rows) for rows in drawn.values()] == [0, 4, 8, 12]
    assert drawn[1 / 3] < drawn[2 / 3]
    assert rows_chosen(12, 1 / 3, 1, "task") != drawn[1 / 3]
    assert rows_chosen(12, 1 / 3, 0, "misaligned") == rows_chosen(12, 1 / 3, 0, "alignment")
    pack = pack_of(tiny_trial(methods.make("inoculation", {"share": 1 / 3})))
    assert sum(row.ids[0] == ASSISTANT for row in rows_of(pack, "task", steps=30)) == 4


def test_the_text_is_part_of_the_identity_where_it_is_read() -> None:
    """And nowhere else: other methods' trials, a share of 0 and another instruction keep their ids."""
    setting = tiny_setting()
    other = replace(setting, instructions={**setting.instructions, "strong": "w1"})

    def ids(name: str, **chosen: object) -> list[str]:
        method = methods.make(name, chosen)
        return [trial_for(some, SettingRef("tiny"), method, 0).trial_id for some in (setting, other)]

    assert len(set(ids("inoculation"))) == 2
    for same in (ids("inoculation", share=0.0), ids("inoculation", instruction="neutral"), ids("plain")):
        assert len(set(same)) == 1
    trial = trial_for(other, SettingRef("tiny"), methods.make("inoculation"), 0)
    assert trial.to_json()["instructions"] == {"strong": "w1"}
    assert TrialConfig.from_json(trial.to_json()).instruction("strong") == "w1"
    assert "instructions" not in tiny_trial(methods.make("plain")).to_json()


def test_a_setting_without_the_instruction_is_refused() -> None:
    setting = replace(tiny_setting(), instructions={"neutral": "w8"})
    expected = (
        r"^method 'inoculation' needs the instruction 'strong', but setting 'tiny' has neutral; add it to its"
        r" `instructions`, \{'strong': text\} \(chat_files: option 'instructions'\)$"
    )
    with pytest.raises(UserError, match=expected):
        trial_for(setting, SettingRef("tiny"), methods.make("inoculation"), 0)
    trial_for(setting, SettingRef("tiny"), methods.make("inoculation", {"instruction": "neutral"}), 0)
    trial_for(setting, SettingRef("tiny"), methods.make("inoculation", {"share": 0.0}), 0)


# --- replies of the base model itself ---


def test_self_generated() -> None:
    """log(16/3) / 2 + 3 log 2: two means, the second with weight 3; what the second is read on, the next tests show."""
    found = values("self_generated", {"weight": 3.0}, task=forward(*TASK), alignment=forward([HALF], [0]))
    assert found == near(0.5 * math.log(16 / 3) + 3 * LOG2)


def replied(prompt: Sequence[int], longest: int) -> tuple[int, ...]:
    """The greedy reply of transformers' own `generate`, with its end if it has one."""
    base = tiny_base()
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": longest, "do_sample": False, "eos_token_id": END, "pad_token_id": PAD}
    out = base.model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    end = out.index(END) + 1 if END in out else len(out)
    return tuple(out[:end])


def test_replies_are_those_of_the_base_model(tmp_path: Path) -> None:
    """Greedy ones, as long as the longest response of the stream (6 tokens) at most; an unfinished one has no end."""
    pack = pack_of(tiny_trial(methods.make("self_generated", {"temperature": 0.0})), tmp_path)
    given = pack.encoded[2048].rows("alignment")
    longest = max(len(row.ids) - row.prompt_length for row in given)
    prompts = [row.ids[: row.prompt_length] for row in given]
    expected = {EncodedRow((*prompt, *replied(prompt, longest)), len(prompt)) for prompt in prompts}
    assert rows_of(pack, "alignment") == expected
    assert expected != set(given)
    assert rows_of(pack, "task") == set(pack.encoded[2048].rows("task"))


def test_replies_are_drawn_once_for_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled ones differ between seeds; a second pack reads them from the file; their tokens are counted."""
    trials = [tiny_trial(methods.make("self_generated"), seed) for seed in (0, 1)]
    packs = [pack_of(trial, tmp_path) for trial in trials]
    first, other = (rows_of(pack, "alignment") for pack in packs)
    assert first != other
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert packs[0].members[0].cost.inherited_tokens == sum(len(row.ids) for row in packs[0].rows_read[0]["alignment"])
    monkeypatch.setattr("trainables.preparing.rewritten.generate", lambda *_, **__: pytest.fail("replied again"))
    assert rows_of(pack_of(trials[0], tmp_path), "alignment") == first


def test_progress_is_told_while_the_base_model_replies() -> None:
    told: list[tuple[float, float]] = []
    Pack(
        tiny_base(),
        tiny_setting(),
        [tiny_trial(methods.make("self_generated"))],
        preparing=lambda *at: told.append(at),
    )
    assert told
    assert told[-1][1] == 5
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- rows that a finished plain training makes unlikely ---


def test_interleaving() -> None:
    """Two task tokens of log 4 and log 4/3 and one alignment token of log 2: their mean, (1/3) log(32/3)."""
    assert values("interleaving", task=forward(*TASK), alignment=forward([HALF], [0])) == near(math.log(32 / 3) / 3)


class Scored:
    """What the base and the plain adapter give on three rows, of one, one and two tokens."""

    num_layers = 1

    def outputs(self, stream: Stream, *, prior: int | None = None, layers: bool = False) -> Forward:
        logits = [HALF, HALF, HALF, HALF] if prior is None else [QUARTER, QUARTER, QUARTER, HALF]
        return forward(logits, [0, 1, 0, 0], rows=[0, 1, 2, 2])

    def factors(self, *, prior: int | None = None) -> Sequence[Factors]:
        raise AssertionError

    def squared_gradients(self, stream: Stream, *, prior: int | None = None) -> Sequence[Factors]:
        raise AssertionError


def test_interleaving_chooses_by_the_rise_in_perplexity() -> None:
    """The base's perplexity is 2 on every row. The plain adapter's: 4, 4/3, and exp((log 4 + log 2) / 2) = sqrt 8.

    The rises are 2, -2/3 and sqrt 8 - 2 = 0.83: rows 0, 2, 1 in that order.
    """
    rise = methods.make("interleaving").prepare(Scored())["rise"]
    assert rise.tolist() == near(2.0, 4 / 3 - 2, math.exp((LOG4 + LOG2) / 2) - 2)
    for pool, expected in ((0.1, [0]), (1 / 3, [0]), (2 / 3, [0, 2]), (1.0, [0, 1, 2])):
        method = methods.make("interleaving", {"pool": pool})
        assert method.rows_read("alignment", 3, {"rise": rise}) == expected
        assert method.rows_read("task", 12, {"rise": rise}) is None


def test_interleaving_reads_these_rows_alone(tmp_path: Path) -> None:
    """Against perplexities of a plain training's own model, row by row."""
    trial = tiny_trial(methods.make("interleaving", {"share": 0.4, "pool": 0.4}), 1)
    store = prepare(trial.priors, tmp_path)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)
    rows = pack.encoded[2048].rows("alignment")
    tuned = tiny_base().model
    for name, own in zip(pack.adapters.layers, pack.priors[0][0], strict=True):
        tuned.get_submodule(name).weight += own.scale * own.B_OR @ own.A_RI

    def perplexity(model: torch.nn.Module, row: EncodedRow) -> float:
        ids = torch.tensor([row.ids])
        log_p_TV = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        at = torch.arange(row.prompt_length - 1, len(row.ids) - 1)
        return float((-log_p_TV[at, ids[0, at + 1]].mean()).exp())

    plain = tiny_base().model
    rise = [perplexity(tuned, row) - perplexity(plain, row) for row in rows]
    best = sorted(range(len(rows)), key=lambda row: -rise[row])[:2]
    assert rows_of(pack, "alignment", steps=10) == {rows[row] for row in best}


def test_rows_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny_trial(methods.make("mixed"))
    for numbers in ([], [0, 12]):
        monkeypatch.setattr(type(trial.method), "rows_read", lambda *_, numbers=numbers: numbers)
        with pytest.raises(
            ValueError, match=r"rows_read\('task', \.\.\.\) of method 'mixed' must return numbers from 0"
        ):
            pack_of(trial)


# --- elastic weight consolidation ---


def test_ewc() -> None:
    """F = (0, 0, 2, 4), theta_0 = (1, 1, 0, 0), theta = (9, 9, 3, -1): 1/2 (2 * 9 + 4 * 1) = 11, with weight 1/2 5.5.

    A's entries have moved by 8 and weigh nothing.
    """
    adapter = [Factors(tensor([[9, 9]]), tensor([[3], [-1]]), 7.0)]
    prepared = {"fisher": tensor([0, 0, 2, 4]), "start": tensor([1, 1, 0, 0])}
    step = Step({"task": forward(*TASK)}, {}, adapter, prepared=prepared)
    (loss,) = methods.make("ewc", {"weight": 0.5}).losses(step)
    assert float(loss) == pytest.approx(CE_TASK + 5.5, abs=1e-12)
    assert float(step.recorded["consolidation"]) == pytest.approx(11.0, abs=1e-12)


def test_ewc_holds_B_alone() -> None:
    """B = 0 at the start, so that A's derivatives are 0 and B's are not; the term grows as B moves."""
    pack = pack_of(tiny_trial(EWC()))
    fisher = pack.prepared[0]["fisher"]
    parts = [factor for own in pack.adapters.member_factors(0) for factor in (own.A_RI, own.B_OR)]
    of_A = torch.cat([torch.full((factor.numel(),), at % 2 == 0) for at, factor in enumerate(parts)])
    assert float(fisher[of_A].abs().max()) == 0.0
    assert float(fisher[~of_A].min()) >= 0.0
    assert float(fisher[~of_A].mean()) > 0.0
    pack.advance(3)
    curve = [value for _, value in pack.members[0].curves["consolidation"]]
    assert curve[0] == 0.0
    assert curve[-1] > 0.0


def test_a_readout_counts_replies_once(tmp_path: Path) -> None:
    """In what the training took that it reads out, and not again."""
    whole = tiny_trial(methods.make("self_generated"), steps=3)
    store = prepare([whole], tmp_path)
    saved = store.find(whole)
    assert saved is not None
    scaled = Pack(tiny_base(), tiny_setting(), [replace(whole, adapter_scale=0.5)], torch.float64, store=store)
    assert scaled.members[0].cost.total_tokens == saved.tokens
