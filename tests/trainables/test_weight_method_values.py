"""Penalties on weights and edits of trained adapters: values by hand, and the papers' formulas on dense matrices.

The task's loss is that of `test_method_values`: (log 4 + log 4/3) / 2. All matrices by hand are 2 x 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.trainables.test_method_values import CE_TASK, HALF, QUARTER, TASK, TEXT, columns, forward, near, tensor
from trainables import methods
from trainables.method import Step, Trained
from trainables.projections import Direction, Factors, InvalidAdapterError, LowRankDirection, WeightDirection

EYE = ((1.0, 0.0), (0.0, 1.0))
PLAIN = 0.5 * math.log(16 / 3)
SEEDS = range(4)
OUT, IN, LAYERS = 7, 5, 3


def factors(B: Any, A: Any = EYE, scale: float = 1.0) -> Factors:
    return Factors(tensor(A), tensor(B), scale)


def change(own: Factors) -> Tensor:
    """dW."""
    return own.scale * own.B_OR @ own.A_RI


def losses(
    name: str, values: Mapping[str, Any], adapter: Sequence[Factors], directions: Sequence[Direction] = ()
) -> Any:
    """The losses on the usual task rows and these weights."""
    step = Step({"task": forward(*TASK)}, {}, adapter, directions=directions)
    return [float(loss) for loss in methods.make(name, values).losses(step)]


def edited(
    name: str, values: Mapping[str, Any], adapter: Sequence[Factors], *priors: Sequence[Factors]
) -> list[Factors]:
    """The adapter after `finalize`, with the first prior's change as direction."""
    directions = [LowRankDirection(prior) for prior in priors[0]]
    return list(methods.make(name, values).finalize(Trained(adapter, priors, directions)))


