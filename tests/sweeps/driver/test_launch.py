"""Files that are up to date with their ledger are not written again; what is refused leaves nothing behind."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from settings.common.errors import UserError
from sweeps.driver import launch
from sweeps.driver.launch import Published
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import Ledger
from sweeps.space import grid
from sweeps.sweep import Sweep, setting
from tests.support.fakes import toy_sweep


def test_what_is_published_is_known_again_and_no_password_is_written(tmp_path: Path) -> None:
    sweep, folder = toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out"
    uri, file = "http://someone:secret@tracking:5000", tmp_path / "frontier.json"
    file.touch()
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        Published(folder, uri, ledger, sweep.name).write([file])
        assert Published(folder, uri, ledger, sweep.name).files == (file,)
        assert Published(folder, "http://tracking:5000", ledger, sweep.name).files is None, "another server lacks it"
        assert not [path for path in folder.rglob("*") if b"secret" in path.read_bytes()]
        ledger.record_dispatch(["t0"], [None])
        assert Published(folder, uri, ledger, sweep.name).files is None, "the ledger has grown"
        Published(folder, uri, ledger, sweep.name).write([file])
    file.unlink()
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        assert Published(folder, uri, ledger, sweep.name).files is None, "a file is gone"


def test_a_sweep_that_is_refused_leaves_no_ledger(tmp_path: Path) -> None:
    """Else the sweep, declared as it should be, would be another one under the same name."""
    space = grid("plain", targets=["q_proj", "c_attn"])
    sweep = Sweep("refused", settings=(setting("trigger_colors", scale="nano"),), methods=(space,))
    with pytest.raises(UserError, match=r"'targets' names 'c_attn'"):
        launch.run(sweep, RunOptions(tmp_path / "runs"), Console(file=io.StringIO()))
    assert not (tmp_path / "runs" / "refused").exists()
