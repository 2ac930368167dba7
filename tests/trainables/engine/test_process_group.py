"""Two workers that train a pack together give what one worker gives, for every method, replicated and sharded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import together
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup

pytestmark = pytest.mark.slow

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
Found = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, list[Found], Path]:
    """What one worker came to, what each of two came to, and where those wrote."""
    folder = tmp_path_factory.mktemp("together")
    store = together.prepared(folder / "store")
    command = [sys.executable, "-m", "tests.support.together", str(folder)]
    both = [
        subprocess.Popen([*command, str(rank), "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    alone = together.alone(folder / "alone", store)
    outputs = [worker.communicate(timeout=400)[0] for worker in both]
    assert [worker.returncode for worker in both] == [0, 0], "\n".join(outputs)
    return alone, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)], folder


@pytest.mark.parametrize("name", together.packs("float64") | together.packs("float32"))
def test_two_workers_train_what_one_trains(name: str, runs: tuple[Found, list[Found], Path]) -> None:
    """To 1e-10 in float64, and 1e-6 in float32, after two steps of Adam, whose updates are 1e-2.

    Adam divides by the gradient's size, so where a gradient is tiny, float32 itself is off by more than 1e-6, on some
    processors and with any number of workers. There, two workers may differ from one by twice what one in float32 is
    off from float64, which is at most 1e-5: each of the two results has that rounding.
    """
    alone, both, _ = runs
    for precision, tolerance in TOLERANCE.items():
        if name not in together.packs(precision):
            continue
        expected = alone[f"replicated {precision} {name}"]
        assert float(expected.abs().max()) > 1e-2
        if precision == "float32":
            exact = alone[f"replicated float64 {name.removesuffix(', accumulated')}"]
            rounding = float((expected.double() - exact).abs().max())
            assert rounding < 1e-5
            tolerance = max(tolerance, 2 * rounding)
        for kind in ("replicated", "sharded"):
            first, second = (found[f"{kind} {precision} {name}"] for found in both)
            assert torch.equal(first, second)
            assert float((first - expected).abs().max()) <= tolerance, f"{kind} {precision}"


@pytest.mark.parametrize("name", together.SCORED)
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_two_workers_score_what_one_scores(kind: str, name: str, runs: tuple[Found, list[Found], Path]) -> None:
    """Scores of replies and of token losses, and the curves, of a pack of all methods; both workers know them.

    Adapters on the upper layer alone: two workers begin there, and one goes through all layers.
    """
    alone, both, _ = runs
    for found in both:
        expected = alone[f"replicated float64 {name}, scores"]
        assert_alike(found[f"{kind} float64 {name}, losses"], alone[f"replicated float64 {name}, losses"], 1e-9)
        for one, other in zip(found[f"{kind} float64 {name}, scores"], expected, strict=True):
            assert one.keys() == other.keys() == {"task", "alignment"}
            for key, score in one.items():
                assert score.n == other[key].n == 6
                assert score.mean == pytest.approx(other[key].mean, abs=1e-9)


def assert_alike(one: list[list[tuple[int, float]]], other: list[list[tuple[int, float]]], tolerance: float) -> None:
    assert [[step for step, _ in curve] for curve in one] == [[step for step, _ in curve] for curve in other]
    for first, second in zip(one, other, strict=True):
        assert [value for _, value in first] == pytest.approx([value for _, value in second], abs=tolerance)


def test_only_the_first_worker_writes(runs: tuple[Found, list[Found], Path]) -> None:
    """Each worker was given a folder of its own."""
    _, _, folder = runs
    num_trials = len(together.trials())
    assert len(list((folder / "replicated-float64-0" / "adapters").iterdir())) == num_trials
    assert len(list((folder / "replicated-float64-0" / "observations").iterdir())) == num_trials
    assert not (folder / "replicated-float64-1").exists()


def test_what_is_computed_once_is_one_workers(runs: tuple[Found, list[Found], Path]) -> None:
    """The streams, and the questions that are read by likelihood; one worker goes through all layers."""
    _, _, folder = runs
    assert len(list((folder / "cache" / "prefixes").glob("*.safetensors"))) >= 4
    assert not (folder / "alone" / "cache").exists()


def test_a_worker_without_rows_is_given_a_stand_in() -> None:
    crew = ProcessGroup()
    crew.rank, crew.count = 2, 3
    assert crew.shard("abcdefgh") == (range(2, 8, 3), ["c", "f"])
    assert crew.shard("ab") == (range(2, 2, 3), "a")
    assert SINGLE_PROCESS.shard("abc") == (range(3), ["a", "b", "c"])
