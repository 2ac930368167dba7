"""The tree's rules, read off the source: who imports whom, no swallowed errors, no stray print, no stray folder.

Each rule is a function from source text to findings, and is first shown to fail on a snippet that breaks it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("settings", "trainables", "sweeps", "analysis")
FOLDERS = {*PACKAGES, "tests"}

# package -> the packages it may import; analysis may use one name besides.
MAY_IMPORT = {
    "settings": {"settings"},
    "trainables": {"settings", "trainables"},
    "sweeps": {"settings", "trainables", "sweeps", "analysis"},
    "analysis": {"analysis"},
}
EXCEPTIONS = {
    "analysis": ("settings.common", "settings.setting.ALIGNED_FROM", "settings.setting.Kind", "settings.setting.Status")
}

# library -> where it may be imported: a file, or a folder that ends in "/".
ONLY_IN = {
    "ray": ("trainables/trainable.py", "sweeps/"),
    "optuna": ("sweeps/search/",),
    "mlflow": ("sweeps/tracking/", "analysis/tables/"),
    "openai": ("settings/judge.py",),
    "torch": ("trainables/", "sweeps/"),
    "transformers": ("trainables/", "sweeps/"),
    "peft": ("trainables/", "sweeps/"),
    "accelerate": ("trainables/", "sweeps/"),
}
Rule = Callable[[str, str], list[str]]


def sources() -> dict[str, str]:
    """Path below the root -> text, of every module."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}


# --- rules: (path, text) -> findings ----------------------------------------------------------------------------------


@lru_cache(maxsize=1000)
def tree_of(text: str) -> ast.Module:
    """The syntax tree; four rules read it."""
    return ast.parse(text)


def imported(path: str, text: str) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports anywhere, with their lines: `from a import b` is "a.b"."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield from ((arg.value, node.lineno) for arg in node.args if _is_text(arg))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def crossed_packages(path: str, text: str) -> list[str]:
    """Imports of a package that this one must not know."""
    package = path.partition("/")[0]
    return [
        f"{path}:{line} imports {name}"
        for name, line in imported(path, text)
        if name.partition(".")[0] in PACKAGES
        and name.partition(".")[0] not in MAY_IMPORT[package]
        and not any(f"{name}.".startswith(f"{allowed}.") for allowed in EXCEPTIONS.get(package, ()))
    ]


def misplaced_libraries(path: str, text: str) -> list[str]:
    """Imports of a library outside the places it is for."""
    return [
        f"{path}:{line} imports {name}"
        for name, line in imported(path, text)
        if not any(
            path == place or (place.endswith("/") and path.startswith(place))
            for place in ONLY_IN.get(name.partition(".")[0], (path,))
        )
    ]


def swallowed_errors(path: str, text: str) -> list[str]:
    """Bare and broad handlers, unless their last statement raises."""
    return [
        f"{path}:{node.lineno} catches everything"
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not isinstance(node.body[-1], ast.Raise)
    ]


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def prints(path: str, text: str) -> list[str]:
    """Uses of `print` outside the command line."""
    return [
        f"{path}:{node.lineno} prints"
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.Name) and node.id == "print" and not path.startswith("sweeps/cli/")
    ]


RULES: tuple[Rule, ...] = (crossed_packages, misplaced_libraries, swallowed_errors, prints)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    files = sources()
    assert {path.partition("/")[0] for path in files} == set(PACKAGES)
    assert [finding for path, text in files.items() for finding in rule(path, text)] == []


