"""What a step does to the base model, in rows: the stated cost, parts of a batch, and when a loss has exploded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.stream import StreamPass
from trainables.folder import SweepFolder
from trainables.method import BatchSizes, step_cost
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.trial import TrialConfig

STEPS = 8


def train(trials: list[TrialConfig], steps: int = STEPS, **options: Any) -> list[dict[str, Tensor]]:
    pack = Pack(tiny_base(), tiny_setting(), trials, torch.float64, **options)
    pack.advance(steps)
    assert [record.status for record in pack.members] == ["finished"] * len(trials)
    return [pack.adapters.member(index) for index in range(len(trials))]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", methods.names())
def test_the_stated_cost_is_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go forward and backward through the base in a step, counted."""
    trial = tiny_trial(methods.make(name)).training
    prepare(trial.requires, tmp_path)
    pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, store=AdapterStore(SweepFolder(tmp_path)))
    rows = {"forward": 0, "backward": 0}
    forward = StreamPass.forward

    def counted(self: StreamPass, chunk: Any, route: Any) -> Any:
        number = len(chunk.batch.ids_RT)
        rows["forward"] += number
        outputs = forward(self, chunk, route)
        passes = set[int]()

        def sent_back(_: Tensor) -> None:
            """Count a pass back once, whether a loss sees the final states, those of all layers, or both."""
            this_pass = torch._C._current_graph_task_id()
            rows["backward"] += 0 if this_pass in passes else number
            passes.add(this_pass)

        for output in outputs if route is not None else ():
            if output is not None:
                output.register_hook(sent_back)
        return outputs

    monkeypatch.setattr(StreamPass, "forward", counted)
    pack.advance(1)
    cost = step_cost(trial.method, trial.sizes)
    assert rows["forward"] == pytest.approx(cost.forwards * trial.batch_size, abs=1)  # a share of a row is rounded
    assert rows["backward"] == pytest.approx(cost.backwards * trial.batch_size, abs=1)


def _calling_files() -> Iterator[str]:
    """Yield the files of all functions that are being called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


class _Waits(TorchDispatchMode):
    """Lists what would wait for a GPU: numbers that go to the host, and shapes that depend on numbers.

    Transformers' own look at masks and positions, once a forward pass, is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(one is not None and one.dtype == torch.bool for one in args[1])
        waits = masks or name in ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "is_nonzero", "equal")
        if waits and not any(file.endswith("masking_utils.py") for file in _calling_files()):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows_per_forward", [None, 3])
