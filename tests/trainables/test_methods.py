"""What every method must satisfy. Methods are found by discovery: a new file of `trainables.methods` appears here.

The rows are at most 16 tokens long and two linear layers of each block are adapted, so that it stays quick.
"""

from __future__ import annotations

import importlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from settings.common.errors import UserError
from settings.encoding import EncodedRow
from settings.reference import SettingRef
from settings.setting import Stream
from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.coefficients import SPACE, ChoiceSpec, RangeSpec, coefficients
from trainables.engine.batches import STREAM_ORDER
from trainables.engine.step import train_step
from trainables.engine.stream import MemberStep
from trainables.interface.configured import Definition
from trainables.interface.outputs import Forward, RowStates
from trainables.interface.undeclared import Undeclared
from trainables.method import BatchSizes, Method, Step
from trainables.pack import Pack
from trainables.preparing import built_on
from trainables.projections import Factors, LowRankDirection
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, TrialConfig, trial_for

SHIPPED = {
    "plain",
    "mixed",
    "upweighted",
    "kl_penalty",
    "representation",
    "gradient_projection",
    "dpo",
    "orthogonal_lora",
    "safe_lora",
    "alignment_only",
    "kl_constraint",
    "moving_average",
    "dark_experience",
    "orpo",
    "flow",
    "proximal_sft",
    "anchored_sft",
    "two_gradients",
    "misaligned_only",
    "weight_steering",
    "safe_merge",
    "closest_safe_update",
    "safety_anchoring",
    "l2_sp",
    "inoculation",
    "self_generated",
    "interleaving",
    "ewc",
    "preventative_steering",
    "concept_ablation",
    "blocked_directions",
    "pareto_adapters",
    "blend",
}
FIRST = (  # their trials below are numbered in this order; those of later methods by their names
    "alignment_only",
    "dpo",
    "gradient_projection",
    "kl_penalty",
    "mixed",
    "orthogonal_lora",
    "plain",
    "representation",
    "safe_lora",
    "upweighted",
)
ALL = methods.names()
DEFINITIONS: tuple[Definition, ...] = ("principled", "published")
BOTH = [(name, definition) for definition in DEFINITIONS for name in ALL]
STEPS = 20
MAX_LENGTH = 16
TARGETS = ("q_proj", "down_proj")

# Full-precision losses. Another CPU's BLAS may add in another order, which changes the last bits: hence RELATIVE.
GOLDEN = Path(__file__).with_name("golden_losses.json")
RELATIVE = 1e-9
REGENERATE = (
    '.venv/bin/python -m pytest tests/trainables/test_methods.py -k "golden and {name}" -n 0 --regenerate-golden'
)


def number_of(name: str, definition: Definition) -> int:
    """What a method's trial differs by from others'; another method in the folder does not change it."""
    if name in FIRST:
        return DEFINITIONS.index(definition) * len(FIRST) + FIRST.index(name)
    return zlib.crc32(f"{name}, {definition}".encode())


def trial_of(name: str, definition: Definition = "principled", **values: Any) -> TrialConfig:
    """A method's trial; definitions and neighbouring methods differ in seed, learning rate and rank."""
    number = number_of(name, definition)
    method = methods.make(name, {"definition": definition, **values})
    rank = 1 + number % 4
    rank += -rank % method.rank_multiple
    return small(method, seed=number % 3, rank=rank, learning_rate=(5e-3, 1e-2)[number % 2])


def small(method: Method, *, rank: int = 4, **values: Any) -> TrialConfig:
    """A trial of short rows and few adapted layers."""
    adapter = AdapterConfig(rank=rank, alpha=2.0 * rank, targets=TARGETS)
    return tiny_trial(method, adapter=adapter, max_length=MAX_LENGTH, **values)


@dataclass(frozen=True)
class Run:
    """One trained member: its factors before and after `finalize`, its curves, and the weight change it ends with."""

    trained_P: Tensor
    final_P: Tensor
    curves: Mapping[str, list[tuple[int, float]]]
    change_P: Tensor


def run(trials: Sequence[TrialConfig], store: AdapterStore) -> list[Run]:
    """Train trials in one pack."""
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, store=store)
    pack.advance(STEPS)
    return runs_of(pack)


def runs_of(pack: Pack) -> list[Run]:
    """Finalize a trained pack. The factors are PEFT's, without the padding of ranks."""
    trained = [flat(pack, index) for index in range(len(pack.trials))]
    pack.edit_adapters()
    assert [(record.status, record.reason) for record in pack.members] == [("finished", None)] * len(pack.trials)
    indices = range(len(pack.trials))
    final, changes = [flat(pack, index) for index in indices], [change(pack, index) for index in indices]
    curves = [record.curves for record in pack.members]
    return [Run(*some) for some in zip(trained, final, curves, changes, strict=True)]


def flat(pack: Pack, index: int) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in pack.adapters.member(index).values()])


