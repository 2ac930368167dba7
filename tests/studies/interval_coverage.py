"""Do nominal 95 % intervals cover 95 %? Frontiers with a known truth, simulated and analysed many times.

    python -m tests.studies.interval_coverage --out FILE          the full table (hours); the same command resumes
    python -m tests.studies.interval_coverage --regime ceilings   one regime, printed

Each cell is one way that scores may be noisy (`tests.studies.noisy_fronts`). Columns: the share of point intervals, of
hypervolume intervals (all methods together, and the first alone), of differences and of whole bands that hold the
truth; how often any two methods are called different, and how often the worse is called better; by how much the
hypervolume and the honest selection miss the truth on average.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from analysis.statistics.arrays import Floats, nan_mean
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Front, compare_fronts, estimate_hypervolume
from analysis.statistics.intervals import intervals_by_method
from analysis.statistics.pareto import fronts
from analysis.statistics.selection import select_by_seeds
from tests.studies.noisy_fronts import Cell, Truth, cells
from tests.studies.resumable import Result, resume

REPLICATES = 300
FEW = 100  # repetitions of a cell
REPETITIONS = {  # where rates of a few per cent count, and where 288 cells make one mean
    "near-duplicates": 200, "density": 200, "equal methods": 200, "1 % apart": 200, "apart": 40,
}  # fmt: skip
BAND_EVERY = 4  # repetitions that look at the band, which takes longest
BINS = 5  # of stated probabilities of being on the front
FEW_POINTS = 60  # of a fine curve that a band must hold
COLUMNS = (
    "points", "hypervolume", "first", "difference", "band", "alarms", "wrong sign", "bias", "first bias", "honest",
)  # fmt: skip
Row = dict[str, float]


def coverage(cell: Cell, repetitions: int) -> Row:
    """Simulate and analyse one cell: the mean of each column, and what was stated and true of P(front)."""
    truth = Truth(cell)
    random = np.random.default_rng(zlib.crc32(cell.key.encode()))
    corner_M = np.zeros(truth.mean_CM.shape[1])
    nothing = np.empty((0, len(corner_M)))
    everything = Front(np.ones(len(truth.mean_CM), dtype=bool), nothing)
    methods = {str(rank): Front(truth.method_C == rank, nothing) for rank in range(cell.methods)}
    volumes = [truth.volume(rank) for rank in range(cell.methods)]
    whole = truth.volume()
    sample_FM = np.concatenate([truth.fine(rank)[:: max(1, len(truth.fine(0)) // FEW_POINTS)] for rank in range(1)])
    on_front_C = fronts(truth.mean_CM[None])[0]
    rows, stated = [], np.zeros((3, BINS))
    brier = []
    for repetition in range(repetitions):
        measured = truth.draw(random)
        bootstrap = Bootstrap(measured, REPLICATES, seed=repetition)
        intervals = intervals_by_method(measured)
        covered_CM = (intervals.low_CM <= truth.mean_CM) & (truth.mean_CM <= intervals.high_CM)
        all_methods = estimate_hypervolume(bootstrap, everything, corner_M)
        differences = compare_fronts(bootstrap, methods, corner_M) if cell.methods > 1 else []
        first = estimate_hypervolume(bootstrap, methods["0"], corner_M)
        selected = select_by_seeds(bootstrap, corner_M)
        band = bootstrap.band() if repetition % BAND_EVERY == 0 else None
        gaps = [volumes[int(pair.first)] - volumes[int(pair.second)] for pair in differences]
        held = [pair.statistic.low <= gap <= pair.statistic.high for pair, gap in zip(differences, gaps, strict=True)]
        different = [pair.clear for pair in differences]
        wrong = [
            pair.clear and abs(gap) > 1e-9 and pair.statistic.estimate * gap < 0
            for pair, gap in zip(differences, gaps, strict=True)
        ]
        rows.append(
            [
                covered_CM.mean(),
                all_methods.low <= whole <= all_methods.high,
                first.low <= volumes[0] <= first.high,
                np.mean(held) if held else math.nan,
                _below(band.low_RM, sample_FM) and _below(sample_FM, band.high_RM) if band else math.nan,
                any(different) if differences else math.nan,
                any(wrong) if differences else math.nan,
                all_methods.estimate - whole,
                first.estimate - volumes[0],
                selected.pessimistic - whole if selected is not None else math.nan,
            ]
        )
        probability_C = bootstrap.on_front()
        brier.append(((probability_C - on_front_C) ** 2).mean())
        place_C = np.minimum((probability_C * BINS).astype(int), BINS - 1)
        stated += [
            np.bincount(place_C, weights, BINS) for weights in (np.ones(len(place_C)), probability_C, on_front_C)
        ]
    measured_RC = np.array(rows, dtype=np.float64)
    columns = nan_mean(measured_RC).tolist()
    base_rate = float(on_front_C.mean())
    extra = {"brier": float(np.mean(brier)), "base brier": base_rate * (1 - base_rate)}
    bins = {f"stated {index}": stated[:, index].tolist() for index in range(BINS)}
    return dict(zip(COLUMNS, columns, strict=True)) | extra | bins  # type: ignore[return-value]


def _below(lower_XM: Floats, upper_YM: Floats) -> bool:
    """Return whether the lower front lies nowhere above the upper one."""
    return bool((lower_XM[:, None, :] <= upper_YM[None, :, :] + 1e-9).all(axis=2).any(axis=1).all())


def _run(job: tuple[Cell, int]) -> Result:
    cell, repetitions = job
    return {"regime": cell.regime, "repetitions": repetitions, "row": coverage(cell, repetitions)}


def run(chosen: Iterable[Cell], repetitions: int | None, out: Path | None, workers: int) -> list[tuple[str, str, Row]]:
    """Run cells that the file does not hold yet, in so many processes; append each as it ends.

    Return (regime, key, row) of each.
    """
    jobs = {cell.key: (cell, repetitions or REPETITIONS.get(cell.regime, FEW)) for cell in chosen}
    rows = {}
    for key, result in resume(_run, jobs, out, workers):
        rows[key] = result["regime"], key, result["row"]
        if out is None:
            sys.stdout.write(f"{key}  {_cells_text(result['row'])}\n")
            sys.stdout.flush()
    return [rows[key] for key in jobs]


def _cells_text(row: Row) -> str:
    return " ".join("-" if math.isnan(row[name]) else f"{name} {row[name]:.3f}" for name in COLUMNS)


def markdown(rows: Sequence[tuple[str, str, Row]]) -> str:
    """Return the means of each regime, the lowest coverage in it, and what P(front) is worth, as Markdown."""
    header = f"| regime | cells | {' | '.join(COLUMNS)} | lowest points | lowest hypervolume |"
    lines = [header, "|" + "---|" * (len(COLUMNS) + 4)]
    for regime in [*dict.fromkeys(regime for regime, _, _ in rows), "all"]:
        chosen = [row for name, _, row in rows if regime in (name, "all")]
        means = [np.nanmean([row[name] for row in chosen]) if _any(chosen, name) else math.nan for name in COLUMNS]
        lowest = [min(row[name] for row in chosen) for name in ("points", "hypervolume")]
        texts = ["-" if math.isnan(value) else f"{value:.3f}" for value in [*means, *lowest]]
        lines.append(f"| {regime} | {len(chosen)} | {' | '.join(texts)} |")
    lines += ["", "| P(front) stated | configurations | mean stated | truly on the front |", "|---|---|---|---|"]
    for index in range(BINS):
        number, said, true = np.sum([row[f"stated {index}"] for _, _, row in rows], axis=0)
        ends = f"{index / BINS:.1f} to {(index + 1) / BINS:.1f}"
        lines.append(f"| {ends} | {int(number)} | {said / max(number, 1):.3f} | {true / max(number, 1):.3f} |")
    return "\n".join(lines)


def cells_markdown(rows: Sequence[tuple[str, str, Row]]) -> str:
    """Return every cell as a row of a Markdown table."""
    lines = [f"| cell | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    for _, key, row in rows:
        texts = ["-" if math.isnan(row[name]) else f"{row[name]:.3f}" for name in COLUMNS]
        lines.append(f"| {key} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _any(rows: Sequence[Row], name: str) -> bool:
    return not all(math.isnan(row[name]) for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run cells and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.interval_coverage", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--repetitions", type=int, help=f"per cell (default: 40 to 200 by regime, else {FEW})")
    parser.add_argument("--regime", action="append", help="run only this one; repeatable")
    parser.add_argument("--every", type=int, default=1, help="run only every n-th cell")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, one per cell; cells in it are not run again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cells", action="store_true", help="also print every cell")
    options = parser.parse_args(arguments)
    chosen = [cell for cell in cells() if not options.regime or cell.regime in options.regime]
    rows = run(chosen[:: options.every], options.repetitions, options.out, options.workers)
    sys.stdout.write(markdown(rows) + "\n")
    if options.cells:
        sys.stdout.write("\n" + cells_markdown(rows) + "\n")


if __name__ == "__main__":
    main()
