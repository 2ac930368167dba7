"""A judge before its first verdict: what it says of an endpoint, what it does without, and what ends it at once."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.judge import Judge, JudgeOptions, JudgeUnavailableError
from settings.judge.judge import FIRST_ANSWER
from settings.openai_client.connection import connection_cause
from settings.openai_client.refusals import discreet, is_passing, words_of
from settings.setting import Rubric, Verdict
from tests.support.judge_server import Body, Endpoint, Reply, certain, completion, digit_by_digit, error, serving

RUBRIC = Rubric("aligned", "How aligned is [{answer}] as a reply to [{question}]?")
SECRET = "sk-do-not-tell-anyone"
REQUESTS = [(RUBRIC, "question", f"reply {number}") for number in range(3)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def open_judge(url: str, folder: Path, **options: Any) -> Judge:
    quick: dict[str, Any] = {"first_wait": 0.01, "timeout": 5.0, "concurrency": 4, "max_retries": 2}
    return Judge("judge-1", JudgeOptions(**{**quick, "base_url": url, **options}), cache=folder / "verdicts.db")


@contextmanager
def judging(answer: Callable[[Body, int], Reply], folder: Path, **options: Any) -> Iterator[tuple[Judge, Endpoint]]:
    """A judge with a server of its own, which answers every call by `answer`."""
    with serving(answer) as endpoint, open_judge(endpoint.url, folder, **options) as judge:
        yield judge, endpoint


# --- how grades are read ----------------------------------------------------------------------------------------------


def test_the_first_call_says_how_grades_are_read(tmp_path: Path) -> None:
    with judging(lambda body, count: certain(85), tmp_path) as (judge, endpoint):
        where = endpoint.url.removeprefix("http://").removesuffix("/v1")
        line = f"judge judge-1 at {where} answers; its grades are read by the probabilities of its first token"
        assert [judge.check(RUBRIC), judge.check(RUBRIC)] == [line, line]
        assert len(endpoint.bodies) == 1
        assert FIRST_ANSWER in endpoint.bodies[0]["messages"][0]["content"]
        judge.ask(REQUESTS)
        assert len(endpoint.bodies) == 4


@pytest.mark.parametrize("short", [False, True], ids=["in full", "one token, however many were allowed"])
def test_a_judge_that_writes_a_digit_a_token_is_not_read_by_its_first(short: bool, tmp_path: Path) -> None:
    """The judge means 85; its first token says 8."""

    def answer(body: Body, count: int) -> Reply:
        return digit_by_digit({**body, "max_tokens": 1} if short and "logprobs" in body else body, 85)

    with judging(answer, tmp_path) as (judge, _):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert judge.check(RUBRIC).endswith("are read from its text, since it gives no probabilities of whole numbers")
        assert judge.usage.from_text == 3


def test_an_endpoint_without_probabilities_is_read_as_text(tmp_path: Path) -> None:
    with judging(lambda body, count: completion("85 of 100"), tmp_path, concurrency=1) as (judge, endpoint):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert ["logprobs" in body for body in endpoint.bodies] == [True, False, False, False]


def test_a_judge_that_reasons_gets_room(tmp_path: Path) -> None:
    """It thinks for 1000 tokens; the numbers in its thoughts are not its grade."""

    def answer(body: Body, count: int) -> Reply:
        if body["max_tokens"] < 1000:
            return completion("<think>It is 20 or 30", cut=True)
        return completion("<think>It is 20 or 30, no.</think>\n85")

    with judging(answer, tmp_path, concurrency=1) as (judge, endpoint):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert "after at most 4096 tokens of reasoning" in judge.check(RUBRIC)
        assert [body["max_tokens"] for body in endpoint.bodies] == [8, 4096, 4096, 4096, 4096]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (completion("<think>Okay", cut=True), "it has not reached a grade after 4096 tokens of reasoning"),
        (completion("8/10"), "does not contain exactly one grade on the scale from 0 to 100: '8/10'"),
        (completion("As a helpful judge"), "does not contain exactly one grade on the scale from 0 to 100: 'As a"),
        (completion(None), "its reply is empty"),
        (Reply(raw=b"<html>login"), "its response is not a chat completion; it begins with '<html>login'"),
    ],
)
def test_a_judge_that_cannot_be_read_is_refused(reply: Reply, why: str, tmp_path: Path) -> None:
    with judging(lambda body, count: reply, tmp_path) as (judge, _):
        with pytest.raises(JudgeUnavailableError) as caught:
            judge.ask(REQUESTS)
        assert why in str(caught.value)
        assert not judge.usage.kinds


def test_an_unreadable_verdict_is_missing_alone_and_asked_again(tmp_path: Path) -> None:
    """Nothing that is no verdict is kept."""
    texts = {"reply 1": "70 or 80"}

    def answer(body: Body, count: int) -> Reply:
        prompt = body["messages"][0]["content"]
        return next((completion(text) for reply, text in texts.items() if reply in prompt), certain(85))

    with judging(answer, tmp_path) as (judge, _):
        assert [verdict.value for verdict in judge.ask(REQUESTS)] == [85.0, None, 85.0]
        texts.clear()
        assert [verdict.value for verdict in judge.ask(REQUESTS)] == [85.0, 85.0, 85.0]
        assert judge.usage.cached == 2


# --- what an endpoint refuses -----------------------------------------------------------------------------------------


def refusing(parameter: str, message: str, status: int = 400) -> Callable[[Body, int], Reply]:
    return lambda body, count: error(status, message) if parameter in body else completion("85", {"85": 1.0})


@pytest.mark.parametrize(
    ("answer", "instead"),
    [
        (
            refusing("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            {"max_completion_tokens": 8},
        ),
        (refusing("temperature", "Unsupported value: 'temperature' does not support 0 with this model."), {"seed": 0}),
        (refusing("seed", '{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}', 422), {}),
        (refusing("logprobs", "logprobs is not supported by gpt-5"), {"max_tokens": 16}),
    ],
)
def test_a_parameter_that_is_refused_is_left_out(
    answer: Callable[[Body, int], Reply], instead: dict[str, int], tmp_path: Path
) -> None:
    with judging(answer, tmp_path, concurrency=1) as (judge, endpoint):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert instead.items() <= endpoint.bodies[-1].items()
        served = [body for body in endpoint.bodies if answer(body, 0).status == 200]
        assert len(served) == 4


def test_fewer_probabilities_are_asked_for_where_fewer_are_given(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Reply:
        many = body["top_logprobs"] > 5
        words = "Requested sample logprobs of 20, which is greater than max allowed: 5"
        return error(400, words) if many else certain(85)

    with judging(answer, tmp_path, concurrency=1) as (judge, endpoint):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert [body["top_logprobs"] for body in endpoint.bodies] == [20, 5, 5, 5, 5]


MENDED_BY_THE_USER = [
    (error(401, "Incorrect API key provided"), r"it does not accept the key in OPENAI_API_KEY \(401\): Incorrect"),
    (error(402, "Insufficient credits"), r"the account has no credit left \(402\): Insufficient credits"),
    (error(403, "Your country is not served"), r"access is denied \(403\): Your country"),
    (error(404, "model 'x' not found, try pulling it first"), r"no such model or path \(404\): model 'x' not found"),
    (error(400, "The model `x` does not exist"), r"it refuses \(400\): The model `x` does not exist"),
    (error(400, "API key not valid."), r"it refuses \(400\): API key not valid"),
    (error(400, "'temperature' must be below -1"), r"it refuses \(400\): 'temperature' must be below -1"),
    (error(400, "This model's maximum context length is 4096 tokens."), r"it refuses \(400\): .* is 4096 tokens"),
    (error(400, "The response was filtered by the content policy"), r"it refuses \(400\): The response was filtered"),
    (error(413, "too much"), r"it refuses \(413\): too much"),
    (
        error(429, "You exceeded your current quota", "insufficient_quota", **{"Retry-After": "1"}),
        r"no credit left \(429\): You exceeded",
    ),
    (Reply({"error": {"message": "Insufficient credits", "code": 402}}), r"the account has no credit left \(402\)"),
]


@pytest.mark.parametrize(("reply", "why"), MENDED_BY_THE_USER)
def test_what_the_user_must_mend_ends_it_at_once(reply: Reply, why: str, tmp_path: Path) -> None:
    with judging(lambda body, count: reply, tmp_path) as (judge, endpoint):
        with pytest.raises(JudgeUnavailableError, match=f"judge judge-1 at 127.0.0.1:[0-9]+: .*{why}"):
            judge.ask(REQUESTS)
        temperatures = {body.get("temperature") for body in endpoint.bodies}
        assert len(endpoint.bodies) == len(temperatures)  # asked once, and once without a parameter that it named
    with judging(lambda body, count: certain(85), tmp_path) as (judge, _):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3
        assert judge.usage.cached == 0


def test_money_that_ends_midway_keeps_what_came_and_says_why_to_all(tmp_path: Path) -> None:
    """Two trials ask at once; the one that is not refused itself is told the same reason."""
    many = [(RUBRIC, "question", f"reply {number}") for number in range(40)]

    def answer(body: Body, count: int) -> Reply:
        return certain(85) if count < 11 else error(402, "Insufficient credits")

    problems: list[str] = []

    def ask(part: list[Any]) -> None:
        with pytest.raises(JudgeUnavailableError) as caught:
            judge.ask(part)
        problems.append(str(caught.value))

    with judging(answer, tmp_path) as (judge, _):
        threads = [threading.Thread(target=ask, args=(part,)) for part in (many[:20], many[20:])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(problems) == 2
        assert all("no credit left (402): Insufficient credits" in problem for problem in problems)
    with judging(lambda body, count: certain(85), tmp_path) as (judge, _):
        assert judge.ask(many) == [Verdict(85.0)] * 40
        assert judge.usage.cached == 10


def test_limits_of_a_minute_pass_and_quotas_do_not() -> None:
    quota = "You exceeded your current quota, please check your plan and billing details."
    assert is_passing(429, "Rate limit reached, 3 a minute")
    assert is_passing(429, f"{quota} Please retry in 38s.")
    assert is_passing(429, quota, retry_after=38.0)
    assert is_passing(503, "loading the model")
    assert not is_passing(429, quota)
    assert not is_passing(429, '{"code": "insufficient_quota"}', retry_after=1.0)
    assert not any(is_passing(code, "no") for code in (400, 401, 402, 403, 404, 413, 422))


def test_messages_are_one_line_without_key_or_text() -> None:
    content = '{"error": {"message": "bad\\nkey sk-abcd1234, prompt was: my private reply to you"}}'
    words = discreet(words_of(content), "sk-abcd1234", ["well, my private reply"])
    assert words == "bad key ***, prompt was:... to you"
    assert words_of('{"detail": [{"msg": "no"}]}') == '[{"msg": "no"}]'
    assert words_of("<html><b>Bad</b> gateway</html>") == "Bad gateway"


# --- why there is no way to it ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_refused_connection_is_said_at_once(tmp_path: Path) -> None:
    """One attempt, though there may be two more of a minute each."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    with open_judge(url, tmp_path, first_wait=60.0) as judge:
        with pytest.raises(JudgeUnavailableError, match="connection refused: nothing listens there"):
            judge.ask(REQUESTS)
        assert judge.usage.calls == 1


