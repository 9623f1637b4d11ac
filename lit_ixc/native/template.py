"""Conversations through a model's own chat template, with the place of every assistant answer in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from lit_ixc.records import Message, RecordError, Role, TextPart

#: Writes a conversation; the second argument asks for the header of an answer behind it.
Render = Callable[[list[dict[str, Any]], bool], str]

_FIRST_MARK = 0xF0000  # a private plane of Unicode: no text in use holds these characters
_MARKS = re.compile("[\U000f0000-\U000ffffd]")


class Span(NamedTuple):
    """Where an assistant answer stands in the text: its first character, and the one behind its last."""

    message: int
    start: int
    end: int


class Rendered(NamedTuple):
    """A conversation as the text that is tokenised, placeholders of images not expanded yet."""

    text: str
    turns: list[Span]


class Turn(NamedTuple):
    """What a template writes, in its own form.

    Args:
        role: Who speaks.
        parts: Texts, and None where an image stands.
    """

    role: Role
    parts: list[str | None]


def turns_of(messages: Sequence[Message], leading: int, images_of: Sequence[int]) -> list[Turn]:
    """Messages with as many images at each place as the medium there gives; a video gives one for each frame.

    Args:
        messages: The conversation.
        leading: Media before the conversation; they go to the start of the first user turn.
        images_of: Images of each medium, in reading order.
    """
    rest = iter(images_of)
    front: list[str | None] = [None for _ in range(leading) for _ in range(next(rest))]
    turns = []
    for message in messages:
        parts: list[str | None] = []
        if message.role == "user":
            parts, front = front, parts
        for part in message.parts:
            parts.extend([part.text] if isinstance(part, TextPart) else [None] * next(rest))
        turns.append(Turn(message.role, parts))
    return turns


def written(turns: Sequence[Turn], lists: bool) -> list[dict[str, Any]]:
    """The conversation as a template reads it: contents as lists of parts, or as strings for text models."""
    if not lists:
        return [{"role": turn.role, "content": "".join(part or "" for part in turn.parts)} for turn in turns]
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts],
        }
        for turn in turns
    ]


def render(template: Render, turns: Sequence[Turn], lists: bool, open_end: bool = False) -> Rendered:
    """The text of a conversation, and where its assistant answers lie.

    The conversation is written twice, the second time with a mark before and behind each answer. A template may write
    older answers in another form than the last one, as those that drop the thoughts of earlier turns do. Where it
    takes thoughts out of an answer and writes them elsewhere, the mark before it is lost, and the answer begins behind
    the header that the template writes to generate from.

    Args:
        template: Writes a conversation.
        turns: The conversation.
        lists: Contents are lists of parts.
        open_end: End with the header of an answer to come.

    Raises:
        RecordError: The template refuses the conversation, or leaves out or changes an answer.
    """
    text = _write(template, written(turns, lists), open_end)
    for inside in (False, True):  # a template that strips contents does not see white space behind a mark
        marks = [_mark(index, turn, inside) for index, turn in enumerate(turns)]
        marked = _write(template, written(marks, lists), open_end)
        if _MARKS.sub("", marked) == text:
            break
    else:
        raise _rewritten(turns[-1])
    found = list(_MARKS.finditer(marked))  # the n-th mark stands n characters behind its place
    places = {ord(match.group()) - _FIRST_MARK: match.start() - before for before, match in enumerate(found)}
    if len(places) < len(found):
        raise _rewritten(turns[-1])
    answers = []
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        start, end = places.get(2 * index), places.get(2 * index + 1)
        if start is None:
            header = _write(template, written(turns[:index], lists), True)
            start = len(header) if text.startswith(header) else None
        if start is None or end is None:
            raise _rewritten(turn)
        answers.append(Span(index, start, end))
    return Rendered(text, answers)


def _write(template: Render, conversation: list[dict[str, Any]], open_end: bool) -> str:
    try:
        return template(conversation, open_end)
    except TemplateError as error:
        roles = [message["role"] for message in conversation]
        raise RecordError("refused_by_template", "roles", roles, f"the chat template says: {error}") from error


def _mark(index: int, turn: Turn, inside: bool) -> Turn:
    """The turn with a mark before its text and one behind it, or inside of the white space at its ends."""
    first, last = chr(_FIRST_MARK + 2 * index), chr(_FIRST_MARK + 2 * index + 1)
    text = "".join(part or "" for part in turn.parts)
    if _MARKS.search(text):
        raise RecordError("private_character", f"{turn.role} text", text, "remove its characters U+F0000 to U+FFFFD")
    if turn.role != "assistant":
        return turn
    core = text.strip() if inside else text
    before, _, behind = text.partition(core) if core else (text, "", "")
    return Turn(turn.role, [f"{before}{first}{core}{last}{behind}"])


def _rewritten(turn: Turn) -> RecordError:
    remedy = "the chat template leaves this answer out or writes it in another form; give another chat_template"
    return RecordError("rewritten_by_template", f"{turn.role} text", "".join(part or "" for part in turn.parts), remedy)