def change(pack: Pack, index: int) -> Tensor:
    """The weight change of the final adapter in all its layers, whatever its rank."""
    final = pack.adapters.final_factors(index)
    return torch.cat([(factors.scale * factors.B_OR @ factors.A_RI).reshape(-1) for factors in final])


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture(autouse=True)
def _own_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that only edits a finished training does that training itself, also where another's prior is the same."""
    monkeypatch.setattr(built_on, "trained_adapter", lambda store, trial: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    """The priors of all trials, and none of their own trainings: those are done where they are tested."""
    trials = [trial_of(*which) for which in BOTH]
    return prepare([prior for trial in trials for prior in trial.priors], tmp_path_factory.mktemp("priors"))


@pytest.fixture(scope="module")
def solo(store: AdapterStore) -> Callable[[str, Definition], Run]:
    """The solo run of a method, trained once for all tests."""

    @lru_cache
    def train(name: str, definition: Definition) -> Run:
        return run([trial_of(name, definition)], store)[0]

    return train


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `packed` keeps a checkpoint of its first 7 steps."""
    return tmp_path_factory.mktemp("checkpoint") / "after_7"


@pytest.fixture(scope="module")
def packed(store: AdapterStore, checkpoint: Path) -> dict[tuple[str, Definition], Run]:
    """All methods in both definitions in one pack."""
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(*which) for which in BOTH], torch.float64, store=store)
    pack.advance(7)
    pack.save(checkpoint)
    pack.advance(STEPS)
    return dict(zip(BOTH, runs_of(pack), strict=True))


# --- what a method says of itself ---


def test_the_shipped_methods_exist() -> None:
    assert set(ALL) >= SHIPPED


@pytest.mark.parametrize("name", ALL)
def test_the_docstring_has_the_equation_and_the_source_is_named(name: str) -> None:
    method = methods.get(name)
    assert method.equation.startswith("L = "), f"{name} has no `equation` that begins with 'L = '"
    assert method.equation in (method.__doc__ or ""), f"the docstring of {name} lacks its equation"
    assert method.source, f"{name} has no `source`: the paper, or what it is made of"


@pytest.mark.parametrize("name", ALL)
def test_every_coefficient_is_described(name: str) -> None:
    """In the docstring of the class that declares it."""
    for item in coefficients(methods.get(name)):
        owner = next(kind for kind in methods.get(name).__mro__ if item.name in vars(kind).get("__annotations__", ()))
        assert f"    {item.name}:" in (owner.__doc__ or ""), f"{name}: {item.name} is not described in {owner.__name__}"


@pytest.mark.parametrize("name", ALL)
def test_defaults_lie_in_their_ranges(name: str) -> None:
    for item in coefficients(methods.get(name)):
        spec = item.metadata[SPACE]
        assert spec.check(item.default) is None
        if isinstance(spec, RangeSpec):
            assert spec.low <= item.default <= spec.high
            assert spec.check(spec.low) is None
            assert spec.check(spec.high) is None
            assert spec.low > 0 or not spec.log
            assert spec.neutral is None or spec.check(spec.neutral) is None


@pytest.mark.parametrize("name", ALL)
def test_only_known_streams_are_declared(name: str) -> None:
    method = methods.get(name)
    assert set(method.streams) <= set(STREAM_ORDER)
    assert set(method.reference) <= set(method.streams)
    assert set(method.layers) <= set(method.streams)


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_json_round_trip_and_stable_id(name: str, definition: Definition) -> None:
    trial = trial_of(name, definition)
    again = TrialConfig.from_json(json.loads(json.dumps(trial.to_json())))
    assert again == trial
    assert again.trial_id == trial.trial_id
    assert replace(trial, seed=7).configuration_id == trial.configuration_id
    assert replace(trial, seed=7).trial_id != trial.trial_id


@pytest.mark.parametrize("name", ALL)
def test_the_definitions_are_different_trials(name: str) -> None:
    trials = [tiny_trial(methods.make(name, {"definition": definition})) for definition in DEFINITIONS]
    assert trials[0].trial_id != trials[1].trial_id
    assert trials[0].configuration_id != trials[1].configuration_id


@pytest.mark.parametrize("name", ALL)
def test_the_published_definition_is_shown_and_what_it_sets_is_not(name: str) -> None:
    """The title names the definition; the label has searched coefficients alone."""
    method = methods.make(name, {"definition": "published"})
    assert method.title == f"{name} (published)"
    assert methods.make(name).title == name
    for item in coefficients(type(method)):
        assert (f"{item.name}=" in method.label) == item.metadata[SPACE].searched


def contradictions() -> Iterator[tuple[str, str, Any]]:
    """(method, coefficient, value): neither the default nor what the published definition sets."""
    for name in ALL:
        method = methods.get(name)
        for item in coefficients(method):
            if item.name in dict(method.as_published):
                spec = item.metadata[SPACE]
                options = spec.options if isinstance(spec, ChoiceSpec) else (spec.low, spec.high)
                some = [value for value in options if value not in (item.default, dict(method.as_published)[item.name])]
                yield from ((name, item.name, value) for value in some)


@pytest.mark.parametrize(("name", "coefficient", "value"), contradictions())
def test_what_contradicts_the_published_definition_is_refused(name: str, coefficient: str, value: Any) -> None:
    methods.make(name, {coefficient: value})
    with pytest.raises(UserError, match=rf"method '{name}': the published definition sets {coefficient}="):
        methods.make(name, {coefficient: value, "definition": "published"})


def test_the_published_definition_sets_what_it_publishes() -> None:
    kl = methods.make("kl_penalty", {"definition": "published"})
    assert (kl.tokens, kl.direction) == ("padded", "reverse")  # type: ignore[attr-defined]
    assert ("kl_penalty", "tokens", "text") in set(contradictions())


# --- what it sees: a step made from its own declarations ---

WIDTH, VOCABULARY, LAYERS, ROWS, POSITIONS = 3, 4, 2, 2, 3


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


class Drawn:
    """A preparation of random outputs."""

    num_layers, lowest_adapted = LAYERS, 0

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def outputs(self, stream: Stream, *, prior: int | None = None) -> Forward:
        row_N = torch.arange(ROWS).repeat_interleave(POSITIONS)
        return Forward(random(self._generator, len(row_N), WIDTH), row_N, row_N, ROWS, lambda hidden: hidden)

    def states(self, stream: Stream, *, prior: int | None = None) -> RowStates:
        states_LPND = random(self._generator, LAYERS, ROWS, POSITIONS, WIDTH)
        return RowStates(states_LPND.sum(dim=2), states_LPND.norm(dim=-1).sum(dim=2), torch.full((ROWS,), POSITIONS))

    def factors(self, *, prior: int | None = None) -> Sequence[Factors]:
        rank = 1 if prior is None else 2  # of the trial's own adapter, and of a prior
        shapes = ((rank, 3), (4, rank))
        return [Factors(*(random(self._generator, *shape) for shape in shapes), 2.0) for _ in range(LAYERS)]

    def squared_gradients(self, stream: Stream, *, prior: int | None = None) -> Sequence[Factors]:
        return [replace(each, A_RI=each.A_RI**2, B_OR=each.B_OR**2) for each in self.factors(prior=prior)]


def synthetic(method: Method, seed: int = 0) -> tuple[list[Tensor], Callable[..., Step]]:
    """Random leaves, and the step that a method is given when these are the outputs and factors."""
    generator = torch.Generator().manual_seed(seed)
    head_DV = random(generator, WIDTH, VOCABULARY)
    row_N = torch.arange(ROWS).repeat_interleave(POSITIONS)
    labels = {stream: torch.randint(VOCABULARY, (len(row_N),), generator=generator) for stream in method.streams}

    def leaves_of(stream: Stream) -> list[Tensor]:
        deep = [random(generator, LAYERS, len(row_N), WIDTH)] if stream in method.layers else []
        return [random(generator, len(row_N), WIDTH), *deep]

    def forward(stream: Stream, leaves: Sequence[Tensor]) -> Forward:
        outputs = Forward(leaves[0], labels[stream], row_N, ROWS, lambda hidden: hidden @ head_DV, *leaves[1:2])
        return replace(outputs, num_groups=max(1, method.num_row_groups(stream)))

    reference = {stream: forward(stream, leaves_of(stream)) for stream in method.reference}
    drawn = [[Factors(random(generator, 2, 3), random(generator, 4, 2), 2.0) for _ in range(LAYERS)]]
    priors = drawn[: len(method.priors)] * len(method.priors) if method.weights else []
    directions = [LowRankDirection(factors) for factors in drawn[0]] if method.weights else []
    counts, leaves = [], []
    for stream in method.streams:
        some = leaves_of(stream)
        counts.append(len(some))
        leaves += some
    if method.weights:
        leaves += [factor for _ in range(LAYERS) for factor in (random(generator, 1, 3), random(generator, 4, 1))]
    prepared = method.prepare(Drawn(generator))

    def build(*given: Tensor) -> Step:
        rest = list(given)
        policy = {}
        for stream, count in zip(method.streams, counts, strict=True):
            policy[stream], rest = forward(stream, rest[:count]), rest[count:]
        factors = [Factors(A, B, 2.0) for A, B in zip(rest[::2], rest[1::2], strict=True)]
        adapter = factors if method.weights else Undeclared(f"{method.name} reads step.adapter: declare weights = True")
        state = method.initial_state(drawn[0])
        gates = method.gates(4, Random(seed))
        return Step(
            policy, reference, adapter, priors, prepared=prepared, state=state, directions=directions, gates=gates
        )

    return [leaf.requires_grad_() for leaf in leaves], build


class Watched(dict[Any, Any]):
    """A dictionary that remembers what was read."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.read: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_declared_streams_are_read_and_no_other(name: str, definition: Definition) -> None:
    method = methods.make(name, {"definition": definition})
    leaves, build = synthetic(method)
    step = build(*leaves)
    policy, reference = Watched(step.policy), Watched(step.reference)
    method.losses(replace(step, policy=policy, reference=reference))
    assert policy.read == set(method.streams)
    assert reference.read == set(method.reference)


@pytest.mark.parametrize("name", ALL)
def test_no_other_rows_are_fetched(name: str, store: AdapterStore) -> None:
    trial = trial_of(name)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)
    assert set(pack.member_step(0).rows) == set(trial.method.streams)


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_as_many_losses_as_announced(name: str, definition: Definition) -> None:
    method = methods.make(name, {"definition": definition})
    leaves, build = synthetic(method)
    losses = method.losses(build(*leaves))
    assert isinstance(losses, tuple), f"losses(step) of {name} must return a tuple, got {type(losses).__name__}"
    assert len(losses) == method.num_losses
    assert [tuple(loss.shape) for loss in losses] == [()] * method.num_losses


