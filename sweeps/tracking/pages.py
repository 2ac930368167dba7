"""Where and how MLflow's pages show a sweep: with its figure, and its configurations as a table and a plot.

An experiment may keep views of its runs in tags, as MLflow's own "Share" button writes them. The view here has a column
for each score and its interval, and plots the objectives against each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from analysis.tables import schema

KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
VIEW = "selgen"  # the key of the view
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_IN_TRAINING_VIEW = "workflowType=machine_learning"  # "Model training" rather than "GenAI", at the top of each page
CONFIGURATIONS = f"tags.`{schema.KIND}` = '{schema.CONFIGURATION_RUN}'"  # in MLflow's search syntax


def run_page(experiment: str, run_id: str, file: str = "") -> str:
    """Return a run's address relative to a server; with `file`, that of one of its artifacts."""
    place = f"/artifacts/{quote(file)}" if file else ""
    return f"/#/experiments/{experiment}/runs/{run_id}{place}?{_IN_TRAINING_VIEW}"


def configurations_page(experiment: str) -> str:
    """Return the address of the table of configurations relative to a server."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&{_IN_TRAINING_VIEW}"


def experiment_tags(objectives: Sequence[str]) -> dict[str, str]:
    """Return the tags of an experiment that control how its pages look.

    Args:
        objectives: names of scores, task first.
    """
    return {KIND: MODEL_TRAINING, _VIEW_TAG: json.dumps(_view(objectives))}


def experiment_note(line: str, experiment: str, run_id: str, figure: str) -> str:
    """Return the line that an experiment's page shows above its table: Markdown, with links to the other pages.

    Args:
        figure: path of the artifact that the sweep's page shows; "" if there is none.
    """
    page, table = run_page(experiment, run_id, figure), configurations_page(experiment)
    return f"{line} [{'Figure' if figure else 'Sweep'}](.{page}), [configurations](.{table})"


def _view(objectives: Sequence[str]) -> Mapping[str, Any]:
    scores = [f"{name}{end}" for name in objectives for end in ("", schema.LOW, schema.HIGH)]
    metrics = [*scores, schema.NUM_SEEDS, schema.P_FRONT]
    plot = {
        "type": "SCATTER",
        "uuid": "frontier",
        "metricSectionId": "frontier",
        "runsCountToCompare": 1000,
        "deleted": False,
        "isGenerated": False,
        "xaxis": {"key": objectives[-1], "type": "METRIC"},
        "yaxis": {"key": objectives[0], "type": "METRIC"},
    }
    section = {"uuid": "frontier", "name": "Frontier", "display": True, "isReordered": False}
    section |= {"columns": 1, "cardHeight": 600}
    return {
        "searchFilter": CONFIGURATIONS,
        "orderByKey": f"tags.`{schema.FRONTIER}`",  # "true" first: a page loads and plots a hundred runs
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"tags.`{schema.FRONTIER}`", *(f"metrics.`{name}`" for name in metrics)],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [plot],
        "compareRunSections": [section],
    }
