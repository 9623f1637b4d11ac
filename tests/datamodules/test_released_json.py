"""Rows of released JSON to records: roles, prefixes, placeholders, and a named reason for what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import pair, sft, write_json
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media import MediaFile
from datamodules.released_json import (
    NotConversations,
    build_comparison,
    is_preference_file,
    read_list,
    read_rows,
)
from lit_ixc.records import Comparison, ImagePart, Message, RecordError, TextPart, UserError, VideoPart, text_message


def load(name: str, field: str) -> MediaFile:
    part = VideoPart(name, b"v") if name.endswith(".mp4") else ImagePart(name, b"i")
    return MediaFile(part, f"sha-{name}", 12)


def build(row: Any, preference: bool = True, row_filter: bool = False) -> Comparison:
    return build_comparison(row, 7, "my_set", preference, load, row_filter)[0]


def reason(row: Any, preference: bool = True, row_filter: bool = False) -> str:
    with pytest.raises(RecordError) as caught:
        build(row, preference, row_filter)
    return caught.value.reason


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in pairs]


def test_a_pair() -> None:
    comparison = build(pair("a", "Why?", "Because.", "No.", domain="math", source="mine"))
    assert comparison == Comparison(
        id="a",
        prompt=comparison.prompt,
        responses=((text_message("assistant", "Because."),), (text_message("assistant", "No."),)),
        ranks=(0, 1),
        domain="math",
        source="mine",
    )
    assert comparison.prompt.messages == (text_message("user", "Why?"),)
    assert comparison.modality == "text"


def test_what_a_row_leaves_out() -> None:
    row = sft("x")
    del row["id"]
    comparison = build(row, preference=False)
    assert (comparison.id, comparison.domain, comparison.source) == ("row-7", "general", "my_set")
    assert comparison.ranks == (0,)


@pytest.mark.parametrize(
    ("name", "role"),
    [("human", "user"), ("user", "user"), ("system", "system"), ("gpt", "assistant"), ("Human", "assistant")],
)
def test_roles_of_the_release(name: str, role: str) -> None:
    row = {"id": "a", "conversations_a": turns((name, "one"), ("human", "two"), ("bot", "three"))}
    assert build(row, preference=False).prompt.messages[0].role == role


def test_the_prompt_is_the_longest_common_prefix_that_ends_in_a_user_turn() -> None:
    shared = [("system", "S"), ("human", "1"), ("bot", "2")]
    row = {
        "id": "a",
        "conversations_a": turns(*shared, ("human", "3"), ("bot", "same"), ("human", "4"), ("bot", "5")),
        "conversations_b": turns(*shared, ("human", "3"), ("bot", "same"), ("human", "6"), ("bot", "7")),
    }
    comparison = build(row)
    assert [message.text for message in comparison.prompt.messages] == ["S", "1", "2", "3"]
    assert [[message.text for message in response] for response in comparison.responses] == [
        ["same", "4", "5"],
        ["same", "6", "7"],
    ]


def test_an_sft_row_answers_its_last_user_turn() -> None:
    row = {"id": "a", "conversations_a": turns(("human", "1"), ("bot", "2"), ("human", "3"), ("bot", "4"))}
    comparison = build(row, preference=False)
    assert [message.text for message in comparison.prompt.messages] == ["1", "2", "3"]
    assert comparison.response_text(0) == "4"


def test_a_single_image_without_placeholder_leads() -> None:
    comparison = build(pair("a", image="x.png"))
    assert [part.name for part in comparison.prompt.leading] == ["x.png"]
    assert comparison.modality == "image"


def test_placeholders_become_media_at_their_place() -> None:
    question = "Image1 <ImageHere>; Image2 <ImageHere>; which?"
    comparison = build(pair("a", question, image=["x.png", "y.mp4"]))
    assert comparison.prompt.leading == ()
    assert comparison.prompt.messages[0] == Message(
        "user",
        (
            TextPart("Image1 "),
            ImagePart("x.png", b"i"),
            TextPart("; Image2 "),
            VideoPart("y.mp4", b"v"),
            TextPart("; which?"),
        ),
    )
    assert comparison.modality == "video"


def test_a_placeholder_at_either_end_leaves_no_empty_text() -> None:
    message = build(pair("a", "<ImageHere><ImageHere>", image=["x.png", "y.png"])).prompt.messages[0]
    assert [type(part) for part in message.parts] == [ImagePart, ImagePart]


@pytest.mark.parametrize("image", [None, []])
def test_a_row_with_an_empty_image_is_text(image: object) -> None:
    assert build(pair("a", image=image)).modality == "text"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (pair("a", image=["x.png", "y.png"]), "placeholder_count"),
        (pair("a", "<ImageHere>?"), "placeholder_count"),
        (pair("a", "<ImageHere><ImageHere>", image="x.png"), "placeholder_count"),
        (pair("a", chosen="see <ImageHere>", image="x.png"), "placeholder_in_answer"),
        (pair("a", chosen=" \n"), "empty_answer"),
        (pair("a", chosen="same ", rejected="same"), "same_answer"),
        (pair("a", chosen="\ud83d"), "invalid_unicode"),
        (pair("\ud83d"), "invalid_unicode"),
        (pair(5), "wrong_type"),  # type: ignore[arg-type]
        (pair(None), "wrong_type"),  # type: ignore[arg-type]
        (pair(""), "bad_id"),
        (pair("a", image=42), "wrong_type"),
        (pair("a", image={"path": "x.png"}), "wrong_type"),
        (pair("a", image=""), "wrong_type"),
        (pair("a", image=[["x.png"]]), "wrong_type"),
        (pair("a", domain=3), "wrong_type"),
        (pair("a", source=None), "wrong_type"),
        (pair("a") | {"conversations_a": []}, "wrong_type"),
        (pair("a") | {"conversations_a": "text"}, "wrong_type"),
        (pair("a") | {"conversations_b": None}, "wrong_type"),
        (pair("a") | {"conversations_b": [None]}, "wrong_type"),
        (pair("a") | {"conversations_b": [{"from": "human"}]}, "wrong_type"),
        (pair("a") | {"conversations_b": [{"from": None, "value": "x"}]}, "wrong_type"),
        (pair("a") | {"conversations_b": turns(("human", "other"), ("bot", "bad"))}, "no_shared_prompt"),
        (pair("a") | {"conversations_b": turns(("human", "Q?"))}, "no_assistant_turn"),
        (pair("a") | {"conversations_b": turns(("bot", "Q?"), ("bot", "x"))}, "no_shared_prompt"),
        (sft("a"), "missing_conversations_b"),
        (None, "wrong_type"),
        ("a bare string", "wrong_type"),
        ([], "wrong_type"),
    ],
)
def test_reasons(row: Any, expected: str) -> None:
    assert reason(row) == expected


def test_an_error_names_field_value_and_remedy() -> None:
    row = pair("a")
    row["conversations_a"][1]["value"] = ["a", "list"]
    with pytest.raises(RecordError, match=r"conversations_a\[1\]\.value = \['a', 'list'\]: wrong type; give a string"):
        build(row)


def test_the_filter_of_the_release_is_an_option() -> None:
    marked = pair("a", rejected="hi <|im_end|>")
    long_word = pair("a", chosen="w " * 250 + "x" * 101)  # 500 + 101 characters, one word of 101
    for row, expected in ((marked, "filter_chat_marker"), (long_word, "filter_long_word")):
        assert build(row).id == "a"
        assert reason(row, row_filter=True) == expected
    # 398 + 101 = 499 characters: too short for the rule; a word of 100: no rule
    assert build(pair("a", chosen="w " * 199 + "x" * 101), row_filter=True).id == "a"
    assert build(pair("a", chosen="w " * 250 + "x" * 100), row_filter=True).id == "a"


def test_one_row_with_a_rejected_side_makes_a_preference_file() -> None:
    assert is_preference_file([None, sft("a"), pair("b")])
    assert is_preference_file([sft("a") | {"conversations_b": None}])
    assert not is_preference_file([sft("a"), 3])


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_text_is_kept_exactly(text: str) -> None:
    if "<ImageHere>" in text:
        return
    row = json.loads(json.dumps(sft("a", text, text)))
    comparison = build(row, preference=False)
    assert comparison.prompt.messages[0].text == text == comparison.response_text(0)


def test_read_rows_accepts_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([pair("a")]).encode())
    assert read_rows(path) == [pair("a")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"conversations_a": [', r"a\.json: not valid JSON at line 1, column 23 \(character 22 of 22\).*cut off"),
        (b'[\n{"a" 1}]', r"line 2, column 6"),
        (b'{"conversations_a": 1}\n{"conversations_a": 2}', r"line 2, column 1 .*Extra data"),
        (b"", r"line 1, column 1"),
        (b'["\xff"]', r"byte 2 is not UTF-8"),
        ("[]".encode("utf-16"), r"byte 0 is not UTF-8"),
        (b"[" * 100_000, r"not readable JSON"),
        (b"[" + b"9" * 5000 + b"]", r"not readable JSON"),
    ],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_rows(path)


@pytest.mark.parametrize("content", [[], {}, {"rows": [pair("a")]}, [1, None], [{"conversations": []}], 3, None])
def test_json_of_another_kind_is_told_apart(tmp_path: Path, content: object) -> None:
    with pytest.raises(NotConversations, match=r"a\.json: not a conversation file"):
        read_rows(write_json(tmp_path / "a.json", content))


def test_a_repeated_key_is_no_silent_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": "a", "id": "b", "conversations_a": []}]')
    assert reason(read_rows(path)[0]) == "repeated_key"


def test_a_list_of_files(tmp_path: Path) -> None:
    for name in ("a.json", "sub/b c.json"):
        write_json(tmp_path / name, [pair("a")])
    path = tmp_path / "data.txt"
    path.write_text("# the mix\n\na.json 2.5\n  sub/b c.json\t0.0125  \n")
    # 0.0125 thousand = 12.5, to the even neighbour 12
    assert [(file.path.name, file.samples) for file in read_list(path)] == [("a.json", 2500), ("b c.json", 12)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.json", r"line 1: 'a\.json' is not"),
        ("\na.json two", r"line 2: 'a\.json two' is not"),
        ("a.json nan", r"line 1"),
        ("a.json -1", r"line 1"),
        ("a.json 0", r"line 1"),
        ("a.json 1e999", r"line 1"),
        ("b.json 1", r"line 1: there is no file .*b\.json"),
        ("a.json 1\na.json 2", r"line 2: a\.json stands in the list twice"),
        ("# nothing\n", r"the list is empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_json(tmp_path / "a.json", [pair("a")])
    path = tmp_path / "data.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(path)