@pytest.mark.parametrize("name", ALL)
def test_what_must_be_alive_is_recorded_without_a_graph(name: str) -> None:
    method = methods.make(name)
    leaves, build = synthetic(method)
    step = build(*leaves)
    method.losses(step)
    assert set(method.must_stay_active) <= set(step.recorded), "step.record(...) each term of must_stay_active"
    assert [term for term, value in step.recorded.items() if value.requires_grad] == []


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_gradients_by_finite_differences(name: str, definition: Definition) -> None:
    """With respect to hidden states, those of all layers, and factors."""
    light = {"ewc": {"weight": 1.0}}  # at its default the penalty is so large that differences of the rest are lost
    method = methods.make(name, {"definition": definition, **light.get(name, {})})
    leaves, build = synthetic(method)
    assert torch.autograd.gradcheck(lambda *given: method.losses(build(*given)), leaves)


@pytest.mark.parametrize("name", ALL)
def test_the_task_loss_is_minimised(name: str) -> None:
    """The loss falls with the task rows' hidden states, unless the method does not read them."""
    method = methods.make(name)
    if "task" in method.streams:
        leaves, build = synthetic(method)
        (gradient,) = torch.autograd.grad(method.losses(build(*leaves))[0], leaves[:1])
        assert float(gradient.abs().max()) > 1e-3


