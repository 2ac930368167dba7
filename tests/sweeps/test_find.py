"""A sweep goes by its file or by its name."""

from pathlib import Path

import pytest

from settings.common.errors import UserError
from sweeps import find
from tests.sweeps.cli.test_app import sweep_file


@pytest.fixture()
def ran(tmp_path: Path) -> Path:
    """An output folder under which the sweep "mine" ran."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    find.remember(folder, sweep_file(tmp_path))
    return tmp_path / "runs"


def test_a_name_finds_its_file(tmp_path: Path, ran: Path) -> None:
    assert find.find("mine", ran).name == "mine"
    assert find.find(str(tmp_path / "mine.py"), ran).name == "mine"
    assert find.find("quickstart", ran).name == "quickstart"


def test_a_file_has_a_name(tmp_path: Path, ran: Path) -> None:
    assert find.name_of(str(tmp_path / "mine.py")) == "mine"
    assert find.name_of("anything") == "anything"
    assert find.file_of("mine") is None
    assert find.file_of(f"{tmp_path}/mine.py") == tmp_path / "mine.py"


def test_a_file_that_is_gone_or_declares_another_is_named(tmp_path: Path, ran: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(file.read_text().replace('"mine"', '"other"'))
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which declares 'other' now"):
        find.find("mine", ran)
    file.unlink()
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which is gone"):
        find.find("mine", ran)
    with pytest.raises(UserError, match=r"unknown sweep 'quikstart' \(did you mean 'quickstart'\?\)"):
        find.find("quikstart", ran)


def test_an_unknown_name_says_where_was_looked_and_what_ran_there(ran: Path) -> None:
    with pytest.raises(UserError, match=rf"unknown sweep 'mime' .*'mine'.*; of those of a file mine ran in {ran}$"):
        find.find("mime", ran)
    with pytest.raises(UserError, match=rf"of those of a file none ran in {ran / 'mine'}$"):
        find.find("mine", ran / "mine")
