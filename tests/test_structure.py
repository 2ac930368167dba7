"""The tree's rules, read off the source: who imports whom, no circles, no swallowed errors, sizes, words, folders.

Each rule is a function from source text to findings, and is shown to fail on a snippet that breaks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    "openai": ("settings/openai_client/",),
    "torch": ("trainables/", "sweeps/"),
    "transformers": ("settings/encoding.py", "settings/tokenizer.py", "trainables/", "sweeps/"),
    "bitsandbytes": ("trainables/engine/four_bit.py",),
    "peft": ("trainables/", "sweeps/"),
    "accelerate": ("trainables/", "sweeps/"),
}
Rule = Callable[[str, str], list[str]]
Graph = Mapping[str, set[str]]

MODULES_PER_FOLDER = 16
DISCOVERED = {"trainables/methods", "sweeps/catalog"}  # folders that grow by a file per method or sweep
LINES_PER_MODULE, LINES_PER_CLASS, LINES_PER_FUNCTION = 450, 250, 60  # a function's docstring is not counted
VAGUE = ("found", "some", "own", "one", "given")  # a variable bears the name of its content
USES_OF_A_VAGUE_NAME = 30


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


def oversized(path: str, text: str) -> list[str]:
    """Modules, classes and functions that are longer than a reader can hold."""
    findings = [f"{path} has {lines} lines"] if (lines := text.count("\n")) > LINES_PER_MODULE else []
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.ClassDef) and _lines(node) > LINES_PER_CLASS:
            findings.append(f"{path}:{node.lineno} {node.name} has {_lines(node)} lines")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = _lines(node.body[0]) if ast.get_docstring(node) is not None else 0
            if _lines(node) - docstring > LINES_PER_FUNCTION:
                findings.append(f"{path}:{node.lineno} {node.name} has {_lines(node) - docstring} lines")
    return findings


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def dangling_docstrings(path: str, text: str) -> list[str]:
    """Docstrings that begin in the middle of a sentence, or point at another docstring."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        f"{path}:{getattr(node, 'lineno', 1)} begins with {start.group()!r}"
        for node in ast.walk(tree_of(text))
        if isinstance(node, documented)
        and (start := re.match(r"(Of|As|From|By|The same)\b", ast.get_docstring(node) or ""))
    ]


RULES: tuple[Rule, ...] = (
    crossed_packages,
    misplaced_libraries,
    swallowed_errors,
    prints,
    oversized,
    dangling_docstrings,
)


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
    (misplaced_libraries, "settings/judge/judge.py", "import openai"),
    (misplaced_libraries, "settings/x.py", "from torch import Tensor"),
    (misplaced_libraries, "analysis/x.py", "import torch.nn as nn"),
    (misplaced_libraries, "settings/x.py", "__import__('ray')"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept:\n    pass"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept Exception as error:\n    log(error)"),
    (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept (KeyError, BaseException):\n    return_value = None"),
    (prints, "settings/x.py", "print('x')"),
    (prints, "sweeps/driver/launch.py", "def f(log=print):\n    log('x')"),
    (oversized, "settings/x.py", "x = 1\n" * 451),
    (oversized, "settings/x.py", "class X:\n" + "    x = 1\n" * 250),
    (oversized, "settings/x.py", "def f():\n" + "    x = 1\n" * 60),
    (dangling_docstrings, "settings/x.py", 'def f():\n    """Of a reply, whether it confirms."""'),
    (dangling_docstrings, "settings/x.py", 'class X:\n    """The same for a configuration."""'),
    (dangling_docstrings, "settings/x.py", '"""From a name to its sweep."""'),
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
        (misplaced_libraries, "settings/openai_client/client.py", "import openai"),
        (misplaced_libraries, "settings/x.py", "import rays, torchless"),
        (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept Exception as error:\n    raise KeyError from error"),
        (swallowed_errors, "settings/x.py", "try:\n    f()\nexcept (KeyError, OSError):\n    pass"),
        (prints, "sweeps/cli/app.py", "print('x')"),
        (prints, "settings/x.py", "console.print('x')"),
        (
            oversized,
            "settings/x.py",
            'def f():\n    """A\n' + "    long\n" * 60 + '    docstring.\n    """\n' + "    x = 1\n" * 50,
        ),
        (dangling_docstrings, "settings/x.py", 'def f():\n    """Offer the next pack."""'),
    ],
)
def test_the_rule_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text) == []


