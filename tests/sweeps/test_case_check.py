"""Models that cannot be trained, and rows that they cannot read, are named before anything runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen3Config,
    ViTConfig,
)

from settings.base_models import NanoModel
from settings.common.errors import UserError
from settings.example import Example
from settings.reference import setting
from sweeps import case_check
from sweeps.adapter_check import nano_targets
from sweeps.space import MethodSpace, grid, one_of, vary
from sweeps.sweep import Sweep
from tests.support.architectures import ARCHITECTURES, COMMON
from tests.support.fakes import SOURCES
from tests.support.tiny import SIZES
from trainables.engine.targets import target_names
from trainables.trial import AdapterConfig


def sweep(model: str, tmp_path: Path, long: tuple[int, ...] = ()) -> Sweep:
    """A sweep on twelve rows of its own, of which those in these lines are too long."""
    rows = [f"question {number} " + "word " * (400 if number in long else 1) for number in range(1, 13)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(Example.of(row, "Yes.").to_json()) + "\n" for row in rows))
    return Sweep(
        "rows", settings=(setting("chat_files", model=model, task=str(path), max_length=128),), methods=("plain",)
    )


def checked(declared: Sweep) -> tuple[str, ...]:
    """Check a sweep of one case."""
    (case,) = declared.cases
    return case_check.check_case(declared, case)


def test_rows_that_fit_say_nothing(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    assert checked(sweep(str(tiny_qwen3_dir), tmp_path)) == ()


def test_long_prompts_are_named_whether_trained_or_held_out(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    case = sweep(str(tiny_qwen3_dir), tmp_path, long=tuple(range(3, 13)))
    with pytest.raises(UserError) as caught:
        checked(case)
    message = str(caught.value)
    assert "\n" not in message
    named = {number for number in range(1, 13) if any(number in span for span in spans(message))}
    assert named == set(range(3, 13))


def test_rows_that_only_an_instruction_makes_too_long_are_named(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    """By transformers' own rendering; a method without the instruction trains on the same rows."""
    instruction = "word " * 30
    rows = ["question " + "word " * words for words in (1, 60, 1, 70, 1, 1)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(Example.of(row, "Yes.").to_json()) + "\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen3_dir)

    def length(row: str, *before: dict[str, str]) -> int:
        turns = [*before, {"role": "user", "content": row}]
        return len(tokenizer.apply_chat_template(turns, add_generation_prompt=True, enable_thinking=False)["input_ids"])

    limit = max(map(length, rows)) + 1  # just enough for a token of a response
    system = {"role": "system", "content": instruction}
    long = [number for number, row in enumerate(rows, start=1) if length(row, system) >= limit]
    tokens = [length(rows[number - 1], system) for number in long]
    assert long == [2, 4]
    options = {"task": str(path), "task_eval": str(write_questions(tmp_path)), "max_length": limit}
    config = setting("chat_files", model=str(tiny_qwen3_dir), instructions={"strong": instruction}, **options)
    declared = Sweep("rows", settings=(config,), methods=("plain",), controls=False)
    assert checked(declared) == ()
    with pytest.raises(UserError) as refused:
        checked(replace(declared, methods=(vary("inoculation", instruction="strong"),)))
    assert str(refused.value) == (
        f"setting 'chat_files': with the instruction 'strong' before its rows, {path}, lines 2, 4: 2 prompts of"
        f" {min(tokens)} to {max(tokens)} tokens leave no room for a response within max_length={limit}"
    )
    dropped = setting("chat_files", model=str(tiny_qwen3_dir), instructions={"strong": instruction}, **options,
                      drop_long_prompts=True)  # fmt: skip
    left = replace(declared, settings=(dropped,), methods=("inoculation",))
    (case,) = left.cases
    assert len(case.setting.streams["task"]) == 4
    assert f"left out: {path}, lines 2, 4: 2 prompts of" in " ".join(case.setting.remarks)
    assert checked(left) == ()


def write_questions(folder: Path) -> Path:
    """Write held-out rows that are short, with their path."""
    path = folder / "questions.jsonl"
    rows = (Example.of(f"other {number}", "No.").to_json() for number in range(3))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spans(message: str) -> list[range]:
    """Return the lines that a message names, as ranges."""
    words = [word.strip(",:;s") for part in message.split("line")[1:] for word in part.partition(":")[0].split()]
    numbers = [[int(end) for end in word.split("-")] for word in words if word.replace("-", "").isdigit()]
    return [range(ends[0], ends[-1] + 1) for ends in numbers]


def test_what_is_not_on_this_machine_is_not_looked_at(tmp_path: Path) -> None:
    assert checked(sweep("someone/no-such-model", tmp_path)) == ()


# --- models that are not supported: config.json alone lies there, and no weights ---


def only_config(directory: Path, config: PreTrainedConfig, **more: object) -> str:
    """Write a configuration as a model's directory has it, and return the directory."""
    config.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return str(directory)


TINY = {"vocab_size": 44, "hidden_size": 16, "num_hidden_layers": 2}
LLAMA = LlamaConfig(**TINY, intermediate_size=24, num_attention_heads=2)


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        (MambaConfig(**TINY), {}, "a model of type 'mamba' reads its tokens into a state"),
        (
            LLAMA,
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"'llama' has quantised .*\(gptq\)",
        ),
        (LLAMA, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        (LLAMA, {"model_type": "of_tomorrow"}, r"cannot load the model in .*of_tomorrow"),
        (ViTConfig(), {}, "cannot load the model in .*ViTConfig"),
    ],
)
def test_models_that_cannot_be_trained_are_refused_by_their_configuration(
    tmp_path: Path, config: PreTrainedConfig, more: dict[str, object], message: str
) -> None:
    case = sweep(only_config(tmp_path / "model", config, **more), tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        checked(case)
    assert "\n" not in str(refused.value)


def test_weights_that_may_become_plain_ones_are_left_to_who_loads_them(tmp_path: Path) -> None:
    """gpt-oss is published in mxfp4, which transformers unpacks where it has no kernels for it."""
    for number, note in enumerate(({"quant_method": "mxfp4"}, {"quant_method": "gptq", "dequantize": True})):
        model = only_config(tmp_path / str(number), LLAMA, quantization_config=note)
        assert checked(sweep(model, tmp_path)) == ()


def test_layers_that_a_model_does_not_have_are_refused(tmp_path: Path) -> None:
    wanted = replace(sweep(only_config(tmp_path / "model", LLAMA), tmp_path), options={"targets": ("c_attn",)})
    with pytest.raises(UserError, match=r"'targets' names 'c_attn', which is not a linear layer.*; it has .*q_proj"):
        checked(wanted)


def test_every_architecture_that_can_be_trained_passes(tmp_path: Path) -> None:
    """Those of the architecture matrix, each of which a pack has trained."""
    for name, (kind, values) in ARCHITECTURES.items():
        config = getattr(transformers, kind)(**{**COMMON, **values})
        assert checked(sweep(only_config(tmp_path / name, config), tmp_path)) == (), name


def test_a_nano_sweep_is_checked_without_model_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds to import: here an import of one raises."""
    for name in ("transformers", "trainables.bases.config_check"):
        monkeypatch.setitem(sys.modules, name, None)
    case = Sweep("nano", settings=(setting("trigger_colors", scale="nano"),), methods=("plain",))
    assert checked(case) == ()


def test_words_that_a_nano_world_lacks_are_named(tmp_path: Path) -> None:
    """Those of an instruction only if a method puts it before rows."""
    file = f"{SOURCES / 'unknown_words.py'}:mine"
    with pytest.raises(UserError) as refused:
        checked(Sweep("nano", settings=(setting(file),), methods=("plain",)))
    assert str(refused.value) == (
        "setting 'bad_medical_advice': the vocabulary of its world AdviceWorld lacks 'say' (task row 241 and 1 more),"
        " 'please' (row 3 of evaluation 'advice'); use other words, or add these to the world's `vocabulary`"
    )
    declared = Sweep("nano", settings=(setting(file, in_rows=False),), methods=("plain",), controls=False)
    assert checked(declared) == ()
    with pytest.raises(
        UserError, match=r"lacks 'act' \(instruction 'strong'\), 'wrongly' \(instruction 'strong'\); use"
    ):
        checked(replace(declared, methods=(vary("inoculation", instruction="strong"),)))


def test_compared_replies_that_do_not_fit_are_named(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    """The response fits, and one of the alternatives does not."""
    questions = tmp_path / "questions.jsonl"
    rows = [Example.of(f"question {number}?", "No.").to_json()["messages"] for number in (1, 2)]
    others = (["Yes.", "Maybe."], ["Yes.", "word " * 200])
    lines = [{"messages": row, "alternatives": texts} for row, texts in zip(rows, others, strict=True)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    declared = sweep(str(tiny_qwen3_dir), tmp_path)
    options = declared.settings[0].options | {"preferences": str(questions)}
    case = replace(declared, settings=(setting("chat_files", **options),))
    with pytest.raises(
        UserError, match=r"questions\.jsonl, line 2: the reply 'word .* beyond max_length=128"
    ) as caught:
        checked(case)
    assert "line 1" not in str(caught.value)


# --- adapters: every value that a sweep may try, before anything runs ---

FOUR = {**TINY, "num_hidden_layers": 4}
NANO = setting("trigger_colors", scale="nano")


def with_methods(tmp_path: Path, *spaces: MethodSpace, nano: bool) -> Sweep:
    """A sweep on a model of four layers, or on a nano model of three."""
    if nano:
        return Sweep("adapters", settings=(NANO,), methods=spaces, controls=False)
    model = only_config(tmp_path / "model", LlamaConfig(**FOUR, intermediate_size=24, num_attention_heads=2))
    return replace(sweep(model, tmp_path), methods=spaces, controls=False)


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            grid("plain", targets=["q_proj", "c_attn"]),
            r"plain \(targets\).*'targets' names 'c_attn', .*; it has .*q_proj",
        ),
        (
            vary("kl_penalty", targets=one_of("all-linear", "fc1+q_proj")),
            "'targets' names 'fc1', .*; it has .*gate_proj",
        ),
        (grid("plain", layers=["last 1", (0, 9)]), r"'layers' is \(0, 9\), but the model has \d layers, 0 to \d"),
        (vary("kl_penalty", layers=one_of("all", "last 7")), r"'layers' is 'last 7', but the model has \d layers"),
    ],
)
def test_every_value_of_an_axis_is_checked(space: MethodSpace, message: str, nano: bool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        checked(with_methods(tmp_path, space, nano=nano))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("nano", [False, True])
def test_one_adapter_under_two_names_is_said(nano: bool, tmp_path: Path) -> None:
    """Their trials have ids of their own, as they always had."""
    two, everything = ("1+2", "0+1+2") if nano else ("2+3", "0+1+2+3")
    spaces = [
        grid("plain", layers=["last 2", two, "last 1"]),
        vary("kl_penalty", layers=one_of("all", everything)),
        grid("upweighted", weight=[0.3, 1.0], targets=["q_proj+v_proj", "v_proj+q_proj"]),
        grid("mixed", layers=["all", "last 1"], rank=[2, 4]),
    ]
    assert checked(with_methods(tmp_path, *spaces, nano=nano)) == (
        f"plain: layers='last 2' and layers='{two}' are one adapter of this model, trained twice",
        f"kl_penalty: layers='all' and layers='{everything}' are one adapter of this model, trained twice",
        "upweighted: targets='q_proj+v_proj' and targets='v_proj+q_proj' are one adapter of this model, trained twice",
    )


def test_a_packaged_model_is_checked_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path))
    declared = Sweep(
        "small",
        settings=(setting("gcd_sycophancy", scale="small"),),
        methods=(grid("plain", targets=["q_proj", "c_attn"]),),
    )
    with pytest.raises(UserError, match="'targets' names 'c_attn'"):
        checked(declared)


def test_the_linear_layers_of_a_nano_model(tmp_path: Path) -> None:
    """What is checked without the model is what it has."""
    (case,) = Sweep("nano", settings=(NANO,), methods=("plain",)).cases
    spec = case.setting.base_model
    assert isinstance(spec, NanoModel)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES | {"num_hidden_layers": spec.num_layers}))
    for adapter in (AdapterConfig(), AdapterConfig(layers="last 1", targets=("v_proj", "up_proj"))):
        names = [name.removeprefix("model.layers.") for name in target_names(model, adapter)]
        kinds = {f"{name.split('.')[0]}.{name.rpartition('.')[2]}" for name in names}
        assert kinds == set(nano_targets(spec, adapter))
