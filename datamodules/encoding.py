"""A comparison to token sequences of bounded length, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, Literal, NamedTuple, TypeVar

from lit_ixc.batch import (
    ChatProcessor,
    ConversationProcessor,
    EncodedComparison,
    EncodedMedia,
    EncodedPrompt,
    EncodedSequence,
    Ending,
)
from lit_ixc.layout import shared_prefix_length
from lit_ixc.records import Comparison, Message, Prompt, RecordError, TextPart, UserError

TooLong = Literal["drop", "truncate"]
SftAnswers = Literal["best", "equals", "all"]
Row = TypeVar("Row", bound=EncodedComparison | EncodedPrompt)


class Encoded(NamedTuple, Generic[Row]):
    """Outcome of encoding a record.

    Args:
        comparison: What was made of it, or None if it was dropped.
        event: Why it was dropped (``too_long``, or the reason of a RecordError), or how it was shortened
            (``truncated_answer``, ``truncated_prompt``); None if neither.
        message: The event in words.
    """

    comparison: Row | None
    event: str | None = None
    message: str = ""


def encode(
    comparison: Comparison,
    processor: ConversationProcessor,
    ending: Ending,
    max_length: int,
    too_long: TooLong = "drop",
    min_answer_share: float = 0.5,
    source: str | None = None,
    media: EncodedMedia | None = None,
) -> Encoded[EncodedComparison]:
    """Encode a comparison so that none of its K sequences has more than ``max_length`` tokens.

    ``truncate`` first cuts the tail of each over-long sequence's last answer, between its content and the closing
    tokens, and keeps at least ``min_answer_share`` of it; what is still too long loses prompt text, the oldest first.
    Visual tokens and the closing tokens (end of turn, ``</s>``, reward token) are never cut: if they do not fit, the
    comparison is dropped.

    Args:
        comparison: The record.
        processor: Template, tokenizer and image path.
        ending: What closes each sequence.
        max_length: Largest number of tokens of one sequence, its prompt included.
        too_long: What to do with a longer one.
        min_answer_share: Share of an answer's tokens that truncation keeps.
        source: Name under which metrics count it; the record's by default.
        media: ``processor.encode_media(comparison.prompt.media)``, where the caller has it.
    """
    try:
        if media is None:
            media = processor.encode_media(comparison.prompt.media)
        sequences = _sequences(comparison, comparison.prompt, processor, media, ending)
        longest = max(len(sequence.ids) for sequence in sequences)
        event, message = None, f"a sequence of {longest} tokens, max_length is {max_length}"
        if longest > max_length:
            if too_long == "drop":
                return Encoded(None, "too_long", message)
            fitted = _fit(comparison, sequences, processor, media, ending, max_length, min_answer_share)
            if fitted is None:
                return Encoded(None, "too_long", f"{message}, and what may not be cut is longer")
            sequences, event = fitted
    except RecordError as error:
        return Encoded(None, error.reason, str(error))
    encoded = EncodedComparison(
        id=comparison.id,
        domain=comparison.domain,
        source=source or comparison.source,
        modality=comparison.modality,
        sequences=sequences,
        media=media,
        ranks=comparison.ranks,
        scores=comparison.scores,
        lengths=tuple(len(comparison.response_text(k)) for k in range(len(comparison.responses))),
    )
    return Encoded(encoded, event, message if event else "")


def encode_prompt(
    record: Comparison,
    processor: ChatProcessor,
    max_length: int,
    source: str | None = None,
    media: EncodedMedia | None = None,
) -> Encoded[EncodedPrompt]:
    """Encode what a record asks, for a policy to answer. One of more than ``max_length`` tokens is dropped, never cut.

    Args:
        record: The record.
        processor: Template, tokenizer and image path.
        max_length: Largest number of tokens, the header of the answer included.
        source: Name under which metrics count it; the record's by default.
        media: ``processor.encode_media(record.prompt.media)``, where the caller has it.
    """
    try:
        if media is None:
            media = processor.encode_media(record.prompt.media)
        sequence = processor.encode_prompt(record.prompt, media)
    except RecordError as error:
        return Encoded(None, error.reason, str(error))
    if (length := len(sequence.ids)) > max_length:
        return Encoded(None, "too_long", f"a prompt of {length} tokens, max_length is {max_length}")
    return Encoded(EncodedPrompt(record, sequence, media, source or record.source))


def chosen_answer(comparison: Comparison) -> Comparison:
    """The comparison with its best response alone (the first of equals), for supervised fine-tuning."""
    return _with_responses(comparison, [comparison.ranks.index(0)])


def supervised(comparison: Comparison, answers: SftAnswers) -> Comparison:
    """The comparison with the responses that supervised fine-tuning imitates; none of them is better than another.

    Args:
        comparison: The record.
        answers: ``best``: see :func:`chosen_answer`; ``equals``: all of rank 0; ``all``: every one.
    """
    if answers == "best":
        return chosen_answer(comparison)
    return _with_responses(comparison, [k for k, rank in enumerate(comparison.ranks) if not rank or answers == "all"])


def merge(rows: Sequence[EncodedComparison]) -> EncodedComparison:
    """SFT rows about the same leading media as one comparison whose sequences share the visual prefix.

    All ranks are 0. The id joins the rows' ids by ``+``; other names are the first row's.

    Raises:
        UserError: The processor puts text that differs between the rows before the media.
    """
    if len(rows) == 1:
        return rows[0]
    first = rows[0]
    sequences = [sequence for row in rows for sequence in row.sequences]
    if any(sequences[0].visual[shared_prefix_length(sequences) :]):
        raise UserError(
            f"rows_per_image: with this processor rows {first.id!r} and {rows[1].id!r} differ before their images, so "
            "that they cannot share them; set rows_per_image to 1"
        )
    return first._replace(
        id="+".join(row.id for row in rows),
        sequences=sequences,
        ranks=(0,) * len(sequences),
        scores=None,
        lengths=tuple(length for row in rows for length in row.lengths),
    )


def cut_answer(sequence: EncodedSequence, max_length: int, min_answer_share: float) -> EncodedSequence:
    """Cut the tail of the last answer towards ``max_length``, keeping the stated share of it and what follows it."""
    start = sequence.response_end
    while start > sequence.response_start and sequence.loss[start - 1]:
        start -= 1
    spare = sequence.response_end - start - math.ceil(min_answer_share * (sequence.response_end - start))
    cut = min(len(sequence.ids) - max_length, spare)
    if cut <= 0:
        return sequence
    end = sequence.response_end - cut
    ids, visual, loss = (
        [*values[:end], *values[sequence.response_end :]] for values in (sequence.ids, sequence.visual, sequence.loss)
    )
    axes = None if sequence.axes is None else sequence.axes[:, : len(ids)]  # text alone is cut: positions count on
    return EncodedSequence(ids, visual, loss, sequence.response_start, end, axes)


def shorten_prompt(prompt: Prompt, characters: int) -> Prompt | None:
    """Remove so many characters of the oldest text, and turns left empty; None if no question would be left."""
    messages: list[Message] = []
    last = len(prompt.messages) - 1
    for index, message in enumerate(prompt.messages):
        parts = []
        for part in message.parts:
            if isinstance(part, TextPart):
                cut = min(characters, len(part.text))
                characters -= cut
                part = TextPart(part.text[cut:])
            if not isinstance(part, TextPart) or part.text:
                parts.append(part)
        if parts:
            messages.append(Message(message.role, tuple(parts)))
        elif index == last:
            return None
    if not messages[-1].text.strip():
        return None
    return Prompt(tuple(messages), prompt.leading)


def _fit(
    comparison: Comparison,
    sequences: list[EncodedSequence],
    processor: ConversationProcessor,
    media: EncodedMedia,
    ending: Ending,
    max_length: int,
    min_answer_share: float,
) -> tuple[list[EncodedSequence], str] | None:
    """The sequences cut to length and what was cut, or None if they cannot be."""
    text = sum(len(message.text) for message in comparison.prompt.messages)
    removed, event = 0, "truncated_answer"
    while True:
        cut = [cut_answer(sequence, max_length, min_answer_share) for sequence in sequences]
        excess = max(len(sequence.ids) for sequence in cut) - max_length
        if excess <= 0:
            return cut, event
        # As many characters as the excess has, going by this text; the next round corrects the guess.
        tokens = sequences[0].visual[: sequences[0].response_start].count(False)
        before, removed = removed, min(text - 1, removed + math.ceil(excess * (text - removed) / max(1, tokens)))
        shorter = shorten_prompt(comparison.prompt, removed) if removed > before else None
        if shorter is None:
            return None
        sequences = _sequences(comparison, shorter, processor, media, ending)
        event = "truncated_prompt"


def _sequences(
    comparison: Comparison, prompt: Prompt, processor: ConversationProcessor, media: EncodedMedia, ending: Ending
) -> list[EncodedSequence]:
    return [processor.encode_conversation(prompt, response, media, ending) for response in comparison.responses]


def _with_responses(comparison: Comparison, numbers: Sequence[int]) -> Comparison:
    responses = tuple(comparison.responses[k] for k in numbers)
    return replace(comparison, responses=responses, ranks=(0,) * len(responses), scores=None)
