"""Have replies sampled by a server, and stored replies graded by a language model, while the next packs train.

Workers store what they observe, including replies unless a server samples them. The rest is done here, on the driver,
so that nothing else needs a key or a network. A trial's replies: `observations/<name>.json` in the sweep's folder.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from settings.common.files import write_json
from settings.judge import Judge, JudgeOptions, Request, Usage
from settings.setting import Evaluation, Judged, Measurement, Rubric, Setting, Verdict, observation_from_json
from trainables.folder import SweepFolder
from trainables.trial import TrialConfig, base_id

MAX_MISSING = 0.2  # a score is not trusted if more than this share of its replies has no usable verdict
LOW_SCALE, LOW_NUMBER = 10, 20  # at least 20 verdicts, none above 10, look like another scale
LOW = ", none of them above {:g}: if its grades are on another scale, `selgen judge calibrate` shows it"
TRIALS_AT_A_TIME = 4  # trials whose replies are in the judge's queue; the judge itself limits its requests


class Asker(Protocol):
    """The part of `settings.judge.Judge` that grading needs."""

    def ask(self, requests: Sequence[tuple[Rubric, str, str]]) -> list[Verdict]:
        """Return one verdict per (rubric, question, answer), in order. Raise UserError if it cannot go on."""
        ...


class Replier(Protocol):
    """The part of `sweeps.search.replying.ServedReplies` that grading needs."""

    def complete(self, setting: Setting, trial: TrialConfig | None) -> None:
        """Write the replies that the observations of a trial, or of the base model, lack. Raise UserError."""
        ...


@dataclass(frozen=True)
class Grades:
    """The scores that a model gets on the driver.

    Attributes:
        scores: scores of the judged evaluations, and of those to which a server replies.
        problem: why the scores cannot be trusted; None if they can.
    """

    scores: Mapping[str, Measurement]
    problem: str | None


class GradingQueue:
    """Samples and grades replies in the background. Close it at the end; the next start asks for the rest.

    Args:
        folder: the sweep's folder.
        judge: returns the judge of a model name.
        replies: source of the replies that workers do not sample; None if they sample all.
    """

    def __init__(self, folder: Path, judge: Callable[[str], Asker], replies: Replier | None = None) -> None:
        self._folder, self._judge, self._replies = SweepFolder(folder), judge, replies
        self._threads = ThreadPoolExecutor(TRIALS_AT_A_TIME, thread_name_prefix="judging")
        self._waiting: list[tuple[Any, Future[Grades]]] = []

    @property
    def pending(self) -> int:
        """The number of models whose replies are not graded or not collected yet."""
        return len(self._waiting)

    def submit(self, what: Any, setting: Setting, trial: TrialConfig | None) -> None:
        """Have a trial's or the base model's replies sampled and graded; `collect` returns `what` with the grades."""
        self._waiting.append((what, self._threads.submit(self._grade, setting, trial)))

    def collect(self) -> list[tuple[Any, Grades]]:
        """Return what is graded, each once, in the order of submission. Raise the endpoint's UserError."""
        done = [(what, future) for what, future in self._waiting if future.done()]
        self._waiting = [(what, future) for what, future in self._waiting if not future.done()]
        return [(what, future.result()) for what, future in done]

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _grade(self, setting: Setting, trial: TrialConfig | None) -> Grades:
        if self._replies:
            self._replies.complete(setting, trial)
        name = trial.trial_id if trial else base_id(setting)
        observations = json.loads(self._folder.observations(name).read_text(encoding="utf-8"))
        scores = _graded_here(setting, observations) if self._replies else {}
        if not setting.judged:
            return Grades(scores, None)
        graded, grades = grade_replies(setting, observations, self._judge)
        write_json(self._folder.grades(name), grades)
        return replace(graded, scores={**scores, **graded.scores})


def _graded_here(setting: Setting, observations: Mapping[str, Sequence[Any]]) -> dict[str, Measurement]:
    """Return the scores of replies that no judge grades."""
    scores: dict[str, Measurement] = {}
    for evaluation in setting.evaluations:
        if evaluation.generates and not evaluation.rubrics:
            scores |= evaluation.grade([observation_from_json(item) for item in observations[evaluation.name]])
    return scores


