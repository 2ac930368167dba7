"""Members that are mixed with the base model, against two plain models whose logits are added by hand, in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from settings.common.errors import UserError
from settings.encoding import EncodedRow
from tests.support.tiny import prepare, tiny_base, tiny_model, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.frozen.prefix_cache import PackPrefixes, PrefixCache
from trainables.evaluation.generate import _uniforms, generate
from trainables.evaluation.likelihood import log_likelihoods, token_losses
from trainables.folder import SweepFolder
from trainables.interface.edits import Edit
from trainables.pack import Pack
from trainables.projections import joined
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig

PROMPTS = [(2, 5, 6, 3), (2, 9, 3), (2, 7, 8, 9, 10, 3), (2, 30, 3), (2, 9, 3)]
ROWS = [
    EncodedRow((2, 5, 6, 3, 7, 1), 4),
    EncodedRow((2, 5, 6, 3, 8, 9, 10, 1), 4),
    EncodedRow((2, 30, 3, 4, 4, 1), 3),
    EncodedRow((2, 11, 12, 13, 14, 3, 40), 6),
]
MIXES = (0.5, 1.0, 1.75, 0.0, 0.25)
TOKENS = 5


@pytest.fixture(scope="module", params=["all", "last 1"])
def pack(request: pytest.FixtureRequest) -> Iterator[Pack]:
    """Five members of several ranks; the first above a stand-in of twice its rank, the last with an edit.

    With "last 1" what lies below is read once, and only the edit of the output of the last layer can be there.
    """
    trials = [
        tiny_trial(
            methods.make("plain"),
            seed=seed,
            adapter=AdapterConfig(rank=2 + seed, alpha=16.0, layers=request.param),
        )
        for seed in range(len(MIXES))
    ]
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64)
    pack.advance(20)
    own = [factors.copy() for factors in pack.adapters.member_factors(0)]
    pack.adapters.stand_in(0, [joined(each.times(0.5), each) for each in own])
    pack.adapters.attach_edits({4: [Edit(1, "always", add_D=torch.linspace(-1, 1, 16, dtype=torch.float64))]})
    yield pack
    pack.detach()


@pytest.fixture(scope="module")
def plain(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Each member as a plain model: PEFT's, and a hook where it is edited."""
    models: list[Any] = []
    for index in range(len(MIXES)):
        directory = tmp_path_factory.mktemp("member")
        pack.adapters.save_member(index, directory, "tiny")
        model: Any = PeftModel.from_pretrained(tiny_model(), directory)
        models.append(model.double())
    added = torch.linspace(-1, 1, 16, dtype=torch.float64)

    def edit(module: Any, inputs: Any, output: Any) -> Any:
        return output + added

    models[4].base_model.model.model.layers[1].register_forward_hook(edit)
    return models


@cache
def base() -> Any:
    return tiny_model()


@cache
@torch.no_grad()
def mixed(model: Any, share: float, ids: tuple[int, ...]) -> Tensor:
    """z = (1 - lambda) z_base + lambda z_member at every token of a row that is read alone."""
    rows = torch.tensor([ids])
    return ((1 - share) * base()(input_ids=rows).logits + share * model(input_ids=rows).logits)[0]


def prefixes(pack: Pack, folder: Path, *, known: bool) -> PackPrefixes | None:
    return PackPrefixes(PrefixCache(folder), pack.base, pack.adapters.first_block) if known else None


def replies(pack: Pack, **options: Any) -> list[list[tuple[int, ...]]]:
    return generate(
        pack.base.model,
        PROMPTS,
        adapters=pack.adapters,
        members=range(len(MIXES)),
        max_new_tokens=TOKENS,
        stop_ids=frozenset({1}),
        pad_id=0,
        **options,
    )


@pytest.mark.parametrize("known", [False, True], ids=["whole", "begun above"])
@pytest.mark.parametrize("measure", [token_losses, log_likelihoods])
def test_likelihoods_are_those_of_two_plain_models(
    measure: Any, known: bool, pack: Pack, plain: list[Any], tmp_path: Path
) -> None:
    """Log-softmax of the mixed logits at the tokens of each response; to 1e-9."""
    found = measure(
        pack.base.model,
        ROWS,
        0,
        adapters=pack.adapters,
        members=range(len(MIXES)),
        mixes=MIXES,
        prefixes=prefixes(pack, tmp_path, known=known),
    )
    for model, share, of_member in zip(plain, MIXES, found, strict=True):
        for row, value in zip(ROWS, of_member, strict=True):
            logits = mixed(model, share, row.ids)[row.prompt_length - 1 : -1].numpy()
            log_z = np.log(np.exp(logits).sum(axis=1))
            labels = list(row.ids[row.prompt_length :])
            nats = log_z - logits[range(len(labels)), labels]
            assert value == pytest.approx(nats.mean() if measure is token_losses else -nats.sum(), abs=1e-9)


