"""Files that are up to date with their ledger are not written again."""

from pathlib import Path

from sweeps.driver.launch import Published
from sweeps.ledger import Ledger
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
