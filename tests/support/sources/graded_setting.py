"""Nano bad medical advice with two questions and a score that a test replaces."""

from dataclasses import replace

from settings.bad_medical_advice import nano as bad_medical_advice
from settings.setting import Evaluation, Score


def grade(example, reply):
    return 1.0


def mine():
    nano = bad_medical_advice()
    score = Score("task", "task", "anything", grade)
    return replace(
        nano,
        name="mine",
        evaluations=(Evaluation("few", nano.evaluations[0].examples[:2], (score,)),),
        objectives=("task",),
        worst=(),
    )
