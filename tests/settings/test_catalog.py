"""Settings by name, and by file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import settings
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
    assert not set(names) & {"setting", "catalog", "sources", "scoring", "judge", "common", "questions", "options"}


@pytest.mark.parametrize("name", catalog.names())
def test_every_option_is_documented_and_has_a_json_default(name: str) -> None:
    assert catalog.description(name).endswith(".")
    for builder in catalog.scales(name).values():
        for option in catalog.options_of(builder):
            assert option.doc.endswith((".", ".)")), f"{name}: a sentence in Args: for option {option.name!r}"
            assert "  " not in option.doc
            if option.default is not inspect.Parameter.empty:
                json.dumps(option.default)


def test_the_options_of_a_function() -> None:
    def builder(size: int, low: float = 0.1, high: float = 0.2, more: str = "") -> None:
        """Build it.

        Args:
            size: in rows; several
                lines.
            low, high: the range.

        Raises:
            UserError: never.
        """

    empty = inspect.Parameter.empty
    assert [(option.name, option.default, option.doc) for option in catalog.options_of(builder)] == [  # type: ignore[arg-type]
        ("size", empty, "in rows; several lines."),
        ("low", 0.1, "the range."),
        ("high", 0.2, "the range."),
        ("more", "", ""),
    ]


def test_the_first_scale_is_the_default() -> None:
    assert list(catalog.scales("gcd_sycophancy")) == ["nano", "small", "full"]
    nano = catalog.build("gcd_sycophancy")
    assert nano.scale == "nano"
    assert nano.fingerprint() == catalog.build("gcd_sycophancy", {"scale": "nano", "proxy": None}).fingerprint()


def test_an_option_of_another_scale_says_which_scale_has_it() -> None:
    message = (
        "setting 'gcd_sycophancy': option 'epochs' does not belong to scale 'nano' but to 'full'; options of 'nano':"
        " proxy, include_correct, world_seed, pretraining_seed"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        catalog.build("gcd_sycophancy", {"epochs": 3})
    with pytest.raises(UserError, match=f"^{message}$"):
        catalog.absolute("gcd_sycophancy", {"epochs": 3})
    with pytest.raises(UserError, match="has no scale 'huge'; its scales: nano, small, full"):
        catalog.build("gcd_sycophancy", {"scale": "huge"})
    with pytest.raises(UserError, match=r"has no option 'epoch' .*its options: scale, data, model, "):
        catalog.build("gcd_sycophancy", {"scale": "full", "epoch": 3})
    with pytest.raises(UserError, match=r"setting 'chat_files' needs the option 'task'$"):
        catalog.build("chat_files", {"model": "org/model"})
    needs_model = "setting 'chat_files' needs the option 'model', or scale=\"small\", which brings its own$"
    with pytest.raises(UserError, match=needs_model):
        catalog.build("chat_files", {"task": "task.jsonl"})


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(
        UserError, match=r"unknown setting 'nothing'; available: .*chat_files.*path/to/file.py:function"
    ):
        catalog.build("nothing")


def test_a_folder_without_scales_is_told_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the folder is a package yet."""
    (tmp_path / "nano_parity").mkdir()
    monkeypatch.setattr(settings, "__path__", [*settings.__path__, str(tmp_path)])
    for name in ("nano_parity", "common"):
        lacking = (
            rf"^unknown setting '{name}': settings/{name}/__init__\.py defines no SCALES; add its builders by scale,"
            r' SCALES = \{"nano": nano\}; available: .*bad_medical_advice, .*'
        )
        with pytest.raises(UserError, match=lacking):
            catalog.build(name)
    for name in ("..", f"../{tmp_path.name}", "catalog"):
        with pytest.raises(UserError, match=rf"^unknown setting '{name}'( \(did .*\))?; available: "):
            catalog.build(name)


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
    with pytest.raises(UserError, match=r"needs the option 'scale'$"):
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


def test_a_changed_file_is_loaded_again(file: Path) -> None:
    """In a notebook, say, where the process stays."""
    first = catalog.module_from_file(file)
    file.write_text("mine = 2")
    assert catalog.module_from_file(file).mine == 2
    assert first is not catalog.module_from_file(file) is catalog.module_from_file(file)


def test_a_file_that_fails_can_be_loaded_again_once_corrected(file: Path) -> None:
    file.write_text("raise RuntimeError('at first')")
    with pytest.raises(RuntimeError, match="at first"):
        catalog.module_from_file(file)
    file.write_text("mine = 1  # corrected")
    assert catalog.module_from_file(file).mine == 1


ANNOTATED = """
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from settings.options import FilePath, ModelSource

if TYPE_CHECKING:
    from settings.setting import Setting


def mine(
    data: FilePath,
    more: FilePath | Sequence[FilePath] | None = None,
    base: ModelSource = "",
    topic: str = "",
    other: Mapping[str, Setting] | None = None,
) -> Setting: ...
"""


def test_annotated_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they exist or not; a name that only type checkers know leaves its option as it is."""
    (tmp_path / "annotated.py").write_text(ANNOTATED)
    (tmp_path / "tinylm").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"data": "none", "more": ["a", "/b"], "base": "tinylm", "topic": "animals", "other": {"a": 1}}
    assert catalog.absolute("annotated.py:mine", options) == options | {
        "data": str(tmp_path / "none"),
        "more": [str(tmp_path / "a"), "/b"],
        "base": str(tmp_path / "tinylm"),
    }
    assert catalog.absolute("annotated.py:mine", {"data": Path("x"), "base": "org/model"}) == {
        "data": str(tmp_path / "x"),
        "base": "org/model",
    }
    assert catalog.absolute("annotated.py:mine", {"data": 3, "more": None}) == {"data": 3, "more": None}


def test_options_of_a_setting_without_paths_stay_as_they_are(file: Path) -> None:
    assert catalog.absolute(f"{file}:mine", {"scale": "nano"}) == {"scale": "nano"}


def test_paths_of_a_setting_of_ones_own_are_made_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of models, files that exist, and what looks like a path; other texts stay as they are."""
    here = file.parent
    (here / "paths.py").write_text("def mine(model='', rows='', other='', where='', topic='', long='', given=''): ...")
    (here / "tinylm").mkdir()
    (here / "rows.jsonl").touch()
    (here / "animals").mkdir()
    monkeypatch.chdir(here)
    options = {"model": "tinylm", "rows": "rows.jsonl", "other": "none.jsonl", "where": "./new", "topic": "animals"}
    resolved = catalog.absolute("paths.py:mine", {**options, "long": "x" * 10_000, "given": here / "rows.jsonl"})
    assert resolved["model"] == str(here / "tinylm")
    assert resolved["rows"] == resolved["given"] == str(here / "rows.jsonl")
    assert resolved["where"] == str(here / "new")
    assert (resolved["other"], resolved["topic"], resolved["long"]) == ("none.jsonl", "animals", "x" * 10_000)
    assert catalog.absolute("paths.py:mine", {"model": "Qwen/Qwen3-8B"}) == {"model": "Qwen/Qwen3-8B"}


def test_the_code_is_what_counts_in_a_file(tmp_path: Path) -> None:
    original, same, changed = (tmp_path / name for name in ("one.py", "same.py", "other.py"))
    original.write_text('"""A."""\n\ndef f(x):\n    """Adds."""\n    return x + 1\n')
    same.write_text("# a remark\ndef f( x ):\n    return (x + 1)\n")
    changed.write_text("def f(x):\n    return x + 2\n")
    assert catalog.source_id(original) == catalog.source_id(same) != catalog.source_id(changed)
