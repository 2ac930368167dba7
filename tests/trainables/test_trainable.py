"""The Tune actor, driven by hand: slices, checkpoints, one pack after another, errors of the user as results."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import torch
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration import ray_train
from safetensors import SafetensorError

import trainables.checkpoint
import trainables.pack
import trainables.run
import trainables.training
from settings import catalog
from settings.common.files import remove
from settings.reference import SettingRef
from trainables import methods
from trainables.bases.load_base import load_base
from trainables.folder import SweepFolder
from trainables.messages import (
    ActivityFile,
    Ended,
    Failed,
    Job,
    OutOfMemory,
    PackEnd,
    PackReport,
    ScoreBase,
    TrainPack,
    UserProblem,
    WorkerConfig,
    to_config,
)
from trainables.outcome import Outcome
from trainables.trainable import PackTrainable, train_together
from trainables.trial import AdapterConfig, OptimizerConfig, TrialConfig, pack_id, trial_for

ROW = '{"messages": [{"role": "user", "content": "question %d"}, {"role": "assistant", "content": "answer %d"}]}\n'


@pytest.fixture
def ref(tmp_path: Path, tiny_qwen3_dir: Path) -> SettingRef:
    for name in ("task", "alignment"):
        (tmp_path / f"{name}.jsonl").write_text("".join(ROW % (n, n + len(name)) for n in range(len(name), 30)))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("task", "alignment")}
    return SettingRef("chat_files", {"model": str(tiny_qwen3_dir), **files})


def trials(ref: SettingRef, steps: int = 6) -> list[TrialConfig]:
    setting = catalog.build(ref.name, ref.options)
    options = {
        "steps": steps,
        "batch_size": 2,
        "alignment_batch_size": 2,
        "adapter": AdapterConfig(rank=2, alpha=4.0),
        "optimizer": OptimizerConfig(learning_rate=1e-2),
    }
    return [trial_for(setting, ref, methods.make("kl_penalty"), seed, **options) for seed in range(2)]


def config(folder: Path, members: list[TrialConfig], job: Job | None = None, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    worker = WorkerConfig(**{"folder": folder, "threads": 1, "checkpoint_seconds": 1e9} | changes)
    return to_config(worker, job or TrainPack(tuple(members)))


def step(actor: PackTrainable) -> PackReport:
    """Have an actor work for a slice. Tune is told to go on until the job ended."""
    result = actor.step()
    report = PackReport.from_result(result)
    assert report is not None and result["done"] == (report.end is not None)
    return report


def run(actor: PackTrainable) -> list[PackReport]:
    reports = [step(actor)]
    while reports[-1].end is None:
        reports.append(step(actor))
    return reports


def end_of(actor: PackTrainable) -> PackEnd:
    end = run(actor)[-1].end
    assert end is not None
    return end


def ended(tune_config: dict[str, Any]) -> PackEnd:
    """Return how a job ends in an actor of its own, which lets go of the base model in any case."""
    actor = PackTrainable(tune_config)
    try:
        return end_of(actor)
    finally:
        actor.cleanup()


def outcomes_of(end: PackEnd) -> tuple[Outcome, ...]:
    assert isinstance(end, Ended), end
    return end.outcomes


def assert_same(first: PackEnd, second: PackEnd) -> None:
    for outcome, expected in zip(outcomes_of(first), outcomes_of(second), strict=True):
        assert outcome.scores == expected.scores
        assert outcome.curves == expected.curves


def test_a_stopped_pack_continues_bit_for_bit(tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PackTrainable(config(tmp_path / "whole", trials(ref)))
    expected = end_of(whole)
    whole.cleanup()

    monkeypatch.setattr(trainables.run, "SLICE_SECONDS", 0.0)  # a slice is one step
    first = PackTrainable(config(tmp_path / "parts", trials(ref)))
    reports = [step(first) for _ in range(3)]
    assert [(report.steps_done, report.num_steps) for report in reports] == [(1, 6), (2, 6), (3, 6)]
    first.cleanup()
    checkpoints = list((tmp_path / "parts" / "checkpoints").iterdir())
    assert len(checkpoints) == 1
    monkeypatch.undo()

    second = PackTrainable(config(tmp_path / "parts", trials(ref)))
    end = end_of(second)
    second.cleanup()
    assert checkpoints[0].exists(), "until the driver has the outcomes"
    assert_same(expected, end)
    for outcome in outcomes_of(end):
        name = outcome.trial.trial_id
        files = [tmp_path / run / "adapters" / name / "adapter_model.safetensors" for run in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_pack_that_would_not_fit_is_given_back_before_it_runs(tmp_path: Path, ref: SettingRef) -> None:
    """The driver hands it out again in halves; one trial alone is tried in any case."""
    held = psutil.Process().memory_info()
    own = held.rss - held.shared
    for memory, members, fits in ((own, 2, False), (own, 1, True), (own + 10e9, 2, True), (None, 2, True)):
        actor = PackTrainable(config(tmp_path / "pack", trials(ref)[:members], memory=memory))
        end = end_of(actor)
        actor.cleanup()
        assert isinstance(end, Ended if fits else OutOfMemory)
        if isinstance(end, OutOfMemory):
            assert "a pack of 2 would take" in end.reason and "GB are left" in end.reason


def test_a_damaged_checkpoint_costs_time_and_no_more(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack starts anew and says so; it does not fail now and at every restart."""
    whole = PackTrainable(config(tmp_path / "whole", trials(ref)))
    expected = end_of(whole)
    whole.cleanup()
    checkpoint = SweepFolder(tmp_path / "parts").checkpoint(pack_id(trials(ref)))
    for damage in (False, True):
        monkeypatch.setattr(trainables.run, "SLICE_SECONDS", 0.0)
        first = PackTrainable(config(tmp_path / "parts", trials(ref)))
        first.step(), first.cleanup()
        monkeypatch.undo()
        if damage:
            checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        second = PackTrainable(config(tmp_path / "parts", trials(ref)))
        reports = run(second)
        second.cleanup()
        notes = [report.note for report in reports if report.note]
        assert len(notes) == 1 and ("cannot be read" in notes[0]) == damage
        assert notes[0].endswith("its trials start again from step 0" if damage else "after 1 of 6 steps")
        assert checkpoint.exists() != damage, "what cannot be read is deleted"
        assert reports[-1].end is not None
        assert_same(expected, reports[-1].end)
        remove(checkpoint)


