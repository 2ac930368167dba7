"""The gallery: what the study reports, what our runs show, and whether they reproduce it, as one page.

Whether a figure is reproduced follows only from its checks:

    reproduced   every check holds
    partly       some checks hold
    not          no check holds

The page is a function of `gallery.json`, which keeps an entry for every figure that has been made, at each scale.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
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
PNG_COLOURS, PNG_ROUNDS, PNG_DPI = 256, 3, 120  # rounds of fitting the palette; with fewer, rare colours are confused
SCALES = ("nano", "small", "full")
HEAD = """# Every result, one command each

What the study of selective generalization reports (Azarbal et al. 2025), next to what this software measures at its
three scales. `nano`: worlds made for the purpose, with models of under a million parameters. `small`: a real language
model of 135 M parameters (SmolLM2-135M-Instruct, its weights stored in 4 bits and dequantized) on rows of our own, with
few values and few seeds. `full`: models and rows of the study. `selgen reproduce NAME --scale SCALE` runs what remains
of a figure's sweeps, and writes its part of this page. A small world can show that an effect needs no large model. If
it shows a different effect, that says something about the small world first. One language model is an example.

Bars and brackets are 95 % intervals over fine-tuning seeds; those of a base model, which has no such seeds, are over
its questions. A check *holds* or *fails* if the whole interval lies on one side of the number asked, which stands
beside the result or in the statement (0 if neither has one), and is *undecided* otherwise; for methods against each
other, after adjustment for all pairs. Where something should be all or nothing, and for the best of several, the mean
decides. These thresholds are ours; the study states none. A figure is reproduced if all of its checks hold, partly if
some do, and not if none does. No outcome is written by hand. Unless a figure mentions several base models, there is
only one, and no interval covers what another pre-training would have changed.
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure of the page at one scale.

    Attributes:
        figure: its name, which is also the argument of its command.
        scale: nano, small or full.
        needs: other arguments of the command, e.g. "--data DIR".
        title: title of its section.
        claim: what the study reports.
        evidence: what our result is based on, e.g. "177 trials, 3 seeds".
        checks, sentence, notes: as in `analysis.study.figure.DrawnFigure`.
        differs: possible reasons for a disagreement with other scales.
    """

    figure: str
    scale: str = "nano"
    needs: str = ""
    title: str
    claim: str
    evidence: str
    checks: tuple[Check, ...]
    sentence: str
    notes: tuple[str, ...] = ()
    differs: str = ""

    @property
    def name(self) -> str:
        """The name of the entry, e.g. "em_pareto" or "em_pareto_small"."""
        return self.figure if self.scale == SCALES[0] else f"{self.figure}_{self.scale}"

    @property
    def image(self) -> str:
        """The file name of the drawing."""
        return f"{self.name}.png"

    @property
    def reproduction(self) -> Reproduction:
        """Whether our runs reproduce the study, by the rule at the top of this module."""
        return reproduction_of(self.checks)

    @property
    def result(self) -> str:
        """The outcome, and how many checks hold, e.g. "partly reproduced, 2 of 3"."""
        held = sum(1 for check in self.checks if check.holds)
        return f"{WORDS[self.reproduction]}, {held} of {len(self.checks)}"

    @property
    def outcome(self) -> str:
        """The outcome in one line, e.g. "toy_flip: reproduced, 3 of 3 checks hold"."""
        return f"{self.name}: {self.result} checks hold"

    @property
    def command(self) -> str:
        """The command that reproduces it."""
        return " ".join(filter(None, ["selgen reproduce", self.figure, self.needs]))

    @property
    def against(self) -> str:
        """A sentence on what contradicts the study."""
        failed = [check.statement for check in self.checks if check.holds is False]
        if failed:
            return f"Against the study, it does not hold that {'; or that '.join(map(_inside_sentence, failed))}."
        undecided = [check.statement for check in self.checks if check.holds is None]
        if undecided:
            asked = ", and whether ".join(map(_inside_sentence, undecided))
            return f"Nothing contradicts the study, but it remains open whether {asked}."
        return "Nothing here contradicts the study."


def reproduction_of(checks: Sequence[Check]) -> Reproduction:
    """Return whether a figure with these checks is reproduced. Raises ValueError without checks."""
    if not checks:
        raise ValueError("a figure without checks is neither reproduced nor not")
    if all(check.holds for check in checks):
        return "reproduced"
    return "partly" if any(check.holds for check in checks) else "not"


def _inside_sentence(text: str) -> str:
    """Fit a statement into a sentence: make its first letter lower case unless it begins with an abbreviation."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