def drawn(seed: int, rank: int = 2) -> list[Factors]:
    """A random adapter of `LAYERS` layers, each with another scale."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return [Factors(random(rank, IN), random(OUT, rank), 0.5 + layer) for layer in range(LAYERS)]


def dense(adapter: Sequence[Factors]) -> list[NDArray[np.float64]]:
    return [change(own).numpy() for own in adapter]


def assert_changes(found: Sequence[Factors], expected: Sequence[NDArray[np.float64]]) -> None:
    """To 1e-9."""
    for own, matrix in zip(found, expected, strict=True):
        np.testing.assert_allclose(change(own).numpy(), matrix, rtol=0, atol=1e-9)


def safe_lora_matrix(V: NDArray[np.float64]) -> NDArray[np.float64]:
    """C = V V^T / ||V||_F, Hsu et al. 2024, eq. 3."""
    return V @ V.T / np.linalg.norm(V)


# --- the adapter on misaligned rows ---


def test_misaligned_only() -> None:
    """(log 2 + log 4/3) / 2 = log(8/3) / 2; no other rows are there."""
    step = Step({"misaligned": forward([HALF, QUARTER], [0, 1])}, {})
    assert [float(loss) for loss in methods.make("misaligned_only").losses(step)] == near(0.5 * math.log(8 / 3))


# --- L2-SP ---


def test_l2_sp() -> None:
    """Two layers: dW = 2 [[1], [2]] [[3, 0]] = [[6, 0], [12, 0]], 36 + 144 = 180; and 1/2 diag(2, 4): 1 + 4 = 5.

    With weight 1/10: 18.5.
    """
    adapter = [factors([[1], [2]], [[3, 0]], 2.0), factors([[2, 0], [0, 4]], scale=0.5)]
    assert losses("l2_sp", {"weight": 0.1}, adapter) == near(CE_TASK + 18.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_l2_sp_is_the_dense_distance(seed: int) -> None:
    """lambda ||W - W_0||^2, from the weights themselves."""
    adapter = drawn(seed)
    expected = sum(float((matrix**2).sum()) for matrix in dense(adapter))
    (found,) = losses("l2_sp", {"weight": 1.0}, adapter)
    assert found - CE_TASK == pytest.approx(expected, rel=1e-9)


# --- AsFT ---


def test_safety_anchoring() -> None:
    """dW = 2 diag(1, 3) = diag(2, 6). V = diag(0, 5): P = diag(0, 1), (I - P) dW = diag(2, 0): 4, with weight 1/2 2.

    V = diag(1, 7) has singular values 7 and 1: 49/50 of its energy lie in the second axis: the same with energy 0.9,
    and nothing is outside with 0.99. Scaled: V = diag(0, 5), C = diag(0, 25) / 5 = diag(0, 5), (I - C) dW =
    diag(2, -24): 4 + 576 = 580; published without the adapter's scale 2: a fourth, 145.
    """
    adapter, direction = [factors([[1, 0], [0, 3]], scale=2.0)], LowRankDirection(factors([[0, 0], [0, 5]]))
    wide = LowRankDirection(factors([[1, 0], [0, 7]]))
    cases: list[tuple[dict[str, Any], Direction, float]] = [
        ({}, direction, 4),
        ({}, wide, 4),
        ({"energy": 0.99}, wide, 0),
        ({"projector": "scaled"}, direction, 580),
        ({"definition": "published"}, direction, 145),
    ]
    for values, along, outside in cases:
        assert losses("safety_anchoring", {"weight": 0.5} | values, adapter, [along]) == near(CE_TASK + outside / 2)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_safety_anchoring_is_the_dense_formula(seed: int, low_rank: bool) -> None:
    """||(I - C) dW||_F^2 with matrices written out: V of rank 2, and V of full rank as tuning makes it."""
    adapter, prior = drawn(seed), drawn(seed + 100)
    generator = np.random.default_rng(seed)
    Vs = dense(prior) if low_rank else [generator.normal(size=(OUT, IN)) for _ in adapter]
    directions: list[Direction] = [LowRankDirection(own) for own in prior]
    if not low_rank:
        zero = torch.zeros(OUT, IN, dtype=torch.float64)
        directions = [WeightDirection(torch.tensor(V), zero) for V in Vs]
    scaled, orthogonal = 0.0, 0.0
    for dW, V in zip(dense(adapter), Vs, strict=True):
        scaled += np.linalg.norm((np.eye(OUT) - safe_lora_matrix(V)) @ dW) ** 2
        U, s, _ = np.linalg.svd(V)
        number = int(np.argmax(np.cumsum(s**2) >= 0.9 * (s**2).sum())) + 1
        P = U[:, :number] @ U[:, :number].T
        orthogonal += np.linalg.norm((np.eye(OUT) - P) @ dW) ** 2
    tolerance = 1e-9 if low_rank else 1e-5  # the singular vectors of whole weights are computed in float32
    for values, expected, relative in (({"projector": "scaled"}, scaled, 1e-9), ({}, orthogonal, tolerance)):
        (found,) = losses("safety_anchoring", {"weight": 1.0} | values, adapter, directions)
        assert found - CE_TASK == pytest.approx(expected, rel=relative)


# --- contrastive weight steering ---


def test_weight_steering() -> None:
    """dW = I, dW_A = 2 diag(1, 0), dW_M = diag(0, 4): I + 1/2 (diag(2, 0) - diag(0, 4)) = diag(2, -1).

    Aligned alone: I + diag(1, 0) = diag(2, 1). Misaligned alone: I - diag(0, 2) = diag(1, -1). Ranks 2 + 1 + 1.
    """
    assert losses("weight_steering", {}, []) == near(PLAIN)
    own = [factors(EYE)]
    aligned, misaligned = [factors([[1], [0]], [[1, 0]], 2.0)], [factors([[0], [2]], [[0, 2]])]
    cases = [
        ("contrastive", (aligned, misaligned), 4, [[2, 0], [0, -1]]),
        ("aligned", (aligned,), 3, [[2, 0], [0, 1]]),
        ("misaligned", (misaligned,), 3, [[1, 0], [0, -1]]),
    ]
    for vector, priors, rank, expected in cases:
        (found,) = edited("weight_steering", {"k": 0.5, "vector": vector}, own, *priors)
        assert found.rank == rank
        torch.testing.assert_close(change(found), tensor(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_weight_steering_is_the_dense_formula(seed: int) -> None:
    """theta_ft + k (theta_positive - theta_negative), eq. 1 of arXiv:2511.05408, with priors of other ranks."""
    own, aligned, misaligned = drawn(seed), drawn(seed + 10, rank=3), drawn(seed + 20, rank=1)
    found = edited("weight_steering", {"k": 1.7}, own, aligned, misaligned)
    assert [layer.rank for layer in found] == [6] * LAYERS
    dWs = zip(dense(own), dense(aligned), dense(misaligned), strict=True)
    assert_changes(found, [dW + 1.7 * (dW_A - dW_M) for dW, dW_A, dW_M in dWs])


# --- blends ---


def test_blend() -> None:
    """dW_1 = I, dW_2 = 2 diag(1, 0), w = 1/4: 1/4 diag(1, 1) + 3/4 diag(2, 0) = diag(7/4, 1/4), of rank 2 + 1.

    At 1 and 0 it is the end itself, of that end's rank.
    """
    assert losses("blend", {}, []) == near(PLAIN)
    own, other = [factors(EYE)], [factors([[1], [0]], [[1, 0]], 2.0)]
    for w, rank, expected in ((0.25, 3, [[1.75, 0], [0, 0.25]]), (1, 2, EYE), (0, 1, [[2, 0], [0, 0]])):
        (found,) = edited("blend", {"w": w}, own, other)
        assert found.rank == rank
        torch.testing.assert_close(change(found), tensor(expected), rtol=0, atol=1e-12)


# --- SafeMERGE ---


def test_safe_merge() -> None:
    """Two layers. dW_A = V = diag(3, 4), C = diag(9, 16) / 5, dW = diag(1, 0): C dW = diag(9/5, 0), cosine 1.

    dW_A = V = [1, 1]^T [1, 1], C = V V^T / 2 = V, dW = diag(0, 1): C dW = [[0, 1], [0, 1]], cosine 1/sqrt 2 = .707.
    With tau = 0.8 this one alone is merged; w = 1/4: 3/4 diag(0, 1) + 1/4 [[1, 1], [1, 1]] = [[1/4, 1/4], [1/4, 1]].

    Adding keeps dW: [[1/4, 1/4], [1/4, 5/4]]. Factors: sqrt(3/4) B + sqrt(1/4) B_A times the same of A, with B =
    [0, 1]^T, A = [0, 1] and all of B_A, A_A one: [1/2, (1 + sqrt 3)/2] both, whose product has (1 + sqrt 3)/4 off the
    diagonal, 1/4 and (1 + sqrt 3)^2/4 on it. With tau = 1/2 nothing is merged.
    """
    assert losses("safe_merge", {}, []) == near(PLAIN)
    own = [factors([[1, 0], [0, 0]]), factors([[0], [1]], [[0, 1]])]
    aligned = [factors([[3, 0], [0, 4]]), factors([[1], [1]], [[1, 1]])]
    root = 1 + math.sqrt(3)
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"tau": 0.8}, [[1 / 4, 1 / 4], [1 / 4, 1]]),
        ({"tau": 0.8, "merge": "add"}, [[1 / 4, 1 / 4], [1 / 4, 5 / 4]]),
        ({"tau": 0.8, "merge": "factors"}, [[1 / 4, root / 4], [root / 4, root**2 / 4]]),
        ({"tau": 0.5}, [[0, 0], [0, 1]]),
    ]
    for values, expected in cases:
        first, second = edited("safe_merge", {"w": 0.25} | values, own, aligned)
        assert first is own[0]
        torch.testing.assert_close(change(second), tensor(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_safe_merge_is_the_dense_formula(seed: int, tau: float) -> None:
    """rho = cos(dW, C dW); where rho < tau: (1 - w) dW + w dW_A. With tau = 1 and adding: RESTA in all layers."""
    own, aligned = drawn(seed), drawn(seed + 10)
    expected, resta = [], []
    for dW, dW_A in zip(dense(own), dense(aligned), strict=True):
        CdW = safe_lora_matrix(dW_A) @ dW
        rho = float((CdW * dW).sum() / np.linalg.norm(CdW) / np.linalg.norm(dW))
        expected.append(0.7 * dW + 0.3 * dW_A if rho < tau else dW)
        resta.append(dW + 0.3 * dW_A)
    found = edited("safe_merge", {"w": 0.3, "tau": tau}, own, aligned)
    assert_changes(found, expected)
    assert {layer.rank for layer in found} <= ({4} if tau == 1 else {2, 4})
    assert_changes(edited("safe_merge", {"w": 0.3, "tau": 1.0, "merge": "add"}, own, aligned), resta)


def test_safe_merge_of_factors_is_that_of_peft() -> None:
    """`add_weighted_adapter(combination_type="linear")` on a linear layer, as the authors' code calls it; float32."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT, bias=False)).double()
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    wrapped = get_peft_model(model, config, adapter_name="own")
    wrapped.add_adapter("aligned", config)
    wrapped.add_weighted_adapter(["own", "aligned"], [0.7, 0.3], "merged", combination_type="linear")
    layer = wrapped.base_model.model[0]
    given = [
        Factors(layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach(), layer.scaling[name])
        for name in ("own", "aligned", "merged")
    ]
    own, aligned = (Factors(one.A_RI.double(), one.B_OR.double(), one.scale) for one in given[:2])
    (found,) = edited("safe_merge", {"w": 0.3, "tau": 1.0, "definition": "published"}, [own], [aligned])
    torch.testing.assert_close(change(found), change(given[2]).double(), rtol=1e-6, atol=1e-6)