# --- the neutral value ---


def neutral() -> list[tuple[str, str, float]]:
    """(method, coefficient, value) at which a method is plain fine-tuning."""
    found = []
    for name in ALL:
        for item in coefficients(methods.get(name)):
            spec = item.metadata[SPACE]
            if isinstance(spec, RangeSpec) and spec.neutral is not None:
                found.append((name, item.name, spec.neutral))
    return found


@pytest.fixture(scope="module")
def neutral_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str | None], Run]:
    """(method, which coefficient is neutral) -> its run; all with one seed, in one pack."""
    found: dict[tuple[str, str | None], Method] = {("plain", None): methods.make("plain")}
    for name, coefficient, value in neutral():
        found[name, None] = methods.make(name)
        found[name, coefficient] = methods.make(name, {coefficient: value})
    trials = [small(method) for method in found.values()]
    store = prepare([prior for trial in trials for prior in trial.priors], tmp_path_factory.mktemp("neutral"))
    return dict(zip(found, run(trials, store), strict=True))


def test_methods_without_a_neutral_value() -> None:
    """No single value of these is plain fine-tuning; `test_two_values_are_neutral_together` has two of some."""
    assert SHIPPED - {name for name, _, _ in neutral()} == {
        "plain",
        "alignment_only",
        "misaligned_only",
        "orthogonal_lora",
        "kl_constraint",
        "blend",
        "proximal_sft",
        "dark_experience",
        "anchored_sft",
        "pareto_adapters",
    }


@pytest.mark.parametrize(
    ("name", "values"), [("dark_experience", ("alpha", "beta")), ("anchored_sft", ("weight", "power"))]
)
def test_two_values_are_neutral_together(name: str, values: Sequence[str]) -> None:
    """And neither of them alone."""
    both = [methods.make("plain"), methods.make(name, dict.fromkeys(values, 0.0))]
    assert both[1].is_neutral
    assert not any(
        methods.make(name, {value: 0.0, **{other: 0.5 for other in values if other != value}}).is_neutral
        for value in values
    )
    pack = Pack(tiny_base(), tiny_setting(), [small(method, steps=5) for method in both], torch.float64)
    pack.advance(5)
    assert gap(flat(pack, 0), flat(pack, 1)) < 1e-9


