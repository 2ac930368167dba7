"""The ledger: what was written is read back, whatever was killed, torn, full or held by another driver."""

import fcntl
import json
import math
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.ledger import Ledger, read
from sweeps.ledger_lines import FORMAT, read_raw
from tests.support.fakes import finished, toy_sweep
from trainables.folder import SweepFolder
from trainables.trial import TrialConfig


@pytest.fixture()
def trials(tmp_path: Path) -> tuple[TrialConfig, ...]:
    sweep = toy_sweep(tmp_path, seeds=4)
    return sweep.trials_of(sweep.arms[1], {"beta": 0.5})


def opened(tmp_path: Path, sweep: str = "toy-sweep", identity: str = "abc") -> Ledger:
    return Ledger(tmp_path / "out", sweep, identity)


def test_everything_is_read_back(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    outcome = finished(trials[0])
    invalid = finished(trials[1], "invalid")
    with opened(tmp_path) as ledger:
        ledger.record_configuration("arm", 0, {"beta": 0.5}, "c0")
        ledger.record_dispatch(["t1", "t0"], [None, None])
        ledger.record_dispatch(["t0"], [3])
        ledger.record_dispatch(["t1", "t0"], [None, None])
        assert ledger.record_base_scores("toy", {"task": Measurement(math.nan, 0, 4)})
        assert ledger.record_outcome(outcome) and ledger.record_outcome(invalid)
    with opened(tmp_path) as ledger:
        for record in (ledger.state, read(tmp_path / "out")):
            assert record.asked["arm"][0].values == {"beta": 0.5}
            assert record.asked["arm"][0].configuration == "c0"
            assert list(record.dispatched) == [(("t1", "t0"), (None, None)), (("t0",), (3,))]
            assert SweepFolder(tmp_path / "out").ledger.read_text().count('"dispatched"') == 2
            assert record.bases["toy"]["task"].missing == 4 and math.isnan(record.bases["toy"]["task"].mean)
            assert list(record.outcomes.values()) == [outcome, invalid]
            assert list(record.outcomes) == [trials[0].trial_id, trials[1].trial_id]


def test_the_first_outcome_counts(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.record_outcome(finished(trials[0]))
        assert not ledger.record_outcome(finished(trials[0], "failed"))
        ledger.record_base_scores("toy", {"task": Measurement(1.0, 1, 0)})
        assert not ledger.record_base_scores("toy", {"task": Measurement(0.0, 1, 0)})
        ledger.record_configuration("arm", 0, {"beta": 1.0}, "c")
        ledger.record_configuration("arm", 0, {"beta": 2.0}, "d")
    record = read(tmp_path / "out")
    assert record.outcomes[trials[0].trial_id].status == "finished"
    assert record.bases["toy"]["task"].mean == 1.0
    assert record.asked["arm"][0].values == {"beta": 1.0}
    assert len(SweepFolder(tmp_path / "out").ledger.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "tail", [b'{"event": "outc', b'{"event": "base"}', b"\x00\x00\n", b"garbage\n", b"\xff\xfe\n", b"3\n"]
)
def test_a_torn_last_line_is_dropped_and_kept_aside(
    tmp_path: Path, trials: tuple[TrialConfig, ...], tail: bytes
) -> None:
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))
    path = SweepFolder(tmp_path / "out").ledger
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read(tmp_path / "out").outcomes) == [trials[0].trial_id]
    assert path.read_bytes() == whole + tail, "reading changes nothing"
    with opened(tmp_path) as ledger:
        assert path.read_bytes() == whole
        assert ledger.record_outcome(finished(trials[1]))
    assert tail.rstrip(b"\n") in SweepFolder(tmp_path / "out").torn.read_bytes()
    assert len(read(tmp_path / "out").outcomes) == 2


