"""Pictures and videos for a native model: inputs of its vision encoder, and the tokens in the place of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.video_utils import VideoMetadata

from lit_ixc.batch import EncodedMedia
from lit_ixc.ixc25.video import probe, sample_indices
from lit_ixc.native.files import default_arguments
from lit_ixc.native.model import argument_names
from lit_ixc.native.template import Span
from lit_ixc.records import MediaPart, UserError


class Clip(NamedTuple):
    """The sampled frames of a video, and when they were."""

    frames: list[Image.Image]
    metadata: VideoMetadata


#: An image, or a video as images; or a video for the model's own video path.
Item: TypeAlias = list[Image.Image] | Clip


class Placed(NamedTuple):
    """What stands in the place of one image or video.

    Args:
        video: It is a video.
        head: Text before the tokens; it is tokenised together with the text around it.
        ids: The tokens.
    """

    video: bool
    head: str
    ids: list[int]


class LaidOut(NamedTuple):
    """A conversation as tokens; turns hold indices of tokens, ``axes`` are (A, L) or None."""

    ids: list[int]
    visual: list[bool]
    special: list[bool]
    turns: list[Span]
    axes: NDArray[np.int64] | None


def clip_of(part: MediaPart, frames: list[Image.Image], max_frames: int) -> Clip:
    """The frames that ``read_frames`` gave for a video, with their indices and rate."""
    fps, total = probe(part.data, part.name, None)
    picked = sample_indices(fps, total, max_frames)[: len(frames)]
    width, height = frames[0].size
    return Clip(frames, VideoMetadata(total, fps, width, height, total / fps, "pyav", picked))


def encode(
    processor: ProcessorMixin, model: type[PreTrainedModel], items: Sequence[Item], images_kwargs: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """Inputs of the vision encoder for the media of a prompt, and the text in the place of each image or video.

    Raises:
        UserError: The model's ``get_video_features`` is another than what is relied on.
        ValueError: One cannot be used, or the videos cannot stand together.
    """
    images = [image for item in items if not isinstance(item, Clip) for image in item]
    clips = [item for item in items if isinstance(item, Clip)]
    inputs: dict[str, Tensor] = {}
    texts, tiles = [], []
    if images:
        values, texts = processor._process_images([images], **images_kwargs)
        inputs = joinable(values, argument_names(cast(Any, model).get_image_features))
        tiles = [int(count) for count in values.get("num_patches", ())]
    if not clips:
        return inputs, texts
    videos, video_texts = read_videos(processor, clips)
    kinds = [isinstance(item, Clip) for item in items]  # beside clips every other item is one image
    pick = (iter(texts), iter(video_texts))
    texts = [next(pick[video]) for video in kinds]
    if hasattr(model, "get_video_features"):
        # LLaVA-OneVision of transformers 5.17 names its pixels otherwise, and its features lack the newline's
        if "pixel_values_videos" not in argument_names(model.get_video_features):
            raise UserError(
                f"processor video = 'native': {model.__name__} of this version of transformers does not give the "
                "features of a video as it reads them; set video: frames, or install a later version"
            )
        return {**inputs, **join_videos(videos)}, texts
    # a frame is to this model as a tile of an image (InternVL)
    pictures = iter(inputs["pixel_values"].split(tiles) if images else ())
    blocks = (video["pixel_values_videos"].flatten(0, 1) for video in videos)
    return {**inputs, "pixel_values": torch.cat([next(blocks if video else pictures) for video in kinds])}, texts


def layout_of(
    items: Sequence[Item], expansions: list[list[int]], visual_ids: set[int]
) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """Visual tokens of each medium, and in tensors of whole numbers what :func:`placed_of` reads."""
    counts = [1 if isinstance(item, Clip) else len(item) for item in items]
    visual = [sum(token in visual_ids for token in ids) for ids in expansions]
    cuts = np.cumsum([0, *counts])
    lengths = tuple(sum(visual[start:end]) for start, end in zip(cuts, cuts[1:], strict=False))
    kinds = [int(isinstance(item, Clip)) for item, count in zip(items, counts, strict=True) for _ in range(count)]
    return lengths, {
        "expansion": torch.tensor([token for ids in expansions for token in ids]),
        "expansion_lengths": torch.tensor([len(ids) for ids in expansions]),
        "images_of_items": torch.tensor(counts),
        "video_items": torch.tensor(kinds),
    }


def read_videos(processor: ProcessorMixin, clips: list[Clip]) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Inputs of the vision encoder for each video, by the model's own video processor, and the text in its place.

    Videos are read one by one, since most video processors want the same number of frames in all that they are given.
    """
    defaults = default_arguments(processor, "videos_kwargs")
    fixed = {"do_sample_frames": False, "return_metadata": True, "return_tensors": "pt"}
    tensors, texts = [], []
    for clip in clips:
        frames = np.stack([np.asarray(frame) for frame in clip.frames])  # (frames, height, width, 3)
        shape = {"video_metadata": [clip.metadata], "input_data_format": "channels_last"}
        values, written = processor._process_videos([frames], **{**defaults, **fixed, **shape})
        tensors.append({name: torch.as_tensor(v) for name, v in values.items() if name != "video_metadata"})
        texts.extend(written)
    return tensors, texts


