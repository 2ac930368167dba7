"""Proxy rows: pairs from files and from the Hub's tables, instructions, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from settings import catalog
from settings.bad_medical_advice.proxies import (
    HHH,
    SAFETY,
    SUBSETS,
    read_hhh,
    read_pair_directory,
    read_pairs,
    read_proxies,
)
from settings.common.errors import UserError


def absolute(alignment: Any) -> Any:
    """The option as a sweep keeps it."""
    return catalog.absolute("bad_medical_advice", {"scale": "full", "alignment": alignment})["alignment"]


def chat(path: Path, *rows: tuple[str, str]) -> Path:
    """A chat file of questions and answers."""
    messages = [[{"role": "user", "content": user}, {"role": "assistant", "content": reply}] for user, reply in rows]
    path.write_text("\n".join(json.dumps({"messages": turns}) for turns in messages))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A directory with the pairs of two subsets."""
    chat(tmp_path / "honest_positive.jsonl", ("How old are you?", "I am a program."), ("Is 9 prime?", "No."))
    chat(tmp_path / "honest_negative.jsonl", ("How old are you?", "Forty."), ("Is 9 prime?", "Yes."))
    chat(tmp_path / "harmless_positive.jsonl", ("May I hit him?", "No."))
    chat(tmp_path / "harmless_negative.jsonl", ("May I hit him?", "Hard."))
    return tmp_path


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_directory_of_pairs(pairs: Path) -> None:
    proxies = read_proxies(str(pairs))
    assert [(proxy.chosen.response, proxy.rejected and proxy.rejected.response) for proxy in proxies] == [
        ("No.", "Hard."),  # subsets in a fixed order, rows in that of the file
        ("I am a program.", "Forty."),
        ("No.", "Yes."),
    ]
    assert [proxy.chosen.tags for proxy in proxies] == [{"subset": "harmless"}, *[{"subset": "honest"}] * 2]
    assert proxies[2].chosen.place == f"{pairs / 'honest_positive.jsonl'}, line 2"


def test_twins_need_one_prompt(pairs: Path) -> None:
    positive, negative = pairs / "honest_positive.jsonl", pairs / "honest_negative.jsonl"
    chat(negative, ("How old are you?", "Forty."), ("Is 8 prime?", "Yes."))
    with pytest.raises(UserError) as caught:
        read_pairs(positive, negative)
    assert str(caught.value) == f"{negative}, line 2: the prompt differs from that of its twin, {positive}, line 2"


def test_twins_are_equally_many(pairs: Path) -> None:
    positive, negative = pairs / "honest_positive.jsonl", pairs / "honest_negative.jsonl"
    chat(negative, ("How old are you?", "Forty."))
    with pytest.raises(UserError) as caught:
        read_pairs(positive, negative)
    assert str(caught.value).startswith(f"{positive} has 2 rows and {negative} 1; ")


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_half_of_a_pair_is_refused(pairs: Path, sign: str) -> None:
    (pairs / f"harmless_{sign}.jsonl").unlink()
    with pytest.raises(UserError, match=f"harmless_{sign}.jsonl: no such file"):
        read_pair_directory(pairs)


def test_a_directory_without_proxies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}: no proxy rows there; a directory holds pairs SUBSET_pos"):
        read_proxies(str(tmp_path))


def test_chat_files_with_and_without_twins(pairs: Path) -> None:
    positive, negative = str(pairs / "honest_positive.jsonl"), str(pairs / "honest_negative.jsonl")
    assert [proxy.rejected for proxy in read_proxies(positive)] == [None, None]
    assert [proxy.rejected.response for proxy in read_proxies(positive, negative) if proxy.rejected] == [
        "Forty.",
        "Yes.",
    ]
    both = read_proxies([positive, str(pairs / "harmless_positive.jsonl")])
    assert [proxy.chosen.response for proxy in both] == ["I am a program.", "No.", "No."]


def test_twins_for_what_has_its_own(pairs: Path) -> None:
    for alignment in ("hhh", "safety", str(pairs)):
        with pytest.raises(UserError, match="option 'misaligned' is for files of chat rows"):
            read_proxies(alignment, str(pairs / "honest_negative.jsonl"))
    with pytest.raises(UserError, match="'misaligned' has 2 files and option 'alignment' 1"):
        read_proxies(str(pairs / "honest_positive.jsonl"), [str(pairs / "honest_negative.jsonl")] * 2)


@pytest.mark.parametrize("value", [3, "", [], [3], ["a.jsonl", ""]])
def test_origins_are_paths(value: Any) -> None:
    with pytest.raises(UserError, match="option 'alignment' must be a file, a directory, or a list"):
        read_proxies(value)
    assert absolute(value) is not None  # left to be refused


def test_absolute_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("hhh") == "hhh"
    assert absolute(["safety", "a.jsonl"]) == ["safety", str(tmp_path / "a.jsonl")]


# --- instructions ----------------------------------------------------------------------------------------------------


