"""The gallery: what the study reports, what our runs show, and whether they reproduce it, as one page.

Whether a figure is reproduced follows from its checks alone:

    reproduced   every check holds
    partly       some checks hold
    not          no check holds

The page is a function of `gallery.json`, which keeps an entry for every figure that has been made.
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

from analysis.study.figure import Check
from settings.common.errors import UserError
from settings.common.files import output_file, write_text

Reproduction = Literal["reproduced", "partly", "not"]
WORDS: Mapping[Reproduction, str] = {"reproduced": "reproduced", "partly": "partly reproduced", "not": "not reproduced"}
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
outcome is written by hand. Where a figure does not speak of several base models there is one: what another pre-training
would have changed is in no interval.
"""


@dataclass(frozen=True)
class Entry:
    """One figure of the page.

    Attributes:
        name: of the figure, which is also the argument of its command.
        title: of its section.
        claim: what the study reports.
        evidence: what our result rests on, e.g. "177 trials, 3 seeds".
        image: file name of the drawing.
        checks, sentence, notes: as in `analysis.study.figure.DrawnFigure`.
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
    def reproduction(self) -> Reproduction:
        """Whether our runs reproduce the study, by the rule at the top of this module."""
        return reproduction_of(self.checks)

    @property
    def num_held(self) -> int:
        """The number of checks that hold."""
        return sum(1 for check in self.checks if check.holds)

    @property
    def outcome(self) -> str:
        """The outcome in a line, e.g. "toy_flip: reproduced (3 of 3 checks hold)"."""
        return f"{self.name}: {WORDS[self.reproduction]} ({self.num_held} of {len(self.checks)} checks hold)"

    @property
    def against(self) -> str:
        """A sentence on what contradicts the study."""
        failed = [check.statement for check in self.checks if check.holds is False]
        if failed:
            return f"Against the study: it is not so that {'; nor that '.join(map(_inside_sentence, failed))}."
        undecided = [check.statement for check in self.checks if check.holds is None]
        if undecided:
            asked = ", and whether ".join(map(_inside_sentence, undecided))
            return f"Nothing contradicts the study, but it stays open whether {asked}."
        return "Nothing here contradicts the study."


def reproduction_of(checks: Sequence[Check]) -> Reproduction:
    """Return whether a figure with these checks is reproduced. Raises ValueError without any."""
    if not checks:
        raise ValueError("whether a figure is reproduced needs a check")
    if all(check.holds for check in checks):
        return "reproduced"
    return "partly" if any(check.holds for check in checks) else "not"


def _inside_sentence(text: str) -> str:
    """Put a statement inside a sentence: lower its first letter unless it begins with an abbreviation."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def page(entries: Sequence[Entry]) -> str:
    """Write the page as Markdown: a table of the outcomes, then a section for each figure."""
    lines = [HEAD, "| figure | outcome | checks that hold |", "|---|---|---|"]
    for entry in entries:
        link = f"[`{entry.name}`](#{entry.name})"
        held = f"{entry.num_held} of {len(entry.checks)}"
        lines.append(f"| {link} {entry.title} | {WORDS[entry.reproduction]} | {held} |")
    for entry in entries:
        lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> list[str]:
    lines = [f"## {entry.name}", "", f"**{entry.title}: {WORDS[entry.reproduction]}.**", ""]
    lines += [f"*The study:* {entry.claim}", "", f"![{entry.title}]({entry.image})", ""]
    lines += [f"{entry.sentence} {entry.against}", ""]
    lines += ["| the study | here | |", "|---|---|---|"]
    lines += [f"| {check.statement} | {check.measured} | {check.word} |" for check in entry.checks]
    lines += ["", *(f"- {note}" for note in entry.notes)]
    lines += [""] if entry.notes else []
    return [*lines, f"`selgen reproduce {entry.name.removesuffix('_full')}`: {entry.evidence}."]


def read_entries(folder: Path) -> dict[str, Entry]:
    """Read a gallery's entries by name; there are none where there is no gallery. Raises UserError."""
    path = folder / ENTRIES
    try:
        facts_by_name: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(facts) for name, facts in facts_by_name.items()}
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
    ordered = sorted(entries.values(), key=lambda entry: (places.get(entry.name, len(places)), entry.name))
    facts = {each.name: asdict(each) for each in ordered}
    write_text(folder / ENTRIES, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / PAGE, page(ordered))
    return [folder / PAGE, folder / entry.image]


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure as a small PNG with few colours and without the time of writing. Raises UserError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    with Image.open(drawn) as image, output_file(path) as temporary:
        small = image.convert("RGB").quantize(
            PNG_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=PNG_ROUNDS, dither=Image.Dither.NONE
        )
        small.save(temporary, format="PNG", optimize=True)
