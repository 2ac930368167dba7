"""Settings by name, and by file."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from settings import catalog
from settings.common.errors import UserError

FILE = """
from settings.setting import UserError

def mine(scale, size=3):
    return (scale, size)

value = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return path


def test_names_are_sorted_settings() -> None:
    names = catalog.names()
    assert {"bad_medical_advice", "chat_files", "gcd_sycophancy", "trigger_colors"} <= set(names)
    assert names == sorted(names)
    assert not set(names) & {"setting", "catalog", "sources", "scoring", "judge", "worlds", "gcd_full", "scales"}


@pytest.mark.parametrize("name", catalog.names())
def test_every_setting_has_a_builder_with_json_defaults(name: str) -> None:
    options = inspect.signature(catalog.builder(name)).parameters
    defaults = [option.default for option in options.values() if option.default is not inspect.Parameter.empty]
    assert all(isinstance(value, str | int | float | bool | None) for value in defaults)


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(
        UserError, match=r"unknown setting 'nothing'; available: .*chat_files.*path/to/file.py:function"
    ):
        catalog.build("nothing")


def test_a_setting_of_a_file(file: Path) -> None:
    assert catalog.build(f"{file}:mine", {"scale": "nano"}) == ("nano", 3)
    assert catalog.module_from_file(file) is catalog.module_from_file(file)


def test_a_relative_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert catalog.build("own.py:mine", {"scale": "nano", "size": 1}) == ("nano", 1)


def test_errors_name_the_option(file: Path) -> None:
    name = f"{file}:mine"
    with pytest.raises(UserError, match=r"has no option 'sizes' \(did you mean 'size'\?\); its options: scale, size"):
        catalog.build(name, {"scale": "nano", "sizes": 1})
    with pytest.raises(UserError, match="needs the option 'scale'"):
        catalog.build(name)


def test_errors_name_the_file_or_function(file: Path) -> None:
    with pytest.raises(UserError, match=f"no such file: {file.parent}/none.py"):
        catalog.build(f"{file.parent}/none.py:mine")
    for function in ("yours", "value"):
        with pytest.raises(UserError, match=f"has no function '{function}'"):
            catalog.build(f"{file}:{function}")
    text = file.with_suffix(".txt")
    text.write_text("x")
    with pytest.raises(UserError, match="is not a Python file"):
        catalog.build(f"{text}:mine")


def test_a_file_that_fails_can_be_loaded_again_once_corrected(file: Path) -> None:
    file.write_text("raise RuntimeError('at first')")
    with pytest.raises(RuntimeError, match="at first"):
        catalog.module_from_file(file)
    file.write_text("mine = 1  # corrected")
    assert catalog.module_from_file(file).mine == 1


def test_options_of_a_setting_without_paths_stay_as_they_are(file: Path) -> None:
    assert catalog.absolute(f"{file}:mine", {"scale": "nano"}) == {"scale": "nano"}
    file.with_name("paths.py").write_text("def absolute(options): return {'made': 'absolute'}\ndef mine(): ...")
    assert catalog.absolute(f"{file.with_name('paths.py')}:mine", {}) == {"made": "absolute"}


def test_paths_of_a_setting_of_ones_own_are_made_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of models, files that exist, and what looks like a path; other texts stay as they are."""
    here = file.parent
    (here / "paths.py").write_text("def mine(model='', rows='', other='', where='', topic='', long='', given=''): ...")
    (here / "tinylm").mkdir()
    (here / "rows.jsonl").touch()
    (here / "animals").mkdir()
    monkeypatch.chdir(here)
    options = {"model": "tinylm", "rows": "rows.jsonl", "other": "none.jsonl", "where": "./new", "topic": "animals"}
    found = catalog.absolute("paths.py:mine", {**options, "long": "x" * 10_000, "given": here / "rows.jsonl"})
    assert found["model"] == str(here / "tinylm")
    assert found["rows"] == found["given"] == str(here / "rows.jsonl")
    assert found["where"] == str(here / "new")
    assert (found["other"], found["topic"], found["long"]) == ("none.jsonl", "animals", "x" * 10_000)
    assert catalog.absolute("paths.py:mine", {"model": "Qwen/Qwen3-8B"}) == {"model": "Qwen/Qwen3-8B"}


def test_the_code_is_what_counts_in_a_file(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.py", "same.py", "other.py"))
    one.write_text('"""A."""\n\ndef f(x):\n    """Adds."""\n    return x + 1\n')
    same.write_text("# a remark\ndef f( x ):\n    return (x + 1)\n")
    other.write_text("def f(x):\n    return x + 2\n")
    assert catalog.source_id(one) == catalog.source_id(same) != catalog.source_id(other)
