"""What the base model gives is computed once, kept by content, and changes no result."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.batches import EncodedSetting
from trainables.engine.frozen import reference_cache
from trainables.engine.frozen.reference_cache import ReferenceCache, SharedTensors
from trainables.engine.memory import ON_DEVICE_BYTES, kept_on_gpu
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.engine.stream import StreamPass
from trainables.folder import SweepFolder
from trainables.interface.configured import Definition
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.training import ASKED_STEPS
from trainables.trial import TrialConfig

STEPS = 12
REFERRING = [name for name in methods.names() if methods.get(name).reference]
BOTH: list[tuple[str, Definition]] = [(name, kind) for name in REFERRING for kind in ("principled", "published")]


def pack_of(trials: list[TrialConfig], folder: Path | None, **options: Any) -> Pack:
    kept = ReferenceCache(folder) if folder else None
    return Pack(tiny_base(), tiny_setting(), trials, torch.float64, references=kept, **options)


def theta(pack: Pack, steps: int = STEPS) -> torch.Tensor:
    pack.advance(steps)
    assert [record.status for record in pack.members] == ["finished"] * len(pack.trials)
    return pack.adapters.theta_KP.clone()


def all_methods() -> list[TrialConfig]:
    return [tiny_trial(methods.make(name), seed) for seed, name in enumerate([*REFERRING, "plain", "upweighted"])]


@pytest.mark.parametrize(("name", "definition"), BOTH)
def test_known_equals_asked(name: str, definition: Definition, tmp_path: Path) -> None:
    """Parameters after 12 steps, in float64, for every method that refers to the base model."""
    trial = tiny_trial(methods.make(name, {"definition": definition}), max_length=20)
    prepare(trial.requires, tmp_path / "store")
    store = AdapterStore(SweepFolder(tmp_path / "store"))
    asked = theta(pack_of([trial], None, store=store))
    known = theta(pack_of([trial], tmp_path / "references", store=store))
    torch.testing.assert_close(known, asked, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rows_per_forward", [None, 2])
def test_packs_of_all_methods(rows_per_forward: int | None, tmp_path: Path) -> None:
    steps = ASKED_STEPS + 3
    asked = theta(pack_of(all_methods(), None, rows_per_forward=rows_per_forward), steps)
    known = theta(pack_of(all_methods(), tmp_path, rows_per_forward=rows_per_forward), steps)
    torch.testing.assert_close(known, asked, rtol=0, atol=1e-9)


def test_after_the_first_steps_the_base_model_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    forward = StreamPass.forward

    def watched(self: StreamPass, chunk: Any, route: Any) -> Any:
        asked.append(route is None)
        return forward(self, chunk, route)

    monkeypatch.setattr(StreamPass, "forward", watched)
    pack = pack_of([tiny_trial(methods.make("kl_penalty"))], tmp_path)
    pack.advance(ASKED_STEPS)
    assert sum(asked) == ASKED_STEPS
    pack.advance(3)
    assert sum(asked) == ASKED_STEPS


def test_computed_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process reads the file, and goes on with the same bits."""
    trials = [tiny_trial(methods.make(name), seed) for seed, name in enumerate(("kl_penalty", "representation", "dpo"))]
    first = theta(pack_of(trials, tmp_path))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(files) == 3, "alignment rows, with all layers, and their misaligned twins"
    monkeypatch.setattr(reference_cache, "compute_outputs", lambda *_: pytest.fail("computed again"))
    assert torch.equal(theta(pack_of(trials, tmp_path)), first)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}


def test_a_resumed_pack_has_the_same_bits(tmp_path: Path) -> None:
    whole = theta(pack_of(all_methods(), tmp_path / "one"))
    pack = pack_of(all_methods(), tmp_path / "two")
    pack.advance(5)
    pack.save(tmp_path / "checkpoint")
    again = pack_of(all_methods(), tmp_path / "two")
    assert again.resume(tmp_path / "checkpoint")
    assert torch.equal(theta(again, STEPS - 5), whole)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    trials = [tiny_trial(methods.make("kl_penalty"))]
    whole = theta(pack_of(trials, tmp_path))
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no safetensors"):
        path.write_bytes(damaged)
        assert torch.equal(theta(pack_of(trials, tmp_path)), whole)
        assert path.read_bytes() == content


def test_a_term_that_is_not_connected_still_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known outputs differ from the policy's by rounding, so that only the first steps can tell."""
    kl_penalty = methods.get("kl_penalty")
    losses = kl_penalty.losses

    def disconnected(self: Any, step: Any) -> Any:
        same = replace(step.reference["alignment"], hidden_ND=step.policy["alignment"].hidden_ND.detach())
        return losses(self, replace(step, reference={"alignment": same}))

    monkeypatch.setattr(kl_penalty, "losses", disconnected)
    pack = pack_of([tiny_trial(methods.make("kl_penalty"))], tmp_path)
    pack.advance(STEPS)
    assert pack.members[0].status == "invalid" and "'kl' is exactly 0" in str(pack.members[0].reason)