# --- the page --------------------------------------------------------------------------------------------------------


def page(entries: Sequence[Entry]) -> str:
    """Write the page as Markdown: a table of outcomes with a column for each scale, then a section for each figure."""
    by_figure: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_figure.setdefault(entry.figure, {})[entry.scale] = entry
    scales = [scale for scale in SCALES if any(scale in at for at in by_figure.values())]
    lines = [HEAD, f"| figure | {' | '.join(scales)} |", "|---" * (1 + len(scales)) + "|"]
    for figure, at in by_figure.items():
        title = next(iter(at.values())).title
        results = (at[scale].result if scale in at else "" for scale in scales)
        lines.append(f"| [`{figure}`](#{figure}) {title} | {' | '.join(results)} |")
    for figure, at in by_figure.items():
        lines += ["", f"## {figure}", "", *_section([at[scale] for scale in scales if scale in at])]
    return "\n".join(lines) + "\n"


def _section(entries: Sequence[Entry]) -> list[str]:
    """Write a figure's section: the claim, the checks at all scales side by side, each scale's drawing and text."""
    first = entries[0]
    lines = [f"**{first.title}.** *The study:* {first.claim}", ""]
    lines += [f"| the study | {' | '.join(entry.scale for entry in entries)} |", "|---" * (1 + len(entries)) + "|"]
    at_scale = [{check.statement: check for check in entry.checks} for entry in entries]
    statements = list(dict.fromkeys(check.statement for entry in entries for check in entry.checks))
    for statement in statements:
        cells = (f"*{at[statement].word}:* {at[statement].measured}" if statement in at else "" for at in at_scale)
        lines.append(f"| {statement} | {' | '.join(cells)} |")
    if disagreements := "; ".join(_disagreements(entries, statements)):
        reason = f" {entries[-1].differs}" if entries[-1].differs else ""
        lines += ["", f"The scales disagree: {disagreements}.{reason}"]
    for entry in entries:
        heading = f"**{entry.scale}: {WORDS[entry.reproduction]}.**"
        lines += ["", f"{heading} {entry.sentence} {entry.against}", "", f"![{entry.title}]({entry.image})", ""]
        lines += [f"- {note}" for note in entry.notes]
        lines += [""] if entry.notes else []
        lines.append(f"`{entry.command}`: {entry.evidence}.")
    return lines


def _disagreements(entries: Sequence[Entry], statements: Sequence[str]) -> Iterator[str]:
    """Yield each statement that holds at one scale and fails at another, with the scales."""
    for statement in statements:
        scales: dict[bool | None, list[str]] = {True: [], False: [], None: []}
        for entry in entries:
            for check in entry.checks:
                if check.statement == statement:
                    scales[check.holds].append(entry.scale)
        if scales[True] and scales[False]:
            holds, fails = (" and ".join(scales[outcome]) for outcome in (True, False))
            yield f"at {holds} but not at {fails}, {_inside_sentence(statement)}"


def read_entries(folder: Path) -> dict[str, Entry]:
    """Read a gallery's entries by name; none if there is no gallery. Raises UserError."""
    path = folder / ENTRIES
    try:
        facts_by_name: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(facts) for name, facts in facts_by_name.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a list of gallery entries ({error}); delete it and reproduce again") from error


def _entry(facts: Mapping[str, Any]) -> Entry:
    checks = tuple(Check(**check) for check in facts["checks"])
    return Entry(**{**facts, "checks": checks, "notes": tuple(facts["notes"])})


def write(folder: Path, entry: Entry, figure: Figure, order: Sequence[str]) -> list[Path]:
    """Add or replace an entry: its figure, `gallery.json` and the page. Returns the files. Raises UserError.

    Args:
        order: figures in the order of the page; any others come after them.
    """
    save_png(folder / entry.image, figure)
    entries = read_entries(folder) | {entry.name: entry}
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(
        entries.values(),
        key=lambda entry: (places.get(entry.figure, len(places)), entry.figure, SCALES.index(entry.scale)),
    )
    facts = {each.name: asdict(each) for each in ordered}
    write_text(folder / ENTRIES, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / PAGE, page(ordered))
    return [folder / PAGE, folder / entry.image]


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure as a small PNG with few colours and without a time stamp. Raises UserError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    with Image.open(drawn) as image, output_file(path) as temporary:
        small = image.convert("RGB").quantize(
            PNG_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=PNG_ROUNDS, dither=Image.Dither.NONE
        )
        small.save(temporary, format="PNG", optimize=True)
