"""`selgen score`: the numbers of plain PEFT and transformers, in one pass for all adapters, and drawn into a sweep."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from settings.reference import setting_of
from tests.support.fakes import SOURCES
from tests.support.judge_server import certain, serving
from tests.support.peft_adapters import adapted_setting, adapted_sweep, base_directory, peft_adapter
from tests.sweeps.cli.test_app import selgen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep under runs/, and adapters of different ranks, layers and targets beside it."""
    folder = tmp_path_factory.mktemp("score")
    adapted_sweep(folder, folder / "runs")
    base = base_directory(folder)
    peft_adapter(folder / "small", base, rank=2, seed=1)
    peft_adapter(folder / "large", base, rank=5, targets=("v_proj", "gate_proj", "o_proj"), seed=2, use_rslora=True)
    peft_adapter(folder / "upper", base, rank=3, targets=("q_proj", "up_proj"), seed=3, layers_to_transform=[1])
    return folder


def by_hand(folder: Path, adapter: str | None) -> dict[str, float]:
    """Loss and share of preferred replies, a row at a time, with PEFT's own model."""
    base = base_directory(folder)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter:
        model = PeftModel.from_pretrained(model, folder / adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)

    @torch.no_grad()
    def nats(prompt: str, reply: str) -> tuple[float, int]:
        turns = [{"role": "user", "content": prompt}]
        start = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": reply}], tokenize=False)
        ids = tokenizer(whole.rstrip("\n"), add_special_tokens=False, return_tensors="pt").input_ids
        length = len(tokenizer(start, add_special_tokens=False).input_ids)
        logs = model(input_ids=ids).logits[0].log_softmax(dim=-1)
        chosen = logs[length - 1 : -1].gather(1, ids[0, length:, None])[:, 0]
        return -float(chosen.sum()), len(chosen)

    losses, choices = [], []
    for example in setting_of(adapted_setting(folder)).evaluations[0].examples:
        prompt = example.prompt[0].content
        good, length = nats(prompt, example.response)
        bad, _ = nats(prompt, example.alternatives[0])
        losses.append(good / length)
        choices.append(good < bad)
    return {"task": sum(losses) / len(losses), "alignment": sum(choices) / len(choices)}