def grade_replies(
    setting: Setting, observations: Mapping[str, Sequence[str]], judge: Callable[[str], Asker]
) -> tuple[Grades, dict[str, list[float | None]]]:
    """Have one model's replies graded. Return its scores, and the grades of single questions by score.

    Args:
        observations: evaluation -> replies, in the order of its questions.
        judge: returns the judge of a model name.
    """
    scores: dict[str, Measurement] = {}
    grades: dict[str, list[float | None]] = {}
    problem = None
    for evaluation in setting.judged:
        assert evaluation.judge is not None
        replies = observations[evaluation.name]
        judged = with_verdicts(evaluation, replies, judge(evaluation.judge).ask(requests_of(evaluation, replies)))
        scores |= evaluation.grade(judged)
        grades |= evaluation.grades(judged)
        problem = problem or missing_problem(evaluation, judged)
    return Grades(scores, problem), grades


def requests_of(evaluation: Evaluation, replies: Sequence[str]) -> list[Request]:
    """Return what a judge is asked about replies: for each row, every rubric that applies to it, in order."""
    return [
        (rubric, row.prompt[-1].content, reply)
        for row, reply in zip(evaluation.examples, replies, strict=True)
        for rubric in evaluation.rubrics
        if rubric.applies(row)
    ]


def with_verdicts(evaluation: Evaluation, replies: Sequence[str], verdicts: Iterable[Verdict]) -> list[Judged]:
    """Return replies with their verdicts, which answer `requests_of`."""
    answers = iter(verdicts)
    return [
        Judged(reply, {rubric.name: next(answers) for rubric in evaluation.rubrics if rubric.applies(row)})
        for row, reply in zip(evaluation.examples, replies, strict=True)
    ]


class Judges:
    """The judges of several models, each opened when first needed, all closed together.

    Args:
        options: how to reach them; each model has the whole budget.
        cache: the file of cached verdicts.
    """

    def __init__(self, options: JudgeOptions, cache: Path) -> None:
        self._options, self._cache = options, cache
        self._judges: dict[str, Judge] = {}
        self._lock = threading.Lock()

    def __call__(self, model: str) -> Judge:
        """Return the judge of a model. Raise UserError if it cannot be asked."""
        with self._lock:
            if model not in self._judges:
                self._judges[model] = Judge(model, self._options, cache=self._cache)
            return self._judges[model]

    def close(self) -> None:
        """Close the judges that are open."""
        for judge in self._judges.values():
            judge.close()

    def check(self, rubrics: Mapping[str, Rubric]) -> list[str]:
        """Ask each judge for one grade before it judges any reply. Return a line for each on how its grades are read.

        Args:
            rubrics: model -> one of the rubrics that it will judge by.

        Raises:
            UserError: a judge cannot be reached, refuses, or gives unreadable grades.
        """
        return [self(model).check(rubric) for model, rubric in rubrics.items()]

    @property
    def calls(self) -> int:
        """The number of requests so far."""
        return sum(judge.usage.calls for judge in list(self._judges.values()))

    @property
    def dollars(self) -> float:
        """What has been charged so far."""
        return sum(judge.usage.dollars for judge in list(self._judges.values()))

    @property
    def usage(self) -> str:
        """What the judges did and cost, in one line; empty if none was asked."""
        lines = []
        for model, judge in self._judges.items():
            used, refused = judge.usage, judge.usage.kinds.get("refusal", 0)
            lines.append(
                f"judge {model}: {used.calls} calls, ${used.dollars:.2f}, {used.cached} cached verdicts,"
                f" {used.kinds.get('missing', 0)} missing, {refused} refusals"
                + (f", {used.from_text} read from text" if used.from_text else "")
                + (f", {used.failed} given up because the endpoint was broken" if used.failed else "")
                + (LOW.format(used.highest) if _is_low(used) else "")
            )
        return "; ".join(lines)


def _is_low(used: Usage) -> bool:
    """Return whether many verdicts, including those on a base model, are all so low that the scale must differ."""
    return used.highest is not None and used.highest <= LOW_SCALE and used.kinds.get("number", 0) >= LOW_NUMBER


def missing_problem(evaluation: Evaluation, judged: Sequence[Judged]) -> str | None:
    """Say which rubric has too few verdicts for its score to be trusted, or None.

    A refusal or a code counts as a verdict; an unusable answer does not.
    """
    for rubric in evaluation.rubrics:
        kinds = [reply.verdicts[rubric.name].kind for reply in judged if rubric.name in reply.verdicts]
        missing = kinds.count("missing")
        if missing > MAX_MISSING * len(kinds):
            replies = f"{missing} of {len(kinds)} {evaluation.name} replies"
            return f"the judge gave no usable {rubric.name!r} verdict on {replies}"
    return None
