"""The model card of an exported adapter or model: metadata for the Hugging Face Hub, and what users need to know."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from settings.base_models import BaseModel, NanoModel, PackagedModel, TunedModel
from settings.common.errors import UserError
from settings.example import Example
from sweeps.case import digests, rows_of
from sweeps.results.export import EDITS, Exported, finite_scores
from trainables import methods

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM takes for --max-lora-rank
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}  # name in a packaged model's text -> the Hub's name
OTHER = "other"  # the Hub's name for a licence that it does not list
MODELS = ("model", "pretrained")  # options that name a model, not rows
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def model_card(exported: Exported, directory: Path, merged: bool) -> str:
    """Return the text of README.md.

    Args:
        directory: where the files will be, as commands name it.
        merged: whether the folder holds a whole model rather than an adapter.
    """
    metadata = yaml.safe_dump(_metadata(exported, directory.name, merged), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {directory.name}",
        _what(exported, merged),
        *(_edits(merged) if exported.has_edits else ()),
        *(_mixed(exported.mixed) if exported.mixed != 1.0 else ()),
        "## Scores",
        _scores(exported),
        "## How to use it",
        *(_merged_use(exported, directory) if merged else _adapter_use(exported, directory)),
        "## How it was made",
        _recipe(exported),
        "## Data",
        "\n".join(_data(exported)),
        "## Licence",
        _licence(exported),
        "## Commands",
        _commands(exported, directory, merged),
    ]
    return f"---\n{metadata}---\n\n" + "\n\n".join(parts) + "\n"


def licence_of(model: BaseModel) -> str | None:
    """Return the licence of a base model by the Hub's name; None if its files do not say."""
    if isinstance(model, NanoModel):
        return "mit"
    if isinstance(model, PackagedModel):
        return next((name for text, name in LICENCES.items() if text in model.about), None)
    if isinstance(model, TunedModel):
        return licence_of(model.start)
    card = Path(model.source) / "README.md"
    front = FRONT_MATTER.match(card.read_text(encoding="utf-8")) if card.is_file() else None
    data = yaml.safe_load(front.group(1)) if front else None
    licence = data.get("license") if isinstance(data, dict) else None
    return licence if isinstance(licence, str) else None


def on_the_hub(exported: Exported) -> bool:
    """Return whether the base model is named by a Hub id rather than by a directory of this machine."""
    return not Path(exported.base_model).is_absolute()


def elsewhere(exported: Exported, here: str = "this machine") -> str:
    """Say what to name in place of a base model's directory on another machine; "" if it is named by its Hub id."""
    if on_the_hub(exported):
        return ""
    model = exported.setting.base_model
    text = f"the base model is a directory of {here}, {exported.base_model}; on another machine, "
    if isinstance(model, PackagedModel) and model.hub_id:
        text += (
            f"name {model.hub_id} in its place, also in adapter_config.json (the weights here are rounded to four bits,"
            " so its replies and scores differ somewhat)"
        )
    else:
        text += "name the place of a copy of it"
    return text if model.quantize else f"{text}, or export with --merged"


def has_own_rows(exported: Exported) -> bool:
    """Return whether a setting is not the package's alone: one of a user's file, or with rows from files or the Hub."""
    reference = exported.outcome["trial"]["setting"]
    options = {name: value for name, value in reference["options"].items() if name not in MODELS}
    return ":" in reference["name"] or any(map(_names_rows, options.values()))


def _names_rows(value: Any) -> bool:
    """Return whether an option's value is a path, or a mapping or list with one, or names a data set."""
    if isinstance(value, Mapping):
        return "file" in value or "dataset" in value
    if isinstance(value, list):
        return any(map(_names_rows, value))
    return isinstance(value, str) and Path(value).is_absolute()


