"""The sweeps on the page of `sweeps` are complete and work as printed."""

from __future__ import annotations

from pathlib import Path

from sweeps.find import load_sweep
from tests.conftest import ROOT
from tests.support.pages import code_blocks

PAGE = ROOT / "sweeps" / "README.md"


def test_the_sweep(tmp_path: Path) -> None:
    file = tmp_path / "my_sweep.py"
    file.write_text(code_blocks(PAGE, "Write a sweep")[0])
    sweep = load_sweep(file)
    assert [arm.space.method for arm in sweep.arms] == ["plain", "kl_penalty", "upweighted", "plain", "plain"]
    assert [arm.budget for arm in sweep.arms] == [1, 6, 3, 3, 5]  # the last are the other control's checkpoints
    trials = [trial for arm in sweep.arms for trial in sweep.trials_of(arm, arm.space.examples()[0])]
    assert {trial.steps for trial in trials} == {40}
