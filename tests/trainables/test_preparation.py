"""The pass before training: what methods are given of whole streams, against plain models and autograd row by row."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.batches import Batch, RowPositions
from trainables.engine.forward import hidden_states
from trainables.engine.frozen import reference_cache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.interface.preparation import Pass, Preparation
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.pack import Pack
from trainables.preparing import passes, row_states
from trainables.projections import Factors
from trainables.store import AdapterStore
from trainables.trial import TrialConfig

SEED = 3


@dataclass(frozen=True, kw_only=True)
class Looking(Method):
    """Prepares all that there is, with a prior that is only seen."""

    streams = ("task",)
    passes = (
        Pass("alignment"),
        Pass("alignment", "states"),
        Pass("task", prior=0),
        Pass("alignment", "squared_gradients"),
        Pass("alignment", "squared_gradients", prior=0),
    )
    seen: ClassVar[list[Mapping[str, Tensor]]] = []

    @property
    def priors(self) -> tuple[Method, ...]:
        return (methods.make("plain"),)

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        base, states = preparation.outputs("alignment"), preparation.states("alignment")
        tuned = preparation.outputs("task", prior=0)
        found = {"sums": states.sums_LPD, "lengths": states.lengths_LP, "counts": states.counts_P}
        found |= {"base_nll": base.nll_N, "base_row": base.row_N}
        found |= {"tuned_nll": tuned.nll_N, "tuned_row": tuned.row_N}
        for name, prior in (("start", None), ("tuned", 0)):
            found[f"{name}_squared"] = flat(preparation.squared_gradients("alignment", prior=prior))
            found[f"{name}_factors"] = flat(preparation.factors(prior=prior))
        return found

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        self.seen.append(step.prepared)
        return (cross_entropy(step.policy["task"]),)


def flat(adapter: Sequence[Factors]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for own in adapter for tensor in (own.A_RI, own.B_OR)])


@pytest.fixture(scope="module")
def trial() -> TrialConfig:
    return tiny_trial(Looking(), SEED, steps=4)


@pytest.fixture(scope="module")
def store(trial: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    return prepare(trial.priors, tmp_path_factory.mktemp("priors"))


@pytest.fixture(scope="module")
def pack(trial: TrialConfig, store: AdapterStore) -> Pack:
    return Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)


@pytest.fixture(scope="module")
def prior(pack: Pack) -> list[Factors]:
    """The factors of the finished prior, as its checkpoint has them."""
    return list(pack.priors[0][0])


def changed(pack: Pack, adapter: Sequence[Factors]) -> PreTrainedModel:
    """A plain model with W + scale B A in place of each adapted layer's W."""
    model = copy.deepcopy(tiny_base().model)
    for name, own in zip(pack.adapters.layers, adapter, strict=True):
        model.get_submodule(name).weight += own.scale * own.B_OR @ own.A_RI
    return model


def log_likelihood(model: PreTrainedModel, row: EncodedRow) -> Tensor:
    """ln p of each response token, row by row without padding."""
    ids = torch.tensor([row.ids])
    log_p_TV = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    at = torch.arange(row.prompt_length - 1, len(row.ids) - 1)
    return log_p_TV[at, ids[0, at + 1]]


def test_outputs_are_those_of_the_plain_model(pack: Pack) -> None:
    """On every row of the stream, in its order, at the positions that count."""
    prepared, model, rows = pack.prepared[0], tiny_base().model, pack.encoded[2048].rows("alignment")
    for number, row in enumerate(rows):
        mine = prepared["base_row"] == number
        assert torch.allclose(prepared["base_nll"][mine], -log_likelihood(model, row), atol=1e-12)
        states = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1:]
        for layer, state in enumerate(states):
            counted = state[0, row.prompt_length - 1 : -1]
            assert torch.allclose(prepared["sums"][layer, number], counted.sum(dim=0), atol=1e-12)
            assert prepared["lengths"][layer, number] == pytest.approx(float(counted.norm(dim=1).sum()), abs=1e-12)
        assert prepared["counts"][number] == len(row.ids) - row.prompt_length


