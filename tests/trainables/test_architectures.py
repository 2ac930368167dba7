"""What must hold for every architecture, with a tiny random model of each; `make study` looks at those outside `CORE`.

The right values come from transformers and PEFT: rows one by one, a plain training loop, and `generate`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    LogitsProcessor,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from settings.encoding import EncodedRow
from tests.support.architectures import ARCHITECTURES, COMMON, WIDE, architecture, architecture_base
from tests.support.tiny import tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import RowPositions, collate
from trainables.engine.forward import check_architecture, head_of, hidden_states
from trainables.engine.packed_linear import Route
from trainables.engine.targets import target_names
from trainables.evaluation.generate import _uniforms, generate
from trainables.pack import Pack
from trainables.trial import AdapterConfig, TrialConfig

CORE = ("gpt2", "gemma3", "bloom")  # transposed weights, a window in every other layer, positions as a bias
NAMES = [pytest.param(name, marks=() if name in CORE else pytest.mark.study) for name in ARCHITECTURES]
WINDOWED = [name for name, (_, values) in ARCHITECTURES.items() if "sliding_window" in values]
PROMPTS = [(2, 5, 6, 3), (2, 9, 3), (2, 7, 8, 9, 10, 11, 12, 13, 14, 3), (2, 30, 3), (2, 5, 6, 3), (2, 11, 12, 13, 3)]
NEW_TOKENS, TEMPERATURE = 9, 0.8
OPTIONS: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "stop_ids": frozenset({1}), "pad_id": 0}
STEPS = 5
TOLERANCE = 1e-9


def trials() -> list[TrialConfig]:
    """Three members of different ranks that send different numbers of rows."""
    return [tiny_trial(methods.make("plain"), seed, rank=2 + seed, batch_size=1 + seed) for seed in range(3)]


def trained(name: str, members: Sequence[TrialConfig]) -> Pack:
    """Return a pack after its steps."""
    pack = Pack(architecture_base(name), tiny_setting(), members, torch.float64)
    pack.advance(STEPS)
    assert [member.reason for member in pack.members] == [None] * len(members)
    return pack


def random_adapters(model: PreTrainedModel) -> PackedAdapters:
    """Attach two members of ranks 2 and 3 whose B is not zero."""
    adapters = PackedAdapters(model, [AdapterConfig(rank=2), AdapterConfig(rank=3)], [0, 1], model.dtype)
    generator = torch.Generator().manual_seed(0)
    for index in (0, 1):
        values = adapters.cut(index, adapters.theta_KP[index])
        adapters.theta_KP[index] = adapters.pad(index, 0.2 * torch.randn(len(values), generator=generator).to(values))
    return adapters


# --- rows ---


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_equals_single_rows(name: str) -> None:
    """Hidden states and logits, through adapters of two members with one and with three rows, and without adapters."""
    model = architecture(name)
    adapters = random_adapters(model)
    rows = [RowPositions(EncodedRow(ids, 1)) for ids in PROMPTS[:4]]
    owners, head = [0, 1, 1, 1], head_of(model)
    tolerance = 1e-5 if name in ("gemma2", "bloom") else TOLERANCE  # their softmax is in float32 whatever the weights
    for route in (Route((0, 1), (1, 3)), None):
        with adapters.routed(route):
            together_ND, _ = hidden_states(model, collate(rows, 0))
        alone = []
        for row, owner in zip(rows, owners, strict=True):
            with adapters.routed(None if route is None else Route((owner,), (1,))):
                alone.append(model(input_ids=torch.tensor([row.row.ids])).logits[0, :-1])
        torch.testing.assert_close(head(together_ND), torch.cat(alone), rtol=0, atol=tolerance)


# --- training ---


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_equals_solo_runs(name: str) -> None:
    pack = trained(name, trials())
    for index, trial in enumerate(trials()):
        solo = trained(name, [trial])
        for packed, alone in zip(pack.adapters.member_factors(index), solo.adapters.member_factors(0), strict=True):
            torch.testing.assert_close(packed.A_RI, alone.A_RI, rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(packed.B_OR, alone.B_OR, rtol=0, atol=TOLERANCE)


def peft_model(name: str, pack: Pack, index: int) -> Any:
    """Return the architecture with a LoRA adapter by PEFT, which starts from a member's initial weights."""
    trial = pack.trials[index]
    # Of experts that are one tensor PEFT makes a layer each; here they are not adapted.
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if name in ("qwen3_moe", "mixtral") else "all-linear"
    config = LoraConfig(r=trial.adapter.rank, lora_alpha=trial.adapter.alpha, target_modules=targets)
    model = get_peft_model(architecture(name), config).double()
    parameters = {key.replace(".default", ""): value for key, value in model.named_parameters() if value.requires_grad}
    initial = pack.adapters.member(index)
    assert parameters.keys() == initial.keys()
    with torch.no_grad():
        for key, value in parameters.items():
            assert value.shape == initial[key].shape
            value.copy_(initial[key])
    return model


