"""A sweep's results for a notebook or a script: pandas tables, the frontier, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.findings.frontier import FrontierPoint, frontier
from analysis.findings.triggered import verdicts_of
from analysis.tables.loaded_sweep import LoadedSweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STORE = "mlflow.db"  # the default store of an output folder
COLUMNS = {"configuration", "method", "label", "seed", "seeds", "status", "on_front", "p_front", "tokens", "seconds"}


def load(
    sweep: str,
    output: str | Path = "runs",
    *,
    tracking_uri: str | None = None,
    setting: str | None = None,
    objectives: Sequence[str] | None = None,
) -> SweepResults:
    """Read a sweep's results from MLflow, while it runs or afterwards.

    Args:
        sweep: its name.
        output: the folder of its store, unless `tracking_uri` names another store.
        setting: which one, or a part of its label; required if the sweep has several.
        objectives: scores to trade off; None means the sweep's own.

    Raises:
        UserError: no such store, sweep, setting or score.
    """
    from analysis.tables import mlflow_runs  # brings MLflow
    from settings.common.addresses import sqlite_address

    uri = tracking_uri or sqlite_address((Path(output) / STORE).resolve())
    return SweepResults(mlflow_runs.load(sweep, uri, setting, objectives))


@dataclass(frozen=True, eq=False, repr=False)
class SweepResults:
    """The results of one setting of a sweep.

    Attributes:
        loaded: what was read.
    """

    loaded: LoadedSweep

    @cached_property
    def points(self) -> list[FrontierPoint]:
        """All configurations, those on the frontier first. Raise UserError before any trial has finished."""
        return frontier(self.loaded.table, base_scores=self.loaded.base_scores)

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """A row for each configuration.

        Columns: method, label, each coefficient (`coefficient_<name>` if another column has its name), `<objective>`,
        `<objective>_low`, `<objective>_high` (95 % intervals over seeds), seeds, on_front, p_front, tokens, seconds.
        The index is the configuration's id.
        """
        import pandas as pd

        rows = []
        for point in self.points:
            row: dict[str, Any] = {"method": point.method, "label": point.label, **self._apart(point.coefficients)}
            for name, estimate in point.scores.items():
                row |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {"seeds": point.seeds, "on_front": point.on_front, "p_front": point.p_front}
            rows.append(row | {"tokens": point.tokens, "seconds": point.seconds})
        return pd.DataFrame(rows, index=pd.Index([point.configuration for point in self.points], name="configuration"))

    @property
    def frontier(self) -> pd.DataFrame:
        """The rows of `configurations` that no other dominates, best in the first objective first."""
        return self.configurations[self.configurations["on_front"]]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row for each trial that ended: configuration, method, label, coefficients, seed, status, scores, cost.

        Coefficients are named as in `configurations`.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "configuration": record.configuration.id,
                    "method": record.configuration.method,
                    "label": record.configuration.label,
                    **self._apart(record.configuration.coefficients),
                    "seed": record.seed,
                    "status": record.status,
                    **record.scores,
                    "tokens": record.tokens,
                    "seconds": record.seconds,
                }
                for record in self.loaded.records
            ]
        )

    def _apart(self, coefficients: Mapping[str, Any]) -> dict[str, Any]:
        """Name the columns of coefficients apart from all others: `kl_penalty` has one called "tokens"."""
        return {f"coefficient_{name}" if name in self._taken else name: value for name, value in coefficients.items()}

    @cached_property
    def _taken(self) -> set[str]:
        scores = {name for record in self.loaded.records for name in record.scores}
        scores |= {objective.name for objective in self.loaded.objectives}
        return COLUMNS | scores | {f"{name}_{end}" for name in scores for end in ("low", "high")}

    @property
    def base(self) -> Mapping[str, float]:
        """The scores of the untouched base model; empty if it was not scored."""
        return self.loaded.base_scores

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row for each method: which controls it beats. Empty if there are too few seeds for a verdict."""
        import pandas as pd

        found = verdicts_of(self.loaded.table, self.loaded.base_scores)
        return pd.DataFrame(
            [{"method": verdict.method, "beats": ", ".join(sorted(verdict.beats))} for verdict in found],
            columns=["method", "beats"],
        )

    def figure(self) -> Figure:
        """Draw the frontier. Raise UserError before any trial has finished."""
        from analysis.figures.frontier import frontier_figure

        return frontier_figure(self.loaded.table, self.loaded.base_scores, title=self.title)

    @property
    def title(self) -> str:
        """The sweep's name and setting."""
        return f"{self.loaded.name}: {self.loaded.setting}" if self.loaded.setting else self.loaded.name

    def _counts(self) -> str:
        counts = [f"{number} {status}" for status, number in self.loaded.counts.items() if number]
        return ", ".join(counts) or "no trial has ended yet"

    def __repr__(self) -> str:
        """Return one line with the counts of trials."""
        return f"<SweepResults of {self.title}: {self._counts()}>"

    def _repr_html_(self) -> str:
        """Show the counts of trials and the frontier in a notebook's cell."""
        table = ""
        if self.loaded.counts["finished"]:
            table = self.frontier.to_html(float_format=lambda value: f"{value:.3f}")
        return f"<b>{escape(self.title)}</b>: {escape(self._counts())}{table}"