def test_scores_are_those_of_peft(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["small", "large", "upper"]
    setting = ["--setting", f"{folder / 'adapter_setting.py'}:adapted", "--option", f"model={base_directory(folder)}"]
    places = [*(folder / name for name in names), "base"]
    assert selgen("score", *places, *setting, "--to", tmp_path, "--json", monkeypatch=monkeypatch) == 0
    points = {point["name"]: point for point in json.loads(capsys.readouterr().out)}
    assert list(points) == [*names, "base"]
    for name, point in points.items():
        expected = by_hand(folder, None if name == "base" else name)
        for score, mean in expected.items():
            assert point["scores"][score]["mean"] == pytest.approx(mean, abs=1e-4), (name, score)
            assert point["scores"][score]["low"] <= mean <= point["scores"][score]["high"]
        assert json.loads((tmp_path / f"{name}.scores.json").read_text())["scores"] == point["scores"]
    assert len({round(point["scores"]["task"]["mean"], 4) for point in points.values()}) == 4


def test_a_score_is_drawn_into_the_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, figure = ["--output", folder / "runs"], folder / "runs" / "adapted" / "frontier.png"
    command = ["score", folder / "small", "--sweep", "adapted", "--name", "mine"]
    assert selgen(*command, *output, monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine: task" in shown and f"wrote {figure}".replace(" ", "") in shown.replace(" ", "")
    assert selgen("frontier", "adapted", "--json", *output, monkeypatch=monkeypatch) == 0
    (named,) = json.loads(capsys.readouterr().out)["named"]
    assert named["name"] == "mine" and named["adapter"] == str((folder / "small").resolve())
    assert selgen("report", "adapted", *output, monkeypatch=monkeypatch) == 0
    report = folder / "runs" / "adapted" / "report"
    page = (report / "report.html").read_text()
    assert "mine: task" in page and "scored models" in page
    assert json.loads((report / "findings.json").read_text())["named"][0]["name"] == "mine"


def test_the_stars_are_those_of_the_sweep_and_few_questions_have_no_interval(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The setting trades off task and alignment; the sweep only declares the alignment. No task has an interval."""
    shutil.copytree(folder / "runs" / "adapted", tmp_path / "adapted")
    file = tmp_path / "adapted" / "sweep.json"
    declared = json.loads(file.read_text())
    described = declared["settings"][0]
    described["objectives"] = [each for each in described["objectives"] if each["name"] == "alignment"]
    file.write_text(json.dumps(declared))
    monkeypatch.setattr("sweeps.results.scoring.FEWEST", 7)
    assert selgen("score", "base", "--sweep", "adapted", "--output", tmp_path, monkeypatch=monkeypatch) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    (task,) = (line for line in shown if line[:2] == ["task", "lower"])
    (alignment,) = (line for line in shown if line[:2] == ["alignment*", "higher"])
    assert task[3:] == ["[-]", "6"] and alignment[3].startswith("[0.") and alignment[-1] == "6"
    assert ["[-]", "too", "few", "questions", "for", "an", "interval"] in shown


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("use_dora", True, "use_dora is true; an adapter that uses it cannot be scored"),
        ("bias", "all", "bias is 'all'; only 'none'"),
        ("modules_to_save", ["lm_head"], "modules_to_save is"),
        ("rank_pattern", {"q_proj": 4}, "rank_pattern is"),
        ("peft_type", "IA3", "peft_type is 'IA3'"),
        ("init_lora_weights", "pissa", "init_lora_weights is 'pissa', which changes"),
        ("r", 7, "but the rank r is 7"),
    ],
)
def test_what_a_pack_cannot_hold_is_refused_by_its_field(
    field: str,
    value: object,
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (folder / "small").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {field: value}))
    command = ["score", broken, "--sweep", "adapted", "--output", folder / "runs"]
    assert selgen(*command, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("selgen: ") and error.count("\n") == 1 and words in error
    assert not list((folder / "runs" / "adapted" / "named").glob("broken*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/small"], "say what to score on"),
        (["{folder}/base", "--sweep", "adapted"], "is scored as `base`"),
        (["{folder}/small", "--sweep", "adapted", "--name", "a/b"], "cannot be the name"),
        (["{folder}/small", "{folder}/small", "--sweep", "adapted"], "two models are called 'small'"),
        (["{folder}/small", "--sweep", "nothing"], "there is no sweep 'nothing'"),
        (["{folder}/small", "--sweep", "adapted", "--option", "a=1"], "--option a is for --setting NAME"),
        (["{folder}/small", "--sweep", "adapted", "--to", "."], "--to is for scores without a sweep"),
        (["{folder}/small", "--sweep", "adapted", "--setting", "bad_medical_advice"], "is not on setting"),
        (
            ["base", "--setting", f"{SOURCES / 'unknown_words.py'}:mine"],
            "its world AdviceWorld lacks 'say'",
        ),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    arguments: list[str],
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(folder=folder) for argument in arguments]
    assert selgen("score", *filled, "--output", folder / "runs", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key, tensor: {key: tensor * math.nan}, "has values that are not finite"),
        (lambda key, tensor: {key: tensor} if "lora_A" in key else {}, "has no lora_B"),
        (lambda key, tensor: {}, "has no tensors"),
    ],
)
def test_weights_that_are_no_adapter_are_one_line(
    change: Callable[[str, Tensor], dict[str, Tensor]],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = shutil.copytree(folder / "small", tmp_path / "broken")
    weights = broken / "adapter_model.safetensors"
    changed = [change(key, tensor) for key, tensor in load_file(weights).items()]
    save_file({key: tensor for each in changed for key, tensor in each.items()}, weights)
    command = ["score", broken, "--sweep", "adapted", "--output", folder / "runs"]
    assert selgen(*command, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error and "adapter_model.safetensors" in error


def test_a_judged_setting_is_judged_or_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(SOURCES / "judged_setting.py", tmp_path / "judged_setting.py")
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    setting = ["--setting", f"{tmp_path / 'judged_setting.py'}:asked", "--option", f"model={base_directory(folder)}"]
    command = ["score", folder / "small", *setting, "--to", tmp_path]
    assert selgen(*command, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "judge" in error
    with serving(lambda body, count: certain(85)) as endpoint:
        assert selgen(*command, "--judge-url", endpoint.url, "--json", monkeypatch=monkeypatch) == 0
    (point,) = json.loads(capsys.readouterr().out)
    assert point["scores"]["alignment"] == {"mean": 85.0, "low": None, "high": None}, "three questions are too few"
    assert point["questions"] == {"alignment": 3, "task": 3}
