"""A cheap front: both ends, then blends, then the widest gap; nothing more where noise excuses what is left."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.controls import BLENDS
from sweeps.early_stopping import EarlyStopping
from sweeps.planning.planned import FOR_OTHERS, planned_arms
from sweeps.search.gaps import FrontPoint, noise_of, position_in, widest_gap
from sweeps.search.proposer import summarize_seeds
from sweeps.space import between, grid, one_of, vary
from sweeps.sweep import Search, Sweep
from tests.support.fakes import Rig, finished, toy_sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

KL = vary("kl_penalty", beta=between(0.01, 100.0))
CHEAP = Search(front="cheap")
ENDS = [0.01, 100.0]


def cheap(folder: Path, **changes: Any) -> Sweep:
    """A sweep over one knob, of at most six trainings."""
    return toy_sweep(folder, **({"methods": ("plain", KL), "search": CHEAP, "seeds": 3} | changes))


def on_an_arc(noise: float) -> Callable[[TrialConfig], Outcome]:
    """Outcomes on a quarter circle over the logarithm of beta; blends lie near the end of the large one."""

    def ending(trial: TrialConfig) -> Outcome:
        outcome = finished(trial)
        place = math.log(float(trial.coefficients.get("beta", 0.01)) / 0.01) / math.log(1e4)
        task, alignment = math.cos(place * math.pi / 2), math.sin(place * math.pi / 2)
        if trial.method.name == "blend":
            task = 0.05 * float(trial.coefficients["w"])
            alignment = 1 - task
        shift = 0.3 * trial.seed + random.Random(trial.trial_id).gauss(0, noise)  # the first is common to all
        scores = {"task": Measurement(task + shift, 4, 0), "alignment": Measurement(alignment + shift, 4, 0)}
        return replace(outcome, scores={**outcome.scores, **scores})

    return ending


def searched(sweep: Sweep, folder: Path, noise: float, seed: int = 0, packs: int = 10**6) -> Rig:
    """The sweep, run by the fake searcher."""
    rig = Rig(sweep, folder)
    rig.run(random.Random(seed), on_an_arc(noise), packs=packs)
    return rig


def betas(rig: Rig) -> list[float]:
    """What was trained, in order."""
    arm = next(arm for arm in rig.sweep.arms if arm.space.method == "kl_penalty")
    asked = rig.ledger.state.asked[arm.key]
    return [asked[number].values["beta"] for number in sorted(asked)]


def test_ends_come_first_and_then_the_middle_of_the_widest_gap(tmp_path: Path) -> None:
    """Ends lie at (1, 0) and (0, 1), blends at (.05 w, 1 - .05 w), so the widest gap is from (.04, .96) to (1, 0).

    Its middle in the task is .52. Interpolated between the ends, that is .48 of the range, and beta 10^(-2 + 4 x .48).
    """
    rig = searched(cheap(tmp_path, configurations=3), tmp_path / "out", noise=0.0)
    assert betas(rig) == [*ENDS, float(f"{10 ** (-2 + 4 * 0.48):.3g}")]
    shares = [trial.coefficients["w"] for pack in rig.dispatched for trial in pack if trial.method.name == "blend"]
    assert sorted(set(shares)) == list(BLENDS)


def test_a_blend_trains_nothing_beside_the_ends(tmp_path: Path) -> None:
    rig = searched(cheap(tmp_path, configurations=2), tmp_path / "out", noise=0.0)
    trained = {trial.method.text for pack in rig.dispatched for trial in pack if trial.method.name != "blend"}
    assert trained == {"plain", "kl_penalty beta=0.01", "kl_penalty beta=100"}


def test_noise_excuses_a_gap(tmp_path: Path) -> None:
    rig = searched(cheap(tmp_path), tmp_path / "out", noise=3.0)
    assert betas(rig) == ENDS
    (note,) = rig.scheduler.search.notes
    assert note.endswith("no gap of the front is wider than noise; 2 of 6 trained")
    assert len(betas(searched(cheap(tmp_path), tmp_path / "quiet", noise=0.001))) == 6


def test_it_is_the_same_whatever_the_order_and_after_a_kill(tmp_path: Path) -> None:
    whole = betas(searched(cheap(tmp_path), tmp_path / "0", noise=0.001))
    assert betas(searched(cheap(tmp_path), tmp_path / "1", noise=0.001, seed=7)) == whole
    for packs in (1, 3, 5):
        folder = tmp_path / f"killed-{packs}"
        searched(cheap(tmp_path), folder, noise=0.001, packs=packs).ledger.close()
        assert betas(searched(cheap(tmp_path), folder, noise=0.001, seed=3)) == whole


class Ended:
    """A configuration with these values per seed."""

    def __init__(self, *values: list[float]) -> None:
        self.notes = {"values_per_seed": {str(seed): value for seed, value in enumerate(values)}}


def test_the_noise_of_a_difference_by_hand() -> None:
    """Residuals of the first objective are +-.5, 0, -+.5: squares add up to 1, over (2 - 1)(3 - 1) degrees of freedom.

    The variance is .5, that of a difference of means of three 2/3 of it, and t at 2 degrees is 4.3027. In the second
    objective the seeds move both configurations alike.
    """
    ended = [Ended([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]), Ended([2.0, 5.0], [2.0, 6.0], [2.0, 7.0])]
    assert noise_of(ended, 2) == pytest.approx((4.302653 * math.sqrt(2 / 3 * 0.5), 0.0))  # type: ignore[arg-type]
    assert noise_of(ended[:1], 2) == (0.0, 0.0)  # type: ignore[arg-type]
    assert noise_of([summarize_seeds([], ["task"])], 1) == (0.0,)


def test_the_widest_gap_by_hand() -> None:
    """Rectangles between neighbours on the front: .1 x .1, then .5 x .2; the dominated point is no neighbour."""
    points = [FrontPoint(gains) for gains in ((0.0, 1.0), (0.1, 0.9), (0.6, 0.7), (0.05, 0.2))]
    assert widest_gap(points, (0.0, 0.0)) == (points[1], points[2])
    assert widest_gap(points, (0.0, 0.3)) is None
    assert widest_gap(points[:1], (0.0, 0.0)) is None


def test_the_position_in_a_gap_by_hand() -> None:
    """From x = 1 at 0 to x = 0 at 1, x = .25 is met at .75; where that is taken, the widest interval is halved."""
    trained = [FrontPoint((1.0, 0.0), 0.0), FrontPoint((0.0, 1.0), 1.0)]
    gap = (FrontPoint((0.0, 1.0), 1.0), FrontPoint((0.5, 0.6)))
    assert position_in(gap, trained) == pytest.approx(0.75)
    assert position_in(gap, [*trained, FrontPoint((0.25, 0.8), 0.75)]) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": (vary("dpo", beta=between(0.05, 0.5)),)}, 'front="cheap" needs one searched number'),
        ({"methods": (vary("kl_penalty", steps=between(10, 20)),)}, 'front="cheap" needs one searched number'),
        ({"methods": (vary("two_gradients", weight=1.0, rule=one_of("surgery", "min_norm")),)}, "one searched number"),
        ({"methods": (KL,), "objectives": ("task", "alignment", "other")}, 'front="cheap" needs two objectives, got 3'),
    ],
)
def test_what_has_no_ends_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = cheap(tmp_path, **changes).cases


def test_other_declarations_are_refused_and_ids_stay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="front must be one of dense, cheap, got 'fast'"):
        Search(front="fast")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="early_stopping would stop some"):
        Search(front="cheap", early_stopping=EarlyStopping())
    dense = toy_sweep(tmp_path, methods=(KL,))
    assert dense.identity() == toy_sweep(tmp_path, methods=(KL,), search=Search(front="dense")).identity()
    assert dense.identity() != toy_sweep(tmp_path, methods=(KL,), search=CHEAP).identity()
    blends = grid("blend", first="kl_penalty beta=0.01", second="kl_penalty beta=100", w=list(BLENDS))
    listed = cheap(tmp_path, methods=(KL, blends))
    assert [arm.space.method for arm in listed.arms] == ["kl_penalty", "blend"], "what is listed is not added again"


def test_a_plan_counts_each_end_once(tmp_path: Path) -> None:
    """Plain, six values of the penalty among which are both ends, and the blends of these ends; three seeds each."""
    planned = planned_arms(cheap(tmp_path))
    assert not any(each.title.endswith(FOR_OTHERS) for each in planned), "the blends' ends are the method's own"
    assert [len(each.configurations) for each in planned] == [1, 6, len(BLENDS)]
    trained = {trial.trial_id for each in planned for trial in each.trials if trial.training == trial}
    assert {needed.trial_id for trial in planned[-1].trials for needed in trial.built_on} <= trained