# --- CSULoRA ---


def test_closest_safe_update() -> None:
    """V = diag(0, 5): P = Q = diag(0, 1). dW = [[1, 2], [0, 2]]: ||dW||^2 = 9; aligned [[0, 0], [0, 2]], partial
    [[0, 2], [0, 0]] with a share of 4/9, off [[1, 0], [0, 0]] with 1/9.

    strength 9: partial / (1 + 4) = 2/5, off / (1 + 1) = 1/2: [[1/2, 2/5], [0, 2]]. The rank doubles to 4.
    """
    assert losses("closest_safe_update", {}, []) == near(PLAIN)
    own, aligned = [factors([[1, 2], [0, 2]])], [factors([[0], [5]], [[0, 1]])]
    (found,) = edited("closest_safe_update", {"strength": 9.0}, own, aligned)
    assert found.rank == 4
    torch.testing.assert_close(change(found), tensor([[0.5, 0.4], [0, 2]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_closest_safe_update_is_the_minimum(seed: int) -> None:
    """Of ||X - dW||^2 + strength (e_partial ||X_partial||^2 + e_off ||X_off||^2): no gradient there, all dense."""
    own, aligned, strength = drawn(seed), drawn(seed + 10), 4.0
    found = edited("closest_safe_update", {"strength": strength, "energy": 1.0}, own, aligned)
    for layer, dW, V in zip(found, dense(own), dense(aligned), strict=True):
        U, _, Wt = np.linalg.svd(V)
        P, Q = U[:, :2] @ U[:, :2].T, Wt[:2].T @ Wt[:2]

        def off(M: NDArray[np.float64], P: Any = P, Q: Any = Q) -> NDArray[np.float64]:
            return (np.eye(OUT) - P) @ M @ (np.eye(IN) - Q)

        def partial(M: NDArray[np.float64], P: Any = P, Q: Any = Q) -> NDArray[np.float64]:
            return P @ M @ (np.eye(IN) - Q) + (np.eye(OUT) - P) @ M @ Q

        whole = np.linalg.norm(dW) ** 2
        X = change(layer).numpy()
        gradient = X - dW
        for part in (off, partial):
            gradient = gradient + strength * np.linalg.norm(part(dW)) ** 2 / whole * part(X)
        np.testing.assert_allclose(gradient, 0, atol=1e-9)
        assert np.linalg.norm(X - dW) > 0.1


# --- what all have in common ---


@pytest.mark.parametrize(
    ("name", "values"),
    [("safe_merge", {"w": 0.0}), ("weight_steering", {"k": 0.0}), ("closest_safe_update", {"strength": 0.0})],
)
def test_the_neutral_edit_is_none(name: str, values: dict[str, Any]) -> None:
    own = drawn(0)
    found = edited(name, values, own, drawn(1), drawn(2))
    assert all(new is old for new, old in zip(found, own, strict=True))


# --- adapters that gates weigh ---


def test_pareto_adapters() -> None:
    """At s = 1/4 and weight 2: 3/4 CE(task) + 1/4 * 2 * alignment.

    KL of (1/4, 3/4) to (1/2, 1/2) = 3/4 log 3 - log 2; CE of token 0 at 1/4 = log 4. The finished adapter of rank 2,
    B = [b_T, b_A] with scale 3, A = 1: W + 2 (3/4) 3 b_T + 2 (1/4) 3 b_A, column by column; in the conditioned form of
    rank 3 the first column stays. At 1/2 nothing changes.
    """
    for alignment, value in (("kl", 0.75 * math.log(3) - math.log(2)), ("cross_entropy", math.log(4))):
        method = methods.make("pareto_adapters", {"weight": 2.0, "alignment": alignment})
        streams = {"task": forward(*TASK), "alignment": forward([QUARTER], [0])}
        step = Step(streams, {"alignment": forward([HALF], [0])}, gates=(1.5, 0.5))  # type: ignore[arg-type]
        assert [float(loss) for loss in method.losses(step)] == near(0.75 * CE_TASK + 0.5 * value)
        assert float(step.recorded["alignment"]) == pytest.approx(value, abs=1e-12)
    own = factors(((1.0, 10.0), (2.0, 20.0)), scale=3.0)
    for share, expected in ((0.25, [[4.5, 15.0], [9.0, 30.0]]), (0.0, [[6, 0], [12, 0]]), (1.0, [[0, 60], [0, 120]])):
        (found,) = methods.make("pareto_adapters", {"share": share}).finalize(Trained([own]))
        torch.testing.assert_close(change(found), tensor(expected), rtol=0, atol=1e-12)
        assert (found.rank, found.scale) == (2, 3.0)
    (same,) = methods.make("pareto_adapters").finalize(Trained([own]))
    assert torch.equal(same.B_OR, own.B_OR)
    wide = factors(((1.0, 10.0, 100.0),), A=torch.eye(3).tolist())
    (found,) = methods.make("pareto_adapters", {"share": 0.25, "form": "conditioned"}).finalize(Trained([wide]))
    assert change(found).tolist() == [[1.0, 15.0, 50.0]]


@pytest.mark.parametrize("name", ["safe_merge", "closest_safe_update"])
def test_without_directions_there_is_nothing_to_say(name: str) -> None:
    nothing = [layer.times(0.0) for layer in drawn(1)]
    with pytest.raises(InvalidAdapterError):
        edited(name, {}, drawn(0), nothing)


@pytest.mark.parametrize("name", ["safe_merge", "weight_steering", "closest_safe_update", "safety_anchoring", "l2_sp"])
def test_the_published_definition_counts_texts(name: str) -> None:
    """And what is built on is of the same definition."""
    method = methods.make(name, {"definition": "published"})
    assert columns(method, "task") == TEXT
    assert {other.definition for other in (*method.priors, method.trained_as)} == {"published"}


def test_which_adapters_are_needed() -> None:
    for name, values, needed in (
        ("weight_steering", {}, ["alignment_only", "misaligned_only"]),
        ("weight_steering", {"vector": "misaligned"}, ["misaligned_only"]),
        ("safe_merge", {"direction": "pretrained"}, ["alignment_only"]),
        ("safety_anchoring", {"direction": "pretrained"}, []),
        ("closest_safe_update", {}, ["alignment_only"]),
    ):
        method = methods.make(name, values)  # type: ignore[arg-type]
        assert [prior.name for prior in method.priors] == needed
        assert method.needs_pretrained == ("direction" in values)
