"""Bounded lengths: what is cut, what never is, and that every outcome has a name."""

from __future__ import annotations

import pytest
from fakes import EOS, HEADER, IMAGE, REWARD, TURN_END, ByteProcessor, png
from hypothesis import given
from hypothesis import strategies as st

from datamodules.encoding import Encoded, chosen_answer, encode, merge, shorten_prompt
from lit_ixc.batch import EncodedComparison, Ending
from lit_ixc.layout import tree_row
from lit_ixc.records import Comparison, ImagePart, Message, Prompt, TextPart, UserError, text_message

PICTURE = ImagePart("x.png", png((9, 8, 7)))
USER, ASSISTANT = HEADER["user"], HEADER["assistant"]


def comparison(question: str, *texts: str, media: bool = False, earlier: tuple[Message, ...] = ()) -> Comparison:
    prompt = Prompt((*earlier, text_message("user", question)), (PICTURE,) if media else ())
    responses = tuple((text_message("assistant", text),) for text in texts)
    return Comparison("id", prompt, responses, tuple(range(len(texts))), source="upstream")


def run(record: Comparison, max_length: int, too_long: str = "truncate", share: float = 0.5, **more: object) -> Encoded:
    return encode(record, ByteProcessor(), "reward", max_length, too_long, share, **more)  # type: ignore[arg-type]


def texts(encoded: Encoded) -> list[tuple[str, str]]:
    """Prompt and answer of each sequence, as text; checks what closes it."""
    assert encoded.comparison is not None
    found = []
    for sequence in encoded.comparison.sequences:
        assert sequence.ids[sequence.response_end :] == [TURN_END, EOS, REWARD]
        assert len(sequence.ids) == len(sequence.visual) == len(sequence.loss)
        assert sequence.loss[sequence.response_start :] == [True] * (
            len(sequence.ids) - sequence.response_start - 1
        ) + [False]
        prompt = bytes(token for token in sequence.ids[: sequence.response_start] if token < 256)
        answer = bytes(sequence.ids[sequence.response_start : sequence.response_end])
        found.append((prompt.decode(), answer.decode()))
    return found


def test_what_fits_is_left_alone() -> None:
    # user ab end assistant cd end </s> reward = 1 + 2 + 1 + 1 + 2 + 3 = 10 tokens
    encoded = run(comparison("ab", "cd", "e"), 10, "drop", source="short_name")
    assert encoded.event is None and encoded.comparison is not None
    assert encoded.comparison.sequences[0].ids == [USER, 97, 98, TURN_END, ASSISTANT, 99, 100, TURN_END, EOS, REWARD]
    assert encoded.comparison.source == "short_name"
    assert encoded.comparison.lengths == (2, 1)


def test_drop_names_the_length() -> None:
    assert run(comparison("ab", "cd", "e"), 9, "drop") == Encoded(
        None, "too_long", "a sequence of 10 tokens, max_length is 9"
    )


def test_the_tail_of_the_answer_goes_first() -> None:
    # 1 + 2 + 1 + 1 + 8 + 3 = 16 tokens to 13: three of the eight
    encoded = run(comparison("ab", "12345678", "x"), 13)
    assert encoded.event == "truncated_answer"
    assert texts(encoded) == [("ab", "12345"), ("ab", "x")]
    assert encoded.comparison is not None and encoded.comparison.lengths == (8, 1)  # of the whole answers


def test_then_the_oldest_prompt_text() -> None:
    earlier = (text_message("system", "SYS"), text_message("user", "old"), text_message("assistant", "said"))
    # turns: 3+2, 3+2, 4+2, 5+2 tokens; answer 1 + 8 + 3 -> 35. To 25: four of the answer, six of the oldest text, but
    # the two turns that are left empty take two tokens each: the first guess cuts 6 * 15 / 24 = 4 characters.
    encoded = run(comparison("newer", "12345678", "x", earlier=earlier), 25)
    assert encoded.event == "truncated_prompt"
    (prompt, answer), (prompt_2, answer_2) = texts(encoded)
    assert prompt == prompt_2 and "SYSoldsaidnewer".endswith(prompt) and prompt.endswith("newer")
    assert "12345678".startswith(answer) and len(answer) >= 4 and answer_2 == "x"
    assert encoded.comparison is not None
    assert max(len(sequence.ids) for sequence in encoded.comparison.sequences) <= 25


def test_only_the_last_answer_of_a_dialogue_is_cut() -> None:
    dialogue = (text_message("assistant", "first"), text_message("user", "and"), text_message("assistant", "12345678"))
    record = Comparison("id", Prompt((text_message("user", "q"),)), (dialogue,), (0,))
    encoded = run(record, 100)
    assert encoded.comparison is not None
    length = len(encoded.comparison.sequences[0].ids)
    sequence = run(record, length - 4).comparison.sequences[0]  # type: ignore[union-attr]
    answer = sequence.ids[sequence.response_start : sequence.response_end]
    assert answer == [*b"first", TURN_END, USER, *b"and", TURN_END, ASSISTANT, *b"1234"]