def test_one_actor_runs_one_pack_after_another(tmp_path: Path, ref: SettingRef) -> None:
    """A new pack in a used actor gives what a fresh actor gives."""
    used = PackTrainable(config(tmp_path / "used", trials(ref, steps=4)))
    run(used)
    assert used.reset_config(config(tmp_path / "used", trials(ref)))
    again = end_of(used)
    used.cleanup()
    assert_same(again, ended(config(tmp_path / "fresh", trials(ref))))


def test_the_base_model_is_scored(tmp_path: Path, ref: SettingRef) -> None:
    end = ended(config(tmp_path, [], ScoreBase(ref)))
    assert isinstance(end, Ended)
    assert end.base["task"].n == 5


def test_the_base_model_is_scored_from_the_layer_where_adapters_begin(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are those of the whole pass, and what lies below is what a trial then reads."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    whole, both = ended(config(tmp_path, [], ScoreBase(ref))), AdapterConfig(layers="all")
    upper = AdapterConfig(rank=2, alpha=4.0, layers="last 1")
    assert ended(config(tmp_path, [], ScoreBase(ref, (upper, both)))) == whole
    assert not (tmp_path / "cache" / "prefixes").exists(), "some adapters begin at the bottom"
    begun = ended(config(tmp_path, [], ScoreBase(ref, (upper,))))
    assert isinstance(begun, Ended) and isinstance(whole, Ended)
    for name, score in whole.base.items():
        assert begun.base[name].mean == pytest.approx(score.mean, rel=1e-5)
    files = list((tmp_path / "cache" / "prefixes").glob("*.safetensors"))
    assert files
    monkeypatch.setattr(
        trainables.engine.frozen.prefix_cache, "compute_states", lambda *_: pytest.fail("computed again")
    )
    assert ended(config(tmp_path, [], ScoreBase(ref, (upper,)))) == begun


def test_what_is_kept_on_a_gpu_is_needed_memory(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that would fit without it is refused, and then made smaller."""
    members = trials(ref)
    pack_run = trainables.run.PackRun(config(tmp_path, members))
    setting = catalog.build(ref.name, ref.options)
    base = load_base(setting.base_model)
    on_gpu = MagicMock(wraps=base, model=MagicMock(wraps=base.model, device=torch.device("meta"), dtype=torch.bfloat16))
    on_gpu.model.config = base.model.config
    monkeypatch.setattr(trainables.run, "memory_left", lambda *_: 1e9)
    monkeypatch.setattr(trainables.run, "cache_bytes", lambda *_: (5e8, 5e8))
    pack_run._check_memory(base, setting, members)
    with pytest.raises(MemoryError, match=r"a pack of 2 would take 1\.0 GB, but only 1\.0 GB are left"):
        pack_run._check_memory(on_gpu, setting, members)
    monkeypatch.setattr(trainables.run, "cache_bytes", lambda *_: (5e8, 0.0))
    pack_run._check_memory(on_gpu, setting, members)


def test_changed_data_is_an_error_of_the_user(tmp_path: Path, ref: SettingRef) -> None:
    stale = TrialConfig(**{**vars(trials(ref)[0]), "data": "something else"})
    end = ended(config(tmp_path, [stale]))
    assert isinstance(end, UserProblem)
    assert "setting 'chat_files' has other rows or questions here" in end.text


def test_a_job_of_other_training_code_is_an_error_of_the_user(tmp_path: Path, ref: SettingRef) -> None:
    """A node of the cluster may have another version installed than the driver's."""
    tune_config = config(tmp_path, trials(ref))
    tune_config["job"]["trials"][0]["numerics"] = 0
    end = ended(tune_config)
    assert isinstance(end, UserProblem) and "trial of numerics version 0" in end.text


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path, ref: SettingRef) -> None:
    tune_config = config(tmp_path / "elsewhere", trials(ref))
    (tmp_path / "elsewhere").rmdir()
    end = ended(tune_config)
    assert isinstance(end, UserProblem)
    assert "elsewhere; --output must lie on storage that all nodes share" in end.text
    assert not (tmp_path / "elsewhere").exists()


FULL_DISK: dict[str, tuple[str, Exception]] = {
    "checkpoint": (
        "save_file",
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
    "replies": ("write_json", OSError(errno.ENOSPC, "No space left on device")),
    "quota": ("write_json", OSError(errno.EDQUOT, "Disk quota exceeded")),
}


@pytest.mark.parametrize("what", FULL_DISK)
def test_a_full_disk_ends_the_start_and_no_trial(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Otherwise its trials would have failed for good. With room again they continue from the newest checkpoint."""
    expected = ended(config(tmp_path / "whole", trials(ref)))
    monkeypatch.setattr(trainables.run, "SLICE_SECONDS", 0.0)
    first = PackTrainable(config(tmp_path / "parts", trials(ref)))
    first.step(), first.cleanup()
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    before = checkpoint.read_bytes()

    function, error = FULL_DISK[what]

    def refuse(*_: Any) -> None:
        raise error

    with monkeypatch.context() as full:
        full.setattr(trainables.checkpoint if function == "save_file" else trainables.pack, function, refuse)
        end = ended(config(tmp_path / "parts", trials(ref), checkpoint_seconds=0.0))
        assert isinstance(end, UserProblem) and "no space left on node" in end.text
    assert function == "write_json" or checkpoint.read_bytes() == before, "the older one is still there"
    assert_same(expected, ended(config(tmp_path / "parts", trials(ref))))


def test_another_error_of_the_disk_is_an_error(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(trainables.pack, "write_json", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        ended(config(tmp_path, trials(ref)))


def test_too_little_memory_is_a_result(tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, torch reports it by its most general error, and Python by its own."""
    for ask in (lambda *_: torch.empty(10**15), lambda *_: bytearray(10**17)):
        monkeypatch.setattr(trainables.pack.Pack, "advance", ask)
        end = ended(config(tmp_path, trials(ref)))
        assert isinstance(end, OutOfMemory) and end.reason
    monkeypatch.setattr(trainables.pack.Pack, "advance", lambda *_: torch.zeros(2) @ torch.zeros(3))
    end = ended(config(tmp_path, trials(ref)))
    assert isinstance(end, Failed) and "size" in end.traceback


def test_several_workers_report_too_little_memory_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers is out of memory; the other one loses its peer in the middle of a step."""
    lost = RuntimeError("Traceback ...\nRuntimeError: connection closed by peer")
    short = RuntimeError("Traceback ...\n  raise MemoryError\nMemoryError: CUDA out of memory")
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    monkeypatch.setattr(ray_train, "TuneReportCallback", train.UserCallback)  # its own needs a Tune session
    for failures, expected in (
        ({0: short, 1: lost}, OutOfMemory("MemoryError: CUDA out of memory")),
        ({1: lost}, None),
    ):

        def fail(_: Any, failures: dict[int, Exception] = failures) -> None:
            raise train.WorkerGroupError("workers failed", failures)

        monkeypatch.setattr(TorchTrainer, "fit", fail)
        worker = WorkerConfig(
            folder=Path("/nowhere"), threads=1, checkpoint_seconds=1.0, num_workers=2, resources={"CPU": 1}
        )
        if expected is None:
            with pytest.raises(train.WorkerGroupError):
                train_together(to_config(worker))
        else:
            train_together(to_config(worker))
            assert [PackReport.from_result(result) for result in reported] == [PackReport(end=expected)]
            assert "done" not in reported[0]


def test_what_a_method_raises_fails_its_pack_at_once_and_leaves_the_process_sound(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises in the middle of a step. The next pack in the process ends with the bits of one in a fresh process."""
    members = trials(ref)
    whole = ended(config(tmp_path / "alone", members))
    KL, calls = type(members[0].method), []

    def losses(method: Any, step: Any) -> Any:
        calls.append(step)
        if len(calls) == 5:  # the first member's of the third step
            raise ValueError("no such\nthing")
        return usual(method, step)

    usual = KL.losses
    monkeypatch.setattr(KL, "losses", losses)
    actor = PackTrainable(config(tmp_path / "failing", members, checkpoint_seconds=0.0))
    try:
        end = end_of(actor)
        assert isinstance(end, Failed)
        assert end.traceback.endswith("ValueError: no such\nthing\n") and "in losses" in end.traceback
        monkeypatch.setattr(KL, "losses", usual)
        actor.reset_config(config(tmp_path / "next", members))
        assert_same(end_of(actor), whole)
    finally:
        actor.cleanup()


def test_what_breaks_the_process_is_raised_and_ray_starts_another(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trainables.pack.Pack, "advance", broken)
    with pytest.raises(torch.AcceleratorError):
        ended(config(tmp_path / "out", trials(ref)))


def test_a_pack_that_cannot_even_be_built_leaves_the_model_to_the_next(
    tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither too little memory for the optimizer nor a checkpoint that breaks off poisons the process."""
    whole = ended(config(tmp_path / "alone", trials(ref)))
    actor = PackTrainable(config(tmp_path / "first", trials(ref)))
    try:
        for place, name in ((trainables.training, "PackedAdamW"), (trainables.pack.Pack, "resume")):
            with monkeypatch.context() as patched:
                patched.setattr(place, name, _no_memory)
                assert isinstance(end_of(actor), OutOfMemory)
            actor.reset_config(config(tmp_path / name, trials(ref)))
        assert_same(end_of(actor), whole)
    finally:
        actor.cleanup()


def _no_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("message", ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", "cuDNN error: bad", "NCCL timeout"])
def test_an_error_of_the_device_is_raised(
    message: str, tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(trainables.pack.Pack, "advance", broken)
    with pytest.raises(RuntimeError, match=message):
        ended(config(tmp_path / "out", trials(ref)))


def test_a_worker_tells_what_it_does(tmp_path: Path, ref: SettingRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each phase from its beginning, every update and every row; nothing is left when the worker lets go."""
    told: list[tuple[Any, ...]] = []
    tell = ActivityFile.tell

    def listen(file: ActivityFile, phase: Any, done: float = 0, total: float = 0, what: str = "") -> None:
        told.append((phase, done, total, what))
        tell(file, phase, done, total, what)

    monkeypatch.setattr(ActivityFile, "tell", listen)
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    members = trials(ref)
    actor = PackTrainable(config(tmp_path / "sweep", members))
    run(actor)
    folder = SweepFolder(tmp_path / "sweep")
    assert folder.activity(pack_id(members)).is_file()
    actor.cleanup()
    assert not list(folder.activities.iterdir())

    assert list(dict.fromkeys(phase for phase, *_ in told)) == ["loading", "training", "reference", "scoring"]
    assert {(done, total) for phase, done, total, _ in told if phase == "training"} == {(n, 6) for n in range(7)}
    rows = {what: done / total for phase, done, total, what in told if phase == "scoring"}
    assert set(rows) == {evaluation.name for evaluation in catalog.build(ref.name, ref.options).evaluations}
    assert list(rows.values()) == pytest.approx([1.0] * len(rows))