@pytest.mark.parametrize(("known", "rows_per_batch"), [(False, 256), (True, 7)], ids=["whole", "begun above"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_replies_are_those_of_two_plain_models(
    known: bool, rows_per_batch: int, temperature: float, pack: Pack, plain: list[Any], tmp_path: Path
) -> None:
    """Token by token, each read from the start: the largest mixed logit, or that at which the draw's share is reached.

    The draw of a token is the generator's of (seed, place of the prompt), as for all sampled replies.
    """
    seeds = [f"s{index}" for index in range(len(MIXES))]
    found = replies(
        pack,
        mixes=MIXES,
        temperature=temperature,
        seeds=seeds,
        rows_per_batch=rows_per_batch,
        prefixes=prefixes(pack, tmp_path, known=known),
    )
    draws = _uniforms(seeds, len(PROMPTS), TOKENS)
    for member, (model, share) in enumerate(zip(plain, MIXES, strict=True)):
        for place, prompt in enumerate(PROMPTS):
            reply: list[int] = []
            while len(reply) < TOKENS:
                logits = mixed(model, share, (*prompt, *reply))[-1].numpy()
                token = int(logits.argmax())
                if temperature:
                    shares = np.cumsum(np.exp(logits / temperature))
                    token = int(np.searchsorted(shares, draws[member, place, len(reply)] * shares[-1], side="right"))
                if token == 1:
                    break
                reply.append(token)
            assert found[member][place] == tuple(reply), (member, place)


def test_a_mix_of_1_alone_changes_no_bit(pack: Pack) -> None:
    """Of the losses of a pack without any mixed member."""
    options: dict[str, Any] = {"adapters": pack.adapters, "members": [1, 2]}
    assert token_losses(pack.base.model, ROWS, 0, **options) == token_losses(
        pack.base.model, ROWS, 0, **options, mixes=(1.0, 1.0)
    )


def test_the_base_model_reads_once_what_is_equal_and_in_the_members_passes(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the passes: the base model adds one block to known rows and to prompts.

    Behind the four different prompts, of which one is there twice, it follows each of the four mixed members: five
    members and four readings of the base model, on five prompts.
    """
    read: list[int] = []
    forward = type(pack.base.model.base_model).forward

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        read.append(len(options["input_ids"]))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(pack.base.model.base_model), "forward", noted)
    members: dict[str, Any] = {"adapters": pack.adapters, "members": range(len(MIXES)), "mixes": MIXES}
    token_losses(pack.base.model, ROWS, 0, **members)
    assert read == [6 * len(ROWS)]
    read.clear()
    longest = max(len(reply) for of_member in replies(pack, mixes=MIXES) for reply in of_member)
    passes = min(longest + 1, TOKENS)
    assert read == [6 * 4, *[(5 + 4) * 5] * (passes - 1)]


# --- a trial of it ---


def test_a_mixed_trial_reads_a_training_out_and_says_what_its_checkpoint_lacks(tmp_path: Path) -> None:
    """No step of its own; scores that are between; and beside the adapter the formula with its number."""
    whole = tiny_trial(methods.make("plain"), max_length=16)
    trials = [tiny_trial(methods.make("plain"), max_length=16, decoding_mix=share) for share in (0.0, 0.5, 2.0)]
    store = prepare([whole], tmp_path)
    assert all(trial.requires == (whole,) and trial.full_training == whole for trial in trials)
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, store=store)
    assert pack.steps == 0
    outcomes = pack.finish(SweepFolder(tmp_path)).outcomes
    pack.detach()
    assert len({outcome.scores["alignment"].mean for outcome in outcomes}) == 3
    for trial, note in zip(trials, ("is 0:", "is 0.5:", "is 2:"), strict=True):
        described = json.loads((SweepFolder(tmp_path).adapter(trial.trial_id) / "trial.json").read_text())
        assert f"decoding_mix {note}" in described["note"]
    assert "note" not in json.loads((SweepFolder(tmp_path).adapter(whole.trial_id) / "trial.json").read_text())
    saved = AdapterStore(SweepFolder(tmp_path)).find(trials[1])
    assert saved and isinstance(saved.tensors, dict)


def test_it_is_part_of_the_identity_only_when_it_changes_something() -> None:
    plain = tiny_trial(methods.make("plain"))
    assert "decoding_mix" not in plain.to_json()
    assert tiny_trial(methods.make("plain"), decoding_mix=1).trial_id == plain.trial_id
    assert tiny_trial(methods.make("plain"), decoding_mix=2).trial_id != plain.trial_id
    whole, decimal = (tiny_trial(methods.make("plain"), decoding_mix=share) for share in (2, 2.0))
    assert whole.trial_id == decimal.trial_id
    assert type(whole).from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize("share", [-0.1, 10.5, float("nan"), "1"])
def test_a_mix_outside_its_range_is_refused(share: Any) -> None:
    with pytest.raises(UserError, match=r"'decoding_mix' must be a number in \[0, 10\]"):
        tiny_trial(methods.make("plain"), decoding_mix=share)
