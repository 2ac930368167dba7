"""The methods on the page of `trainables` are complete and work as printed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from sweeps.space import vary
from tests.conftest import ROOT
from tests.support.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.losses import squared_change
from trainables.method import Step
from trainables.pack import Pack
from trainables.projections import Factors

PAGE = (ROOT / "trainables" / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
EXAMPLES = [("entropy_bonus", "weight"), ("conflict_free", "share"), ("slow_change", "weight")]


@pytest.mark.parametrize(("example", "block"), zip(EXAMPLES, BLOCKS, strict=True))
def test_the_methods(example: tuple[str, str], block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file alone makes a method appear, train, and be searched; its neutral value is plain fine-tuning."""
    name, coefficient = example
    (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert name in methods.names()
    assert list(vary(name).ranges) == [coefficient]
    made = [methods.make(name), methods.make(name, {coefficient: 0.0}), methods.make("plain")]
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(method) for method in made], dtype=torch.float64)
    pack.advance(20)
    assert [record.status for record in pack.members] == ["finished"] * 3
    changed, neutral, plain = pack.adapters.theta_KP
    assert float((neutral - plain).abs().max()) < 1e-9
    assert float((changed - plain).abs().max()) > 1e-5


def test_the_penalty_on_the_weights() -> None:
    """The line of the page gives a number: each of the 4 x 3 entries of B A is 1 x 4 + 1 x 4 = 8."""
    match = re.search(r"`losses\.(squared_change\(step\.adapter\))`", PAGE)
    assert match
    adapter = [Factors(torch.full((2, 3), 4.0), torch.ones(4, 2), scale=1.0)]
    names = {"step": Step({}, {}, adapter=adapter), "squared_change": squared_change}
    assert eval(match.group(1), names) == 12 * 8**2


def test_the_map_names_files_that_exist() -> None:
    for name in re.findall(r"\b([a-z_]+(?:\.py|/))", PAGE.split("```")[1]):
        assert list((ROOT / "trainables").rglob(name.rstrip("/"))), name
