"""Which configurations of a table lie on a line, and which share a training."""

from __future__ import annotations

import numpy as np

from analysis.findings.arms import control_of, lines_of, measure, training_of
from analysis.statistics.bootstrap import Bootstrap
from analysis.tables.scores import Configuration
from tests.support.made_up_trials import configuration, record, table
from tests.support.tiny import tiny_trial
from trainables import methods


def plain(**coefficients: float) -> Configuration:
    made = configuration("plain", **coefficients)
    return Configuration(made.id, "plain", made.label, {"adapter_scale": 1.0, "checkpoint_step": 48} | coefficients)


def test_one_knob_is_one_line() -> None:
    rows = [configuration("kl", beta=beta) for beta in (0.1, 1.0, 10.0)] + [configuration("twin")]
    (line,) = lines_of(rows)
    assert line.rows_K.tolist() == [0, 1, 2]
    assert line.knobs_KD.tolist() == [[0.1], [1.0], [10.0]]


def test_words_part_lines() -> None:
    rows = [configuration("kl", beta=beta, direction=side) for side in ("forward", "reverse") for beta in (1, 2, 3)]
    assert [line.rows_K.tolist() for line in lines_of(rows)] == [[0, 1, 2], [3, 4, 5]]


def test_the_controls_are_two_lines_from_the_base_model_to_full_training() -> None:
    rows = [plain(), plain(checkpoint_step=12), plain(checkpoint_step=24), plain(adapter_scale=0.5)]
    scale, steps = lines_of(rows, np.array([0.0, 1.0]))
    assert (sorted(scale.rows_K.tolist()), sorted(steps.rows_K.tolist())) == ([0, 3], [0, 1, 2])
    assert scale.start_M is not None
    assert scale.start_M.tolist() == [0.0, 1.0]
    assert all(line.start_M is None for line in lines_of(rows))


def test_mixes_are_a_third_line_through_full_training() -> None:
    """Of the base model at 0, two mixes and, between them, full training, whose record does not say its mix."""
    rows = [plain(), plain(decoding_mix=0.5), plain(decoding_mix=1.5), plain(adapter_scale=0.5)]
    mixes = [line for line in lines_of(rows, np.array([0.0, 1.0])) if line.knobs_KD.max() == 1.5]
    assert [sorted(line.rows_K.tolist()) for line in mixes] == [[0, 1, 2]]
    assert mixes[0].start_M is not None
    assert sorted(mixes[0].knobs_KD[:, 0].tolist()) == [0.5, 1.0, 1.5]
    assert [control_of(row) for row in rows] == [None, "mix", "mix", "scale"]
    assert training_of(rows[1]) == training_of(rows[0])


def test_random_search_of_two_knobs_is_a_surface_and_a_grid_is_lines() -> None:
    random = [configuration("m", a=a, b=b) for a, b in ((0.1, 0.5), (0.2, 0.9), (0.7, 0.3), (0.9, 0.8))]
    (surface,) = lines_of(random)
    assert surface.knobs_KD.shape == (4, 2)
    grid = [configuration("m", a=a, b=b) for a in (1, 2, 3) for b in (1, 2, 3)]
    assert sorted(line.knobs_KD.shape for line in lines_of(grid)) == [(3, 1)] * 6


def test_readouts_share_their_training() -> None:
    """By what the record says, or else by the coefficients that train nothing."""
    full, half, other = plain(), plain(checkpoint_step=24), configuration("kl", beta=1.0)
    assert training_of(full) == training_of(half) != training_of(other)
    assert training_of(Configuration("x", "safe_lora", training="t")) == "t"
    assert training_of(configuration("kl", beta=1.0)) != training_of(configuration("kl", beta=2.0))


def test_shares_of_one_training_are_drawn_with_it() -> None:
    """A method's own coefficient may train nothing: the record says whose training each configuration is read from."""
    shares = [methods.make("pareto_adapters", {"share": share}) for share in (0.0, 0.25, 0.5, 1.0)]
    trials = [tiny_trial(method) for method in (*shares, methods.make("pareto_adapters", {"form": "conditioned"}))]
    rows = [
        Configuration(
            trial.configuration_id,
            trial.method.name,
            trial.method.label,
            {name: trial.coefficients[name] for name in ("share", "form")},
            trial.full_training.configuration_id,
        )
        for trial in trials
    ]
    scores = np.random.default_rng(0).uniform(size=(len(rows), 3, 2))
    made = table([record(row, seed, *scores[at, seed]) for at, row in enumerate(rows) for seed in range(3)])
    measured = measure(made)
    read = np.array([row.coefficients["form"] == "separate" for row in made.configurations])
    assert len(set(measured.training_C[read].tolist())) == 1
    assert len(set(measured.training_C.tolist())) == 2
    assert [sorted(line.knobs_KD.ravel()) for line in measured.lines] == [[0.0, 0.25, 0.5, 1.0]]
    assert [rows_C.tolist() for rows_C in Bootstrap(measured, 2).noise.trainings] == [read.tolist()]


def test_a_table_is_measured_as_gains() -> None:
    rows = [configuration("kl", beta=beta) for beta in (1.0, 2.0, 3.0)]
    measured = measure(table([record(row, seed, 0.5, 0.25) for row in rows for seed in (0, 1)]))
    assert measured.mean_CM.tolist() == [[0.5, 0.25]] * 3
    assert len(measured.lines) == 1
    assert len(set(measured.training_C.tolist())) == 3
