"""Names under which MLflow keeps a sweep. `sweeps.tracking` writes them, `analysis.tables.mlflow_runs` reads them.

A sweep is an experiment of its name. The tag `KIND` tells three kinds of runs apart: one for the sweep, below it one
per configuration, and below that one per trial.

Metrics: a trial has `eval/<score>`, `train/<curve>` by step, and `tokens` and `seconds`, which include everything that
it was built on. A configuration has `<score>`, the mean over its finished seeds, and their number as `seeds`. Once a
frontier has been drawn it also has `<score>_low` and `<score>_high`, the 95 % interval of that mean, `p_front`, and
means of `tokens` and `seconds`. Its tag `frontier` says whether it is on the frontier.

Tags that hold JSON begin with "mlflow.", so that MLflow's pages hide them; earlier versions wrote them without that
prefix.

A tag that is too long for MLflow is split over several, see `analysis.tables.long_tags`.
"""

from __future__ import annotations

# Kinds of runs.
SWEEP_RUN, CONFIGURATION_RUN, TRIAL_RUN = "sweep", "configuration", "trial"

# Tags of every run.
KIND = "selgen.kind"
SWEEP = "selgen.sweep"
IDENTITY = "selgen.identity"  # content id of the sweep's declaration
PARENT = "mlflow.parentRunId"

# Tags of a sweep.
OBJECTIVES = "mlflow.selgen.objectives"  # [{name, kind, higher_is_better, description, low, high}, ...], task first
SCORES = "mlflow.selgen.scores"  # score -> [kind, higher is better, low, high]
BASE_SCORES = (
    "mlflow.selgen.base_scores"  # score -> mean of the untouched base model; of several settings, label -> these
)
DATA = "selgen.data"  # fingerprint of a setting's rows; of several settings, "label fingerprint, ..."
SEEDS, CONFIGURATIONS = "seeds", "configurations"  # tags, since they may be raised and a parameter cannot change
VERSION = "selgen.version"
COMMIT = "selgen.commit"
PACKAGES = "selgen.packages"  # "package version, ..."
DESCRIPTION = "mlflow.note.content"  # Markdown that MLflow shows on the run

# Tags of configurations and trials.
CONFIGURATION = "selgen.configuration"  # content id
METHOD = "selgen.method"
LABEL = "selgen.label"  # what tells a configuration from others of its method, e.g. "beta=0.3"
COEFFICIENTS = "mlflow.selgen.coefficients"  # name -> value
TRAINING = "selgen.training"  # content id of the configuration whose training it reads
SETTING = "selgen.setting"  # label
STATUS = "selgen.status"  # finished, invalid, failed, stopped or running
AUXILIARY = "selgen.auxiliary"  # "true" if others build on it and the search did not ask for it

# Tag of configurations and of the adapters of their trials: "true" or "false".
FRONTIER = "frontier"

# Tags of trials.
TRIAL = "selgen.trial"  # content id
SEED = "selgen.seed"
REASON = "selgen.reason"  # why it did not finish, in a line
COUNTS = "mlflow.selgen.counts"  # score -> [graded, missing, of these refused]

RUNNING = "running"  # status of a trial that has not ended

# Metrics.
EVAL, TRAIN = "eval/", "train/"  # prefixes
LOW, HIGH = "_low", "_high"  # of an interval, after the score
TOKENS, SECONDS, NUM_SEEDS, P_FRONT = "tokens", "seconds", "seeds", "p_front"
GPU_HOURS, CORE_HOURS, DOLLARS = "gpu_hours", "core_hours", "dollars"  # of what packs occupy

# Folders of artifacts of a sweep's run.
QUESTIONS = "questions"  # grades of single questions, a file per setting
ADAPTERS = "adapters"  # of frontier configurations that are more than an adapter; the others are logged models
PREVIEWS = "description"  # figures that the description shows
REPORT = "report"
