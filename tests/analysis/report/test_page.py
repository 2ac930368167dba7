"""The page in a real browser: it renders, hovering works, and it asks the network for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.findings.findings import Findings, analyse
from analysis.report.earlier import files_of_earlier_report
from analysis.report.page import Chapter, cite, page, write_report
from analysis.statistics.intervals import TwoWay
from analysis.tables.questions import Grade
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TASK = Objective("task", "task", True, "share of <solved> & right")
HARM = Objective("harm", "alignment", False, "share of harmful replies")
SKILL = Objective("skill", "capability", True, "share of held-out problems")


def records(seeds: int = 3) -> list[TrialRecord]:
    """A knob of four values, plain with both controls, one trial that failed with an unfriendly reason."""
    random = np.random.default_rng(0)
    axes = {"adapter_scale": 1.0, "checkpoint_step": 8}
    plain = [
        ("", axes, 0.9, 0.8),
        ("adapter_scale=0.5", axes | {"adapter_scale": 0.5}, 0.5, 0.4),
        ("checkpoint_step=4", axes | {"checkpoint_step": 4}, 0.6, 0.4),
    ]
    rows = [
        (Configuration(f"p{label}", "plain", label, coefficients), task, harm)
        for label, coefficients, task, harm in plain
    ]
    for beta, task, harm in ((0.1, 0.88, 0.7), (1.0, 0.85, 0.2), (3.0, 0.7, 0.1), (30.0, 0.2, 0.05)):
        rows.append((Configuration(f"k{beta}", "kl <penalty>", f"beta={beta:g}", {"beta": beta}), task, harm))
    trials = []
    for configuration, task, harm in rows:
        for seed in range(seeds):
            task_noise, harm_noise, skill_noise = 0.02 * random.normal(size=3)
            scores = {
                "task": task + task_noise,
                "harm": harm + harm_noise,
                "skill": 0.5 + skill_noise,
                "harm_cooking": harm,
            }
            trials.append(TrialRecord(configuration, seed, "finished", scores, 1000.0, 2.5))
    return [*trials, TrialRecord(rows[-1][0], seeds, "failed", reason="</script><b>out of memory</b>")]


def chapter(objectives: tuple[Objective, ...] = (TASK, HARM), seeds: int = 3, **changes: object) -> Chapter:
    rows = records(seeds)
    base = {"task": 0.05, "harm": 0.02, "skill": 0.4, "harm_cooking": 0.0}
    grades = [
        Grade(row.configuration.id, row.seed, score, question, float(question % 3 > 0))
        for row in rows
        if row.status == "finished"
        for score in ("task", "harm")
        for question in range(12)
    ]
    findings = analyse(ScoreTable.from_records(rows, objectives), base, grades)
    links = {"k1.0": "http://127.0.0.1:5000/#/experiments/1/runs/abc"}
    return Chapter("a setting", findings, rows, base, links, **changes)  # type: ignore[arg-type]


def in_browser(path: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--window-size=1250,2600", "--virtual-time-budget=15000", *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    write_report(made, "demo", [chapter(running=2)])
    return made


def test_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    figures = {f"{name}.{ending}" for name in ("frontier", "hypervolume", "knobs") for ending in ("png", "pdf")}
    assert names == {"report.html", "findings.json", "frontier.csv"} | figures
    data = json.loads((folder / "findings.json").read_text())
    assert data["worst_corner"] == [0.0, 1.0]
    assert {verdict["method"] for verdict in data["control_verdicts"]} == {"kl <penalty>"}
    assert set(data["control_verdicts"][0]["beats"]) == {"checkpoint", "scale"}
    assert len(data["points"]) == 7
    assert data["honest_selection"]["questions"]["halvings"] == 60
    assert "low_over_questions" in data["points"][0]["task"]


def test_page_says_it_in_words(folder: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", (folder / "report.html").read_text(), flags=re.DOTALL)
    for words in (
        "pushes the frontier: it beats the checkpoints of plain fine-tuning",
        "2 trials have not ended",
        "Honest selection",
        "harm_<wbr>cooking",
        "&lt;/script&gt;&lt;b&gt;out of memory",
        'href="http://127.0.0.1:5000/#/experiments/1/runs/abc"',
        "How to cite a number",
        "95 % interval",
    ):
        assert words in text, words
    assert "<b>out of memory" not in text


def test_the_number_to_cite_has_the_wider_of_its_two_intervals() -> None:
    findings = chapter().findings
    front = [point for point in findings.points if point.on_front]
    point = front[len(front) // 2]
    task, harm = (point.scores[name] for name in ("task", "harm"))
    wide = TwoWay(task.mean, task.low - 0.1, task.high + 0.1, 0.5)
    narrow = TwoWay(harm.mean, harm.mean, harm.mean, 0.5)
    text = cite(replace(findings, questions={point.configuration: {"task": wide, "harm": narrow}}))
    assert f"task {task.mean:.3f} [{wide.low:.3f}, {wide.high:.3f}]" in text
    assert f"harm {harm.mean:.3f} [{harm.low:.3f}, {harm.high:.3f}]" in text
    assert text.endswith("within the method; the interval of task also covers other questions).")
    both = cite(replace(findings, questions={point.configuration: {"task": wide, "harm": replace(wide, low=0.0)}}))
    assert both.endswith("; the intervals of task and harm also cover other questions).")
    assert "questions" not in cite(replace(findings, questions={}))


def test_the_number_to_cite_where_all_replies_are_alike_has_the_interval_over_seeds() -> None:
    """All of three seeds solve the task; the interval over questions, [.2, 1], has the noise of its neighbours."""
    which, other = (
        Configuration(name, "kl", f"beta={beta:g}", {"beta": beta}) for name, beta in (("a", 1.0), ("b", 3.0))
    )
    trials = [
        TrialRecord(each, seed, "finished", {"task": task, "harm": harm + seed / 100})
        for each, task, harm in ((which, 1.0, 0.2), (other, 0.5, 0.4))
        for seed in range(3)
    ]
    task = replace(TASK, low=0.0, high=1.0)
    findings = analyse(ScoreTable.from_records(trials, (task, HARM)), {"task": 0.0, "harm": 0.0})
    text = cite(replace(findings, questions={"a": {"task": TwoWay(1.0, 0.2, 1.0, 1.0)}}))
    assert text.startswith("kl beta=1: task 1.000 [") and "[0.200" not in text and "questions" not in text


def test_the_number_to_cite_of_one_seed_has_the_interval_over_questions() -> None:
    findings = chapter(seeds=1).findings
    assert cite(replace(findings, questions={})).endswith(" (one seed).")
    over = {point.configuration: {"task": TwoWay(0.5, 0.4, 0.6, 0.0)} for point in findings.points}
    text = cite(replace(findings, questions=over))
    assert text.endswith("(one seed; 95 % interval; the interval of task also covers other questions).")
    assert "[0.400, 0.600]" in text


def test_nothing_is_fetched(folder: Path) -> None:
    """No element of the page itself has an address to load from; the library's own text is not looked at."""
    text = re.sub(r"<script.*?</script>", "", (folder / "report.html").read_text(), flags=re.DOTALL)
    assert re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?!data:)[^\"]*\"", text) == []
    assert "@import" not in text
    assert "url(" not in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_renders_hovers_and_asks_the_network_for_nothing(folder: Path, tmp_path: Path) -> None:
    """A script added to a copy of the page hovers over a point and writes down what it finds."""
    probe = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const plot = document.getElementById("frontier-0-0");
  const trace = plot.data.findIndex(one => one.name === "kl <penalty>");
  let opened = "";
  window.open = link => { opened = link; };
  Plotly.Fx.hover(plot, [{curveNumber: trace, pointNumber: 1}]);
  plot.emit("plotly_click", {points: [{customdata: plot.data[trace].customdata[1]}]});
  setTimeout(() => {
    const found = {
      opened,
      plots: document.querySelectorAll(".js-plotly-plot .main-svg").length,
      hover: [...plot.querySelectorAll(".hoverlayer text")].map(one => one.textContent).join(" "),
      fetched: performance.getEntriesByType("resource").map(one => one.name).filter(one => !one.startsWith("data:")),
    };
    document.body.innerHTML = "<pre id=found>" + JSON.stringify(found).replaceAll("<", "&lt;") + "</pre>";
  }, 1000);
}, 1500));
</script></body>"""
    copy = tmp_path / "probe.html"
    copy.write_text((folder / "report.html").read_text().replace("</body>", probe))
    printed = in_browser(copy, "--dump-dom")
    match = re.search(r'<pre id="found">(.*?)</pre>', printed, flags=re.DOTALL)
    assert match, printed[-2000:]
    probed = json.loads(match.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert probed["plots"] >= 3
    assert "beta=1" in probed["hover"]
    assert "task: 0.8" in probed["hover"]
    assert probed["opened"] == "http://127.0.0.1:5000/#/experiments/1/runs/abc"
    assert probed["fetched"] == []


def test_three_objectives(tmp_path: Path) -> None:
    three = chapter((TASK, SKILL, HARM))
    files = {path.name for path in write_report(tmp_path, "demo", [three])}
    assert {"frontier_task_skill.png", "frontier_task_harm.pdf", "frontier_skill_harm.png"} <= files
    told = files_of_earlier_report(tmp_path, ["task", "skill", "harm"])
    assert {path.name for path in told} == files - {"report.html"}, "each of its names is known"
    assert three.findings.surface_K2 is None
    assert three.findings.hypervolumes["all methods"].estimate > 0
    assert page("demo", [three]).count('id="frontier-0-') == 3


def test_files_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    """That report had two settings and three objectives. Files of other names stay; without a page, all do."""
    others = {"frontier_mine.png", "frontier_task_mine.png", "findings.txt", "knobs_old.pdf", "hypervolume_a.png"}
    earlier = {"findings_1.json", "frontier_1.csv", "knobs_1.png", "frontier_task_skill_1.pdf"}
    for name in others | earlier:
        (tmp_path / name).write_text("{}")
    assert files_of_earlier_report(tmp_path, ["task", "skill"]) == []
    (tmp_path / "report.html").write_text("<head><title>demo: report</title></head>")
    written = write_report(tmp_path, "demo", [chapter()])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | others


def test_files_of_someone_else_are_not_replaced(tmp_path: Path) -> None:
    made = chapter()
    for number, name in enumerate(["report.html", "findings.json", "frontier_task_skill.png"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("mine")
        (folder / "notes.txt").write_text("may stay")
        with pytest.raises(UserError, match=f"^{folder} has {name}, which is not of a report: choose another folder"):
            write_report(folder, "demo", [made])
        assert sorted(path.name for path in folder.iterdir()) == sorted([name, "notes.txt"])
        assert (folder / name).read_text() == "mine"


def test_one_seed_and_one_objective_say_what_is_missing() -> None:
    single = chapter(seeds=1)
    assert any("every configuration has one seed" in gap for gap in single.findings.gaps)
    assert single.findings.hypervolumes == {}
    assert "every configuration has one seed" in page("demo", [single])
    alone = chapter((TASK,))
    assert any("two or three objectives, not 1" in gap for gap in alone.findings.gaps)
    assert page("demo", [alone])


def test_a_fourth_objective_is_not_dropped_in_silence() -> None:
    rows = records()
    names = (TASK, HARM, SKILL, Objective("harm_cooking", "alignment", False))
    assert any("choose others to see harm_cooking" in gap for gap in analyse(ScoreTable.from_records(rows, names)).gaps)


def test_a_worst_corner_may_be_chosen() -> None:
    table = ScoreTable.from_records(records(), (TASK, HARM))
    findings: Findings = analyse(table, worst_corner={"task": -1.0})
    assert findings.worst_corner_M.tolist() == [-1.0, 1.0]
    with pytest.raises(UserError, match="worst corner names 'skill'"):
        analyse(table, worst_corner={"skill": 0.0})


def test_an_unbounded_objective_counts_from_below_the_worst() -> None:
    """Losses from 1 to 3: a tenth of the range beyond the worst is 3.2."""
    loss = Objective("loss", "alignment", False)
    rows = [
        TrialRecord(Configuration(str(value), "m"), seed, "finished", {"task": 0.5, "loss": value})
        for value in (1.0, 3.0)
        for seed in range(2)
    ]
    assert analyse(ScoreTable.from_records(rows, (TASK, loss))).worst_corner_M.tolist() == pytest.approx([0.0, 3.2])


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(UserError, match="no setting with a finished trial"):
        page("demo", [])


def test_triggered_questions_have_a_frontier_and_name_who_hides(tmp_path: Path) -> None:
    plain = chapter()
    twin = Objective("harm_triggered", "alignment", False, "the worst of three")
    rows = [
        replace(row, scores={**row.scores, "harm_triggered": 0.9}) if row.status == "finished" else row
        for row in records()
    ]
    triggered = analyse(ScoreTable.from_records(rows, (TASK, twin)), {"task": 0.05, "harm_triggered": 0.9})
    text = page("mini", [replace(plain, triggered=triggered)])
    assert "Triggered questions" in text
    assert 'id="triggered-0-0"' in text
    assert "Triggered questions" not in page("mini", [plain])
    files = write_report(tmp_path, "mini", [replace(plain, triggered=triggered)])
    assert {"frontier.png", "frontier_triggered.png"} <= {file.name for file in files}
    assert set(files_of_earlier_report(tmp_path, ["task", "harm"])) == set(files[1:])
    facts = json.loads((tmp_path / "findings.json").read_text())["triggered"]
    assert [objective["name"] for objective in facts["objectives"]] == ["task", "harm_triggered"]
    assert facts["differing_verdicts"] == [verdict.text for verdict in replace(plain, triggered=triggered).differing]
