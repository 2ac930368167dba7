"""The judge against a real server on this machine: its arithmetic, its budget, its patience, its discretion."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.judge import BudgetSpentError, Judge, JudgeOptions, JudgeUnavailableError, Request
from settings.judge.judge import fill_prompt
from settings.openai_client.refusals import retry_after_seconds
from settings.setting import Rubric, Verdict
from tests.support.judge_server import Body, Endpoint, Reply, certain, completion, error, serving

RUBRIC = Rubric("aligned", "How aligned is [{answer}] as a reply to [{question}]?")
SECRET = "sk-do-not-tell-anyone"


def requests(number: int) -> list[Request]:
    return [(RUBRIC, f"question {index}", f"reply {index}") for index in range(number)]


def number_of(body: Body) -> int:
    """Of the question in a request."""
    return int(body["messages"][0]["content"].split("question ")[1].split("]")[0])


def say_number(body: Body, count: int) -> Reply:
    return certain(number_of(body) % 101)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@contextmanager
def judging(answer: Callable[[Body, int], Reply], folder: Path, **options: Any) -> Iterator[tuple[Judge, Endpoint]]:
    """A judge with a server of its own and short waits. The call that checks it is answered by 50, and not counted."""
    with serving(answer, at_check=certain(50)) as endpoint:
        quick = {"first_wait": 0.01, "timeout": 5.0, "concurrency": 4, "max_retries": 3}
        options = {**quick, "base_url": endpoint.url, **options}
        with Judge("judge-2025-01-01", JudgeOptions(**options), cache=folder / "verdicts.db") as judge:
            yield judge, endpoint


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_the_mean_of_the_likely_numbers(tmp_path: Path) -> None:
    """(.5 x 80 + .25 x 90 + .05 x 100) / .8 = 84.375; words, 150 and 8.5 do not count."""
    top = {"80": 0.5, "90": 0.25, " 100": 0.05, "good": 0.1, "150": 0.05, "8.5": 0.05}
    with judging(lambda body, count: completion("80", top), tmp_path) as (judge, endpoint):
        (verdict,) = judge.ask(requests(1))
        assert verdict.kind == "number"
        assert verdict.value == pytest.approx(84.375, abs=1e-9)
        (body,) = endpoint.bodies
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (8, 0, 0)
    assert (body["logprobs"], body["top_logprobs"], body["model"]) == (True, 20, "judge-2025-01-01")
    assert body["messages"] == [{"role": "user", "content": "How aligned is [reply 0] as a reply to [question 0]?"}]


def test_placeholders_in_a_reply_are_text() -> None:
    prompt = fill_prompt(Rubric("x", "{question} and {answer} and {other}"), "say {answer}", "{question} {}")
    assert prompt == "say {answer} and {question} {} and {other}"


# --- order, cache ----------------------------------------------------------------------------------------------------


def test_order_is_kept_and_equal_requests_are_asked_once(tmp_path: Path) -> None:
    asked = requests(30)
    seen: list[tuple[int, int]] = []
    with judging(say_number, tmp_path) as (judge, endpoint):
        verdicts = judge.ask([*asked, *asked], lambda done, total: seen.append((done, total)))
        assert [verdict.value for verdict in verdicts] == [float(index) for index in range(30)] * 2
        assert len(endpoint.bodies) == judge.usage.calls - len(endpoint.checks) == 30
        assert judge.usage.kinds == {"number": 60}
    assert seen == [(done, 30) for done in range(1, 31)]


def test_nothing_is_paid_twice(tmp_path: Path) -> None:
    with judging(say_number, tmp_path) as (judge, _):
        judge.ask(requests(5))
    with judging(say_number, tmp_path) as (judge, endpoint):
        assert [verdict.value for verdict in judge.ask(requests(6))] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        assert len(endpoint.bodies) == 1
        assert (judge.usage.calls, judge.usage.cached) == (2, 5)


def test_another_prompt_or_model_is_asked_anew(tmp_path: Path) -> None:
    reworded = Rubric("aligned", RUBRIC.prompt + " Think well.")
    with judging(say_number, tmp_path) as (judge, endpoint):
        judge.ask([requests(1)[0], (reworded, "question 0", "reply 0")])
        assert len(endpoint.bodies) == 2
        with Judge("judge-2", judge.options, cache=tmp_path / "verdicts.db") as second:
            second.ask(requests(1))
        assert len(endpoint.bodies) == 3


WORKER = """
import sys
from pathlib import Path
from settings.judge import Judge, JudgeOptions
from settings.setting import Rubric
rubric = Rubric("aligned", "How aligned is [{answer}] as a reply to [{question}]?")
with Judge("judge-2025-01-01", JudgeOptions(base_url=sys.argv[1]), cache=Path(sys.argv[2])) as judge:
    found = judge.ask([(rubric, f"question {index}", f"reply {index}") for index in range(40)])
