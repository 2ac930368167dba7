"""The gallery: what the study reports, what our runs show, and a verdict by rules, as one page.

An entry's verdict follows from its checks alone. A check is a statement of the study put as a rule on our numbers; it
holds, fails, or is undecided when the interval leaves both open.

    reproduced   every check holds
    partly       some hold
    not          none holds

The page is a function of `gallery.json`, in which every figure that has been made keeps its entry.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from PIL import Image

from settings.common.errors import UserError
from settings.common.files import output_file, write_text

Verdict = Literal["reproduced", "partly", "not"]
WORDS: Mapping[Verdict, str] = {"reproduced": "reproduced", "partly": "partly reproduced", "not": "not reproduced"}
PAGE, ENTRIES = "README.md", "gallery.json"
PNG_COLOURS, PNG_ROUNDS, PNG_DPI = 256, 3, 120  # rounds: of fitting the palette, or rare colours are mixed up
HEAD = """# Every result, one command each

What the study of selective generalization reports (Azarbal et al. 2025), beside what this software measures in its nano
worlds: models of under a million parameters, on a CPU. `selgen reproduce NAME` runs a figure's sweeps, or takes what is
there of them, and writes its part of this page. A small world can show that an effect needs no large model; where it
shows another one, that is a fact about the small world first.

Bars and brackets are 95 % intervals over fine-tuning seeds (of a base model, which has none, over its questions). A
check *holds* or *fails* when the interval says so, and is *undecided* when it leaves both open; of what should be all
or nothing, and of the best of several, the mean decides. All checks hold: reproduced; some: partly; none: not. No
verdict is written by hand. Where a figure does not speak of several base models there is one: what another pre-training
would have changed is in no interval.
"""


@dataclass(frozen=True)
class Check:
    """A statement of the study as a rule on our numbers.

    Attributes:
        statement: what the study says, in a line.
        found: what we measured, in a line.
        holds: None when our interval leaves it open.
    """

    statement: str
    found: str
    holds: bool | None

    @property
    def word(self) -> str:
        """How it came out."""
        return {True: "holds", False: "fails", None: "undecided"}[self.holds]


@dataclass(frozen=True, eq=False)
class DrawnFigure:
    """What a figure's function makes of the trials.

    Attributes:
        figure: the drawing.
        checks: at least one.
        sentence: what the data show.
        notes: remarks that the figure needs, such as ends that a method does not reach.
    """

    figure: Figure
    checks: Sequence[Check]
    sentence: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Entry:
    """One figure of the page.

    Attributes:
        name: of the figure, and of its command.
        title: of its section.
        claim: what the study reports.
        evidence: what it rests on, e.g. "177 trials, 3 seeds".
        image: file name of the drawing.
        checks, sentence, notes: as in `DrawnFigure`.
    """

    name: str
    title: str
    claim: str
    evidence: str
    image: str
    checks: tuple[Check, ...]
    sentence: str
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """By the rule above."""
        return verdict_of(self.checks)

    @property
    def outcome(self) -> str:
        """The verdict in a line, e.g. "toy_flip: reproduced (3 of 3 checks hold)"."""
        held = sum(1 for check in self.checks if check.holds)
        return f"{self.name}: {WORDS[self.verdict]} ({held} of {len(self.checks)} checks hold)"

    @property
    def against(self) -> str:
        """The sentence on what contradicts the study."""
        failed = [check.statement for check in self.checks if check.holds is False]
        if failed:
            return f"Against the study: it is not so that {'; nor that '.join(map(_lowered, failed))}."
        open_ones = [check.statement for check in self.checks if check.holds is None]
        if open_ones:
            asked = ", and whether ".join(map(_lowered, open_ones))
            return f"Nothing contradicts the study, but it stays open whether {asked}."
        return "Nothing here contradicts the study."


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """The verdict that checks make. Raises ValueError without any."""
    if not checks:
        raise ValueError("a verdict needs a check")
    if all(check.holds for check in checks):
        return "reproduced"
    return "partly" if any(check.holds for check in checks) else "not"


def _lowered(text: str) -> str:
    """A statement inside a sentence: its first letter is small unless it begins with an abbreviation."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def page(entries: Sequence[Entry]) -> str:
    """The page as Markdown: a table of the verdicts, then a section for each figure."""
    lines = [HEAD, "| figure | verdict | checks that hold |", "|---|---|---|"]
    for entry in entries:
        held = sum(1 for check in entry.checks if check.holds)
        link = f"[`{entry.name}`](#{entry.name})"
        lines.append(f"| {link} {entry.title} | {WORDS[entry.verdict]} | {held} of {len(entry.checks)} |")
    for entry in entries:
        lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> list[str]:
    lines = [f"## {entry.name}", "", f"**{entry.title}: {WORDS[entry.verdict]}.**", ""]
    lines += [f"*The study:* {entry.claim}", "", f"![{entry.title}]({entry.image})", ""]
    lines += [f"{entry.sentence} {entry.against}", ""]
    lines += ["| the study | here | |", "|---|---|---|"]
    lines += [f"| {check.statement} | {check.found} | {check.word} |" for check in entry.checks]
    lines += ["", *(f"- {note}" for note in entry.notes)]
    lines += [""] if entry.notes else []
    return [*lines, f"`selgen reproduce {entry.name.removesuffix('_full')}`: {entry.evidence}."]


def read_entries(folder: Path) -> dict[str, Entry]:
    """The entries of a gallery by name; none where there is no gallery. Raises UserError."""
    path = folder / ENTRIES
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(one) for name, one in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no list of a gallery's entries ({error}); delete it and reproduce again") from error


def _entry(facts: Mapping[str, Any]) -> Entry:
    checks = tuple(Check(**check) for check in facts["checks"])
    return Entry(**{**facts, "checks": checks, "notes": tuple(facts["notes"])})


def write(folder: Path, entry: Entry, figure: Figure, order: Sequence[str]) -> list[Path]:
    """Add or replace an entry: its figure, `gallery.json` and the page. Returns the files. Raises UserError.

    Args:
        order: names in the order of the page; others come after them.
    """
    save_png(folder / entry.image, figure)
    entries = read_entries(folder) | {entry.name: entry}
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(entries.values(), key=lambda one: (places.get(one.name, len(places)), one.name))
    facts = {one.name: asdict(one) for one in ordered}
    write_text(folder / ENTRIES, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / PAGE, page(ordered))
    return [folder / PAGE, folder / entry.image]


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure as a small PNG: few colours, and no time of writing in it. Raises UserError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    with Image.open(drawn) as image, output_file(path) as temporary:
        small = image.convert("RGB").quantize(
            PNG_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=PNG_ROUNDS, dither=Image.Dither.NONE
        )
        small.save(temporary, format="PNG", optimize=True)