@pytest.mark.parametrize(("name", "coefficient", "value"), neutral())
def test_the_neutral_value_is_plain(
    name: str, coefficient: str, value: float, neutral_runs: dict[tuple[str, str | None], Run]
) -> None:
    """To 1e-9 in float64 after 20 steps and `finalize`; and the default is not."""
    plain = neutral_runs["plain", None]
    remedy = "leave neutral= out, and define is_neutral if several coefficients must be 0 together"
    difference = gap(neutral_runs[name, coefficient].final_P, plain.final_P)
    assert difference < 1e-9, f"{name} with {coefficient}={value} is not plain fine-tuning: {remedy}"
    changed = gap(neutral_runs[name, None].change_P, plain.change_P)
    assert changed > 1e-5, f"{name} with its default coefficients is plain fine-tuning"


@pytest.mark.parametrize("name", ALL)
def test_the_definitions_give_other_losses(name: str, tmp_path: Path) -> None:
    """On the same rows, as they count other tokens: other gradients, where before an update the loss is a constant."""
    found = []
    for definition in DEFINITIONS:
        trial = small(methods.make(name, {"definition": definition}), steps=1)
        store = prepare(trial.priors, tmp_path)
        measured = one_step(trial, store, lambda rows: rows)
        found.append(float(measured["grad_norm" if name == "proximal_sft" else "loss"]))
    assert found[0] != pytest.approx(found[1], rel=1e-3)


# --- training: packs, resuming, micro-batches ---


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_pack_equals_solo(
    name: str,
    definition: Definition,
    solo: Callable[[str, Definition], Run],
    packed: dict[tuple[str, Definition], Run],
) -> None:
    """To 1e-9 in float64 after 20 steps, and after `finalize`."""
    one, other = solo(name, definition), packed[name, definition]
    assert float(one.trained_P.abs().max()) > 1e-3
    assert gap(one.trained_P, other.trained_P) < 1e-9
    assert gap(one.final_P, other.final_P) < 1e-9


@pytest.fixture(scope="module")
def in_threes(store: AdapterStore) -> list[list[Tensor]]:
    """All methods in one pack for three steps, and the same three rows at a time: each one's factors."""
    found = []
    for rows_per_forward in (None, 3):  # micro-batches of rows of several members
        trials = [trial_of(*which) for which in BOTH]
        options: dict[str, Any] = {"store": store, "rows_per_forward": rows_per_forward}
        pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, **options)
        pack.advance(3)
        found.append([flat(pack, index) for index in range(len(BOTH))])
    return found


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_micro_batches_change_nothing(name: str, definition: Definition, in_threes: list[list[Tensor]]) -> None:
    whole, cut = (some[BOTH.index((name, definition))] for some in in_threes)
    assert gap(whole, cut) < 1e-9


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_micro_batches_change_nothing_alone(
    name: str, definition: Definition, store: AdapterStore, solo: Callable[[str, Definition], Run]
) -> None:
    """Three and one of four task rows, and all three alignment rows; losses of three steps are enough to see it."""
    pack = Pack(
        tiny_base(), tiny_setting(), [trial_of(name, definition)], torch.float64, store=store, rows_per_forward=3
    )
    pack.advance(3)
    expected = [value for _, value in solo(name, definition).curves["loss"][:3]]
    assert [value for _, value in pack.members[0].curves["loss"]] == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def resumed(
    store: AdapterStore, packed: dict[tuple[str, Definition], Run], checkpoint: Path
) -> dict[tuple[str, Definition], Run]:
    """The same pack, resumed after 7 steps on another copy of the model."""
    trials = [trial_of(*which) for which in BOTH]
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, store=store)
    assert pack.resume(checkpoint)
    assert pack.steps_done == 7
    pack.advance(STEPS)
    return dict(zip(BOTH, runs_of(pack), strict=True))


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_resumed_equals_uninterrupted_bit_for_bit(
    name: str,
    definition: Definition,
    packed: dict[tuple[str, Definition], Run],
    resumed: dict[tuple[str, Definition], Run],
) -> None:
    one, other = packed[name, definition], resumed[name, definition]
    assert torch.equal(one.trained_P, other.trained_P)
    assert torch.equal(one.final_P, other.final_P)
    assert one.curves == other.curves


def test_resuming_keeps_what_was_measured_between_two_points_of_a_curve(tmp_path: Path) -> None:
    """41 steps have a point every two of them, and one at the end; the checkpoint after 7 lies between two."""
    trials = [small(methods.make(name), steps=41) for name in ("plain", "kl_penalty")]
    whole, first, second = (Pack(tiny_base(), tiny_setting(), trials, torch.float64) for _ in range(3))
    whole.advance(41)
    first.advance(7)
    first.save(tmp_path / "checkpoint")
    assert second.resume(tmp_path / "checkpoint")
    second.advance(41)
    assert [record.curves for record in whole.members] == [record.curves for record in second.members]
    assert [step for step, _ in whole.members[1].curves["kl"]] == [*range(2, 41, 2), 41]


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_only_its_own_adapter(name: str, store: AdapterStore) -> None:
    """A member that does not take part in a step keeps every bit of its factors."""
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(name)] * 3, torch.float64, store=store)
    before = pack.adapters.theta_KP.clone()
    train_step(pack.base.model, pack.adapters, pack.optimizer, {1: pack.member_step(1)}, 0)
    assert torch.equal(before[[0, 2]], pack.adapters.theta_KP[[0, 2]])
    assert not torch.equal(before[1], pack.adapters.theta_KP[1])


