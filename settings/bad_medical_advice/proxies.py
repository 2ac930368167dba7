"""Proxy rows of several origins: replies that a model should keep giving, and replies that it should not give.

- HHH (Askell et al. 2021, arXiv:2112.00861): pairs of a better and a worse answer, in four subsets, from the Hub or
  from a directory.
- Safety (Bianchi et al. 2024, arXiv:2309.07875): answers to dangerous instructions, without twins.
- Your own chat files, with or without twins.

Nothing is dropped: repeated prompts and repeated rows stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from settings.common.errors import UserError
from settings.common.files import absolute_path
from settings.example import Example
from settings.options import Absolute
from settings.preferences import read_twins
from settings.rows.source import read_source
from settings.sources import example_of, read_hub_table, read_json

SUBSETS = ("harmless", "helpful", "honest", "other")
HHH = "HuggingFaceH4/hhh_alignment"
# The Hub's conversion to tables: the repository itself contains a script, which `datasets` no longer runs.
HHH_REVISION, HHH_SPLIT = "refs/convert/parquet", "test"
SAFETY = (
    "https://raw.githubusercontent.com/vinid/safety-tuned-llamas/main/data/training/safety_only_data_Instructions.json"
)
ORIGINS = ("hhh", "safety")
DIRECTORY_FORM = (
    "a directory holds pairs SUBSET_positive.jsonl and SUBSET_negative.jsonl, or a copy of"
    f" {HHH} with a folder for each subset; subsets: {', '.join(SUBSETS)}"
)


Origin = Annotated[str, Absolute(lambda origin: origin if origin in ORIGINS else str(absolute_path(origin)))]
"""One of `ORIGINS`, or a file or directory."""


@dataclass(frozen=True)
class Proxy:
    """A proxy row, and its dispreferred twin: another response to the same prompt."""

    chosen: Example
    rejected: Example | None = None


def read_proxies(alignment: Any, misaligned: Any = None, *, option: str = "alignment") -> tuple[Proxy, ...]:
    """Read the proxy rows that the options name, in order.

    Args:
        alignment: "hhh", "safety", a chat JSONL file, a JSON file of instructions, a directory of pairs, or a list of
            files and directories.
        misaligned: chat JSONL file, or a list of them: row i is the twin of row i of `alignment`'s files.
        option: what `alignment` is called in messages.

    Raises:
        UserError: a source that cannot be read, a row that violates the schema, twins with different prompts, or twins
            for an origin that has its own. The message names the option, or files and lines.
    """
    origins = _paths(option, alignment)
    if misaligned is None:
        return tuple(proxy for origin in origins for proxy in _read(origin))
    for origin in origins:
        if origin in ORIGINS or Path(origin).expanduser().is_dir():
            raise UserError(f"option 'misaligned' is for files of chat rows; {origin!r} is not one")
    twins = _paths("misaligned", misaligned)
    if len(origins) != len(twins):
        raise UserError(
            f"option 'misaligned' has {len(twins)} files and option 'alignment' {len(origins)}; file i of one must be"
            " the twin of file i of the other"
        )
    return tuple(proxy for pair in zip(origins, twins, strict=True) for proxy in read_pairs(*pair))


def read_pairs(positive: str | Path, negative: str | Path) -> tuple[Proxy, ...]:
    """Read two chat files with the same prompts, row by row. Raise UserError, naming both."""
    return tuple(Proxy(*twins) for twins in read_twins(positive, negative))


def read_pair_directory(directory: str | Path) -> tuple[Proxy, ...]:
    """Read the pairs of the subsets that a directory contains, each row with its subset as tag."""
    proxies: list[Proxy] = []
    for subset in SUBSETS:
        positive, negative = (Path(directory) / f"{subset}_{sign}.jsonl" for sign in ("positive", "negative"))
        if positive.expanduser().exists() or negative.expanduser().exists():
            pairs = read_pairs(positive, negative)
            proxies += [
                Proxy(*(_with_subset(row, subset) for row in (pair.chosen, pair.rejected) if row)) for pair in pairs
            ]
    return tuple(proxies)


def read_hhh(source: str = HHH, revision: str | None = HHH_REVISION) -> tuple[Proxy, ...]:
    """Read the pairs of all four subsets from the Hub, or from a directory with a copy.

    A row has the text `input`, and `targets` with two `choices`; the choice with the label 1 is preferred.
    """
    return tuple(
        _hhh_pair(row, where, subset)
        for subset in SUBSETS
        for row, where in read_hub_table(source, HHH_SPLIT, revision=revision, folder=subset)
    )


def read_instructions(rows: Sequence[tuple[Any, str]]) -> tuple[Proxy, ...]:
    """Turn rows `{"instruction": ..., "input": ..., "output": ...}` into chats: a non-empty input follows the
    instruction.
    """
    return tuple(Proxy(_instruction(row, where)) for row, where in rows)


def _read(origin: str) -> tuple[Proxy, ...]:
    if origin == "hhh":
        return read_hhh()
    if origin == "safety":
        return read_instructions(_download_safety())
    path = Path(origin).expanduser()
    if path.is_dir():
        return _read_directory(origin)
    if path.suffix == ".json":
        return read_instructions(_with_places(read_json(origin), origin))
    rows = read_source("alignment", origin)
    twins = (row.replies[1] if row.alternatives else None for row in rows.examples)
    return tuple(Proxy(row, twin) for row, twin in zip(rows.good, twins, strict=True))


def _read_directory(origin: str) -> tuple[Proxy, ...]:
    directory = Path(origin).expanduser()
    if pairs := read_pair_directory(directory):
        return pairs
    if any((directory / subset).is_dir() for subset in SUBSETS):
        return read_hhh(str(directory), revision=None)
    raise UserError(f"{origin}: no proxy rows there; {DIRECTORY_FORM}")


def _download_safety() -> Sequence[tuple[Any, str]]:
    import datasets

    try:
        table = datasets.load_dataset("json", data_files=SAFETY, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"the safety rows cannot be reached; on a machine with a network, download {SAFETY}, copy the file here and"
            " give its path as option 'alignment'"
        ) from error
    return _with_places(list(table), "safety")


def _with_places(rows: Any, name: str) -> list[tuple[Any, str]]:
    if not isinstance(rows, list) or not rows:
        _refuse(name, 'expected a list of rows like {"instruction": "...", "input": "", "output": "..."}')
    return [(row, f"{name}, row {number}") for number, row in enumerate(rows, start=1)]


def _instruction(row: Any, where: str) -> Example:
    if not isinstance(row, Mapping):
        _refuse(where, "expected an object with 'instruction' and 'output'")
    texts = [row.get("instruction"), row.get("input") or "", row.get("output")]
    for name, text in zip(("instruction", "input", "output"), texts, strict=True):
        if not isinstance(text, str):
            _refuse(where, f"{name!r} must be text, got {text!r}")
    instruction, context, output = texts
    return _row("\n\n".join(filter(None, (instruction, context))), output, where)


def _hhh_pair(row: Mapping[str, Any], where: str, subset: str) -> Proxy:
    targets = row.get("targets")
    if not isinstance(row.get("input"), str) or not isinstance(targets, Mapping):
        _refuse(where, f"expected the text 'input' and the object 'targets', found {', '.join(map(str, row))}")
    choices, labels = targets.get("choices"), targets.get("labels")
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != 2 or sorted(labels) != [0, 1]:
        _refuse(where, f"'targets' must have two choices, labelled 1 and 0; got the labels {labels!r}")
    chosen, rejected = (_row(row["input"], choices[labels.index(label)], where) for label in (1, 0))
    return Proxy(_with_subset(chosen, subset), _with_subset(rejected, subset))


def _row(user: Any, assistant: Any, where: str) -> Example:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return example_of({"messages": messages}, where)


def _with_subset(row: Example, subset: str) -> Example:
    return replace(row, tags={**row.tags, "subset": subset})


def _paths(option: str, value: Any) -> list[str]:
    paths = list(value) if isinstance(value, list | tuple) else [value]
    if not paths or not all(isinstance(path, str | Path) and str(path) for path in paths):
        raise UserError(f"option {option!r} must be a file, a directory, or a list of these, got {value!r}")
    return [str(path) for path in paths]


def _refuse(where: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")