def test_every_prefix_of_a_ledger_opens(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """A kill may stop a write at any byte."""
    with opened(tmp_path) as ledger:
        ledger.record_configuration("arm", 0, {"beta": 0.5}, "c0")
        ledger.record_outcome(finished(trials[0]))
    whole = SweepFolder(tmp_path / "out").ledger.read_bytes()
    last = whole[:-1].rindex(b"\n")
    for cut in (*range(0, last, 37), *range(last, len(whole) + 1)):
        SweepFolder(tmp_path / "out").ledger.write_bytes(whole[:cut])
        with opened(tmp_path) as ledger:
            assert len(ledger.state.outcomes) + sum(map(len, ledger.state.asked.values())) == max(
                whole[:cut].count(b"\n") - 1, 0
            )
        SweepFolder(tmp_path / "out").torn.unlink(missing_ok=True)


def test_damage_in_the_middle_names_the_line(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))
        ledger.record_outcome(finished(trials[1]))
    path = SweepFolder(tmp_path / "out").ledger
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2] + b"\n" + lines[2])
    for attempt in (lambda: opened(tmp_path), lambda: read(tmp_path / "out")):
        with pytest.raises(UserError, match=r"ledger\.jsonl: line 2"):
            attempt()
    path.write_bytes(lines[0] + b'{"event": "outcome"}\n' + lines[2])
    with pytest.raises(UserError, match="line 2 is not an event"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"event": "header", "format": FORMAT + 1, "sweep": "toy-sweep", "identity": "abc"}, f"format {FORMAT + 1}"),
        ({"event": "header", "format": FORMAT, "sweep": "theirs", "identity": "abc"}, "sweep 'theirs'"),
        ({"event": "header", "format": FORMAT, "sweep": "toy-sweep", "identity": "other"}, "declared differently"),
        ({"event": "outcome"}, "format"),
    ],
)
def test_foreign_ledgers_are_refused_with_advice(tmp_path: Path, header: dict, words: str) -> None:  # type: ignore[type-arg]
    (tmp_path / "out").mkdir()
    SweepFolder(tmp_path / "out").ledger.write_text(json.dumps(header) + "\n")
    with pytest.raises(UserError, match=f"{words}.*choose another output folder") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("number", "age"), [(FORMAT - 1, "older"), (FORMAT + 1, "newer")])
def test_a_ledger_of_another_format_is_refused_and_left_as_it_is(
    tmp_path: Path, trials: tuple[TrialConfig, ...], number: int, age: str
) -> None:
    """This holds for a torn last line, too: only the version that wrote the ledger may cut it off."""
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))
    folder = SweepFolder(tmp_path / "out")
    whole = folder.ledger.read_bytes().replace(b'"format":%d' % FORMAT, b'"format":%d' % number) + b'{"event": "outc'
    folder.ledger.write_bytes(whole)
    for attempt in (lambda: opened(tmp_path), lambda: read(folder.path), lambda: read_raw(folder.path)):
        with pytest.raises(
            UserError, match=rf"ledger\.jsonl: .*an? {age} version.*format {number};.*choose another"
        ) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert folder.ledger.read_bytes() == whole
    assert not folder.torn.exists()


def test_an_outcome_that_lacks_its_cost_is_named(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """As an older version wrote it, to whoever reads: the driver and commands that only read."""
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))
    folder = SweepFolder(tmp_path / "out")
    folder.ledger.write_text(folder.ledger.read_text().replace('"cost":', '"costs":'))
    for attempt in (lambda: read(folder.path), lambda: read_raw(folder.path)):
        with pytest.raises(UserError, match=r"ledger\.jsonl: line 2 is not an event of this ledger: .*'cost'"):
            attempt()


def test_a_trial_of_other_numerics_is_refused(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))
    path = SweepFolder(tmp_path / "out").ledger
    path.write_text(path.read_text().replace('"numerics":2', '"numerics":0'))
    with pytest.raises(UserError, match=r"line 2: trial of numerics version 0.*choose another output folder"):
        opened(tmp_path)


def test_a_reader_that_asks_for_the_lock_does_not_refuse_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).close()
    reader = os.open(SweepFolder(tmp_path / "out").lock, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.close(reader))
    opened(tmp_path).close()


def test_a_second_driver_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.record_configuration("arm", 0, {}, "c")
        assert len(read(tmp_path / "out").asked) == 1
        with pytest.raises(UserError, match="another process is running this sweep"):
            opened(tmp_path)
    opened(tmp_path).close()


def test_a_killed_drivers_lock_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        opened(tmp_path).record_configuration("arm", 0, {}, "c")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with opened(tmp_path) as ledger:
        assert ledger.state.asked["arm"][0].configuration == "c"