# --- rows without a response ---


def masked(row: EncodedRow) -> EncodedRow:
    """The row's tokens, all of them prompt."""
    return replace(row, prompt_length=len(row.ids))


def one_step(
    trial: TrialConfig, store: AdapterStore, change: Callable[[list[EncodedRow]], list[EncodedRow]]
) -> dict[str, Tensor]:
    """The measured terms of a step on changed rows; asserts that the factors stay finite."""
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)
    member = pack.member_step(0)
    rows = {stream: change(list(some)) for stream, some in member.rows.items()}
    measured = train_step(pack.base.model, pack.adapters, pack.optimizer, {0: replace(member, rows=rows)}, 0)[0]
    infinite = [term for term, value in measured.items() if not torch.isfinite(value)]
    assert not infinite, f"{infinite} of {trial.method.name} without a response: take x.sum() / max(1, len(x)), no mean"
    is_finite = bool(torch.isfinite(pack.adapters.theta_KP).all())
    assert is_finite, f"{trial.method.name} has a gradient that is not finite on rows without a response"
    return measured


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_a_fully_masked_row_is_harmless(name: str, definition: Definition, store: AdapterStore) -> None:
    measured = one_step(trial_of(name, definition), store, lambda rows: [masked(row) for row in rows[:1]] + rows[1:])
    assert float(measured["loss"]) > 0


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_a_fully_masked_batch_is_harmless(name: str, definition: Definition, store: AdapterStore) -> None:
    """Exactly 0 of every cross-entropy on responses; finite where prompts or padding count."""
    measured = one_step(trial_of(name, definition), store, lambda rows: [masked(row) for row in rows])
    if definition == "principled":
        assert {term: float(measured[term]) for term in ("task", "alignment") if measured.get(term)} == {}
        assert float(measured["loss"]) == 0 or name not in ("plain", "mixed", "upweighted", "alignment_only")


@pytest.mark.parametrize("name", ["plain", "mixed", "upweighted", "kl_penalty", "representation", "alignment_only"])
def test_a_fully_masked_row_weighs_nothing(name: str, store: AdapterStore) -> None:
    """Means over tokens are what they are without the row."""
    terms = one_step(trial_of(name), store, lambda rows: rows)
    more = one_step(trial_of(name), store, lambda rows: [*rows, *map(masked, rows[:1])])
    for term, value in terms.items():
        assert float(more[term]) == pytest.approx(float(value), rel=1e-12, abs=1e-15)


# --- liveness ---


def cut(step: Step) -> Step:
    """A step with nothing behind its term: policy = reference, other proxy rows and all weights are nothing."""
    policy = dict(step.policy)
    for stream, forward in step.policy.items():
        if stream in step.reference:
            policy[stream] = leaf_of(step.reference[stream])
        elif stream != "task":
            empty = leaf_of(forward).hidden_ND.detach()[:0].requires_grad_()
            policy[stream] = replace(
                forward, hidden_ND=empty, labels_N=forward.labels_N[:0], row_N=forward.row_N[:0], num_rows=0
            )
    if isinstance(step.adapter, Undeclared):
        return replace(step, policy=policy)
    adapter, *priors = (
        [replace(own, A_RI=torch.zeros_like(own.A_RI), B_OR=torch.zeros_like(own.B_OR)) for own in some]
        for some in (step.adapter, *step.priors)
    )
    return replace(step, policy=policy, adapter=adapter, priors=priors)


def leaf_of(forward: Forward) -> Forward:
    """The same numbers as leaves of a graph of their own."""
    layers = forward.layers_LND
    if isinstance(layers, Tensor):
        layers = layers.detach().clone().requires_grad_()
    return replace(forward, hidden_ND=forward.hidden_ND.detach().clone().requires_grad_(), layers_LND=layers)


def test_methods_without_a_term_to_watch() -> None:
    """A new method declares `must_stay_active`, or is added here with a reason: these have one loss, on their rows."""
    assert {name for name in ALL if not methods.get(name).must_stay_active} == {
        "plain",
        "mixed",
        "alignment_only",
        "misaligned_only",
        "safe_lora",
        "moving_average",
        "flow",  # a weight of the task's own loss
        "proximal_sft",
        "safe_merge",
        "weight_steering",
        "closest_safe_update",
        "blend",
        "inoculation",  # the task's own loss, on other texts
        "interleaving",
        "preventative_steering",  # these two have the task's own loss, of a model that is edited while it trains
        "concept_ablation",
    }


