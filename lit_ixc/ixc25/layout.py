"""IXC-2.5's text format: chat template, placeholders, and token ids with visual positions between them.

Sections 1 and 5 of the architecture notes describe both paths of the release, training and chat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tokenizers import Encoding

from lit_ixc.ixc25.tokenizer import IXC25Tokenizer
from lit_ixc.records import RecordError

Template = Literal["training", "chat"]
IMAGE_PLACEHOLDER = "<ImageHere>"  # the release's, for pictures and videos alike
VIDEO_PLACEHOLDER = "<VideoHere>"  # in calls of the processor alone, which take pictures and videos separately

PLACEHOLDER = re.compile(f"{re.escape(IMAGE_PLACEHOLDER)}|{re.escape(VIDEO_PLACEHOLDER)}")

# A medium that is alone stands before the whole conversation, as in the release's chat; several stand where they are.
CHAT_TEMPLATE = """\
{%- set media = namespace(count=0) -%}
{%- for message in messages if message.content is not string -%}
  {%- for part in message.content if part.type in ['image', 'video'] -%}
    {%- set media.count = media.count + 1 -%}
  {%- endfor -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in messages if media.count == 1 and message.content is not string -%}
  {%- for part in message.content if part.type in ['image', 'video'] -%}
    {{- '<VideoHere>' if part.type == 'video' else '<ImageHere>' -}}
  {%- endfor -%}
{%- endfor -%}
{%- for message in messages -%}
  {{- '[UNUSED_TOKEN_146]' + message.role + '\\n' -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == 'text' -%}
        {{- part.text -}}
      {%- elif media.count > 1 -%}
        {{- '<VideoHere>' if part.type == 'video' else '<ImageHere>' -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '[UNUSED_TOKEN_145]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '[UNUSED_TOKEN_146]assistant\\n' -}}
{%- endif -%}
"""


class TokenSequence:
    """Token ids under construction: runs of text and of visual positions, with ``<s>`` where the template wants it.

    Args:
        tokenizer: The tokenizer.
        bos: ``chat`` puts ``<s>`` first of all, ``training`` before the first text, None nowhere.
    """

    def __init__(self, tokenizer: IXC25Tokenizer, bos: Template | None) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.visual: list[bool] = []
        self._bos_due = bos is not None
        if bos == "chat":
            self._add_bos()

    def add_media(self, length: int) -> None:
        self.ids.extend([self.tokenizer.image_token_id] * length)
        self.visual.extend([True] * length)

    def add_text(self, text: str) -> tuple[int, Encoding]:
        """Append a run of text; returns the index of its first token and its encoding.

        Raises:
            RecordError: The text holds the image token, or a token without a row in the embedding.
        """
        if text and self._bos_due:
            self._add_bos()
        encoding = self.tokenizer.encode_pieces(text)
        ids, first = encoding.ids, len(self.ids)
        if ids and (max(ids) >= self.tokenizer.vocab_size or self.tokenizer.image_token_id in ids):
            reserved = (i for i in ids if i >= self.tokenizer.vocab_size or i == self.tokenizer.image_token_id)
            token = self.tokenizer.convert_ids_to_tokens(next(reserved))
            raise RecordError("reserved_token", "text", token, "the model has no place for it in a text: remove it")
        self.ids.extend(ids)
        self.visual.extend([False] * len(ids))
        return first, encoding

    def _add_bos(self) -> None:
        self._bos_due = False
        self.ids.append(self.tokenizer.bos_token_id)
        self.visual.append(False)


def interleave(
    text: str,
    lengths: Sequence[int],
    tokenizer: IXC25Tokenizer,
    bos: Template | None = "chat",
    strict: bool = True,
    max_length: int | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a text with visual positions at its placeholders, and where these are.

    A single medium without a placeholder stands before everything.

    Args:
        text: Text with one ``<ImageHere>`` or ``<VideoHere>`` for each medium.
        lengths: Visual tokens of each medium, in the order of the placeholders.
        tokenizer: The tokenizer.
        bos: ``chat`` puts ``<s>`` first of all, ``training`` before the first text that is not empty, None nowhere.
        strict: Refuse a wrong number of placeholders. The release drops surplus pictures and placeholders silently.
        max_length: Cut the sequence at this many tokens, as the release does in this place.

    Raises:
        ValueError: A medium without placeholder, or a placeholder without medium.
    """
    pieces = PLACEHOLDER.split(text)
    if len(pieces) == 1 and len(lengths) == 1:
        pieces = ["", text]
    if strict and len(pieces) - 1 != len(lengths):
        raise ValueError(
            f"{len(lengths)} images and videos, but {len(pieces) - 1} placeholders {IMAGE_PLACEHOLDER} or "
            f"{VIDEO_PLACEHOLDER} in {text[:80]!r}: give one placeholder for each"
        )
    sequence = TokenSequence(tokenizer, bos)
    for index, piece in enumerate(pieces):
        sequence.add_text(piece)
        if index < min(len(lengths), len(pieces) - 1):
            sequence.add_media(lengths[index])
    return sequence.ids[:max_length], sequence.visual[:max_length]