def test_a_refused_open_leaves_the_lock_free(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(UserError):
        opened(tmp_path, identity="other")
    opened(tmp_path).close()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep ran there"):
        read(tmp_path)
    SweepFolder(tmp_path).ledger.touch()
    with pytest.raises(UserError, match="has not started"):
        read(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out.*(Not a directory|File exists)") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    ledger = opened(tmp_path)
    ledger.record_outcome(finished(trials[0]))
    whole = SweepFolder(tmp_path / "out").ledger.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))  # 100 bytes of the next line fit
    try:
        with pytest.raises(UserError, match=f"ledger.jsonl: {os.strerror(27)}"):
            ledger.record_outcome(finished(trials[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert SweepFolder(tmp_path / "out").ledger.read_bytes() == whole
    assert trials[1].trial_id not in ledger.state.outcomes
    assert ledger.record_outcome(finished(trials[1])), "there is room again"
    ledger.close()
    assert len(read(tmp_path / "out").outcomes) == 2


def test_the_outcomes_of_an_arm(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    with opened(tmp_path) as ledger:
        ledger.record_configuration("arm", 0, {"beta": 0.5}, trials[0].configuration_id)
        ledger.record_configuration("other arm", 0, {}, "c")
        ledger.record_outcome(finished(trials[0]))
    state = read(tmp_path / "out")
    assert [outcome.trial for outcome in state.outcomes_of("arm")] == [trials[0]]
    assert state.outcomes_of("other arm") == state.outcomes_of("no arm") == []


def test_failed_trials_may_be_trained_again(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """Their outcomes no longer count, those of others stay, and the next outcome is kept and read back."""
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0], "failed"))
        ledger.record_outcome(finished(trials[1]))
        assert ledger.state.failed == [trials[0].trial_id]
        ledger.retry(ledger.state.failed)
        assert list(read(tmp_path / "out").outcomes) == [trials[1].trial_id]
        assert ledger.record_outcome(finished(trials[0]))
    assert read(tmp_path / "out").outcomes[trials[0].trial_id].status == "finished"


def test_trials_that_could_not_be_judged_are_known(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """One was trained and then not judged, one scales its adapter; a third has diverged, a fourth lost its replies."""
    unjudged, diverged, lost, judged = trials[:4]
    scaled = replace(unjudged, adapter_scale=0.5)
    with opened(tmp_path) as ledger:
        ledger.record_code({"method a": "1"})
        for trial in (unjudged, lost, judged):
            ledger.record_generated(finished(trial))
        for trial in (unjudged, diverged, lost, scaled):
            ledger.record_outcome(finished(trial, "invalid"))
        ledger.record_outcome(finished(judged))
        again = ledger.state.unjudged(lambda trial_id: trial_id != lost.trial_id)
        assert again == [unjudged.trial_id, scaled.trial_id]
        ledger.record_code({"method a": "2"})
        ledger.retry(again)
        assert ledger.record_outcome(finished(unjudged))
    state, raw = read(tmp_path / "out"), read_raw(tmp_path / "out")
    assert list(state.outcomes) == [diverged.trial_id, lost.trial_id, judged.trial_id, unjudged.trial_id]
    assert state.made_with[unjudged.trial_id] == {"method a": "1"}  # that of its training
    assert raw.made_with == state.made_with


def test_what_was_made_with_other_code_is_known(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """The code is recorded where it changes; a trial that ended before keeps the older one, also when read back."""
    with opened(tmp_path) as ledger:
        ledger.record_outcome(finished(trials[0]))  # before any code was recorded: nothing is known
        ledger.record_code({"method a": "1", "method b": "1"})
        ledger.record_outcome(finished(trials[1]))
        ledger.record_outcome(finished(trials[2], "failed"))
        assert read_raw(tmp_path / "out").made_with_other_code("method a", "1") == []
        ledger.record_code({"method a": "2", "method b": "1"})
        ledger.record_outcome(finished(trials[3]))
    for _ in range(2):
        with opened(tmp_path) as ledger:
            ledger.record_code({"method a": "2"})
            raw = read_raw(tmp_path / "out")
            assert [outcome["trial"] for outcome in raw.made_with_other_code("method a", "2")] == [trials[1].to_json()]
            assert raw.made_with_other_code("method b", "1") == []
    assert SweepFolder(tmp_path / "out").ledger.read_text().count('"code"') == 2


def test_the_ids_in_an_event_are_those_of_its_content(tmp_path: Path, trials: tuple[TrialConfig, ...]) -> None:
    """Earlier versions wrote none, and what is no id is not taken for one: folders are named by them."""
    with Ledger(tmp_path, "s", "i") as ledger:
        for trial in trials:
            ledger.record_outcome(finished(trial))
    expected = read_raw(tmp_path)
    assert list(expected.outcomes) == [trial.trial_id for trial in trials]
    assert expected.configuration_of == {trial.trial_id: trial.configuration_id for trial in trials}
    path = tmp_path / "ledger.jsonl"
    header, *events = map(json.loads, path.read_text().splitlines())
    for ids in ({}, {"trial": "../../elsewhere", "configuration": 7}):
        bare = [{"event": event["event"], "outcome": event["outcome"], **ids} for event in events]
        path.write_text("".join(json.dumps(event) + "\n" for event in (header, *bare)))
        assert read_raw(tmp_path) == expected
