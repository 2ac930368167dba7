"""The report of a sweep: one HTML page that needs no network, and figures and tables for a paper."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from analysis.figures import interactive
from analysis.figures.static import paper_figures
from analysis.figures.style import Style, marker_outline, method_styles, save_figure
from analysis.findings.cautions import P_FRONT
from analysis.findings.findings import Findings
from analysis.findings.frontier import csv_text
from analysis.findings.judges import JudgeComparison
from analysis.findings.named_points import NamedPoint, standing
from analysis.findings.reading import read_findings
from analysis.findings.ties import Entry, entries, point_title
from analysis.findings.triggered import DifferingVerdict, differing_verdicts
from analysis.report.earlier import PAGE, files_of_earlier_report, refuse_other_files
from analysis.report.judges import judges_plot, judges_section
from analysis.statistics.arrays import mean, number_text
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError
from settings.common.files import write_text
from settings.common.text import listed

TEMPLATE = "report.html.j2"
MOST_ADVICE, MOST_TRIALS, MOST_SCORES = 8, 50, 8  # rows that a reader will look at, and columns that fit a laptop
PLOT = {"displaylogo": False, "responsive": True}


@dataclass(frozen=True)
class Chapter:
    """One setting of a sweep.

    Attributes:
        setting: its label.
        findings: the results of its trials.
        records: the trials, with all scores.
        base_scores: score name -> mean of the untouched base model.
        links: configuration id -> address of its run in MLflow.
        running: number of trials that have not ended.
        triggered: the results with triggered questions in place of ordinary ones; None if none were asked.
        named: scored models that are not trials of the sweep.
        judges: the comparison with other judges of the same replies; None if there is none.
    """

    setting: str
    findings: Findings
    records: Sequence[TrialRecord]
    base_scores: Mapping[str, float]
    links: Mapping[str, str]
    running: int = 0
    triggered: Findings | None = None
    named: Sequence[NamedPoint] = ()
    judges: JudgeComparison | None = None

    @property
    def standings(self) -> list[str]:
        """One line for each scored model: its scores, and which controls are better."""
        objectives = self.findings.table.objectives
        points = self.findings.points
        return [standing(point, points, objectives) for point in self.named if point.has(objectives)]

    @property
    def differing(self) -> tuple[DifferingVerdict, ...]:
        """The methods whose verdict against the controls differs between ordinary and triggered questions."""
        if self.triggered is None:
            return ()
        return differing_verdicts(self.findings.control_verdicts, self.triggered.control_verdicts)


def write_report(folder: Path, sweep: str, chapters: Sequence[Chapter]) -> list[Path]:
    """Write `report.html`, and for each setting frontier, knob and forest figures (PNG and PDF), a CSV and a JSON.

    Each file is written atomically. Files of an earlier report in the folder that this one does not have are deleted.
    Returns the files, the page first. Raises UserError, also if the folder has files of these names and no report.
    """
    chapters = alike(chapters)
    scores = {name for chapter in chapters for record in chapter.records for name in record.scores}
    refuse_other_files(folder, scores)
    earlier = files_of_earlier_report(folder, scores)
    files = [folder / PAGE]
    write_text(files[0], page(sweep, chapters))
    for number, chapter in enumerate(chapters):
        stem = f"_{number}" if len(chapters) > 1 else ""
        data, table = folder / f"findings{stem}.json", folder / f"frontier{stem}.csv"
        facts = {"sweep": sweep, "setting": chapter.setting} | chapter.findings.to_json()
        if chapter.named:
            facts["named"] = [point.to_json() for point in chapter.named]
        if chapter.judges is not None:
            facts["judges"] = chapter.judges.to_json()
        if chapter.triggered is not None:
            facts["triggered"] = chapter.triggered.to_json() | {
                "differing_verdicts": [verdict.text for verdict in chapter.differing]
            }
        write_text(data, json.dumps(facts, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        write_text(table, csv_text(chapter.findings.points))
        files += [data, table]
        for name, figure in _paper_figures(chapter, f"{sweep}: {chapter.setting}"):
            for ending in ("png", "pdf"):
                path = folder / f"{name}{stem}.{ending}"
                save_figure(path, figure)
                files.append(path)
    for path in set(earlier).difference(files):
        path.unlink(missing_ok=True)
    return files


def alike(chapters: Sequence[Chapter]) -> list[Chapter]:
    """Return the chapters changed so that a method looks the same in all of them."""
    methods = tuple(sorted({name for chapter in chapters for name in chapter.findings.table.drawn_methods}))

    def told(findings: Findings) -> Findings:
        return replace(findings, table=replace(findings.table, sweep_methods=methods))

    return [
        replace(each, findings=told(each.findings), triggered=None if each.triggered is None else told(each.triggered))
        for each in chapters
    ]


def _paper_figures(chapter: Chapter, title: str) -> Iterator[tuple[str, Any]]:
    """Yield the figures by name, those of triggered questions last."""
    yield from paper_figures(chapter.findings, chapter.base_scores, title, chapter.named)
    if chapter.triggered is not None:
        drawn = paper_figures(chapter.triggered, chapter.base_scores, f"{title}, triggered", chapter.named)
        yield from ((f"{name}_triggered", figure) for name, figure in drawn)


def page(sweep: str, chapters: Sequence[Chapter]) -> str:
    """Render the page as text. Raises UserError if there is nothing to show."""
    from plotly.offline import get_plotlyjs

    if not chapters:
        raise UserError(f"sweep {sweep!r} has no setting with a finished trial")
    chapters = alike(chapters)
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number_text, "p": _p, "breakable": _breakable}
    chips = Chips(method_styles(chapters[0].findings.table.drawn_methods))
    # "</script" inside the library's text would end the page's script
    script = get_plotlyjs().replace("</script", "<\\/script")
    shown = [_chapter(chapter, index) for index, chapter in enumerate(chapters)]
    return environment.get_template(TEMPLATE).render(
        sweep=sweep, chapters=shown, plotly=script, p_front_caution=P_FRONT, chips=chips, nan=math.nan
    )


def _judges(chapter: Chapter, index: int) -> dict[str, Any]:
    """Return the template's data on a comparison of judges; empty values if there is none."""
    if chapter.judges is None:
        return {"judges": None, "judges_figure": ""}
    finished = sum(record.status == "finished" for record in chapter.records)
    figure = _html(judges_plot(chapter.judges), f"judges-{index}") if chapter.judges.points else ""
    return {"judges": judges_section(chapter.judges, finished), "judges_figure": figure}


