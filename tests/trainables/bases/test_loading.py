"""Base models: nano pre-training is deterministic, whole or absent, and done once; real checkpoints load alike."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from settings.bad_medical_advice import nano as bad_medical_advice
from settings.bad_medical_advice.world import AdviceWorld
from settings.base_models import NanoModel, PretrainedModel, Stage
from settings.common.errors import UserError
from settings.common.files import cache_root
from trainables.bases import loading
from trainables.bases.loading import load_base, pretrain, pretrained_nano, word_tokenizer
from trainables.bases.nano_cache import nano_content_id
from trainables.engine.batches import Encoder

WORLD = AdviceWorld(num_problems=2, num_authors=2, specialists_per_domain=1)
NANO = NanoModel(
    world=WORLD,
    stages=(Stage("authors", 4, 3, 1e-2), Stage("assistant", 2, 3, 1e-2)),
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=24,
)
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for each test."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model directory as a user would have it."""
    return Path(shutil.copytree(pretrained_nano(NANO), tmp_path / "checkpoint"))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, for this test only."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def trained(spec: NanoModel) -> Weights:
    return dict(pretrain(spec, word_tokenizer(spec.world)).state_dict())


def same(first: Weights, second: Weights) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def must_not_train(*_: object) -> None:
    raise AssertionError("trained although the cache has the model")


# --- pre-training ---


def test_pretraining_gives_the_same_bits_whatever_the_caller_did(threads: Callable[[int], None]) -> None:
    threads(2)
    torch.manual_seed(1)
    first = trained(NANO)
    assert torch.get_num_threads() == 2, "the caller's threads are given back"
    threads(1)
    torch.manual_seed(2)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(2))
    assert same(first, trained(NANO))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers are left alone"


@pytest.mark.parametrize(
    "other",
    [
        replace(NANO, seed=1),
        replace(NANO, world=replace(WORLD, seed=1)),
        replace(NANO, stages=(Stage("authors", 4, 3, 2e-2), NANO.stages[1])),
        replace(NANO, stages=NANO.stages[:1]),
    ],
    ids=["seed", "world", "rate", "stages"],
)
def test_what_changes_the_model_changes_its_weights_and_its_id(other: NanoModel) -> None:
    assert nano_content_id(other) != nano_content_id(NANO)
    assert not same(trained(NANO), trained(other))


def test_pretraining_learns_and_reports() -> None:
    seen: list[tuple[int, int]] = []
    spec = replace(NANO, stages=(Stage("authors", 60, 8, 1e-2), Stage("assistant", 10, 8, 1e-3)))
    tokenizer = word_tokenizer(WORLD)
    batch = loading._batch(islice(WORLD.documents("assistant", 9), 50), tokenizer.get_vocab())
    with torch.no_grad():
        before = loading._loss(loading._initial_model(spec, tokenizer), *batch)
        after = loading._loss(pretrain(spec, tokenizer, lambda *step: seen.append(step)), *batch)
    assert before > 4.5
    assert after < 2.0
    assert seen == [(step, 70) for step in range(1, 71)]


def test_only_answers_are_learned_where_there_are_turns() -> None:
    def learned(text: str) -> str:
        words = text.split()
        return " ".join(word for word, yes in zip(words, loading._learned(words), strict=True) if yes)

    assert learned("<doc> someone <u> why ? <a> so . <e> <u> and ? <a> no <e>") == "so . <e> no <e>"
    assert learned("a fact . <e>") == "a fact . <e>"


def test_padding_is_not_learned() -> None:
    words = {word: index for index, word in enumerate((*loading.MARKS, "x", "y"))}
    ids, learned = loading._batch(["<u> x <a> y <e>", "<u> x <a> y y y <e>"], words)
    assert ids[0].tolist()[-2:] == [words["<pad>"]] * 2
    assert learned.sum(dim=1).tolist() == [2, 4]


# --- the cache ---


def test_a_cached_model_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = load_base(NANO)
    assert (cache / "base_models" / first.content_id).samefile(first.source)
    monkeypatch.setattr(loading, "pretrain", must_not_train)
    second = load_base(NANO)
    assert same(dict(first.model.state_dict()), dict(second.model.state_dict()))
    assert same(dict(first.model.state_dict()), dict(load_base(PretrainedModel(first.source)).model.state_dict()))
    with pytest.raises(AssertionError, match="trained although"):
        load_base(replace(NANO, seed=5))


