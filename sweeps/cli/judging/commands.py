"""`selgen judge`: try and compare language models as judges. Heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeps.cli.arguments import Output, SweepName
from sweeps.names import OUTPUT

judge_app = typer.Typer(help="Try and compare language models as judges.", no_args_is_help=True, rich_markup_mode=None)
BaseUrl = Annotated[str | None, typer.Option(help="Endpoint; default: $OPENAI_BASE_URL, else OpenAI's.")]
MaxCalls = Annotated[int | None, typer.Option(help="Stop after this many requests.")]
MaxDollars = Annotated[float | None, typer.Option(help="Stop after this many dollars.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@judge_app.command(
    "calibrate",
    short_help="Try a judge on answers that have verdicts.",
    epilog="Example: selgen judge calibrate judged.csv --questions medical --max-dollars 1",
)
def calibrate_command(
    file: Annotated[
        Path, typer.Argument(help="CSV, plain or gzipped: question, answer, question_id, a verdict to compare with.")
    ],
    questions: Annotated[
        str,
        typer.Option(
            help="Whose judge prompts to use: general, medical, proposals (--rubric confirms; without that column the"
            " judge is compared with gcd_sycophancy's rules), or a questionnaire's YAML file."
        ),
    ] = "general",
    rubric: Annotated[str, typer.Option(help="Which prompt; also the column of the verdict.")] = "aligned",
    model: Annotated[str | None, typer.Option(help="Judging model; default: the questionnaire's.")] = None,
    base_url: BaseUrl = None,
    max_calls: MaxCalls = None,
    max_dollars: MaxDollars = None,
    as_json: AsJson = False,
) -> None:
    """Compare a judge with verdicts on the same answers: agreement and bias, overall and for each question."""
    from settings.judge import JudgeOptions
    from sweeps.cli.judging.calibrate import calibrate

    options = JudgeOptions(base_url=base_url, max_calls=max_calls, max_dollars=max_dollars)
    calibrate(file, questions, rubric, model, options, as_json, Console(), Console(stderr=True))


@judge_app.command(
    "compare",
    short_help="Have a sweep's replies graded by several judges.",
    epilog="Example: selgen judge compare em_pareto_full --model gpt-4.1-nano-2025-04-14 --model o4-mini-2025-04-16"
    " --price o4-mini-2025-04-16=1.10,4.40",
)
def compare_command(
    sweep: SweepName,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A judging model; repeatable. The others are compared with the first; a single one is compared"
            " with the sweep's own judge."
        ),
    ] = None,
    setting: Annotated[str | None, typer.Option(help="Which of several settings: its label, or a part of it.")] = None,
    base_url: BaseUrl = None,
    max_calls: Annotated[int | None, typer.Option(help="Stop after this many requests to one model.")] = None,
    max_dollars: Annotated[float | None, typer.Option(help="Stop after this many dollars for one model.")] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=IN,OUT, dollars per million tokens read and written; default: .10 and .40."),
    ] = None,
    output: Output = OUTPUT,
    as_json: AsJson = False,
) -> None:
    """Have a sweep's kept replies graded by several judges: agreement, bias, and which results survive each of them.

    Cached verdicts cost nothing. The results are kept in the sweep's folder; selgen report draws them.
    """
    from settings.judge import JudgeOptions
    from sweeps.cli.judging.compare import compare, prices_of
    from sweeps.find import name_of

    options = JudgeOptions(base_url=base_url, max_calls=max_calls, max_dollars=max_dollars)
    prices = prices_of(price or [])
    compare(name_of(sweep), model or [], setting, options, prices, output, as_json, Console(), Console(stderr=True))
