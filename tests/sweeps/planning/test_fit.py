"""Packs and micro-batches that fit the memory, and what is said where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from sweeps.ledger import Fit, Ledger, LedgerState
from sweeps.planning import fit as fitting
from sweeps.planning.fit import CaseSizes, Room, choose, describe, room_of, settle, worker_bytes
from sweeps.planning.tokens import CaseTokens, Lengths
from sweeps.sweep import Execution, Sweep
from tests.support.fakes import toy_sweep
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
    for name, text in {"max": "3000", "current": "1000", "unlimited": "max"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fitting, "USAGES", (tmp_path / "current",))
    monkeypatch.setattr(fitting, "LIMITS", (tmp_path / "max",))
    assert fitting.free_memory() == 2000
    monkeypatch.setattr(fitting, "LIMITS", (tmp_path / "unlimited",))
    assert fitting.free_memory() > 1e6


def test_reserved_memory_is_the_room(tmp_path: Path) -> None:
    reserving, _ = of(tmp_path, memory_per_pack=4)
    assert room_of(reserving, 1e9) == Room(4e9)
    usual, _ = of(tmp_path)
    assert room_of(usual, 1e9) == Room(0.9e9)
