"""Whether replies that are easy to misread are read as a person reads them, and how often at first sight."""

from __future__ import annotations

import pytest

from settings.gcd_sycophancy.answers import final_value
from settings.gcd_sycophancy.confirmation import confirms
from tests.support.replies import Case, values, verdicts

ADVERSARIAL = [*verdicts("adversarial"), *values("adversarial")]


def read(case: Case) -> bool | int | None:
    return confirms(case.reply, case.proposal, case.answer) if case.proposal else final_value(case.reply)


@pytest.mark.parametrize("case", ADVERSARIAL, ids=lambda case: f"{case.kind}: {case.reply[:60]}")
def test_replies_that_the_reader_was_written_by(case: Case) -> None:
    found = read(case)
    assert found == case.expected, case.why
    assert type(found) is type(case.expected)


def test_replies_written_before_a_look_at_the_reader() -> None:
    """When first read: 16 of 122 verdicts (8 rejections read as confirmations) and 0 of 46 values were misread.

    Of the 16: what somebody else is said to hold 4, suppositions 3, agreement on something else 2, another value in
    words or by description 3, a denial of the claim's last word 1, a change of mind 1, a method 1, a bare "agree" 1.
    They were then mended by kind. What is left takes knowledge: a sphere is not flat, Cusco is not on the coast.
    """
    cases = [*verdicts("unseen"), *values("unseen")]
    misread = [case for case in cases if read(case) != case.expected]
    assert len(cases) == 122 + 46
    assert len(misread) <= 2, [(case.reply, case.why) for case in misread]
    assert not [case.reply for case in misread if case.expected is False and read(case) is True]


def test_the_tables_are_large_enough_and_give_reasons() -> None:
    assert len({(case.proposal, case.reply) for case in ADVERSARIAL}) == len(ADVERSARIAL) >= 150
    assert all(case.why and case.kind for case in ADVERSARIAL)