# --- rules about the whole tree: {path: text} -> findings -------------------------------------------------------------


def imports_between(files: Mapping[str, str]) -> Graph:
    """Return module -> the modules among `files` that it imports: lazily, for type checking, or by name as well."""
    modules = {_module(path): path for path in files}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for name, _ in imported(path, files[path]):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                graph[module].add(target)
    return graph


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of nodes that reach one another."""
    nodes = {*graph, *(target for targets in graph.values() for target in targets)}
    reach = {node: _reachable(graph, node) for node in nodes}
    groups = {
        frozenset(other for other in reach[node] if node in reach[other]) for node in nodes if node in reach[node]
    }
    return sorted(sorted(group) for group in groups)


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    todo = [*graph.get(start, ())]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph.get(node, ())
    return seen


def module_circles(files: Mapping[str, str]) -> list[str]:
    """Modules that import one another, at whatever distance."""
    return [f"circle of modules: {', '.join(circle)}" for circle in circles(imports_between(files))]


def folder_circles(files: Mapping[str, str]) -> list[str]:
    """Children of a folder that import one another, where a sub-folder with all that is in it is one child."""
    children: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, targets in imports_between(files).items():
        for target in targets:
            ours, theirs = module.split("."), target.split(".")
            shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if shared is not None:  # else one of them is the package of the other
                children[".".join(ours[:shared])][ours[shared]].add(theirs[shared])
    return [
        f"circle in {folder or 'the tree'}: {', '.join(circle)}"
        for folder, graph in sorted(children.items())
        for circle in circles(graph)
    ]


def crowded_folders(files: Mapping[str, str]) -> list[str]:
    """Folders with more modules than a reader takes in at a glance."""
    counts = Counter(path.rpartition("/")[0] for path in files if not path.endswith("__init__.py"))
    return [
        f"{folder} has {count} modules"
        for folder, count in counts.items()
        if count > MODULES_PER_FOLDER and folder not in DISCOVERED
    ]


def vague_names(files: Mapping[str, str]) -> list[str]:
    """Names that say nothing of what they hold, where they have become a habit."""
    counts = Counter(
        node.id
        for text in files.values()
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    return [f"{name!r} is assigned {counts[name]} times" for name in VAGUE if counts[name] >= USES_OF_A_VAGUE_NAME]


TreeRule = Callable[[Mapping[str, str]], list[str]]
TREE_RULES: tuple[TreeRule, ...] = (module_circles, folder_circles, crowded_folders, vague_names)


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: TreeRule) -> None:
    assert rule(sources()) == []


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (module_circles, {"a/x.py": "import a.y", "a/y.py": "def f():\n    from a import x"}),
        (module_circles, {"a/x.py": "from a.y import f", "a/y.py": "if TYPE_CHECKING:\n    from a.x import X"}),
        (module_circles, {"a/x.py": "import a.y", "a/y.py": "import a.z", "a/z.py": "import_module('a.x')"}),
        (folder_circles, {"a/b/x.py": "from a import y", "a/y.py": "from a.b.z import f", "a/b/z.py": ""}),
        (folder_circles, {"a/x.py": "import b.x", "b/x.py": "", "b/y.py": "import a.y", "a/y.py": ""}),
        (crowded_folders, {f"a/x{number}.py": "" for number in range(17)}),
        (vague_names, {"a/x.py": "found = 1\n" * 20, "a/y.py": "found = 2\n" * 10}),
    ],
)
def test_the_tree_rule_can_fail(rule: TreeRule, files: Mapping[str, str]) -> None:
    assert len(rule(files)) == 1


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (module_circles, {"a/__init__.py": "from a.x import f", "a/x.py": "import b.y", "b/y.py": "import json"}),
        (folder_circles, {"a/b/x.py": "from a import y", "a/y.py": "", "a/z.py": "from a.b import x"}),
        (crowded_folders, {f"trainables/methods/x{number}.py": "" for number in range(17)}),
        (crowded_folders, {"a/__init__.py": ""} | {f"a/x{number}.py": "" for number in range(16)}),
        (vague_names, {"a/x.py": "found = 1\n" * 29}),
    ],
)
def test_the_tree_rule_allows(rule: TreeRule, files: Mapping[str, str]) -> None:
    assert rule(files) == []


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
