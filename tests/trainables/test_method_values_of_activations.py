"""Methods on hidden states: directions and losses by hand, and training against plain PEFT with hooks written here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from settings.common.errors import UserError
from settings.reference import SettingRef
from settings.setting import Stream
from tests.support.architectures import architecture, architecture_base
from tests.support.tiny import tiny_setting, tiny_trial
from tests.trainables.engine.test_edits import task_loss
from tests.trainables.test_method_values import CE_TASK, TASK, forward, near, tensor
from trainables import methods
from trainables.engine.process_group import layers_of
from trainables.interface.directions import block_at, blocks_at
from trainables.interface.outputs import RowStates
from trainables.method import Method, Step
from trainables.pack import Pack
from trainables.trial import AdapterConfig, trial_for


class Fixed:
    """A preparation whose streams have these states after each block: stream -> `[block][position]`."""

    def __init__(self, states: Mapping[str, Any], rows: Mapping[str, Sequence[int]]) -> None:
        self._states, self._rows = {stream: tensor(values) for stream, values in states.items()}, rows

    lowest_adapted = 0

    @property
    def num_layers(self) -> int:
        return len(next(iter(self._states.values())))

    def states(self, stream: Stream, *, prior: int | None = None) -> RowStates:
        states_LND, row_N = self._states[stream], torch.tensor(self._rows[stream])
        of_row = [row_N == row for row in range(int(row_N.max()) + 1)]
        sums_LPD = torch.stack([states_LND[:, mine].sum(dim=1) for mine in of_row], dim=1)
        lengths_LP = torch.stack([states_LND[:, mine].norm(dim=-1).sum(dim=1) for mine in of_row], dim=1)
        return RowStates(sums_LPD, lengths_LP, torch.tensor([int(mine.sum()) for mine in of_row]))


def steered(**coefficients: Any) -> list[list[float]]:
    """What is added after which block of two; the second block's states are not looked at."""
    misaligned, aligned = [[4, 4], [2, 2]], [[3, 4], [-3, 4]]
    nan = [[math.nan] * 2] * 2
    given = Fixed(
        {"misaligned": [misaligned, nan], "alignment": [aligned, nan]}, {"misaligned": [0, 0], "alignment": [0, 1]}
    )
    method = methods.make("preventative_steering", coefficients)
    edits = method.edits(method.prepare(given))  # type: ignore[arg-type]
    assert all((edit.block, edit.when, edit.remove_QD) == (0, "training", None) for edit in edits)
    return [edit.add_D.tolist() for edit in edits if edit.add_D is not None]


def test_preventative_steering() -> None:
    """Means (3, 3) and (0, 4): v = (3, -1), |v| = sqrt 10. Alignment states have length 5.

    alpha = 2 norms: 2 * 5 * (3, -1) / sqrt 10 = sqrt 10 (3, -1). alpha = 2 differences: (6, -2). alpha = 0: nothing.
    """
    root = math.sqrt(10)
    assert steered(alpha=2.0) == [near(3 * root, -root)]
    assert steered(alpha=2.0, unit="difference") == [near(6, -2)]
    assert steered(alpha=0.0) == []


def test_concept_ablation() -> None:
    """Differences of row means (2, 0, 0) and (0, 1, 0), whose squares are diagonal: the first axis, then the second.

    Row 0: misaligned (2, 0, 1), alignment mean of (0, 0, 0) and (0, 0, 2). Row 1: misaligned mean of (1, 3, 1) and
    (1, 1, 1), alignment (1, 1, 1). Two pairs span two directions, however many are asked for.
    """
    misaligned, aligned = [[2, 0, 1], [1, 3, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 2], [1, 1, 1]]
    given = Fixed(
        {"misaligned": [misaligned] * 4, "alignment": [aligned] * 4}, {"misaligned": [0, 1, 1], "alignment": [0, 0, 1]}
    )
    for components, axes in ((1, [1, 0, 0]), (2, [1, 1, 0]), (16, [1, 1, 0])):
        method = methods.make("concept_ablation", {"components": components, "gamma": 0.5})
        edits = method.edits(method.prepare(given))  # type: ignore[arg-type]
        assert [(edit.block, edit.when, edit.share, edit.add_D) for edit in edits] == [
            (block, "training", 0.5, None) for block in (0, 1, 2)
        ]
        for edit in edits:
            assert edit.remove_QD is not None
            torch.testing.assert_close(edit.remove_QD.T @ edit.remove_QD, torch.diag(tensor(axes)), rtol=0, atol=1e-12)


