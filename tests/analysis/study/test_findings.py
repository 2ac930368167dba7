"""`analysis/gallery/FINDINGS.md` says ten things, each with an interval that stands on a page it links to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[3] / "analysis" / "gallery"
INTERVAL = re.compile(r"[-+]?\d*\.\d+ \[[^\]]*\d\]")
LINK = re.compile(r"\]\(([^)#]+)(?:#([\w-]+))?\)")


def findings(page: str) -> list[str]:
    """Return the numbered paragraphs of a page, each as one line."""
    parts = re.split(r"^\d+\. ", page, flags=re.MULTILINE)[1:]
    return [" ".join(part.split("\n\n")[0].split()) for part in parts]


def numbers(text: str) -> list[str]:
    """Return the means with their intervals, without signs that only a difference has."""
    return [found.replace("+", "") for found in INTERVAL.findall(text)]


def linked(finding: str, folder: Path) -> str:
    """Return the text that a finding links to: whole pages, and of the gallery the sections that are named."""
    texts = []
    for file, section in LINK.findall(finding):
        text = (folder / file).read_text()
        if section:
            parts = text.split("\n## ")
            (text,) = [part for part in parts if part.split("\n")[0].lower().replace(" ", "-") == section]
        texts.append(" ".join(text.split()))
    return "\n".join(texts)


def unsupported(page: str, folder: Path) -> list[str]:
    """Return numbers of a page of findings that its links do not have, and findings without any."""
    missing = []
    for finding in findings(page):
        known = numbers(linked(finding, folder))
        missing += [number for number in numbers(finding) if number not in known]
        missing += [] if numbers(finding) else [finding]
    return missing


def test_every_finding_has_an_interval_that_its_page_has() -> None:
    page = (GALLERY / "FINDINGS.md").read_text()
    assert len(findings(page)) == 10
    assert unsupported(page, GALLERY) == []
    assert len(page.splitlines()) <= 60, "a page of one screen"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("1. It is 0.50 [0.40, 0.60] ([a](README.md#first)).\n", []),
        ("1. It is +0.50 [+0.40, +0.60]\n   ([a](README.md#first)).\n", []),
        ("1. It is 0.51 [0.40, 0.60] ([a](README.md#first)).\n", ["0.51 [0.40, 0.60]"]),
        ("1. It is 0.50 [0.40, 0.60] ([a](README.md#second)).\n", ["0.50 [0.40, 0.60]"]),
        ("1. It is 0.50 ([a](README.md#first)).\n", ["It is 0.50 ([a](README.md#first))."]),
    ],
)
def test_what_is_not_supported_is_named(page: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "# All\n\n## first\n\n+0.50 [+0.40,\n+0.60]\n\n## second\n\n0.70 [0.60, 0.80]\n"
    )
    assert unsupported(page, tmp_path) == expected
