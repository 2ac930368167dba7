"""`selgen export`: what PEFT, transformers and the Hub's own reader make of the folder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeps.results.export import find_adapter
from sweeps.results.model_card import vllm_problems
from tests.support.peft_adapters import adapted_sweep, base_directory
from tests.sweeps.cli.test_app import selgen


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    adapted_sweep(folder, folder / "runs")
    return folder / "runs"


@pytest.fixture(scope="module")
def title(output: Path) -> str:
    """A configuration of kl_penalty, as tables write it."""
    lines = map(json.loads, (output / "adapted" / "ledger.jsonl").read_text().splitlines())
    asked = [line["described"] for line in lines if line["event"] == "asked"]
    return next(f"kl_penalty {each['label']}" for each in asked if each["method"] == "kl_penalty")


@torch.no_grad()
def logits(model: torch.nn.Module, base: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(base)("Name a colour, please.", return_tensors="pt").input_ids
    return model.eval()(input_ids=ids).logits


def test_peft_loads_the_adapter_and_the_hub_its_card(
    output: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, base = tmp_path / "deep" / "kl", base_directory(output.parent)
    arguments = ["export", "adapted", title, directory, "--output", output]
    assert selgen(*arguments, "--json", monkeypatch=monkeypatch) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["seed"] == 1  # of three, whose scores grow with the seed
    assert data["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert data["vllm_problems"] == []
    exported = find_adapter("adapted", title, output, None, 1)
    loaded, kept = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), place)
        for place in (directory, exported.directory)
    )
    assert torch.equal(logits(loaded, base), logits(kept, base))
    assert not torch.equal(logits(loaded, base), logits(AutoModelForCausalLM.from_pretrained(base), base))
    card = ModelCard.load(directory / "README.md")
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "peft" and "lora" in metadata["tags"]
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["task"] == pytest.approx(exported.outcome["scores"]["task"]["mean"], abs=1e-6)
    text = card.text
    assert title in text and "--lora-modules" in text and "vllm/" in text and "written for tests (MIT)" in text
    assert "--max-lora-rank 8" in text and "| task rows | 6 |" in text
    assert selgen(*arguments, monkeypatch=monkeypatch) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_merged_model_is_the_base_with_the_adapter(
    output: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_directory(output.parent)
    arguments = ["export", "adapted", title, tmp_path / "whole", "--merged", "--seed", 2, "-o", output]
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    kept = find_adapter("adapted", title, output, None, 2).directory
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), kept)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(merged, tmp_path / "whole"), logits(adapted, base), rtol=1e-4, atol=1e-5)
    metadata = ModelCard.load(tmp_path / "whole" / "README.md").data.to_dict()
    assert metadata["library_name"] == "transformers"


def test_edits_are_copied_and_said(
    output: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = find_adapter("adapted", title, output, None, 0).directory / "edits.safetensors"
    edits.write_bytes(b"edits")
    try:
        assert (
            selgen("export", "adapted", title, tmp_path / "e", "--seed", 0, "-o", output, monkeypatch=monkeypatch) == 0
        )
    finally:
        edits.unlink()
    assert "the model differs" in capsys.readouterr().out
    assert (tmp_path / "e" / "edits.safetensors").read_bytes() == b"edits"
    assert "alone is a different model" in (tmp_path / "e" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kl_penalty beta=7777"], "no finished configuration 'kl_penalty beta=7777'"),
        (["plain"], "no adapter of plain was kept"),
        (["TITLE", "--seed", "9"], "has no finished trial of seed 9; it has 0, 1, 2"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    arguments: list[str],
    words: str,
    output: Path,
    title: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration, *rest = [title if word == "TITLE" else word for word in arguments]
    command = ["export", "adapted", configuration, tmp_path / "x", *rest, "-o", output]
    assert selgen(*command, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert not (tmp_path / "x").exists()


def test_nothing_is_left_of_a_write_that_fails(
    output: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.results.export.shutil.copyfile", full)
    assert selgen("export", "adapted", title, tmp_path / "x", "-o", output, monkeypatch=monkeypatch) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_vllm_refuses_is_named() -> None:
    """Written after the checks of vLLM's loader of PEFT configurations."""
    fine = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none", "modules_to_save": None}
    assert vllm_problems(fine) == []
    for change in (
        {"r": 513},
        {"bias": "all"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": []},
    ):
        assert len(vllm_problems(fine | change)) == 1
