"""The rows that a sweep's runs read, as MLflow datasets: name, digest, source and number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from sweeps.case import Case, digests, questions_of, rows_of
from trainables import methods
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow.entities import Dataset, DatasetInput

TRAINING, EVALUATION = "training", "evaluation"  # MLflow's names for how a run uses a dataset
SOURCE_TYPE = "selgen"


class CaseDatasets:
    """The datasets of one setting of a sweep. Their digests are computed once."""

    def __init__(self, case: Case) -> None:
        self._case = case

    @cached_property
    def _inputs(self) -> dict[str, DatasetInput]:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        setting = self._case.setting
        questions = {questions_of(each.name) for each in setting.evaluations}
        source = json.dumps({"setting": self._case.label, "rows": list(setting.sources)}, ensure_ascii=False)
        inputs = {}
        for name, (number, digest) in digests(setting).items():
            dataset = Dataset(
                f"{self._case.label}: {name}", digest, SOURCE_TYPE, source, profile=json.dumps({"num_rows": number})
            )
            context = EVALUATION if name in questions else TRAINING
            inputs[name] = DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        return inputs

    def of_scores(self) -> dict[str, Dataset | None]:
        """Return score -> the questions that it grades; None for a score that is the worst of others."""
        scores: dict[str, Dataset | None] = {score.name: None for score in self._case.setting.all_scores}
        for evaluation in self._case.setting.evaluations:
            questions = self._inputs[questions_of(evaluation.name)].dataset
            scores |= {score.name: questions for score in evaluation.scores}
        return scores

    def read_by(self, trials: Iterable[TrialConfig]) -> list[DatasetInput]:
        """Return the datasets that trials, and what they build on, read: the streams they use, and all questions."""
        read = {rows_of(stream) for trial in trials for stream in methods.streams_read(trial.method)}
        return [each for name, each in self._inputs.items() if name in read or name.startswith(questions_of(""))]

    def all(self) -> list[DatasetInput]:
        """Return the datasets of all streams and evaluations."""
        return list(self._inputs.values())
