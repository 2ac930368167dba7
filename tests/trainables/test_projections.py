"""Projections of weights and gradients against dense linear algebra."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from trainables.projections import (
    Factors,
    InvalidAdapterError,
    LowRankDirection,
    WeightDirection,
    cosine,
    joined,
    project_weights,
    remove,
)

OUT, IN, RANK, COLUMNS = 7, 5, 2, 3


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(V_OI: Tensor) -> Tensor:
    """C = V V^T / ||V||_F."""
    return V_OI @ V_OI.T / V_OI.norm()


def factors(seed: int, rank: int = RANK, scale: float = 1.5) -> Factors:
    return Factors(random(seed, rank, IN), random(seed + 1, OUT, rank), scale)


def change(own: Factors) -> Tensor:
    return own.scale * own.B_OR @ own.A_RI


def length(vector: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in vector]).norm()


def inner(one: list[Tensor], other: list[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


# --- weights ---


def test_weight_direction_is_the_dense_formula() -> None:
    tuned, pretrained, B_OX = random(0, OUT, IN), random(1, OUT, IN), random(2, OUT, COLUMNS)
    found = WeightDirection(tuned, pretrained).project(B_OX)
    torch.testing.assert_close(found, dense(tuned - pretrained) @ B_OX, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.5, -0.5, 1.0])
def test_low_rank_direction_is_the_dense_formula(scale: float) -> None:
    own, B_OX = factors(0, scale=scale), random(2, OUT, COLUMNS)
    found = LowRankDirection(own).project(B_OX)
    torch.testing.assert_close(found, dense(scale * own.B_OR @ own.A_RI) @ B_OX, rtol=0, atol=1e-12)


def test_both_directions_agree() -> None:
    own, B_OX, weights = factors(0), random(2, OUT, COLUMNS), random(3, OUT, IN)
    tuned = weights + own.scale * own.B_OR @ own.A_RI
    torch.testing.assert_close(
        WeightDirection(tuned, weights).project(B_OX), LowRankDirection(own).project(B_OX), rtol=0, atol=1e-12
    )


def test_low_rank_makes_no_square_matrix() -> None:
    """An O x O matrix of O = 200 000 would take 320 GB."""
    wide = 200_000
    own = Factors(random(0, RANK, 4), random(1, wide, RANK), 1.0)
    assert LowRankDirection(own).project(random(2, wide, RANK)).shape == (wide, RANK)


def test_weight_direction_makes_no_square_matrix() -> None:
    wide = 200_000
    direction = WeightDirection(random(0, wide, 2), random(1, wide, 2))
    assert direction.project(random(2, wide, RANK)).shape == (wide, RANK)


def test_no_direction_projects_to_zero() -> None:
    """V = 0: zeros, no NaN."""
    nothing = Factors(random(0, RANK, IN), torch.zeros(OUT, RANK, dtype=torch.float64), 1.0)
    weights = random(0, OUT, IN)
    for direction in (LowRankDirection(nothing), WeightDirection(weights, weights)):
        assert torch.equal(direction.project(random(2, OUT, RANK)), torch.zeros(OUT, RANK, dtype=torch.float64))


def test_the_direction_follows_the_type_of_the_adapter() -> None:
    direction = WeightDirection(random(0, OUT, IN).bfloat16(), random(1, OUT, IN).bfloat16())
    assert direction.project(random(2, OUT, RANK).float()).dtype == torch.float32


def test_cosine_is_the_dense_one() -> None:
    own, B_OR = factors(0, rank=3), random(9, OUT, 3)
    one, other = (own.B_OR @ own.A_RI).reshape(-1), (B_OR @ own.A_RI).reshape(-1)
    assert cosine(own, B_OR) == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), abs=1e-12)


def test_cosine_of_multiples_and_of_nothing() -> None:
    own = factors(0)
    assert cosine(own, 3 * own.B_OR) == pytest.approx(1, abs=1e-12)
    assert cosine(own, -own.B_OR) == pytest.approx(-1, abs=1e-12)
    assert cosine(own, 0 * own.B_OR) == 0


def test_project_weights_leaves_A_and_the_scale() -> None:
    own, direction = factors(0), LowRankDirection(factors(5))
    (found,) = project_weights([own], [direction])
    assert found.A_RI is own.A_RI
    assert found.scale == own.scale
    assert torch.equal(found.B_OR, direction.project(own.B_OR))


def test_a_projection_that_leaves_nothing_in_any_layer_is_refused() -> None:
    own, nothing = factors(0), LowRankDirection(factors(5).times(0.0))
    assert not project_weights([own, own], [nothing, LowRankDirection(factors(5))])[0].B_OR.any()
    with pytest.raises(InvalidAdapterError, match="the projection leaves nothing of the adapter in any layer"):
        project_weights([own, own], [nothing, nothing])


# --- sums of adapters ---


def test_joined_is_the_sum() -> None:
    """Ranks 3 and 2 make 5; padding to 7 adds nothing."""
    one, other = factors(0, rank=3), factors(7, rank=2)
    both = joined(one, other.times(-0.5))
    assert (both.rank, both.scale, both.padded(7).rank) == (5, 1.0, 7)
    for found in (both, both.padded(7)):
        torch.testing.assert_close(change(found), change(one) - 0.5 * change(other), rtol=0, atol=1e-12)


# --- gradients ---


def pair(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """A vector and a direction of two tensors each."""
    return [random(seed, 3, 2), random(seed + 1, 4)], [random(seed + 2, 3, 2), random(seed + 3, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_remove_is_the_formula(seed: int, dtype: torch.dtype) -> None:
    """g' = g - <g, a> / ||a||^2 a."""
    vector, along = ([tensor.to(dtype) for tensor in some] for some in pair(seed))
    weight = inner(vector, along) / length(along) ** 2
    for new, own, a in zip(remove(vector, [along]), vector, along, strict=True):
        torch.testing.assert_close(new, own - weight * a)
        assert new.dtype == dtype


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_remove_is_orthogonal_and_idempotent(seed: int, scale: float) -> None:
    """In float32, |<g', a>| <= 1e-5 ||g'|| ||a||; removing twice is removing once. Whatever the length of a."""
    vector, along = ([tensor.float() for tensor in some] for some in pair(seed))
    along = [scale * tensor for tensor in along]
    once = remove(vector, [along])
    assert float(inner(once, along).abs()) <= 1e-5 * float(length(once) * length(along))
    for one, twice in zip(once, remove(once, [along]), strict=True):
        torch.testing.assert_close(one, twice, rtol=0, atol=1e-6)


