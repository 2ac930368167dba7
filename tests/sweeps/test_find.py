"""Sweeps are found by file or by name, and mistakes in a sweep file are shown in one line."""

from pathlib import Path

import pytest

from settings.common.errors import UserError
from sweeps import find
from sweeps.find import catalog_names, load_sweep
from sweeps.sweep import Sweep
from tests.support.fakes import toy
from tests.sweeps.cli.test_app import sweep_file

HEAD = "from sweeps.sweep import Sweep, setting\nfrom sweeps.space import vary\n"


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
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which now declares 'other'"):
        find.find("mine", ran)
    file.unlink()
    with pytest.raises(UserError, match=r"'mine' was declared in .*mine.py, which no longer exists"):
        find.find("mine", ran)
    with pytest.raises(UserError, match=r"unknown sweep 'quikstart' \(did you mean 'quickstart'\?\)"):
        find.find("quikstart", ran)


def test_an_unknown_name_says_where_was_looked_and_what_ran_there(ran: Path) -> None:
    with pytest.raises(UserError, match=rf"unknown sweep 'mime' .*'mine'.*; ran from a file under {ran}: mine$"):
        find.find("mime", ran)
    with pytest.raises(UserError, match=rf"ran from a file under {ran / 'mine'}: none$"):
        find.find("mine", ran / "mine")


def test_the_quickstart_is_in_the_catalog() -> None:
    assert "quickstart" in catalog_names()
    sweep = load_sweep("quickstart")
    assert [space.method for space in sweep.spaces] == ["plain", "mixed", "upweighted", "kl_penalty"]
    assert sweep.seed_values == (0, 1, 2)


def write(folder: Path, text: str) -> Path:
    file = folder / "my_sweep.py"
    file.write_text(text)
    return file


def test_a_sweep_file_is_loaded(tmp_path: Path) -> None:
    toy(tmp_path)
    reference = f"setting('{tmp_path}/toy_setting.py:toy')"
    file = write(tmp_path, f"{HEAD}sweep = Sweep(name='mine', settings=({reference},), methods=('plain',))\n")
    sweep = load_sweep(file)
    assert isinstance(sweep, Sweep) and sweep.name == "mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEAD}\ntext = 1 / 0\n", "{file}:4: ZeroDivisionError: division by zero"),
        (f"{HEAD}sweep = Sweep(\n", "{file}:3: SyntaxError: '(' was never closed"),
        (f"{HEAD}import nothing_here\n", "{file}:3: ModuleNotFoundError: No module named 'nothing_here'"),
        (f"{HEAD}raise ValueError('one\\ntwo')\n", "{file}:3: ValueError: one"),
        (
            f"{HEAD}def f():\n    return vary('kl_penalty', beta=-1)\nf()\n",
            "{file}:4: method 'kl_penalty': coefficient 'beta'",
        ),
        (f"{HEAD}sweep = Sweep(name='x')\n", "{file}:3: TypeError: Sweep.__init__() missing"),
        (
            f"{HEAD}sweep = Sweep('x', (), (), pack_size=3)\n",
            "{file}:3: pack_size belongs to execution=Execution(pack_size=...)",
        ),
        (HEAD, "{file} does not define `sweep`"),
        ("sweep = 3\n", "{file}: `sweep` must be a Sweep, got int"),
    ],
)
def test_mistakes_in_a_sweep_file_are_one_line_with_the_users_line(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_sweep(str(file))
    assert str(caught.value).startswith(expected.format(file=file))
    assert "\n" not in str(caught.value)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown sweep 'quikstart' \(did you mean 'quickstart'\?\); available: "):
        load_sweep("quikstart")
    with pytest.raises(UserError, match="no such file"):
        load_sweep(tmp_path / "missing.py")
