"""IXC-2.5's processor: conversations with pictures and videos to token ids and views.

Two ways in. :meth:`IXC25Processor.encode_conversation` (with ``encode_media`` and ``encode_prompt``) is what training
and scoring use: records in, one token sequence out, with the places of the answer. Calling the processor is the
Hugging Face way: text with placeholders in, padded batch for ``generate`` out.

Templates and layout follow the architecture notes, sections 1 and 5.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import PIL
import torch
import transformers
from tokenizers import Encoding
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from lit_ixc.batch import EncodedMedia, EncodedSequence, Ending
from lit_ixc.ixc25.image import ImageSource, IXC25ImageProcessor, stack_views
from lit_ixc.ixc25.layout import (
    CHAT_TEMPLATE,
    IMAGE_PLACEHOLDER,
    PLACEHOLDER,
    VIDEO_PLACEHOLDER,
    Template,
    TokenSequence,
    interleave,
)
from lit_ixc.ixc25.tokenizer import BOS, END_OF_TURN, EOS, REWARD_TOKEN, START_OF_TURN, IXC25Tokenizer
from lit_ixc.records import ImagePart, MediaPart, Message, Prompt, RecordError, Role, TextPart

_ENDINGS: dict[Ending | Literal["open"], str] = {"reward": EOS + REWARD_TOKEN, "sft": EOS, "open": ""}


class _Turn(NamedTuple):
    """Where a turn's content lies: index of its first token, and of its end-of-turn token behind it."""

    start: int
    end: int


