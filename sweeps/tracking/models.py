"""The adapters of frontier configurations as MLflow logged models, with parameters and scores."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.tables import schema
from sweeps.tracking import projection
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, LoggedModel, Metric

    from sweeps.tracking.datasets import CaseDatasets

CODE = Path(__file__).with_name("adapter_model.py")
MODEL_TYPE = "LoRA adapter"
MAX_NEW_TOKENS = 64  # of a reply, unless the caller of `load_model` changes it
REQUIREMENTS = ("mlflow", "torch", "transformers", "peft")
NOT_IN_NAMES = str.maketrans({".": "·", "/": "-", ":": " ", "%": " ", '"': " ", "'": " "})  # MLflow refuses these


@dataclass(frozen=True)
class FrontierAdapter:
    """An adapter to log.

    Attributes:
        title: title of its configuration, e.g. "kl_penalty beta=0.3".
        trial: the trial that trained it.
        directory: directory of the PEFT checkpoint.
    """

    title: str
    trial: TrialConfig
    directory: Path


class LoggedAdapters:
    """The logged models of an experiment, by the trial that trained them.

    A model that a killed driver left unfinished is logged anew.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client, self._experiment = client, experiment
        self._models: dict[str, LoggedModel] = {}
        for model in self._all():
            if str(model.status) == "READY":
                self._models.setdefault(model.tags.get(schema.TRIAL, ""), model)
            else:
                client.delete_logged_model(model.model_id)

    def _all(self) -> list[LoggedModel]:
        """Return the experiment's models that a sweep logged."""
        from analysis.tables.mlflow_client import all_pages

        models = all_pages(
            lambda token: self._client.search_logged_models([self._experiment], page_token=token, max_results=100)
        )
        return [model for model in models if schema.TRIAL in model.tags]

    def has(self, trial_id: str) -> bool:
        """Return whether a trial's adapter is logged."""
        return trial_id in self._models

    def log(self, adapter: FrontierAdapter, run_id: str, tags: dict[str, str], datasets: CaseDatasets) -> None:
        """Log an adapter with the scores of its trial's run, each with the questions that it grades."""
        from mlflow.entities import LoggedModelOutput

        client, trial = self._client, adapter.trial
        model = client.create_logged_model(
            self._experiment,
            name=f"{adapter.title} seed={trial.seed}".translate(NOT_IN_NAMES),
            source_run_id=run_id,
            params=projection.trial_params(trial),
            tags=tags | {schema.TRIAL: trial.trial_id, schema.FRONTIER: "true"},
            model_type=MODEL_TYPE,
        )
        with tempfile.TemporaryDirectory(prefix="selgen-") as folder:
            saved = Path(folder) / "model"
            save_model(saved, adapter.directory, model.model_id)
            client.log_model_artifacts(model.model_id, str(saved))
        metrics = [
            _of_model(metric, model.model_id, run_id, questions)
            for name, questions in datasets.of_scores().items()
            for metric in client.get_metric_history(run_id, f"{schema.EVAL}{name}")[-1:]
        ]
        client.log_batch(run_id, metrics=metrics)
        use = f'Load it with `mlflow.pyfunc.load_model("models:/{model.model_id}")`.'
        client.set_logged_model_tags(model.model_id, {schema.DESCRIPTION: use})
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=trial.updates)])
        self._models[trial.trial_id] = client.finalize_logged_model(model.model_id, "READY")

    def mark(self, on_front: Collection[str]) -> None:
        """Tag each model with whether its configuration is still on the frontier.

        Args:
            on_front: ids of the trials of configurations on the frontier.
        """
        for trial_id, model in self._models.items():
            value = str(trial_id in on_front).lower()
            if model.tags.get(schema.FRONTIER) != value:
                self._client.set_logged_model_tags(model.model_id, {schema.FRONTIER: value})
                model.tags[schema.FRONTIER] = value


def save_model(place: Path, adapter: Path, model_id: str) -> None:
    """Write an adapter as a model in MLflow's `pyfunc` flavor."""
    import mlflow.pyfunc
    from mlflow.models import Model

    mlflow.pyfunc.save_model(
        str(place),
        python_model=str(CODE),
        artifacts={"adapter": str(adapter)},
        model_config={"max_new_tokens": MAX_NEW_TOKENS},
        pip_requirements=[f"{name}=={projection.version_of(name)}" for name in REQUIREMENTS],
        mlflow_model=Model(model_id=model_id, artifact_path=""),
    )


def _of_model(metric: Metric, model_id: str, run_id: str, questions: Dataset | None) -> Metric:
    """Return a copy of a run's metric as a metric of a model."""
    from mlflow.entities import Metric

    return Metric(
        metric.key,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=model_id,
        dataset_name=questions.name if questions else None,
        dataset_digest=questions.digest if questions else None,
        run_id=run_id,
    )