def _chapter(chapter: Chapter, index: int) -> dict[str, Any]:
    findings = chapter.findings
    drawn, triggered = (
        [] if each is None else _frontier_plots(each, chapter) for each in (findings, chapter.triggered)
    )
    curves = interactive.curves_plot(findings)
    forest = interactive.forest_plot(findings) if len(findings.hypervolumes) > 2 else None
    return {
        "setting": chapter.setting,
        "findings": findings,
        "frontiers": [_html(figure, f"frontier-{index}-{number}") for number, figure in enumerate(drawn)],
        "triggered": [_html(figure, f"triggered-{index}-{number}") for number, figure in enumerate(triggered)],
        "triggered_verdicts": chapter.triggered.control_verdicts if chapter.triggered else [],
        "differing": [verdict.text for verdict in chapter.differing],
        "curves": None if curves is None else _html(curves, f"curves-{index}"),
        "forest": None if forest is None else _html(forest, f"forest-{index}"),
        "points": [_entry(chapter, entry) for entry in entries(findings.points)],
        "headline": headline(findings),
        "answers": read_findings(findings).answers,
        "standings": chapter.standings,
        **_judges(chapter, index),
        "categories": _categories(chapter),
        "lost": _lost(chapter.records),
        "lost_more": max(0, sum(1 for record in chapter.records if record.status != "finished") - MOST_TRIALS),
        "budget": _budget(findings),
        "advice": [
            {
                "title": findings.table.configurations[advice.row].title,
                "rival": findings.table.configurations[advice.rival].title,
                "probability": advice.probability,
                "add": advice.add,
            }
            for advice in findings.advice[:MOST_ADVICE]
        ],
        "advice_more": max(0, len(findings.advice) - MOST_ADVICE),
        "running": chapter.running,
        "ended": Counter(record.status for record in chapter.records),
        "cite": cite(findings),
    }