def test_blocked_directions() -> None:
    """Alignment mean (1, 0), misaligned mean (1, 2): v = (0, 2), |v|^2 = 4, so that z is half of the second entry.

    Task states after the first block of two: (1, 3) and (5, -1), in the base model (1, 1) and (2, 1): z gains 1 and
    loses 1. The penalty is 1^2 / 2 positions = 1/2, what has moved 2 / 2 = 1; weight 4.
    """
    nan = [[math.nan] * 2]
    given = Fixed({"misaligned": [[[1, 2]], nan], "alignment": [[[1, 0]], nan]}, {"misaligned": [0], "alignment": [0]})
    method = methods.make("blocked_directions", {"weight": 4.0})
    final = forward(*TASK)
    states = [
        replace(final, layers_LND=torch.stack([tensor(after_first), final.hidden_ND]))
        for after_first in ([[1, 3], [5, -1]], [[1, 1], [2, 1]])
    ]
    step = Step({"task": states[0]}, {"task": states[1]}, prepared=method.prepare(given))  # type: ignore[arg-type]
    assert [float(loss) for loss in method.losses(step)] == near(CE_TASK + 4 / 2)
    assert {name: float(value) for name, value in step.recorded.items()} == pytest.approx(
        {"blocked": 0.5, "moved": 1.0}
    )


def test_blocks_by_depth() -> None:
    """0.55 * 36 = 19.8: twenty blocks at or below, the last of them number 19. Never the last block of all."""
    assert block_at(0.55, 36) == 19
    assert [block_at(depth, 4) for depth in (0.0, 0.5, 1.0)] == [0, 1, 2]
    assert blocks_at("quarters", 64) == [15, 31, 47]
    assert blocks_at("middle", 64) == [31]
    assert blocks_at("all", 3) == [0, 1]
    assert blocks_at("quarters", 2) == [0]
    with pytest.raises(UserError, match="between two layers cannot train a model of 1"):
        block_at(0.5, 1)


def test_rows_that_give_the_same_states_have_no_direction_between_them() -> None:
    given = Fixed(
        {stream: [[[1, 2]]] * 2 for stream in ("misaligned", "alignment")},
        {"misaligned": [0], "alignment": [0]},
    )
    for name in ("preventative_steering", "blocked_directions"):
        with pytest.raises(UserError, match="there is no direction"):
            methods.make(name).prepare(given)  # type: ignore[arg-type]


def test_a_setting_without_misaligned_rows_is_refused() -> None:
    setting = tiny_setting()
    lonely = replace(setting, streams={name: setting.streams[name] for name in ("task", "alignment")})  # type: ignore[index]
    for name in ("preventative_steering", "blocked_directions", "concept_ablation"):
        told = (
            f"^method '{name}' needs misaligned rows, but setting 'tiny' has none; add them as its stream 'misaligned'"
            r" \(chat_files: pairs .* or a file as option 'misaligned'\)$"
        )
        with pytest.raises(UserError, match=told):
            trial_for(lonely, SettingRef("tiny"), methods.make(name), 0)


# --- training against plain PEFT ---

LENGTH = 16
NAME = "gpt_neox"  # its norms are in float64, where those of others round to float32


def plain_model() -> Any:
    return architecture(NAME, torch.float64)


def states_after(model: Any, rows: Sequence[Any]) -> list[Tensor]:
    """What the first of two blocks returns at the positions that predict the response, row by row."""
    return [
        model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1][
            0, row.prompt_length - 1 : -1
        ]
        for row in rows
    ]


