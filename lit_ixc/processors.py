"""Processors for configs: one that a run saved, the released one, and a miniature one that trains its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lit_ixc.batch import EncodedMedia, EncodedSequence, Ending
from lit_ixc.ixc25.image import IXC25ImageProcessor, Variant
from lit_ixc.ixc25.processing import IXC25Processor, Template
from lit_ixc.ixc25.tokenizer import load_released, train_tokenizer
from lit_ixc.native.processing import OPTIONS, NativeProcessor
from lit_ixc.records import MediaPart, Message, Prompt, UserError


class SavedProcessor:
    """The processor in a folder that a training run exported, of IXC-2.5 or of a native model.

    Args:
        path: The folder.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @cached_property
    def processor(self) -> IXC25Processor | NativeProcessor:
        """The processor itself, read on first use.

        Raises:
            UserError: There is none in the folder.
        """
        if (self.path / OPTIONS).is_file():
            return NativeProcessor.from_pretrained(self.path)
        if not (self.path / "processor_config.json").is_file():
            raise UserError(
                f"processor path = {self.path}: no processor_config.json there; train or export a model first"
            )
        try:
            return IXC25Processor.from_pretrained(self.path)
        except (ValueError, OSError) as error:
            raise UserError(
                f"processor path = {self.path}: no processor that a run of this package exported "
                f"({str(error).splitlines()[0]}); for a checkpoint of another model use lit_ixc.native.NativeProcessor"
            ) from error

    @property
    def pad_token_id(self) -> int:
        """Id at padding."""
        return self.processor.pad_token_id

    @property
    def image_token_id(self) -> int:
        """Id at visual positions."""
        return self.processor.image_token_id

    @property
    def media_settings(self) -> str:
        """JSON of everything besides the media that decides what :meth:`encode_media` gives."""
        return self.processor.media_settings

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        """See ``ConversationProcessor``."""
        return self.processor.encode_media(media)

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        """See ``ConversationProcessor``."""
        return self.processor.encode_conversation(prompt, response, media, ending)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens each of which ends an answer."""
        return self.processor.stop_ids

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        """See ``ChatProcessor``."""
        return self.processor.encode_prompt(prompt, media)

    def decode(self, ids: Sequence[int]) -> str:
        """See ``ChatProcessor``."""
        return self.processor.decode(ids)

    def unwritable(self, vocabulary: int) -> Tensor:
        """See ``ChatProcessor``."""
        return self.processor.unwritable(vocabulary)

    def save_pretrained(self, folder: Path) -> None:
        """Write the processor beside a model."""
        self.processor.save_pretrained(folder)


class ReleasedProcessor(SavedProcessor):
    """The released tokenizer with the release's image preprocessing.

    Args:
        path: Folder of the released files; its ``tokenizer.model`` is read.
        max_tiles: Most tiles of an image (``hd_num``); 9 in the reward model's scripts.
        max_tiles_multi: Most tiles of each image of a prompt with several.
        variant: How an image is scaled and padded before it is cut into tiles.
        template: ``training`` puts ``<s>`` behind the leading image, ``chat`` before it.
        max_frames: Most frames of a video.
    """

    def __init__(
        self,
        path: str,
        max_tiles: int = 9,
        max_tiles_multi: int = 6,
        variant: Variant = "training",
        template: Template = "training",
        max_frames: int = 32,
    ) -> None:
        super().__init__(path)
        self.max_tiles, self.max_tiles_multi, self.max_frames = max_tiles, max_tiles_multi, max_frames
        self.variant, self.template = variant, template

    @cached_property
    def processor(self) -> IXC25Processor:
        """The processor itself, built on first use.

        Raises:
            UserError: The folder has no ``tokenizer.model``.
        """
        if not (self.path / "tokenizer.model").is_file():
            raise UserError(
                f"processor path = {self.path}: no tokenizer.model there; give the folder of the released files"
            )
        images = IXC25ImageProcessor(
            max_tiles=self.max_tiles,
            max_tiles_multi=self.max_tiles_multi,
            variant=self.variant,
            max_frames=self.max_frames,
        )
        return IXC25Processor(images, load_released(self.path / "tokenizer.model"), template=self.template)


class MiniatureProcessor(SavedProcessor):
    """A processor for miniature models, whose tokenizer is trained on the corpus when the folder has none yet.

    Args:
        path: Folder that keeps it; an existing processor there is used as it is.
        vocab_size: Pieces of the byte-level BPE, the 256 bytes and 7 special pieces included.
        tile_size: Side of a tile, pixels; as in the model.
        patch_size: Side of a vision patch, pixels; as in the model.
        max_tiles: Most tiles of an image.
        variant: How an image is scaled and padded before it is cut into tiles.
        max_frames: Most frames of a video.
    """

    def __init__(
        self,
        path: str,
        vocab_size: int = 2048,
        tile_size: int = 64,
        patch_size: int = 8,
        max_tiles: int = 4,
        variant: Variant = "inference",
        max_frames: int = 4,
    ) -> None:
        super().__init__(path)
        self.vocab_size, self.tile_size, self.patch_size = vocab_size, tile_size, patch_size
        self.max_tiles, self.variant, self.max_frames = max_tiles, variant, max_frames

    def prepare(self, texts: Callable[[], Iterable[str]]) -> None:
        """Train and save the processor if the folder has none. A data module calls it, in one process.

        Args:
            texts: Gives the texts of the training rows.
        """
        if (self.path / "processor_config.json").is_file():
            return
        images = IXC25ImageProcessor(
            tile_size=self.tile_size,
            patch_size=self.patch_size,
            max_tiles=self.max_tiles,
            max_tiles_multi=self.max_tiles,
            variant=self.variant,
            frame_size=self.tile_size,
            max_frames=self.max_frames,
            label_height=0,
            frame_gap=0,
            draw_labels=False,
            max_video_tiles=self.max_tiles,
        )
        IXC25Processor(images, train_tokenizer(texts(), self.vocab_size)).save_pretrained(self.path)
