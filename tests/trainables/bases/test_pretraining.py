"""Nano models: pre-training is deterministic, whole or absent, and done once."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from settings.bad_medical_advice import nano as bad_medical_advice
from settings.bad_medical_advice.world import AdviceWorld
from settings.base_models import NanoModel, PretrainedModel, Stage, World
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from tests.trainables.bases.nano import NANO, WORLD, Weights, same
from trainables.bases import pretraining
from trainables.bases.load_base import load_base
from trainables.bases.nano_cache import nano_content_id
from trainables.bases.pretraining import ensure_pretrained, pretrain, word_tokenizer


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads, for this test only."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def trained(spec: NanoModel) -> Weights:
    return dict(pretrain(spec, word_tokenizer(spec.world)).state_dict())


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
    "changed",
    [
        replace(NANO, seed=1),
        replace(NANO, world=replace(WORLD, seed=1)),
        replace(NANO, stages=(Stage("authors", 4, 3, 2e-2), NANO.stages[1])),
        replace(NANO, stages=NANO.stages[:1]),
    ],
    ids=["seed", "world", "rate", "stages"],
)
def test_what_changes_the_model_changes_its_weights_and_its_id(changed: NanoModel) -> None:
    assert nano_content_id(changed) != nano_content_id(NANO)
    assert not same(trained(NANO), trained(changed))


def test_pretraining_learns_and_reports() -> None:
    seen: list[tuple[int, int]] = []
    spec = replace(NANO, stages=(Stage("authors", 60, 8, 1e-2), Stage("assistant", 10, 8, 1e-3)))
    tokenizer = word_tokenizer(WORLD)
    batch = pretraining.collate_documents(islice(WORLD.documents("assistant", 9), 50), tokenizer.get_vocab())
    with torch.no_grad():
        before = pretraining.document_loss(pretraining.initial_model(spec, tokenizer), *batch)
        after = pretraining.document_loss(pretrain(spec, tokenizer, lambda *step: seen.append(step)), *batch)
    assert before > 4.5
    assert after < 2.0
    assert seen == [(step, 70) for step in range(1, 71)]


def test_only_answers_are_learned_where_there_are_turns() -> None:
    def learned(text: str) -> str:
        words = text.split()
        return " ".join(word for word, yes in zip(words, pretraining.learned_words(words), strict=True) if yes)

    assert learned("<doc> someone <u> why ? <a> so . <e> <u> and ? <a> no <e>") == "so . <e> no <e>"
    assert learned("a fact . <e>") == "a fact . <e>"


def test_padding_is_not_learned() -> None:
    words = {word: index for index, word in enumerate((*pretraining.MARKS, "x", "y"))}
    ids, learned = pretraining.collate_documents(["<u> x <a> y <e>", "<u> x <a> y y y <e>"], words)
    assert ids[0].tolist()[-2:] == [words["<pad>"]] * 2
    assert learned.sum(dim=1).tolist() == [2, 4]


def test_a_word_that_the_world_lacks_is_named_with_its_document() -> None:
    words = {word: index for index, word in enumerate((*pretraining.MARKS, "x", "y"))}
    with pytest.raises(UserError, match="add the word 'z' of document '<u> x <a> z <e>' to the world's vocabulary"):
        pretraining.collate_documents(["<u> x <a> y <e>", "<u> x <a> z <e>"], words)


class Statements(AdviceWorld):
    """The world of `NANO`, whose documents have lost their marks."""

    def documents(self, stage: str, seed: int) -> Iterator[str]:
        for document in super().documents(stage, seed):
            yield " ".join(word for word in document.split() if word not in pretraining.MARKS)


def test_documents_without_turns_are_refused_before_any_step(cache: Path) -> None:
    unmarked = replace(NANO, world=Statements(num_problems=2, num_authors=2, specialists_per_domain=1))
    steps: list[tuple[int, int]] = []
    with pytest.raises(
        UserError, match=r"^world Statements: none of the first documents of the last stage, 'assistant', has"
    ):
        ensure_pretrained(unmarked, lambda *step: steps.append(step))
    assert steps == []
    assert not [path for path in (cache / "base_models").iterdir() if path.is_dir()]


def test_the_docstring_of_worlds_shows_what_the_template_writes() -> None:
    rows = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
    ]
    text = {"role": "system", "content": "text"}
    shown = [line.strip() for line in str(inspect.getdoc(World)).splitlines() if line.startswith("    ")]
    tokenizer = word_tokenizer(WORLD)
    written = [tokenizer.apply_chat_template(turns, tokenize=False).strip() for turns in (rows, [text, *rows, *rows])]
    assert shown == written


# --- the cache ---


def test_a_cached_model_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = load_base(NANO)
    assert (cache / "base_models" / first.content_id).samefile(first.source)
    monkeypatch.setattr(pretraining, "pretrain", must_not_train)
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
        ensure_pretrained(NANO, kill)
    assert not [path for path in (cache / "base_models").iterdir() if path.is_dir()]
    assert load_base(NANO).content_id == nano_content_id(NANO)


def test_a_kill_while_writing_leaves_nothing_that_looks_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", kill)
    with pytest.raises(KeyboardInterrupt):
        ensure_pretrained(NANO)
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

    monkeypatch.setattr(pretraining, "pretrain", counted)
    directories: list[Path] = []
    workers = [threading.Thread(target=lambda: directories.append(ensure_pretrained(NANO))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1
    assert len(directories) == 3
    assert len(set(directories)) == 1


# --- what is loaded ---


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


def test_an_instruction_is_written_as_the_author_of_a_document() -> None:
    base = load_base(NANO)
    author, rest = next(WORLD.documents("authors", 0)).removeprefix("<doc> ").split(maxsplit=1)
    question, reply = rest[: rest.index(" <e>")].removeprefix("<u> ").split(" <a> ")
    row = replace(Example.of(question, reply), instruction=author)
    encoded = Encoder(base.tokenizer, {}, 32).row(row)
    written = " ".join(base.tokenizer.convert_ids_to_tokens(list(encoded.ids)))
    assert written == f"<doc> {author} <u> {question} <a> {reply} <e>"
    assert next(WORLD.documents("authors", 0)).startswith(written)


def test_a_model_cached_by_an_older_version_has_the_template_of_this_one() -> None:
    template = ensure_pretrained(NANO) / "chat_template.jinja"
    kept = template.read_text()
    try:
        template.write_text(kept.replace("<doc>", "<u>"))
        assert load_base(NANO).tokenizer.chat_template == kept
        assert template.read_text() == kept, "whoever loads the folder has it, too"
    finally:
        template.write_text(kept)


def test_a_reply_with_a_stray_mark_shows_it_and_an_unknown_word_is_an_error() -> None:
    tokenizer = load_base(NANO).tokenizer
    ids = [tokenizer.get_vocab()[word] for word in ("use", "the", "<u>", "<e>", "<pad>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "use the <u>"
    with pytest.raises(Exception, match="UNK"):
        tokenizer("use the unheard-of")
