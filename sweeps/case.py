"""What a sweep runs on one setting: the setting itself, its objectives, and one arm per method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from settings.base_models import NanoModel, TunedModel
from settings.catalog import options_for_score
from settings.common.content import content_id
from settings.common.errors import UserError, did_you_mean
from settings.common.text import listed
from settings.reference import SettingRef
from settings.replies import Endpoint
from settings.replies.left_here import without_reply
from settings.setting import Evaluation, Score, Setting
from sweeps.space import MethodSpace
from trainables import methods
from trainables.method import Method
from trainables.trial import TrialConfig


@dataclass(frozen=True)
class Arm:
    """One method on one setting: the unit that a search explores.

    Attributes:
        setting: what is learned.
        space: the configurations of the method.
        budget: how many of them to try.
        key: unique in the sweep and stable; names the arm in the ledger and the study.
        control: whether the sweep adds it itself, for methods to beat.
    """

    setting: SettingRef
    space: MethodSpace
    budget: int
    key: str
    control: bool = False

    @property
    def title(self) -> str:
        """The method and other knobs its configurations differ in; a control has a star: "plain (adapter_scale)*"."""
        return f"{self.space.title}{'*' if self.control else ''}"


@dataclass(frozen=True)
class Case:
    """One setting of a sweep, resolved once.

    Attributes:
        ref: the identity of the setting.
        setting: what `ref` builds.
        label: the setting as short text; unique in the sweep, names it in the ledger and in tables.
        template: a trial with what all trials on the setting share: data, adapter, optimizer, sizes.
        objectives: the scores that the sweep trades off, task first.
        arms: the methods of the sweep, then the controls.
    """

    ref: SettingRef
    setting: Setting
    label: str
    template: TrialConfig
    objectives: tuple[Score, ...]
    arms: tuple[Arm, ...]

    @property
    def replies_elsewhere(self) -> bool:
        """Whether a server samples the replies of the base model and of all trials."""
        return self.template.replies == "endpoint"

    @property
    def observed_here(self) -> tuple[Evaluation, ...]:
        """What workers observe: the evaluations, without the replies if a server samples them."""
        evaluations = self.setting.evaluations
        left = [without_reply(each) for each in evaluations] if self.replies_elsewhere else evaluations
        return tuple(each for each in left if each is not None)

    @property
    def graded_later(self) -> tuple[Evaluation, ...]:
        """The evaluations graded on the driver: those that a judge grades or a server replies to."""
        return tuple(
            each for each in self.setting.evaluations if each.rubrics or (each.generates and self.replies_elsewhere)
        )

    @property
    def objectives_later(self) -> list[Score]:
        """The objectives that are known only after the driver has graded."""
        later = {score.name for evaluation in self.graded_later for score in evaluation.scores}
        return [score for score in self.objectives if later.intersection({score.name, *score.worst_of})]

    @property
    def objective_names(self) -> list[str]:
        """The names of the objectives, in order."""
        return [score.name for score in self.objectives]

    @property
    def counts(self) -> str:
        """What is read and asked, e.g. "reads 16 task rows and 1 alignment row; asks 4 (task_loss)"."""
        examples = [arm.space.to_method(values) for arm in self.arms for values in arm.space.every_option()]
        read = {stream for method in examples for stream in methods.streams_read(method)}
        counts = {
            stream: f"{len(rows)} {stream} row{'s' * (len(rows) != 1)}" for stream, rows in self.setting.streams.items()
        }
        asked = ", ".join(f"{len(each.examples)} ({each.name})" for each in self.setting.evaluations)
        text = f"reads {listed([counts[stream] for stream in counts if stream in read])}; asks {asked}"
        unread = [f"the {counts[stream]}" for stream in counts if stream not in read]
        return f"{text}; none of its methods reads {listed(unread)}" if unread else text


def arm_key(label: str, space: MethodSpace) -> str:
    """Return a readable key of an arm, unique by the content of its space, so that a method may be searched twice."""
    return f"{label}/{space.method}-{content_id(space.to_json(), 6)}"


def scores_named(setting: Setting, names: Sequence[str]) -> tuple[Score, ...]:
    """Return the scores of a setting by name. Raise UserError for a name that it does not have."""
    scores = {score.name: score for score in setting.all_scores}
    for name in names:
        if name not in scores:
            options = " or ".join(map(repr, options_for_score(setting.name, name)))
            remedy = f"; for {name!r} give option {options}" if options else ""
            hint = "" if remedy else did_you_mean(name, scores)
            raise UserError(f"setting {setting.name!r} has no score {name!r}{hint}; it has {', '.join(scores)}{remedy}")
    return tuple(scores[name] for name in names)


def check_known_early(sweep: str, case: Case) -> None:
    """Refuse early stopping by objectives that workers cannot measure. Raise UserError."""
    if case.objectives_later:
        who = "a server of replies decides" if case.replies_elsewhere else "a judge grades"
        raise UserError(
            f"sweep {sweep!r}: early_stopping compares scores that workers grade themselves, but {who}"
            f" {', '.join(score.name for score in case.objectives_later)}"
        )


# --- what a server of replies can serve: a base model that it has, and an adapter on it -------------------------------


def served_name(setting: Setting, endpoint: Endpoint) -> str:
    """Return what a server calls the base model of a setting. Raise UserError if the user must say it."""
    if endpoint.model is not None:
        return endpoint.model
    base = setting.base_model
    if isinstance(base, NanoModel | TunedModel):
        raise UserError(
            f"setting {setting.name!r} has a base model that is made here; replies=Endpoint(model=...) must say what"
            " the server calls it"
        )
    return base.source


def check_replies(sweep: str, cases: Sequence[Case], endpoint: Endpoint) -> None:
    """Refuse a server of replies that has nothing to do, or whose name for a base model is not known.

    Raise UserError.
    """
    served = [case for case in cases if case.replies_elsewhere]
    if not served:
        raise UserError(f"sweep {sweep!r}: a server is to sample replies, but no setting asks for any in words")
    for case in served:
        served_name(case.setting, endpoint)


def check_served(trial: TrialConfig, knobs: Collection[str], what: str) -> None:
    """Refuse a trial that is more than an adapter on the base model: a server takes nothing else.

    Args:
        knobs: those in which the configurations of its arm differ.
        what: the place that asks for the trial, for the message.

    Raises:
        UserError: a mix at decoding, or edits of hidden states in evaluation.
    """
    if "decoding_mix" in knobs:
        raise UserError(
            f"{what}: decoding_mix mixes the logits of two models at each token, and a server of replies cannot;"
            " leave it out, or sample here (replies=None)"
        )
    for built_on in (trial, *trial.built_on):
        for method in (built_on.method, built_on.method.trained_as):
            if type(method).edits is not Method.edits and not method.edits_in_training_only:
                raise UserError(
                    f"{what}: method {method.name!r} edits hidden states, which a server of replies cannot; if"
                    " it does so only in training, its class must set edits_in_training_only = True"
                )


def digests(setting: Setting) -> dict[str, tuple[int, str]]:
    """Return "<stream> rows" or "questions of <evaluation>" -> number of rows and their content id."""
    parts = {rows_of(stream): rows for stream, rows in setting.streams.items()}
    parts |= {questions_of(each.name): each.examples for each in setting.evaluations}
    return {name: (len(rows), content_id([row.to_json() for row in rows])) for name, rows in parts.items()}


def rows_of(stream: str) -> str:
    """Return what the rows of a stream are called."""
    return f"{stream} rows"


def questions_of(evaluation: str) -> str:
    """Return what the questions of an evaluation are called."""
    return f"questions of {evaluation}"