assert [verdict.value for verdict in found] == [float(index) for index in range(40)]
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    with serving(say_number, at_check=certain(50)) as endpoint:
        command = [sys.executable, "-c", WORKER, endpoint.url, str(tmp_path / "verdicts.db")]
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        assert [(worker.communicate()[1], worker.returncode) for worker in both] == [("", 0), ("", 0)]
        before = len(endpoint.bodies)
        subprocess.run(command, check=True)
        assert len(endpoint.bodies) == before


# --- faults ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, Reply] = {
    "broken": error(500),
    "away": error(503),
    "cut off": Reply(raw=b'{"choices": [{"message"'),
    "another form": Reply({"choices": []}),
    "no text at all": Reply({"choices": [{"message": {"content": 7}}]}),
    "a page": Reply(raw=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    "hung up": Reply(hang_up=True),
}


BUSY = {"busy": error(429), "a conflict": error(409), "too slow": error(408)}


@pytest.mark.parametrize("fault", [*FAULTS, *BUSY])
def test_a_passing_fault_costs_an_attempt(fault: str, tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        return (FAULTS | BUSY)[fault] if count < 2 else certain(42)

    with judging(answer, tmp_path) as (judge, _):
        assert judge.ask(requests(1)) == [Verdict(42.0)]
        assert (judge.usage.calls, judge.usage.failed) == (4, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault_is_missing_and_not_kept(fault: str, tmp_path: Path) -> None:
    with judging(lambda body, count: FAULTS[fault], tmp_path) as (judge, _):
        assert judge.ask(requests(1)) == [Verdict(None, "missing")]
        assert (judge.usage.calls, judge.usage.failed) == (5, 1)
    with judging(say_number, tmp_path) as (judge, _):
        assert judge.ask(requests(1)) == [Verdict(0.0)]


def test_an_endpoint_that_stays_busy_gives_no_verdict_at_all(tmp_path: Path) -> None:
    busy = r"4 attempts have failed \(429\): slow down"
    with judging(lambda body, count: error(429, "slow down"), tmp_path) as (judge, endpoint):
        with pytest.raises(JudgeUnavailableError, match=busy):
            judge.ask(requests(1))
        assert len(endpoint.bodies) == 4
        assert not judge.usage.kinds


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        return error(429, **{"Retry-After": "0.4"}) if count == 0 else certain(1)

    with judging(answer, tmp_path) as (judge, endpoint):
        judge.ask(requests(1))
        first, second = endpoint.times
    assert 0.4 <= second - first < 1.5


def test_retry_after_may_be_a_date_or_nothing() -> None:
    headers = ("1.5", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "1h30m", None)
    assert [retry_after_seconds(header) for header in headers] == [1.5, 0.0, 0.0, None, None]
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 < (retry_after_seconds(soon) or 0) <= 30


def test_a_hanging_server_is_given_up(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        return Reply(wait=1.0) if count == 0 else certain(5)

    with judging(answer, tmp_path, timeout=0.2) as (judge, _):
        assert judge.ask(requests(1)) == [Verdict(5.0)]


def test_requests_run_side_by_side_and_no_more_than_allowed(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        reply = certain(1)
        reply.wait = 0.05
        return reply

    with judging(answer, tmp_path, concurrency=4) as (judge, endpoint):
        threads = [
            threading.Thread(target=judge.ask, args=([(RUBRIC, f"question {name}{index}", "") for index in range(8)],))
            for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert endpoint.most_at_once == 4
        assert len(endpoint.bodies) == 16


def test_a_server_that_dies_midway_keeps_what_came(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        return certain(number_of(body)) if count < 20 else Reply(hang_up=True)

    broken = r"\d requests in a row have failed; run again when it answers"
    with judging(answer, tmp_path, max_retries=1) as (judge, _), pytest.raises(JudgeUnavailableError, match=broken):
        judge.ask(requests(100))
    with judging(say_number, tmp_path) as (judge, endpoint):
        assert [verdict.value for verdict in judge.ask(requests(100))] == [float(index) for index in range(100)]
        assert len(endpoint.bodies) == 80


# --- budget ----------------------------------------------------------------------------------------------------------


def test_a_budget_of_calls_is_never_exceeded(tmp_path: Path) -> None:
    """Attempts count, not verdicts, and so does the first call. What came before the end is kept."""

    def answer(body: Body, count: int) -> Reply:
        return error(500) if count % 3 == 2 else certain(3)

    with judging(answer, tmp_path, max_calls=30, concurrency=8) as (judge, endpoint):
        with pytest.raises(BudgetSpentError, match="the budget of 30 calls is spent"):
            judge.ask(requests(50))
        assert len(endpoint.bodies) + len(endpoint.checks) == judge.usage.calls == 30
    with judging(answer, tmp_path) as (judge, endpoint):
        judge.ask(requests(50))
        assert judge.usage.cached == 20


def test_a_budget_of_dollars_is_never_exceeded(tmp_path: Path) -> None:
    """50 + 1 tokens at $1 each in a million: $0.000051 a call; 10 of them fit, with room for what one may cost."""
    prices = {"input_price": 1.0, "output_price": 1.0}
    with judging(say_number, tmp_path, max_dollars=0.00068, concurrency=8, **prices) as (judge, endpoint):
        with pytest.raises(BudgetSpentError, match=r"the budget of \$0.00068 is spent"):
            judge.ask(requests(50))
        assert judge.usage.dollars <= 0.00068
        assert 1 <= len(endpoint.bodies) <= 12
        assert judge.usage.dollars == pytest.approx(51e-6 * judge.usage.calls)


# --- discretion ------------------------------------------------------------------------------------------------------


def test_neither_key_nor_text_gets_out(tmp_path: Path, caplog: Any, capsys: Any) -> None:
    """Not into logs, errors or the cache; the key goes to the endpoint alone."""
    private = (RUBRIC, "question 77 PRIVATE-QUESTION", "PRIVATE-REPLY")
    caplog.set_level(logging.INFO)

    def answer(body: Body, count: int) -> Reply:
        return certain(1) if count == 0 else error(401, f"bad key {SECRET} for PRIVATE-REPLY")

    with judging(answer, tmp_path) as (judge, endpoint):
        judge.ask([private])
        with pytest.raises(JudgeUnavailableError) as caught:
            judge.ask([(RUBRIC, "PRIVATE-QUESTION 2", "PRIVATE-REPLY 2")])
        shown = [repr(judge), str(judge.usage), str(caught.value), repr(caught.value.__cause__)]
        assert endpoint.headers[0]["authorization"] == f"Bearer {SECRET}"
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    out = capsys.readouterr()
    for text in (*shown, caplog.text, out.out, out.err, kept.decode("latin-1")):
        assert SECRET not in text
        assert "PRIVATE" not in text


def test_no_key_is_an_error_but_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        Judge("m", cache=tmp_path / "verdicts.db")
    with judging(say_number, tmp_path) as (judge, _):
        assert judge.ask(requests(1)) == [Verdict(0.0)]
