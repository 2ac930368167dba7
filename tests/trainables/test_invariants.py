"""The mathematical invariants of the methods.

I1  A divergence from the reference is exactly zero before the first step, and padding dilutes its mean.
I2  Up-weighting by 0 gives the task's gradient, by 1 the gradient of the sum of two means.
I3  A projected gradient is orthogonal to the direction taken out, or no longer conflicts with it.
I4  DPO's loss is log 2 before the first step, and a step raises the margin.
I5  Safe LoRA's projection is symmetric and positive semi-definite, and edits the layers of the smallest cosines.
I6  O-LoRA's overlap is zero for orthogonal row spaces, and its penalty reaches the factors alone. It starts in a space
    of its own.
I7  The learning rate ends at zero, after the horizon if there is one.
I8  All methods see the same task rows, whatever proxy rows lie beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from settings.encoding import EncodedRow
from settings.setting import Stream
from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import EncodedSetting
from trainables.engine.step import train_step
from trainables.engine.stream import MemberStep
from trainables.interface.outputs import Forward
from trainables.losses import kl_to_reference, preference_margin, subspace_overlap
from trainables.method import BatchSizes, Method, Step, Trained
from trainables.pack import Pack
from trainables.projections import Direction, Factors, LowRankDirection, WeightDirection, cosine
from trainables.trial import OptimizerConfig

Rows = Mapping[Stream, Sequence[EncodedRow]]
LENGTH = 16


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pack_of(method: Method, **options: Any) -> Pack:
    trial = tiny_trial(method, max_length=LENGTH)
    return Pack(tiny_base(), tiny_setting(), [trial], torch.float64, **options)


def trained_theta() -> Tensor:
    """Factors after five steps; at the start B = 0, and A has no gradient."""
    pack = pack_of(methods.make("plain"))
    pack.advance(5)
    return pack.adapters.theta_KP.clone()


def rows_of(method: Method) -> Rows:
    return pack_of(method).member_step(0).rows


def gradient(method: Method, rows: Rows, theta_KP: Tensor) -> list[Tensor]:
    """What a method gives the optimizer on these rows, tensor by tensor."""
    pack = pack_of(method)
    pack.adapters.theta_KP.copy_(theta_KP)
    return gradient_in(pack, MemberStep(method, {stream: rows[stream] for stream in method.streams}, LENGTH))


def gradient_in(pack: Pack, member: MemberStep) -> list[Tensor]:
    """What the only member of a pack gives the optimizer, which is replaced."""
    found = []

    def step(gradient_KP: Tensor, active: Sequence[bool], transform: object = None) -> Tensor:
        found.append(gradient_KP.clone())
        return gradient_KP.norm(dim=1)

    pack.optimizer.step = step  # type: ignore[method-assign]
    train_step(pack.base.model, pack.adapters, pack.optimizer, {0: member}, 0)
    return pack.adapters.unflat(found[0][0])


def largest(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


# --- I1: the divergence ---


@pytest.mark.parametrize(
    ("name", "term", "values", "rows_per_forward"),
    [
        ("kl_penalty", "kl", {}, None),
        ("kl_penalty", "kl", {"direction": "forward", "tokens": "text"}, 2),
        ("kl_penalty", "kl", {"definition": "published"}, None),
        ("representation", "distance", {}, 2),
        ("representation", "distance", {"definition": "published"}, None),
        ("dpo", "margin", {}, None),
        ("dpo", "margin", {"definition": "published"}, 2),
    ],
)
def test_i1_divergence_is_exactly_zero_at_step_0(
    name: str, term: str, values: dict[str, Any], rows_per_forward: int | None
) -> None:
    pack = pack_of(methods.make(name, values), rows_per_forward=rows_per_forward)
    moved = pack.trials[0].optimizer.moves_after
    pack.advance(moved + 1)
    divergences = [value for _, value in pack.members[0].curves[term]]
    assert divergences[:moved] == [0.0] * moved
    assert divergences[moved] > 0.0


def test_i1_padding_dilutes_the_mean() -> None:
    """Where policy and reference agree on the padding, the padded mean is the masked one times tokens / positions."""
    policy, reference, padding = random(0, 3, 5), random(1, 3, 5), random(2, 4, 5)

    def divergence(*parts: Tensor, other: Sequence[Tensor]) -> float:
        one, two = torch.cat(parts), torch.cat(list(other))
        labels = torch.zeros(len(one), dtype=torch.long)
        forwards = [Forward(some, labels, labels, 1, lambda hidden: hidden) for some in (one, two)]
        return float(kl_to_reference(*forwards))

    masked = divergence(policy, other=[reference])
    padded = divergence(policy, padding, other=[reference, padding])
    assert masked > 0.1
    assert padded == pytest.approx(masked * 3 / 7, rel=1e-12)


# --- I2: up-weighting ---


def test_i2_weight_zero_is_the_task_gradient() -> None:
    theta, method = trained_theta(), methods.make("upweighted", {"weight": 0.0})
    rows = rows_of(method)
    assert largest(gradient(method, rows, theta), gradient(methods.make("plain"), rows, theta)) < 1e-12


def test_i2_weight_one_is_the_sum_of_two_means() -> None:
    """And not the mean of the concatenation."""
    theta, method = trained_theta(), methods.make("upweighted", {"weight": 1.0})
    rows = rows_of(method)
    found = gradient(method, rows, theta)
    parts = [gradient(methods.make(name), rows, theta) for name in ("plain", "alignment_only")]
    assert largest(found, [one + other for one, other in zip(*parts, strict=True)]) < 1e-12
    assert largest(found, [2 * value for value in gradient(methods.make("mixed"), rows, theta)]) > 1e-3


# --- I3: projection ---


def projected(**values: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Task gradient, alignment gradient and what gradient projection makes of them, on the same rows and factors."""
    theta, method = trained_theta(), methods.make("gradient_projection", {"directions": 1, **values})
    rows = rows_of(method)
    task, along = (gradient(methods.make(name), rows, theta) for name in ("plain", "alignment_only"))
    return task, along, gradient(method, rows, theta)


