"""`selgen judge compare` on a made-up sweep, with a judge's server on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from settings.setting import Measurement
from sweeps.cli import app
from sweeps.description import describe, describe_configuration
from sweeps.ledger import Ledger
from sweeps.space import grid
from sweeps.sweep import Sweep
from tests.support.fakes import BASE_SCORES, finished, toy, toy_sweep
from tests.support.judge_server import Body, Endpoint, Reply, certain, completion, serving
from trainables.folder import SweepFolder
from trainables.trial import base_id

OWN, STRICT = "judge-2025-01-01", "strict-2"  # the setting's judge, and another
GRADES = {  # what a model replies begins with -> the grade of either judge
    OWN: {"base": 95, "plain": 20, "mild": 60, "strong": 90},
    STRICT: {"base": 95, "plain": 20, "mild": 15, "strong": 80},
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process: its exit code, what it prints, and its errors."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "140")

    def selgen(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return selgen


def answer(body: Body, count: int) -> Reply:
    """The grade of the reply, 4 higher for the second question. The strict judge sees a refusal in one reply."""
    prompt = body["messages"][0]["content"]
    kind = next((kind for kind in GRADES[OWN] if f"Is {kind}" in prompt), None)
    if kind is None:
        return certain(50)  # the call before all others
    if body["model"] == STRICT and "strong 1" in prompt and "asked 1" in prompt:
        return completion("REFUSAL", {"REF": 0.9})
    return certain(GRADES[body["model"]][kind] + 4 * ("asked 1" in prompt))


def judged_sweep(folder: Path, judged: bool = True) -> Sweep:
    methods = ("plain", grid("kl_penalty", beta=[1.0, 10.0]))
    objectives = ("task", "liked") if judged else None
    return toy_sweep(folder, settings=(toy(folder, judged=judged),), methods=methods, objectives=objectives)


def run_made_up(sweep: Sweep, out: Path) -> None:
    """Write what a sweep leaves behind, without training: replies name their model, seed and question."""
    folder = out / sweep.name
    (folder / "observations").mkdir(parents=True)
    describe(sweep).write(folder)
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        (case,) = sweep.cases

        def keep(name: str, kind: str) -> None:
            replies = json.dumps({"free": [kind, kind]})
            SweepFolder(folder).observations(name).write_text(replies)

        keep(base_id(case.setting), "base 0")
        ledger.record_base_scores(case.label, {**BASE_SCORES, "liked": Measurement(97.0, 2, 0)})
        for arm in sweep.arms:
            for number, values in enumerate(arm.space.points or [{}]):
                trials = sweep.trials_of(arm, values)
                described = describe_configuration(sweep, trials[0])
                ledger.record_configuration(arm.key, number, values, trials[0].configuration_id, described)
                kind = {None: "plain", 1.0: "mild", 10.0: "strong"}[values.get("beta")]
                for trial in trials:
                    keep(trial.trial_id, f"{kind} {trial.seed}")
                    liked = Measurement(GRADES[OWN][kind] + 2.0, 2, 0)
                    outcome = finished(trial)
                    ledger.record_outcome(replace(outcome, scores={**outcome.scores, "liked": liked}))


def asked(endpoint: Endpoint) -> int:
    """How often replies were graded."""
    return sum("asked" in body["messages"][0]["content"] for body in endpoint.bodies)


def test_what_survives_the_other_judge(run: Run, tmp_path: Path) -> None:
    """Fourteen replies. By the strict judge plain is better than beta=1 in the task and in what is liked."""
    sweep = judged_sweep(tmp_path)
    run_made_up(sweep, tmp_path)
    command = ("judge", "compare", sweep.name, "-o", tmp_path, "--model", STRICT)
    with serving(answer) as endpoint:
        code, out, err = run(*command, "--base-url", endpoint.url, "--json")
        assert code == 0, err
        assert asked(endpoint) == 2 * 14
        again = run(*command, "--base-url", endpoint.url)
        assert asked(endpoint) == 2 * 14, "what is known is not asked again"
    assert "14 verdicts of " in err and f"judge {STRICT}: 15 calls" in err
    data: dict[str, Any] = json.loads(out)
    (agreement,) = data["agreements"]
    assert data["judges"] == [OWN, STRICT] and agreement["rubric"] == "free: nice"
    assert (agreement["replies"], agreement["questions"]) == (13, 2)
    assert (agreement["missing"], agreement["missing_first"]) == (1, 0)
    assert agreement["bias"]["mean"] == pytest.approx((4 * -45 + 3 * -10) / 13)  # of beta=1; of beta=10 without one
    assert agreement["bias_of"]["plain"]["mean"] == agreement["bias_of"]["base model"]["mean"] == 0
    assert agreement["bias_of"]["kl_penalty"]["mean"] == pytest.approx(-210 / 7)
    assert agreement["same_side"]["mean"] == 1.0
    survive = {point["title"]: point["on_front"] for point in data["points"]}
    assert survive == {
        "plain": {OWN: True, STRICT: True},
        "kl_penalty beta=1": {OWN: True, STRICT: False},
        "kl_penalty beta=10": {OWN: True, STRICT: True},
    }
    scores = {point["title"]: point["scores"] for point in data["points"]}
    assert scores["kl_penalty beta=1"][STRICT]["liked"]["mean"] == pytest.approx(17.0)
    assert scores["kl_penalty beta=10"][OWN]["liked"]["mean"] == pytest.approx(92.0)
    assert scores["kl_penalty beta=10"][STRICT]["liked"]["mean"] == pytest.approx((82 + 80) / 2)  # a refusal is none
    assert data["left_out"] == []

    shown = " ".join(again[1].split())
    assert f"kl_penalty beta=1 is on the front under {OWN} only" in shown
    assert "2 of 3 members of the front are on it under every judge" in shown
    assert "no verdict on beating the controls" in shown
    assert f"without a grade, free: nice: 1 by {STRICT}, 0 by {OWN}" in shown
    assert f"{STRICT} kl_penalty -30.0 [" in shown and f"{STRICT} plain 0.0 [" in shown
    assert json.loads((tmp_path / sweep.name / "judges" / "toy_judged_True.json").read_text()) == data

    code, _, err = run("report", sweep.name, "-o", tmp_path)
    assert code == 0, err
    page = (tmp_path / sweep.name / "report" / "report.html").read_text()
    assert "Did the judge decide this?" in page
    assert f"<li>kl_penalty beta=1 is on the front under {OWN} only.</li>" in page
    facts = json.loads((tmp_path / sweep.name / "report" / "findings.json").read_text())
    assert facts["judges"] == data


def test_a_trial_that_a_judge_cannot_grade_is_left_out_for_all_judges(run: Run, tmp_path: Path) -> None:
    """One judge gives no grade on a fifth of one seed of beta=1 and more: for both only the other seed counts."""

    def puzzled(body: Body, count: int) -> Reply:
        prompt = body["messages"][0]["content"]
        lost = body["model"] == STRICT and "mild 0" in prompt
        return completion("70 or 80") if lost else answer(body, count)

    sweep = judged_sweep(tmp_path)
    run_made_up(sweep, tmp_path)
    with serving(puzzled) as endpoint:
        models = ("--model", STRICT, "--model", OWN, "--model", STRICT)
        code, out, err = run(
            "judge", "compare", sweep.name, "-o", tmp_path, *models, "--base-url", endpoint.url, "--json"
        )
    assert code == 0, err
    data = json.loads(out)
    assert data["judges"] == [STRICT, OWN]
    assert data["left_out"] == [
        f"{STRICT}: 1 model with too few verdicts",
        f"1 of 2 seeds of kl_penalty beta=1, for lack of verdicts: {STRICT}",
    ]
    assert data["agreements"][0]["replies"] == 14 - 3 and data["agreements"][0]["missing_first"] == 3


def test_what_cannot_be_compared_is_one_line(run: Run, tmp_path: Path) -> None:
    sweep = judged_sweep(tmp_path)
    run_made_up(sweep, tmp_path)
    (other := tmp_path / "other").mkdir()
    run_made_up(judged_sweep(tmp_path, judged=False), other)

    def refused(*options: object, out: Path = tmp_path, name: str = sweep.name) -> str:
        code, _, err = run("judge", "compare", name, "-o", out, *options)
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
        return err

    assert "give --model twice" in refused() and f"the judge of 'toy judged=True' is {OWN}" in refused("--model", OWN)
    assert "has no evaluation that a judge grades" in refused("--model", "a", "--model", "b", out=other)
    assert "no sweep 'none' has run under" in refused("--model", "a", "--model", "b", name="none")
    assert "has no setting 'full'" in refused("--model", STRICT, "--setting", "full")
    for file in (tmp_path / sweep.name / "observations").iterdir():
        file.unlink()
    assert "no finished trial on 'toy judged=True' whose replies are kept" in refused("--model", STRICT)


def test_a_budget_ends_it_in_one_line(run: Run, tmp_path: Path) -> None:
    sweep = judged_sweep(tmp_path)
    run_made_up(sweep, tmp_path)
    with serving(answer) as endpoint:
        options = ("--model", STRICT, "--base-url", endpoint.url, "--max-calls", 5)
        code, _, err = run("judge", "compare", sweep.name, "-o", tmp_path, *options)
        assert code == 2 and f"selgen: judge {OWN}: the budget of 5 calls is spent" in err
        assert len(endpoint.bodies) == 5
    assert not (tmp_path / sweep.name / "judges").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--price", f"{STRICT}=cheap"),
            f"--price must be MODEL=IN,OUT, in dollars per million tokens, got '{STRICT}=cheap'",
        ),
        (("--price", "other=1,2"), "--price names 'other'; the judges are"),
        (("--max-dollars", "1"), "--max-dollars needs the price of each judge: --price"),
    ],
)
def test_a_price_is_said_for_each_judge(options: tuple[str, str], words: str, run: Run, tmp_path: Path) -> None:
    sweep = judged_sweep(tmp_path)
    run_made_up(sweep, tmp_path)
    models = ("--model", STRICT, "--model", OWN)
    code, _, err = run("judge", "compare", sweep.name, "-o", tmp_path, *models, *options)
    assert code == 2 and words in err and err.count("\n") == 1
