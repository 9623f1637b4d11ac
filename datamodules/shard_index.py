"""One line of a shard's index: where a row's members lie, and what a sampler needs to know of the row."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lit_ixc.records import Comparison, TextPart

BLOCK = tarfile.BLOCKSIZE


class IndexRow(NamedTuple):
    """Where a row lies in its shard, and what a sampler needs to know of it without reading it.

    Args:
        key: Name of the sample in the tar file.
        id, domain, source, modality: As in the record.
        responses: K.
        characters: Characters of the prompt and of all answers together.
        pixels: Width x height, summed over the media.
        leading: Whether all media lead the conversation and no system turn follows them, so that rows about the same
            media share a token prefix that covers them.
        json: Offset and size of the JSON member's bytes.
        media: Offset, size and SHA-256 of each media member's bytes, and the suffix of its name.
        tied: Whether no response is better than another; K = 1 is. This and what follows are None in an index that was
            written before they were noted, see :meth:`described`.
        truth: Whether the metadata have a rule that right answers meet (``truth``).
        prompt: Digest of the prompt's texts and of the places of its media among them.
    """

    key: str
    id: str
    domain: str
    source: str
    modality: str
    responses: int
    characters: int
    pixels: int
    leading: bool
    json: tuple[int, int]
    media: tuple[tuple[int, int, str, str], ...]
    tied: bool | None = None
    truth: bool | None = None
    prompt: str | None = None

    def described(self, comparison: Comparison) -> IndexRow:
        """The row with what its record says of ``tied``, ``truth`` and ``prompt``."""
        messages = [
            [message.role, *(part.text if isinstance(part, TextPart) else None for part in message.parts)]
            for message in comparison.prompt.messages
        ]
        text = json.dumps([len(comparison.prompt.leading), messages])
        return self._replace(
            tied=not any(comparison.ranks),
            truth=isinstance(comparison.metadata.get("truth"), Mapping),
            prompt=hashlib.blake2b(text.encode("ascii"), digest_size=12).hexdigest(),
        )


def index_row(
    key: str,
    comparison: Comparison,
    pixels: int,
    json: tuple[int, int],
    media: tuple[tuple[int, int, str, str], ...],
) -> IndexRow:
    """The index row of a comparison whose members lie at these places."""
    messages = [*comparison.prompt.messages, *(m for response in comparison.responses for m in response)]
    return IndexRow(
        key=key,
        id=comparison.id,
        domain=comparison.domain,
        source=comparison.source,
        modality=comparison.modality,
        responses=len(comparison.responses),
        characters=sum(len(message.text) for message in messages),
        pixels=pixels,
        leading=0 < len(media) == len(comparison.prompt.leading) and messages[0].role == "user",
        json=json,
        media=media,
    ).described(comparison)


def dump_index(rows: Iterable[IndexRow]) -> bytes:
    """The bytes of an index file: one line of JSON for each row."""
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows).encode("ascii")


def parse_index_row(line: bytes) -> IndexRow:
    """A line of an index file."""
    value: dict[str, Any] = json.loads(line)
    value["json"], value["media"] = tuple(value["json"]), tuple(tuple(item) for item in value["media"])
    return IndexRow(**value)