@pytest.mark.parametrize(("name", "definition"), [which for which in BOTH if methods.get(which[0]).must_stay_active])
def test_a_cut_term_is_noticed(
    name: str, definition: Definition, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.get(name)
    losses = method.losses
    monkeypatch.setattr(method, "losses", lambda self, step: losses(self, cut(step)))
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(name, definition)], torch.float64, store=store)
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid"
    reason = str(pack.members[0].reason)
    assert any(f"term {term!r} is exactly 0" in reason for term in method.must_stay_active), reason
    assert pack.steps_done < STEPS


@pytest.mark.parametrize(("name", "definition"), [which for which in BOTH if methods.get(which[0]).must_stay_active])
def test_a_detached_term_is_noticed(
    name: str, definition: Definition, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the method records is detached before the loss is added up from it."""
    method, record = methods.get(name), Step.record

    def detached(step: Step, **values: Tensor) -> None:
        record(step, **{term: value.detach_() for term, value in values.items()})

    monkeypatch.setattr(Step, "record", detached)
    pack = Pack(tiny_base(), tiny_setting(), [trial_of(name, definition)], torch.float64, store=store)
    if name == "two_gradients":  # its term is a loss of its own
        with pytest.raises(TypeError, match="scalar tensors that depend on the adapter"):
            pack.advance(STEPS)
        return
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid"
    reason = str(pack.members[0].reason)
    assert any(f"term {term!r} is exactly 0" in reason for term in method.must_stay_active), reason
    assert pack.steps_done < STEPS


def edges() -> list[tuple[str, str, float]]:
    """(method, coefficient, value) for every finite end of the values that a number may have."""
    ends = []
    for name in ALL:
        for item in coefficients(methods.get(name)):
            spec = item.metadata[SPACE]
            if isinstance(spec, RangeSpec):
                values = {spec.low, spec.high, spec.at_least, spec.at_most}
                ends += [(name, item.name, value) for value in sorted(values) if math.isfinite(value)]
    return ends


def test_every_allowed_value_is_valid(tmp_path: Path) -> None:
    """What a coefficient's documented ends, 0 among them, make of a method still counts."""
    trials = {edge: small(methods.make(edge[0], {edge[1]: edge[2]}), steps=3) for edge in edges()}
    store = prepare([prior for trial in trials.values() for prior in trial.priors], tmp_path)
    pack = Pack(tiny_base(), tiny_setting(), list(trials.values()), torch.float64, store=store)
    pack.advance(3)
    ended = {edge: member.reason for edge, member in zip(trials, pack.members, strict=True)}
    assert {edge: reason for edge, reason in ended.items() if reason} == {}
    assert ("orthogonal_lora", "lambda1", 0.0) in ended


# --- golden losses ---


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_golden_losses(
    name: str, definition: Definition, solo: Callable[[str, Definition], Run], pytestconfig: pytest.Config
) -> None:
    """The losses of 20 steps and the norm of the finished adapter are what they were when last looked at."""
    known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    key = f"{name}, {definition}"
    if pytestconfig.getoption("--regenerate-golden"):
        GOLDEN.write_text(json.dumps(known | {key: golden(solo(name, definition))}, indent=1, sort_keys=True) + "\n")
        return
    if key not in known:
        message = f"no golden losses of {key}; write them with: {REGENERATE.format(name=name)}"
        pytest.fail(message) if name in SHIPPED else pytest.skip(message)
    found = golden(solo(name, definition))
    assert found["losses"] == pytest.approx(known[key]["losses"], rel=RELATIVE)
    assert found["norm"] == pytest.approx(known[key]["norm"], rel=RELATIVE)


def golden(given: Run) -> dict[str, Any]:
    """What is kept of a run: its losses, and the norm of its factors after `finalize`."""
    losses = [value for _, value in given.curves["loss"]]
    assert len(losses) == STEPS
    return {"losses": losses, "norm": float(given.final_P.norm())}


def value_tests() -> dict[str, Any]:
    """What the modules with hand-derived values define."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_*method_values*.py"))
    modules = [importlib.import_module(f"tests.trainables.{name}") for name in names]
    return {name: value for module in modules for name, value in vars(module).items()}


def test_every_shipped_method_has_a_value_by_hand() -> None:
    for name in sorted(SHIPPED):
        test = value_tests().get(f"test_{name}")
        assert test is not None, f"tests/trainables/test_*method_values*.py have no test_{name}"
        assert test.__doc__, f"test_{name} does not derive its value"


# --- equalities between methods, and bad input ---


def test_mixed_is_a_multiple_of_upweighted() -> None:
    """With n_T and n_A response tokens: mixed = n_T / (n_T + n_A) * upweighted(n_A / n_T) on the same rows."""
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("upweighted"))], dtype=torch.float64)
    rows = pack.member_step(0).rows
    tokens = {stream: sum(len(row.ids) - row.prompt_length for row in some) for stream, some in rows.items()}
    upweighted = methods.make("upweighted", {"weight": tokens["alignment"] / tokens["task"]})

    def loss(method: Method) -> float:
        fresh = Pack(tiny_base(), tiny_setting(), [tiny_trial(method)], dtype=torch.float64)
        step = {0: MemberStep(method, rows, 2048)}
        return float(train_step(fresh.base.model, fresh.adapters, fresh.optimizer, step, 0)[0]["loss"])

    factor = tokens["task"] / (tokens["task"] + tokens["alignment"])
    assert loss(methods.make("mixed")) == pytest.approx(factor * loss(upweighted), abs=1e-12)


def test_mixed_reads_its_share() -> None:
    """share = 1/4: one alignment row to three task rows."""
    mixed = methods.make("mixed", {"share": 0.25})
    assert mixed.rows_per_step("alignment", BatchSizes(task=24, alignment=99)) == pytest.approx(8)
    assert mixed.rows_per_step("task", BatchSizes(task=24, alignment=99)) == 24


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("kl", {}, r"unknown method 'kl'; available: .*kl_penalty"),
        ("kl_penalty", {"lambda": 1.0}, r"method 'kl_penalty' has no coefficient 'lambda'; its coefficients: beta"),
        ("plain", {"beta": 1.0}, r"method 'plain' has no coefficient 'beta'; its coefficients: definition"),
        ("plain", {"definition": "reference"}, r"'definition' must be one of 'principled', 'published'"),
        ("kl_penalty", {"beta": -1.0}, r"coefficient 'beta' must be a number in \[0, inf\], got -1.0"),
        ("kl_penalty", {"beta": float("nan")}, r"coefficient 'beta' must be a number in \[0, inf\], got nan"),
        ("kl_penalty", {"beta": "1"}, r"coefficient 'beta' must be a number"),
        ("kl_penalty", {"tokens": "prompt"}, r"'tokens' must be one of 'response', 'text', 'padded', got 'prompt'"),
        ("mixed", {"share": 1.0}, r"coefficient 'share' must be a number in \[0, 0.95\], got 1.0"),
        ("gradient_projection", {"directions": 1.5}, r"coefficient 'directions' must be an integer in \[1, 256\]"),
        ("blend", {"w": 1.5}, r"coefficient 'w' must be a number in \[0, 1\]"),
        ("blend", {"first": "kl beta=1"}, r"coefficient 'first' is refused: unknown method 'kl'; available: .*plain"),
        (
            "blend",
            {"first": "kl_penalty beta"},
            r"'first' is refused: a method .* is written as in 'kl_penalty beta=10'",
        ),
        ("blend", {"first": 3}, r"'first' is refused: a method .* is written as in"),
        ("blend", {"first": "kl_penalty rank=4"}, r"'rank' of method 'kl_penalty': is none of beta, direction, tokens"),
        ("blend", {"second": "kl_penalty beta=1 beta=2"}, r"'second' .* 'beta' of method 'kl_penalty': is there twice"),
        ("blend", {"second": "kl_penalty beta=x"}, r"'second' .* 'beta' must be a number in \[0, inf\], got 'x'"),
        ("blend", {"second": "blend"}, r"coefficient 'second' cannot be a blend itself"),
        ("blend", {"second": "plain"}, r"coefficients 'first' and 'second' are both 'plain'"),
        ("upweighted", {"proxy_schedule": "never"}, r"'proxy_schedule' must be one of 'continuous', 'synchronized'"),
    ],
)
def test_bad_input(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.make(name, values)


def test_a_missing_stream_is_named() -> None:
    setting = tiny_setting()
    lonely = replace(setting, streams={"task": setting.streams["task"]})
    told = (
        "method 'kl_penalty' needs alignment rows, but setting 'tiny' has none; add them as its stream 'alignment'"
        r" \(chat_files: option 'alignment'\)$"
    )
    with pytest.raises(UserError, match=told):
        trial_for(lonely, SettingRef("tiny"), methods.make("kl_penalty"), 0)


def test_a_stream_that_a_prior_needs_is_named() -> None:
    setting = tiny_setting()
    lonely = replace(setting, streams={"task": setting.streams["task"]})
    for name in ("safe_lora", "orthogonal_lora"):
        with pytest.raises(UserError, match="method 'alignment_only' needs alignment rows"):
            trial_for(lonely, SettingRef("tiny"), methods.make(name), 0)


def test_a_missing_prior_is_named() -> None:
    with pytest.raises(
        UserError, match=r"method 'orthogonal_lora' needs the adapter of trial .* \(alignment_only, seed 3\)"
    ):
        Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("orthogonal_lora"), seed=3)], torch.float64)
