"""A setting from a user's own rows, at any scale: rows are read and split, and evaluations built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from settings.base_models import PackagedModel, PretrainedModel, Recipe
from settings.chat_files.rows import (
    Parts,
    check_apart,
    check_twins,
    read_compared,
    read_shares,
    sorted_out,
    split,
    without_long_prompts,
)
from settings.chat_files.scores import (
    evaluations_of,
    length_remarks,
    preferences_of,
    read_instructions,
    read_matches,
    triggered_twins,
)
from settings.common import checks
from settings.example import Example, Message
from settings.options import FilePath
from settings.rows.source import RowSource, read_source
from settings.setting import Setting
from settings.small_models import sources_of
from settings.triggered import worst_score


def setting_from_rows(
    scale: str,
    base_model: PackagedModel | PretrainedModel,
    recipe: Callable[[int], Recipe],
    system: tuple[Message, ...] = (),
    *,
    task: RowSource,
    alignment: RowSource | None,
    misaligned: RowSource | None,
    task_eval: RowSource | None,
    alignment_eval: RowSource | None,
    preferences: RowSource | Sequence[FilePath] | None,
    eval_share: float | Mapping[str, float],
    match: str | Mapping[str, str] | None,
    max_new_tokens: int,
    max_length: int,
    drop_long_prompts: bool = False,
    instructions: Mapping[str, str] | None,
    trigger: str | None,
    seed: int,
) -> Setting:
    """Build the setting; see `full` for its options. Raise UserError.

    Args:
        scale: scale of the setting.
        base_model: the model to fine-tune.
        recipe: number of task rows -> recipe.
        system: system turn for rows without one.
    """
    shares = read_shares(eval_share)
    for option, number, least in (
        ("seed", seed, 0),
        ("max_new_tokens", max_new_tokens, 1),
        ("max_length", max_length, 1),
    ):
        checks.integer(f"option {option!r}", number, least)
    checks.flag("option 'drop_long_prompts'", drop_long_prompts)
    optional = {"alignment": alignment, "misaligned": misaligned}
    optional |= {"task_eval": task_eval, "alignment_eval": alignment_eval}
    given = {"task": task, **{option: source for option, source in optional.items() if source is not None}}
    files, remarks, sources = _read(given, preferences)
    texts = {} if instructions is None else read_instructions(instructions)
    if drop_long_prompts and isinstance(base_model, PretrainedModel):
        files, dropped = without_long_prompts(files, base_model, max_length, tuple(texts.values()))
        remarks += dropped
    parts = split(files, shares, seed).opened_by(system)
    asked = evaluations_of(parts.held_out, read_matches(match, parts.held_out), max_new_tokens)
    evaluations = [*asked, *preferences_of(parts.questions)]
    twins = triggered_twins(evaluations, trigger, texts.get("strong"))
    compares = not ("alignment" in parts.held_out or preferences is None)
    return Setting(
        name="chat_files",
        scale=scale,
        summary=_summary(base_model, parts),
        base_model=base_model,
        streams=parts.streams,
        evaluations=(*evaluations, *(each for _, each in twins)),
        recipe=recipe(len(parts.streams["task"])),
        objectives=("task", "preferred") if compares else tuple(parts.held_out),
        sources=(*sources, *sources_of(base_model)),
        remarks=(*remarks, *length_remarks(parts.questions)),
        instructions=texts,
        worst=tuple(worst_score(untriggered, each.scores) for untriggered, each in twins),
    )


def _read(
    given: Mapping[str, RowSource], preferences: RowSource | Sequence[FilePath] | None
) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...], tuple[str, ...]]:
    """Return the rows of all options, remarks on how they were read, and the names of their sources."""
    read = {option: read_source(option, source) for option, source in given.items()}
    check_apart(read)
    files, remarks = sorted_out(read)
    check_twins(files)
    names: tuple[str, ...] = ()
    if preferences is not None:
        files["preferences"], names = read_compared(preferences)
        remarks = (*remarks, _asked(files["preferences"], names))
    return files, remarks, (*(rows.name for rows in read.values()), *names)


def _asked(questions: Sequence[Example], names: Sequence[str]) -> str:
    """Say how many questions were read, and how many replies each compares."""
    replies = sorted({1 + len(question.alternatives) for question in questions})
    number = f"{replies[0]}" if len(replies) == 1 else f"{replies[0]} to {replies[-1]}"
    files = " and ".join(Path(name).name for name in names)
    return f"{files}: {len(questions)} question{'s' * (len(questions) != 1)} with {number} replies each"


def _summary(model: PackagedModel | PretrainedModel, parts: Parts) -> str:
    name = model.title if isinstance(model, PackagedModel) else Path(model.source).name
    rows = ", ".join(f"{len(rows)} {stream}" for stream, rows in parts.streams.items())
    held = ", ".join(f"{len(rows)} {side}" for side, rows in parts.held_out.items())
    return f"{name} on the user's own rows: {rows}; held out: {held}."