def test_what_a_file_is_named_by(tmp_path: Path) -> None:
    base, kept = tiny_base(), ReferenceCache(tmp_path)
    rows = EncodedSetting(tiny_setting(), base.tokenizer, 64).rows("alignment")
    known = kept.on(base, rows, "response")
    assert known is not None and known.layers_LND is None
    assert kept.on(base, list(reversed(rows)) * 2, "response") is not known, "the order of rows decides how they batch"
    assert kept.on(base, rows, "response") is known
    for other in (
        kept.on(replace(base, content_id="other"), rows, "response"),
        kept.on(base, rows[1:], "response"),
        kept.on(base, rows, "text"),
        kept.on(base, rows, "response", with_layers=True),
    ):
        assert other is not None and other is not known
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_what_is_not_kept(tmp_path: Path) -> None:
    base = tiny_base()
    rows = EncodedSetting(tiny_setting(), base.tokenizer, 64).rows("alignment")
    assert ReferenceCache(tmp_path).on(base, rows, "padded") is None
    positions = sum(len(row.ids) - row.prompt_length for row in rows)
    size = positions * 16 * 8  # width 16, float64
    assert ReferenceCache(tmp_path, max_bytes=size - 1).on(base, rows, "response") is None
    assert ReferenceCache(tmp_path, max_bytes=2 * size - 1).on(base, rows, "response", with_layers=True) is None
    assert not list(tmp_path.iterdir())
    known = ReferenceCache(tmp_path, max_bytes=size).on(base, rows, "response")
    assert known is not None and known.hidden_ND.nbytes == size


def test_rows_come_in_the_order_asked(tmp_path: Path) -> None:
    base = tiny_base()
    rows = EncodedSetting(tiny_setting(), base.tokenizer, 64).rows("alignment")
    known = ReferenceCache(tmp_path).on(base, rows, "response")
    assert known is not None
    hidden_ND, _ = known.of([rows[2], rows[0], rows[2]], base.model.device)
    for row, part in zip(
        (rows[2], rows[0]),
        hidden_ND.split([len(r.ids) - r.prompt_length for r in (rows[2], rows[0], rows[2])]),
        strict=False,
    ):
        found = base.model.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        torch.testing.assert_close(part, found[row.prompt_length - 1 : -1], rtol=0, atol=1e-12)


def test_workers_that_start_together_compute_once(tmp_path: Path) -> None:
    """Two of one pack, or of two: each has a cache of its own, and one waits for the other."""
    computed, values = list[int](), dict[int, dict[str, torch.Tensor]]()

    def compute() -> dict[str, torch.Tensor]:
        computed.append(1)
        time.sleep(0.1)
        return {"states": torch.arange(4.0)}

    def read(worker: int) -> None:
        values[worker] = SharedTensors(tmp_path, crew(worker, 3)).get("key", compute, torch.device("cpu"))

    workers = [threading.Thread(target=read, args=(rank,)) for rank in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(computed) == 1
    assert all(torch.equal(values[rank]["states"], torch.arange(4.0)) for rank in range(3))


def crew(rank: int, count: int) -> ProcessGroup:
    """One of several workers; what they say to each other would be an error."""

    class Silent(ProcessGroup):
        def gather(self, value: Any) -> list[Any]:
            raise AssertionError("workers that do not share a model need not know of one another")

    worker = Silent()
    worker.rank, worker.count = rank, count
    return worker


def test_the_folder_is_bounded_and_what_is_in_use_stays(tmp_path: Path) -> None:
    tensors = SharedTensors(tmp_path, SINGLE_PROCESS, max_bytes=1.0)
    other = SharedTensors(tmp_path, SINGLE_PROCESS, max_bytes=1.0)
    of = torch.device("cpu")
    for key in ("a", "b"):
        tensors.get(key, lambda: {"states": torch.ones(3)}, of)
    del tensors
    kept = other.get("c", lambda: {"states": torch.ones(3)}, of)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["c.safetensors"]
    assert torch.equal(kept["states"], torch.ones(3))


def test_a_device_holds_so_many_bytes_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 12 bytes each where 20 are allowed: the second stays in main memory."""
    monkeypatch.setattr(reference_cache, "ON_DEVICE_BYTES", 20.0)
    tensors, device = SharedTensors(tmp_path, SINGLE_PROCESS), torch.device("meta")
    kinds = [tensors.get(key, lambda: {"states": torch.ones(3)}, device)["states"].device.type for key in ("a", "b")]
    assert kinds == ["meta", "cpu"]
    assert kept_on_gpu(24.0, 2e9) == 24.0 + ON_DEVICE_BYTES