def test_visual_and_closing_tokens_are_never_cut() -> None:
    # image 4, user q end 3, assistant 1, answer 1, closing 3 = 12; nothing of it may go
    assert run(comparison("q", "a", "b", media=True), 12).event is None
    dropped = run(comparison("q", "a", "b", media=True), 11)
    assert dropped.comparison is None and dropped.event == "too_long"
    assert "what may not be cut is longer" in dropped.message


@given(
    st.text("abä ", min_size=1, max_size=30).filter(str.strip),
    st.lists(st.text("xyß", min_size=1, max_size=40), min_size=1, max_size=3),
    st.integers(12, 60),
    st.floats(0, 1),
    st.booleans(),
)
def test_truncation_keeps_its_promises(
    question: str, answers: list[str], limit: int, share: float, media: bool
) -> None:
    record = comparison(question, *answers, media=media)
    whole = run(record, 10_000).comparison
    assert whole is not None
    encoded = run(record, limit, share=share)
    if encoded.comparison is None:
        assert encoded.event == "too_long"
        return
    assert (encoded.event is None) == (max(len(sequence.ids) for sequence in whole.sequences) <= limit)
    for before, after in zip(whole.sequences, encoded.comparison.sequences, strict=True):
        assert len(after.ids) <= limit
        assert after.visual.count(True) == (4 if media else 0) == after.ids.count(IMAGE)
        assert after.ids[after.response_end :] == before.ids[before.response_end :]
        old = before.ids[before.response_start : before.response_end]
        new = after.ids[after.response_start : after.response_end]
        assert old[: len(new)] == new and len(new) >= share * len(old) - 1e-9


def test_a_picture_that_does_not_decode_is_a_named_drop() -> None:
    prompt = Prompt((text_message("user", "q"),), (ImagePart("x.png", b"no picture"),))
    record = Comparison("id", prompt, ((text_message("assistant", "a"),),), (0,))
    encoded = run(record, 100)
    assert (encoded.comparison, encoded.event) == (None, "undecodable_image")
    assert "x.png" in encoded.message


def test_shorten_prompt() -> None:
    prompt = Prompt(
        (
            text_message("user", "abc"),
            text_message("assistant", "de"),
            Message("user", (TextPart("fg"), PICTURE, TextPart("hi"))),
        )
    )

    def shortened(count: int) -> list[list[object]] | None:
        result = shorten_prompt(prompt, count)
        return result and [[p.text if isinstance(p, TextPart) else "*" for p in m.parts] for m in result.messages]

    assert shortened(0) == [["abc"], ["de"], ["fg", "*", "hi"]]
    assert shortened(2) == [["c"], ["de"], ["fg", "*", "hi"]]
    assert shortened(4) == [["e"], ["fg", "*", "hi"]]
    assert shortened(8) == [["*", "i"]]
    assert shortened(9) is None


def test_chosen_answer_is_the_first_of_the_best() -> None:
    record = Comparison(
        "id", comparison("q", "a").prompt, comparison("q", "w", "b", "c").responses, (1, 0, 0), (1.0, 2.0, 2.0)
    )
    chosen = chosen_answer(record)
    assert (chosen.response_text(0), chosen.ranks, chosen.scores, len(chosen.responses)) == ("b", (0,), None, 1)


def sft_row(question: str, answer: str, ending: Ending = "sft") -> EncodedComparison:
    encoded = encode(comparison(question, answer, media=True), ByteProcessor(), ending, 100).comparison
    assert encoded is not None
    return encoded


def test_merged_rows_share_the_visual_prefix() -> None:
    rows = [sft_row("a?", "yes"), sft_row("b?", "no"), sft_row("b?", "nay")]
    merged = merge(rows)
    assert (merged.id, merged.ranks, merged.lengths) == ("id+id+id", (0, 0, 0), (3, 2, 3))
    tree = tree_row(merged.sequences)
    # 4 visual tokens and the user header stand once; of each row's own tokens nothing is lost
    assert (tree.segment == 0).sum() == 5 and tree.visual.sum() == 4
    for number, row in enumerate(rows, start=1):
        own = [i for i, segment in enumerate(tree.segment) if segment == number]
        assert [tree.ids[i] for i in own] == row.sequences[0].ids[5:]
        assert [tree.loss[i] for i in own] == row.sequences[0].loss[5:]
    assert merge(rows[:1]) is rows[0]


def test_rows_that_differ_before_their_media_cannot_be_merged() -> None:
    rows = [sft_row("a?", "yes"), sft_row("b?", "no")]
    for row in rows:
        row.sequences[0].ids.insert(0, len(row.lengths))
        row.sequences[0].visual.insert(0, False)
    rows[1].sequences[0].ids[0] = 77
    with pytest.raises(UserError, match="rows_per_image"):
        merge(rows)