class IXC25Processor(ProcessorMixin):
    """Tokenizer and image processor of IXC-2.5 behind one interface.

    ``apply_chat_template`` writes the release's chat format (``<s>`` first, content as it is).

    Args:
        image_processor: Preprocesses pictures and videos.
        tokenizer: Tokenises text.
        template: How ``encode_conversation`` and ``encode_prompt`` lay a conversation out. ``training`` is the
            release's training: leading media, then ``<s>``, then turns with their content stripped. ``chat`` is its
            chat: ``<s>`` first, content as it is.
        sft_system_role: Header of a system turn under the ending ``sft``. The release's SFT data code writes
            ``assistant``, its reward data code and its chat ``system``; the default is the same header everywhere.
    """

    def __init__(
        self,
        image_processor: IXC25ImageProcessor,
        tokenizer: IXC25Tokenizer,
        template: Template = "training",
        sft_system_role: Literal["system", "assistant"] = "system",
        chat_template: str | None = CHAT_TEMPLATE,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if template not in ("training", "chat"):
            raise ValueError(f"template = {template!r}: use 'training' or 'chat'")
        self.template = template
        self.sft_system_role = sft_system_role
        self.pad_token_id: int = tokenizer.pad_token_id
        self.image_token_id: int = tokenizer.image_token_id

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        kinds = (IXC25ImageProcessor, IXC25Tokenizer)
        return [kind.from_pretrained(pretrained_model_name_or_path, **kwargs) for kind in kinds]

    @property
    def media_settings(self) -> str:
        """JSON of everything besides the media that decides what :meth:`encode_media` gives."""
        versions = {module.__name__: module.__version__ for module in (PIL, av, transformers)}
        return json.dumps({"settings": self.image_processor.to_dict(), "versions": versions}, sort_keys=True)

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        """Preprocess the pictures and videos of one prompt.

        Returns:
            Visual tokens of each, and ``pixel_values`` (V, 3, tile, tile) with ``image_grid`` (I, 2); no tensors where
            there are no media.

        Raises:
            RecordError: One cannot be decoded.
        """
        if not media:
            return EncodedMedia((), {})
        tensors = self._encode([(part.data, part.name, isinstance(part, ImagePart)) for part in media])
        return EncodedMedia(self.image_processor.token_counts(tensors["image_grid"]), tensors)

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        """Token ids of prompt and response, closed by ``</s>`` and, for a reward model, ``[UNUSED_TOKEN_130]``.

        ``loss`` covers each assistant answer with its end of turn, and the newline and ``</s>`` behind the last: the
        release's labels, but right with a system turn too, where the release trains the user's text instead.

        Args:
            prompt: What is answered; ``prompt.media`` belongs to ``media``.
            response: One or more messages, the first and the last by the assistant.
            media: Result of :meth:`encode_media` for the prompt; responses to one prompt share it.
            ending: ``reward`` or ``sft``.

        Raises:
            RecordError: A text holds a placeholder, the image token or a token outside the embedding.
            ValueError: ``media`` does not fit the prompt.
        """
        messages = (*prompt.messages, *response)
        sequence, turns = self._lay_out(prompt, messages, media, ending)
        trained = [turn for turn, message in zip(turns, messages, strict=True) if message.role == "assistant"]
        length = len(sequence.ids)
        loss = [False] * length
        for turn in trained:
            stop = turn.end + 1
            if turn is turns[-1]:
                stop = length - (ending == "reward")
            loss[turn.start : stop] = [not visual for visual in sequence.visual[turn.start : stop]]
        start = turns[len(prompt.messages)].start
        return EncodedSequence(sequence.ids, sequence.visual, loss, start, turns[-1].end)

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        """Token ids of a prompt up to and including the header of the answer, to generate from.

        Both ends of the response are the length of the sequence. Raises as :meth:`encode_conversation`.
        """
        sequence, _ = self._lay_out(prompt, prompt.messages, media, "open")
        sequence.add_text(f"{START_OF_TURN}assistant\n")
        length = len(sequence.ids)
        return EncodedSequence(sequence.ids, sequence.visual, [False] * length, length, length)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens each of which ends an answer: ``</s>`` and the end of turn."""
        return tuple(self.tokenizer.stop_ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True, **kwargs: Any) -> str:
        """The text of an answer's tokens without white space around it; other arguments as of the tokenizer."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, **kwargs).strip()

    def unwritable(self, vocabulary: int) -> Tensor:
        """(V,) True at ids that are no text: the one at visual positions, and rows of the embedding without a piece."""
        ids = torch.arange(vocabulary)
        return (ids == self.image_token_id) | (ids >= len(self.tokenizer))

    def _lay_out(
        self, prompt: Prompt, messages: Sequence[Message], media: EncodedMedia, ending: Ending | Literal["open"]
    ) -> tuple[TokenSequence, list[_Turn]]:
        if len(media.lengths) != len(prompt.media):
            raise ValueError(f"the prompt has {len(prompt.media)} media, but {len(media.lengths)} are encoded")
        sequence = TokenSequence(self.tokenizer, self.template)
        lengths = iter(media.lengths)
        for _ in prompt.leading:
            sequence.add_media(next(lengths))
        turns = []
        for index, message in enumerate(messages):
            system = message.role == "system" and ending == "sft"
            role: Role = self.sft_system_role if system else message.role
            tail = _ENDINGS[ending] if index == len(messages) - 1 else ""
            turns.append(self._add_turn(sequence, role, message, lengths, tail))
        return sequence, turns

    def _add_turn(
        self, sequence: TokenSequence, role: Role, message: Message, lengths: Iterator[int], tail: str
    ) -> _Turn:
        """Append one turn; header and content are one run of text, since a token may reach across their border."""
        header = f"{START_OF_TURN}{role}\n"
        runs = _text_runs(message, strip=self.template == "training")
        runs[0] = header + runs[0]
        close = len(runs[-1])
        runs[-1] += f"{END_OF_TURN}\n{tail}"
        first, encoding = sequence.add_text(runs[0])
        start = first + _token_at(encoding, len(header))
        for run in runs[1:]:
            sequence.add_media(next(lengths))
            first, encoding = sequence.add_text(run)
        return _Turn(start, first + _token_at(encoding, close))

    def __call__(
        self,
        text: str | Sequence[str],
        images: ImageSource | Sequence[Any] | None = None,
        videos: Any = None,
        audio: None = None,
        padding: bool | str = True,
        padding_side: Literal["left", "right"] | None = None,
        add_special_tokens: bool = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """A padded batch from texts with placeholders.

        Args:
            text: One text or B of them, each with ``<ImageHere>`` and ``<VideoHere>`` where its media stand; a single
                medium may go without and stands first.
            images: Pictures (Pillow, uint8 array, bytes or path): one, a list in the order of the placeholders of all
                texts, or a list of B lists.
            videos: Videos (bytes or path), given as pictures are.
            audio: Not supported, must be None.
            padding: As of the tokenizer.
            padding_side: ``left`` by default, for generation.
            add_special_tokens: Put ``<s>`` where ``template`` wants it, unless the text starts with its own.
            return_tensors: As of the tokenizer.

        Returns:
            ``input_ids`` (B, T) with ``image_token_id`` at visual positions, ``attention_mask`` (B, T), and where there
            are media ``pixel_values`` (V, 3, tile, tile) and ``image_grid`` (I, 2).

        Raises:
            ValueError: Media and placeholders do not fit.
            RecordError: A picture or video cannot be decoded.
        """
        if audio is not None:
            raise ValueError("IXC-2.5 takes no audio: leave audio at None")
        texts = [text] if isinstance(text, str) else list(text)
        images_of = _share_out(images, texts, IMAGE_PLACEHOLDER, "images")
        videos_of = _share_out(videos, texts, VIDEO_PLACEHOLDER, "videos")
        ids, batch = [], []
        for prompt, its_images, its_videos in zip(texts, images_of, videos_of, strict=True):
            media = _in_reading_order(prompt, its_images, its_videos)
            tensors = self._encode([(source, kind, kind == "image") for source, kind in media]) if media else {}
            lengths = self.image_processor.token_counts(tensors["image_grid"]) if media else ()
            bos = self.template if add_special_tokens and not prompt.startswith(BOS) else None
            ids.append(interleave(prompt, lengths, self.tokenizer, bos)[0])
            batch.append(tensors)
        padded = self.tokenizer.pad(
            {"input_ids": ids}, padding=padding, padding_side=padding_side, return_tensors=return_tensors
        )
        names = {name for tensors in batch for name in tensors}
        vision = {name: torch.cat([tensors[name] for tensors in batch if tensors]) for name in sorted(names)}
        return BatchFeature({**padded, **vision}, tensor_type=return_tensors)

    def _encode(self, media: Sequence[tuple[Any, str, bool]]) -> dict[str, Tensor]:
        """Views and grids of the media of one prompt, each given as (source, name, is it a picture)."""
        processor = self.image_processor
        tiles = processor.tiles_of_each(len(media))
        encoded = [
            processor.encode_image(source, name, tiles) if picture else processor.encode_video(source, name)
            for source, name, picture in media
        ]
        return stack_views(encoded, processor.tile_size)


def _text_runs(message: Message, strip: bool) -> list[str]:
    """The text of a message, cut at its media: n media give n + 1 runs."""
    runs = [""]
    for part in message.parts:
        if isinstance(part, TextPart):
            runs[-1] += part.text
        else:
            runs.append("")
    for run in runs:
        if IMAGE_PLACEHOLDER in run:
            remedy = f"each {IMAGE_PLACEHOLDER} needs an image or video; remove it where it is only text"
            raise RecordError("surplus_placeholder", f"{message.role} text", run, remedy)
    if strip:
        runs[0] = runs[0].lstrip()
        runs[-1] = runs[-1].rstrip()
    return runs


def _token_at(encoding: Encoding, character: int) -> int:
    """Index of the first token that starts at this character or behind it."""
    return bisect_left(encoding.offsets, character, key=lambda offset: offset[0])


def _share_out(items: Any, texts: Sequence[str], placeholder: str, name: str) -> list[list[Any]]:
    """Pictures or videos of each text."""
    items = [] if items is None else items if isinstance(items, list | tuple) else [items]
    if any(isinstance(item, list | tuple) for item in items):
        if len(items) != len(texts):
            raise ValueError(f"{name}: {len(items)} lists for {len(texts)} texts; give one list for each text")
        return [list(item) for item in items]
    counts = [text.count(placeholder) for text in texts]
    if len(texts) == 1:
        counts = [len(items)]
    elif not any(counts) and len(items) == len(texts):
        counts = [1] * len(texts)
    if sum(counts) != len(items):
        raise ValueError(f"{name}: {len(items)} given, but the texts hold {sum(counts)} {placeholder}")
    rest = iter(items)
    return [[next(rest) for _ in range(count)] for count in counts]


def _in_reading_order(text: str, images: Sequence[Any], videos: Sequence[Any]) -> list[tuple[Any, str]]:
    """The media of one text as (source, kind), in the order of its placeholders."""
    kinds = [found == VIDEO_PLACEHOLDER for found in PLACEHOLDER.findall(text)]
    if not kinds and len(images) + len(videos) == 1:
        kinds = [bool(videos)]
    if (kinds.count(False), kinds.count(True)) != (len(images), len(videos)):
        raise ValueError(
            f"{len(images)} images and {len(videos)} videos for {kinds.count(False)} {IMAGE_PLACEHOLDER} and "
            f"{kinds.count(True)} {VIDEO_PLACEHOLDER} in {text[:80]!r}: give one placeholder for each"
        )
    image, video = iter(images), iter(videos)
    return [(next(video), "video") if is_video else (next(image), "image") for is_video in kinds]
