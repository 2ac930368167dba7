"""Packs and micro-batches that fit the memory, and what is said where they do not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from settings.base_models import PretrainedModel
from settings.common.errors import UserError
from sweeps.ledger import Fit, Ledger, LedgerState
from sweeps.planning import apart, gpus, speed
from sweeps.planning import fit as fitting
from sweeps.planning.fit import CaseSizes, Room, choose, describe, room_of, settle, worker_bytes
from sweeps.planning.tokens import CaseTokens, Lengths
from sweeps.sweep import Execution, Sweep
from tests.support.fakes import toy_sweep
from trainables import methods
from trainables.engine import memory
from trainables.engine.memory import FLOAT, LOGIT_COPIES, PROCESS_BYTES, ModelShape
from trainables.trial import AdapterConfig

SHAPE = ModelShape(parameters=1e6, layers=10, width=100, adapted=1000, vocabulary=50)
TOKENS = CaseTokens({"task": Lengths(((60, 40),)), "alignment": Lengths(((60, 40),))}, {"all": Lengths(((60, 40),))})
ACTIVATIONS = 100 * 10 * 100 * 24 * FLOAT  # of a row of 100 tokens


def of(folder: Path, **execution: Any) -> tuple[Sweep, list[CaseSizes]]:
    """A sweep of plain fine-tuning: two seeds, 2 rows a step."""
    sweep = toy_sweep(folder, methods=("plain",), execution=Execution(**execution))
    (case,) = sweep.cases
    return sweep, [CaseSizes(case, SHAPE, TOKENS, sweep.trials_of(case.arms[0], {})[:1])]


def needs(rows: int, members: int, member_rows: int = 2) -> float:
    """Bytes of a worker whose passes have so many rows."""
    adapters = members * 2 * 1000 * 4 * FLOAT
    return PROCESS_BYTES + adapters + rows * ACTIVATIONS + member_rows * 100 * 50 * LOGIT_COPIES * FLOAT


def test_a_worker_by_hand(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path)
    assert worker_bytes(sweep, cases[0], Fit()) == needs(4, 2)
    assert worker_bytes(sweep, cases[0], Fit(None, 1)) == needs(2, 1)
    assert worker_bytes(sweep, cases[0], Fit(1, 1)) == needs(1, 1)


def test_the_model_before_tuning_takes_memory_beside_the_base_model(tmp_path: Path) -> None:
    """In float32, all of it, for as long as a pack has its directions."""
    sweep, (sizes, *_) = of(tmp_path)
    need = {
        direction: fitting.trial_bytes(
            sweep, sizes, replace(sizes.trials[0], method=methods.make("safe_lora", {"direction": direction})), Fit()
        )
        for direction in ("prior", "pretrained")
    }
    assert need["pretrained"] - need["prior"] == sizes.shape.weight_bytes(FLOAT)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_base_model_in_four_bits_is_each_workers_own(tmp_path: Path, on_gpu: bool) -> None:
    """Of 10 layers 995,000 weights in 4.5 bits, a head of 5,000 as it is; dense, workers of a CPU share a file."""
    sweep, (sizes, *_) = of(tmp_path)
    number = 2 if on_gpu else 4
    held = {}
    for quantize in (None, "nf4"):
        base = PretrainedModel("org/model", quantize=quantize)  # type: ignore[arg-type]
        case = replace(sizes.case, setting=replace(sizes.case.setting, base_model=base))
        each = replace(sizes, case=case)
        held[quantize] = worker_bytes(sweep, each, Fit(), on_gpu)
        assert fitting.shared_bytes([each]) == (0 if quantize else 4 * 1e6)
    dense = 2 * 1e6 if on_gpu else 0
    assert held["nf4"] - held[None] == pytest.approx(995_000 * 4.5 / 8 + number * 5_000 - dense)


@pytest.mark.parametrize(
    ("rows", "members", "expected"),
    [(4, 2, Fit()), (2, 1, Fit(None, 1)), (1, 1, Fit(1, 1))],
)
def test_packs_are_made_smaller_before_rows_are_split(tmp_path: Path, rows: int, members: int, expected: Fit) -> None:
    sweep, cases = of(tmp_path)
    assert choose(sweep, cases, Room(needs(rows, members))) == expected
    if expected != Fit():
        tighter = choose(sweep, cases, Room(needs(rows, members) - 1))
        assert tighter != expected or expected == Fit(1, 1)


def test_adapters_on_upper_layers_take_their_part(tmp_path: Path) -> None:
    """Of ten layers three are adapted, and keep activations."""
    sweep, (whole,) = of(tmp_path)
    adapter = AdapterConfig(rank=2, alpha=4.0, layers=(7, 8, 9))
    upper = replace(whole, trials=tuple(replace(trial, adapter=adapter) for trial in whole.trials))
    head = 2 * 100 * 50 * LOGIT_COPIES * FLOAT
    taken = [worker_bytes(sweep, sizes, Fit()) - PROCESS_BYTES - head for sizes in (whole, upper)]
    assert taken[1] == pytest.approx(0.3 * taken[0])


def test_nothing_is_split_where_there_is_room_or_it_is_not_known(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path)
    assert choose(sweep, cases, Room(None)) == choose(sweep, cases, Room(1e12)) == Fit()
    assert describe(sweep, cases, Fit(), Room(1e12)) == describe(sweep, cases, Fit(), Room(None)) == ""


def test_what_was_made_smaller_is_said(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path)
    line = describe(sweep, cases, Fit(1, 1), Room(needs(1, 1)))
    assert "packs have 1 instead of 2 trials and 1 row of a step go" in line


def test_not_even_one_row_is_an_error(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path)
    with pytest.raises(UserError, match=r"needs 0\.6 GB of memory for toy.* even with one row of one trial") as raised:
        describe(sweep, cases, Fit(1, 1), Room(1e6))
    assert "gradient_checkpointing=True" in str(raised.value) and "\n" not in str(raised.value)


def test_rows_that_the_user_chose_stay_and_what_helps_is_said(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path, rows_per_forward=2)
    fit = choose(sweep, cases, Room(1e6))
    assert fit == Fit(2, 1)
    assert 'rows_per_forward="auto" or gradient_checkpointing=True' in describe(sweep, cases, fit, Room(1e6))


def test_the_first_start_decides(tmp_path: Path) -> None:
    sweep, cases = of(tmp_path)
    record = LedgerState(sweep.name, sweep.identity())
    assert settle(sweep, cases, Room(needs(2, 1)), record) == Fit(None, 1)
    record.fit = Fit(1, 1)
    assert settle(sweep, cases, Room(1e12), record) == Fit(1, 1)
    chosen, _ = of(tmp_path, rows_per_forward=2)
    assert settle(chosen, cases, Room(1e12), record) == Fit(2, 1), "what the user says counts"
    record.fit, record.dispatched = None, {(("a",), (None,)): None}
    assert settle(sweep, cases, Room(needs(2, 1)), record) == Fit(), "it began before anything was fixed"


def test_the_ledger_keeps_it(tmp_path: Path) -> None:
    with Ledger(tmp_path, "s", "id") as ledger:
        ledger.record_fit(Fit(8, None))
        ledger.record_fit(Fit(4, 1))
    with Ledger(tmp_path, "s", "id") as ledger:
        assert ledger.state.fit == Fit(8, None)


def test_the_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1000 bytes that it holds, 600 are of files that were read: they are free for whoever needs them."""
    for name, text in {
        "max": "3000",
        "current": "1000",
        "unlimited": "max",
        "stat": "anon 400\nfile 700\nshmem 100\ninactive_file 500\nactive_file 100\n",
        "old_stat": "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 50\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fitting, "USAGES", (tmp_path / "current",))
    monkeypatch.setattr(fitting, "LIMITS", (tmp_path / "max",))
    for stat, expected in {"nowhere": 2000, "stat": 2600, "old_stat": 2250}.items():
        monkeypatch.setattr(fitting, "DETAILS", (tmp_path / stat,))
        assert fitting.free_memory() == expected
    monkeypatch.setattr(fitting, "LIMITS", (tmp_path / "unlimited",))
    assert fitting.free_memory() > 1e6


@pytest.mark.parametrize(("layers", "below"), [("all", 0), ("last 3", 1)])
def test_a_worker_on_a_gpu_holds_weights_and_what_is_computed_once(
    tmp_path: Path, layers: str, below: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, in two bytes a number: 12 task rows of 100 tokens, and no question that is read by likelihood."""
    sweep, (sizes,) = of(tmp_path, gpus_per_pack=1)
    (case,), trial = sweep.cases, replace(sizes.trials[0], adapter=AdapterConfig(rank=2, layers=layers))
    sizes = replace(sizes, trials=(trial,))
    num_rows = len(case.setting.streams["task"])
    assert all(each.observe == "reply" for each in case.setting.evaluations) and num_rows
    bare = replace(sweep, execution=replace(sweep.execution, cache_references=False))
    held = worker_bytes(sweep, sizes, Fit(), on_gpu=True) - worker_bytes(bare, sizes, Fit(), on_gpu=True)
    assert held == below * num_rows * 100 * 100 * 2
    monkeypatch.setattr(memory, "ON_DEVICE_BYTES", 500.0)
    held = worker_bytes(sweep, sizes, Fit(), on_gpu=True) - worker_bytes(bare, sizes, Fit(), on_gpu=True)
    assert held == below * 500.0


def test_outputs_that_a_method_refers_to_are_on_the_gpu_too(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("kl_penalty",), execution=Execution(gpus_per_pack=1))
    (case,) = sweep.cases
    sizes = CaseSizes(case, SHAPE, TOKENS, sweep.trials_of(case.arms[0], {"beta": 1.0})[:1])
    bare = replace(sweep, execution=replace(sweep.execution, cache_references=False))
    held = worker_bytes(sweep, sizes, Fit(), on_gpu=True) - worker_bytes(bare, sizes, Fit(), on_gpu=True)
    assert held == len(case.setting.streams["alignment"]) * 40 * 100 * 2  # the tokens of responses alone


def test_the_room_on_a_gpu(tmp_path: Path) -> None:
    """A tenth of its memory is left to others; a worker has its share of the rest."""
    shared, _ = of(tmp_path, gpus_per_pack=0.5)
    assert room_of(shared, 1e9, 80e9) == Room(36e9, on_gpu=True)
    several, cases = of(tmp_path, gpus_per_pack=4, num_workers=4)
    assert room_of(several, 1e9, 80e9) == Room(72e9, on_gpu=True)
    unknown = room_of(several, 1e9)
    assert unknown == Room(None, on_gpu=True)
    assert "no GPU here reports its memory" in describe(several, cases, Fit(), unknown)


def test_whoever_plans_asks_another_process_about_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a part of the GPU is its own until it ends."""
    for name in ("is_available", "device_count", "get_device_properties", "mem_get_info", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("asked here"))
    answers: list[Any] = [[80e9, 40e9], [], None, asdict(speed.ASSUMED_GPU), None]
    monkeypatch.setattr(apart, "ask", lambda *_: answers.pop(0))
    assert [gpus.memory_of_gpus() for _ in range(3)] == [40e9, None, None]
    assert [speed.measure(SHAPE, 10, 1, 1, on_gpu=True) for _ in range(2)] == [speed.ASSUMED_GPU] * 2


def test_what_that_process_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [80e9, 40e9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=sizes[number]))
    gpus.main()
    assert json.loads(capsys.readouterr().out) == sizes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "sys.argv", ["speed", json.dumps({"shape": asdict(SHAPE), "tokens": 1, "rows": 1, "threads": 1})]
    )
    speed.main()
    assert json.loads(capsys.readouterr().out) is None


def test_another_process_answers_or_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "echo.py").write_text("import sys\nsys.stdout.write(sys.argv[1])")
    (tmp_path / "broken.py").write_text("raise SystemExit('no CUDA')")
    assert apart.ask("echo", {"a": [1.5]}) == {"a": [1.5]}
    assert apart.ask("broken") is None


def test_reserved_memory_is_the_room(tmp_path: Path) -> None:
    reserving, _ = of(tmp_path, memory_per_pack=4)
    assert room_of(reserving, 1e9) == Room(4e9)
    usual, _ = of(tmp_path)
    assert room_of(usual, 1e9) == Room(0.9e9)