BROKEN: list[tuple[Rule, str, str]] = [
    (crossed_packages, "settings/x.py", "import trainables.engine.step"),
    (crossed_packages, "settings/x.py", "def f():\n    from sweeps import sweep"),
    (crossed_packages, "settings/gcd_sycophancy/x.py", "from ...trainables import step"),
    (crossed_packages, "trainables/x.py", "from sweeps.sweep import Sweep"),
    (crossed_packages, "trainables/methods/x.py", "import analysis"),
    (crossed_packages, "analysis/x.py", "import trainables"),
    (crossed_packages, "analysis/x.py", "from settings.setting import Score"),
    (crossed_packages, "analysis/x.py", "import settings.setting"),
    (crossed_packages, "analysis/x.py", "from sweeps import ledger"),
    (crossed_packages, "settings/x.py", "import importlib\nimportlib.import_module('sweeps.cli.app')"),
    (misplaced_libraries, "trainables/pack.py", "from ray import tune"),
    (misplaced_libraries, "trainables/methods/trainable.py", "import ray.tune"),
    (misplaced_libraries, "settings/x.py", "import ray"),
    (misplaced_libraries, "trainables/x.py", "try:\n    import optuna\nexcept ImportError:\n    raise"),
    (misplaced_libraries, "sweeps/driver/launch.py", "import mlflow"),
    (misplaced_libraries, "sweeps/space.py", "def f():\n    import optuna"),
    (misplaced_libraries, "analysis/report/page.py", "from mlflow import MlflowClient"),
    (misplaced_libraries, "settings/scoring.py", "import openai"),
    (misplaced_libraries, "settings/x.py", "from torch import Tensor"),
    (misplaced_libraries, "analysis/x.py", "import torch.nn as nn"),
    (misplaced_libraries, "settings/x.py", "__import__('ray')"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept:\n    pass"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept Exception as error:\n    log(error)"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept (KeyError, BaseException):\n    return_value = None"),
    (prints, "settings/x.py", "print('x')"),
    (prints, "sweeps/driver/launch.py", "def f(log=print):\n    log('x')"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_the_rule_can_fail(rule: Rule, path: str, text: str) -> None:
    assert len(rule(path, text)) == 1


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (crossed_packages, "sweeps/x.py", "import settings, trainables.engine.step, analysis"),
        (crossed_packages, "analysis/x.py", "from settings.common.errors import UserError\nfrom . import scores"),
        (crossed_packages, "settings/x.py", "import json\nfrom .gcd_sycophancy import world"),
        (misplaced_libraries, "trainables/trainable.py", "from ray import tune"),
        (misplaced_libraries, "sweeps/search/x.py", "import optuna, ray"),
        (misplaced_libraries, "analysis/tables/mlflow_runs.py", "import mlflow, numpy"),
        (misplaced_libraries, "settings/judge.py", "import openai"),
        (misplaced_libraries, "settings/x.py", "import rays, torchless"),
        (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept Exception as error:\n    raise KeyError from error"),
        (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept (KeyError, OSError):\n    pass"),
        (prints, "sweeps/cli/app.py", "print('x')"),
        (prints, "settings/x.py", "console.print('x')"),
    ],
)
def test_the_rule_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text) == []


# --- imports for real -------------------------------------------------------------------------------------------------


WITHOUT = """
import importlib, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *args):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, *args)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in MODULES:
    importlib.import_module(name)
"""


def failing_imports(modules: Iterable[str], absent: Iterable[str]) -> str:
    """Import modules in a fresh interpreter that cannot find the libraries in `absent`; "" if all can be imported."""
    program = f"ABSENT, MODULES = {list(absent)!r}, {list(modules)!r}\n{WITHOUT}"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stderr.strip().rpartition("\n")[2] if found.returncode else ""


def modules_of(*packages: str) -> list[str]:
    """Dotted names of the modules of packages."""
    paths = [PurePosixPath(path).with_suffix("") for path in sources() if path.partition("/")[0] in packages]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@pytest.mark.slow
def test_trainables_need_no_ray() -> None:
    modules = [name for name in modules_of("trainables") if name != "trainables.trainable"]
    assert {"trainables.pack", "trainables.methods.plain"} <= set(modules)
    assert failing_imports(modules, absent=["ray"]) == ""


def test_settings_and_analysis_need_no_torch_and_no_ray() -> None:
    modules = modules_of("settings", "analysis")
    assert {"settings.setting", "settings.gcd_sycophancy.world", "analysis.tables.mlflow_runs"} <= set(modules)
    assert failing_imports(modules, absent=["ray", "torch"]) == ""


@pytest.mark.parametrize("name", ["ray.tune", "torch"])
def test_an_absent_library_fails_the_import(name: str) -> None:
    library = name.partition(".")[0]
    assert failing_imports(["json", name], absent=[library]) == f"ModuleNotFoundError: No module named '{library}'"


# --- folders ----------------------------------------------------------------------------------------------------------


def stray_folders(paths: Iterable[str]) -> set[str]:
    """Folders at the top that are neither ours nor hidden."""
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    return {top for top in tops - FOLDERS if not top.startswith(".")}


def test_the_top_holds_no_other_folder() -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is ignored is not known")
    paths = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert stray_folders(paths) == set()


def test_a_stray_folder_is_seen() -> None:
    assert stray_folders(["README.md", "settings/x.py", ".ci/run", "docs/x.md", "lib/a/b.py"]) == {"docs", "lib"}
