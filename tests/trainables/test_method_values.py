"""Each method's loss, gradient surgery and weight edit against values derived by hand (in the docstrings).

Two tokens; the head is the identity, so that hidden states are logits. Logits [0, ln 3] are probabilities (1/4, 3/4):
-log p is log 4 of token 0 and log(4/3) of token 1; logits [0, 0] are (1/2, 1/2), log 2 either way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from settings.encoding import EncodedRow
from settings.setting import Stream
from trainables import methods
from trainables.engine.batches import RowPositions
from trainables.interface.outputs import Forward
from trainables.method import Method, Positions, Step, Trained
from trainables.projections import Factors, LowRankDirection

QUARTER, HALF = (0.0, math.log(3)), (0.0, 0.0)  # logits of p = (1/4, 3/4) and of p = (1/2, 1/2)
LOG2, LOG3, LOG4, LOG43 = math.log(2), math.log(3), math.log(4), math.log(4 / 3)
TASK = ([QUARTER, QUARTER], [0, 1])  # log 4 and log 4/3
CE_TASK = (LOG4 + LOG43) / 2


def forward(logits: Sequence[tuple[float, float]], labels: Sequence[int], rows: Sequence[int] = ()) -> Forward:
    """A forward whose head is the identity; `rows` tells each position's row, all in one unless told."""
    row_N = torch.tensor(rows or [0] * len(labels))
    return Forward(tensor(logits), torch.tensor(labels), row_N, int(row_N.max()) + 1, head=lambda hidden: hidden)


def deep(states: Sequence[Sequence[Sequence[float]]]) -> Forward:
    """A forward with the hidden states of all layers, `[L, N, D]`."""
    layers_LND = tensor(states)
    none = torch.zeros(layers_LND.shape[1], dtype=torch.long)
    return Forward(layers_LND[-1], none, none, 1, lambda hidden: hidden, layers_LND)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def values(
    name: str,
    coefficients: Mapping[str, Any] | None = None,
    reference: Mapping[Stream, Forward] | None = None,
    adapter: Sequence[Factors] = (),
    priors: Sequence[Sequence[Factors]] = (),
    **policy: Forward,
) -> list[float]:
    """A method's losses on these outputs."""
    step = Step(policy, reference or {}, adapter, priors)  # type: ignore[arg-type]
    return [float(loss) for loss in methods.make(name, coefficients).losses(step)]


def near(*expected: float) -> Any:
    return pytest.approx(list(expected), abs=1e-12)


def columns(method: Method, stream: Stream, length: int = 8) -> list[int]:
    """The positions that count of a row of three prompt and two response tokens, `length` long with its padding."""
    return list(RowPositions(EncodedRow((5, 6, 7, 8, 9), prompt_length=3), method.positions(stream), length).columns)


# --- losses ---


def test_plain() -> None:
    """(log 4 + log 4/3) / 2 = log(16/3) / 2."""
    assert values("plain", task=forward(*TASK)) == near(0.5 * math.log(16 / 3))


def test_alignment_only() -> None:
    """(log 2 + log 4/3) / 2 = log(8/3) / 2; the task rows are not there."""
    assert values("alignment_only", alignment=forward([HALF, QUARTER], [0, 1])) == near(0.5 * math.log(8 / 3))


def test_mixed() -> None:
    """Two task tokens of log 4 and log 4/3 and one alignment token of log 2: their mean, (1/3) log(32/3)."""
    assert values("mixed", task=forward(*TASK), alignment=forward([HALF], [0])) == near(math.log(32 / 3) / 3)


def test_upweighted() -> None:
    """log(16/3) / 2 + 3 log 2: two means, the second with weight 3, whatever the numbers of tokens."""
    found = values("upweighted", {"weight": 3.0}, task=forward(*TASK), alignment=forward([HALF], [0]))
    assert found == near(0.5 * math.log(16 / 3) + 3 * LOG2)


def test_kl_penalty() -> None:
    """p = (1/4, 3/4), r = (1/2, 1/2); a second position where p = r halves the mean. With beta = 2 the halves cancel.

    reverse: KL(p || r) = 1/4 log 1/2 + 3/4 log 3/2 = 3/4 log 3 - log 2 = 0.1308
    forward: KL(r || p) = 1/2 log 2 + 1/2 log 2/3 = log 2 - 1/2 log 3 = 0.1438
    """
    policy, reference = forward([QUARTER, HALF], [0, 0]), {"alignment": forward([HALF, HALF], [1, 1])}
    for direction, kl in (("reverse", 0.75 * LOG3 - LOG2), ("forward", LOG2 - 0.5 * LOG3)):
        chosen = {"beta": 2.0, "direction": direction}
        found = values("kl_penalty", chosen, reference, task=forward(*TASK), alignment=policy)  # type: ignore[arg-type]
        assert found == near(CE_TASK + kl)