def _frontier_plots(findings: Findings, chapter: Chapter) -> list[Any]:
    """Draw the frontier in each pair of two or three objectives."""
    number = len(findings.table.objectives)
    pairs = {2: [(0, 1)], 3: [(0, 2), (1, 2), (0, 1)]}.get(number, [])
    return [interactive.frontier_plot(findings, y, x, chapter.links, chapter.named) for x, y in pairs]


def _html(figure: Any, name: str) -> str:
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config=PLOT, post_script=interactive.OPEN_LINK
    )
    return text


def headline(findings: Findings) -> str:
    """Say the result in a sentence or two."""
    front = [point for point in findings.points if point.on_front]
    methods = sorted({point.method for point in front})
    number = len(findings.table.configurations)
    text = f"{len(front)} of {number} configurations are on the frontier of the means, of {', '.join(methods)}."
    tied = [len(entry.members) for entry in entries(front) if len(entry.members) > 1]
    if tied:
        text += f" {sum(tied)} of them tie, at {'one place' if len(tied) == 1 else f'{len(tied)} places'}."
    pushing = [each.method for each in findings.control_verdicts if len(each.beats) == len(each.against) == 2]
    if findings.control_verdicts and findings.control_verdicts[0].against:
        text += f" {', '.join(pushing)} beat both controls." if pushing else " No method beats both controls."
    return text


