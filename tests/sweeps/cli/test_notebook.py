"""A sweep in a notebook: tables and figure from the ledger and from MLflow, watching, and a notebook that is run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from rich.console import Console

import analysis
import sweeps
from analysis import load
from settings.common.errors import UserError
from sweeps import status
from sweeps.cli.notebook import write_notebook
from sweeps.cli.report import report
from sweeps.driver import launch
from sweeps.driver.launch import RunSummary
from sweeps.driver.run_options import RunOptions
from sweeps.notebook import SweepHandle
from sweeps.sweep import Sweep
from tests.conftest import ROOT
from tests.support.mlflow_store import copy_store
from tests.sweeps.cli.test_report import swept

NAME = "my-sweep"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    out = copy_store(empty_store, folder / "runs")
    swept(folder, out, name=NAME, seeds=(1, 2, 3))
    return out


def test_tables_are_those_of_the_report(output: Path, tmp_path: Path) -> None:
    """Means are those of the trials by hand; ends are those that the report writes."""
    results = status(NAME, output).results()
    table = results.configurations
    trials = results.trials[results.trials["status"] == "finished"]
    objective = results.loaded.objectives[0].name
    for key, row in table.iterrows():
        own = trials[trials["configuration"] == key][objective]
        assert row["seeds"] == len(own) == 3
        assert row[objective] == pytest.approx(own.sum() / 3)
        assert row[f"{objective}_low"] < row[objective] < row[f"{objective}_high"]
    assert len(results.frontier) == table["on_front"].sum() > 0
    report(NAME, output, None, folder=tmp_path)
    (csv,) = tmp_path.glob("*frontier*.csv")
    written = pd.read_csv(csv).set_index("configuration")
    assert written.loc[table.index, f"{objective}_low"].tolist() == pytest.approx(table[f"{objective}_low"].tolist())
    assert set(results.verdicts["method"]) <= set(table["method"])


def test_mlflow_has_the_same(output: Path) -> None:
    here, there = status(NAME, output).results().configurations, load(NAME, output).configurations
    pd.testing.assert_frame_equal(here.sort_index(), there.sort_index()[here.columns], check_dtype=False)
    with pytest.raises(UserError, match="nowhere"):
        load("nowhere", output)


def test_a_figure_and_a_cell(output: Path) -> None:
    handle = status(NAME, output)
    figure = handle.results().figure()
    assert figure.axes
    plt.close(figure)
    shown = handle._repr_html_()
    trials = len(handle.results().trials)
    assert f"{NAME} is finished: {trials}/{trials} trials" in shown and "<table" in shown
    assert not handle.is_running
    assert repr(handle.results()) == f"<SweepResults of {handle.results().title}: {trials} finished>"


def test_watching_ends_with_the_sweep(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = iter([True, True, False])
    monkeypatch.setattr(SweepHandle, "is_running", property(lambda handle: next(running)))
    seen: list[str] = []
    status(NAME, output).watch(every=0.0, show=lambda sweep: seen.append(sweep.name))
    assert seen == [NAME] * 3


def test_a_sweep_is_run_and_handed_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `selgen sweep run` calls gets the sweep, its folder and its options; a ledger is what `resume` asks for."""
    calls: list[tuple[str, RunOptions, Path | None]] = []

    def launched(sweep: Sweep, options: RunOptions, console: Console, *, file: Path | None) -> RunSummary:
        calls.append((sweep.name, options, file))
        return RunSummary((), "", False, ("a note",), num_failed=2)

    monkeypatch.setattr(launch, "run", launched)
    handle = sweeps.run("quickstart", tmp_path, retry_failed=True)
    assert (handle.name, handle.output) == ("quickstart", tmp_path)
    assert calls == [("quickstart", RunOptions(tmp_path, None, None, True), None)]
    said = capsys.readouterr().out
    assert "a note" in said and "2 failed" in said
    with pytest.raises(UserError, match="quickstart"):
        sweeps.resume("quickstart", tmp_path)
    assert len(calls) == 1


def test_there_is_no_such_sweep(output: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        status("nowhere", output)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sweeps.nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing


def test_the_packages_stay_light() -> None:
    code = "import sys, sweeps, analysis; print([m for m in ('pandas', 'mlflow', 'ray', 'torch') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.slow
def test_the_notebook_runs(output: Path, tmp_path: Path) -> None:
    (file,) = write_notebook(NAME, output, None, None, tmp_path / "mine.ipynb")
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"]
    shown = [json.dumps(each) for each in outputs]
    assert NAME in shown[0] and "text/html" in shown[0]
    assert "p_front" in shown[1] and "status" in shown[2] and "image/png" in shown[3]
    with pytest.raises(UserError, match="already exists"):
        write_notebook(NAME, output, None, None, file)


def test_numbers_are_numbers(output: Path) -> None:
    """A script can compute with every column of scores."""
    table = status(NAME, output).results().configurations
    scores = table.drop(columns=["method", "label", "on_front"]).select_dtypes("number")
    assert {"tokens", "seconds", "seeds", "p_front"} <= set(scores.columns)
    assert all(math.isfinite(value) for value in table["p_front"])
