"""The network endpoints of a running sweep: judges, and the server of replies."""

from __future__ import annotations

from pathlib import Path

from settings.common.files import cache_root
from settings.replies import ReplyServer
from sweeps.case import served_name
from sweeps.search.judging import GradingQueue, Judges
from sweeps.search.replying import ServedReplies
from sweeps.sweep import Sweep


class Endpoints:
    """The endpoints of a sweep, and the queue of models that wait for them.

    Args:
        folder: the sweep's folder.

    Attributes:
        queue: samples and grades replies on the driver; None if the workers do all of it.

    Raises:
        UserError: a missing key, or an address that cannot be used; raised before anything runs.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep = sweep
        models = {str(evaluation.judge) for case in sweep.cases for evaluation in case.setting.judged}
        self._judges = Judges(sweep.execution.judge, cache_root() / "verdicts.db")
        for model in models:
            self._judges(model)
        self._replies, served = None, None
        if sweep.replies:
            self._replies = ReplyServer(sweep.replies, cache=cache_root() / "replies.db")
            served = ServedReplies(folder, self._replies, sweep.replies)
        self.queue = GradingQueue(folder, self._judges, served) if models or served else None

    def check(self) -> list[str]:
        """Check that the server of replies has what it needs, and ask each judge for one grade. Return what they say.

        If a check fails, close all endpoints and raise UserError.
        """
        rubrics = {
            str(evaluation.judge): evaluation.rubrics[0]
            for case in self._sweep.cases
            for evaluation in case.setting.judged
        }
        try:
            return self._check_replies() + self._judges.check(rubrics)
        except BaseException:  # also Ctrl-C: otherwise queued replies would still be judged and paid for
            self.close()
            raise

    def _check_replies(self) -> list[str]:
        if self._replies is None or self._sweep.replies is None:
            return []
        cases = [case for case in self._sweep.cases if case.replies_elsewhere]
        names = dict.fromkeys(served_name(case.setting, self._sweep.replies) for case in cases)
        return [self._replies.check(name) for name in names]

    @property
    def waiting(self) -> str:
        """How many models wait for replies and grades, e.g. "2 with the judge (310 calls)"; "" if nothing does."""
        number = self.queue.pending if self.queue else 0
        with_whom = [f"the server of replies ({self._replies.sampled} replies)"] if self._replies else []
        with_whom += (
            [f"the judge ({self._judges.calls} calls)"] if any(c.setting.judged for c in self._sweep.cases) else []
        )
        return f"{number} with {' and '.join(with_whom)}" if number else ""

    @property
    def dollars(self) -> float:
        """What judges have charged so far."""
        return self._judges.dollars

    @property
    def usage(self) -> list[str]:
        """What each endpoint was asked, a line each."""
        return [each.usage for each in (self._replies, self._judges) if each and each.usage]

    def close(self) -> None:
        """Keep the replies and verdicts that are on their way; the next start asks for the rest."""
        if self._replies:
            self._replies.close()
        self._judges.close()
        if self.queue:
            self.queue.close()
