"""Every shape suffix of a tensor's name (`logits_NV`) is explained in its module's shape legend.

The legend is the paragraph of the module's docstring that begins with "Shape legend:"; each dimension is a letter that
stands alone in it. Digits are sizes (`on_K1`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("trainables", "settings", "analysis", "sweeps")
SUFFIXED = re.compile(r"(?:[A-Z]|[a-z]\w*?)_(?=[a-z0-9]{0,2}[A-Z])([A-Za-z0-9]{1,4})")


def dimensions(name: str) -> str:
    """Return the suffix of a tensor's name, "" for other names."""
    match = SUFFIXED.fullmatch(name)
    return match.group(1) if match else ""


def legend(tree: ast.Module) -> set[str]:
    """Return the letters that a module's shape legend explains."""
    text = (ast.get_docstring(tree) or "").partition("Shape legend:")[2].partition("\n\n")[0]
    return set(re.findall(r"(?<![\w'/-])[A-Za-z](?![\w'/-])", text)) - {"a"}


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every name that a module binds or reads, with its line; attributes belong to other modules' legends."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def unexplained(text: str) -> list[str]:
    """Return the suffixes of a module that have a letter without an explanation."""
    tree = ast.parse(text)
    letters = legend(tree)
    return [
        f"{name}, line {line}"
        for name, line in names(tree)
        if not {letter for letter in dimensions(name) if not letter.isdigit()} <= letters
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_suffix_is_explained(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    assert {path: problems for path in paths if (problems := unexplained(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("legend_text", "code"),
    [
        ("N positions, D width", "logits_NV = 1"),
        ("N positions, D width", "def f(hidden_RD): ..."),
        ("R rank", "A_RI = 1"),
        ("K members", "rows_mK = 1"),
        ("", "hidden_N = 1"),
    ],
)
def test_a_missing_letter_is_noticed(legend_text: str, code: str) -> None:
    assert len(unexplained(f'"""X.\n\nShape legend: {legend_text}.\n"""\n{code}')) == 1


@pytest.mark.parametrize(
    "code", ["logits_NV = 1", "on_N1 = 1", "x_mnN = 1", "NUM_LAYERS = 1", "_Private = 1", "to_json = 1", "x.A_RI = 1"]
)
def test_what_is_explained_or_no_shape_is_left_alone(code: str) -> None:
    assert unexplained(f'"""X.\n\nShape legend: N positions of m rows with n each, V a vocabulary.\n"""\n{code}') == []
