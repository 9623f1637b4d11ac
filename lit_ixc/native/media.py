"""Pictures for a native model: settings of its image processor, and the tokens in the place of each picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from lit_ixc.batch import EncodedMedia
from lit_ixc.records import UserError


def image_arguments(
    processor: ProcessorMixin, image_options: Mapping[str, Any], min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Arguments of the image processor: the processor's own defaults, then the options given here.

    Raises:
        UserError: The image processor has no such setting.
    """
    images = processor.image_processor
    known = set(getattr(getattr(images, "valid_kwargs", None), "__annotations__", {}))
    options = dict(image_options)
    for name in options:
        if name not in known and not hasattr(images, name):
            raise UserError(
                f"processor image_options.{name}: {type(images).__name__} has no such setting; it has "
                f"{', '.join(sorted(known))}"
            )
    bounds = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    if any(bound is not None for bound in bounds.values()):
        if "max_pixels" not in known:
            raise UserError(
                f"processor max_pixels = {max_pixels}, min_pixels = {min_pixels}: "
                f"{type(images).__name__} has no such bounds; leave them out, or use image_options"
            )
        options["size"] = {**dict(images.size), **{edge: n for edge, n in bounds.items() if n is not None}}
    if "image_grid_pinpoints" in known:  # as a list, for want of padding: tiles of several prompts then join
        options["do_pad"] = False
    else:
        options["return_tensors"] = "pt"
    defaults = processor._merge_kwargs(
        processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs
    )["images_kwargs"]
    return {**defaults, **options}


def expansions_of(media: EncodedMedia) -> tuple[list[list[int]], list[int]]:
    """Token ids for each image, and the number of images of each medium."""
    if not media.lengths:
        return [], []
    if "expansion" not in media.tensors:
        raise ValueError("media have no expansion: keep their tensors of whole numbers beside the features")
    parts = media.tensors["expansion"].split(media.tensors["expansion_lengths"].tolist())
    return [part.tolist() for part in parts], media.tensors["images_of_items"].tolist()


def expand(ids: list[int], token: int, expansions: list[list[int]], path: Path) -> tuple[list[int], list[int]]:
    """Put each expansion in the place of its placeholder; also where each old index, and the end, came to stand."""
    if ids.count(token) != len(expansions):
        raise UserError(
            f"processor path = {path}: the chat template writes {ids.count(token)} placeholders for {len(expansions)} "
            "images; give a chat_template that writes one for each"
        )
    rest = iter(expansions)
    expanded: list[int] = []
    moved = []
    for value in ids:
        moved.append(len(expanded))
        expanded.extend(next(rest) if value == token else [value])
    return expanded, [*moved, len(expanded)]


def joinable(values: Mapping[str, Any], wanted: set[str]) -> dict[str, Tensor]:
    """The inputs of the vision encoder, so that those of several prompts join along dimension 0.

    Tiles of a prompt come as (tiles, ...), as one (tiles, ...) for each image, or as (1, tiles, ...).
    """
    inputs = {name: value for name, value in values.items() if name in wanted}
    tiles = inputs["pixel_values"]
    if not isinstance(tiles, Tensor):
        inputs["pixel_values"] = torch.cat([torch.as_tensor(np.asarray(image)) for image in tiles])
    elif tiles.ndim == 5:
        for name, value in inputs.items():
            inputs[name] = value.transpose(0, 1) if value.shape[:2] == tiles.shape[:2] else value
    tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
    return {name: tensor.bool() if name.endswith("_mask") else tensor for name, tensor in tensors.items()}