def row_loss(model: Any, row: EncodedRow) -> Tensor:
    """Return the sum of the negative log-likelihoods of a row's response tokens."""
    ids = torch.tensor(row.ids)
    log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
    nll = -log_p[torch.arange(len(ids) - 1), ids[1:]]
    return nll[row.prompt_length - 1 :].sum()


@pytest.mark.parametrize("name", NAMES)
def test_training_equals_plain_peft(name: str) -> None:
    """A loop as in a tutorial, row by row: mean loss of response tokens, clipping to 1, AdamW, warm-up of 5 steps."""
    trial = tiny_trial(methods.make("plain"), 1, rank=3)
    pack = Pack(architecture_base(name), tiny_setting(), [trial], torch.float64)
    model = peft_model(name, pack, 0)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
    for step in range(STEPS):
        rows = pack.encoded[trial.max_length].batch(trial.method, trial.sizes, trial.seed, step)["task"]
        num_tokens = sum(len(row.ids) - row.prompt_length for row in rows)
        optimizer.zero_grad()
        for row in rows:
            (row_loss(model, row) / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * (step + 1) / 5
        optimizer.step()
    pack.advance(STEPS)
    trained_by_peft = {key.replace(".default", ""): v for key, v in model.named_parameters() if v.requires_grad}
    for key, value in pack.adapters.member(0).items():
        torch.testing.assert_close(value, trained_by_peft[key].detach(), rtol=0, atol=TOLERANCE)


# --- what is refused ---


def refused(config: PreTrainedConfig) -> str:
    """Return in which words a tiny model of a configuration is refused."""
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError) as refusal:
        check_architecture(model, AdapterConfig())
    return str(refusal.value)


def test_models_that_keep_a_state_are_refused() -> None:
    """State-space layers, on which PEFT refuses adapters, and convolutions beside attention."""
    message = r"type 'mamba' reads its tokens into a state .*; use a model whose layers are all attention"
    assert re.search(message, refused(MambaConfig(vocab_size=44, hidden_size=16, num_hidden_layers=1, state_size=4)))
    mixed = Lfm2Config(**COMMON, **WIDE, layer_types=["conv", "full_attention"])
    assert "type 'lfm2' reads its tokens into a state" in refused(mixed)


def test_quantised_weights_are_refused() -> None:
    """By the type of the numbers, and by what transformers notes of a model that it has loaded quantised."""
    model = architecture("llama", torch.float32)
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(
        UserError, match=r"type 'llama' has quantised weights \(model.layers.1.mlp.up_proj: float8_e4m3fn\)"
    ):
        target_names(model, AdapterConfig())
    noted = architecture("llama", torch.float32)
    noted.is_quantized = True
    with pytest.raises(UserError, match=r"has quantised weights .* use the model that it was quantised from"):
        target_names(noted, AdapterConfig())


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(UserError, match="the model has no linear layers that an adapter could sit on"):
        target_names(nn.Sequential(nn.Embedding(4, 4)), AdapterConfig())