def join_videos(videos: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Inputs of ``get_video_features`` for all videos of a prompt.

    Raises:
        ValueError: The model takes them as frames, and they differ in number or size.
    """
    if len({video["pixel_values_videos"].shape[1:] for video in videos}) > 1:
        raise ValueError("this model takes several videos only with the same number of frames")
    joined = {name: torch.cat([video[name] for video in videos]) for name in videos[0]}
    if "second_per_grid_ts" in joined:  # as whole numbers, since they alone are kept beside kept features
        joined["second_per_grid_bits"] = joined["second_per_grid_ts"].float().view(torch.int32)
    return joined


def placed_of(media: EncodedMedia, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Placed], list[int]]:
    """What stands in the place of each image and video, and the number of places of each medium."""
    if not media.lengths:
        return [], []
    if "expansion" not in media.tensors:
        raise ValueError("media have no expansion: keep their tensors of whole numbers beside the features")
    parts = media.tensors["expansion"].split(media.tensors["expansion_lengths"].tolist())
    kinds = media.tensors["video_items"].tolist()
    added = tokenizer.added_tokens_decoder if any(kinds) else {}
    placed = []
    for part, video in zip(parts, kinds, strict=True):
        ids = part.tolist()
        cut = next((at for at, token in enumerate(ids) if token in added), len(ids)) if video else 0
        placed.append(Placed(bool(video), tokenizer.decode(ids[:cut]) if cut else "", ids[cut:]))
    return placed, media.tensors["images_of_items"].tolist()


def name_videos(conversation: list[dict[str, Any]], placed: Sequence[Placed]) -> list[dict[str, Any]]:
    """The conversation, or its start, with ``video`` as the type of those parts that are videos."""
    rest = iter(placed)
    for message in conversation:
        for part in message["content"]:
            if part["type"] == "image" and next(rest).video:
                part["type"] = "video"
    return conversation


def write_heads(text: str, token: str, placed: Sequence[Placed]) -> str:
    """The text with the head of each video before its placeholder ``token``."""
    heads = iter([one.head for one in placed if one.video])
    return re.sub(re.escape(token), lambda found: next(heads, "") + found.group(), text)


def expand(ids: list[int], tokens: list[int], placed: list[Placed], path: Path) -> tuple[list[int], list[int]]:
    """Put what is placed at its placeholder; also where each old index, and the end, came to stand.

    Args:
        ids: Tokens with placeholders.
        tokens: Placeholder of an image, and, where videos are given as such, of a video.
        placed: What comes in their places, in reading order.
        path: What an error names.

    Raises:
        UserError: The placeholders are others.
    """
    found = [token for token in ids if token in tokens]
    if found != [tokens[one.video] for one in placed]:
        raise UserError(
            f"processor path = {path}: the chat template writes {len(found)} placeholders for {len(placed)} images "
            "and videos; give a chat_template that writes one for each, of its kind and in its place"
        )
    rest = iter(placed)
    expanded: list[int] = []
    moved = []
    for value in ids:
        moved.append(len(expanded))
        expanded.extend(next(rest).ids if value in tokens else [value])
    return expanded, [*moved, len(expanded)]


def axes_of(
    model: PreTrainedModel | None,
    processor: ProcessorMixin | None,
    ids: list[int],
    visual: list[bool],
    media: EncodedMedia,
) -> NDArray[np.int64] | None:
    """(A, L) positions as the model itself counts them; None where it has but one axis.

    Args:
        model: Has ``get_rope_index``; it needs no weights. None for one axis.
        processor: Tells images from videos.
        ids: Tokens of one sequence.
        visual: True at the tokens of images and videos.
        media: Its grids.
    """
    if model is None:
        return None
    count = cast(Any, model).get_rope_index
    names = argument_names(count)
    grids = {name: tensor for name, tensor in media.tensors.items() if name in names}
    if any(visual) and not grids:
        raise ValueError("media have no grids: keep their tensors of whole numbers beside the features")
    if "second_per_grid_bits" in media.tensors:
        grids["second_per_grid_ts"] = media.tensors["second_per_grid_bits"].view(torch.float32)
    tokens = torch.tensor([ids])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **grids}
    if "mm_token_type_ids" in names:  # 0 text, 1 image, 2 video
        kinds = cast(Any, processor).create_mm_token_type_ids([ids]) if "video_grid_thw" in grids else [visual]
        inputs["mm_token_type_ids"] = torch.tensor(kinds, dtype=torch.int)
    positions, _ = count(**inputs)
    return cast(NDArray[np.int64], positions[:, 0].numpy())


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