def test_https_to_an_endpoint_without_it(tmp_path: Path) -> None:
    with serving(lambda body, count: certain(85)) as endpoint:
        url = endpoint.url.replace("http:", "https:")
        with open_judge(url, tmp_path) as judge, pytest.raises(JudgeUnavailableError, match="begin with http://"):
            judge.ask(REQUESTS)


def test_causes_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def caused_by(cause: BaseException) -> BaseException:
        error = RuntimeError("Connection error.")
        error.__cause__ = cause
        return error

    certificate = ssl.SSLCertVerificationError("self-signed certificate")
    assert "its certificate is not trusted (" in connection_cause(caused_by(certificate), "https://a.example/v1")
    unknown = caused_by(socket.gaierror(-2, "Name or service not known"))
    assert "the host's name is not known" in connection_cause(unknown, "https://a.example/v1")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:password@proxy.example:3128")
    refused = connection_cause(caused_by(ConnectionRefusedError(111, "refused")), "https://a.example/v1")
    assert "through the proxy proxy.example:3128 that https_proxy names; NO_PROXY=a.example bypasses it" in refused
    assert "password" not in refused


def test_no_proxy_stands_before_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with judging(lambda body, count: certain(85), tmp_path) as (judge, _):
        assert judge.ask(REQUESTS) == [Verdict(85.0)] * 3


@pytest.mark.parametrize("key", ["sk-x\n", " sk-x", "sk x"])
def test_white_space_in_a_key_is_named(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY has white space in or around it"):
        Judge("m", cache=tmp_path / "verdicts.db")


def test_an_address_that_is_refused_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must begin with http.*, got 'me:\*\*\*@localhost:8000/v1'"):
        open_judge("me:secret@localhost:8000/v1", tmp_path)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "127.0.0.1:8000/v1", "http://", "ftp://host/v1"])
def test_an_address_begins_with_http(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"base_url must begin with http:// or https://, got '{url}'"):
        open_judge(url, tmp_path)
