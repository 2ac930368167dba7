"""A language model as judge, on any endpoint that speaks OpenAI's protocol."""

from settings.judge.judge import JUDGE_MODEL, Judge, Request
from settings.judge.options import BudgetSpentError, JudgeOptions, JudgeUnavailableError, Usage

__all__ = ["JUDGE_MODEL", "BudgetSpentError", "Judge", "JudgeOptions", "JudgeUnavailableError", "Request", "Usage"]
