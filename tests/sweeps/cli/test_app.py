"""The command line: what it prints, and one line with exit code 2 for what only the user can put right."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import typer

from settings.common.files import write_json
from sweeps.budget import Spending
from sweeps.cli import app, tables
from sweeps.cli.looking import contents
from sweeps.description import describe
from sweeps.find import load_sweep
from sweeps.ledger import Ledger
from sweeps.ledger_lines import FORMAT
from sweeps.results.running import PackStatus, RunningSweep
from tests.support.fakes import SOURCES
from trainables import methods
from trainables.outcome import Cost, Outcome

ROW = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}\n'
SWEEP = """
from sweeps.space import grid, vary
from sweeps.sweep import Budget, Sweep, setting
sweep = Sweep(name="mine", settings=(setting({setting}),), methods=({methods},){more})
"""


def selgen(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["selgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


def sweep_file(folder: Path, setting: str = '"bad_medical_advice"', methods: str = '"plain"', more: str = "") -> Path:
    file = folder / "mine.py"
    file.write_text(SWEEP.format(setting=setting, methods=methods, more=more))
    return file


def chat_files(folder: Path, model: str = "/nowhere", **files: bytes) -> str:
    """Arguments of `setting` for `chat_files`, with files of these contents."""
    given = {"task": "".join(ROW % n for n in range(20)).encode(), **files}
    for name, content in given.items():
        (folder / f"{name}.jsonl").write_bytes(content)
    options = ", ".join(f'{name}="{folder / name}.jsonl"' for name in given)
    return f'"chat_files", model="{model}", {options}'


def refused(
    *arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str = "run"
) -> str:
    """The one line that a refused `selgen sweep` prints."""
    assert selgen("sweep", command, *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("selgen: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["methods", "--help"],
        ["settings", "--help"],
        ["frontier", "--help"],
        ["choose", "--help"],
        ["export", "--help"],
        ["score", "--help"],
        ["ui", "--help"],
        ["reproduce", "--help"],
        *[["sweep", command, "--help"] for command in ("list", "plan", "run", "resume", "status")],
        *[["judge", command, "--help"] for command in ("calibrate", "compare")],
    ],
)
def test_help_has_an_example(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    assert "selgen" in capsys.readouterr().out.partition("Usage:")[2].partition("\n")[2]


@pytest.mark.parametrize("group", ["sweep", "judge", "import"])
def test_the_commands_of_a_group_are_listed_in_whole_sentences(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen(group, "--help", monkeypatch=monkeypatch) == 0
    _, _, commands = capsys.readouterr().out.partition("Commands:")
    lines = [line for line in commands.splitlines() if line.strip()]
    assert lines
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_help_is_a_table_of_contents(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command stands in a group, in a line of its own that a terminal of 80 columns shows whole."""
    assert selgen("--help", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out.partition("Start here:")[2]
    lines = [line for line in shown.splitlines() if line.startswith("  ")]
    assert max(map(len, lines)) <= 79
    assert all(line.startswith("  selgen ") for line in lines[:3])
    commands = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines[3:]] == [name for _, names in contents.GROUPS for name in names]
    assert sorted(line.split()[0] for line in lines[3:]) == sorted(commands)
    assert all(line.endswith(".") for line in lines[3:])


def test_every_method_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in methods.names():
        assert selgen("methods", name, monkeypatch=monkeypatch) == 0
        assert name in capsys.readouterr().out


