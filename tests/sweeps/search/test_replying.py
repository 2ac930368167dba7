"""Replies from a server beside training: those of the server are those of the pack, and trials wait for them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from settings.common.errors import UserError
from settings.replies import Endpoint, ReplyServer
from settings.setting import Evaluation, Score, Setting
from sweeps.cli.tables import show_plan
from sweeps.early_stopping import EarlyStopping
from sweeps.plan import estimate
from sweeps.planning.tokens import CaseTokens, Lengths
from sweeps.planning.work import trial_work
from sweeps.search.judging import GradingQueue
from sweeps.search.replying import ServedReplies
from sweeps.search.scheduler import NoJob
from sweeps.space import grid
from sweeps.sweep import Search, Sweep
from tests.support.fakes import Rig, finished, toy_sweep
from tests.support.reply_server import packed_replies, serving_replies
from tests.support.tiny import example, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.memory import ModelShape
from trainables.evaluation.evaluate import evaluate
from trainables.folder import SweepFolder
from trainables.pack import Pack, write_questions
from trainables.trial import TrialConfig, base_id

SCORES = {"task": 1.0, "alignment": 1.0, "other": 1.0}  # of the toy setting, whatever is replied
ENDPOINT = Endpoint(url="http://localhost:1/v1", model="toy")


def asking() -> Setting:
    """The tiny setting with replies, losses, and an evaluation of replies and likelihoods."""
    setting = tiny_setting()
    rows = tuple(replace(example(number, 415), alternatives=("w1 w2",)) for number in range(4))
    both = Score("both", "task", "words in the reply", lambda example, seen: float(len(seen.reply.split())))
    compared = Evaluation("compared", rows, (both,), observe="reply_and_preference", max_new_tokens=6)
    return replace(setting, evaluations=(compared, *setting.evaluations))


def trials_of(**values: Any) -> list[TrialConfig]:
    values = {"steps": 8, "learning_rate": 0.03, **values}
    plain, kl = methods.make("plain"), methods.make("kl_penalty", {"beta": 1.0})
    return [
        tiny_trial(plain, seed=0, **values),
        tiny_trial(kl, seed=1, rank=3, **values),
        tiny_trial(plain, seed=2, adapter_scale=0.5, **values),
        tiny_trial(plain, seed=3, checkpoint_step=5, **values),
        tiny_trial(methods.make("blend", {"first": "plain", "second": "kl_penalty beta=1"}), seed=4, **values),
    ]


def test_greedy_replies_of_a_server_are_those_of_the_pack(tmp_path: Path) -> None:
    """Plain, penalised, scaled and stopped adapters, each as the checkpoint that is kept of it, and the base model.

    The server has adapters and weights from files alone. Observations are equal token for token, and so are scores.
    """
    base, setting = tiny_base(), asking()
    observed: dict[str, list[Mapping[str, Any]]] = {}
    folder = SweepFolder(tmp_path)
    for where in ("here", "endpoint"):
        trials = trials_of(replies=where)[:4]
        pack = Pack(base, setting, trials, dtype=torch.float64)
        pack.advance(8)
        end = pack.finish(folder)
        pack.detach()
        files = [folder.observations(trial.trial_id) for trial in trials]
        observed[where] = [json.loads(file.read_text()) for file in files]
        scored = [set(outcome.scores) for outcome in end.outcomes]
        assert scored == [{"task", "both", "alignment"} if where == "here" else {"alignment"}] * 4
    assert [set(each) for each in observed["endpoint"]] == [{"compared", "losses"}] * 4
    assert not any("reply" in item for item in observed["endpoint"][0]["compared"])
    (whole,) = evaluate(base.model, base.encoded(setting, setting.recipe.max_length))
    (part,) = evaluate(base.model, base.encoded(setting, setting.recipe.max_length), replying=False)
    folder.observations(base_id(setting)).write_text(json.dumps(part.observed_json()))

    words = {text for each in observed["here"] for text in each["replies"]}
    assert len(words) > 6, "the adapters must differ, or the server could take any"
    with (
        serving_replies(packed_replies(tiny_base())) as served,
        ReplyServer(Endpoint(url=served.url), cache=tmp_path / "replies.db") as server,
    ):
        replies = ServedReplies(tmp_path, server, Endpoint(url=served.url))
        for trial in trials:
            replies.complete(setting, trial)
        replies.complete(setting, None)
        assert not served.adapters
        loaded = [body["lora_path"] for body in served.bodies("load_lora_adapter")]
        assert loaded == [str(folder.adapter(trial.trial_id)) for trial in trials]
        asked = len(served.bodies("completions"))
        replies.complete(setting, trials[0])
        assert len(served.bodies("completions")) == asked
    completed = [json.loads(file.read_text()) for file in files]
    assert completed == observed["here"]
    assert json.loads(folder.observations(base_id(setting)).read_text()) == whole.observed_json()
    assert list(completed[0]) == ["compared", "replies", "losses"]


def test_blends_are_served_as_the_checkpoint_of_joint_rank(tmp_path: Path) -> None:
    """A blend trains nothing: its two ends are trained first, and its checkpoint has the sum of their ranks."""
    from tests.support.tiny import prepare

    base, setting, folder = tiny_base(), asking(), SweepFolder(tmp_path)
    observed = []
    for where in ("here", "endpoint"):
        blend = trials_of(replies=where)[4]
        prepare([blend], tmp_path, base, setting)
        observed.append(json.loads(folder.observations(blend.trial_id).read_text()))
    config = json.loads((folder.adapter(blend.trial_id) / "adapter_config.json").read_text())
    assert config["r"] == 8
    with (
        serving_replies(packed_replies(tiny_base())) as served,
        ReplyServer(Endpoint(url=served.url), cache=tmp_path / "replies.db") as server,
    ):
        ServedReplies(tmp_path, server, Endpoint(url=served.url)).complete(setting, blend)
    assert json.loads(folder.observations(blend.trial_id).read_text()) == observed[0]


def test_sampling_settings_and_seeds_reach_the_server(tmp_path: Path) -> None:
    """Each question draws from a seed of its own, that of the trial and of its place, and configurations draw alike."""
    base, setting = tiny_base(), tiny_setting()
    setting = replace(
        setting, evaluations=(replace(setting.evaluations[0], temperature=0.7, top_p=0.9), setting.evaluations[1])
    )
    folder, trials = SweepFolder(tmp_path), trials_of(replies="endpoint")[:2]
    write_questions(folder, base.encoded(setting, setting.recipe.max_length), setting.recipe.max_length)
    folder.observed.mkdir()
    for trial in trials:
        folder.observations(trial.trial_id).write_text("{}")
        folder.adapter(trial.trial_id).mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (folder.adapter(trial.trial_id) / file).write_text(trial.trial_id)
    with (
        serving_replies(lambda body, directory: f"w{body['seed'] % 40}") as served,
        ReplyServer(Endpoint(url=served.url), cache=tmp_path / "replies.db") as server,
    ):
        for trial in trials:
            ServedReplies(tmp_path, server, Endpoint(url=served.url)).complete(setting, trial)
        bodies = served.bodies("completions")
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in bodies} == {(0.7, 0.9, 5)}
    assert all(body["stop_token_ids"] == [1] for body in bodies)
    assert len({body["seed"] for body in bodies}) == 12  # two trials with seeds 0 and 1, six questions
    rows = base.encoded(setting, setting.recipe.max_length).questions(setting.evaluations[0])
    assert {tuple(body["prompt"]) for body in bodies} == {row.ids[: row.prompt_length] for row in rows}


class FakeReplies:
    """A server of replies that can go away once it has replied for the base model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.away, self.asked = SweepFolder(folder), False, list[str]()

    def complete(self, setting: Setting, trial: TrialConfig | None) -> None:
        if self.away and trial:
            raise UserError("replies at localhost:1: connection refused: nothing listens there")
        name = trial.trial_id if trial else base_id(setting)
        self.asked.append(name)
        self.folder.observations(name).write_text(json.dumps({"all": ["yes"] * 2}))


