"""Views to visual tokens: CLIP features, 2x2 merge, newline and separator vectors.

Shapes: V views, p patches per side, q = p/2 merged patches per side, C vision width, D = 4C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel


def visual_token_count(h: int, w: int, merged_per_side: int) -> int:
    """Visual tokens of an image cut into h x w tiles.

    The global view gives q rows of q tokens and a newline, then one separator, then h*q rows of w*q tokens and a
    newline (architecture notes, section 3, item 7). With q = 20: 841 for 1 x 1, 2861 for 2 x 3.
    """
    q = merged_per_side
    return q * (q + 1) + 1 + h * q * (w * q + 1)


def merge_2x2(patches: Tensor) -> Tensor:
    """Join each 2x2 block of patches into one vector, channel blocks in (row, column) order.

    Args:
        patches: (V, p*p, C), row-major.

    Returns:
        (V, q, q, 4C) with the blocks (0,0), (0,1), (1,0), (1,1).
    """
    views, count, channels = patches.shape
    q = int(count**0.5) // 2
    blocks = patches.reshape(views, q, 2, q, 2, channels)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(views, q, q, 4 * channels)


def visual_sequence(merged: Tensor, h: int, w: int, newline: Tensor, separator: Tensor) -> Tensor:
    """Lay the views of one image out as [global rows][separator][rows of the stitched tiles].

    Args:
        merged: (1 + h*w, q, q, D), the global view first, then the tiles row-major.
        h: rows of tiles.
        w: columns of tiles.
        newline: (D,), appended to every row of both maps (`plora_sub_GN`).
        separator: (D,), between both maps (`plora_glb_GN`).

    Returns:
        (visual_token_count(h, w, q), D)
    """
    _, q, _, width = merged.shape
    stitched = merged[1:].reshape(h, w, q, q, width).transpose(1, 2).reshape(h * q, w * q, width)

    def with_newlines(rows: Tensor) -> Tensor:
        return torch.cat([rows, newline.expand(rows.shape[0], 1, width)], dim=1).flatten(0, 1)

    return torch.cat([with_newlines(merged[0]), separator.expand(1, width), with_newlines(stitched)])


def visual_sequences(patches: Tensor, grid: list[tuple[int, int]], newline: Tensor, separator: Tensor) -> list[Tensor]:
    """Patch features of all views to one visual sequence per image.

    Args:
        patches: (V, p*p, C), per image the global view and then its tiles row-major.
        grid: (h, w) tiles of each image; V must be the sum of 1 + h*w.
        newline: (4C,) see `visual_sequence`.
        separator: (4C,) see `visual_sequence`.

    Returns:
        One (N_i, 4C) tensor per image.

    Raises:
        ValueError: the number of views does not fit the grid.
    """
    views = [1 + h * w for h, w in grid]
    if sum(views) != patches.shape[0]:
        raise ValueError(
            f"pixel_values holds {patches.shape[0]} views, but image_grid={grid} asks for {sum(views)}: each image has "
            f"one global view and h*w tiles"
        )
    images = merge_2x2(patches).split(views)
    return [visual_sequence(image, h, w, newline, separator) for image, (h, w) in zip(images, grid, strict=True)]


class VisionEncoder(nn.Module):
    """CLIP vision tower: the last block's output without the final norm, CLS dropped.

    The nesting gives the released parameter names, `vit.vision_tower.vision_model.*`.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_tower = nn.ModuleDict({"vision_model": CLIPVisionModel._from_config(config)})

    @property
    def clip(self) -> CLIPVisionModel:
        """The transformers vision tower."""
        return self.vision_tower["vision_model"]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Views (V, 3, t, t), normalised, to patch features (V, p*p, C)."""
        return self.clip(pixel_values).last_hidden_state[:, 1:]