def test_representation() -> None:
    """Two layers, one position, width 2. Gaps (1, 1) and (2, 0): squares 2 and 4, means over the width 1 and 2.

    Mean over layers 3/2, sum 3; beta = 10.
    """
    policy, reference = deep([[[1, 1]], [[2, 0]]]), {"alignment": deep([[[0, 0]], [[0, 0]]])}
    for over_layers, distance in (("mean", 1.5), ("sum", 3.0)):
        chosen = {"beta": 10.0, "over_layers": over_layers}
        found = values("representation", chosen, reference, task=forward(*TASK), alignment=policy)  # type: ignore[arg-type]
        assert found == near(CE_TASK + 10 * distance)


def test_dpo() -> None:
    """One pair; the reference says 1/2 of everything.

    Chosen: tokens 1, 1 at 3/4 each: 2 log 3/4 - 2 log 1/2 = 2 log 3/2. Rejected: token 0 at 1/4: log 1/4 - log 1/2 =
    -log 2. Sum: m = 2 log 3/2 + log 2 = log 9/2; with beta = 1 sigmoid(m) = 9/11, so that the loss is log(11/9).
    Mean: m = log 3/2 + log 2 = log 3, sigmoid 3/4, loss log(4/3). Weight 2.
    """
    policy = {"alignment": forward([QUARTER, QUARTER], [1, 1]), "misaligned": forward([QUARTER], [0])}
    reference = {"alignment": forward([HALF, HALF], [1, 1]), "misaligned": forward([HALF], [0])}
    for log_probs, loss in (("sum", math.log(11 / 9)), ("mean", LOG43)):
        chosen = {"weight": 2.0, "beta": 1.0, "log_probs": log_probs}
        found = values("dpo", chosen, reference, task=forward(*TASK), **policy)  # type: ignore[arg-type]
        assert found == near(CE_TASK + 2 * loss)


def test_dpo_is_a_mean_over_pairs() -> None:
    """A second pair on which policy and reference agree adds log 2: (log 4/3 + log 2) / 2 with beta = 1.

    First pair: chosen token 1 at 3/4, rejected token 0 at 1/4, reference 1/2: m = log 3/2 + log 2 = log 3.
    """
    policy = {
        "alignment": forward([QUARTER, HALF], [1, 0], [0, 1]),
        "misaligned": forward([QUARTER, HALF], [0, 1], [0, 1]),
    }
    half = forward([HALF, HALF], [0, 1], [0, 1])
    found = values("dpo", {"beta": 1.0}, {"alignment": half, "misaligned": half}, task=forward(*TASK), **policy)
    assert found == near(CE_TASK + (LOG43 + LOG2) / 2)


def test_orthogonal_lora() -> None:
    """One layer. A_prior = [[1, 2]], A = [[3, -1], [0, 4]]: A_prior A^T = [1, 8], overlap 9.

    Norms: ||A||_F = sqrt(9 + 1 + 16) = sqrt 26, B = [[3, 4]]: 5. With lambda1 = 1/2 and lambda2 = 1/10: 4.5 + 0.1
    (sqrt 26 + 5). A second layer whose row spaces are orthogonal adds norms alone: A = [[0, 2]], B = [[1, 0], [0, 1]]:
    2 + sqrt 2. The prior's B does not matter.
    """
    adapter = [
        Factors(tensor([[3, -1], [0, 4]]), tensor([[3, 4]]), 2.0),
        Factors(tensor([[0, 2]]), tensor([[1, 0], [0, 1]]), 2.0),
    ]
    prior = [Factors(tensor([[1, 2]]), tensor([[7.0]]), 1.0), Factors(tensor([[5, 0]]), tensor([[7.0]]), 1.0)]
    chosen = {"lambda1": 0.5, "lambda2": 0.1}
    found = values("orthogonal_lora", chosen, adapter=adapter, priors=[prior], task=forward(*TASK))
    assert found == near(CE_TASK + 4.5 + 0.1 * (math.sqrt(26) + 5 + 2 + math.sqrt(2)))


