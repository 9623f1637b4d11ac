"""Dynamic partition: where a picture's pixels go, and the views cut from them.

A picture is resized so that its longer side is a whole number of tiles, padded with white to a whole number in the
other direction, and cut into tiles; a global view of the whole stands before them (architecture notes, sections 2
and 3).
Everything is Pillow and torch: the pixels equal the released code's bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Variant = Literal["training", "inference"]
WHITE = (255, 255, 255)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Partition(NamedTuple):
    """Where a picture's pixels go. Sizes are (width, height) in pixels, after the swap that makes it wide.

    Args:
        swapped: The axes are swapped for the work and swapped back at the end, because the picture is tall.
        resize: Size to which the picture is resized.
        canvas: Size after padding with white, whole tiles in both directions.
        pad_top: Rows of white above the picture; the rest of the padding stands below it.
        grid: (rows, columns) of tiles, in the picture's own orientation.
    """

    swapped: bool
    resize: tuple[int, int]
    canvas: tuple[int, int]
    pad_top: int
    grid: tuple[int, int]


def partition(
    width: int, height: int, max_tiles: int = 24, tile_size: int = 560, variant: Variant = "inference"
) -> Partition:
    """Geometry of the dynamic partition.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        max_tiles: Most tiles the grid may have (the release's ``hd_num``).
        tile_size: Side of a tile in pixels.
        variant: ``training`` enlarges by up to 1.5 and centres the picture in its padding, ``inference`` does neither;
            the released code does the one in its training and the other in its chat code.

    The released code fails on pictures so thin that their height rounds to 0; here such a height is 1 pixel.

    Raises:
        ValueError: A size or ``max_tiles`` below 1, or an unknown variant.
    """
    if min(width, height, max_tiles, tile_size) < 1:
        raise ValueError(f"{width=}, {height=}, {max_tiles=}, {tile_size=}: each must be at least 1")
    if variant not in ("training", "inference"):
        raise ValueError(f"variant = {variant!r}: use 'training' or 'inference'")
    swapped = width < height
    if swapped:
        width, height = height, width
    ratio = width / height
    scale = 1
    while scale * math.ceil(scale / ratio) <= max_tiles:
        scale += 1
    wanted = math.ceil((1.5 if variant == "training" else 1) * width / tile_size)
    scale = min(wanted, scale - 1)
    new_width = tile_size * scale
    new_height = max(1, int(new_width / ratio))
    rows = math.ceil(new_height / tile_size)
    pad_top = (rows * tile_size - new_height) // 2 if variant == "training" else 0
    return Partition(
        swapped=swapped,
        resize=(new_width, new_height),
        canvas=(new_width, rows * tile_size),
        pad_top=pad_top,
        grid=(scale, rows) if swapped else (rows, scale),
    )


def arrange(image: Image.Image, layout: Partition) -> Image.Image:
    """Resize and pad an RGB picture as its partition says; the result has whole tiles in both directions."""
    if layout.swapped:  # swapping first, not last, keeps Pillow's order of rounding
        image = image.transpose(Image.Transpose.TRANSPOSE)
    image = image.resize(layout.resize, Image.Resampling.BILINEAR)
    if layout.canvas != layout.resize:
        canvas = Image.new("RGB", layout.canvas, WHITE)
        canvas.paste(image, (0, layout.pad_top))
        image = canvas
    return image.transpose(Image.Transpose.TRANSPOSE) if layout.swapped else image


def normalise(
    image: Image.Image, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:  # (3, H, W)
    """RGB picture to fp32: x / 255, minus mean, over std, in that order of rounding."""
    pixels = torch.empty(3, image.height, image.width)
    pixels.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return pixels.div_(255).sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


def cut_views(pixels: Tensor, tile_size: int) -> Tensor:  # (1 + rows * columns, 3, tile, tile)
    """Global view, then the tiles row by row, of a normalised picture (3, rows * tile, columns * tile).

    The global view is the whole picture by bicubic interpolation without antialiasing; its aspect ratio is not kept.
    """
    rows, columns = pixels.shape[1] // tile_size, pixels.shape[2] // tile_size
    views = pixels.new_empty(1 + rows * columns, 3, tile_size, tile_size)
    views[:1] = interpolate(pixels[None], size=(tile_size, tile_size), mode="bicubic", align_corners=False)
    tiles = pixels.view(3, rows, tile_size, columns, tile_size).permute(1, 3, 0, 2, 4)
    views[1:].view(rows, columns, 3, tile_size, tile_size).copy_(tiles)
    return views
