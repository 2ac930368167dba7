"""The published definition is the study's training: optimizer, warm-up, padding, and which positions count.

Right values are those of its rules, worked out by hand or with the libraries that it used.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from settings.base_models import PretrainedModel
from settings.encoding import EncodedRow
from tests.support.tiny import tiny_setting, tiny_trial
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.batches import RowPositions, collate
from trainables.method import Positions
from trainables.trial import OptimizerConfig, TrialConfig

SIZE = 8  # columns of a padded row
ROW = EncodedRow((11, 12, 13, 14, 15), prompt_length=2, padded_left=True)  # two tokens of prompt, three of response


def trial(name: str = "kl_penalty") -> TrialConfig:
    return tiny_trial(methods.make(name, {"definition": "published"}))


def test_gradients_are_never_clipped() -> None:
    assert OptimizerConfig().max_grad_norm == 1.0
    assert trial().optimizer.max_grad_norm is None
    assert trial("safe_lora").training.optimizer.max_grad_norm is None


@pytest.mark.parametrize(("steps", "warmup"), [(10, 5), (30, 5), (15, 5), (3, 5), (7, 0)])
def test_the_schedule_is_that_of_transformers(steps: int, warmup: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=2e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    config = OptimizerConfig(learning_rate=2e-3, warmup_steps=warmup).as_published()
    assert [config.rate(step, steps) for step in range(steps)] == pytest.approx(expected, abs=1e-18)


def test_the_schedule_by_hand() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=5).as_published()
    rates = [config.rate(step, 10) for step in range(10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2])


def test_ids_of_principled_trials_do_not_know_of_it() -> None:
    principled = tiny_trial(methods.make("kl_penalty"))
    assert "warmup_from_zero" not in principled.to_json()["optimizer"]
    for each in (principled, trial()):
        assert TrialConfig.from_json(each.to_json()) == each


@pytest.mark.parametrize(
    ("positions", "columns"),
    [
        ("padded", [0, 1, 2, 3, 4, 5, 6, 7]),
        # The mask over labels is 1 - (0 0 0 0 0 0 1 1), that of the prompt padded on the left; the label in column j
        # is predicted in column j - 1, and the first has none: labels 1 to 5 count.
        ("answer", [0, 1, 2, 3, 4]),
    ],
)
def test_padding_on_the_left_by_hand(positions: Positions, columns: list[int]) -> None:
    batch = collate([RowPositions(ROW, positions, SIZE)], pad_id=0)
    assert batch.ids_RT.tolist() == [[0, 0, 0, 11, 12, 13, 14, 15]]
    assert batch.mask_RT is not None
    assert batch.mask_RT.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    assert batch.column_N.tolist() == columns
    assert batch.labels_N.tolist() == [[0, 0, 0, 11, 12, 13, 14, 15, 0][column + 1] for column in columns]


def test_where_no_padding_counts_it_stands_on_the_right() -> None:
    batch = collate([RowPositions(ROW, "text", SIZE), RowPositions(EncodedRow((1, 2), 1), "response")], pad_id=0)
    assert batch.ids_RT.tolist() == [[11, 12, 13, 14, 15], [1, 2, 0, 0, 0]]
    assert batch.column_N.tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(("directory", "side"), [("tiny_gemma_dir", True), ("tiny_qwen3_dir", False)])
def test_the_side_is_the_tokenizers(request: pytest.FixtureRequest, directory: str, side: bool) -> None:
    path: Path = request.getfixturevalue(directory)
    base = load_base(PretrainedModel(str(path)))
    rows = base.encoded(tiny_setting(), 64).rows("alignment", "published")
    assert {row.padded_left for row in rows} == {side}


def test_padded_rows_are_those_of_the_tokenizer(tiny_gemma_dir: Path) -> None:
    """The study's batches are what the tokenizer pads to the longest row allowed."""
    base = load_base(PretrainedModel(str(tiny_gemma_dir)))
    setting = tiny_setting()
    examples = setting.streams["alignment"]
    rows = base.encoded(setting, 64).rows("alignment", "published")
    size = max(len(row.ids) for row in rows) + 5
    turns = [[{"role": turn.role, "content": turn.content} for turn in example.messages] for example in examples]
    texts = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    texts = [text + base.tokenizer.eos_token for text in texts]
    padded = base.tokenizer(texts, padding="max_length", max_length=size, return_tensors="pt")
    batch = collate([RowPositions(row, "padded", size) for row in rows], int(base.tokenizer.pad_token_id))
    assert batch.ids_RT.equal(padded["input_ids"])
    assert batch.mask_RT is not None
    assert batch.mask_RT.equal(padded["attention_mask"])
