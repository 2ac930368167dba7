"""Cluster files keep the schemas that Ray and KubeRay read them with; checked offline."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "sweeps" / "deploy"
CLUSTERS = [ROOT / "cluster.yaml", DEPLOY / "gcp.yaml", DEPLOY / "on_premise.yaml"]

# The part of KubeRay's custom resource (ray.io/v1 RayJob, release 1.4) that the example uses; all else is a typo.
POD: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "env": {"type": "array", "items": {"type": "object", "required": ["name", "value"]}},
                            "resources": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    part: {"type": "object", "additionalProperties": {"type": "string"}}
                                    for part in ("limits", "requests")
                                },
                            },
                            "volumeMounts": {"type": "array", "items": {"required": ["name", "mountPath"]}},
                        },
                    },
                },
                "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            },
        }
    },
}
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
RAY_JOB: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "backoffLimit": {"type": "integer"},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["template"],
                            "additionalProperties": False,
                            "properties": {"rayStartParams": PARAMS, "template": POD},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "template"],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": {"type": "integer"},
                                    "minReplicas": {"type": "integer"},
                                    "maxReplicas": {"type": "integer"},
                                    "rayStartParams": PARAMS,
                                    "template": POD,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_cluster_files_are_rays(path: Path) -> None:
    validate_config(prepare_config(load(path)))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_a_typo_would_be_found(path: Path) -> None:
    broken = load(path) | {"set_up_commands": []}
    with pytest.raises(jsonschema.ValidationError, match="set_up_commands"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_what_every_cluster_needs(path: Path) -> None:
    """The pinned Ray, the shared cache on every node, and a dashboard on loopback."""
    text, config = path.read_text(), load(path)
    if "docker" in config:
        assert config["docker"]["image"] == f"rayproject/ray:{ray.__version__}-py311-gpu"
    for name in ("SELGEN_CACHE=/shared/cache", "HF_HOME=/shared/huggingface"):
        assert name in text
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--constraint constraints.txt" in text
    assert "OPENAI_API_KEY=sk" not in text


def test_the_ray_job_is_kuberays() -> None:
    job = load(DEPLOY / "rayjob.yaml")
    jsonschema.validate(job, RAY_JOB)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    broken = copy.deepcopy(job)
    broken["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(broken, RAY_JOB)


def test_they_are_installed_with_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert set(data["sweeps"]) == {"deploy/*.yaml", "deploy/*.md"}