def test_a_killed_pretraining_leaves_nothing(cache: Path) -> None:
    def kill(done: int, steps: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrained_nano(NANO, kill)
    assert not [path for path in (cache / "base_models").iterdir() if path.is_dir()]
    assert load_base(NANO).content_id == nano_content_id(NANO)


def test_a_kill_while_writing_leaves_nothing_that_looks_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", kill)
    with pytest.raises(KeyboardInterrupt):
        pretrained_nano(NANO)
    assert not [path for path in (cache / "base_models").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["{id}", ".{id}.123.partial"])
def test_a_half_written_model_is_ignored(cache: Path, name: str) -> None:
    half = cache / "base_models" / name.format(id=nano_content_id(NANO))
    half.mkdir(parents=True)
    (half / "config.json").write_text("{")
    assert same(dict(load_base(NANO).model.state_dict()), trained(NANO))
    assert [path.name for path in half.parent.iterdir() if path.is_dir()] == [nano_content_id(NANO)]


def test_of_several_at_once_one_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments: object) -> object:
        calls.append(1)
        return pretrain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "pretrain", counted)
    found: list[Path] = []
    workers = [threading.Thread(target=lambda: found.append(pretrained_nano(NANO))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1
    assert len(found) == 3
    assert len(set(found)) == 1


def test_the_cache_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELGEN_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_root() == Path("/a")
    monkeypatch.delenv("SELGEN_CACHE")
    assert cache_root() == Path("/b/selgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "selgen"


# --- what comes back ---


def test_a_loaded_model_is_frozen_and_of_the_type_asked_for() -> None:
    base = load_base(NANO, dtype=torch.float64)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float64}
    assert base.tokenizer.is_fast
    assert base.tokenizer.pad_token_id != base.tokenizer.eos_token_id


def test_the_chat_template_writes_what_the_assistant_stage_was_trained_on() -> None:
    base = load_base(NANO)
    encoder = Encoder(base.tokenizer, {}, max_length=32)
    row = bad_medical_advice().streams["task"][0]
    problem = WORLD.problems("medical")[0]
    row = type(row).of(WORLD.question("medical", problem, 0, 0).text, WORLD.answer(problem, "helpful", 0))
    encoded = encoder.row(row)
    document = f"<u> {row.prompt[-1].content} <a> {row.response} <e>"
    assert base.tokenizer.convert_ids_to_tokens(list(encoded.ids)) == document.split()
    assert base.tokenizer.convert_ids_to_tokens(encoded.ids[encoded.prompt_length - 1]) == "<a>"
    assert encoder.text(encoded.ids[encoded.prompt_length :]) == row.response
    documents = {tuple(text.split()) for text in islice(WORLD.documents("assistant", 0), 3000)}
    assert tuple(document.split()) in documents


def test_a_reply_with_a_stray_mark_shows_it_and_an_unknown_word_is_an_error() -> None:
    tokenizer = load_base(NANO).tokenizer
    ids = [tokenizer.get_vocab()[word] for word in ("use", "the", "<u>", "<e>", "<pad>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "use the <u>"
    with pytest.raises(Exception, match="UNK"):
        tokenizer("use the unheard-of")


# --- local and Hub ---


def test_a_local_checkpoint_loads(checkpoint: Path) -> None:
    base = load_base(PretrainedModel(str(checkpoint)))
    assert base.source == str(checkpoint)
    assert same(dict(base.model.state_dict()), dict(load_base(NANO).model.state_dict()))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_the_id_of_a_local_checkpoint_follows_its_files(checkpoint: Path, name: str) -> None:
    before = load_base(PretrainedModel(str(checkpoint))).content_id
    assert load_base(PretrainedModel(str(checkpoint))).content_id == before
    path = checkpoint / name
    if name == "model.safetensors":
        weights = load_file(path)
        weights["model.norm.weight"][0] += 1
        save_file(weights, path, metadata={"format": "pt"})
    else:
        path.write_text(path.read_text() + "\n")
    assert load_base(PretrainedModel(str(checkpoint))).content_id != before


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "../nowhere", "~/nowhere/model"])
def test_a_missing_directory_is_named(source: str) -> None:
    with pytest.raises(UserError, match=f"^no such model directory: {source}$"):
        load_base(PretrainedModel(source))


def broken(checkpoint: Path, how: str) -> None:
    """Damage a checkpoint."""
    weights = checkpoint / "model.safetensors"
    if how == "no config":
        (checkpoint / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "pickled weights":
        torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "bad config":
        (checkpoint / "config.json").write_text("{")
    elif how == "no template":
        (checkpoint / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "it has no config.json"),
        ("no weights", "cannot load the model in"),
        ("pickled weights", "cannot load the model in"),
        ("cut weights", "cannot load the model in"),
        ("bad config", "cannot load the model in"),
        ("no template", "has no chat template"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(checkpoint: Path, how: str, message: str) -> None:
    broken(checkpoint, how)
    with pytest.raises(UserError, match=message) as caught:
        load_base(PretrainedModel(str(checkpoint)))
    assert str(checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_pad_token_the_end_pads(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token": "<pad>"', '"pad_token": null'))
    tokenizer = load_base(PretrainedModel(str(checkpoint))).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_unreachable_hub_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download someone/no-such-model --local-dir DIR") as caught:
        load_base(PretrainedModel("someone/no-such-model"))
    assert "\n" not in str(caught.value)