def test_only_conflict_leaves_a_helpful_gradient() -> None:
    vector, along = pair(0)
    if inner(vector, along) < 0:
        along = [-tensor for tensor in along]
    kept = remove(vector, [along], only_conflict=True)
    assert all(torch.equal(one, other) for one, other in zip(kept, vector, strict=True))
    against = [-tensor for tensor in along]
    removed = remove(vector, [against], only_conflict=True)
    for one, other in zip(removed, remove(vector, [against]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert not torch.equal(removed[0], vector[0])


def nearest_without_conflict(g_P: Tensor, A_PM: Tensor) -> Tensor:
    """Return the nearest vector with A^T g' >= 0, by trying every set of columns to be made orthogonal to."""
    candidates = []
    for size in range(A_PM.shape[1] + 1):
        for chosen in itertools.combinations(range(A_PM.shape[1]), size):
            part_PM = A_PM[:, list(chosen)]
            candidate_P = g_P - part_PM @ torch.linalg.lstsq(part_PM, g_P).solution if chosen else g_P
            if bool((A_PM.T @ candidate_P >= -1e-9).all()):
                candidates.append(candidate_P)
    return min(candidates, key=lambda candidate_P: float((candidate_P - g_P).norm()))


@pytest.mark.parametrize("seed", range(12))
def test_only_conflict_leaves_no_conflict_and_as_much_as_it_can(seed: int) -> None:
    """Orthogonality to the columns that conflict at first would turn the vector against some of the others."""
    g_P, A_PM = random(seed, 9), random(100 + seed, 9, 5)
    kept = remove([g_P], [[column] for column in A_PM.T], only_conflict=True)[0]
    torch.testing.assert_close(kept, nearest_without_conflict(g_P, A_PM), rtol=0, atol=1e-9)


def test_directions_that_conflict_only_afterwards_occur() -> None:
    """g = (0, 1), a = (1, -1), b = (-1, .1): a alone conflicts, and what is orthogonal to it, (.5, .5), does with b.

    The nearest vector that conflicts with neither is 0: a wants x >= y, b wants x <= y / 10, and both want y <= 0.
    """
    g_P, a_P, b_P = (torch.tensor(values, dtype=torch.float64) for values in ((0.0, 1.0), (1.0, -1.0), (-1.0, 0.1)))
    (alone,) = remove([g_P], [[a_P]], only_conflict=True)
    torch.testing.assert_close(alone, torch.tensor([0.5, 0.5], dtype=torch.float64))
    (both,) = remove([g_P], [[a_P], [b_P]], only_conflict=True)
    torch.testing.assert_close(both, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_nothing_to_remove_along() -> None:
    vector, along = pair(0)
    zero = [torch.zeros_like(tensor) for tensor in along]
    for only_conflict in (False, True):
        kept = remove(vector, [zero], only_conflict=only_conflict)
        assert all(torch.equal(one, other) for one, other in zip(kept, vector, strict=True))


def test_a_zero_direction_beside_another_changes_nothing() -> None:
    vector, along = pair(0)
    zero = [torch.zeros_like(tensor) for tensor in along]
    for one, other in zip(remove(vector, [zero, along, zero]), remove(vector, [along]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_share_is_a_share() -> None:
    vector, along = pair(0)
    whole, third = remove(vector, [along]), remove(vector, [along], share=1 / 3)
    for own, one, other in zip(vector, whole, third, strict=True):
        torch.testing.assert_close(own + (one - own) / 3, other, rtol=0, atol=1e-12)


def test_several_directions_are_a_subspace() -> None:
    """Orthogonal to all of them, equal to a least-squares residual, also when one is a combination of the others."""
    vector = [random(0, 9)]
    columns = [[random(seed, 9)] for seed in (1, 2, 3)]
    columns.append([columns[0][0] - 2 * columns[1][0]])
    (found,) = remove(vector, columns)
    A_PM = torch.stack([column[0] for column in columns[:3]], dim=1)
    expected = vector[0] - A_PM @ torch.linalg.lstsq(A_PM, vector[0]).solution
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert all(abs(float(found @ column[0])) < 1e-10 for column in columns)


def test_only_the_leading_singular_vectors_are_kept() -> None:
    """One direction of 8 holds nearly all: the tensors have no room for the others behind them."""
    tuned_OI = torch.zeros(8, 12)
    tuned_OI[0, 0], tuned_OI[1, 1] = 10.0, 0.1
    left_OM, right_IM = WeightDirection(tuned_OI, torch.zeros(8, 12)).bases(0.9)
    assert (left_OM.shape, right_IM.shape) == ((8, 1), (12, 1))
    assert [tensor.untyped_storage().nbytes() for tensor in (left_OM, right_IM)] == [8 * 4, 12 * 4]