def test_i3_strict_projection_is_orthogonal_tensor_by_tensor() -> None:
    task, along, found = projected()
    for g, a, new in zip(task, along, found, strict=True):
        assert float((new * a).sum().abs()) <= 1e-5 * float(new.norm() * a.norm())
        assert float((g * a).sum().abs()) > 1e-5 * float(g.norm() * a.norm())


def test_i3_one_sided_projection_leaves_what_does_not_conflict() -> None:
    """A tensor with <g, a> >= 0 is as it was; one with <g, a> < 0 is orthogonal. There are some of each."""
    task, along, found = projected(sign="conflict")
    agree = [float((g * a).sum()) >= 0 for g, a in zip(task, along, strict=True)]
    assert 0 < sum(agree) < len(agree)
    for g, a, new, kept in zip(task, along, found, agree, strict=True):
        if kept:
            torch.testing.assert_close(new, g, rtol=0, atol=1e-12)
        else:
            assert float((new * a).sum().abs()) <= 1e-5 * float(new.norm() * a.norm())


def test_i3_projection_of_the_update_is_orthogonal_whatever_adam_did() -> None:
    """The step itself, without weight decay, tensor by tensor; projecting the gradient does not achieve that."""
    worst = {}
    for stage in ("gradient", "update"):
        method = methods.make("gradient_projection", {"directions": 1, "stage": stage})
        optimizer = OptimizerConfig(learning_rate=1e-2, weight_decay=0.0)
        trial = tiny_trial(method, max_length=LENGTH, optimizer=optimizer)
        pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64)
        pack.advance(5)
        before, rows = pack.adapters.theta_KP.clone(), pack.member_step(0).rows
        pack.advance(1)
        moved = pack.adapters.unflat((pack.adapters.theta_KP - before)[0])
        along = gradient(methods.make("alignment_only"), rows, before)
        worst[stage] = max(
            float((m * a).sum().abs() / (m.norm() * a.norm())) for m, a in zip(moved, along, strict=True)
        )
    assert worst["update"] < 1e-5
    assert worst["gradient"] > 1e-2


# --- I4: DPO ---


