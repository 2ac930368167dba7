"""The baselines' sweep: one Ray Tune function trainable per trial, as many at a time as there are cores.

    python -m tests.benchmarks.tuned TRIALS MODEL OUTPUT [--reuse-actors]

TRIALS is a JSON list of trials, MODEL the base model's directory; the results of each trial and its adapter come to
OUTPUT. Nothing is logged to MLflow and nothing is searched or resumable, which this project's side does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune


def train(config: dict[str, Any]) -> None:
    """One trial, from loading to its results."""
    import torch  # in the worker alone: the driver has no use for them

    from settings import catalog
    from tests.benchmarks.baseline import PeftTrial, load
    from trainables.trial import TrialConfig

    torch.set_num_threads(1)
    trial, output = TrialConfig.from_json(config["trial"]), Path(config["output"])
    setting = catalog.build(trial.setting.name, dict(trial.setting.options))
    own = PeftTrial(*load(config["model"]), setting, trial)
    began = time.time()
    own.train()
    scores, replies = own.evaluate()
    own.peft.save_pretrained(output / "adapters" / trial.trial_id)
    measured = {name: asdict(score) for name, score in scores.items()}
    losses = torch.stack(own.losses).tolist()
    result = {
        "first_step_began": began,
        "scores": measured,
        "replies": replies,
        "closest_calls": own.closest_calls,
        "losses": losses,
    }
    (output / f"{trial.trial_id}.json").write_text(json.dumps(result))
    tune.report({name: score.mean for name, score in scores.items()})


def run(trials: list[dict[str, Any]], model: str, output: Path, reuse_actors: bool) -> None:
    """All trials."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    space = {"trial": tune.grid_search(trials), "model": model, "output": str(output)}
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
        run_config=tune.RunConfig(name="baseline", storage_path=str(output / "tune"), verbose=0),
    ).fit()
    ray.shutdown()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")


def main() -> None:
    """Run the sweep that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tuned")
    parser.add_argument("trials", type=Path)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--reuse-actors", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    run(json.loads(options.trials.read_text()), options.model, options.output.resolve(), options.reuse_actors)


if __name__ == "__main__":
    from tests.benchmarks import tuned  # by its name: workers import what they need instead of unpickling it

    tuned.main()
