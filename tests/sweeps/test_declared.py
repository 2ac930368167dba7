"""A sweep goes by its file or by its name."""

from pathlib import Path

import pytest

from settings.setting import UserError
from sweeps import declared
from tests.sweeps.test_cli import sweep_file


@pytest.fixture()
def ran(tmp_path: Path) -> Path:
    """An output folder under which the sweep "mine" ran."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    declared.remember(folder, sweep_file(tmp_path))
    return tmp_path / "runs"


def test_a_name_finds_its_file(tmp_path: Path, ran: Path) -> None:
    assert declared.find("mine", ran).name == "mine"
    assert declared.find(str(tmp_path / "mine.py"), ran).name == "mine"
    assert declared.find("quickstart", ran).name == "quickstart"


def test_a_file_has_a_name(tmp_path: Path, ran: Path) -> None:
    assert declared.name_of(str(tmp_path / "mine.py")) == "mine"
    assert declared.name_of("anything") == "anything"
    assert declared.file_of("mine") is None
    assert declared.file_of(f"{tmp_path}/mine.py") == tmp_path / "mine.py"


def test_a_file_that_is_gone_or_declares_another_is_named(tmp_path: Path, ran: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(file.read_text().replace('"mine"', '"other"'))
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which declares 'other' now"):
        declared.find("mine", ran)
    file.unlink()
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which is gone"):
        declared.find("mine", ran)
    with pytest.raises(UserError, match=r"unknown sweep 'quikstart' \(did you mean 'quickstart'\?\)"):
        declared.find("quikstart", ran)


def test_an_unknown_name_says_where_was_looked_and_what_ran_there(ran: Path) -> None:
    with pytest.raises(UserError, match=rf"unknown sweep 'mime' .*'mine'.*; of those of a file mine ran in {ran}$"):
        declared.find("mime", ran)
    with pytest.raises(UserError, match=rf"of those of a file none ran in {ran / 'mine'}$"):
        declared.find("mine", ran / "mine")