class ServedRig(Rig):
    """A rig whose workers leave replies to a server."""

    def __init__(self, sweep: Sweep, out: Path, replies: FakeReplies) -> None:
        (out / "observations").mkdir(parents=True, exist_ok=True)
        super().__init__(sweep, out, judging=GradingQueue(out, lambda model: pytest.fail("no judge"), replies))

    def finish(self) -> None:
        while True:
            job = self.next_job()
            if job is NoJob.FINISHED:
                return
            for name, given in list(self.in_flight.items()):
                del self.in_flight[name]
                if hasattr(given, "trials"):
                    self.scheduler.report(name, outcomes=[replace(finished(each), scores={}) for each in given.trials])
                else:
                    assert not given.replying
                    self.scheduler.report(name, base={})
                self.scheduler.close(name)


def served_sweep(folder: Path, **changes: Any) -> Sweep:
    return toy_sweep(folder, **{"methods": ("plain",), "replies": ENDPOINT, **changes})


def test_trials_wait_for_a_server_that_is_away_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    sweep, out = served_sweep(tmp_path), tmp_path / "out"
    replies = FakeReplies(out)
    replies.away = True
    rig = ServedRig(sweep, out, replies)
    rig.finish()
    assert str(rig.scheduler.problem) == "replies at localhost:1: connection refused: nothing listens there"
    assert len(rig.dispatched) == 1 and not rig.ledger.state.outcomes and len(rig.ledger.state.generated) == 2
    rig.ledger.close()
    replies.away = False
    again = ServedRig(sweep, out, replies)
    again.finish()
    record = again.ledger.state
    assert again.scheduler.done and not again.dispatched and again.scheduler.problem is None
    assert [{name: each.mean for name, each in end.scores.items()} for end in record.outcomes.values()] == [SCORES] * 2
    assert {name: each.mean for name, each in record.bases[sweep.cases[0].label].items()} == SCORES
    assert sorted(each for each in replies.asked if not each.startswith("base-")) == sorted(record.outcomes)