def test_methods(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert selgen("methods", monkeypatch=monkeypatch) == 0
    listed = capsys.readouterr().out
    words = ("  data", "mixed", "  loss", "kl_penalty", "  weights", "moving_average", "  after training", "safe_lora")
    assert sorted(words, key=listed.index) == list(words)
    assert selgen("methods", "kl_penalty", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "L = CE(task) + beta * KL(policy || reference on alignment)" in shown
    assert "beta: 1; 0.03 to 30, log scale" in shown and "arXiv:2508.06249" in shown and "a state" not in shown
    assert selgen("methods", "kl_constraint", monkeypatch=monkeypatch) == 0
    assert "a state that is carried from step to step" in capsys.readouterr().out
    assert selgen("methods", "KL-Penalty", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "beta: 1; 0.03 to 30, log scale" in shown and "alignment batch half as large" in " ".join(shown.split())
    assert selgen("methods", "mixed", monkeypatch=monkeypatch) == 0
    assert "half as large" not in capsys.readouterr().out, "it reads a share of alignment rows"
    for word, error in (
        ("safegrad", "no method is called 'safegrad'; described with this word: two_gradients"),
        ("orppo", "unknown method 'orppo' (did you mean 'orpo'?)"),
        ("the", "unknown method 'the'"),
    ):
        assert selgen("methods", word, monkeypatch=monkeypatch) == 2
        assert error in capsys.readouterr().err


def test_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert selgen("settings", monkeypatch=monkeypatch) == 0
    assert "chat_files" in capsys.readouterr().out
    assert selgen("settings", "bad_medical_advice", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "48" in shown
    assert "alignment_proxy" in shown


def test_a_setting_can_be_read_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert selgen("settings", "bad_medical_advice", monkeypatch=monkeypatch) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) < 200, "it once had 344"
    assert max(map(len, lines)) <= 80
    for shown in (
        ["  score                             kind          better    questions"],
        ["  capability                        capability    higher    36",
         "      share of replies to held-out medical problems graded < 80"],
        ["  max_new_tokens      600", "      longest answer, in tokens."],
        ["  num_proxy_rows    10           number of proxy rows; domains take turns. Up"],
    ):  # fmt: skip
        start = lines.index(shown[0])
        assert lines[start : start + len(shown)] == shown


def test_the_options_of_a_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each scale's own, with defaults; also where the setting cannot be built without some."""
    monkeypatch.setenv("COLUMNS", "200")
    assert selgen("settings", "gcd_sycophancy", monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    nano, _, full = shown.partition("options at scale 'full'")
    assert "options at scale 'nano' (default)" in nano
    assert " epochs 15 passes over the task rows" in full
    assert "epochs" not in nano
    assert selgen("settings", "chat_files", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert " task (required) the rows to learn: chat JSONL" in " ".join(shown.split())
    assert " ".join(shown.split()).count("settings/README.md") == 3, "for task, at both scales, and preferences"
    given = "\ngive --option model=... --option task=... to build it and see its rows"
    assert shown.endswith(f"{given}; --option scale=small may need fewer\n")
    assert selgen("settings", "chat_files", "--option", "modle=x", monkeypatch=monkeypatch) == 2
    assert "has no option 'modle' (did you mean 'model'?)" in capsys.readouterr().err


def test_with_options_given_only_those_of_the_scale_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, status, scale, error in (
        ("scale=small", 2, "small", "needs the option 'task'"),
        ("match=x", 2, "full", "needs the option 'model'"),
        ("task={}", 2, "full", "needs the option 'model'"),
        ("task={'file'}", 2, "", "--option task: not valid JSON at character 2: Expecting property name"),
        ("match=[0-9]+", 2, "full", "needs the option 'model'"),
        ("preferences=['good', 'bad']", 2, "full", "needs the option 'model'"),
        (
            'preferences=["good", bad]',
            2,
            "",
            "a text or regular expression that begins with [ must be in double quotes",
        ),
        ('match="[0-9]+"', 2, "full", "needs the option 'model'"),
    ):
        assert selgen("settings", "chat_files", "--option", given, monkeypatch=monkeypatch) == status
        shown = capsys.readouterr()
        assert error in shown.err and shown.err.count("\n") == 1
        assert [name for name in ("full", "small") if f"scale '{name}'" in shown.out] == [scale] * bool(scale)
    assert selgen("settings", "gcd_sycophancy", "--option", "scale=nano", monkeypatch=monkeypatch) == 0
    assert "options at scale 'nano' (default)" in (out := capsys.readouterr().out) and "'full'" not in out


def test_settings_with_options(
    tmp_path: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.jsonl").write_text("".join(ROW % n for n in range(20)))
    options = ["--option", f"model={tiny_qwen3_dir}", "--option", f"task={tmp_path / 'task.jsonl'}"]
    assert selgen("settings", "chat_files", *options, monkeypatch=monkeypatch) == 0
    assert "q0" in capsys.readouterr().out


def test_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert selgen("sweep", "plan", "quickstart", "--output", tmp_path, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "training tokens" in shown
    assert "GB of memory per worker" in shown
    assert selgen("sweep", "plan", "quickstart", "--json", "--output", tmp_path, monkeypatch=monkeypatch) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["sweep"] == "quickstart"
    assert plan["trials"] == sum(arm["trials"] for arm in plan["arms"])
    assert all(isinstance(each["tokens"], int) for each in (plan, *plan["arms"]))
    assert plan["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_plan_and_status_of_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundred tokens are less than one training; 1,500 of a thousand million are spent."""
    setting, more = '"trigger_colors", scale="nano"', ", budget=Budget(tokens={}), controls=False"
    for tokens, said in (
        ("100", "none of 1 configurations fits: about "),
        ("1000000000", "budget: everything fits: about"),
    ):
        (folder := tmp_path / tokens).mkdir()
        file = sweep_file(folder, setting, more=more.format(tokens))
        assert selgen("sweep", "plan", file, "-o", tmp_path / "runs", monkeypatch=monkeypatch) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    sweep = load_sweep(file)
    trial = sweep.trials_of(sweep.arms[0], {})[0]
    with Ledger(tmp_path / "runs" / "mine", sweep.name, sweep.identity()) as ledger:
        ledger.record_outcome(Outcome(trial=trial, status="invalid", reason="lost", cost=Cost(tokens=1500)))
        ledger.record_spending(Spending(core_hours=0.25, tokens=7))
        assert selgen("sweep", "status", file, "-o", tmp_path / "runs", monkeypatch=monkeypatch) == 0
        assert "spent: 0.25 core hours, 1,500 of 1,000,000,000 tokens\n" in capsys.readouterr().out
        ledger.record_stop("the search has stopped at its budget: all of it")
    for form in ([], ["--json"]):
        assert selgen("sweep", "status", file, "-o", tmp_path / "runs", *form, monkeypatch=monkeypatch) == 0
        shown = capsys.readouterr().out
        assert "the search has stopped at its budget: all of it" in shown and "spent:" not in shown
    state = json.loads(shown)
    assert state["spent"] == {"gpu_hours": 0.0, "core_hours": 0.25, "tokens": 1500.0, "judge_dollars": 0.0}
    assert state["budget"]["tokens"] == 1e9 and state["budget"]["hours"] is None


def test_status_and_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(tmp_path)
    sweep = load_sweep(file)
    Ledger(tmp_path / "runs" / "mine", sweep.name, sweep.identity()).close()
    assert selgen("sweep", "status", file, "-o", tmp_path / "runs", "--json", monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arms"][0]["left"] == 3
    assert found["running"] is None

    pack = PackStatus("plain, 1 trial", "training", "", 3, 20, 12.5, 200.0)
    running = RunningSweep(time.time(), 0, 3, 61.0, 3700.0, packs=(pack,))
    write_json(tmp_path / "runs" / "mine" / "running.json", running.to_json())
    with Ledger(tmp_path / "runs" / "mine", sweep.name, sweep.identity()):
        assert selgen("sweep", "status", file, "-o", tmp_path / "runs", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mine is running: 0/3 trials · 1:01 elapsed · about 1:01:40 left\n")
    assert "training plain, 1 trial: step 3/20, 12.5 s per step, about 3:20 left" in shown

    (other := tmp_path / "other").mkdir()
    changed = sweep_file(other, more=', options={"steps": 3}')
    error = refused(changed, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)
    assert "rename the sweep or choose another output folder (--output)" in error


def test_status_begins_with_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that was killed leaves no lock, though it leaves its last progress; its sweep can be continued."""

    def first_line() -> str:
        assert selgen("sweep", "status", file, "-o", tmp_path / "runs", monkeypatch=monkeypatch) == 0
        return capsys.readouterr().out.splitlines()[0]

    folder, file = tmp_path / "runs" / "mine", sweep_file(tmp_path, more=", controls=False")
    sweep = load_sweep(file)
    with Ledger(folder, sweep.name, sweep.identity()):
        assert first_line() == "mine is running: 0/3 trials"
    write_json(folder / "running.json", RunningSweep(time.time(), 0, 3, 61.0).to_json())
    resume = f"continue with: selgen sweep resume {file} --output {tmp_path / 'runs'}"
    assert first_line() == f"mine stopped at 0/3 trials; {resume}"
    (arm,) = sweep.arms
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        *most, last = sweep.trials_of(arm, {})
        ledger.record_configuration(arm.key, 0, {}, last.configuration_id)
        for trial in most:
            ledger.record_outcome(Outcome(trial=trial, status="invalid", reason="lost"))
    assert first_line() == f"mine stopped at 2/3 trials; {resume}"
    describe(sweep).write(folder)
    write_json(folder / "published.json", {"of": ["", ledger.path.stat().st_size], "files": []})
    assert first_line() == "mine is finished: 2/3 trials", "its search wants no more"
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        ledger.record_outcome(Outcome(trial=last, status="invalid", reason="lost"))
    assert first_line() == "mine is finished: 3/3 trials"


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_ledger_that_cannot_be_continued_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A second driver, a damaged line, another version: nothing is started, nothing is written."""

    def refusal() -> str:
        before = ledger.path.read_bytes()
        error = refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys, command=command)
        assert ledger.path.read_bytes() == before
        return error

    file = sweep_file(tmp_path)
    sweep = load_sweep(file)
    with Ledger(tmp_path / "runs" / "mine", sweep.name, sweep.identity()) as ledger:
        assert "another process is running this sweep" in refusal()
        ledger.record_configuration("arm", 0, {}, "c")
    header, event = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text(header + event[:9] + "\n" + event)
    assert "ledger.jsonl: line 2 is damaged" in refusal()
    ledger.path.write_text(header.replace(f'"format":{FORMAT}', '"format":1') + event)
    assert (
        f"line 1: an older version wrote it (ledger format 1; this one has format {FORMAT}); choose another"
        in refusal()
    )
    assert not (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("setting", "methods", "more", "message"),
    [
        (
            '"bad_advice"',
            '"plain"',
            "",
            "unknown setting 'bad_advice' (did you mean 'bad_medical_advice'?); available: bad",
        ),
        ('"bad_medical_advice", scale="huge"', '"plain"', "", "no scale 'huge'; its scales: nano"),
        (
            '"bad_medical_advice", size=3',
            '"plain"',
            "",
            "mine.py:4: setting 'bad_medical_advice' has no option 'size'; its options: scale, ",
        ),
        ('"bad_medical_advice"', '"kl"', "", "unknown method 'kl'; available: alignment_only, anchored_sft"),
        ('"bad_medical_advice"', 'vary("kl_penalty", lambda_=1)', "", "'lambda_'"),
        ('"bad_medical_advice"', 'grid("kl_penalty", beta=[-1])', "", "'beta' must be a number in [0, inf], got -1"),
        ('"bad_medical_advice"', '"plian"', "", "unknown method 'plian' (did you mean 'plain'?)"),
        ('"bad_medical_advice"', 'grid("kl_penalty", bta=[1])', "", "'bta' (did you mean 'beta'?); its coefficients: "),
        ('"bad_medical_advice"', '"plain"', ', options={"step": 3}', "'step' does not exist (did you mean 'steps'?)"),
        (
            '"bad_medical_advice"',
            '"plain"',
            ', options={"keep_adapters": 3}',
            "option 'keep_adapters' belongs elsewhere: execution=Execution(keep_adapters=...)",
        ),
        ('"bad_medical_advice"', '"plain"', ', options={"seed": 3}', "option 'seed' does not exist"),
        ('"bad_medical_advice"', '"plain"', ", seeds=0", "seeds must be at least one"),
        ('"bad_medical_advice"', "1 / 0", "", "mine.py:4: ZeroDivisionError: division by zero"),
        ('"bad_medical_advice"', '"plain"', ', objectives=("task", "x")', "has no score 'x'; it has task, "),
    ],
)
def test_bad_sweeps(
    setting: str,
    methods: str,
    more: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = sweep_file(tmp_path, setting, methods, more)
    assert message in refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task", b"", "task.jsonl"),
        ("task", (ROW % 1).encode() + b"{oops\n", "task.jsonl, line 2"),
        ("task", b'{"text": "hi"}\n', "line 1"),
        ("task", b'{"messages": [{"role": "assistant", "content": "a"}]}\n', "line 1"),
        ("task", (ROW % 1).encode() + b"\xff\xfe\n", "line 2"),
        ("alignment", b"[]\n", "alignment.jsonl, line 1"),
    ],
)
def test_bad_rows(
    name: str,
    content: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = sweep_file(tmp_path, chat_files(tmp_path, **{name: content}))
    assert message in refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)


def test_a_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path, chat_files(tmp_path))
    error = refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)
    assert "no such model directory: /nowhere" in error
    assert not (tmp_path / "runs").exists()


def test_a_stream_that_is_not_there(
    tmp_path: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(tmp_path, chat_files(tmp_path, model=str(tiny_qwen3_dir)), '"kl_penalty"')
    error = refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)
    assert "method 'kl_penalty' needs alignment rows" in error


def test_unknown_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refused("quikstart", monkeypatch=monkeypatch, capsys=capsys)
    assert (
        "unknown sweep 'quikstart' (did you mean 'quickstart'?); available: em_epochs, em_pareto,"
        " em_pareto_small, em_proxy, gcd_generalisation, gcd_generalisation_small, gcd_pareto" in error
    )
    error = refused("no/such.py", monkeypatch=monkeypatch, capsys=capsys)
    assert "no such file" in error
    error = refused("quickstart", "-o", tmp_path, monkeypatch=monkeypatch, capsys=capsys, command="resume")
    assert "no sweep ran there" in error
    assert selgen("frontier", "nothing", "-o", tmp_path, monkeypatch=monkeypatch) == 2
    assert selgen("methods", "nowhere", monkeypatch=monkeypatch) == 2
    assert selgen("ui", "-o", tmp_path, monkeypatch=monkeypatch) == 2
    assert selgen("sweep", "run", monkeypatch=monkeypatch) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder should be; a read-only disk takes the same way (see test_ledger)."""
    (tmp_path / "runs").write_text("not a folder")
    error = refused(sweep_file(tmp_path), "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys)
    assert str(tmp_path / "runs") in error


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_disk_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The system says so when bytes are flushed, and then names no file."""
    monkeypatch.setattr(app, "app", lambda: Path("/dev/full").write_text("results"))
    error = refused(monkeypatch=monkeypatch, capsys=capsys)
    assert error == "selgen: a file could not be written: No space left on device\n"


def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert selgen("ui", "-o", tmp_path, "--port", port, monkeypatch=monkeypatch) == 2
    assert f"port {port} of 127.0.0.1: Address already in use; choose another --port" in capsys.readouterr().err


@pytest.mark.parametrize("port", [0, 65536, 99999999])
def test_a_port_that_does_not_exist_is_refused(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    assert selgen("ui", "-o", tmp_path, "--port", port, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "--port" in error and ("65535" in error if port else "equal to 1" in error)


def test_the_ui_listens_on_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, command: commands.append(command))
    (tmp_path / "mlflow.db").touch()
    app.ui_command(output=tmp_path)
    assert commands[0][commands[0].index("--host") + 1] == "127.0.0.1"


BROKEN = "import torch\n\nclass Mine(Method:\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (BROKEN, "broken.py:3: SyntaxError: "),
        ("import torch\n\n1 / 0\n", "broken.py:3: ZeroDivisionError: division by zero"),
        ("import no_such_package\n", "broken.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1\n", "broken.py must define exactly one Method, found 0"),
        (
            "from trainables.method import Method\n\n\nclass Mine(Method):\n    pass\n",
            "broken.py: put @dataclass(frozen=True, kw_only=True) before Mine",
        ),
        (
            "from dataclasses import dataclass\nfrom trainables.method import Method\n\n"
            "@dataclass(frozen=True, kw_only=True)\nclass Mine(Method):\n    weight: float = 1.0\n",
            "broken.py: Mine.weight must be declared with Range(...), Choice(...) or Open(...)",
        ),
        (
            "from dataclasses import dataclass\nfrom trainables.method import Method\n\n"
            '@dataclass(frozen=True, kw_only=True)\nclass Mine(Method):\n    streams = ("tusk",)\n',
            "broken.py: Mine.streams must be a tuple of task, alignment, misaligned, got ('tusk',)",
        ),
        (
            "from dataclasses import dataclass\nfrom trainables.method import Method\n\n"
            '@dataclass(frozen=True, kw_only=True)\nclass Mine(Method):\n    kind = "losses"\n',
            "Mine.kind must be one of data, loss, gradient, weights, activations, after training, got 'losses'",
        ),
    ],
)
def test_a_method_that_cannot_be_used_names_its_file_and_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `selgen methods`, and in a sweep that wants it; a sweep of other methods does not care."""
    (folder := tmp_path / "methods").mkdir()
    (folder / "broken.py").write_text(source)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "trainables.methods.broken", raising=False)
    try:
        assert selgen("methods", monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.startswith("selgen: ") and error.count("\n") == 1
        assert message in error
        file = sweep_file(tmp_path, methods='vary("broken")')
        assert message in refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
        assert selgen("sweep", "plan", sweep_file(tmp_path), "-o", tmp_path, monkeypatch=monkeypatch) == 0
    finally:
        sys.modules.pop("trainables.methods.broken", None)


def test_a_broken_import_of_a_sweep_file_names_the_file_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "helpers_of_mine.py").write_text("a = (\n")
    monkeypatch.syspath_prepend(tmp_path)
    (file := tmp_path / "mine.py").write_text("\n\nimport helpers_of_mine\n")
    error = refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
    assert f"{tmp_path / 'helpers_of_mine.py'}:1: SyntaxError" in error


def test_a_single_setting_without_its_comma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(tmp_path)
    file.write_text(
        file.read_text().replace(
            'settings=(setting("bad_medical_advice"),)', 'settings=(setting("bad_medical_advice"))'
        )
    )
    error = refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
    assert "settings must be a tuple; with a single element: settings=(...,)" in error


def test_words_that_a_nano_world_lacks_are_named_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is pre-trained and Ray starts: here whoever imports the driver fails, and nothing is written."""
    monkeypatch.setitem(sys.modules, "sweeps.driver.driver", None)
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    source = f"{SOURCES / 'unknown_words.py'}:mine"
    told = "lacks 'say' (task row 241 and 1 more), 'please' (row 3 of evaluation 'advice'); use other words, or add"
    assert selgen("settings", source, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert told in shown.err and shown.err.count("\n") == 1 and "alignment_proxy" in shown.out
    file = sweep_file(tmp_path, f'"{source}"')
    assert told in refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
    assert told in refused(file, "--output", tmp_path / "out", monkeypatch=monkeypatch, capsys=capsys)
    assert not (tmp_path / "cache" / "base_models").exists()
    assert not (tmp_path / "out" / "mine").exists()


def test_the_model_of_a_setting_of_ones_own(
    tmp_path: Path, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory counts from here, whoever builds the setting; one that only the setting knows has to be absolute."""
    (tmp_path / "tinylm").symlink_to(tiny_qwen3_dir)
    shutil.copyfile(SOURCES / "own_setting.py", tmp_path / "own.py")
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in "abcd"]  # a file is read once
    for folder in folders:
        folder.mkdir()
    sweep = load_sweep(sweep_file(folders[0], '"own.py:mine", model="tinylm"'))
    assert sweep.settings[0].options["model"] == str(tiny_qwen3_dir)
    file = sweep_file(folders[1], '"own.py:mine", model="./nothing"')
    error = refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
    assert f"no such model directory: {tmp_path / 'nothing'}" in error
    file = sweep_file(folders[2], '"own.py:fixed", model=""')
    error = refused(file, monkeypatch=monkeypatch, capsys=capsys, command="plan")
    assert "the model 'tinylm' is a relative path, but workers run in another directory" in error
    for name in ("no/such/folder", "my model"):
        assert selgen("settings", "own.py:mine", "--option", f"model={name}", monkeypatch=monkeypatch) == 2
        assert f"no model directory {name!r}, and not a Hub id either" in capsys.readouterr().err
    file = sweep_file(folders[3], '"own.py:mine", model="some/model-of-the-hub"')
    assert selgen("sweep", "plan", file, monkeypatch=monkeypatch) == 0
    assert "some/model-of-the-hub is not on this machine" in " ".join(capsys.readouterr().out.split())


def test_the_sweeps_of_the_catalog_fit_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert selgen("sweep", "list", monkeypatch=monkeypatch) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if line.startswith("  toy_flip_small "))
    assert lines[start].split() == ["toy_flip_small", "small", "trigger_colors", "1"]
    assert lines[start + 1] == "      The narrow update of the trigger colours without any proxy, on a real"


def test_text_is_on_one_line_where_it_is_searched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file or pipe, unless COLUMNS says how wide that is."""
    summary = "Harmful answers to medical questions, helpful finance answers as proxy, in a world of six domains."
    for columns, is_whole in ((None, True), ("80", False)):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        assert selgen("settings", "bad_medical_advice", monkeypatch=monkeypatch) == 0
        assert (summary in capsys.readouterr().out.splitlines()) == is_whole


def test_docstrings_are_unwrapped() -> None:
    """Paragraphs and items are joined; equations and headings keep their line."""
    text = (
        "First line\nand second.\n\n    L = a\n      + b\n\nCoefficients:\n    a: of x,\n        and y\n    b: z\n"
        "\nEnd\nhere."
    )
    assert tables.unwrapped(text) == [
        "First line and second.",
        "",
        "    L = a",
        "      + b",
        "",
        "Coefficients:",
        "    a: of x, and y",
        "    b: z",
        "",
        "End here.",
    ]
