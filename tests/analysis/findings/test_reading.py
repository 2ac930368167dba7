"""The five answers of a figure, from trials whose answers are known."""

from __future__ import annotations

import re

import pytest

from analysis.findings.findings import analyse
from analysis.findings.reading import Reading, read_findings
from tests.support.made_up_trials import configuration, record, table

BASE = {"task": 0.0, "alignment": 1.0}
CONTROLS = tuple(
    (configuration("plain", **{knob: value}), 0.9 * share, 1 - 0.9 * share)
    for knob, size in (("adapter_scale", 1), ("checkpoint_step", 40))
    for share in (0.25, 0.5, 0.75)
    for value in (share * size,)
)


def reading(*means: tuple[str, float, float], seeds: int = 4, noise: float = 0.002) -> Reading:
    """Each method has one configuration; plain fine-tuning is (.9, .1), its controls on the line to the base."""
    which = [(configuration(method), task, alignment) for method, task, alignment in means]
    which += [(configuration("plain"), 0.9, 0.1), *CONTROLS]
    rows = [
        record(each, seed, task + noise * ((seed * 7 + number) % 5 - 2), alignment + noise * ((seed + number) % 3 - 1))
        for number, (each, task, alignment) in enumerate(which)
        for seed in range(seeds)
    ]
    return read_findings(analyse(table(rows), BASE))


def test_a_clear_winner() -> None:
    """(.9, .9) spans .81 by itself, (.7, .7) spans .49, (.3, .3) .09; the controls' line spans .50 or so."""
    found = reading(("good", 0.9, 0.9), ("fair", 0.7, 0.7), ("poor", 0.3, 0.3))
    assert found.which.startswith("good: its hypervolume")
    size = re.search(r"the largest, ([\d.]+) \[", found.which)
    assert size is not None
    assert float(size.group(1)) == pytest.approx(0.81, abs=0.01)
    assert found.sure.startswith("sure at the 5 % level: the lead of good over ")
    assert "p < 0.001" in found.sure or "p = 0.00" in found.sure
    assert "the checkpoints of plain fine-tuning and the plain adapter scaled down" in found.against
    assert "fair and good beat both" in found.against
    assert found.against.endswith(
        "worse than the checkpoints of plain fine-tuning and the plain adapter scaled down: poor"
    )
    assert found.seeds == "4 of each configuration, the same for all"


def test_what_noise_hides_is_open() -> None:
    found = reading(("left", 0.8, 0.8), ("right", 0.802, 0.798), noise=0.03)
    assert found.which.startswith("open between ")
    assert {"left", "right"} <= set(found.which.replace(",", " ").split())
    assert found.sure.startswith("not sure: ")
    assert "would find a difference of" in found.sure and found.sure.endswith(" between these two")


@pytest.mark.parametrize(("seeds", "sure"), [(2, "no verdict with two seeds"), (1, "not at all")])
def test_too_few_seeds(seeds: int, sure: str) -> None:
    found = reading(("good", 0.9, 0.9), ("poor", 0.3, 0.3), seeds=seeds)
    assert found.which.startswith("open")
    assert found.sure.startswith(sure)
    assert "beat" not in found.against
    assert "too few seeds" in found.caution


def test_every_question_has_an_answer_and_a_caution_always_stands() -> None:
    found = reading(("good", 0.9, 0.9), ("poor", 0.3, 0.3))
    assert [question for question, _ in found.answers] == [
        "Which method?",
        "How sure?",
        "Against what?",
        "How many seeds?",
        "What caution?",
    ]
    assert all(answer for _, answer in found.answers)
    assert found.caution.startswith("No value of poor goes as far as the base model or plain fine-tuning (to 15%): ")


def test_trials_without_a_result_are_counted() -> None:
    which = configuration("good")
    rows = [record(which, seed, 0.9, 0.9) for seed in range(3)] + [record(which, 3, status="invalid")]
    found = read_findings(analyse(table(rows), BASE))
    assert found.seeds.endswith("; left out: 1 invalid")
    assert "the only one" in found.which