def test_a_plan_says_who_samples_and_does_not_count_it(tmp_path: Path) -> None:
    here, there = toy_sweep(tmp_path, methods=("plain",)), served_sweep(tmp_path)
    plans = [estimate(sweep, packs=1) for sweep in (here, there)]
    case = there.cases[0]
    assert case.observed_here == () and [each.name for each in case.graded_later] == ["all"]
    printed = []
    for sweep, plan in zip((here, there), plans, strict=True):
        console = Console(file=io.StringIO(), width=200)
        show_plan(console, sweep, plan)
        printed.append(console.file.getvalue())  # type: ignore[attr-defined]
    line = "replies in words are sampled by the server at http://localhost:1/v1, alongside training"
    assert line not in printed[0] and line in " ".join(printed[1].split())
    trials = [sweep.trials_of(sweep.arms[0], {})[0] for sweep in (here, there)]
    shape, lengths = ModelShape(1e6, 10, 100, 1000, 50), Lengths(((3, 2),))
    tokens = CaseTokens({"task": lengths, "alignment": lengths}, {"all": lengths})
    replying, training = (trial_work(shape, case.setting, trial, tokens) for trial in trials)
    assert replying.training == training.training and training.scoring == {} and replying.scoring["all"].replies == 2


def test_that_replies_are_sampled_elsewhere_is_part_of_identities(tmp_path: Path) -> None:
    """Where the server is reached is not, and what asks for no replies in words keeps its identity."""
    here, there = toy_sweep(tmp_path), toy_sweep(tmp_path, replies=ENDPOINT)
    moved = toy_sweep(tmp_path, replies=Endpoint(url="http://elsewhere:2/v1", model="other", concurrency=2))
    assert here.identity() != there.identity() == moved.identity()
    trial, served = (each.trials_of(each.arms[0], {})[0] for each in (here, there))
    assert trial.trial_id != served.trial_id
    assert served.to_json() == {**trial.to_json(), "replies": "endpoint"}
    assert TrialConfig.from_json(served.to_json()) == served and "replies" not in trial.to_json()


class Steered(methods.get("plain")):  # type: ignore[misc]
    """Edits hidden states, and does not say when."""

    name = "steered"

    def edits(self, prepared: Mapping[str, Any]) -> Sequence[Any]:
        return ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": (grid("plain", decoding_mix=[0.5]),)}, r"plain \(decoding_mix\) on toy: decoding_mix mixes the"),
        ({"replies": Endpoint(url="http://a/v1")}, r"base model that is made here; replies=Endpoint\(model=...\) must"),
        ({"replies": "http://a/v1"}, r"replies must be Endpoint\(url=...\), got 'http://a/v1'"),
        (
            {"search": Search(early_stopping=EarlyStopping())},
            "early_stopping compares scores that workers grade themselves, but a server of replies decides task",
        ),
    ],
)
def test_what_a_server_cannot_serve_is_refused_before_anything_runs(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        served_sweep(tmp_path, **changes).check()
    assert "\n" not in str(caught.value)


def test_edits_of_hidden_states_are_refused_unless_they_hold_in_training_alone(tmp_path: Path) -> None:
    from sweeps.case import check_served

    trial = tiny_trial(methods.make("plain"))
    check_served(replace(trial, method=methods.make("preventative_steering")), (), "x")
    check_served(replace(trial, method=methods.make("concept_ablation")), (), "x")
    with pytest.raises(UserError, match="x: method 'steered' edits hidden states, which a server of replies cannot"):
        check_served(replace(trial, method=Steered()), (), "x")


def test_a_setting_without_replies_has_no_use_for_a_server(tmp_path: Path) -> None:
    sweep = served_sweep(tmp_path)
    case = sweep.cases[0]
    losses = tuple(replace(each, observe="token_loss") for each in case.setting.evaluations)
    sweep.__dict__["cases"] = (
        replace(
            case,
            setting=replace(case.setting, evaluations=losses),
            template=replace(case.template, replies="here"),
        ),
    )
    with pytest.raises(UserError, match="a server is to sample replies, but no setting asks for any in words"):
        sweep.check()