def cite(findings: Findings) -> str:
    """State a number as a paper would cite it, with how it was computed: that in the middle of the frontier's rows.

    Of the two intervals of a score, over seeds and over questions, it has the wider; but that over seeds where every
    reply is graded alike, since the other may be much too wide there.
    """
    ends = {objective.name: objective.ends for objective in findings.table.objectives}
    front = [entry for entry in entries(findings.points) if entry.point.on_front]
    entry = front[len(front) // 2]
    scores, wider = [], []
    for name, score in entry.point.scores.items():
        over = _over_questions(findings, entry, name)
        has_seeds = not math.isnan(score.low)
        if has_seeds and score.mean in ends[name]:
            over = None
        if over is not None and not (has_seeds and over[1] - over[0] <= score.high - score.low):
            score = replace(score, low=over[0], high=over[1])
            wider.append(name)
        scores.append(f"{name} {interactive.interval_text(score)}")
    number = entry.point.seeds
    how = [f"mean over {number} seeds, 95 % interval, variance between seeds shrunk within the method"]
    if number == 1:
        how = ["one seed", *(["95 % interval"] if any("[" in score for score in scores) else [])]
    if wider:
        covers = "intervals of {} also cover" if len(wider) > 1 else "interval of {} also covers"
        how.append(f"the {covers.format(listed(wider))} other questions")
    return f"{point_title(entry.point)}: {'; '.join(scores)} ({'; '.join(how)})."


def _entry(chapter: Chapter, entry: Entry) -> dict[str, Any]:
    """Return a row of the table of configurations: one, or all that tie, with the widest interval over questions."""
    objectives = chapter.findings.table.objectives
    methods = dict.fromkeys(member.method for member in entry.members)
    return {
        "point": entry.point,
        "title": entry.title,
        "methods": list(methods),
        "members": [
            {
                "title": point_title(member),
                "link": chapter.links.get(member.configuration),
                "p_front": member.p_front,
            }
            for member in entry.members
        ],
        "scores": [interactive.interval_text(entry.point.scores[objective.name]) for objective in objectives],
        "over": [_ends_text(_over_questions(chapter.findings, entry, objective.name)) for objective in objectives],
    }


def _over_questions(findings: Findings, entry: Entry, name: str) -> tuple[float, float] | None:
    """Return the ends of the widest interval over seeds and questions of an entry's members."""
    found = [findings.questions.get(member.configuration, {}).get(name) for member in entry.members]
    known = [interval for interval in found if interval is not None]
    return (min(each.low for each in known), max(each.high for each in known)) if known else None


def _ends_text(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _categories(chapter: Chapter) -> dict[str, Any] | None:
    """Average every score of the setting by configuration, those on the front first."""
    finished = [record for record in chapter.records if record.status == "finished"]
    names = sorted({name for record in finished for name in record.scores})
    if not names:
        return None
    records_of: dict[str, list[TrialRecord]] = {}
    for record in finished:
        records_of.setdefault(record.configuration.id, []).append(record)
    rows: list[dict[str, Any]] = []
    if chapter.base_scores:
        rows.append({"title": "base model", "cells": dict(chapter.base_scores)})
    for point in chapter.findings.points:
        if point.seeds:
            cells = {
                name: mean([record.scores[name] for record in records_of[point.configuration] if name in record.scores])
                for name in names
            }
            title, method = point_title(point), point.method
            rows.append({"title": title, "method": method, "cells": cells, "front": point.on_front})
    number = math.ceil(len(names) / math.ceil(len(names) / MOST_SCORES))
    return {"parts": [names[start : start + number] for start in range(0, len(names), number)], "rows": rows}


def _lost(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """List the first trials without a result."""
    lost = [record for record in records if record.status != "finished"]
    return sorted(lost, key=lambda record: (record.status, record.configuration.title, record.seed))[:MOST_TRIALS]


def _budget(findings: Findings) -> list[dict[str, Any]]:
    """Sum up the cost of each method: configurations, trials, and a trial's mean tokens and seconds."""
    rows = []
    for method in findings.table.methods:
        points = [point for point in findings.points if point.method == method and point.seeds]
        trials = sum(point.seeds for point in points)
        tokens, seconds = (
            mean([value for point in points if not math.isnan(value := getattr(point, name))])
            for name in ("tokens", "seconds")
        )
        rows.append(
            {"method": method, "configurations": len(points), "trials": trials, "tokens": tokens, "seconds": seconds}
        )
    return rows


@dataclass(frozen=True)
class Chips:
    """The methods' markers, coloured as in the figures, small enough for a line of text."""

    styles: Mapping[str, Style]

    @property
    def symbols(self) -> Markup:
        """The SVG symbols that every chip of the page refers to."""
        parts = [
            f'<symbol id="method-{number}" viewBox="-1.15 -1.15 2.3 2.3"><polygon fill="{style.colour}" points="'
            + " ".join(f"{x:.3g},{-y:.3g}" for x, y in marker_outline(style.marker))
            + '"/></symbol>'
            for number, style in enumerate(self.styles.values())
        ]
        return Markup(f'<svg width="0" height="0" style="position:absolute">{"".join(parts)}</svg>')

    def of(self, method: str) -> Markup:
        """Return a method's chip; empty for a name that is not a method."""
        if method not in self.styles:
            return Markup()
        number = list(self.styles).index(method)
        return Markup(f'<svg class="chip"><use href="#method-{number}"/></svg>')


def _breakable(text: str) -> Markup:
    """Let a browser break a name after underscores and equals signs."""
    return Markup(str(escape(text)).replace("_", "_<wbr>").replace("=", "=<wbr>"))


def _p(value: float) -> str:
    """Format a p-value; there is none with two seeds (nan)."""
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
