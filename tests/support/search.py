"""A search to compare with: the proposer of an arm, its study on disk, and a sweep whose trials build on others."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.search.proposer import Proposer
from sweeps.space import grid
from sweeps.sweep import Sweep
from tests.support.fakes import Rig, toy_sweep
from trainables.folder import SweepFolder


def proposer_of(sweep: Sweep, arm: int = 1) -> Proposer:
    return Proposer(sweep.arms[arm], sweep.cases[0].objectives, sweep.search.seed, sweep.search.round_size)


def storage_of(out: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(SweepFolder(out).study)))


def study_of(out: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage_of(out))


def assert_mirrored(rig: Rig) -> None:
    """Assert that the studies on disk say what the ledger says."""
    for index, arm in enumerate(rig.sweep.arms):
        proposer = proposer_of(rig.sweep, index)
        for number, asked in sorted(rig.ledger.state.asked.get(arm.key, {}).items()):
            proposer.restore(number, asked.values)
            outcomes = [rig.ledger.state.outcomes.get(t.trial_id) for t in rig.sweep.trials_of(arm, asked.values)]
            if all(outcomes):
                proposer.tell(number, outcomes)  # type: ignore[arg-type]
        mirrored = study_of(rig.out, f"{rig.sweep.name}/{arm.key}").get_trials()
        expected = proposer.trials()
        assert [(t.state, t.values, t.params, t.user_attrs) for t in mirrored] == [
            (t.state, t.values, t.params, t.user_attrs) for t in expected
        ]


def builders(tmp_path: Path) -> Sweep:
    """Declare methods with a prior, one that only edits another training, and readouts of plain fine-tuning."""
    methods = ("orthogonal_lora", grid("safe_lora", share=[0.5, 1.0]), grid("plain", adapter_scale=[0.5]))
    return toy_sweep(tmp_path, methods=methods, configurations=2)
