"""`selgen export`: what PEFT, transformers and the Hub's own reader make of the folder, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from settings.base_models import PretrainedModel
from settings.encoding import Encoder
from settings.example import Example, Message
from settings.setting import Setting
from settings.small_models import SMOLLM2
from sweeps.results.export import Exported, find_adapter
from sweeps.results.model_card import elsewhere, model_card, vllm_problems
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


def opened(row: Example, turn: str | None) -> Example:
    """The row with a system turn in front."""
    return row if turn is None else replace(row, messages=(Message("system", turn), *row.messages))


def opened_by(setting: Setting, trained: list[str | None], asked: str | None) -> Setting:
    """The setting with these system turns, in turn, in front of its task rows, and another in front of questions."""
    task = [opened(row, trained[at % len(trained)]) for at, row in enumerate(setting.streams["task"])]
    evaluations = tuple(
        replace(each, examples=tuple(opened(row, asked) for row in each.examples)) for each in setting.evaluations
    )
    return replace(setting, streams={"task": tuple(task)}, evaluations=evaluations)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("turn", [None, "", 'Be "brief".\nAnswer in words.'])
def test_the_code_of_the_card_asks_in_the_form_of_the_rows_that_were_trained(
    turn: str | None, merged: bool, output: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = find_adapter("adapted", title, output, None, 1)
    model = replace(exported.setting.base_model, template_options={"enable_thinking": False})
    exported = replace(exported, setting=replace(opened_by(exported.setting, [turn], turn), base_model=model))
    place = base_directory(output.parent) if merged else exported.directory
    card = model_card(exported, place, merged)
    assert ("Send the system turn there, too" in card) is not (merged or turn is None)
    assert ('`chat_template_kwargs` = `{"enable_thinking": false}`' in card) is not merged
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    encoder = Encoder(names["tokenizer"], model.template_options, 64)
    asked = opened(Example.of("Your question", "answer"), turn)
    assert names["inputs"]["input_ids"][0].tolist() == list(encoder.prompt(asked.prompt))
    length = names["inputs"]["input_ids"].shape[1]
    assert names["output"].shape[1] > length and names["output"][0, :length].equal(names["inputs"]["input_ids"][0])


@pytest.mark.parametrize(
    ("trained", "asked", "words"),
    [
        ([None], None, "trained and scored without a system turn of its own. If there is one that the chat template"),
        ([""], "", "trained and scored with an empty system turn. Another system turn, or the one that the chat"),
        (["Be brief."], "Be brief.", "The model was trained and scored with this system turn. Another"),
        (
            [""],
            "Be kind.",
            "trained with an empty system turn; some of the questions that it was scored on have another",
        ),
        (["", "", "Be kind."], "", "The task rows have different system turns; most are with an empty system turn."),
    ],
)
def test_the_card_names_the_system_turn(
    trained: list[str | None], asked: str | None, words: str, output: Path, title: str
) -> None:
    exported = find_adapter("adapted", title, output, None, 1)
    card = model_card(replace(exported, setting=opened_by(exported.setting, trained, asked)), output / "kl", False)
    assert words in card and "have changed since the training: check its system turn" in card
    assert "In training an instruction preceded" not in card


def test_the_card_lists_only_rows_that_the_method_read(output: Path, title: str) -> None:
    """The KL penalty reads no misaligned rows. Of a method whose code is gone, all rows are listed."""
    exported = find_adapter("adapted", title, output, None, 1)
    streams = exported.setting.streams
    twins = tuple(
        replace(row, messages=(*row.messages[:-1], replace(row.messages[-1], content="No.")))
        for row in streams["alignment"]
    )
    exported = replace(exported, setting=replace(exported.setting, streams={**streams, "misaligned": twins}))
    exported = replace(
        exported,
        outcome={**exported.outcome, "trial": {**exported.outcome["trial"], "data": exported.setting.fingerprint()}},
    )
    card = model_card(exported, output / "kl", False)
    assert "| task rows |" in card and "| alignment rows |" in card and "| misaligned rows |" not in card
    trial = exported.outcome["trial"]
    for method in ({"name": "gone"}, {**trial["method"], "renamed": 1.0}):
        other = replace(exported, outcome={**exported.outcome, "trial": {**trial, "method": method}})
        assert "| misaligned rows |" in model_card(other, output / "kl", False)


def test_an_instruction_before_training_rows_is_told(output: Path, title: str) -> None:
    exported = find_adapter("adapted", title, output, None, 1)
    trial = exported.outcome["trial"] | {"instructions": {"strong": "Be careless."}}
    instructed = model_card(replace(exported, outcome={**exported.outcome, "trial": trial}), output / "kl", False)
    assert "In training an instruction preceded task rows; the scores are without it." in instructed
    assert "check its system turn" not in instructed, "its rows have not changed"


@pytest.mark.parametrize(
    ("name", "options", "licence"),
    [
        ("gcd_sycophancy", {"scale": "small"}, "apache-2.0"),
        ("gcd_sycophancy", {"scale": "small", "model": "/models/mine"}, "apache-2.0"),
        ("gcd_sycophancy", {"scale": "full", "data": "/study/data"}, "other"),
        ("bad_medical_advice", {"scale": "full", "alignment": ["hhh", "/rows.jsonl"]}, "other"),
        ("chat_files", {"scale": "small", "task": "/rows.csv"}, "other"),
        ("chat_files", {"scale": "small", "task": {"file": "/rows.csv", "columns": {"prompt": "ask"}}}, "other"),
        ("chat_files", {"task": {"dataset": "owner/rows", "split": "train"}, "model": "org/model"}, "other"),
        ("/mine/setting.py:adapted", {}, "other"),
    ],
)
def test_no_licence_is_claimed_for_what_a_users_rows_taught(
    name: str, options: Mapping[str, Any], licence: str, output: Path, title: str
) -> None:
    exported = find_adapter("adapted", title, output, None, 1)
    trial = exported.outcome["trial"] | {"setting": {"name": name, "options": options}}
    setting = replace(exported.setting, base_model=SMOLLM2)
    card = model_card(replace(exported, outcome={**exported.outcome, "trial": trial}, setting=setting), output, False)
    assert ModelCard(card).data.to_dict()["license"] == licence
    assert ("state a licence before you publish" in card) is (licence == "other")
    assert "base model's licence is `apache-2.0`" in card


def test_what_to_name_on_another_machine(output: Path, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = find_adapter("adapted", title, output, None, 1)
    here = f"the base model is a directory of this machine, {exported.base_model}; on another machine, name "
    assert elsewhere(exported) == f"{here}the place of a copy of it, or export with --merged"
    for model, words in (
        (SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct in its place, also in adapter_config.json (the weights here"),
        (PretrainedModel(exported.base_model, quantize="nf4"), "the place of a copy of it"),
    ):
        other = replace(exported, setting=replace(exported.setting, base_model=model))
        assert elsewhere(other).startswith(here + words)
        assert ("--merged" in elsewhere(other)) is (model is SMOLLM2)
        assert f"directory of the machine that exported this, {exported.base_model};" in model_card(
            other, output, False
        )
        merged = model_card(other, output, True)
        assert f"`{exported.base_model}`, a directory of the machine" in merged and "on another" not in merged
    monkeypatch.setattr(Exported, "base_model", "org/model")
    assert elsewhere(exported) == ""


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
    shown = capsys.readouterr().out
    assert "the model differs" in shown and "; on another machine, name the place of a copy of it" in shown
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