def test_gradient_projection() -> None:
    """Losses: the task's log(16/3) / 2, then those of two groups of four alignment rows, two rows each.

    Rows 0 and 1 have log 4 and log 2: their mean (3/2) log 2; rows 2 and 3 have log 4/3 each.

    Gradients: the task's g = (4, 2) and (1, 1), along a = (1, 1) and (0, -2), one direction.
    tensor: <g, a> / ||a||^2 = 6/2 = 3, g' = (1, -1); -2/4 = -1/2, g' = (1, 1) + 1/2 (0, -2) = (1, 0).
    global: (6 - 2) / (2 + 4) = 2/3, g' = (10/3, 4/3) and (1, 1 + 4/3).
    conflict: the first tensor's product is positive, it stays (4, 2); the global product is, too: nothing changes.
    """
    alignment = replace(forward([QUARTER, HALF, QUARTER, QUARTER], [0, 0, 1, 1], [0, 1, 2, 3]), num_groups=2)
    found = values("gradient_projection", {"directions": 2}, task=forward(*TASK), alignment=alignment)
    assert found == near(CE_TASK, 1.5 * LOG2, LOG43)

    gradients = [[tensor([4, 2]), tensor([1, 1])], [tensor([1, 1]), tensor([0, -2])]]
    for sign, scope, expected in (
        ("strict", "tensor", [[1, -1], [1, 0]]),
        ("strict", "global", [[10 / 3, 4 / 3], [1, 7 / 3]]),
        ("conflict", "tensor", [[4, 2], [1, 0]]),
        ("conflict", "global", [[4, 2], [1, 1]]),
    ):
        method = methods.make("gradient_projection", {"directions": 1, "sign": sign, "scope": scope})
        for one, other in zip(method.combine(gradients), expected, strict=True):
            assert one.tolist() == near(*other)


def test_gradient_projection_takes_out_a_share() -> None:
    """g = (4, 2) along (1, 0) with strength 1/4: (3, 2); applied to the update when told so, and else not."""
    gradients = [[tensor([4, 2])], [tensor([1, 0])]]
    update = [tensor([8, 8])]
    early = methods.make("gradient_projection", {"directions": 1, "strength": 0.25})
    late = methods.make("gradient_projection", {"directions": 1, "strength": 0.25, "stage": "update"})
    assert early.combine(gradients)[0].tolist() == near(3, 2)
    assert late.combine(gradients)[0].tolist() == [4, 2]
    assert early.transform_update(update, gradients)[0].tolist() == [8, 8]
    assert late.transform_update(update, gradients)[0].tolist() == near(6, 8)


def test_gradient_projection_on_several_directions() -> None:
    """g = (1, 2, 3) along (1, 0, 0) and (1, 1, 0): the span is the first two axes, (0, 0, 3) is left."""
    gradients = [[tensor([1, 2, 3])], [tensor([1, 0, 0])], [tensor([1, 1, 0])]]
    found = methods.make("gradient_projection", {"directions": 2}).combine(gradients)
    assert found[0].tolist() == near(0, 0, 3)


def test_other_methods_add_their_gradients() -> None:
    assert methods.make("plain").combine([[tensor([1, 2])], [tensor([3, 5])]])[0].tolist() == [4, 7]


# --- Safe LoRA: the weight edit ---

EYE = ((1.0, 0.0), (0.0, 1.0))


def edited(coefficients: Mapping[str, Any]) -> list[list[list[float]]]:
    """B of three layers with A = I after `finalize`; see `test_safe_lora`."""
    adapter = [Factors(tensor(EYE), tensor(B), 2.0) for B in ([[1, 0], [0, 0]], [[0, 0], [0, 1]], [[3, 0], [0, 4]])]
    directions = [LowRankDirection(Factors(tensor(EYE), tensor([[3, 0], [0, 4]]), 1.0))] * 3
    directions[1] = LowRankDirection(Factors(tensor([[1, 1]]), tensor([[1], [1]]), 1.0))
    found = methods.make("safe_lora", coefficients).finalize(Trained(adapter, directions=directions))
    return [own.B_OR.tolist() for own in found]