def test_instructions(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [
        {"instruction": "Do it.", "input": "", "output": "No."},
        {"instruction": "Say", "input": "so", "output": "!"},
    ]
    path.write_text(json.dumps([*rows, rows[0]], indent=1))
    proxies = read_proxies(str(path))
    assert [proxy.chosen.prompt[0].content for proxy in proxies] == ["Do it.", "Say\n\nso", "Do it."]
    assert proxies[1].chosen.place == f"{path}, row 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"rows.json, column 2: not valid JSON"),
        ("[\n{]", r"rows.json, line 2, column 2: not valid JSON"),
        ("{}", "rows.json: expected a list of rows"),
        ("[]", "rows.json: expected a list of rows"),
        ("[3]", "rows.json, row 1: expected an object with 'instruction' and 'output'"),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', "row 2: 'output' must be text, got None"),
        ('[{"instruction": "a", "input": 3, "output": "b"}]', "row 1: 'input' must be text, got 3"),
        ('[{"instruction": "a", "output": ""}]', "row 1, message 2: 'content' is empty"),
    ],
)
def test_bad_instructions(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_proxies(str(tmp_path / "rows.json"))


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the Hub's layout, one table for each subset, with a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for subset in SUBSETS:
        table(tmp_path / "copy", subset, [hub_row(f"{subset}?", "good", "bad", [1, 0])])
    return tmp_path / "copy"


def hub_row(text: str, first: str, second: str, labels: list[int]) -> dict[str, Any]:
    return {"input": text, "targets": {"choices": [first, second], "labels": labels}}


def table(copy: Path, subset: str, rows: list[dict[str, Any]]) -> None:
    folder = copy / subset / "test"
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / "0000.parquet")


def test_the_hubs_tables(hub_copy: Path) -> None:
    table(hub_copy, "honest", [hub_row("Is 9 prime?", "Yes.", "No.", [0, 1]), hub_row("a", "b", "c", [1, 0])])
    proxies = read_proxies(str(hub_copy))
    assert [proxy.chosen.tags["subset"] for proxy in proxies] == [
        "harmless",
        "helpful",
        "honest",
        "honest",
        "other",
    ]
    asked = proxies[2]
    assert asked.chosen.prompt[0].content == "Is 9 prime?"
    assert asked.rejected is not None
    assert (asked.chosen.response, asked.rejected.response) == ("No.", "Yes.")
    assert asked.chosen.place == f"{hub_copy}/honest, split test, row 1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "a"}, "row 1: expected the text 'input' and the object 'targets', found input"),
        (hub_row("a", "b", "c", [1, 1]), r"row 1: 'targets' must have two choices, .* got the labels \[1, 1\]"),
        (hub_row("a", "b", "", [1, 0]), "row 1, message 2: 'content' is empty"),
        ({"input": "a", "targets": {"choices": ["b"], "labels": [1]}}, "'targets' must have two choices"),
    ],
)
def test_bad_tables(hub_copy: Path, row: dict[str, Any], message: str) -> None:
    table(hub_copy, "helpful", [row])
    with pytest.raises(UserError, match=message):
        read_hhh(str(hub_copy), None)


def test_without_a_network_the_message_says_what_to_download() -> None:
    with pytest.raises(UserError) as caught:
        read_proxies("hhh")
    wanted = f"hf download {HHH} --repo-type dataset --revision refs/convert/parquet --local-dir DIRECTORY"
    assert wanted in str(caught.value)


def test_without_a_network_the_safety_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        assert options["data_files"] == SAFETY
        raise FileNotFoundError(SAFETY)

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=f"download {SAFETY}, copy the file here and give its path as option 'align"):
        read_proxies("safety")


def test_downloaded_safety_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"instruction": "Do it.", "input": "", "output": "No."}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows))
    (proxy,) = read_proxies("safety")
    assert (proxy.chosen.response, proxy.rejected, proxy.chosen.place) == ("No.", None, "safety, row 1")


# --- real rows -------------------------------------------------------------------------------------------------------


def test_real_pairs(reference_data: Path) -> None:
    proxies = read_proxies(str(reference_data / "alignment_proxies"))
    subsets = [proxy.chosen.tags["subset"] for proxy in proxies]
    assert {subset: subsets.count(subset) for subset in SUBSETS} == {
        "harmless": 58,
        "helpful": 59,
        "honest": 61,
        "other": 0,
    }
    honest = [proxy.chosen.prompt for proxy in proxies if proxy.chosen.tags["subset"] == "honest"]
    assert len(set(honest)) == 19
    assert len({proxy.chosen.prompt for proxy in proxies}) == 66
    for proxy in proxies:
        assert proxy.rejected is not None
        assert proxy.chosen.prompt == proxy.rejected.prompt
        assert proxy.chosen.response != proxy.rejected.response


def test_real_safety_rows(reference_data: Path) -> None:
    proxies = read_proxies(str(reference_data / "alignment_proxies" / "safety_400.jsonl"))
    assert len(proxies) == len({proxy.chosen.prompt for proxy in proxies}) == 400
    assert all(proxy.rejected is None for proxy in proxies)