def test_states_of_single_positions_live_no_longer_than_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two rows of the longest: whatever was returned for earlier batches is gone when the next one begins."""
    base, setting = tiny_base(), tiny_setting()
    rows = [RowPositions(row) for row in base.encoded(setting, 2048).rows("task")]
    longest = max(len(row.row.ids) for row in rows)
    whole = row_states.row_states(base, rows)
    room = 2 * longest * 2 * 16 * 8  # tokens, layers, width, bytes
    monkeypatch.setattr(row_states, "ROW_STATES_BYTES", room)
    returned: list[weakref.ref[Tensor]] = []

    def watched(model: PreTrainedModel, batch: Batch, layers_M: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        assert [alive() for alive in returned if alive() is not None] == []
        hidden_ND, layers_LND = hidden_states(model, batch, layers_M)
        assert layers_LND is not None and 2 * 16 * 8 * batch.ids_RT.numel() <= room
        returned.append(weakref.ref(layers_LND))
        return hidden_ND, layers_LND

    monkeypatch.setattr(row_states, "hidden_states", watched)
    streamed = row_states.row_states(base, rows)
    assert len(returned) >= len(rows) / 4 > 1
    for name, tensor in whole.items():
        assert torch.allclose(streamed[name], tensor, atol=1e-12), name


def test_a_pass_that_is_not_declared_is_refused(
    trial: TrialConfig, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Looking, "passes", Looking.passes[:-1])
    with pytest.raises(TypeError, match=r"asks for Pass\(stream='alignment', kind='squared_gradients', prior=0\)"):
        Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)


def test_outputs_with_a_prior_are_those_of_the_changed_model(pack: Pack, prior: list[Factors]) -> None:
    prepared, model = pack.prepared[0], changed(pack, prior)
    for number, row in enumerate(pack.encoded[2048].rows("task")):
        found = prepared["tuned_nll"][prepared["tuned_row"] == number]
        assert torch.allclose(found, -log_likelihood(model, row), atol=1e-10)


@pytest.mark.parametrize("which", ["start", "tuned"])
def test_squared_gradients_are_those_of_each_row(which: str, pack: Pack, prior: list[Factors]) -> None:
    """G = d ln p(row) / dW of a plain model; by the chain rule dB = s G A^T, dA = s B^T G; then the mean square."""
    adapter = prior if which == "tuned" else pack.adapters.member_factors(0)
    model = changed(pack, adapter)
    weights = [model.get_submodule(name).weight.requires_grad_() for name in pack.adapters.layers]
    rows = pack.encoded[2048].rows("alignment")
    total = torch.zeros_like(pack.prepared[0][f"{which}_squared"])
    for row in rows:
        gradients = torch.autograd.grad(log_likelihood(model, row).sum(), weights)
        by_factor = [
            Factors(own.scale * own.B_OR.T @ G_OI, own.scale * G_OI @ own.A_RI.T, 1.0)
            for G_OI, own in zip(gradients, adapter, strict=True)
        ]
        total += flat(by_factor) ** 2
    found = pack.prepared[0][f"{which}_squared"]
    assert torch.allclose(found, total / len(rows), rtol=1e-9, atol=1e-15)
    assert torch.equal(pack.prepared[0][f"{which}_factors"], flat(adapter))


def test_it_is_the_same_in_any_pack_and_from_the_cache(
    trial: TrialConfig, store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: alone, beside others of other ranks, and read from the files that another pack wrote."""
    others = [tiny_trial(methods.make("kl_penalty"), 1, rank=7), trial, tiny_trial(methods.make("plain"), 2)]

    def prepared(trials: Sequence[TrialConfig], number: int) -> Mapping[str, Tensor]:
        cache = ReferenceCache(tmp_path)
        pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, store=store, references=cache)
        return pack.prepared[number]

    def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    bare = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store).prepared[0]
    first = prepared(others, 1)
    assert same(first, bare)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(reference_cache, "compute_outputs", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(passes, "row_states", lambda *_: pytest.fail("computed again"))
    assert same(prepared([trial], 0), first)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(written) == 5, "base, its states, prior, and two of squared gradients"


def test_it_reaches_every_step(trial: TrialConfig, store: AdapterStore) -> None:
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)
    Looking.seen.clear()
    pack.advance(2)
    assert [seen is pack.prepared[0] for seen in Looking.seen] == [True, True]


def test_it_reaches_the_end(trial: TrialConfig, store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Trained] = []

    def finalize(self: Method, trained: Trained) -> Sequence[Factors]:
        ends.append(trained)
        return trained.adapter

    monkeypatch.setattr(Looking, "finalize", finalize)
    monkeypatch.setattr(Looking, "trained_as", property(lambda self: methods.make("plain")))
    pack = Pack(tiny_base(), tiny_setting(), [replace(trial)], torch.float64, store=store)
    pack.edit_adapters()
    assert [end.prepared is pack.prepared[0] for end in ends] == [True]


def test_its_tokens_are_counted(pack: Pack, trial: TrialConfig, store: AdapterStore) -> None:
    """Alignment rows for outputs and states, and twice for gradients, task rows once, beside what the prior took."""
    read = {stream: sum(len(row.ids) for row in pack.encoded[2048].rows(stream)) for stream in ("task", "alignment")}
    saved = store.find(trial.priors[0])
    assert saved is not None
    assert pack.members[0].cost.inherited_tokens == saved.tokens + 4 * read["alignment"] + read["task"]


def test_what_is_no_tensor_is_refused(trial: TrialConfig, store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looking, "prepare", lambda self, preparation: {"value": 1.0})
    base = tiny_base()
    with pytest.raises(
        TypeError, match=r"prepare\(preparation\) of method .* must return a mapping of names to tensors"
    ):
        Pack(base, tiny_setting(), [trial], torch.float64, store=store)
    Pack(base, tiny_setting(), [tiny_trial(methods.make("plain"))], torch.float64).detach()
