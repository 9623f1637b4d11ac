"""IXC-2.5's image processor: pictures and videos to the views that the vision encoder sees."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from lit_ixc.ixc25.partition import CLIP_MEAN, CLIP_STD, Variant, arrange, cut_views, normalise, partition
from lit_ixc.ixc25.video import fit_short_side, montage, read_frames
from lit_ixc.ixc25.vision import visual_token_count
from lit_ixc.records import RecordError

ImageSource = Image.Image | np.ndarray | bytes | str | Path

_EXIF_ORIENTATION = 0x0112
# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error)


def load_image(
    source: ImageSource, name: str = "image", max_pixels: int | None = None, exif_orientation: bool = True
) -> Image.Image:
    """Read a picture as 8-bit RGB.

    Alpha is dropped, as the release's training code does (``convert("RGB")``); of an animation the first frame is
    taken; 16-bit grey is scaled to 8 bits (Pillow's own conversion would clip it to white).

    Args:
        source: A Pillow image, a uint8 array (H, W) or (H, W, 3), the bytes of a file, or its path.
        name: What an error calls the picture.
        max_pixels: Most pixels a picture may have; it is checked before the picture is decoded.
        exif_orientation: Turn a photograph upright as its EXIF tag says.

    Raises:
        RecordError: The picture cannot be read, or has too many pixels.
    """
    if isinstance(source, str | Path):
        name = str(source) if name == "image" else name
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, max_pixels, exif_orientation)
        if isinstance(source, np.ndarray):
            return _to_rgb(Image.fromarray(source), name, max_pixels, exif_orientation)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _to_rgb(image, name, max_pixels, exif_orientation)
    except UnidentifiedImageError as error:
        raise RecordError("unreadable_image", "image", name, "it is in no known picture format") from error
    except Image.DecompressionBombError as error:
        raise RecordError("too_many_pixels", "image", name, f"Pillow refuses it: {error}") from error
    except RecordError:
        raise
    except (*_DECODE_ERRORS, TypeError) as error:
        raise RecordError("unreadable_image", "image", name, f"give a whole picture file ({error})") from error


def _to_rgb(image: Image.Image, name: str, max_pixels: int | None, exif_orientation: bool) -> Image.Image:
    pixels = image.width * image.height
    if pixels < 1:
        raise RecordError("empty_image", "image", name, "give a picture with at least one pixel")
    if max_pixels is not None and pixels > max_pixels:
        remedy = f"it has {image.width} x {image.height} pixels, more than max_pixels = {max_pixels}: shrink it"
        raise RecordError("too_many_pixels", "image", name, remedy)
    if exif_orientation and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise RecordError("unknown_range", "image", name, "32-bit grey has no known white: save it with 16 bits")
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise RecordError("unknown_range", "image", name, "floating-point grey has no known white: save it as integers")
    return image.convert("RGB")


class IXC25ImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options of :class:`IXC25ImageProcessor` that ``from_pretrained`` may override; documented there."""

    tile_size: int
    patch_size: int
    max_tiles: int
    max_tiles_multi: int | None
    variant: str
    exif_orientation: bool
    max_pixels: int | None
    max_frames: int
    frame_size: int
    label_height: int
    frame_gap: int
    draw_labels: bool
    max_video_tiles: int | None


class IXC25ImageProcessor(BaseImageProcessor):
    """Pictures and videos to the views that the vision encoder sees.

    Args:
        tile_size: Side of a tile in pixels (560 for the 7B model); a multiple of twice ``patch_size``.
        patch_size: Side of a patch of the vision encoder in pixels.
        max_tiles: Most tiles of a picture that is alone in its prompt (``hd_num``); the release uses 24 in chat and 9
            in the reward model's scripts.
        max_tiles_multi: Most tiles of each picture of a prompt with several (6 in the release), where that is less than
            ``max_tiles``. None: ``max_tiles`` for all.
        variant: ``training`` or ``inference`` preprocessing, see :func:`partition`.
        exif_orientation: Turn photographs upright. On by default, since people judged them upright; the release leaves
            them as stored.
        max_pixels: Larger pictures and video frames are refused before they are decoded. None: no limit but Pillow's
            own, twice the default.
        max_frames: Most frames of a video.
        frame_size: Longer side of a video frame in its montage, in pixels.
        label_height: Height of the bar above each frame that holds its label ``<IMAGE i>``, in pixels.
        frame_gap: Space between frames, in pixels; the separating line lies in its middle.
        draw_labels: Write the labels into their bars.
        max_video_tiles: Most tiles of a video's montage. None: the release's rule, one row of as many tiles as the
            montage is long. A montage that is longer goes through the picture's partition with this limit.
        image_mean: Mean of the pixels in 0..1, per channel.
        image_std: Standard deviation of the pixels in 0..1, per channel.
    """

    model_input_names = ["pixel_values", "image_grid"]
    valid_kwargs = IXC25ImagesKwargs
    # Saving leaves out an option that is None, unless the class has another default: these two may be set to None.
    max_tiles_multi: int | None = 6
    max_pixels: int | None = 89_478_485

    def __init__(
        self,
        tile_size: int = 560,
        patch_size: int = 14,
        max_tiles: int = 24,
        max_tiles_multi: int | None = 6,
        variant: Variant = "inference",
        exif_orientation: bool = True,
        max_pixels: int | None = 89_478_485,
        max_frames: int = 32,
        frame_size: int = 1120,
        label_height: int = 40,
        frame_gap: int = 10,
        draw_labels: bool = True,
        max_video_tiles: int | None = None,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        partition(1, 1, max_tiles, tile_size, variant)  # refuses bad values here, not at the first picture
        _at_least(1, patch_size=patch_size, max_frames=max_frames, frame_size=frame_size, max_pixels=max_pixels)
        _at_least(1, max_tiles_multi=max_tiles_multi, max_video_tiles=max_video_tiles)
        _at_least(0, label_height=label_height, frame_gap=frame_gap)
        if tile_size % (2 * patch_size):
            raise ValueError(f"tile_size = {tile_size}: must be a multiple of 2 * patch_size = {2 * patch_size}")
        self.tile_size = tile_size
        self.patch_size = patch_size
        self.max_tiles = max_tiles
        self.max_tiles_multi = max_tiles_multi
        self.variant = variant
        self.exif_orientation = exif_orientation
        self.max_pixels = max_pixels
        self.max_frames = max_frames
        self.frame_size = frame_size
        self.label_height = label_height
        self.frame_gap = frame_gap
        self.draw_labels = draw_labels
        self.max_video_tiles = max_video_tiles
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def encode_image(
        self, source: ImageSource, name: str = "image", max_tiles: int | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Views (1 + rows * columns, 3, tile, tile) in fp32 and the grid (rows, columns) of one picture.

        Raises:
            RecordError: See :func:`load_image`.
        """
        image = load_image(source, name, self.max_pixels, self.exif_orientation)
        return self._cut(self._arrange(image, self.max_tiles if max_tiles is None else max_tiles))

    def encode_video(self, source: bytes | str | Path, name: str = "video") -> tuple[Tensor, tuple[int, int]]:
        """Views and grid of one video, whose frames become one picture (see :mod:`lit_ixc.ixc25.video`).

        Raises:
            RecordError: The video cannot be decoded.
        """
        frames = read_frames(source, self.max_frames, self.frame_size, name, self.max_pixels)
        image = montage(frames, self.frame_size, self.label_height, self.frame_gap, self.draw_labels)
        canvas = fit_short_side(image, self.tile_size)
        if self.max_video_tiles is not None and max(canvas.size) // self.tile_size > self.max_video_tiles:
            canvas = self._arrange(image, self.max_video_tiles)
        return self._cut(canvas)

    def token_counts(self, image_grid: Tensor) -> tuple[int, ...]:
        """Visual tokens of each picture, from its ``image_grid`` row (rows, columns)."""
        merged = self.tile_size // (2 * self.patch_size)
        return tuple(visual_token_count(rows, columns, merged) for rows, columns in image_grid.tolist())

    def tiles_of_each(self, count: int) -> int:
        """Most tiles of each picture in a prompt of ``count`` pictures and videos."""
        if count > 1 and self.max_tiles_multi is not None:
            return min(self.max_tiles, self.max_tiles_multi)
        return self.max_tiles

    def preprocess(
        self,
        images: ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]],
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Preprocess pictures.

        Args:
            images: A picture, a list of pictures (each alone in its prompt), or a list of lists, one for each prompt.
            return_tensors: ``pt`` or ``np``; torch tensors where it is None.

        Returns:
            ``pixel_values`` (V, 3, tile, tile) fp32, the views of all pictures in order, and ``image_grid`` (I, 2)
            int64, (rows, columns) of each picture's tiles.

        Raises:
            RecordError: See :func:`load_image`.
        """
        prompts = images if isinstance(images, list | tuple) else [images]
        nested = [prompt if isinstance(prompt, list | tuple) else [prompt] for prompt in prompts]
        encoded = [
            self.encode_image(image, f"image {number}", self.tiles_of_each(len(prompt)))
            for prompt in nested
            for number, image in enumerate(prompt)
        ]
        return BatchFeature(stack_views(encoded, self.tile_size), tensor_type=return_tensors)

    def _arrange(self, image: Image.Image, max_tiles: int) -> Image.Image:
        return arrange(image, partition(image.width, image.height, max_tiles, self.tile_size, self.variant))

    def _cut(self, canvas: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        grid = (canvas.height // self.tile_size, canvas.width // self.tile_size)
        return cut_views(normalise(canvas, self.image_mean, self.image_std), self.tile_size), grid


def _at_least(smallest: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < smallest:
            raise ValueError(f"{name} = {value}: must be at least {smallest}")


def stack_views(encoded: Sequence[tuple[Tensor, tuple[int, int]]], tile_size: int) -> dict[str, Tensor]:
    """Views and grids of several pictures as ``pixel_values`` (V, 3, tile, tile) and ``image_grid`` (I, 2)."""
    empty = torch.empty(0, 3, tile_size, tile_size)
    return {
        "pixel_values": torch.cat([views for views, _ in encoded]) if encoded else empty,
        "image_grid": torch.tensor([grid for _, grid in encoded], dtype=torch.long).view(-1, 2),
    }