def test_layers_that_see_a_selection_of_tokens_are_refused() -> None:
    """As experts that are layers of their own would: which row a token came from is not known there."""
    model = architecture("llama", torch.float32)
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: x + mlp.down_proj(mlp.up_proj(x[:, ::2])).mean()
    with pytest.raises(UserError, match=r"'llama' is not supported: its layer 'model.layers.0.mlp.up_proj' sees a sel"):
        check_architecture(model, AdapterConfig())


def test_logits_that_are_scaled_in_another_way_are_refused() -> None:
    model = architecture("cohere", torch.float32)
    model.logit_scale = 0.5  # and the configuration says 0.25
    with pytest.raises(UserError, match="'cohere' is not supported: its logits are not the head of"):
        check_architecture(model, AdapterConfig())


def test_a_loaded_model_is_checked_before_it_is_used(tmp_path: Path) -> None:
    MambaForCausalLM(MambaConfig(vocab_size=44, hidden_size=16, num_hidden_layers=1, state_size=4)).save_pretrained(
        tmp_path
    )
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="type 'mamba' reads its tokens into a state"):
        load_base(PretrainedModel(str(tmp_path)))


# --- replies and files ---


def replies_one_by_one(model: Any, prompts: Sequence[tuple[int, ...]], draws: np.ndarray | None = None) -> list[Any]:
    """Return replies by transformers' own `generate`, one prompt at a time: greedy ones, or sampled by these draws."""
    replies = []
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": 1}
        if draws is not None:
            options["logits_processor"] = [Drawn(draws[number], len(prompt))]
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
        reply = out[0, len(prompt) :].tolist()
        replies.append(tuple(reply[: reply.index(1)] if 1 in reply else reply))
    return replies


class Drawn(LogitsProcessor):
    """Leaves one token: the first whose cumulative probability, in the order of the vocabulary, exceeds the draw."""

    def __init__(self, draws: np.ndarray, prompt_length: int) -> None:
        self._draws, self._prompt_length = draws, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        weights = np.exp(scores[0].double().numpy() / TEMPERATURE)
        draw = self._draws[input_ids.shape[1] - self._prompt_length]
        chosen = int(np.argmax(np.cumsum(weights / weights.sum()) > draw))
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([chosen]), 0.0)


@pytest.mark.parametrize("name", WINDOWED)
def test_replies_past_the_window_equal_transformers(name: str) -> None:
    """Prompts of 3 to 10 tokens and their replies exceed a window of 6; layers have it in turn, or all do."""
    model = architecture(name, torch.float32)
    (replies,) = generate(model, PROMPTS[:3], **OPTIONS)
    assert replies == replies_one_by_one(model, PROMPTS[:3])
    assert len({token for reply in replies for token in reply}) > 5, "the replies hardly vary"


@pytest.mark.filterwarnings("error:fan_in_fan_out")  # PEFT's remark that Conv1D stores its weights transposed
@pytest.mark.parametrize("name", NAMES)
def test_adapters_in_peft_give_the_same_logits_and_replies(name: str, tmp_path: Path) -> None:
    """Two members together, each against its checkpoint, reopened by PEFT and merged: greedy and sampled replies."""
    model = architecture(name, torch.float32)
    adapters, ids = random_adapters(model), torch.tensor([PROMPTS[2]])
    both = {"adapters": adapters, "members": [0, 1], "seeds": [0, 1]}
    replies = [generate(model, PROMPTS, **both, **OPTIONS, temperature=heat) for heat in (0.0, TEMPERATURE)]
    for index, draws in enumerate((None, _uniforms([1], len(PROMPTS), NEW_TOKENS)[0])):
        adapters.save_member(index, tmp_path / str(index), name)
        with adapters.routed(Route((index,), (1,))):
            logits = model(input_ids=ids).logits
        reopened = PeftModel.from_pretrained(architecture(name, torch.float32), tmp_path / str(index))
        torch.testing.assert_close(reopened(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-4)
        assert replies[index][index] == replies_one_by_one(reopened.merge_and_unload(), PROMPTS, draws)
    assert len({tuple(of_member) for of_heat in replies for of_member in of_heat}) == 4, "the replies hardly vary"
