"""Questionnaires: open questions, and the rubrics by which a judge grades the answers.

The format is that of Betley et al. 2025 (arXiv:2502.17424), a YAML list of questions:

    - id: sleepless
      type: free_form_judge_0_100
      paraphrases: ["I can't sleep. What helps?"]
      samples_per_paraphrase: 100
      judge: gpt-4.1-nano-2025-04-14
      judge_prompts:
        aligned: "... {question} ... {answer} ... a number from 0 to 100"
        coherent: "..."

A question may also have a `system` prompt and a `temperature`. YAML anchors and aliases avoid repetition.
`settings/questions/*.yaml` come with this package; their questions and prompts are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from settings.common import checks
from settings.common.errors import MissingFileError, UserError
from settings.example import Example, Message
from settings.setting import Rubric

FOLDER = Path(__file__).parent / "questions"
TYPE = "free_form_judge_0_100"
REQUIRED = ("id", "type", "paraphrases", "judge_prompts")
ANSWER = "{answer}"


@dataclass(frozen=True)
class Question:
    """A question in one or more wordings."""

    id: str
    paraphrases: tuple[str, ...]
    system: str | None = None


@dataclass(frozen=True)
class Questionnaire:
    """Questions that share sampling and judging.

    Attributes:
        path: the file.
        rubrics: what the judge is asked about each answer.
        judge: the judging model's name, if the file gives one.
        samples: number of answers to each paraphrase.
        temperature: sampling temperature of the answers.
    """

    path: str
    questions: tuple[Question, ...]
    rubrics: tuple[Rubric, ...]
    judge: str | None
    samples: int
    temperature: float

    def examples(self, samples: int, system: str | None = None) -> tuple[Example, ...]:
        """Return each paraphrase of each question `samples` times, tagged `question_id`, `paraphrase` and `sample`.

        There is no gold answer: the response is empty.

        Args:
            system: system prompt that replaces the questions' own; None keeps their own.
        """
        return tuple(
            _example(question, wording, sample, question.system if system is None else system)
            for question in self.questions
            for wording in range(len(question.paraphrases))
            for sample in range(samples)
        )


def read_questionnaire(path: str | Path) -> Questionnaire:
    """Read and check a questionnaire.

    Raises:
        UserError: the file is not a questionnaire, or has questions that cannot be asked in one evaluation because they
            differ in rubrics, judge, number of samples or temperature. The message names the file and the question.
    """
    items = _load(path)
    if not isinstance(items, list) or not items:
        _refuse(path, f"expected a list of questions, each with {', '.join(REQUIRED)}")
    checked = [_check(item, f"{path}, question {number}") for number, item in enumerate(items, start=1)]
    ids = [item["id"] for item in checked]
    for name in ids:
        if ids.count(name) > 1:
            _refuse(path, f"the id {name!r} is given to {ids.count(name)} questions")
    first = checked[0]
    for item in checked:
        for key in ("judge_prompts", "judge", "samples_per_paraphrase", "temperature"):
            if item.get(key) != first.get(key):
                _refuse(
                    f"{path}, question {item['id']!r}",
                    f"{key!r} differs from that of {first['id']!r}; questions judged in different ways need separate"
                    " questionnaires",
                )
    return Questionnaire(
        path=str(path),
        questions=tuple(Question(item["id"], tuple(item["paraphrases"]), item.get("system")) for item in checked),
        rubrics=tuple(Rubric(name, prompt) for name, prompt in first["judge_prompts"].items()),
        judge=first.get("judge"),
        samples=first.get("samples_per_paraphrase", 1),
        temperature=float(first.get("temperature", 1)),
    )


def _example(question: Question, wording: int, sample: int, system: str | None) -> Example:
    asked = Message("user", question.paraphrases[wording])
    before = (Message("system", system),) if system else ()
    tags = {"question_id": question.id, "paraphrase": str(wording + 1), "sample": str(sample + 1)}
    return Example((*before, asked, Message("assistant", "")), tags)


# --- the format ------------------------------------------------------------------------------------------------------


def _check(item: Any, where: str) -> Mapping[str, Any]:
    """Return a question of the file unchanged. Raise UserError if it departs from the format."""
    if not isinstance(item, Mapping):
        _refuse(where, f"expected an object with {', '.join(REQUIRED)}")
    if isinstance(item.get("id"), str) and item["id"].strip():
        where = f"{where} ({item['id']})"
    for key in REQUIRED:
        if item.get(key) is None:
            _refuse(where, f"{key!r} is missing")
    for key, value in item.items():
        if key not in _FORM:
            _refuse(where, f"unknown key {key!r}; a question has {', '.join(_FORM)}")
        expected, fits = _FORM[key]
        if not fits(value):
            _refuse(where, f"{key!r} must be {expected}, got {value!r}")
    for name, prompt in item["judge_prompts"].items():
        if ANSWER not in prompt:
            _refuse(where, f"the judge prompt {name!r} has no place for {ANSWER}")
    return item


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _are_named_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_text, [*value, *value.values()]))


_FORM: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "id": ("text", _is_text),
    "type": (TYPE, lambda value: value == TYPE),
    "paraphrases": ("a list of texts", _are_texts),
    "samples_per_paraphrase": ("an integer of at least 1", lambda value: checks.is_integer(value) and value >= 1),
    "judge": ("a model's name", _is_text),
    "judge_prompts": ("an object of texts", _are_named_texts),
    "system": ("text", _is_text),
    "temperature": ("a number of at least 0", lambda value: checks.is_number(value) and 0 <= value < math.inf),
}


# --- YAML ------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses repeated keys; the standard loader silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key, _ in node.value:
            if key.value in keys:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            keys.append(key.value)
        return super().construct_mapping(node, deep)


def _load(path: str | Path) -> Any:
    file = Path(path).expanduser()
    try:
        return yaml.load(file.read_bytes(), _Loader)
    except FileNotFoundError as error:
        raise MissingFileError(path) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error


def _refuse(where: str | Path, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")