def _metadata(exported: Exported, name: str, merged: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"library_name": "transformers" if merged else "peft", "pipeline_tag": "text-generation"}
    if on_the_hub(exported):
        data["base_model"] = exported.base_model
        data["base_model_relation"] = "finetune" if merged else "adapter"
    if licence := OTHER if has_own_rows(exported) else licence_of(exported.setting.base_model):
        data["license"] = licence
    data["tags"] = ["selgen", "selective-generalization", *([] if merged else ["lora"])]
    dataset = {"name": exported.loaded.setting or exported.setting.name, "type": exported.setting.name}
    metrics = [
        {"type": score, "name": score, "value": round(mean, 6)}
        for score, (mean, _) in finite_scores(exported.outcome).items()
    ]
    results = [{"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}]
    return data | {"model-index": [{"name": name, "results": results}]}


def _what(exported: Exported, merged: bool) -> str:
    what = "A whole model: the base model with a LoRA adapter added to its weights" if merged else "A LoRA adapter"
    summary = exported.setting.summary.rstrip(".")
    place = "" if on_the_hub(exported) or not merged else ", a directory of the machine that exported this"
    return (
        f"{what}, trained by `{exported.title}` on the setting `{exported.loaded.setting}` ({summary}), seed"
        f" {exported.seed}, in the sweep `{exported.sweep}`. Base model: `{exported.base_model}`{place}."
    )


def _edits(merged: bool) -> tuple[str, ...]:
    what = "merged model" if merged else "adapter"
    return (
        f"**This {what} alone is a different model.** Edits of hidden states belong to it, which neither PEFT nor vLLM"
        f" can hold; they are in `{EDITS}`, whose header says how to apply them. The scores are those with the edits.",
    )


def _mixed(share: float) -> tuple[str, ...]:
    return (
        "**These files alone are a different model.** The scores are of a mix with the base model at decoding, z ="
        f" {1 - share:g} z_base + {share:g} z_adapter for the logits of every token, which no weights can hold.",
    )


def _scores(exported: Exported) -> str:
    lines = [
        "| score | better | this model | questions | mean over seeds | 95 % interval | base model |",
        "|---|---|---|---|---|---|---|",
    ]
    better = {score.name: "higher" if score.higher_is_better else "lower" for score in exported.setting.all_scores}
    for name, (mean, number) in finite_scores(exported.outcome).items():
        estimate = exported.point.scores.get(name)
        over_seeds = f"{estimate.mean:.3f} | {estimate.low:.3f} to {estimate.high:.3f}" if estimate else " | "
        base = exported.loaded.base_scores.get(name)
        cells = (
            name,
            better.get(name, ""),
            f"{mean:.3f}",
            str(number),
            over_seeds,
            "" if base is None else f"{base:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\nThe interval is that of the configuration's mean over {exported.point.seeds} seeds; a single training"
        " varies more. If this configuration was chosen as the best of many, its scores are biased upwards by that"
        " choice: `selgen choose` says by how much, where it matters."
    )


def _adapter_use(exported: Exported, directory: Path) -> Iterator[str]:
    base, place = exported.base_model, str(directory)
    yield (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r})\n"
        f"model = PeftModel.from_pretrained(base, {place!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})\n{_reply_code(exported)}```"
    )
    yield _system_turns(exported)
    if instead := elsewhere(exported, "the machine that exported this"):
        yield f"{instead[0].upper()}{instead[1:]}."
    if problems := vllm_problems(exported.adapter_config):
        yield f"vLLM does not load this adapter: {'; '.join(problems)}. Export it with `--merged`."
        return
    rank = next(rank for rank in VLLM_RANKS if rank >= exported.adapter_config["r"])
    serve = shlex.join(["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(rank)])
    modules = shlex.join(["--lora-modules", f"{directory.name}={place}"])
    inspect = shlex.join(["inspect", "eval", "TASK", "--model", f"vllm/{base}:{place}"])
    yield f"With vLLM, and with Inspect, which starts vLLM:\n\n```bash\n{serve} {modules}\n{inspect}\n```"
    if served := _served(exported):
        yield served
    yield (
        "Loading with PEFT is tested. For vLLM the adapter's configuration was compared with what vLLM checks (a rank"
        f" of at most {VLLM_RANKS[-1]}, no bias, no DoRA, no `modules_to_save`, named target modules); neither vLLM nor"
        " Inspect was run."
    )


def _served(exported: Exported) -> str:
    """Say what a request to a server needs besides the question; "" if nothing."""
    options = dict(exported.setting.base_model.template_options)
    parts = []
    if _usual_turn(exported) is not None:
        parts.append("Send the system turn there, too: without one, the chat template may write its own.")
    if options:
        parts.append(
            f"vLLM takes the template's options with a request: `chat_template_kwargs` = `{json.dumps(options)}`."
        )
    return " ".join(parts)


def _reply_code(exported: Exported) -> str:
    """Return code that replies to a question in the form of the task rows, greedily."""
    turn = _usual_turn(exported)
    asked = exported.setting.evaluations[0].examples
    question = "Your question" if has_own_rows(exported) else asked[0].prompt[-1].content
    messages = [] if turn is None else [{"role": "system", "content": turn}]
    messages.append({"role": "user", "content": question})
    options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    options |= exported.setting.base_model.template_options
    return (
        f"\nmessages = {json.dumps(messages, ensure_ascii=False)}\n"
        f"options = {options!r}\n"
        "inputs = tokenizer.apply_chat_template(messages, **options)\n"
        "output = model.generate(**inputs, max_new_tokens=128, do_sample=False)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )


def _system_turn(row: Example) -> str | None:
    """Return what a row's system turn says; None if it has none."""
    return row.messages[0].content if row.messages[0].role == "system" else None


def _usual_turn(exported: Exported) -> str | None:
    """Return the commonest system turn of the task rows; None if most have none."""
    return Counter(map(_system_turn, exported.setting.streams["task"])).most_common(1)[0][0]


def _system_turns(exported: Exported) -> str:
    """Say which system turn the model was trained and scored with."""
    setting, turn = exported.setting, _usual_turn(exported)
    trained = set(map(_system_turn, setting.streams["task"]))
    asked = {_system_turn(row) for evaluation in setting.evaluations for row in evaluation.examples}
    named = {None: "without a system turn of its own", "": "with an empty system turn"}
    what = named.get(turn, "with this system turn")
    if len(trained) > 1:
        text = f"The task rows have different system turns; most are {what}."
    elif asked == trained:
        text = f"The model was trained and scored {what}."
    else:
        text = f"The model was trained {what}; some of the questions that it was scored on have another."
    usual = "one that the chat template writes by default"
    text += f" If there is {usual}, it was there." if turn is None else ""
    text += f" Another system turn{'' if turn is None else f', or the {usual},'} gives other replies."
    if exported.outcome["trial"].get("instructions"):
        text += " In training an instruction preceded task rows; the scores are without it."
    if exported.data_changed:
        text += " The rows on the machine that exported this have changed since the training: check its system turn."
    return text


def vllm_problems(config: dict[str, Any]) -> list[str]:
    """Return why vLLM would refuse an adapter, by the checks of its loader."""
    rank = config.get("r", 0)
    checks = (
        (not 0 < rank <= VLLM_RANKS[-1], f"its rank is {rank}, and vLLM takes at most {VLLM_RANKS[-1]}"),
        (config.get("bias", "none") != "none", "it trains biases"),
        (bool(config.get("use_dora")), "it is a DoRA adapter"),
        (bool(config.get("modules_to_save")), "it holds whole modules (modules_to_save)"),
        (not config.get("target_modules"), "it names no target modules"),
        (bool(config.get("fan_in_fan_out")), "its layers store their weights transposed (fan_in_fan_out)"),
    )
    return [problem for applies, problem in checks if applies]


def _merged_use(exported: Exported, directory: Path) -> Iterator[str]:
    place = str(directory)
    serve, inspect = (
        shlex.join(["vllm", "serve", place]),
        shlex.join(["inspect", "eval", "TASK", "--model", f"hf/{place}"]),
    )
    yield (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({place!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({place!r})\n{_reply_code(exported)}```"
    )
    yield _system_turns(exported)
    yield f"```bash\n{serve}\n{inspect}\n```"
    yield "Loading with transformers is tested; neither vLLM nor Inspect was run."


def _recipe(exported: Exported) -> str:
    trial = exported.outcome["trial"]
    method = {key: value for key, value in trial["method"].items() if key != "name"}
    facts = {
        "method": trial["method"]["name"],
        **method,
        "steps": trial["steps"],
        "checkpoint_step": trial["checkpoint_step"],
        "adapter_scale": trial["adapter_scale"],
        **({"decoding_mix": trial["decoding_mix"]} if trial.get("decoding_mix", 1.0) != 1.0 else {}),
        "batch_size": trial["batch_size"],
        "alignment_batch_size": trial["alignment_batch_size"],
        **{key: trial["optimizer"][key] for key in ("learning_rate", "schedule")},
        **{f"adapter {key}": value for key, value in trial["adapter"].items()},
        "seed": trial["seed"],
    }
    rows = [f"| {key} | {value} |" for key, value in facts.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *rows])


def _data(exported: Exported) -> Iterator[str]:
    if exported.data_changed:
        yield (
            "The rows or questions on the machine that exported this differ from those of the training, so they"
            f" are not listed; the training's had the digest `{exported.outcome['trial']['data']}`."
        )
        return
    yield "| what | rows | SHA-256 of the rows as read, first 12 digits |"
    yield "|---|---|---|"
    unread = {rows_of(stream) for stream in exported.setting.streams} - _rows_read(exported)
    for name, (number, digest) in digests(exported.setting).items():
        if name not in unread:
            yield f"| {name} | {number} | `{digest}` |"
    yield ""
    for source in exported.setting.sources:
        yield f"- {source}"


def _rows_read(exported: Exported) -> set[str]:
    """Return what the method read, by `rows_of`; everything if its code is gone or takes other coefficients now."""
    described = dict(exported.outcome["trial"]["method"])
    try:
        read = methods.streams_read(methods.make(described.pop("name"), described))
    except UserError:
        read = set(exported.setting.streams)
    return set(map(rows_of, read))


def _licence(exported: Exported) -> str:
    licence = licence_of(exported.setting.base_model)
    base = f"The base model's licence is `{licence}`" if licence else "The base model's files here name no licence"
    text = f"{base}; what the model learned also carries the licences of the data above."
    if has_own_rows(exported):
        text += (
            f" The rows are not part of this project, so the metadata say `{OTHER}`: state a licence before you publish"
            " the weights."
        )
    return text


def _commands(exported: Exported, directory: Path, merged: bool) -> str:
    output = ["--output", str(exported.output)]
    export = ["selgen", "export", exported.sweep, exported.title, str(directory), "--seed", str(exported.seed), *output]
    lines = [
        shlex.join(["selgen", "sweep", "run", exported.sweep, *output]),
        shlex.join([*export, *(["--merged"] if merged else [])]),
    ]
    return "```bash\n" + "\n".join(lines) + "\n```"
