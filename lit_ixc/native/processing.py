"""Conversations with pictures and videos for a native model: its own template, tokenizer and image processor."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import PIL
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from lit_ixc.batch import EncodedMedia, EncodedSequence, Ending
from lit_ixc.ixc25.image import load_image
from lit_ixc.ixc25.video import read_frames
from lit_ixc.native.files import read_processor, read_tokenizer
from lit_ixc.native.media import expand, expansions_of, image_arguments, joinable
from lit_ixc.native.model import argument_names, model_class, read_config
from lit_ixc.native.template import Span, render, turns_of
from lit_ixc.records import ImagePart, MediaPart, Message, Prompt, RecordError, UserError

OPTIONS = "native_processor.json"  # what is not in the files of transformers


class NativeProcessor:
    """Tokenizer, chat template and image processor of a model that transformers has.

    Files are read on first use. Nothing is fetched.

    Args:
        path: Folder of the checkpoint: ``config.json``, tokenizer and, for an image-text model, image processor.
        max_pixels: Most pixels of an image behind its resizing, for image processors that have such a bound (the
            Qwen-VL family); the model's own by default.
        min_pixels: Fewest pixels of an image behind its resizing, likewise.
        max_frames: Most frames of a video.
        frame_size: Longer side of a video's frames in pixels, before the image processor sees them.
        video: ``frames`` gives a video as images, one for each frame. ``native`` uses the model's own video path.
        chat_template: A template in place of the model's own: Jinja, or the path of a file with it.
        template_options: Variables of the template, e.g. ``{enable_thinking: false}``.
        image_options: Settings of the image processor in place of the model's own, e.g. ``{max_patches: 6}``.
    """

    def __init__(
        self,
        path: str,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
        max_frames: int = 32,
        frame_size: int = 448,
        video: Literal["frames"] = "frames",
        chat_template: str | None = None,
        template_options: dict[str, Any] | None = None,
        image_options: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("max_frames", max_frames), ("frame_size", frame_size)):
            if value < 1:
                raise UserError(f"processor {name} = {value}: choose a positive number")
        if video != "frames":
            raise UserError(f"processor video = {video!r}: use 'frames'")
        self.path = Path(path)
        self.max_pixels, self.min_pixels = max_pixels, min_pixels
        self.max_frames, self.frame_size, self.video = max_frames, frame_size, video
        self.chat_template = chat_template
        self.template_options = dict(template_options or {})
        self.image_options = dict(image_options or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NativeProcessor:
        """The processor that :meth:`save_pretrained` wrote, with its options."""
        options = Path(folder) / OPTIONS
        return cls(str(folder), **(json.loads(options.read_text()) if options.is_file() else {}))

    def save_pretrained(self, folder: Path) -> None:
        """Write everything that :meth:`from_pretrained` needs; a ``config.json`` that is there already is kept."""
        (self.processor or self.tokenizer).save_pretrained(folder)
        if not (folder / "config.json").is_file():
            self.config.save_pretrained(folder)
        options = {name: getattr(self, name) for name in sorted(argument_names(type(self)) - {"path"})}
        if self.chat_template is not None:
            options["chat_template"] = self.template
        (folder / OPTIONS).write_text(json.dumps(options, indent=2) + "\n")

    def __getstate__(self) -> dict[str, Any]:
        """What was read stays behind: a worker reads it again."""
        return {name: getattr(self, name) for name in ("path", *argument_names(type(self)))}

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return read_config(self.path)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return read_tokenizer(self.path)

    @cached_property
    def processor(self) -> ProcessorMixin | None:
        """The model's own processor; None for a text model."""
        return read_processor(self.path, self.config, self.tokenizer)

    @cached_property
    def template(self) -> str:
        """The chat template, as Jinja.

        Raises:
            UserError: There is none, or ``chat_template`` names no file.
        """
        template: Any = self.chat_template
        if template is not None and "{" not in template:
            if not Path(template).is_file():
                raise UserError(f"processor chat_template = {template!r}: neither Jinja nor a file; give one of them")
            template = Path(template).read_text()
        template = template or getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise UserError(f"processor path = {self.path}: there is no chat template; give chat_template")
        return cast(str, template)

    @property
    def pad_token_id(self) -> int:
        """Id at padding; the end-of-text id where the tokenizer has none for padding."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def image_token_id(self) -> int:
        """Id at visual positions; -1 for a text model."""
        return -1 if self.processor is None else int(self.config.image_token_id)

    @cached_property
    def _placeholder_id(self) -> int:
        """Id of the token in the template's text that an image takes the place of; -1 for a text model."""
        if self.processor is None:
            return -1
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token))

    @property
    def media_settings(self) -> str:
        """All that decides what becomes of an image or a video, as JSON: a part of the key under which features are
        kept."""
        processor = self.processor
        settings = {
            "processor": type(processor).__name__,
            "processor_settings": {} if processor is None else processor.to_dict(),
            "image_processor": "" if processor is None else type(processor.image_processor).__name__,
            "images_kwargs": {} if processor is None else self._images_kwargs,
            "max_frames": self.max_frames,
            "frame_size": self.frame_size,
            "video": self.video,
            "transformers": transformers.__version__,
            "pillow": PIL.__version__,
        }
        return json.dumps(settings, sort_keys=True, default=str)

    @cached_property
    def _images_kwargs(self) -> dict[str, Any]:
        """Arguments of the image processor."""
        processor = cast(ProcessorMixin, self.processor)
        return image_arguments(processor, self.image_options, self.min_pixels, self.max_pixels)

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        """Preprocess the pictures and videos of one prompt.

        Returns:
            Visual tokens of each, and the inputs of the model's ``get_image_features``; beside them the tokens that
            stand in the place of each image: ``expansion`` (E,), its cuts ``expansion_lengths`` (images,), and
            ``images_of_items`` (media,). :meth:`encode_conversation` reads the tensors of whole numbers alone.

        Raises:
            RecordError: One cannot be decoded or used, or the model takes text alone.
        """
        if not media:
            return EncodedMedia((), {})
        processor = self.processor
        if processor is None:
            remedy = f"{self.config.model_type} takes text alone: remove it, or use an image-text model"
            raise RecordError("media_for_text_model", "media", media[0].name, remedy)
        items = [self._images(part) for part in media]
        images = [image for item in items for image in item]
        try:
            tensors, texts = processor._process_images([images], **self._images_kwargs)
        except (ValueError, ZeroDivisionError) as error:
            names = ", ".join(part.name for part in media)
            raise RecordError("unusable_image", "media", names, f"the image processor refuses it: {error}") from error
        expansions = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        visual = [ids.count(self.image_token_id) for ids in expansions]
        cuts = np.cumsum([0, *(len(item) for item in items)])
        lengths = tuple(sum(visual[start:end]) for start, end in zip(cuts, cuts[1:], strict=False))
        layout = {
            "expansion": torch.tensor([token for ids in expansions for token in ids]),
            "expansion_lengths": torch.tensor([len(ids) for ids in expansions]),
            "images_of_items": torch.tensor([len(item) for item in items]),
        }
        inputs = joinable(tensors, argument_names(self._model_class.get_image_features))
        return EncodedMedia(lengths, {**inputs, **layout})

    def _images(self, part: MediaPart) -> list[Image.Image]:
        """A picture, or the frames of a video."""
        if isinstance(part, ImagePart):
            return [load_image(part.data, part.name)]
        return [frame.image for frame in read_frames(part.data, self.max_frames, self.frame_size, part.name)]

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        """Token ids of prompt and response; the last token is the end of the last turn, for both endings.

        ``loss`` covers each assistant answer with its end of turn.

        Args:
            prompt: What is answered; ``prompt.media`` belongs to ``media``.
            response: One or more messages, the first and the last by the assistant.
            media: Result of :meth:`encode_media` for the prompt; responses to one prompt share it.
            ending: ``reward`` or ``sft``; a native model has no reward token, its end of turn takes that place.

        Raises:
            RecordError: A text holds a placeholder, or the template refuses or rewrites the conversation.
            UserError: The template ends without an end-of-turn token.
            ValueError: ``media`` does not fit the prompt.
        """
        laid = self._lay_out((*prompt.messages, *response), prompt, media, open_end=False)
        if not laid.special[-1]:
            raise UserError(
                f"processor path = {self.path}: the chat template ends an answer without a special token, by which its "
                "end could be known; give a chat_template that ends each turn with one"
            )
        loss = [False] * len(laid.ids)
        for turn in laid.turns:
            stop = len(loss) if turn is laid.turns[-1] else turn.end + laid.special[turn.end]
            loss[turn.start : stop] = [True] * (stop - turn.start)
        start = next(turn.start for turn in laid.turns if turn.message == len(prompt.messages))
        return EncodedSequence(laid.ids, laid.visual, loss, start, laid.turns[-1].end, self._axes(laid, media))

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        """Token ids of a prompt up to and including the header of the answer, to generate from.

        Both ends of the response are the length of the sequence. Raises as :meth:`encode_conversation`.
        """
        laid = self._lay_out(prompt.messages, prompt, media, open_end=True)
        length = len(laid.ids)
        return EncodedSequence(laid.ids, laid.visual, [False] * length, length, length, self._axes(laid, media))

    def _lay_out(self, messages: Sequence[Message], prompt: Prompt, media: EncodedMedia, open_end: bool) -> _LaidOut:
        """Write, tokenise, and put the tokens of each image in the place of its placeholder."""
        if len(media.lengths) != len(prompt.media):
            raise ValueError(f"the prompt has {len(prompt.media)} media, but {len(media.lengths)} are encoded")
        for message in messages:
            self._check(message)
        expansions, images_of = expansions_of(media)
        turns = turns_of(messages, len(prompt.leading), images_of)
        text, answers = render(self._write, turns, lists=self.processor is not None, open_end=open_end)
        if not open_end:
            text = text.rstrip()
        prefix = self._leading_ids(text)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = [*prefix, *encoding["input_ids"]]
        starts = [0] * len(prefix) + [start for start, _ in encoding["offset_mapping"]]
        places = [bisect_left(starts, character) for answer in answers for character in (answer.start, answer.end)]
        if expansions or self._placeholder_id in ids:
            ids, moved = expand(ids, self._placeholder_id, expansions, self.path)
            places = [moved[place] for place in places]
        spans = iter(places)
        return _LaidOut(
            ids,
            [token == self.image_token_id for token in ids],
            [token in self._special_ids for token in ids],
            [Span(answer.message, next(spans), next(spans)) for answer in answers],
        )

    def _write(self, conversation: list[dict[str, Any]], open_end: bool) -> str:
        return cast(
            str,
            self.tokenizer.apply_chat_template(
                conversation,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=open_end,
                **self.template_options,
            ),
        )

    def _leading_ids(self, text: str) -> list[int]:
        """The tokenizer's own begin-of-text id, where an image-text model's template leaves it to the tokenizer."""
        bos = self.tokenizer.bos_token
        if self.processor is None or bos is None or text.startswith(bos):
            return []
        first = self.tokenizer("")["input_ids"][:1]
        return first if first == [self.tokenizer.bos_token_id] else []

    def _check(self, message: Message) -> None:
        """Raise RecordError where a text holds what stands for images."""
        for token in self._placeholders:
            if token in message.text:
                remedy = f"{token} stands for an image; remove it where it is only text"
                raise RecordError("surplus_placeholder", f"{message.role} text", message.text, remedy)

    @cached_property
    def _placeholders(self) -> list[str]:
        """Tokens that stand for images or frame them."""
        if self.processor is None:
            return []
        named = {value for name, value in vars(self.processor).items() if name.endswith("_token")}
        ids = [value for name, value in self.config.to_dict().items() if name.endswith(("_token_id", "_token_index"))]
        special = {str(token) for number, token in self.tokenizer.added_tokens_decoder.items() if number in ids}
        eos = {self.tokenizer.eos_token, self.tokenizer.bos_token, self.tokenizer.pad_token}
        return sorted(token for token in named | special if isinstance(token, str) and token not in eos)

    @cached_property
    def _special_ids(self) -> set[int]:
        return {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @cached_property
    def _model_class(self) -> type[PreTrainedModel]:
        return model_class(self.config, lm_head=False)

    @cached_property
    def _positions(self) -> PreTrainedModel | None:
        """The model without weights, for its positions on several axes; None where it has but one axis."""
        if not hasattr(self._model_class, "get_rope_index"):
            return None
        with torch.device("meta"):
            return self._model_class._from_config(self.config)

    def _axes(self, laid: _LaidOut, media: EncodedMedia) -> NDArray[np.int64] | None:
        """(A, L) positions as the model itself counts them."""
        if self._positions is None:
            return None
        count = cast(Any, self._positions).get_rope_index
        names = argument_names(count)
        grids = {name: tensor for name, tensor in media.tensors.items() if name in names}
        if any(laid.visual) and not grids:
            raise ValueError("media have no grids: keep their tensors of whole numbers beside the features")
        ids = torch.tensor([laid.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **grids}
        if "mm_token_type_ids" in names:
            inputs["mm_token_type_ids"] = torch.tensor([laid.visual], dtype=torch.int)
        positions, _ = count(**inputs)
        return cast(NDArray[np.int64], positions[:, 0].numpy())


class _LaidOut(NamedTuple):
    """A conversation as tokens; turns hold indices of tokens."""

    ids: list[int]
    visual: list[bool]
    special: list[bool]
    turns: list[Span]
