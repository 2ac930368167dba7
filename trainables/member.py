"""What is known about a member of a pack besides its weights, and whether its numbers can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from settings.setting import Status
from trainables.engine.stream import MemberStep
from trainables.method import Method
from trainables.outcome import Cost
from trainables.projections import Factors

EXPLODED = 3.0  # a task loss this many times that of uniform guessing means that training has diverged


@dataclass
class MemberState:
    """What is known about a member besides its weights.

    Attributes:
        status, reason: how it ended, if it ended now.
        cost: cost of its training so far.
        curves: metric name -> (step, value) pairs.
        pending: metric name -> (step, value) pairs that are still on the device and not in the curves yet.
        state: the state that its method carries from step to step.
    """

    status: Status = "finished"
    reason: str | None = None
    cost: Cost = field(default_factory=Cost)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pending: dict[str, list[tuple[int, Tensor]]] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, method: Method, adapter: Sequence[Factors]) -> None:
        """Set the state for the first step, on the device of the initial adapter."""
        initial = method.initial_state(adapter)
        self.state = {name: value.detach().to(adapter[0].A_RI.device).clone() for name, value in initial.items()}

    def carry(self, method: Method, kept: Mapping[str, Tensor], adapter: Sequence[Factors]) -> None:
        """Take over what a step kept, and the method's state after the update.

        Raise TypeError if the method returns a different kind of state.
        """
        before = self.state
        kept = {name: value.to(before[name]) for name, value in kept.items()}
        after = method.after_update({**before, **kept}, adapter)
        if after.keys() != before.keys() or any(after[name].shape != old.shape for name, old in before.items()):
            shapes = [", ".join(f"{name} {tuple(v.shape)}" for name, v in each.items()) for each in (before, after)]
            raise TypeError(f"after_update of method {method.name!r} must return {shapes[0]}, got {shapes[1]}")
        # Copied, because the returned tensors may be views of factors that the next update overwrites.
        self.state = {
            name: old if after[name] is old else after[name].detach().to(old, copy=True) for name, old in before.items()
        }

    def hold(self, step: int, terms: Mapping[str, Tensor]) -> int:
        """Keep a step's terms on the device; return the number of steps kept."""
        for name, value in terms.items():
            self.pending.setdefault(name, []).append((step, value))
        return len(self.pending["loss"])

    def read(self) -> dict[str, list[tuple[int, float]]]:
        """Return the values kept on the device, as (step, value) pairs by name."""
        return {
            name: list(zip([step for step, _ in pairs], torch.stack([v for _, v in pairs]).tolist(), strict=True))
            for name, pairs in self.pending.items()
        }

    def judge(
        self,
        step: int,
        values: Mapping[str, Sequence[tuple[int, float]]],
        must_stay_active: Sequence[str],
        guessing: float,
        moves_after: int,
    ) -> None:
        """Add the values read to the curves, and check that the member is still sound (`find_problem`)."""
        self.extend(step, values)
        self.reason = find_problem(values, must_stay_active, guessing, moves_after)
        self.status = "invalid" if self.reason else "finished"
        self.pending.clear()

    def extend(self, step: int, values: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Add a point to each curve: the mean of `values`, which are (step, value) pairs."""
        for name, pairs in values.items():
            self.curves.setdefault(name, []).append((step, sum(value for _, value in pairs) / len(pairs)))

    def to_json(self) -> dict[str, Any]:
        """Return JSON data, without tensors; `from_json` is its inverse."""
        tensors = ("pending", "state")
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in tensors}
        return data | {"cost": asdict(self.cost)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MemberState:
        """Return the state that `to_json` wrote. Raise KeyError, TypeError, ValueError, AttributeError."""
        curves = {name: [(int(step), value) for step, value in curve] for name, curve in data["curves"].items()}
        return MemberState(data["status"], data["reason"], Cost(**data["cost"]), curves)

    def count(self, step: MemberStep, seconds: float) -> None:
        """Add what a step took: tokens that go through the model, reference passes included, and seconds."""
        tokens = tokens_cut = 0
        for stream, rows in step.rows.items():
            passes = 2 if stream in step.method.reference else 1
            tokens += passes * sum(len(row.ids) for row in rows)
            tokens_cut += sum(row.num_cut for row in rows)
        self.cost += Cost(tokens=tokens, tokens_cut=tokens_cut, seconds=seconds)

    def newest(self) -> dict[str, float]:
        """Return the newest point of each curve, with its step; empty before the first."""
        if not self.curves:
            return {}
        return {"step": self.curves["loss"][-1][0], **{name: curve[-1][1] for name, curve in self.curves.items()}}


def find_problem(
    values: Mapping[str, Sequence[tuple[int, float]]],
    must_stay_active: Sequence[str],
    guessing: float,
    moves_after: int = 1,
) -> str | None:
    """Return why a member's numbers cannot be trusted; None if they can.

    Args:
        values: metric name -> (step, value) pairs of the last steps.
        must_stay_active: terms that may not be zero once the adapter has moved.
        guessing: the loss of uniform guessing among all tokens, in nats; `EXPLODED` times that means divergence.
        moves_after: updates after which the adapter has moved.
    """
    for name, pairs in values.items():
        for step, value in pairs:
            if not math.isfinite(value):
                return f"{name} is {value} at step {step}"
    for step, value in values.get("task", ()):
        if value > EXPLODED * guessing:
            return f"the task loss is {value:.3g} at step {step}; guessing tokens would give {guessing:.3g}"
    for name in must_stay_active:
        if any(value == 0.0 for step, value in values.get(name, ()) if step > moves_after):
            return (
                f"the term {name!r} is exactly 0 after the first update, or has no gradient, or nothing that the losses"
                " add to the task's loss has one: it is not connected (a term that may rightly be 0 is not for"
                " must_stay_active)"
            )
    return None
