"""The report of a sweep: one HTML page that needs no network, and the figures and tables that go into a paper."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from analysis.figures import interactive
from analysis.figures.static import paper_figures
from analysis.figures.style import save_figure
from analysis.findings.findings import Findings
from analysis.findings.frontier import FrontierPoint, csv_text
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError
from settings.common.files import write_text

TEMPLATE = "report.html.j2"
MOST_ADVICE, MOST_TRIALS = 8, 50  # rows that a reader looks at
PLOT = {"displaylogo": False, "responsive": True}


@dataclass(frozen=True)
class Chapter:
    """One setting of a sweep.

    Attributes:
        setting: its label.
        found: what its trials say.
        records: the trials, with all scores.
        base_scores: score name -> mean of the untouched base model.
        links: configuration id -> address of its run in MLflow.
        running: trials that have not ended.
    """

    setting: str
    found: Findings
    records: Sequence[TrialRecord]
    base_scores: Mapping[str, float]
    links: Mapping[str, str]
    running: int = 0


def write_report(folder: Path, sweep: str, chapters: Sequence[Chapter]) -> list[Path]:
    """Write `report.html`, and of each setting frontier, knob and forest figures (PNG and PDF), a CSV and a JSON.

    Each file is whole or absent. Returns them, the page first. Raises UserError.
    """
    files = [folder / "report.html"]
    write_text(files[0], page(sweep, chapters))
    for number, chapter in enumerate(chapters):
        stem = f"_{number}" if len(chapters) > 1 else ""
        data, table = folder / f"findings{stem}.json", folder / f"frontier{stem}.csv"
        facts = {"sweep": sweep, "setting": chapter.setting} | chapter.found.to_json()
        write_text(data, json.dumps(facts, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        write_text(table, csv_text(chapter.found.points))
        files += [data, table]
        for name, figure in paper_figures(chapter.found, chapter.base_scores, f"{sweep}: {chapter.setting}"):
            for ending in ("png", "pdf"):
                path = folder / f"{name}{stem}.{ending}"
                save_figure(path, figure)
                files.append(path)
    return files


def page(sweep: str, chapters: Sequence[Chapter]) -> str:
    """The page as text. Raises UserError when there is nothing to show."""
    from plotly.offline import get_plotlyjs

    if not chapters:
        raise UserError(f"sweep {sweep!r} has no setting with a finished trial")
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "p": _p}
    # "</script" inside the library's text would end the page's script
    script = get_plotlyjs().replace("</script", "<\\/script")
    shown = [_chapter(chapter, index) for index, chapter in enumerate(chapters)]
    return environment.get_template(TEMPLATE).render(sweep=sweep, chapters=shown, plotly=script)


def _chapter(chapter: Chapter, index: int) -> dict[str, Any]:
    found = chapter.found
    objectives = found.table.objectives
    pairs = [(0, 1)] if len(objectives) == 2 else [(0, 2), (1, 2), (0, 1)] if len(objectives) == 3 else []
    drawn = [interactive.frontier_plot(found, x=y, y=x, links=chapter.links) for x, y in pairs]
    curves = interactive.curves_plot(found)
    forest = interactive.forest_plot(found.hypervolumes, found.differences) if len(found.hypervolumes) > 2 else None
    return {
        "setting": chapter.setting,
        "found": found,
        "frontiers": [_html(figure, f"frontier-{index}-{number}") for number, figure in enumerate(drawn)],
        "curves": None if curves is None else _html(curves, f"curves-{index}"),
        "forest": None if forest is None else _html(forest, f"forest-{index}"),
        "points": [_point(chapter, point) for point in found.points],
        "headline": headline(found),
        "categories": _categories(chapter),
        "lost": _lost(chapter.records),
        "lost_more": max(0, sum(1 for one in chapter.records if one.status != "finished") - MOST_TRIALS),
        "budget": _budget(found),
        "advice": [
            {
                "title": found.table.configurations[one.row].title,
                "rival": found.table.configurations[one.rival].title,
                "probability": one.probability,
                "add": one.add,
            }
            for one in found.advice[:MOST_ADVICE]
        ],
        "advice_more": max(0, len(found.advice) - MOST_ADVICE),
        "running": chapter.running,
        "ended": Counter(record.status for record in chapter.records),
        "cite": cite(found),
    }


def _html(figure: Any, name: str) -> str:
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config=PLOT, post_script=interactive.OPEN_LINK
    )
    return text


def headline(found: Findings) -> str:
    """The result in a sentence or two."""
    front = [point for point in found.points if point.on_front]
    methods = sorted({point.method for point in front})
    number = len(found.table.configurations)
    text = f"{len(front)} of {number} configurations are on the frontier of the means, of {', '.join(methods)}."
    pushing = [one.method for one in found.control_verdicts if len(one.beats) == len(one.against) == 2]
    if found.control_verdicts and found.control_verdicts[0].against:
        text += f" {', '.join(pushing)} beat both controls." if pushing else " No method beats both controls."
    return text


def cite(found: Findings) -> str:
    """How to say the main number in a paper, with what it rests on."""
    point = next(point for point in found.points if point.on_front)
    scores = "; ".join(f"{name} {interactive.interval_text(one)}" for name, one in point.scores.items())
    return (
        f"{point.method} {point.label}".strip()
        + f": {scores} (mean over {point.seeds} seeds, 95 % t-interval, variance between seeds shrunk over the"
        " configurations of the method)."
    )


def _point(chapter: Chapter, point: FrontierPoint) -> dict[str, Any]:
    over = chapter.found.questions.get(point.configuration, {})
    return {
        "point": point,
        "title": f"{point.method} {point.label}".strip(),
        "link": chapter.links.get(point.configuration),
        "scores": [interactive.interval_text(point.scores[one.name]) for one in chapter.found.table.objectives],
        "over": [
            f"[{over[one.name].low:.3f}, {over[one.name].high:.3f}]" if one.name in over else ""
            for one in chapter.found.table.objectives
        ],
    }


def _categories(chapter: Chapter) -> dict[str, Any] | None:
    """Means of every score of the setting, by configuration, those on the front first."""
    finished = [record for record in chapter.records if record.status == "finished"]
    names = sorted({name for record in finished for name in record.scores})
    if not names:
        return None
    own: dict[str, list[TrialRecord]] = {}
    for record in finished:
        own.setdefault(record.configuration.id, []).append(record)
    rows: list[dict[str, Any]] = []
    if chapter.base_scores:
        rows.append({"title": "base model", "cells": [chapter.base_scores.get(name, math.nan) for name in names]})
    for point in chapter.found.points:
        if point.seeds:
            cells = [
                _mean([record.scores[name] for record in own[point.configuration] if name in record.scores])
                for name in names
            ]
            rows.append({"title": f"{point.method} {point.label}".strip(), "cells": cells, "front": point.on_front})
    return {"names": names, "rows": rows}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _lost(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials without a result, the first of them."""
    lost = [record for record in records if record.status != "finished"]
    return sorted(lost, key=lambda record: (record.status, record.configuration.title, record.seed))[:MOST_TRIALS]


def _budget(found: Findings) -> list[dict[str, Any]]:
    """What each method took: configurations, trials, and a trial's mean tokens and seconds."""
    rows = []
    for method in found.table.methods:
        own = [point for point in found.points if point.method == method and point.seeds]
        trials = sum(point.seeds for point in own)
        tokens, seconds = (
            _mean([value for point in own if not math.isnan(value := getattr(point, name))])
            for name in ("tokens", "seconds")
        )
        rows.append(
            {"method": method, "configurations": len(own), "trials": trials, "tokens": tokens, "seconds": seconds}
        )
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
