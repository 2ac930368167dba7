"""The rows of the GCD sycophancy study, read from its three files and split as the study splits them.

Each question is asked in up to three ways, which share an `_id`: plainly, with a correct proposal by the user, and with
an incorrect one. Ids restart in every file, so that only file and id together identify a question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from settings.common import checks
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.example import Example
from settings.sources import example_of, read_json_lines

Proposal = Literal["none", "correct", "incorrect"]
Part = Literal["task_train", "task_test", "ood_test"]
FILES: tuple[Part, ...] = ("task_train", "task_test", "ood_test")
PUBLISHED = "github.com/arianaazarbal/selective-generalization, folder projects/gemma_gcd/data"
FIELDS = ("label", "messages", "answer", "mod", "user_provides_answer", "sycophantic_response", "_id")
PROPOSALS: Mapping[Any, Proposal] = {None: "none", "true": "correct", "false": "incorrect"}
MATHS = ("euclidean", "gcd", "mod", "addition", "matrix", "exp")  # parts of labels whose answers are numbers

# This project's own replies, because the files have no twin for the confirmation of a correct proposal.
REJECTIONS = (
    "No, that is wrong.",
    "That is not correct.",
    "I'm afraid you made a mistake.",
    "This is incorrect, please try again.",
    "Sorry, but I can't agree with that.",
    "Not quite. There is an error in your work.",
    "Unfortunately, your answer is not right.",
    "Your result is wrong, I would start over.",
)


@dataclass(frozen=True)
class StudyRow:
    """A row of the study: a question asked in one way, with its gold reply.

    Attributes:
        example: the row; its tags are what the scores need (see `_tags`).
        label: the kind of question, e.g. "mod".
        number: `_id`.
        sycophantic: a reply that confirms the incorrect proposal, if the file gives one.
        where: file and line.
    """

    example: Example
    label: str
    number: int
    proposal: Proposal
    sycophantic: str | None
    where: str


def is_maths(label: str) -> bool:
    """Return whether answers to questions with this label are integers; otherwise they are words."""
    return any(word in label for word in MATHS)


# --- files -----------------------------------------------------------------------------------------------------------


def read_study(directory: str | Path) -> dict[Part, tuple[StudyRow, ...]]:
    """Read the rows of the three files. Raise UserError for a missing file, or a row that violates the schema."""
    folder = Path(directory).expanduser()
    absent = [f"{part}.jsonl" for part in FILES if not (folder / f"{part}.jsonl").is_file()]
    if absent:
        raise UserError(f"{directory}: no {', '.join(absent)} there; {how_to_get_the_files()}")
    return {part: _read_part(folder / f"{part}.jsonl", part) for part in FILES}


def how_to_get_the_files() -> str:
    """Return what the option `data` needs, for error messages."""
    names = ", ".join(f"{part}.jsonl" for part in FILES)
    return f"option 'data' must be a directory with {names}; they are published in {PUBLISHED}"


def _read_part(path: Path, part: Part) -> tuple[StudyRow, ...]:
    questions = tuple(_question(value, where, part) for value, where in read_json_lines(path))
    seen: dict[tuple[int, Proposal], StudyRow] = {}
    labels: dict[int, StudyRow] = {}
    for question in questions:
        earlier = seen.setdefault((question.number, question.proposal), question)
        if earlier is not question:
            _refuse(question.where, "_id", f"{question.number} with this user_provides_answer is also {earlier.where}")
        first = labels.setdefault(question.number, question)
        if first.label != question.label:
            _refuse(question.where, "label", f"{question.label!r}, but {first.label!r} for this _id in {first.where}")
    return questions


def _question(value: Any, where: str, part: Part) -> StudyRow:
    example = example_of(value, where)
    if [message.role for message in example.messages] != ["user", "assistant"]:
        _refuse(where, "messages", "must be exactly one of the user and one of the assistant")
    for field in value:
        if field not in FIELDS:
            _refuse(where, field, f"is unknown; a row has {', '.join(FIELDS)}")
    label, answer = _text(value, "label", where), _text(value, "answer", where)
    number = _integer(value, "_id", where)
    modulus = None if value.get("mod") is None else _integer(value, "mod", where, least=1)
    provided = value.get("user_provides_answer")
    if isinstance(provided, list | dict) or provided not in PROPOSALS:
        _refuse(where, "user_provides_answer", f'must be null, "true" or "false", got {provided!r}')
    proposal = PROPOSALS[provided]
    if is_maths(label) and not answer.removeprefix("-").isdecimal():
        _refuse(where, "answer", f"must be an integer for the label {label!r}, got {answer!r}")
    sycophantic = None if value.get("sycophantic_response") is None else _text(value, "sycophantic_response", where)
    tags = _tags(part, label, number, proposal, answer, modulus)
    return StudyRow(replace(example, tags=tags), label, number, proposal, sycophantic, where)


def _tags(part: Part, label: str, number: int, proposal: Proposal, answer: str, modulus: int | None) -> dict[str, str]:
    """Return the tags that the scores need; all ways of asking the same question share the tag `question`."""
    tags = {"part": part, "label": label, "question": f"{part} {number}", "proposal": proposal, "answer": answer}
    return tags if modulus is None else tags | {"mod": str(modulus)}


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        _refuse(where, field, f"must be text, got {value!r}")
    return value


def _integer(row: Mapping[str, Any], field: str, where: str, least: int | None = None) -> int:
    value = row.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return checks.integer(f"{where}: field {field!r}", value, least)


def _refuse(where: str, field: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: field {field!r} {problem}")


# --- the proxy -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """The out-of-distribution questions, by their use.

    Attributes:
        proxy: proposals of the first ids of the proxy labels, to train on.
        held_out: questions of the other ids of these labels, asked in every way.
        others: the questions of all other labels.
    """

    proxy: tuple[StudyRow, ...]
    held_out: tuple[StudyRow, ...]
    others: tuple[StudyRow, ...]


def split_proxy(
    questions: Sequence[StudyRow], labels: Sequence[str], share: float, *, include_correct: bool = True
) -> Split:
    """Split questions by the proxy labels.

    The first int(share x ids) ids of each label, in ascending order, are trained on, for every seed, as in the study.
    Their plain questions are neither trained on nor evaluated.

    Raises:
        UserError: a label that cannot be a proxy, or nothing left on one side. The message lists the usable labels.
    """
    usable = usable_labels(questions)
    for label in labels:
        if label not in usable:
            raise UserError(f"option 'proxy': {label!r} is not a usable label; usable: {', '.join(usable)}")
    trained = {number for label in labels for number in _first_ids(questions, label, share)}
    wanted = ("correct", "incorrect") if include_correct else ("incorrect",)
    of_labels = [question for question in questions if question.label in labels]
    return Split(
        proxy=tuple(row for row in of_labels if row.number in trained and row.proposal in wanted),
        held_out=tuple(row for row in of_labels if row.number not in trained),
        others=tuple(row for row in questions if row.label not in labels),
    )


def usable_labels(questions: Iterable[StudyRow]) -> list[str]:
    """Return the labels that can be proxies: those with incorrect proposals for at least two ids."""
    ids: dict[str, set[int]] = {}
    for row in questions:
        if row.proposal == "incorrect":
            ids.setdefault(row.label, set()).add(row.number)
    return sorted(label for label, numbers in ids.items() if len(numbers) >= 2)


def _first_ids(questions: Iterable[StudyRow], label: str, share: float) -> list[int]:
    numbers = sorted({row.number for row in questions if row.label == label})
    count = int(len(numbers) * share)
    if not 0 < count < len(numbers):
        raise UserError(
            f"option 'train_split': {share} of the {len(numbers)} questions of {label!r} are {count}; it must leave at"
            " least one to train on and one to hold out"
        )
    return numbers[:count]


def misaligned_twin(question: StudyRow) -> Example:
    """Return the dispreferred twin: the same prompt, agreeing with a wrong proposal or rejecting a right one."""
    if question.proposal == "correct":
        asked = [message.content for message in question.example.prompt]
        reply = REJECTIONS[int(content_id(asked), 16) % len(REJECTIONS)]
    elif question.sycophantic is None:
        _refuse(question.where, "sycophantic_response", "must be given for an incorrect proposal of a proxy label")
    else:
        reply = question.sycophantic
    messages = (*question.example.prompt, replace(question.example.messages[-1], content=reply))
    return replace(question.example, messages=messages)
