"""The sweeps on the page of `sweeps` are complete and work as printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.results import SweepResults
from sweeps import notebook
from sweeps.find import load_sweep
from sweeps.notebook import SweepHandle
from sweeps.sweep import Sweep, setting
from tests.conftest import ROOT
from tests.support.pages import code_blocks

PAGE = ROOT / "sweeps" / "README.md"


def test_the_sweep(tmp_path: Path) -> None:
    file = tmp_path / "my_sweep.py"
    file.write_text(code_blocks(PAGE, "Write a sweep")[0])
    sweep = load_sweep(file)
    assert [arm.space.method for arm in sweep.arms] == ["plain", "kl_penalty", "upweighted", "plain", "blend", "plain"]
    assert [arm.budget for arm in sweep.arms] == [1, 6, 3, 3, 3, 5]  # the last are the other control's checkpoints
    trials = [trial for arm in sweep.arms for trial in sweep.trials_of(arm, arm.space.examples()[0])]
    assert {trial.steps for trial in trials} == {40}


def test_larger_models() -> None:
    """Each block declares what it says, once the dots are filled in."""
    names: dict[str, Any] = {}
    first, second, layers, third, limits = code_blocks(PAGE, "Larger models, several GPUs, long sweeps")
    filled = 'name="x", settings=(setting("bad_medical_advice", scale="nano"),), methods=("plain",)'
    exec("from sweeps.sweep import setting\n" + first.replace("...", filled) + second, names)
    assert names["sweep"].execution.gpus_per_pack == 0.5
    assert names["sweep"].search.early_stopping.keep == 0.5
    assert names["execution"].num_workers == 4
    exec(layers, names)
    assert Sweep("x", (setting("bad_medical_advice", scale="nano"),), ("plain",), options=names["options"])
    assert names["methods"][0].ranges["layers"].options == ("all", "last 10", "24")
    exec(third, names)
    assert names["execution"].judge.max_calls == 50_000
    exec(limits, names)
    assert names["budget"].hours == 20


def test_four_bits_and_replies_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks(PAGE, "A base model in four bits")
    names: dict[str, Any] = {}
    exec("from sweeps.sweep import setting\n" + block, names)
    assert names["settings"][0].options["quantize"] == "nf4"
    (block,) = code_blocks(PAGE, "Replies from a server")
    filled = 'name="x", settings=(setting("chat_files", model="a", task="b"),), methods=("plain",)'
    exec("from sweeps.sweep import Sweep, setting\n" + block.replace("...", filled), names)
    assert names["sweep"].replies.url == "http://localhost:8000/v1"


def test_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the block is a call that there is, with the sweep run by a stand-in."""
    (block,) = code_blocks(PAGE, "From Python")
    asked: list[str] = []

    class Stand:
        """Takes any attribute and any call, and keeps their names."""

        def __getattr__(self, name: str) -> Any:
            assert hasattr(SweepHandle, name) or hasattr(SweepResults, name), name
            asked.append(name)
            return self

        def __call__(self, *arguments: Any) -> Any:
            return self

    for name in ("run", "status"):
        assert callable(getattr(notebook, name))
        monkeypatch.setattr(notebook, name, Stand())
    exec(block, {})
    assert asked == ["results", "configurations", "trials", "figure", "watch"]
