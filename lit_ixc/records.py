"""The records every part speaks in: a message, a prompt, and a comparison of K responses to that prompt.

All types are frozen and check themselves where they are built, so a record that exists is a valid one. Importers add
the file and the row to an error with :meth:`RecordError.at`. No tensor appears here: this module imports the standard
library alone.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant"]
Modality = Literal["text", "image", "video"]

#: FFmpeg's names of the containers that are opened as videos. No play lists: they would make FFmpeg open other files.
VIDEO_CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,asf,flv,mpegts,ogg,gif"
#: What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    RuntimeError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
)


class UserError(ValueError):
    """Bad input from the user: the message names what is wrong and the remedy, and needs no traceback."""


class RecordError(UserError):
    """A record that cannot be built.

    Args:
        reason: Short machine-readable reason, the key under which a dropped row is counted.
        field: Name of the offending field, e.g. ``conversations_a[1].value``.
        value: The offending value; its ``repr`` is shortened to 80 characters in the message.
        remedy: What the user can do about it.
        where: File and row, added by the importer.
    """

    def __init__(self, reason: str, field: str, value: object, remedy: str, where: str = "") -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        super().__init__(f"{where + ': ' if where else ''}{field} = {shown}: {reason.replace('_', ' ')}; {remedy}")
        self.reason, self.field, self.value, self.remedy, self.where = reason, field, value, remedy, where

    def at(self, where: str) -> RecordError:
        """The same error with the file and row it belongs to."""
        return RecordError(self.reason, self.field, self.value, self.remedy, where)


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text inside a message."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise RecordError("wrong_type", "text", self.text, "text must be a string")


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An encoded image: the bytes of a PNG, JPEG, ... file and the name it came under."""

    name: str
    data: bytes

    def __post_init__(self) -> None:
        _check_media(self.name, self.data)


@dataclass(frozen=True, slots=True)
class VideoPart:
    """An encoded video: the bytes of an MP4, WebM, ... file and the name it came under."""

    name: str
    data: bytes

    def __post_init__(self) -> None:
        _check_media(self.name, self.data)


MediaPart = ImagePart | VideoPart
Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: Who speaks.
        parts: Text, images and videos in reading order; at least one.
    """

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise RecordError("unknown_role", "role", self.role, f"use one of {', '.join(get_args(Role))}")
        if not self.parts:
            raise RecordError("empty_message", "parts", self.parts, "a message needs at least one part")

    @property
    def text(self) -> str:
        """The text of the message, media left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """Images and videos of the message in reading order."""
        return tuple(part for part in self.parts if not isinstance(part, TextPart))


def text_message(role: Role, text: str) -> Message:
    """A message of text alone."""
    return Message(role, (TextPart(text),))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the K responses answer.

    Args:
        messages: The conversation up to and including the last user turn.
        leading: Images or videos that no placeholder puts at a place in the text. A template puts them where its model
            expects them: IXC-2.5 before the whole conversation, other models at the start of the first user turn.
    """

    messages: tuple[Message, ...]
    leading: tuple[MediaPart, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            role = self.messages[-1].role if self.messages else None
            raise RecordError("no_user_turn", "messages[-1].role", role, "a prompt must end with a user turn")

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """All images and videos in the order in which the model sees them."""
        return self.leading + tuple(part for message in self.messages for part in message.media)

    @property
    def modality(self) -> Modality:
        """``video`` if the prompt holds a video, else ``image`` if it holds an image, else ``text``."""
        if any(isinstance(part, VideoPart) for part in self.media):
            return "video"
        return "image" if self.media else "text"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and K responses with a preference over them.

    Args:
        id: Identifier, unique inside its source.
        prompt: The shared prompt.
        responses: K >= 1 continuations; each starts and ends with an assistant message.
        ranks: Rank of each response, 0 = best; equal ranks are ties. K = 1 carries ``(0,)``.
        scores: Graded scores of the responses where the source has them (higher is better), else None.
        domain: e.g. ``general``, ``text_rich``, ``math``.
        source: Name of the data set.
        metadata: JSON values that travel with the row and that no model sees: the rule that a right answer meets
            (``truth``), a reference answer, how the pair was made, further keys of the source.
    """

    id: str
    prompt: Prompt
    responses: tuple[tuple[Message, ...], ...]
    ranks: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    domain: str = "general"
    source: str = "unknown"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise RecordError("bad_id", "id", self.id, "a comparison needs a non-empty string id")
        for name in ("domain", "source"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise RecordError("wrong_type", name, getattr(self, name), "give a non-empty string")
        if not self.responses:
            raise RecordError("no_response", "responses", self.responses, "give at least one response")
        for k, response in enumerate(self.responses):
            _check_response(k, response)
        if len(self.ranks) != len(self.responses):
            raise RecordError("rank_count", "ranks", self.ranks, f"give one rank for each of {len(self.responses)}")
        if not all(_is_int(rank) and rank >= 0 for rank in self.ranks) or min(self.ranks) != 0:
            raise RecordError("bad_rank", "ranks", self.ranks, "ranks are integers from 0 (best) upwards")
        if not isinstance(self.metadata, Mapping):
            raise RecordError("wrong_type", "metadata", self.metadata, "give an object of JSON values")
        if self.scores is not None and len(self.scores) != len(self.responses):
            raise RecordError("score_count", "scores", self.scores, f"give one score for each of {len(self.responses)}")

    @property
    def modality(self) -> Modality:
        """Modality of the prompt."""
        return self.prompt.modality

    def response_text(self, k: int) -> str:
        """The assistant text of response ``k``."""
        return "".join(message.text for message in self.responses[k] if message.role == "assistant")


def ranks_from_scores(scores: Sequence[float]) -> tuple[int, ...]:
    """Dense ranks of scores, 0 = highest; equal scores share a rank: ``(3., 5., 3.) -> (1, 0, 1)``."""
    order = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
    return tuple(order[score] for score in scores)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_media(name: object, data: object) -> None:
    if not isinstance(name, str) or not name:
        raise RecordError("wrong_type", "name", name, "an image or video needs a file name")
    if not isinstance(data, bytes) or not data:
        raise RecordError("empty_media", name, data, "the file has no bytes")


def _check_response(k: int, response: tuple[Message, ...]) -> None:
    field = f"responses[{k}]"
    if not response or response[0].role != "assistant" or response[-1].role != "assistant":
        raise RecordError("no_assistant_turn", field, response, "a response starts and ends with an assistant message")
    if any(message.media for message in response):
        raise RecordError("media_in_response", field, response, "put images and videos into the prompt")
    if not any(message.text.strip() for message in response if message.role == "assistant"):
        raise RecordError("empty_answer", field, response[-1].text, "an answer must hold more than white space")