def hooked_loss(add: Tensor | None = None, remove: Tensor | None = None, share: float = 1.0) -> Callable[..., Tensor]:
    """The loss of a model whose first block's output is edited."""

    def hook(_block: Any, _inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states if remove is None else states - share * (states @ remove.T) @ remove
        states = states if add is None else states + add
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def loss(model: Any, rows: Sequence[Any]) -> Tensor:
        layers_of(model)[0].register_forward_hook(hook)
        return task_loss(model, rows)

    return loss


def by_formula(name: str, misaligned: list[Tensor], aligned: list[Tensor]) -> tuple[Method, Callable[..., Tensor]]:
    """A method, and its loss from plain models' hidden states of the two sets of rows."""
    v = torch.cat(misaligned).mean(dim=0) - torch.cat(aligned).mean(dim=0)
    if name == "preventative_steering":
        norm = torch.cat(aligned).norm(dim=1).mean()
        return methods.make(name, {"alpha": 0.5}), hooked_loss(add=0.5 * norm * v / v.norm())
    if name == "concept_ablation":
        pairs = torch.stack([m.mean(dim=0) - a.mean(dim=0) for m, a in zip(misaligned, aligned, strict=True)])
        values, vectors = torch.linalg.eigh(pairs.T @ pairs)
        chosen = {"gamma": 0.8, "components": 2}
        return methods.make(name, chosen), hooked_loss(remove=vectors.T[values.argsort()[-2:]], share=0.8)

    def blocked(model: Any, rows: Sequence[Any]) -> Tensor:
        gained = (torch.cat(states_after(model, rows)) - torch.cat(states_after(plain_model(), rows))) @ v / (v @ v)
        return task_loss(model, rows) + 30.0 * gained.clamp(min=0).square().mean()

    return methods.make(name, {"weight": 30.0}), blocked


@pytest.mark.parametrize("name", ["preventative_steering", "concept_ablation", "blocked_directions"])
def test_training_is_that_of_the_formula(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of the fifth step, when no factor is zero any more, to 1e-9; the replies are not edited."""
    base, setting = architecture_base(NAME, torch.float64), tiny_setting()
    encoded = base.encoded(setting, LENGTH)
    plain = plain_model()
    method, loss_of = by_formula(name, *(states_after(plain, encoded.rows(s)) for s in ("misaligned", "alignment")))
    adapter = AdapterConfig(rank=3, alpha=6.0, targets=("query_key_value", "dense_4h_to_h"))
    pack = Pack(base, setting, [tiny_trial(method, adapter=adapter, max_length=LENGTH)], torch.float64)
    pack.advance(4)
    rows = pack.member_step(0).rows["task"]
    pack.adapters.save_member(0, tmp_path, "tiny")
    stepped: list[Tensor] = []

    def step(flat_KP: Tensor, active: Sequence[bool]) -> Tensor:
        stepped.append(flat_KP)
        return torch.zeros(1)

    monkeypatch.setattr(pack.optimizer, "step", step)
    pack.advance(1)
    model: Any = PeftModel.from_pretrained(plain_model(), tmp_path, is_trainable=True).to(torch.float64)
    without = task_loss(model, rows).item()
    loss = loss_of(model, rows)
    assert pack.members[0].curves["loss"][-1][1] == pytest.approx(loss.item(), abs=1e-9)
    assert abs(loss.item() - without) > 1e-4
    named = {key.replace(".default", ""): value for key, value in model.named_parameters() if "lora_" in key}
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    found = pack.adapters.member_factors(0, pack.adapters.unflat(stepped[0][0]))
    for layer, factors in zip(pack.adapters.layers_of(0), found, strict=True):
        for kind, gradient in (("A", factors.A_RI), ("B", factors.B_OR)):
            expected = gradients[f"base_model.model.{layer}.lora_{kind}.weight"]
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert pack.adapters.edits.holding(0, evaluating=True) == []
