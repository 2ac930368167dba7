"""What lies where in a sweep's folder."""

from pathlib import Path

from trainables.folder import SweepFolder


def test_no_two_things_share_a_place(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    of_id = [folder.adapter, folder.observations, folder.grades, folder.checkpoint, folder.error, folder.activity]
    places = [getattr(folder, name) for name, value in vars(SweepFolder).items() if isinstance(value, property)]
    places += [place("x") for place in of_id]
    assert len(set(places)) == len(places) == 27
    assert all(tmp_path in place.parents for place in places)


def test_a_pack_and_a_trial_that_waits_keep_their_states_side_by_side(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert folder.checkpoint("pack").parent == folder.paused("trial").parent == folder.checkpoints
