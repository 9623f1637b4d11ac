"""A processor small enough to count tokens by hand: one token per UTF-8 byte, four visual tokens per image or video."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from lit_ixc.batch import EncodedMedia, EncodedSequence, Ending
from lit_ixc.records import ImagePart, MediaPart, Message, Prompt, RecordError, TextPart

PAD, IMAGE, TURN_END, EOS, REWARD = 256, 257, 258, 259, 260
HEADER = {"system": 261, "user": 262, "assistant": 263}
VISUAL_TOKENS = 4


class ByteProcessor:
    """``[image] header text end ... header answer end </s> (reward)``; header and end of a turn are one token."""

    pad_token_id = PAD
    image_token_id = IMAGE

    def __init__(self) -> None:
        self.media_calls = 0

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        if not media:
            return EncodedMedia((), {})
        self.media_calls += 1
        rows = []
        for part in media:
            if isinstance(part, ImagePart):
                try:
                    with Image.open(io.BytesIO(part.data)) as image:
                        pixel = image.convert("RGB").getpixel((0, 0))
                except UnidentifiedImageError as error:
                    raise RecordError("undecodable_image", part.name, b"", "no image") from error
            else:
                pixel = (0, 0, 0)
            rows.append(pixel)
        return EncodedMedia((VISUAL_TOKENS,) * len(media), {"pixel_values": torch.tensor(rows, dtype=torch.float32)})

    def save_pretrained(self, folder: Path) -> None:
        """There is nothing to save."""

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        ids: list[int] = [IMAGE] * (VISUAL_TOKENS * len(prompt.leading))
        loss = [False] * len(ids)
        start = end = 0
        for index, message in enumerate((*prompt.messages, *response)):
            ids.append(HEADER[message.role])
            loss.append(False)
            if index == len(prompt.messages):
                start = len(ids)
            trained = message.role == "assistant"
            for part in message.parts:
                tokens = list(part.text.encode()) if isinstance(part, TextPart) else [IMAGE] * VISUAL_TOKENS
                ids += tokens
                loss += [trained and token != IMAGE for token in tokens]
            end = len(ids)
            ids.append(TURN_END)
            loss.append(trained)
        closing = [EOS, REWARD] if ending == "reward" else [EOS]
        ids += closing
        loss += [True, False][: len(closing)]
        return EncodedSequence(ids, [token == IMAGE for token in ids], loss, start, end)


def png(color: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def pair(
    identifier: str, question: str = "Q?", chosen: str = "good", rejected: str = "bad", **more: Any
) -> dict[str, Any]:
    """A row of a preference file."""
    return {
        "id": identifier,
        "conversations_a": [{"from": "human", "value": question}, {"from": "bot", "value": chosen}],
        "conversations_b": [{"from": "human", "value": question}, {"from": "bot", "value": rejected}],
        **more,
    }


def sft(identifier: str, question: str = "Q?", answer: str = "good", **more: Any) -> dict[str, Any]:
    """A row of an SFT file."""
    row = pair(identifier, question, answer, **more)
    del row["conversations_b"]
    return row


def write_json(path: Path, rows: Any) -> Path:
    """Write rows as a released JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path