def test_i4_dpo_is_log_2_at_step_0_and_a_step_raises_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each pair of the batch, on the same rows."""
    margins: list[Tensor] = []
    method = methods.make("dpo", {"weight": 100.0, "beta": 1.0})
    losses = type(method).losses

    def watched(self: Method, step: Step) -> tuple[Tensor, ...]:
        streams: tuple[Stream, ...] = ("alignment", "misaligned")
        margins.append(
            preference_margin(*(side[s] for side in (step.policy, step.reference) for s in streams)).detach()
        )
        return losses(self, step)

    monkeypatch.setattr(type(method), "losses", watched)
    pack = pack_of(method)
    member = pack.member_step(0)
    terms = [train_step(pack.base.model, pack.adapters, pack.optimizer, {0: member}, 0)[0] for _ in range(3)]
    assert float(terms[0]["preference"]) == pytest.approx(math.log(2), abs=1e-15)
    assert torch.equal(margins[0], torch.zeros_like(margins[0]))
    assert (margins[1] > margins[0]).all()
    assert (margins[2] > margins[1]).all()
    assert float(terms[2]["preference"]) < float(terms[1]["preference"]) < math.log(2)


# --- I5: Safe LoRA ---

OUT, IN, RANK, LAYERS = 6, 5, 2, 5


def weights_case() -> tuple[list[Factors], list[Direction]]:
    """An adapter of five layers, and a direction of each: low-rank and dense ones."""
    adapter = [Factors(random(n, RANK, IN), random(n + 10, OUT, RANK), 2.0) for n in range(LAYERS)]
    directions: list[Direction] = [
        LowRankDirection(Factors(random(n + 20, 3, IN), random(n + 30, OUT, 3), 0.5))
        if n % 2
        else WeightDirection(random(n + 40, OUT, IN), random(n + 50, OUT, IN))
        for n in range(LAYERS)
    ]
    return adapter, directions


def test_i5_C_is_symmetric_and_positive_semi_definite() -> None:
    for direction in weights_case()[1]:
        C_OO = direction.project(torch.eye(OUT, dtype=torch.float64))
        torch.testing.assert_close(C_OO, C_OO.T, rtol=0, atol=1e-12)
        eigenvalues = torch.linalg.eigvalsh(C_OO)
        assert float(eigenvalues.min()) > -1e-12
        assert float(eigenvalues.square().sum()) > 0.1


@pytest.mark.parametrize("number", range(LAYERS + 1))
def test_i5_the_smallest_cosines_are_projected(number: int) -> None:
    """share = 0 changes nothing, share = 1 every layer; in between those with the smallest cosines."""
    adapter, directions = weights_case()
    cosines = [cosine(own, direction.project(own.B_OR)) for own, direction in zip(adapter, directions, strict=True)]
    expected = sorted(range(LAYERS), key=lambda layer: cosines[layer])[:number]
    found = methods.make("safe_lora", {"share": number / LAYERS}).finalize(Trained(adapter, directions=directions))
    for layer, (own, direction, new) in enumerate(zip(adapter, directions, found, strict=True)):
        assert torch.equal(new.B_OR, direction.project(own.B_OR) if layer in expected else own.B_OR)
        assert torch.equal(new.A_RI, own.A_RI)
        assert not torch.equal(own.B_OR, direction.project(own.B_OR))


def test_i5_applying_twice_is_not_applying_once() -> None:
    adapter, directions = weights_case()
    method = methods.make("safe_lora", {"share": 1.0})
    once = method.finalize(Trained(adapter, directions=directions))
    twice = method.finalize(Trained(once, directions=directions))
    assert all(float((one.B_OR - two.B_OR).norm()) > 1e-2 for one, two in zip(once, twice, strict=True))


def test_i5_what_is_given_is_not_edited() -> None:
    """So that every configuration of a sweep starts from a fresh copy."""
    adapter, directions = weights_case()
    before = [own.B_OR.clone() for own in adapter]
    methods.make("safe_lora", {"share": 1.0}).finalize(Trained(adapter, directions=directions))
    assert all(torch.equal(own.B_OR, kept) for own, kept in zip(adapter, before, strict=True))


# --- I6: O-LoRA ---


def test_i6_overlap_is_zero_for_orthogonal_row_spaces() -> None:
    """Rows of one orthogonal matrix, given to both adapters and mixed within each; and not zero for others."""
    Q_II = torch.linalg.qr(random(0, 6, 6)).Q
    B_OR = random(1, OUT, 3)
    prior = [Factors(random(2, 3, 3) @ Q_II[:3], B_OR, 1.0)]
    assert float(subspace_overlap([Factors(random(3, 3, 3) @ Q_II[3:], B_OR, 1.0)], prior)) < 1e-12
    assert float(subspace_overlap([Factors(random(3, 3, 3) @ Q_II[2:5], B_OR, 1.0)], prior)) > 0.1


def test_i6_overlap_is_exactly_zero_on_different_axes() -> None:
    B_OR, axes = random(1, OUT, 2), torch.eye(4, dtype=torch.float64)
    assert float(subspace_overlap([Factors(axes[:2], B_OR, 1.0)], [Factors(axes[2:], B_OR, 1.0)])) == 0.0


def test_i6_the_penalty_reaches_the_factors_alone(tmp_path: Path) -> None:
    """A gradient of lambda1 sign(A A_prior^T) A_prior more at every A, and none more at B."""
    trials = [
        tiny_trial(methods.make("orthogonal_lora", {"lambda1": lambda1}), max_length=LENGTH) for lambda1 in (1.0, 3.0)
    ]
    store = prepare(trials[0].requires, tmp_path)
    found, prior = [], []
    for trial in trials:
        pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=store)
        found.append(gradient_in(pack, pack.member_step(0)))
        prior = pack.adapters.prior_factors(0)
        own = pack.adapters.member_factors(0)
    for number, (factors, before) in enumerate(zip(own, prior, strict=True)):
        more = [found[1][2 * number + at] - found[0][2 * number + at] for at in (0, 1)]
        expected = 2 * torch.sign(factors.A_RI @ before.A_RI.T) @ before.A_RI
        torch.testing.assert_close(more[0], expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(more[1], torch.zeros_like(more[1]), rtol=0, atol=1e-9)


def test_i6_the_adapters_of_a_trial_start_in_row_spaces_of_their_own() -> None:
    """Two random spaces of rank R in width I share R / I of each other on average, with a deviation below R / (3 I).

    The share is the mean squared cosine of their principal angles: ||Q1 Q2^T||^2 / R. A copy shares all, 1.
    """
    rank, width = 8, 512
    above: Any = methods.make("orthogonal_lora")
    twice = type("Twice", (type(above),), {"priors": property(lambda self: (above,)), "name": "twice"})()
    trials = [tiny_trial(method, 3, rank=rank) for method in (*above.priors, above, twice)]
    assert [trial.num_beneath for trial in trials] == [0, 1, 2]
    model = torch.nn.Sequential(torch.nn.Linear(width, 2))
    pack = PackedAdapters(model, [trial.adapter for trial in trials], [trial.adapter_seed for trial in trials])
    spaces = [torch.linalg.qr(pack.member_factors(member)[0].A_RI.T).Q.T for member in range(3)]
    for one, other in itertools.combinations(spaces, 2):
        assert float((one @ other.T).square().sum()) / rank == pytest.approx(rank / width, rel=1)


# --- I7: the schedule ---


@pytest.mark.parametrize("steps", [6, 20, 97])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_i7_linear_schedule_ends_at_zero(steps: int, warmup: int) -> None:
    """Exactly 0 at update `steps`, one after the last, and above 0 until then, falling in equal steps."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=warmup)
    rates = [config.rate(step, steps) for step in range(steps + 1)]
    assert rates[steps] == 0.0
    assert all(rate > 0 for rate in rates[:steps])
    falls = [one - other for one, other in itertools.pairwise(rates[max(0, warmup - 1) :])]
    assert falls == pytest.approx([falls[0]] * len(falls), abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_i7_a_horizon_of_an_eighth_ends_after_an_eighth(schedule: str) -> None:
    """80 updates: above 0 for 10 of them, then exactly 0 to the end."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule=schedule, horizon=1 / 8)  # type: ignore[arg-type]
    rates = [config.rate(step, 80) for step in range(80)]
    assert all(rate > 0 for rate in rates[:10])
    assert rates[10:] == [0.0] * 70


def test_i7_nothing_moves_after_the_horizon() -> None:
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=1, horizon=1 / 4)
    trial = tiny_trial(methods.make("plain"), max_length=LENGTH, optimizer=optimizer)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64)
    pack.advance(4)
    before = pack.adapters.theta_KP.clone()
    pack.advance(1)
    after = pack.adapters.theta_KP.clone()
    pack.advance(15)
    assert not torch.equal(before, after)
    assert torch.equal(after, pack.adapters.theta_KP)


# --- I8: proxy schedule ---

SIZES = BatchSizes(task=2, alignment=1)  # 12 task rows and 5 alignment rows: n_T = 6 and n_A = 5 batches


def batches(method: Method, sizes: BatchSizes, steps: int) -> list[dict[Stream, list[EncodedRow]]]:
    encoded = EncodedSetting(tiny_setting(), tiny_tokenizer(), LENGTH)
    return [encoded.batch(method, sizes, 0, step) for step in range(steps)]


def every_row(stream: Stream) -> list[EncodedRow]:
    return sorted(EncodedSetting(tiny_setting(), tiny_tokenizer(), LENGTH).rows(stream), key=repr)


def test_i8_the_continuous_schedule_sees_as_many_proxy_as_task_batches() -> None:
    """Six steps are a pass over the task rows: six proxy batches in each, all five rows within any first five."""
    found = batches(methods.make("upweighted"), SIZES, 12)
    assert [len(batch["alignment"]) for batch in found] == [1] * 12
    seen = [row for batch in found for row in batch["alignment"]]
    assert sorted(seen[:5], key=repr) == sorted(seen[5:10], key=repr) == every_row("alignment")


def test_i8_the_synchronized_schedule_sees_each_proxy_row_once_per_pass() -> None:
    """Five proxy batches, then one step without, in each pass of six; the order of the next pass is another."""
    found = batches(methods.make("upweighted", {"proxy_schedule": "synchronized"}), SIZES, 12)
    assert [len(batch["alignment"]) for batch in found] == [1, 1, 1, 1, 1, 0] * 2
    for start in (0, 6):
        some = found[start : start + 6]
        assert sorted((row for batch in some for row in batch["alignment"]), key=repr) == every_row("alignment")
        assert sorted((row for batch in some for row in batch["task"]), key=repr) == every_row("task")
    assert [batch["alignment"] for batch in found[:5]] != [batch["alignment"] for batch in found[6:11]]


def test_i8_a_last_smaller_proxy_batch_ends_the_pass() -> None:
    """Five rows, two at a time: 2, 2, 1, and none in the other three steps."""
    method = methods.make("kl_penalty", {"proxy_schedule": "synchronized"})
    found = batches(method, BatchSizes(task=2, alignment=2), 6)
    assert [len(batch["alignment"]) for batch in found] == [2, 2, 1, 0, 0, 0]


def test_i8_the_schedule_changes_no_task_row() -> None:
    one, other = (methods.make("upweighted", {"proxy_schedule": mode}) for mode in ("continuous", "synchronized"))
    for first, second in zip(batches(one, SIZES, 12), batches(other, SIZES, 12), strict=True):
        assert first["task"] == second["task"]


def test_i8_all_methods_see_the_same_task_rows() -> None:
    """In the same order, whatever they read beside them."""
    plain = batches(methods.make("plain"), SIZES, 8)
    for name in methods.names():
        method = methods.make(name)
        if "task" in method.streams:
            assert [batch["task"] for batch in batches(method, SIZES, 8)] == [batch["task"] for batch in plain]


@pytest.mark.parametrize("schedule", ["continuous", "synchronized"])
def test_i8_misaligned_rows_follow_their_aligned_twins(schedule: str) -> None:
    """Row by row the same prompt, another answer."""
    for batch in batches(methods.make("dpo", {"proxy_schedule": schedule}), BatchSizes(task=2, alignment=2), 12):
        assert len(batch["alignment"]) == len(batch["misaligned"])
        for chosen, rejected in zip(batch["alignment"], batch["misaligned"], strict=True):
            assert chosen.ids[: chosen.prompt_length] == rejected.ids[: rejected.prompt_length]
            assert chosen.ids != rejected.ids


WITH_PROXY_ROWS = ["upweighted", "kl_penalty", "representation", "dpo", "gradient_projection"]
WITH_PROXY_ROWS += ["kl_constraint", "dark_experience", "orpo", "two_gradients"]


@pytest.mark.parametrize("name", WITH_PROXY_ROWS)
def test_i8_steps_without_proxy_rows_are_plain_steps(name: str) -> None:
    """A synchronized trial trains through them, and they do not make its term look dead."""
    trial = tiny_trial(methods.make(name, {"proxy_schedule": "synchronized"}), max_length=LENGTH, batch_size=2)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64)
    pack.advance(8)  # five rows, three at a time: six steps are a pass, and the last four of them have none
    assert (pack.members[0].status, pack.members[0].reason) == ("finished", None)
    assert pack.steps_done == 8
    assert [step for step, _ in pack.members[0].curves[trial.method.must_stay_active[0]]] == [1, 2, 7, 8]