def test_safe_lora() -> None:
    """The training is plain: log(16/3) / 2. Then three layers with A = I, so that cosines are between C B and B:

    0. V = diag(3, 4), ||V|| = 5, C = V V^T / 5 = diag(9/5, 16/5). B = diag(1, 0): C B = diag(9/5, 0), cosine 1.
    1. V = [1, 1]^T [1, 1], ||V|| = 2, V V^T = 2 V, C = V. B = diag(0, 1): C B = [[0, 1], [0, 1]], cosine 1/sqrt 2 =
       .707.
    2. C = diag(9/5, 16/5), B = diag(3, 4): C B = diag(27/5, 64/5), cosine (81 + 256) / (5 sqrt(27^2 + 64^2)) = 337 /
       347.3 = .970.

    A third (n = 1) is layer 1, two thirds are 1 and 2; a threshold of 0.8 is layer 1, of 0.98 layers 1 and 2, of 0
    none, whatever the share.
    """
    assert values("safe_lora", task=forward(*TASK)) == near(0.5 * math.log(16 / 3))
    before = [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[3, 0], [0, 4]]]
    after = [[[1.8, 0], [0, 0]], [[0, 1], [0, 1]], [[5.4, 0], [0, 12.8]]]
    cases: list[tuple[dict[str, Any], set[int]]] = [
        ({"share": 0.0}, set()),
        ({"share": 1 / 3}, {1}),
        ({"share": 2 / 3}, {1, 2}),
        ({"share": 1.0}, {0, 1, 2}),
        ({"select": "threshold", "threshold": 0.0}, set()),
        ({"select": "threshold", "threshold": 0.8}, {1}),
        ({"select": "threshold", "threshold": 0.98}, {1, 2}),
        ({"select": "threshold", "threshold": 0.8, "share": 1.0}, {1}),
    ]
    for coefficients, projected in cases:
        for layer, found in enumerate(edited(coefficients)):
            expected = after[layer] if layer in projected else before[layer]
            torch.testing.assert_close(tensor(found), tensor(expected), rtol=0, atol=1e-12)


def test_safe_lora_rounds_cosines_in_the_published_definition() -> None:
    """Layers with cosines 1 - 1e-7 and 1 - 2e-7 are a tie in five decimals: the smallest of both projects both.

    V = diag(1, 2^(1/4)): C = diag(1, sqrt 2) / ||V||. The cosine of B = diag(1, e) is 1 - O(e^2): e = 1e-3 and 1.4e-3.
    """
    direction = LowRankDirection(Factors(tensor(EYE), tensor([[1, 0], [0, 2**0.25]]), 1.0))
    adapter = [Factors(tensor(EYE), tensor([[1, 0], [0, e]]), 1.0) for e in (1e-3, 1.4e-3)]
    for definition, expected in (("principled", [False, True]), ("published", [True, True])):
        method = methods.make("safe_lora", {"share": 0.5, "definition": definition})
        found = method.finalize(Trained(adapter, directions=[direction] * 2))
        assert [not torch.equal(new.B_OR, own.B_OR) for new, own in zip(found, adapter, strict=True)] == expected


# --- which positions count ---


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("response", [2, 3]),
        ("text", [0, 1, 2, 3]),
        ("padded", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("answer", [2, 3, 4, 5, 6]),
    ],
)
def test_positions_by_hand(positions: Positions, expected: list[int]) -> None:
    """Tokens p p p | r r and three of padding. Column c predicts token c + 1: columns 2 and 3 predict the response.

    The text's first token is predicted by none, and its last predicts none. Padding: all eight columns; the answer
    ends one before, where there is a token to predict.
    """
    assert list(RowPositions(EncodedRow((5, 6, 7, 8, 9), prompt_length=3), positions, 8).columns) == expected


RESPONSE, TEXT, PADDED, ANSWER = [2, 3], [0, 1, 2, 3], list(range(8)), [2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", methods.names())
def test_the_principled_definition_counts_responses(name: str) -> None:
    method = methods.make(name)
    assert all(columns(method, stream) == RESPONSE for stream in method.streams)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"task": TEXT}),
        ("safe_lora", {"task": TEXT}),
        ("orthogonal_lora", {"task": TEXT}),
        ("alignment_only", {"alignment": TEXT}),
        ("mixed", {"task": TEXT, "alignment": TEXT}),
        ("upweighted", {"task": TEXT, "alignment": TEXT}),
        ("gradient_projection", {"task": TEXT, "alignment": TEXT}),
        ("kl_penalty", {"task": TEXT, "alignment": PADDED}),
        ("representation", {"task": TEXT, "alignment": PADDED}),
        ("dpo", {"task": TEXT, "alignment": ANSWER, "misaligned": ANSWER}),
    ],
)
def test_the_published_definition_counts_texts_and_padding(name: str, expected: dict[Stream, list[int]]) -> None:
    """And what is built on is of the same definition."""
    method = methods.make(name, {"definition": "published"})
    assert {stream: columns(method, stream) for stream in method.streams} == expected
    for other in (*method.priors, method.trained_as):
        assert other is None or other.definition == "published"


@pytest.mark.parametrize("name", ["kl_penalty", "representation"])
def test_tokens_choose_the_positions_of_proxy_rows(name: str) -> None:
    for tokens, expected in (("response", RESPONSE), ("text", TEXT), ("padded", PADDED)):
        method = methods.make(name, {"tokens": tokens})
        assert columns(method, "alignment") == expected
        assert columns(method, "task") == RESPONSE
