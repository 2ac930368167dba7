"""Commands that only read import nothing that takes seconds: which modules each may import, in a fresh process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.description import describe
from sweeps.find import load_sweep, remember
from tests.support.fakes import Rig
from tests.support.mlflow_store import copy_store

HEAVY = {"torch", "ray", "transformers", "mlflow", "optuna", "matplotlib"}
PROGRAM = f"""
import json, sys
from sweeps.cli import app
sys.argv = ["selgen", *json.loads(sys.argv[1])]
try:
    app.main()
except SystemExit as ended:
    print(json.dumps([ended.code or 0, sorted({HEAVY!r} & set(sys.modules))]))
"""
SWEEP = """
from sweeps.sweep import Sweep, setting
sweep = Sweep("done", (setting("bad_medical_advice"),), ("plain", "kl_penalty"), configurations=3, seeds=2)
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished sweep that only its name finds."""
    folder = tmp_path_factory.mktemp("fast")
    file = folder / "done.py"
    file.write_text(SWEEP)
    sweep = load_sweep(file)
    rig = Rig(sweep, folder / "runs" / sweep.name)
    assert rig.run(random.Random(0))
    rig.kill()
    describe(sweep).write(folder / "runs" / sweep.name)
    remember(folder / "runs" / sweep.name, file)
    return folder / "runs"


def heavy_imports(*arguments: object) -> set[str]:
    """Run a command in a fresh process; which heavy modules it has imported."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([str(argument) for argument in arguments])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    code, modules = json.loads(ended.stdout.splitlines()[-1])
    assert code == 0, ended.stderr
    return set(modules)


CHOICE = ["choose", "done", "--min", "alignment=0.1"]
LIGHT = [["--help"], ["settings"], ["sweep", "status", "done"], ["frontier", "done"], CHOICE]


@pytest.mark.parametrize("arguments", LIGHT)
def test_reading_imports_nothing_heavy(arguments: list[str], output: Path) -> None:
    of_sweep = ["--output", str(output)] if "done" in arguments else []
    assert heavy_imports(*arguments, *of_sweep) == set()


@pytest.mark.parametrize("arguments", [["methods"], ["sweep", "list"]])
def test_methods_and_sweeps_import_torch_alone(arguments: list[str]) -> None:
    assert heavy_imports(*arguments) == {"torch"}


@pytest.mark.slow
def test_a_run_with_nothing_left_imports_torch_alone(output: Path, empty_store: Path) -> None:
    """The first run has nothing to train, either, and writes the frontier and MLflow."""
    copy_store(empty_store, output)
    run = ["sweep", "run", output.parent / "done.py", "--output", output]
    heavy_imports(*run, "--address", "auto")  # so that no cluster is started, for nobody
    assert heavy_imports(*run) == {"torch"}


def test_the_heavy_modules_are_seen(output: Path) -> None:
    assert heavy_imports("frontier", "done", "-o", output, "--figure", output / "f.png") == {"matplotlib"}