@pytest.mark.parametrize("definition", ["principled", "published"])
@pytest.mark.parametrize("name", methods.names())
def test_a_step_waits_for_nothing(
    name: str, definition: str, rows_per_forward: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number leaves the device between a step's rows and its update, so that a GPU always has the next work.

    But once per stream for methods with a gradient of each part of their rows: which of them a chunk is in.
    """
    trial = tiny_trial(methods.make(name, {"definition": definition}), max_length=20).training
    prepare(trial.requires, tmp_path)
    pack = Pack(
        tiny_base(),
        tiny_setting(),
        [trial, tiny_trial(methods.make("plain"))],
        torch.float64,
        store=AdapterStore(SweepFolder(tmp_path)),
        rows_per_forward=rows_per_forward,
    )
    pack.advance(trial.optimizer.moves_after + 1)  # the checks of the first steps are over
    monkeypatch.setattr(Pack, "record", lambda self, index, terms: None)  # which reads a few steps at a time
    lists: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (lists.append(1), tolist(self))[1])
    with _Waits() as waits:
        pack.advance(1)
    assert len(lists) == sum(trial.method.num_row_groups(stream) > 1 for stream in trial.method.streams)
    assert lists or not waits.found
    assert set(waits.found) <= {"_local_scalar_dense"}


def test_costs_relative_to_plain() -> None:
    """With half as many alignment rows as task rows: KL reads 1 + 1/2 + 1/2, DPO 1 + 4/2."""
    sizes = BatchSizes(task=2, alignment=1)
    forwards = {name: step_cost(methods.make(name), sizes).forwards for name in methods.names()}
    known = ("plain", "upweighted", "kl_penalty", "dpo", "gradient_projection")
    assert [forwards[name] for name in known] == [1, 1.5, 2, 3, 1.5]


@pytest.mark.parametrize("values", [{"directions": 3}, {"directions": 3, "stage": "update", "scope": "global"}])
def test_parts_of_a_batch_pack_and_micro_batch_like_all_else(values: dict[str, Any]) -> None:
    """Proxy rows with a gradient for each part, beside members that have no parts: to 1e-9 in float64."""
    trial = tiny_trial(methods.make("gradient_projection", values))
    others = [tiny_trial(methods.make("kl_penalty")), tiny_trial(methods.make("representation"), seed=1)]
    (alone,), (micro,) = train([trial]), train([trial], rows_per_forward=2)
    packed = train([others[0], trial, others[1]])
    assert gap(alone, packed[1]) < 1e-9
    assert gap(alone, micro) < 1e-9
    assert gap(train([others[0]])[0], packed[0]) < 1e-9
    assert gap(train([others[1]])[0], packed[2]) < 1e-9
    assert gap(alone, train([tiny_trial(methods.make("gradient_projection", values | {"directions": 1}))])[0]) > 1e-4


@pytest.mark.parametrize("hook", ["combine", "transform_update"])
def test_a_method_with_one_loss_may_edit_its_gradient(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone as beside a method of several losses. B starts at 0: after a step it is Adam's direction, rate times 1.

    Half of the direction is half of the step; the negative gradient is the opposite step.
    """
    (whole,) = train([tiny_trial(methods.make("plain"))], steps=1)

    def edited(self: Any, given: Any, *others: Any) -> Any:
        return [tensor / 2 for tensor in given] if hook == "transform_update" else [-tensor for tensor in given[0]]

    monkeypatch.setattr(methods.get("plain"), hook, edited)
    (alone,) = train([tiny_trial(methods.make("plain"))], steps=1)
    beside, _ = train([tiny_trial(methods.make("plain")), tiny_trial(methods.make("two_gradients"))], steps=1)
    assert gap(alone, beside) < 1e-9
    share = 0.5 if hook == "transform_update" else -1.0
    for name in (name for name in whole if "lora_B" in name):
        torch.testing.assert_close(alone[name], share * whole[name], rtol=1e-4, atol=0)  # Adam's epsilon


def test_a_task_loss_far_worse_than_guessing_is_invalid() -> None:
    """Finite, and no training any more: here because the head is 50 times too large."""
    base = tiny_base()
    base.model.get_output_embeddings().weight.data *= 50
    pack = Pack(base, tiny_setting(), [tiny_trial(methods.make("plain"))], torch.float64)
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid"
    assert str(pack.members[0].reason).startswith("the task loss is ")
    assert pack.steps_done == 1


@pytest.mark.parametrize("rows_per_forward", [None, 3])
def test_gradient_checkpointing_changes_nothing(rows_per_forward: int | None, tmp_path: Path) -> None:
    """A pack of all methods, ranks and seeds differing, so that a layer that ran again on another route would show."""
    made = [methods.make(name) for name in methods.names()]
    trials = [tiny_trial(method, seed, rank=method.rank_multiple * (2 + seed % 3)) for seed, method in enumerate(made)]
    trials = [trial for trial in trials if trial.training == trial]
    prepare((needed for trial in trials for needed in trial.requires), tmp_path)
    store = AdapterStore(SweepFolder(tmp_path))
    usual = train(trials, 3, store=store, rows_per_forward=rows_per_forward)
    again = train(trials, 3, store=store, rows_per_forward=rows_per_forward, gradient_checkpointing=True)
    assert len(trials) >= 8
    assert max(gap(*pair) for pair in zip(usual, again, strict=True)) <= 1e-12


def test_gradient_checkpointing_keeps_less_for_the_way_back() -> None:
    """Numbers that a step's graph holds on to, counted; and the model is as it was afterwards."""
    trial = tiny_trial(methods.make("plain"))

    def kept(checkpointing: bool) -> int:
        pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, gradient_checkpointing=checkpointing)
        modes = [module.training for module in pack.base.model.modules()]
        numbers = 0

        def pack_hook(tensor: Tensor) -> Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            forward = StreamPass.forward

            def only_forward(self: StreamPass, chunk: Any, route: Any) -> Any:
                nonlocal numbers
                before = numbers
                outputs = forward(self, chunk, route)
                held.append(numbers - before)
                return outputs

            held: list[int] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(StreamPass, "forward", only_forward)
                pack.advance(1)
        assert modes == [module.training for module in pack.base.model.modules()]
        return held[0]

    assert kept(True) < kept(False) / 4


def test_generation_after_a_checkpointed_step_uses_its_cache() -> None:
    """Layers that go on recomputing would drop the cache of keys and values, and replies would differ."""
    trial = tiny_trial(methods.make("plain"))
    replies = []
    for checkpointing in (False, True):
        pack = Pack(tiny_base(), tiny_setting(), [trial], torch.float64, gradient_checkpointing=checkpointing)
        pack.advance(STEPS)
        replies.append(pack.evaluate()[0].observations["replies"])
    assert replies[0] == replies[1]
